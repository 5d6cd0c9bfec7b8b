"""What passes between the proxy's servers and the rest of it: a request, and where its answer goes.

The servers (`infra.proxy.serve`) speak HTTP/1.1 and HTTP/2 and know nothing of AWS. The rest knows
nothing of connections. Between them are the types of this module.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from multidict import CIMultiDict


@dataclass(frozen=True, slots=True)
class Incoming:
    """A request that has been read whole.

    Attributes:
        method: Such as `POST`.
        target: The path with its query, exactly as it was sent.
        headers: End-to-end headers, each as often as it was sent; an HTTP/2 `:authority` is `Host`.
        body: Exactly as it was sent.
        peer: The client's address, without its port.
    """

    method: str
    target: str
    headers: CIMultiDict[str]
    body: bytes
    peer: str

    @property
    def path(self) -> str:
        """The path without its query."""
        return self.target.partition("?")[0]


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer.

    Attributes:
        status: The HTTP status.
        headers: End-to-end headers, without `Content-Length`, which the server sets.
        body: All of it.
        reason: The reason phrase of HTTP/1.1; empty for the standard one.
        refused: Whether the proxy itself refuses the request.
    """

    status: int
    headers: CIMultiDict[str]
    body: bytes
    reason: str = ""
    refused: bool = False


class Reply(Protocol):
    """Where the answer to one request goes: an HTTP/1.1 connection or one stream of an HTTP/2 one.

    A handler calls `start`, any number of `write` and then `finish`; or `cut` at any moment. When
    the client goes away, the task that runs the handler is cancelled.
    """

    async def start(
        self, status: int, headers: CIMultiDict[str], *, reason: str = "", length: int | None = None
    ) -> None:
        """Send the head. No header is added that is not given, but for the framing.

        Args:
            status: The HTTP status.
            headers: End-to-end headers.
            reason: The reason phrase of HTTP/1.1; empty for the standard one.
            length: The length of the body, when it is known.
        """

    async def write(self, data: bytes) -> None:
        """Send a piece of the body, and wait while the client is slower than we are."""

    async def finish(self) -> None:
        """End the body."""

    def cut(self, *, reset: bool) -> None:
        """End the connection without another byte, so that the answer does not look complete.

        Args:
            reset: True resets the whole TCP connection (RST). False closes it; over HTTP/2 it
                resets this one stream and leaves its neighbours alone.
        """


Handler = Callable[[Incoming, Reply], Awaitable[None]]
"""What a server calls for each request; one that returns without an answer has cut it."""


async def send(answer: Answer, reply: Reply) -> None:
    """Send a whole answer."""
    length = len(answer.body)
    await reply.start(answer.status, answer.headers, reason=answer.reason, length=length)
    if answer.body:
        await reply.write(answer.body)
    await reply.finish()
