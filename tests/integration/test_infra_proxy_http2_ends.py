"""HTTP/2: a client that says goodbye, or leaves one stream, and what becomes of the others."""

import asyncio

import pytest
from h2.errors import ErrorCodes
from multidict import CIMultiDict

from infra.proxy.exchange import Answer, Handler, Incoming, Reply, send
from tests.h2_client import H2Client
from tests.serve_support import Seen, read_all, served, waiting_into
from tests.support import eventually

GOODBYE = b"\x00\x00\x08\x07\x00\x00\x00\x00\x00" + bytes(4)
"""A GOAWAY; its error code follows."""


def in_two_halves(go_on: asyncio.Event) -> Handler:
    async def answer(_: Incoming, reply: Reply) -> None:
        await reply.start(200, CIMultiDict())
        await reply.write(b"one")
        await go_on.wait()
        await reply.write(b"two" * 100_000)
        await reply.finish()

    return answer


def test_a_client_that_says_goodbye_still_gets_the_answer_it_waits_for():
    # The SDK for JavaScript does so as soon as it has the head of an answer.
    go_on = asyncio.Event()

    async def answer(incoming: Incoming, reply: Reply) -> None:
        if incoming.path == "/on":
            go_on.set()
            await send(Answer(200, CIMultiDict(), b""), reply)
        else:
            await in_two_halves(go_on)(incoming, reply)

    with (
        served(answer) as address,
        H2Client(address.host, address.port) as client,
        H2Client(address.host, address.port) as other,
    ):
        number = client.ask("/", b"")
        while not client.answers[number].body:
            client.receive()
        client.socket.sendall(GOODBYE + ErrorCodes.NO_ERROR.to_bytes(4))
        client.h2.ping(b"12345678")
        client.flush()
        while not any(type(event).__name__ == "PingAckReceived" for event in client.receive()):
            pass
        other.answer(other.ask("/on", b""))
        answered = client.answer(number)
        assert answered.ended
        assert answered.body == b"one" + b"two" * 100_000


def test_a_goodbye_because_of_an_error_cancels_what_is_under_way():
    seen = Seen()
    with (
        served(waiting_into(seen)) as address,
        H2Client(address.host, address.port) as client,
    ):
        client.ask("/", b"")
        eventually(lambda: seen.requests)
        client.socket.sendall(GOODBYE + ErrorCodes.PROTOCOL_ERROR.to_bytes(4))
        eventually(lambda: seen.cancelled)
        read_all(client.socket)


@pytest.mark.parametrize("another_begins", [False, True])
def test_a_stream_that_is_given_up_behind_padded_data_harms_no_other(*, another_begins: bool):
    seen = Seen()
    wait = waiting_into(seen)

    async def answer(incoming: Incoming, reply: Reply) -> None:
        if incoming.path == "/wait":
            await wait(incoming, reply)
        await send(Answer(200, CIMultiDict(), b"fine"), reply)

    with (
        served(answer) as address,
        H2Client(address.host, address.port) as client,
    ):
        client.ask("/wait", b"")
        eventually(lambda: seen.requests)
        number = client.ask("/", None)
        client.h2.send_data(number, b"abc", pad_length=50)
        client.h2.reset_stream(number, ErrorCodes.CANCEL)
        if not another_begins:  # otherwise in the same packet, with which h2 forgets the first
            client.flush()
            client.h2.ping(b"12345678")
            client.flush()
            client.receive()
        assert client.answer(client.ask("/", b"")).body == b"fine"
        assert not seen.cancelled
