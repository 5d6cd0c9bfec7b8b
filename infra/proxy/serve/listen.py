"""Listens on a port and hands every request to a handler."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from infra.proxy.exchange import Handler
from infra.proxy.serve.budget import MAX_BODY_BYTES, BodyBudget
from infra.proxy.serve.front import Fronts
from infra.proxy.serve.service import Service
from infra.proxy.serve.tls import TlsIdentity

__all__ = ["MAX_BODY_BYTES", "Address", "BodyBudget", "listening"]

_GRACE_SECONDS: Final = 1.0

_HANDSHAKE_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Address:
    """Where a listener is found."""

    host: str
    port: int
    url: str


@asynccontextmanager
async def listening(
    handler: Handler,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    tls: TlsIdentity | None = None,
    budget: BodyBudget | None = None,
) -> AsyncIterator[Address]:
    """Serve HTTP/1.1 and HTTP/2 for the length of an `async with` block.

    At its end nothing new is taken, handlers have 1 s to finish and are then cancelled.

    Args:
        handler: Called for each request; its task is cancelled when the client goes away.
        host: The address to listen on.
        port: The port to listen on; 0 takes a free one.
        tls: Serve HTTPS with this; HTTP when None.
        budget: The memory for request bodies, which several listeners may share; one of its own
            when None.

    Yields:
        Where it listens.

    Raises:
        OSError: The port is taken.
    """
    fronts = Fronts(Service(handler, budget or BodyBudget()))
    server = await asyncio.get_running_loop().create_server(
        fronts,
        host,
        port,
        ssl=tls.context if tls else None,
        ssl_handshake_timeout=_HANDSHAKE_SECONDS if tls else None,
        ssl_shutdown_timeout=_GRACE_SECONDS if tls else None,
        backlog=1024,
    )
    try:
        taken: int = server.sockets[0].getsockname()[1]
        name = f"[{host}]" if ":" in host else host
        yield Address(host, taken, f"{'https' if tls else 'http'}://{name}:{taken}")
    finally:
        server.close()
        await _end(fronts)


async def _end(fronts: Fronts) -> None:
    """End every connection, those with a handler at work after it has had its time."""
    deadline = asyncio.get_running_loop().time() + _GRACE_SECONDS
    service = fronts.service
    service.closing = True
    fronts.http1.pre_shutdown()  # closes the idle ones
    if service.running:
        _, late = await asyncio.wait(service.running, timeout=_GRACE_SECONDS)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=_GRACE_SECONDS)
    transports = fronts.transports()
    for connection in list(fronts.http2):
        connection.close()
    loop = asyncio.get_running_loop()
    while any(map(_unsent, transports)) and loop.time() < deadline:  # noqa: ASYNC110 - no event says so
        await asyncio.sleep(0.01)
    await fronts.http1.shutdown(0.1)
    for transport in transports:
        transport.abort()
    await asyncio.sleep(0)  # the connections hear of it


def _unsent(transport: asyncio.Transport) -> bool:
    return transport.get_write_buffer_size() > 0
