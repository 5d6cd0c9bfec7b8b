"""The first bytes of a connection say which protocol it speaks."""

import asyncio
from typing import cast

from infra.proxy.serve.http1 import Http1Server
from infra.proxy.serve.http2 import PREFACE, Http2Connection
from infra.proxy.serve.service import Service


class Fronts:
    """Makes the protocol of each new connection, and knows them all.

    Args:
        service: What answers the requests.
    """

    def __init__(self, service: Service) -> None:
        self.service = service
        self.http1 = Http1Server(service)
        self.http2: set[Http2Connection] = set()
        self.undecided: set[asyncio.Transport] = set()

    def __call__(self) -> asyncio.Protocol:
        """Return the protocol of a new connection."""
        return _Front(self)

    def transports(self) -> set[asyncio.Transport]:
        """Return every connection that is open."""
        first = {c.transport for c in self.http1.connections if c.transport is not None}
        return first | {connection.transport for connection in self.http2} | self.undecided


class _Front(asyncio.Protocol):
    """Listens until it is clear who should, and steps aside."""

    def __init__(self, fronts: Fronts) -> None:
        self._fronts = fronts
        self._seen = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._fronts.undecided.add(self._transport)
        tls = transport.get_extra_info("ssl_object")
        match tls and tls.selected_alpn_protocol():
            case "h2":
                self._become_http2()
            case "http/1.1":
                self._become(self._fronts.http1())

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._fronts.undecided.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        self._seen += data
        if self._seen.startswith(PREFACE):
            self._become_http2()
        elif not PREFACE.startswith(self._seen):
            self._become(self._fronts.http1())

    def _become_http2(self) -> None:
        self._become(Http2Connection(self._fronts.service, self._fronts.http2))

    def _become(self, protocol: asyncio.Protocol) -> None:
        self._fronts.undecided.discard(self._transport)
        self._transport.set_protocol(protocol)
        protocol.connection_made(self._transport)
        if self._seen:
            protocol.data_received(self._seen)
