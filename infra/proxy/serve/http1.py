"""HTTP/1.1: aiohttp reads the requests, and answers are written byte for byte as they are given."""

import asyncio
import logging
from http import HTTPStatus
from typing import Any, Final, cast

from aiohttp import HttpVersion11, web
from multidict import CIMultiDict

from infra.proxy.exchange import Incoming
from infra.proxy.serve.budget import MAX_BODY_BYTES
from infra.proxy.serve.service import (
    FRAMING,
    TOO_LARGE,
    Service,
    abort,
    end_to_end,
    refuse,
    respond,
)

logger = logging.getLogger(__name__)

_HEADER_BYTES: Final = 64 * 1024

_REASONS: Final = {status.value: status.phrase for status in HTTPStatus}


class Http1Server(web.Server):
    """Makes the protocol of each HTTP/1.1 connection.

    Args:
        service: What answers the requests.
    """

    def __init__(self, service: Service) -> None:
        super().__init__(self._serve, handler_cancellation=True)
        self._service = service

    def __call__(self) -> web.RequestHandler:
        """Return the protocol of a new connection."""
        return _Connection(
            self,
            loop=asyncio.get_running_loop(),
            auto_decompress=False,
            max_line_size=_HEADER_BYTES,
            max_field_size=_HEADER_BYTES,
            access_log=None,  # type: ignore[arg-type] # aiohttp's way to have none
        )

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        running = self._service.running
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine runs in a task
        running.add(task)
        try:
            return await self._answer(request)
        finally:
            running.discard(task)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        reply = _Http1Reply(request)
        size = _announced(request)
        if not request.raw_path.startswith("/") or size > MAX_BODY_BYTES:
            reply.keep_alive = False  # what follows in this connection is not read
            if size > MAX_BODY_BYTES:
                await refuse(reply, 413, "RequestEntityTooLarge", TOO_LARGE)
            else:
                await refuse(reply, 400, "BadRequest", "a target is expected to begin with /")
            return _CLOSE
        budget = self._service.budget
        await budget.reserve(size)
        try:
            body = await _read(request, reply)
            if body is not None:
                budget.release(size - len(body))
                size = len(body)
                await respond(self._service.handler, _incoming(request, body), reply)
        finally:
            budget.release(size)
        return _KEEP if reply.keep_alive and not reply.gone else _CLOSE


class _Connection(web.RequestHandler):
    __slots__ = ()

    def data_received(self, data: bytes) -> None:
        """Take bytes in; aiohttp would leave a body waiting for ever when its chunks are broken."""
        super().data_received(data)
        request = self._current_request
        if request is not None and self.has_lost_the_body_of(request):
            request.content.set_exception(_broken())

    def has_lost_the_body_of(self, request: web.BaseRequest) -> bool:
        """Say whether aiohttp has gone on to the next message before the body was whole."""
        return bool(self._messages) and not request.content.is_eof()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what is no HTTP; aiohttp itself would log a traceback."""
        logger.info("%s sent what is no HTTP request: %s", request.remote, message or repr(exc))
        response = web.Response(status=status, text=f"{message or 'no HTTP request'}\n")
        response.force_close()
        return response


class _Done(web.StreamResponse):
    """What aiohttp is given for an answer that has been sent."""

    def __init__(self, *, keep_alive: bool) -> None:
        super().__init__()
        self._keep_alive = keep_alive

    async def prepare(self, request: web.BaseRequest) -> None:
        """Do nothing."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Do nothing."""


_KEEP: Final = _Done(keep_alive=True)
_CLOSE: Final = _Done(keep_alive=False)


class _Http1Reply:
    """Where the answer to one request goes."""

    __slots__ = (
        "_bodiless",
        "_chunked",
        "_cut",
        "_head",
        "_left",
        "_request",
        "_writer",
        "finished",
        "keep_alive",
        "started",
    )

    def __init__(self, request: web.BaseRequest) -> None:
        self._request = request
        self._writer = request.writer
        self._head = b""
        self._left: int | None = None
        self._chunked = self._bodiless = self._cut = False
        self.started = self.finished = False
        self.keep_alive = request.keep_alive

    @property
    def gone(self) -> bool:
        transport = self._request.transport
        return self._cut or transport is None or transport.is_closing()

    async def start(
        self, status: int, headers: CIMultiDict[str], *, reason: str = "", length: int | None = None
    ) -> None:
        self.started = True
        old = self._request.version < HttpVersion11
        self._bodiless = self._request.method == "HEAD" or status in (204, 304)
        lines = [f"HTTP/1.1 {status} {reason or _REASONS.get(status, '')}"]
        lines += [f"{name}: {value}" for name, value in headers.items() if _passes(name)]
        if length is not None:
            self._left = length
            if status != HTTPStatus.NO_CONTENT:
                lines.append(f"Content-Length: {length}")
        elif not self._bodiless:
            self._chunked = not old
            if old:
                self.keep_alive = False  # the end of the connection is the end of the body
            else:
                lines.append("Transfer-Encoding: chunked")
        if not self.keep_alive:
            lines.append("Connection: close")
        elif old:
            lines.append("Connection: keep-alive")
        head = ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape")
        if self._chunked:
            await self._send(head)
        else:
            self._head = head  # leaves in one packet with the body

    async def write(self, data: bytes) -> None:
        if not data or self._bodiless:
            return
        if self._left is not None:
            self._left -= len(data)
            if self._left < 0:
                raise ValueError("the body is longer than was announced")
        await self._send(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    async def finish(self) -> None:
        if self._left and not self._bodiless:
            raise ValueError(f"the body is {self._left} bytes shorter than was announced")
        if self._chunked or self._head:
            await self._send(b"0\r\n\r\n" if self._chunked else b"")
        self.finished = True
        # The writer waits for slow clients after 64 KiB of one answer. Who asks on without reading
        # would otherwise be given small ones without end.
        await self._writer.drain()

    def cut(self, *, reset: bool) -> None:
        self._cut = True
        if (transport := self._request.transport) is not None:
            abort(transport, reset=reset)

    async def _send(self, data: bytes) -> None:
        if self.gone:
            raise ConnectionResetError("the client has left, or the connection was cut")
        if self._head:
            data = self._head + data
            self._head = b""
        # Without a head of its own, aiohttp's writer passes bytes on and waits for slow clients.
        await self._writer.write(data)


def _passes(name: str) -> bool:
    return name.lower() not in FRAMING


def _announced(request: web.BaseRequest) -> int:
    """Return the length of the body, or the greatest there may be when it is not known."""
    if not request.body_exists:
        return 0
    length: int | None = request.content_length
    return MAX_BODY_BYTES if length is None else length


async def _read(request: web.BaseRequest, reply: _Http1Reply) -> bytes | None:
    """Read the body; None when that has been refused."""
    if not request.body_exists:
        return b""
    transport = request.transport
    if request.headers.get("Expect", "").lower() == "100-continue" and transport is not None:
        transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    chunks: list[bytes] = []
    size = 0
    try:
        if cast("_Connection", request.protocol).has_lost_the_body_of(request):
            raise _broken()
        while chunk := await request.content.readany():
            chunks.append(chunk)
            size += len(chunk)
            if size > MAX_BODY_BYTES:
                reply.keep_alive = False
                await refuse(reply, 413, "RequestEntityTooLarge", TOO_LARGE)
                return None
    except web.RequestPayloadError as error:
        reply.keep_alive = False
        request.content.feed_eof()  # aiohttp need not wait for the rest
        await refuse(reply, 400, "BadRequest", str(error))
        return None
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _broken() -> web.RequestPayloadError:
    return web.RequestPayloadError("the chunks of the body are not as HTTP has them")


def _incoming(request: web.BaseRequest, body: bytes) -> Incoming:
    headers = end_to_end(request.raw_headers)
    peer: Any = request.remote
    return Incoming(request.method, request.raw_path, headers, body, peer or "")
