"""What both servers do with a request: run the handler, and see that its answer ends somehow."""

import asyncio
import json
import logging
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Protocol

from multidict import CIMultiDict

from infra.proxy.exchange import Answer, Handler, Incoming, Reply, send
from infra.proxy.serve.budget import MAX_BODY_BYTES, BodyBudget

logger = logging.getLogger(__name__)

TOO_LARGE: Final = f"the proxy takes bodies of up to {MAX_BODY_BYTES} bytes"

HOP_BY_HOP: Final = frozenset(
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
"""Headers that speak of one connection and are not passed on (RFC 9110, section 7.6.1)."""

FRAMING: Final = HOP_BY_HOP | {"content-length"}
"""Headers of an answer that the server decides on."""


@dataclass(slots=True)
class Service:
    """What the connections of one listener share.

    Attributes:
        handler: What answers.
        budget: The memory for request bodies.
        running: The tasks that answer a request at this moment.
        closing: No new request is taken.
    """

    handler: Handler
    budget: BodyBudget
    running: set[asyncio.Task[None]] = field(default_factory=set)
    closing: bool = False


class ServerReply(Reply, Protocol):
    """A reply as its server sees it."""

    @property
    def started(self) -> bool:
        """Whether the head has been given."""

    @property
    def finished(self) -> bool:
        """Whether the body has been ended."""

    @property
    def gone(self) -> bool:
        """Whether nothing can be sent any more: it was cut, or the client has left."""


async def respond(handler: Handler, incoming: Incoming, reply: ServerReply) -> None:
    """Run the handler; whatever it does, the client gets a whole answer or a broken one."""
    try:
        await handler(incoming, reply)
    except Exception as error:
        if isinstance(error, ConnectionError) and reply.gone:
            logger.info("a client left before its answer had been sent")
            return
        logger.exception("no answer to %s %s", incoming.method, incoming.target)
        if not reply.started:
            await refuse(reply, 500, "InternalFailure", f"the proxy failed: {error!r}")
            return
    if not (reply.finished or reply.gone):
        # A clean end would make half an answer look like a whole one.
        reply.cut(reset=False)


async def refuse(reply: ServerReply, status: int, code: str, message: str) -> None:
    """Answer in the form of an AWS error, so that an SDK shows the message."""
    headers = CIMultiDict({"Content-Type": "application/x-amz-json-1.1"})
    body = json.dumps({"__type": code, "message": message}).encode()
    try:
        await send(Answer(status, headers, body), reply)
    except ConnectionError:
        logger.info("a client left before it could be told: %s", message)


def end_to_end(
    raw: Iterable[tuple[bytes, bytes]], leave_out: frozenset[str] = HOP_BY_HOP
) -> CIMultiDict[str]:
    """Return the headers that are passed on, each as often as it was sent, names as written."""
    return CIMultiDict(
        [
            (decoded, value.decode("utf-8", "surrogateescape"))
            for name, value in raw
            if (decoded := name.decode("latin-1")).lower() not in leave_out
        ]
    )


def abort(transport: asyncio.Transport, *, reset: bool) -> None:
    """End a connection without another byte.

    Args:
        transport: What to end; over TLS without the alert that says goodbye.
        reset: With a TCP RST, which also takes back what the system has not yet sent.
    """
    connection = transport.get_extra_info("socket")
    if reset and connection is not None:
        linger_for_nothing = struct.pack("ii", 1, 0)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_for_nothing)
    transport.abort()
