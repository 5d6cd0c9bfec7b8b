"""The client to the emulator: what goes out and comes back is what the proxy was given."""

import asyncio
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Final, Self

from aiohttp import (
    ClientError,
    ClientResponse,
    ClientSession,
    ClientTimeout,
    DummyCookieJar,
    TCPConnector,
)
from aiohttp.abc import AbstractStreamWriter
from aiohttp.payload import Payload
from multidict import CIMultiDict
from yarl import URL

from infra.proxy.exchange import Answer, Incoming
from infra.proxy.serve.service import FRAMING, end_to_end
from infra.safety import refuse_aws

_HEADER_BYTES: Final = 64 * 1024

_CONNECT_SECONDS: Final = 5.0

_IDLE_SECONDS: Final = 2.0
"""How long an upstream connection is kept: Node closes an idle one after 5 s, and a request that is
just then on its way would fail for no reason of its own."""

_SLICE_BYTES: Final = 256 * 1024

_SET_BY_US: Final = FRAMING | {"expect"}
"""The length comes from the body, and a client that expects a 100 has had it from the server."""

_NOT_ADDED: Final = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")


class UpstreamError(Exception):
    """The upstream gave no answer, or an error in place of one.

    Args:
        code: The error's name, as AWS writes it.
        message: What happened.
        status: The HTTP status that goes with it.
    """

    def __init__(self, code: str, message: str, status: int) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status


class Upstream:
    """Sends requests to one emulator, each once. Used in an `async with` block.

    Args:
        url: Such as `http://127.0.0.1:4568`; a path in it is not used.

    Raises:
        AwsRefusedError: It is AWS, or no http(s) URL.
    """

    def __init__(self, url: str) -> None:
        refuse_aws(url, "the proxy's upstream")
        self.url = url
        self._origin = str(URL(url).origin())
        self._session: ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = ClientSession(
            connector=TCPConnector(limit=0, keepalive_timeout=_IDLE_SECONDS),
            cookie_jar=DummyCookieJar(),  # cookies are the client's own business
            auto_decompress=False,
            timeout=ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS),
            max_line_size=_HEADER_BYTES,
            max_field_size=_HEADER_BYTES,
        )
        # aiohttp would send a GET, PUT or DELETE again when a kept connection fails.
        self._session._retry_connection = False  # noqa: SLF001 - it has no other switch
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    def send(self, method: str, target: str, headers: CIMultiDict[str], body: bytes) -> "_Sending":
        """Send a request and have its answer for the length of an `async with` block.

        Args:
            method: Such as `POST`.
            target: The path with its query, sent exactly so, but for a ? with nothing behind it.
            headers: Passed on as they are, but for those that belong to one connection.
            body: Passed on as it is.

        Returns:
            A context manager for an `UpstreamAnswer`; an answer that is left before its end ends
            the connection. It raises `UpstreamError` when there is no answer.
        """
        return _Sending(self, method, target, headers, body)

    async def fetch(self, incoming: Incoming, body: bytes | None = None) -> Answer:
        """Send a request on and return the whole answer.

        Args:
            incoming: What a client sent.
            body: Sent in place of the request's own; None sends that untouched.

        Raises:
            UpstreamError: There is no answer, or it broke off.
        """
        data = incoming.body if body is None else body
        async with self.send(incoming.method, incoming.target, incoming.headers, data) as answer:
            return Answer(answer.status, answer.headers, await answer.read(), answer.reason)

    async def _request(
        self, method: str, target: str, headers: CIMultiDict[str], body: bytes
    ) -> ClientResponse:
        if self._session is None:
            raise RuntimeError("an Upstream is used in an `async with` block")
        if not target.startswith("/"):  # it could name another host
            raise UpstreamError("BadRequest", f"not a path: {target!r}", 400)
        passed = CIMultiDict([(k, v) for k, v in headers.items() if k.lower() not in _SET_BY_US])
        try:
            return await self._session.request(
                method,
                self._whole_url(target, passed),
                headers=passed,
                data=_Body(body) if body else None,
                allow_redirects=False,
                skip_auto_headers=_NOT_ADDED,
            )
        except (ClientError, TimeoutError) as error:
            raise self.failed(error) from error
        except ValueError as error:
            raise UpstreamError("BadRequest", f"cannot be sent on: {error}", 400) from error

    def _whole_url(self, target: str, headers: CIMultiDict[str]) -> URL:
        """Return what to ask for; raise ValueError for what aiohttp would send otherwise."""
        # It leaves out bytes that are no UTF-8, and of the target what is behind a #.
        "".join((target, *headers.values())).encode()
        if "#" in target:
            raise ValueError(f"a target has no fragment: {target!r}")
        return URL(self._origin + target, encoded=True)

    def failed(self, error: Exception) -> UpstreamError:
        """Return what to raise for a connection that failed."""
        problem = str(error) or repr(error)
        return UpstreamError("ServiceUnavailable", f"the proxy's upstream: {problem}", 502)


class _Body(Payload):
    """A request body, written in slices so that a slow upstream holds back what follows."""

    _autoclose = True  # bytes in memory: there is nothing to close

    def __init__(self, body: bytes) -> None:
        super().__init__(body)
        self._size = len(body)

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Return the body as text; aiohttp wants to be able to."""
        return bytes(self._value).decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Write it all."""
        view = memoryview(self._value)
        for start in range(0, len(view), _SLICE_BYTES):
            await writer.write(view[start : start + _SLICE_BYTES])


class UpstreamAnswer:
    """An answer whose head has arrived.

    Attributes:
        status: The HTTP status.
        reason: The reason phrase.
        headers: End-to-end headers, names as written, without `Content-Length`.
        length: What `Content-Length` said; None when the answer had none.
    """

    __slots__ = ("_closed", "_response", "_upstream", "headers", "length", "reason", "status")

    def __init__(self, upstream: Upstream, response: ClientResponse) -> None:
        self._upstream = upstream
        self._response = response
        self.status = response.status
        self.reason = response.reason or ""
        self.headers = end_to_end(response.raw_headers, FRAMING)
        self.length: int | None = response.content_length
        self._closed = _end_of_connection(response)

    async def read(self) -> bytes:
        """Return the whole body.

        Raises:
            UpstreamError: It broke off.
        """
        try:
            body = await self._response.read()
            self._refuse_a_reset()
        except (ClientError, ConnectionError) as error:
            raise self._upstream.failed(error) from error
        return body

    async def chunks(self) -> AsyncIterator[bytes]:
        """Return the body piece by piece, as it comes; the upstream waits while nobody asks.

        Raises:
            UpstreamError: It broke off.
        """
        content = self._response.content
        try:
            while chunk := await content.readany():
                yield chunk
            self._refuse_a_reset()
        except (ClientError, ConnectionError) as error:
            # What had arrived before the end: aiohttp keeps it to itself. LocalStack breaks off
            # every subscription at the end of its shard, behind the last records.
            if content._buffer:  # noqa: SLF001 - there is no other way to it
                yield b"".join(content._buffer)[content._buffer_offset :]  # noqa: SLF001
            raise self._upstream.failed(error) from error

    def _refuse_a_reset(self) -> None:
        if self._closed is not None and self._closed.done():
            self._closed.result()


def _end_of_connection(response: ClientResponse) -> asyncio.Future[None] | None:
    """Return what fails with a connection, where its end is the end of the body.

    aiohttp takes a reset for such an end as well.
    """
    connection = response.connection
    framed = response.content_length is not None or "Transfer-Encoding" in response.headers
    if framed or connection is None or connection.protocol is None:
        return None
    closed = connection.protocol.closed
    if closed is not None:
        closed.add_done_callback(lambda end: end.cancelled() or end.exception())
    return closed


class _Sending:
    """The context manager that `Upstream.send` returns."""

    __slots__ = ("_request", "_response", "_upstream")

    def __init__(self, upstream: Upstream, *request: Any) -> None:
        self._upstream = upstream
        self._request = request
        self._response: ClientResponse | None = None

    async def __aenter__(self) -> UpstreamAnswer:
        self._response = await self._upstream._request(*self._request)  # noqa: SLF001 - one thing
        return UpstreamAnswer(self._upstream, self._response)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if self._response is not None:
            self._response.release()  # closes the connection if the answer was not read to its end
