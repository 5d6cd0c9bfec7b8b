"""HTTP/1.1: bytes, framing, pace, memory; what a client sees and what a handler is given."""

import asyncio
import json
import os
import socket
from contextlib import ExitStack

import pytest
from multidict import CIMultiDict

from infra.proxy.exchange import Answer, Incoming, Reply, send
from infra.proxy.serve.listen import MAX_BODY_BYTES, BodyBudget
from tests.scripted_upstream import MIB, Upstream, ok
from tests.serve_support import (
    TEXT,
    Seen,
    dial,
    echo_into,
    exchange,
    flooding_into,
    forwarding,
    read_all,
    read_until,
    served,
    stands_still,
    tracebacks,
)
from tests.support import eventually

GET = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"


def test_a_request_arrives_byte_for_byte():
    upstream = Upstream(ok())
    body = bytes(range(256)) * 3
    head = (
        b"POST /a%2Fb/?x=%20y&z HTTP/1.1\r\n"
        b"Host: kinesis.example:1234\r\n"
        b"content-type: application/x-amz-cbor-1.1\r\n"
        b"X-Twice: one\r\n"
        b"X-Twice: two\r\n"
        b"Content-Encoding: gzip\r\n"
        b"Cookie: a=b\r\n"
        b"Authorization: AWS4-HMAC-SHA256 Credential=x, Signature=y\r\n"
        b"Connection: close\r\n"
        b"Content-Length: 768"
    )
    with forwarding(upstream.url) as address:
        exchange(address, head + b"\r\n\r\n" + body)
    upstream.close()
    arrived, _, received = upstream.received[0].partition(b"\r\n\r\n")
    assert received == body
    sent = head.split(b"\r\n")
    unchanged = [line for line in sent if not line.startswith(b"Connection")]
    assert arrived.split(b"\r\n")[0] == sent[0]
    assert sorted(arrived.split(b"\r\n")) == sorted(unchanged)


def test_an_answer_comes_back_byte_for_byte():
    body = bytes(range(256))
    answer = ok(
        body, b"x-amzn-RequestId: 1", b"Set-Cookie: a", b"Set-Cookie: b", b"x-odd: \xc3\xa9\xff"
    ).replace(b"200 OK", b"200 Fine So Far")
    upstream = Upstream(answer)
    with forwarding(upstream.url) as address:
        returned = exchange(address, GET)
    upstream.close()
    head, _, received = returned.partition(b"\r\n\r\n")
    assert received == body
    wanted = [*answer.partition(b"\r\n\r\n")[0].split(b"\r\n"), b"Connection: close"]
    assert sorted(head.split(b"\r\n")) == sorted(wanted)


def test_requests_in_one_packet_are_answered_in_order_on_one_connection():
    seen = Seen()
    requests = [
        b"POST /%d HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\n%d" % (n, n) for n in range(9)
    ]
    with served(echo_into(seen)) as address:
        returned = exchange(address, b"".join(requests) + GET)
    bodies = [part.rpartition(b"\r\n\r\n")[2] for part in returned.split(b"HTTP/1.1 200 OK\r\n")]
    assert bodies[1:] == [b"%d" % n for n in range(9)] + [b""]
    assert [r.target for r in seen.requests] == [f"/{n}" for n in range(9)] + ["/"]
    assert {r.peer for r in seen.requests} == {"127.0.0.1"}


def test_a_client_that_expects_a_100_gets_one_and_then_the_answer():
    with served(echo_into(Seen())) as address, dial(address) as connection:
        connection.sendall(
            b"POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"
        )
        assert read_until(connection, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"abc")
        assert read_until(connection, b"abc").startswith(b"HTTP/1.1 200 OK\r\n")


def test_a_chunked_body_arrives_whole():
    seen = Seen()
    with served(echo_into(seen)) as address:
        returned = exchange(
            address,
            b"POST / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n",
        )
    assert returned.endswith(b"\r\n\r\nabcde")
    assert "Transfer-Encoding" not in seen.requests[0].headers


@pytest.mark.parametrize("expect", [b"", b"Expect: 100-continue\r\n"])
def test_a_broken_chunked_body_is_a_400(caplog: pytest.LogCaptureFixture, expect: bytes):
    seen = Seen()
    head = b"POST / HTTP/1.1\r\nHost: h\r\n" + expect + b"Transfer-Encoding: chunked\r\n\r\n"
    with served(echo_into(seen)) as address, dial(address) as connection:
        if expect:  # the body breaks while it is read, otherwise before
            connection.sendall(head)
            read_until(connection, b"100 Continue\r\n\r\n")
            connection.sendall(b"3\r\nabc\r\nzz\r\n")
        else:
            connection.sendall(head + b"3\r\nabc\r\nzz\r\n")
        assert read_all(connection)[8:].startswith(b" 400 ")
    assert not seen.requests
    assert not tracebacks(caplog)


def test_eleven_mebibytes_pass():
    body = os.urandom(MIB) * 11
    head = b"POST / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
    with served(echo_into(Seen())) as address, dial(address) as connection:
        connection.sendall(head % len(body) + body)
        assert read_all(connection).partition(b"\r\n\r\n")[2] == body


@pytest.mark.parametrize(
    ("framing", "piece", "last"),
    [
        # Not one byte more than was announced: the connection is closed on what follows.
        (b"Content-Length: %d" % (MAX_BODY_BYTES + 1), b"x" * MIB, b"x"),
        (b"Transfer-Encoding: chunked", b"%x\r\n" % MIB + b"x" * MIB + b"\r\n", b"1\r\nx\r\n"),
    ],
    ids=["length", "chunked"],
)
def test_a_flood_is_a_413(framing: bytes, piece: bytes, last: bytes):
    seen = Seen()
    with served(echo_into(seen)) as address, dial(address) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: h\r\n" + framing + b"\r\n\r\n")
        for _ in range(MAX_BODY_BYTES // MIB):
            connection.sendall(piece)
        connection.sendall(last)
        answer = read_until(connection, b"}")
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["__type"] == "RequestEntityTooLarge"
    assert not seen.requests


def test_a_stream_comes_event_by_event():
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    upstream = Upstream(head + b"|5\r\nfirst\r\n|6\r\nsecond\r\n|0\r\n\r\n", pieces=True)
    with forwarding(upstream.url) as address, dial(address) as connection:
        connection.sendall(GET)
        # Each piece is sent only once the one before it has come through.
        for end in (b"\r\n\r\n", b"5\r\nfirst\r\n", b"6\r\nsecond\r\n", b"0\r\n\r\n"):
            upstream.next_piece.release()
            assert read_until(connection, end)
    upstream.close()


def test_a_slow_client_holds_a_fast_handler_back():
    seen = Seen()
    pieces = 1024  # 64 MiB, far more than the system's own buffers
    with served(flooding_into(seen, pieces)) as address, dial(address) as connection:
        connection.sendall(GET)
        stands_still(lambda: seen.written)
        assert not seen.finished
        assert 0 < seen.written < pieces // 2
        assert read_all(connection).endswith(b"0\r\n\r\n")
        assert seen.finished


def test_three_hundred_connections_are_served_at_once():
    everybody = asyncio.Event()
    here: list[str] = []

    async def together(incoming: Incoming, reply: Reply) -> None:
        here.append(incoming.target)
        if len(here) == 300:
            everybody.set()
        await everybody.wait()
        await send(Answer(200, TEXT, b""), reply)

    with served(together) as address, ExitStack() as opened:
        connections = [opened.enter_context(dial(address)) for _ in range(300)]
        for connection in connections:
            connection.sendall(GET)
        assert all(read_all(c).startswith(b"HTTP/1.1 200") for c in connections)


@pytest.mark.parametrize(
    ("request_line", "status", "length", "expected"),
    [
        (b"HEAD / HTTP/1.1", 200, 5, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n"),
        (b"GET / HTTP/1.1", 204, 0, b"HTTP/1.1 204 No Content\r\n"),
        (b"GET / HTTP/1.0", 200, None, b"HTTP/1.1 200 OK\r\n"),
    ],
)
def test_answers_are_framed_as_the_request_demands(
    request_line: bytes, status: int, length: int | None, expected: bytes
):
    async def answer(_: Incoming, reply: Reply) -> None:
        await reply.start(status, CIMultiDict(), length=length)
        if status != 204:
            await reply.write(b"hello")
        await reply.finish()

    with served(answer) as address:
        returned = exchange(address, request_line + b"\r\nHost: h\r\nConnection: close\r\n\r\n")
    body = b"hello" if request_line.startswith(b"GET") and status == 200 else b""
    assert returned == expected + b"Connection: close\r\n\r\n" + body


def test_an_offer_to_upgrade_is_not_taken_and_does_no_harm():
    with served(echo_into(Seen())) as address, dial(address) as connection:
        connection.sendall(
            b"POST / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
            b"HTTP2-Settings: AAMAAABkAAQAAP__\r\nContent-Length: 3\r\n\r\nabc"
        )
        assert read_until(connection, b"abc").startswith(b"HTTP/1.1 200 OK\r\n")


def test_bodies_wait_for_memory_and_get_it_in_turn():
    seen = Seen()
    budget = BodyBudget(total_bytes=MAX_BODY_BYTES)
    head = b"POST /%s HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
    with (
        served(echo_into(seen), budget=budget) as address,
        dial(address) as first,
        dial(address) as second,
    ):
        first.sendall(head % (b"first", MAX_BODY_BYTES))
        read_until(first, b"100 Continue\r\n\r\n")
        second.sendall(head % (b"second", 3))
        eventually(lambda: budget.waiting == 1)
        second.settimeout(0)
        with pytest.raises(BlockingIOError):
            second.recv(1)
        second.settimeout(30)
        first.shutdown(socket.SHUT_RDWR)  # leaves in the middle
        read_until(second, b"100 Continue\r\n\r\n")
        second.sendall(b"abc")
        read_until(second, b"\r\n\r\nabc")
        eventually(lambda: budget.free_bytes == MAX_BODY_BYTES)
    assert [request.target for request in seen.requests] == ["/second"]
