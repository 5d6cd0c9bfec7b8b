"""The proxy's shell: reads requests, asks the plan, forwards, and cuts connections.

A request passes through four steps: read it whole, decide, send it on, send the answer back. The
answer is streamed, so an event stream such as SubscribeToShard arrives event by event.
"""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from aiohttp import ClientError, ClientResponse, ClientSession, ClientTimeout, TCPConnector, web
from multidict import CIMultiDict
from yarl import URL

from infra.proxy.decisions import LoseAnswer, Plan, Request, operation_of
from infra.safety import is_loopback, refuse_aws

logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 64 * 1024 * 1024
"""The largest request body: several times the 10 MiB that PutRecords takes, and bounded."""

CONTROL_PREFIX = "/_proxy/"

_HEADER_BYTES = 64 * 1024

_CONNECT_SECONDS = 5.0

_IDLE_SECONDS = 2.0
"""How long an upstream connection is kept: Node closes an idle one after 5 s, and a request that is
just then on its way would fail for no reason of its own."""

# RFC 9110, section 7.6.1: these speak of one connection and are not passed on.
_HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)


@asynccontextmanager
async def running_proxy(
    upstream: str, *, host: str = "127.0.0.1", port: int = 0, plan: Plan | None = None
) -> AsyncIterator[str]:
    """Run a proxy for the length of an `async with` block.

    Args:
        upstream: The endpoint that requests are sent on to, `http://host:port`.
        host: The address to listen on.
        port: The port to listen on; 0 takes a free one.
        plan: What to do with requests; one that passes everything on when None.

    Yields:
        The proxy's URL.

    Raises:
        AwsRefusedError: The upstream is AWS, or no http(s) URL.
        OSError: The port is taken.
    """
    refuse_aws(upstream, "the proxy's upstream")
    connector = TCPConnector(limit=0, keepalive_timeout=_IDLE_SECONDS)
    async with ClientSession(
        connector=connector,
        auto_decompress=False,
        timeout=ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS),
        max_line_size=_HEADER_BYTES,
        max_field_size=_HEADER_BYTES,
    ) as session:
        handler = _Handler(session, URL(upstream), plan or Plan())
        server = web.Server(
            handler.handle,
            request_factory=_VerbatimRequest.make,
            auto_decompress=False,
            max_line_size=_HEADER_BYTES,
            max_field_size=_HEADER_BYTES,
            access_log=None,
        )
        runner = web.ServerRunner(server, shutdown_timeout=1.0)
        await runner.setup()
        try:
            site = web.TCPSite(runner, host, port)
            await site.start()
            address = runner.addresses[0]
            yield f"http://{host}:{address[1]}"
        finally:
            await runner.cleanup()


class _VerbatimRequest(web.BaseRequest):
    """A request whose answer gets no header that the upstream did not send."""

    @classmethod
    def make(cls, message, payload, protocol, writer, task):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN206 - aiohttp's own types are private
        """Make the request; the signature is aiohttp's."""
        return cls(message, payload, protocol, writer, task, asyncio.get_running_loop())

    async def _prepare_hook(self, response: web.StreamResponse) -> None:
        # aiohttp has just added its own Content-Type, Date and Server where there were none.
        if isinstance(response, _VerbatimResponse):
            for name in ("Content-Type", "Date", "Server"):
                if name not in response.sent_by_upstream:
                    response.headers.pop(name, None)


class _VerbatimResponse(web.StreamResponse):
    """The upstream's answer."""

    def __init__(self, answer: ClientResponse) -> None:
        self.sent_by_upstream = _end_to_end(answer.raw_headers)
        super().__init__(status=answer.status, reason=answer.reason, headers=self.sent_by_upstream)


class _Handler:
    """Carries one request after the other through the four steps."""

    def __init__(self, session: ClientSession, upstream: URL, plan: Plan) -> None:
        self._session = session
        self._upstream = upstream
        self._plan = plan

    async def handle(self, incoming: web.BaseRequest) -> web.StreamResponse:
        """Answer a request."""
        body = await _read(incoming)
        if body is None:
            return web.Response(status=413, text=f"the limit is {MAX_BODY_BYTES} bytes\n")
        if incoming.path.startswith(CONTROL_PREFIX):
            return self._control(incoming, body)
        operation = operation_of(incoming.method, incoming.path, incoming.headers)
        request = self._plan.arrived(operation, len(body))
        decision = self._plan.decide(request)
        try:
            async with self._send_on(incoming, body) as answer:
                if isinstance(decision, LoseAnswer):
                    # Read to its end first: what is lost has certainly been carried out.
                    await answer.read()
                    if self._plan.settle(request, decision, answer.status, time.time()):
                        return _cut(incoming, request, decision)
                return await _send_back(incoming, answer)
        except (ClientError, TimeoutError) as error:
            if isinstance(decision, LoseAnswer):
                self._plan.settle(request, decision, None, time.time())
            return self._failed(request, error)

    def _send_on(self, incoming: web.BaseRequest, body: bytes):  # type: ignore[no-untyped-def]  # noqa: ANN202 - aiohttp's type is private
        headers = _end_to_end(incoming.raw_headers)
        headers.popall("Content-Length", None)  # aiohttp sets it from the body
        headers.popall("Expect", None)  # answered here
        return self._session.request(
            incoming.method,
            URL(f"{self._upstream.origin()}{incoming.raw_path}", encoded=True),
            headers=headers,
            data=body or None,
            allow_redirects=False,
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
        )

    def _failed(self, request: Request, error: Exception) -> web.Response:
        problem = str(error) or repr(error)
        logger.error("no answer from %s to %s: %s", self._upstream, request.operation, problem)
        # The form of an AWS error, so that an SDK shows the message.
        return web.json_response(
            {"__type": "ServiceUnavailable", "message": f"the proxy's upstream: {problem}"},
            status=502,
            content_type="application/x-amz-json-1.1",
        )

    def _control(self, incoming: web.BaseRequest, body: bytes) -> web.Response:
        if not is_loopback(f"//{incoming.remote or ''}"):
            return web.json_response({"error": "the control endpoint is local"}, status=403)
        match incoming.method, incoming.path.removeprefix(CONTROL_PREFIX):
            case "GET", "status":
                return web.json_response({"upstream": str(self._upstream), **self._plan.status()})
            case "POST", "lose":
                try:
                    self._plan.lose(*parse_lose(body))
                except ValueError as error:
                    return web.json_response({"error": str(error)}, status=400)
                return web.json_response(self._plan.status())
            case _:
                known = "GET /_proxy/status and POST /_proxy/lose"
                return web.json_response({"error": f"there are {known}"}, status=404)


def parse_lose(body: bytes) -> tuple[str, int]:
    """Read `{"operation": "PutRecords", "count": 2}`; the count is 1 when it is left out.

    Raises:
        ValueError: It is of another form.
    """
    message = json.loads(body)
    match message:
        case {"operation": str(operation), "count": int(count)} if count is not True:
            return operation, count
        case {"operation": str(operation)} if "count" not in message:
            return operation, 1
        case _:
            raise ValueError('expected {"operation": "PutRecords", "count": 2}')


async def _read(incoming: web.BaseRequest) -> bytes | None:
    """Read the body, or return None when it is larger than the proxy takes."""
    if incoming.headers.get("Expect", "").lower() == "100-continue" and incoming.transport:
        incoming.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    chunks: list[bytes] = []
    size = 0
    async for chunk in incoming.content.iter_any():
        chunks.append(chunk)
        size += len(chunk)
        if size > MAX_BODY_BYTES:
            return None
    return b"".join(chunks)


async def _send_back(incoming: web.BaseRequest, answer: ClientResponse) -> web.StreamResponse:
    """Stream the upstream's answer to the client."""
    response = _VerbatimResponse(answer)
    await response.prepare(incoming)
    try:
        if answer.content.is_eof() or answer._body is not None:  # noqa: SLF001
            await response.write(await answer.read())
        else:
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
    except ConnectionError:
        logger.info("a client left before its answer had been sent")
    except ClientError as error:
        # Half an answer is on its way; a clean end would make it look like a whole one.
        logger.error("the upstream broke off its answer: %s", error)  # noqa: TRY400
        _abort(incoming)
    return response


def _cut(incoming: web.BaseRequest, request: Request, decision: LoseAnswer) -> web.Response:
    logger.info("lost the answer to request %d: %s", request.number, decision.reason)
    _abort(incoming)
    return web.Response()  # goes nowhere


def _abort(incoming: web.BaseRequest) -> None:
    if incoming.transport is not None:
        incoming.transport.abort()


def _end_to_end(raw_headers: Iterable[tuple[bytes, bytes]]) -> CIMultiDict[str]:
    """Return the headers that are passed on, each as often as it was sent."""
    return CIMultiDict(
        (name.decode("latin-1"), value.decode("utf-8", "surrogateescape"))
        for name, value in raw_headers
        if name.lower().decode("latin-1") not in _HOP_BY_HOP
    )
