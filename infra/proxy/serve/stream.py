"""One request of an HTTP/2 connection, and its answer."""

import asyncio
import logging
from contextlib import suppress
from http import HTTPStatus
from typing import Final, Protocol

from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.exceptions import H2Error, StreamClosedError
from multidict import CIMultiDict

from infra.proxy.exchange import Incoming
from infra.proxy.serve.budget import MAX_BODY_BYTES
from infra.proxy.serve.service import FRAMING, TOO_LARGE, Service, end_to_end, refuse, respond

logger = logging.getLogger(__name__)

INITIAL_WINDOW: Final = 64 * 1024
"""What a stream may send before its body has a place in the budget."""


class Connection(Protocol):
    """What a stream needs of its connection."""

    service: Service
    h2: H2Connection
    peer: str
    lost: bool

    async def writable(self) -> None:
        """Wait while the client is slower than we are."""

    def flush(self) -> None:
        """Send what h2 has ready."""

    def abort(self, *, reset: bool) -> None:
        """End the connection without another byte."""

    def forget(self, stream_id: int) -> None:
        """The stream has been answered."""


class Stream:
    """A request as it comes in, and the `Reply` to it.

    Args:
        connection: Where it came from.
        stream_id: Its number there.
        headers: The request's, with those that begin with a colon.
    """

    __slots__ = (
        "_bodiless",
        "_body",
        "_connection",
        "_headers",
        "_id",
        "_left",
        "_size",
        "_task",
        "_whole",
        "_window",
        "finished",
        "gone",
        "started",
    )

    def __init__(
        self, connection: Connection, stream_id: int, headers: list[tuple[bytes, bytes]]
    ) -> None:
        self._connection = connection
        self._id = stream_id
        self._headers = headers
        self._body: list[bytes] = []
        self._size = 0
        self._whole = asyncio.Event()
        self._window = asyncio.Event()
        self._left: int | None = None
        self._bodiless = False
        self._task: asyncio.Task[None] | None = None
        self.started = self.finished = self.gone = False

    def begin(self) -> None:
        """Answer the request in a task of its own."""
        running = self._connection.service.running
        self._task = asyncio.get_running_loop().create_task(self._serve())
        running.add(self._task)
        self._task.add_done_callback(running.discard)
        self._task.add_done_callback(self._ended)

    def body_came(self, data: bytes, window_bytes: int) -> None:
        """Take a piece of the request's body, which used so much of the stream's window."""
        self._size += len(data)
        if self._size > MAX_BODY_BYTES:
            self._whole.set()
            return
        self._body.append(data)
        if window_bytes > len(data):
            self._open_window(window_bytes - len(data))  # padding is no part of the body

    def body_ended(self) -> None:
        """The request is whole."""
        self._whole.set()

    def client_left(self) -> None:
        """Nobody waits for the answer any more."""
        self.gone = True
        if self._task is not None:
            self._task.cancel()

    def window_opened(self) -> None:
        """There may be room to send again."""
        self._window.set()

    async def start(
        self,
        status: int,
        headers: CIMultiDict[str],
        *,
        reason: str = "",  # noqa: ARG002 - HTTP/2 has none
        length: int | None = None,
    ) -> None:
        """Send the head; see `Reply`."""
        self._check()
        self.started = True
        self._left = length
        self._bodiless = self._method == "HEAD" or status in (204, 304)
        fields = [(b":status", b"%d" % status)]
        fields += [
            (lowered.encode("latin-1"), value.encode("utf-8", "surrogateescape"))
            for name, value in headers.items()
            if (lowered := name.lower()) not in FRAMING
        ]
        if length is not None and status != HTTPStatus.NO_CONTENT:
            fields.append((b"content-length", b"%d" % length))
        ends = self._bodiless or length == 0
        self._connection.h2.send_headers(self._id, fields, end_stream=ends)
        if ends or length is None:
            self._connection.flush()  # otherwise it leaves in one packet with the body

    async def write(self, data: bytes) -> None:
        """Send a piece of the body as far as the client's windows go; see `Reply`."""
        if self._bodiless:
            return
        rest = memoryview(data)
        if self._left is not None:
            self._left -= len(data)
            if self._left < 0:
                raise ValueError("the body is longer than was announced")
        while rest:
            await self._connection.writable()
            self._check()
            h2 = self._connection.h2
            room = min(h2.local_flow_control_window(self._id), h2.max_outbound_frame_size)
            if room <= 0:
                self._connection.flush()
                self._window.clear()
                await self._window.wait()
                continue
            piece, rest = rest[:room], rest[room:]
            h2.send_data(self._id, bytes(piece), end_stream=self._left == 0 and not rest)
            self._connection.flush()

    async def finish(self) -> None:
        """End the body; see `Reply`."""
        self._check()
        if self._left and not self._bodiless:
            raise ValueError(f"the body is {self._left} bytes shorter than was announced")
        if self._left is None and not self._bodiless:
            self._connection.h2.end_stream(self._id)
            self._connection.flush()
        self.finished = True

    def cut(self, *, reset: bool) -> None:
        """Reset the connection, or this stream alone; see `Reply`."""
        if reset:
            self.gone = True
            self._connection.abort(reset=True)
        else:
            self._reset(ErrorCodes.INTERNAL_ERROR)

    @property
    def _method(self) -> str:
        return dict(self._headers).get(b":method", b"").decode("latin-1")

    def _check(self) -> None:
        if self.gone or self._connection.lost:
            self.gone = True
            raise ConnectionResetError("the client has left, or the stream was cut")

    async def _serve(self) -> None:
        fields = end_to_end(self._headers)
        length = fields.get("Content-Length", "")
        size = int(length) if length.isdecimal() else MAX_BODY_BYTES
        if self._whole.is_set():
            size = self._size
        if size > MAX_BODY_BYTES:
            await refuse(self, 413, "RequestEntityTooLarge", TOO_LARGE)
            return
        budget = self._connection.service.budget
        await budget.reserve(size)
        try:
            if await self._body_arrived(size, fields.pop("Expect", "")):
                budget.release(size - self._size)
                size = self._size
                incoming = self._incoming(fields)
                if not incoming.target.startswith("/"):
                    await refuse(self, 400, "BadRequest", "a path is expected to begin with /")
                    return
                await respond(self._connection.service.handler, incoming, self)
        finally:
            budget.release(size)

    async def _body_arrived(self, size: int, expect: str) -> bool:
        """Let the client send its body and wait for it; False when it has been refused."""
        if not self._whole.is_set():
            if expect.lower() == "100-continue":
                self._connection.h2.send_headers(self._id, [(b":status", b"100")])
            if size > INITIAL_WINDOW:
                # One byte too many may come, so that a body without a length is seen to be so.
                self._open_window(size - INITIAL_WINDOW + 1)
            self._connection.flush()
            await self._whole.wait()
        if self._size > MAX_BODY_BYTES:
            await refuse(self, 413, "RequestEntityTooLarge", TOO_LARGE)
            return False
        return True

    def _open_window(self, size: int) -> None:
        if not self._whole.is_set():
            # It may be given up further on in the same packet, and h2 have forgotten it.
            with suppress(StreamClosedError, KeyError):
                self._connection.h2.increment_flow_control_window(size, self._id)

    def _incoming(self, fields: CIMultiDict[str]) -> Incoming:
        method = fields.popone(":method", "")
        target = fields.popone(":path", "")
        authority = fields.popone(":authority", None)
        fields.popall(":scheme", None)
        if authority is not None and "Host" not in fields:
            fields["Host"] = authority
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body.clear()
        return Incoming(method, target, fields, body, self._connection.peer)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Leave nothing half said, however the task came to its end."""
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a stream failed", exc_info=error)
        if not self.finished:
            self._reset(ErrorCodes.INTERNAL_ERROR)
        elif not self._whole.is_set() or self._size > MAX_BODY_BYTES:
            # Answered before the request was whole: the rest is not wanted (RFC 9113, 8.1).
            self._reset(ErrorCodes.NO_ERROR)
        self._connection.forget(self._id)

    def _reset(self, code: ErrorCodes) -> None:
        if self.gone or self._connection.lost:
            return
        self.gone = True
        try:
            self._connection.h2.reset_stream(self._id, code)
        except H2Error:
            return  # the client has ended it, or the connection, in the same moment
        self._connection.flush()
