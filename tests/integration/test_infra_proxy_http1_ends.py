"""HTTP/1.1: how an answer ends that does not end well, and how a listener does."""

import asyncio
import json
import socket

import pytest
from multidict import CIMultiDict

from infra.proxy.exchange import Answer, Incoming, Reply, send
from infra.proxy.serve.listen import listening
from tests.scripted_upstream import Upstream, ok
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
    waiting_into,
)
from tests.support import eventually

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


def test_a_client_that_leaves_cancels_the_handler():
    seen = Seen()
    with served(waiting_into(seen)) as address:
        with dial(address) as connection:
            connection.sendall(GET)
            eventually(lambda: seen.requests)
        eventually(lambda: seen.cancelled)


def test_a_client_that_leaves_in_a_stream_cancels_the_handler():
    seen = Seen()
    with served(flooding_into(seen, 10_000)) as address:
        with dial(address) as connection:
            connection.sendall(GET)
            connection.recv(1000)
        written = eventually(lambda: seen.written)
        assert written < 10_000
    assert not seen.finished


def test_a_client_that_leaves_frees_the_connection_to_the_upstream():
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(30)
        with forwarding(f"http://127.0.0.1:{server.getsockname()[1]}") as address:
            with dial(address) as client:
                client.sendall(GET)
                upstream, _ = server.accept()
                upstream.settimeout(30)
                read_until(upstream, b"\r\n\r\n")
            assert upstream.recv(1) == b""
            upstream.close()


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("reset", [False, True])
def test_a_cut_answer_ends_without_another_byte(*, reset: bool, begun: bool):
    async def cut(_: Incoming, reply: Reply) -> None:
        if begun:
            await reply.start(200, CIMultiDict(), length=100)
        reply.cut(reset=reset)

    with served(cut) as address:
        if reset:
            with pytest.raises(ConnectionResetError):
                exchange(address, GET)
        else:
            assert exchange(address, GET) == b""


def test_a_client_that_asks_on_and_does_not_read_is_answered_no_further():
    seen = Seen()

    async def answer(incoming: Incoming, reply: Reply) -> None:
        seen.requests.append(incoming)
        # Too small for each alone to wait until the client has read.
        await send(Answer(200, TEXT, b"x" * 50_000), reply)

    requests = 2000  # 100 MB of answers
    with served(answer) as address, dial(address) as connection:
        connection.sendall(GET * requests)
        stands_still(lambda: len(seen.requests))
        assert len(seen.requests) < requests // 2


def test_what_waits_to_be_sent_is_not_sent_after_a_cut():
    waiting = asyncio.Event()
    lengths: list[int] = []

    async def cut(_: Incoming, reply: Reply) -> None:
        await reply.start(200, CIMultiDict(), length=64 * 1024 * 1024)
        writing = asyncio.ensure_future(reply.write(b"x" * 64 * 1024 * 1024))
        await asyncio.sleep(0)
        reply.cut(reset=True)
        waiting.set()
        await asyncio.gather(writing, return_exceptions=True)

    with served(cut) as address, dial(address) as connection:
        connection.sendall(GET)
        eventually(waiting.is_set)
        with pytest.raises(ConnectionResetError):
            lengths.extend(len(chunk) for chunk in iter(lambda: connection.recv(65536), b""))
    assert sum(lengths) < 64 * 1024 * 1024


def test_a_handler_that_fails_is_a_500_and_one_log_entry(caplog: pytest.LogCaptureFixture):
    async def fail(_: Incoming, __: Reply) -> None:
        raise LookupError("no such thing")

    with served(fail) as address, dial(address) as connection:
        connection.sendall(GET)
        answer = read_until(connection, b"}")
    assert answer.startswith(b"HTTP/1.1 500 ")
    body = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert body["__type"] == "InternalFailure"
    assert "no such thing" in body["message"]
    assert len(tracebacks(caplog)) == 1


@pytest.mark.parametrize("raises", [False, True])
@pytest.mark.parametrize("length", [None, 10])
def test_half_an_answer_does_not_look_whole(
    caplog: pytest.LogCaptureFixture, length: int | None, *, raises: bool
):
    async def half(_: Incoming, reply: Reply) -> None:
        await reply.start(200, CIMultiDict(), length=length)
        await reply.write(b"half")
        if raises:
            raise LookupError("in the middle")

    with served(half) as address:
        returned = exchange(address, GET)
    assert not returned.endswith(b"0\r\n\r\n")
    assert len(returned.partition(b"\r\n\r\n")[2]) < 10
    assert len(tracebacks(caplog)) == raises


@pytest.mark.parametrize("body", [b"short", b"much too long"])
def test_a_body_that_is_not_of_the_announced_length_is_cut(
    caplog: pytest.LogCaptureFixture, body: bytes
):
    async def wrong(_: Incoming, reply: Reply) -> None:
        await reply.start(200, CIMultiDict(), length=8)
        await reply.write(body)
        await reply.finish()

    with served(wrong) as address:
        assert len(exchange(address, GET).partition(b"\r\n\r\n")[2]) < 8
    assert "announced" in str(tracebacks(caplog)[0].exc_info)


def test_an_answer_of_nothing_at_all_is_a_closed_connection():
    async def nothing(_: Incoming, __: Reply) -> None:
        return

    with served(nothing) as address:
        assert exchange(address, GET) == b""


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"NONSENSE\r\n\r\n",
        b"GET / HTTP/1.1\r\nBad Header\r\n\r\n",
        b"CONNECT elsewhere:80 HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET http://elsewhere/ HTTP/1.1\r\nHost: h\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
    ],
)
def test_what_is_no_request_is_a_400_and_no_traceback(
    caplog: pytest.LogCaptureFixture, request_bytes: bytes
):
    seen = Seen()
    with served(echo_into(seen)) as address:
        assert exchange(address, request_bytes)[8:].startswith(b" 400 ")
        assert exchange(address, GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    assert len(seen.requests) == 1
    assert not tracebacks(caplog)


def test_an_upstream_that_breaks_off_does_not_look_complete():
    upstream = Upstream(ok(b"x" * 100)[:-50], hang_up=True)
    with forwarding(upstream.url) as address:
        returned = exchange(address, GET)
    upstream.close()
    assert len(returned.partition(b"\r\n\r\n")[2]) <= 50


def test_the_end_of_a_listener_waits_for_an_answer_and_closes_the_idle():
    async def scenario() -> bytes:
        closing, begun = asyncio.Event(), asyncio.Event()

        async def slow(_: Incoming, reply: Reply) -> None:
            begun.set()
            await closing.wait()
            await asyncio.sleep(0.05)  # still at work when the listener has begun to end
            await send(Answer(200, TEXT, b"done"), reply)

        async with listening(slow) as address:
            idle, _writer = await asyncio.open_connection(address.host, address.port)
            reader, writer = await asyncio.open_connection(address.host, address.port)
            writer.write(GET)
            await begun.wait()
            closing.set()
        assert await idle.read() == b""
        with pytest.raises(OSError, match="Connect call failed"):
            await asyncio.open_connection(address.host, address.port)
        answer = await reader.read()
        writer.close()
        _writer.close()
        return answer

    assert asyncio.run(scenario()).endswith(b"done")


def test_the_end_of_a_listener_cancels_who_does_not_finish():
    seen = Seen()
    with served(waiting_into(seen)) as address:
        connection = dial(address)
        connection.sendall(GET)
        eventually(lambda: seen.requests)
    assert seen.cancelled == 1
    assert read_all(connection) == b""
    connection.close()
