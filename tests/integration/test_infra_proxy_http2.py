"""HTTP/2 on the same port: streams side by side, windows both ways, and how they end."""

import asyncio
import json
import os
import socket
from contextlib import suppress

import pytest
from h2.errors import ErrorCodes
from multidict import CIMultiDict

from infra.proxy.exchange import Answer, Incoming, Reply, send
from infra.proxy.serve.listen import MAX_BODY_BYTES, Address, BodyBudget, listening
from tests.h2_client import H2Client
from tests.scripted_upstream import MIB
from tests.serve_support import (
    Seen,
    dial,
    echo_into,
    flooding_into,
    read_all,
    served,
    stands_still,
    tracebacks,
    waiting_into,
)
from tests.support import eventually


def client_of(address: Address, **options: object) -> H2Client:
    return H2Client(address.host, address.port, **options)  # type: ignore[arg-type]


def test_a_request_and_its_answer_pass_as_they_are():
    seen = Seen()

    async def answer(incoming: Incoming, reply: Reply) -> None:
        seen.requests.append(incoming)
        headers = CIMultiDict(
            [("X-Twice", "1"), ("X-Twice", "2"), ("Connection", "close"), ("Keep-Alive", "x")]
        )
        await send(Answer(201, headers, b"body"), reply)

    with served(answer) as address, client_of(address) as client:
        number = client.ask("/a%2Fb?x=%20", b"abc", x_amz_target="T.Op", content_length="3")
        answered = client.answer(number)
    (request,) = seen.requests
    assert (request.method, request.target, request.body) == ("POST", "/a%2Fb?x=%20", b"abc")
    assert request.peer == "127.0.0.1"
    assert dict(request.headers) == {
        "x-amz-target": "T.Op",
        "content-length": "3",
        "Host": "kinesis.example:1",
    }
    assert answered.ended
    assert answered.body == b"body"
    assert answered.headers == {":status": "201", "x-twice": "2", "content-length": "4"}


def test_a_stream_that_waits_holds_no_other_up():
    release = asyncio.Event()

    async def answer(incoming: Incoming, reply: Reply) -> None:
        if incoming.path == "/slow":
            await release.wait()
        else:
            release.set()
        await send(Answer(200, CIMultiDict(), incoming.path.encode()), reply)

    with served(answer) as address, client_of(address) as client:
        slow = client.ask("/slow", b"")
        fast = client.ask("/fast", b"")
        assert client.answer(fast).body == b"/fast"
        assert client.answer(slow).body == b"/slow"


def test_two_hundred_streams_are_answered_at_once():
    everybody = asyncio.Event()
    here: list[str] = []

    async def together(incoming: Incoming, reply: Reply) -> None:
        here.append(incoming.target)
        if len(here) == 200:
            everybody.set()
        await everybody.wait()
        await send(Answer(200, CIMultiDict(), incoming.body), reply)

    with served(together) as address, client_of(address) as client:
        numbers = [client.ask(f"/{n}", b"%d" % n) for n in range(200)]
        assert [client.answer(n).body for n in numbers] == [b"%d" % n for n in range(200)]


@pytest.mark.parametrize("declared", [False, True])
def test_eleven_mebibytes_pass_both_ways(*, declared: bool):
    body = os.urandom(MIB) * 11
    headers = {"content_length": str(len(body))} if declared else {}
    with served(echo_into(Seen())) as address, client_of(address) as client:
        answer = client.answer(client.ask("/", body, **headers))
    assert answer.ended
    assert answer.body == body


@pytest.mark.parametrize("declared", [False, True])
def test_a_flood_is_a_413_and_the_connection_lives_on(*, declared: bool):
    seen = Seen()
    headers = {"content_length": str(MAX_BODY_BYTES + 1)} if declared else {}
    with served(echo_into(seen)) as address, client_of(address) as client:
        number = client.ask("/", None, **headers)
        if not declared:
            client.send(number, bytes(MAX_BODY_BYTES + 1), end=False)
        answer = client.answers[number]
        while answer.reset is None:
            client.receive()
        assert answer.ended
        assert answer.headers[":status"] == "413"
        assert answer.reset == ErrorCodes.NO_ERROR
        assert client.answer(client.ask("/", b"next")).body == b"next"
    assert len(seen.requests) == 1


def test_a_full_window_holds_the_handler_back_and_no_other_stream():
    seen = Seen()
    flood = flooding_into(seen, 64)

    async def answer(incoming: Incoming, reply: Reply) -> None:
        if incoming.path == "/flood":
            await flood(incoming, reply)
        else:
            await send(Answer(200, CIMultiDict(), b""), reply)

    with served(answer) as address, client_of(address, window=1000, take=False) as client:
        number = client.ask("/flood", b"")
        while len(client.answers[number].body) < 1000:
            client.receive()
        assert client.answer(client.ask("/other", b"")).headers[":status"] == "200"
        assert len(client.answers[number].body) == 1000
        assert seen.written == 0
        for size, opened in ((10, None), (5000, number)):
            client.h2.increment_flow_control_window(size, opened)
        client.h2.increment_flow_control_window(8 * MIB)
        client.h2.increment_flow_control_window(8 * MIB, number)
        client.flush()
        assert len(client.answer(number).body) == 64 * 65536
    assert seen.finished


def test_a_client_that_does_not_read_holds_the_handler_back():
    seen = Seen()
    with (
        served(flooding_into(seen, 1024)) as address,
        client_of(address, window=2**31 - 1, take=False) as client,
    ):
        client.h2.increment_flow_control_window(2**30)
        client.ask("/", b"")
        stands_still(lambda: seen.written)
        assert 0 < seen.written < 512
    assert not seen.finished


def test_a_client_that_expects_a_100_gets_one():
    with served(echo_into(Seen())) as address, client_of(address) as client:
        number = client.ask("/", None, expect="100-continue", content_length="3")
        while not client.answers[number].informed:
            client.receive()
        client.send(number, b"abc")
        assert client.answer(number).body == b"abc"


def test_a_ping_is_answered():
    with served(echo_into(Seen())) as address, client_of(address) as client:
        client.h2.ping(b"12345678")
        client.flush()
        names: list[str] = []
        while "PingAckReceived" not in names:
            names += [type(event).__name__ for event in client.receive()]


def test_a_client_that_only_pings_and_does_not_read_is_read_no_further():
    pings = (b"\x00\x00\x08\x06\x00\x00\x00\x00\x00" + b"12345678") * 50_000  # 0.8 MiB
    with served(echo_into(Seen())) as address, client_of(address) as client:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.socket.setblocking(False)  # noqa: FBT003 - the socket's own signature
        left = memoryview(pings * 32)

        def sent() -> int:
            nonlocal left
            with suppress(BlockingIOError):
                left = left[client.socket.send(left[: 1024 * 1024]) :]
            return len(left)

        stands_still(sent, every=0.2)


def test_a_reset_by_the_client_cancels_the_handler_and_nothing_else():
    seen = Seen()
    wait = waiting_into(seen)

    async def answer(incoming: Incoming, reply: Reply) -> None:
        if incoming.path == "/wait":
            await wait(incoming, reply)
        await send(Answer(200, CIMultiDict(), b"fine"), reply)

    with served(answer) as address, client_of(address) as client:
        number = client.ask("/wait", b"")
        eventually(lambda: seen.requests)
        client.h2.reset_stream(number, ErrorCodes.CANCEL)
        client.flush()
        eventually(lambda: seen.cancelled)
        assert client.answer(client.ask("/", b"")).body == b"fine"


def test_a_lost_connection_cancels_every_handler():
    seen = Seen()
    with served(waiting_into(seen)) as address:
        with client_of(address) as client:
            for _ in range(3):
                client.ask("/", b"")
            eventually(lambda: len(seen.requests) == 3)
        eventually(lambda: seen.cancelled == 3)


@pytest.mark.parametrize("begun", [False, True])
def test_a_cut_is_a_reset_of_the_stream_alone(*, begun: bool):
    async def cut(incoming: Incoming, reply: Reply) -> None:
        if incoming.path == "/cut":
            if begun:
                await reply.start(200, CIMultiDict())
                await reply.write(b"half")
            reply.cut(reset=False)
        else:
            await send(Answer(200, CIMultiDict(), b"fine"), reply)

    with served(cut) as address, client_of(address) as client:
        answer = client.answer(client.ask("/cut", b""))
        assert answer.reset == ErrorCodes.INTERNAL_ERROR
        assert not answer.ended
        assert client.answer(client.ask("/", b"")).body == b"fine"


def test_a_cut_with_reset_is_a_reset_of_the_connection():
    async def cut(_: Incoming, reply: Reply) -> None:
        reply.cut(reset=True)

    with served(cut) as address, client_of(address) as client:
        number = client.ask("/", b"")
        with pytest.raises(ConnectionResetError):
            client.answer(number)


def test_a_handler_that_fails_is_a_500(caplog: pytest.LogCaptureFixture):
    async def fail(_: Incoming, __: Reply) -> None:
        raise LookupError("no such thing")

    with served(fail) as address, client_of(address) as client:
        answer = client.answer(client.ask("/", b""))
    assert answer.headers[":status"] == "500"
    assert json.loads(answer.body)["__type"] == "InternalFailure"
    assert len(tracebacks(caplog)) == 1


def test_half_an_answer_does_not_look_whole():
    async def half(_: Incoming, reply: Reply) -> None:
        await reply.start(200, CIMultiDict(), length=10)
        await reply.write(b"half")

    with served(half) as address, client_of(address) as client:
        answer = client.answer(client.ask("/", b""))
    assert answer.reset == ErrorCodes.INTERNAL_ERROR
    assert not answer.ended


def test_an_answer_to_head_has_the_length_and_no_body():
    async def answer(_: Incoming, reply: Reply) -> None:
        await send(Answer(200, CIMultiDict(), b"hello"), reply)

    with served(answer) as address, client_of(address) as client:
        answered = client.answer(client.ask("/", b"", method="HEAD"))
    assert answered.ended
    assert (answered.headers["content-length"], bytes(answered.body)) == ("5", b"")


def test_a_path_that_could_name_another_host_is_refused():
    seen = Seen()
    with served(echo_into(seen)) as address, client_of(address) as client:
        assert client.answer(client.ask("@elsewhere/", b"")).headers[":status"] == "400"
    assert not seen.requests


def test_bodies_wait_for_memory_without_holding_up_those_that_have_it():
    seen = Seen()
    budget = BodyBudget(total_bytes=MAX_BODY_BYTES)
    with served(echo_into(seen), budget=budget) as address, client_of(address) as client:
        first = client.ask("/first", None, content_length=str(MAX_BODY_BYTES - 10))
        eventually(lambda: budget.free_bytes == 10)
        # As many as would fill the connection's window, were it not opened again for them.
        late = [client.ask("/late", None, content_length="65535") for _ in range(40)]
        for number in late:
            client.send(number, bytes(65535))
        eventually(lambda: budget.waiting == 40)
        assert not seen.requests
        client.send(first, bytes(MAX_BODY_BYTES - 10))
        assert len(client.answer(first).body) == MAX_BODY_BYTES - 10
        assert {len(client.answer(number).body) for number in late} == {65535}
        eventually(lambda: budget.free_bytes == MAX_BODY_BYTES)
    assert seen.requests[0].target == "/first"


@pytest.mark.parametrize(
    "frames",
    [
        b"\x00\x00\x05\x00\x01\x00\x00\x00\x07hello",  # DATA on a stream that is not open
        b"\x00\x00\x02\x01\x05\x00\x00\x00\x01\xff\xff",  # HEADERS that HPACK cannot read
        b"\x00\x00\x03\x06\x00\x00\x00\x00\x00abc",  # PING of the wrong size
        b"\xff\xff\xff\x00\x00\x00\x00\x00\x01" + bytes(100_000),  # a frame of 16 MiB
        b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x04\xff\xff\xff\xff",  # an impossible window
        b"\x00\x00\x04\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00",  # a window opened by nothing
    ],
)
def test_malformed_frames_end_the_connection_without_a_traceback(
    caplog: pytest.LogCaptureFixture, frames: bytes
):
    seen = Seen()
    with served(waiting_into(seen)) as address, client_of(address) as client:
        client.ask("/", b"")
        eventually(lambda: seen.requests)
        client.socket.sendall(frames)
        with suppress(ConnectionResetError):
            read_all(client.socket)
        eventually(lambda: seen.cancelled)
    assert not tracebacks(caplog)


def test_noise_after_the_preface_ends_the_connection_without_a_traceback(
    caplog: pytest.LogCaptureFixture,
):
    with served(echo_into(Seen())) as address:
        for _ in range(50):
            with dial(address) as connection:
                connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + os.urandom(200))
        with client_of(address) as client:
            assert client.answer(client.ask("/", b"still")).body == b"still"
    assert not tracebacks(caplog)


def test_the_end_of_a_listener_lets_answers_finish_refuses_new_ones_and_says_goodbye():
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow(incoming: Incoming, reply: Reply) -> None:
        begun.set()
        await go_on.wait()
        await send(Answer(200, CIMultiDict(), incoming.path.encode()), reply)

    async def scenario() -> tuple[bytes, int | None, bool]:
        async with listening(slow) as address:
            client = await asyncio.to_thread(client_of, address)
            first = client.ask("/first", b"")
            await begun.wait()

            async def late() -> int:
                # Sent once the listener has begun to end, which it does before this task runs.
                second = client.ask("/second", b"")
                await asyncio.to_thread(client.answer, second)
                go_on.set()
                return second

            task = asyncio.create_task(late())
        second = await task
        answer = await asyncio.to_thread(client.answer, first)
        while not client.terminated:
            await asyncio.to_thread(client.receive)
        client.socket.close()
        return bytes(answer.body), client.answers[second].reset, True

    assert asyncio.run(scenario()) == (b"/first", ErrorCodes.REFUSED_STREAM, True)
