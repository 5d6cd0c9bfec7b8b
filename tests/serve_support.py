"""A listener in a thread of its own, so that a test can be a plain client."""

import asyncio
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from multidict import CIMultiDict

from infra.proxy.exchange import Answer, Handler, Incoming, Reply, send
from infra.proxy.serve.listen import Address, listening
from infra.proxy.upstream import Upstream
from tests.support import eventually

TEXT = CIMultiDict({"X-Kind": "text"})


@dataclass
class Seen:
    """What a handler was given and what became of it."""

    requests: list[Incoming] = field(default_factory=list)
    cancelled: int = 0
    written: int = 0
    finished: int = 0


@contextmanager
def served(handler: Handler, **options: Any) -> Iterator[Address]:
    """Serve in a thread for the length of the block; what the thread raises is raised here."""
    started = threading.Event()
    state: dict[str, Any] = {}

    async def serve() -> None:
        stop = state["stop"] = asyncio.Event()
        state["loop"] = asyncio.get_running_loop()
        async with listening(handler, **options) as address:
            state["address"] = address
            started.set()
            await stop.wait()

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:  # noqa: BLE001 - raised again in the test
            state["error"] = error
        finally:
            started.set()

    thread = threading.Thread(target=run)
    thread.start()
    started.wait(30)
    try:
        if "address" in state:
            yield state["address"]
    finally:
        if "loop" in state and thread.is_alive():
            state["loop"].call_soon_threadsafe(state["stop"].set)
        thread.join(60)
        assert not thread.is_alive()
    if "error" in state:
        raise state["error"]


@contextmanager
def forwarding(url: str, **options: Any) -> Iterator[Address]:
    """Serve what passes everything on to an upstream, as it comes."""

    async def forward(incoming: Incoming, reply: Reply) -> None:
        async with (
            Upstream(url) as upstream,
            upstream.send(
                incoming.method, incoming.target, incoming.headers, incoming.body
            ) as answer,
        ):
            await reply.start(
                answer.status, answer.headers, reason=answer.reason, length=answer.length
            )
            async for chunk in answer.chunks():
                await reply.write(chunk)
            await reply.finish()

    with served(forward, **options) as address:
        yield address


def echo_into(seen: Seen) -> Handler:
    """Return a handler that answers with the body it was sent."""

    async def echo(incoming: Incoming, reply: Reply) -> None:
        seen.requests.append(incoming)
        await send(Answer(200, TEXT, incoming.body), reply)

    return echo


def waiting_into(seen: Seen) -> Handler:
    """Return a handler that never answers and says when it is cancelled."""

    async def wait(incoming: Incoming, _: Reply) -> None:
        seen.requests.append(incoming)
        try:
            await asyncio.Event().wait()
        finally:
            seen.cancelled += 1

    return wait


def flooding_into(seen: Seen, pieces: int) -> Handler:
    """Return a handler that writes so many pieces of 64 KiB as fast as it may."""

    async def flood(_: Incoming, reply: Reply) -> None:
        await reply.start(200, CIMultiDict())
        for _number in range(pieces):
            await reply.write(b"x" * 65536)
            seen.written += 1
        await reply.finish()
        seen.finished += 1

    return flood


def dial(address: Address) -> socket.socket:
    return socket.create_connection((address.host, address.port), timeout=30)


def exchange(address: Address, request: bytes) -> bytes:
    """Send bytes and return all that comes back until the connection ends."""
    with dial(address) as connection:
        connection.sendall(request)
        return read_all(connection)


def read_all(connection: socket.socket) -> bytes:
    answer = bytearray()
    while chunk := connection.recv(1024 * 1024):
        answer += chunk
    return bytes(answer)


def read_until(connection: socket.socket, end: bytes) -> bytes:
    answer = bytearray()
    while not answer.endswith(end):
        chunk = connection.recv(65536)
        assert chunk, f"the connection ended after {bytes(answer)!r}"
        answer += chunk
    return bytes(answer)


def tracebacks(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.exc_info]


def stands_still(value: Callable[[], int], *, every: float = 0.05) -> None:
    """Wait until a number has been seen unchanged ten times in a row."""
    last = [-1] * 10

    def still() -> bool:
        last[:] = [*last[1:], value()]
        return len(set(last)) == 1 and last[0] > 0

    eventually(still, every=every, timeout=60)
