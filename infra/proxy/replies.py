"""Replies that do not arrive as they were sent: late, lost, or kept for another time."""

import asyncio
from collections.abc import Callable

from multidict import CIMultiDict

from infra.proxy.exchange import Answer, Reply


class Nowhere(Reply):
    """A reply that nobody receives: for a request that is sent once more than it was asked.

    Attributes:
        carried_out: Whether the answer was a success.
    """

    def __init__(self) -> None:
        self.carried_out = False

    async def start(
        self,
        status: int,
        headers: CIMultiDict[str],  # noqa: ARG002 - the interface's
        *,
        reason: str = "",  # noqa: ARG002
        length: int | None = None,  # noqa: ARG002
    ) -> None:
        """Take the head."""
        self.carried_out = 200 <= status < 300

    async def write(self, data: bytes) -> None:
        """Take a piece."""

    async def finish(self) -> None:
        """Take the end."""

    def cut(self, *, reset: bool) -> None:
        """Take that as well."""


class Passing:
    """A reply that passes everything on; the others here differ from it where they say so."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply

    async def start(
        self, status: int, headers: CIMultiDict[str], *, reason: str = "", length: int | None = None
    ) -> None:
        """Pass the head on."""
        await self._reply.start(status, headers, reason=reason, length=length)

    async def write(self, data: bytes) -> None:
        """Pass a piece on."""
        await self._reply.write(data)

    async def finish(self) -> None:
        """Pass the end on."""
        await self._reply.finish()

    def cut(self, *, reset: bool) -> None:
        """Cut the connection."""
        self._reply.cut(reset=reset)


class Late(Passing):
    """Holds the answer back; the request has been carried out by then.

    Args:
        reply: Where the answer goes.
        seconds: For how long.
        happened: Called when it has been held back.
    """

    def __init__(self, reply: Reply, seconds: float, happened: Callable[[], None]) -> None:
        super().__init__(reply)
        self._seconds = seconds
        self._happened = happened

    async def start(
        self, status: int, headers: CIMultiDict[str], *, reason: str = "", length: int | None = None
    ) -> None:
        """Wait, then pass the head on."""
        await asyncio.sleep(self._seconds)
        self._happened()
        await super().start(status, headers, reason=reason, length=length)


class Lost(Passing):
    """Takes a success in to its end, and cuts the connection in its place.

    An error is passed on: what failed was not carried out, and there is nothing to lose.

    Args:
        reply: The connection that is cut.
        reset: Whether it is reset (RST), or closed.
        at_start: Whether to cut as soon as there is a success, for an answer that does not end.
        due: Asked when there is a success: whether there is still something to lose.
        happened: Called when an answer has been lost.
    """

    def __init__(
        self,
        reply: Reply,
        *,
        reset: bool,
        at_start: bool,
        due: Callable[[], bool],
        happened: Callable[[], None],
    ) -> None:
        super().__init__(reply)
        self._reset = reset
        self._at_start = at_start
        self._due = due
        self._happened = happened
        self._losing = False

    async def start(
        self, status: int, headers: CIMultiDict[str], *, reason: str = "", length: int | None = None
    ) -> None:
        """Pass the head of an error on, and keep that of a success."""
        self._losing = 200 <= status < 300 and self._due()
        if not self._losing:
            await super().start(status, headers, reason=reason, length=length)
        elif self._at_start:
            self._lose()
            raise ConnectionResetError("the answer was lost on purpose")

    async def write(self, data: bytes) -> None:
        """Pass a piece of an error on."""
        if not self._losing:
            await super().write(data)

    async def finish(self) -> None:
        """Cut the connection now that the answer is known whole."""
        if self._losing:
            self._lose()
        else:
            await super().finish()

    def _lose(self) -> None:
        self._happened()
        self.cut(reset=self._reset)


class Kept(Passing):
    """Passes everything on and keeps a copy of a whole success.

    Args:
        reply: Where the answer goes.
        keep: Called with the answer when its end has been passed on.
    """

    def __init__(self, reply: Reply, keep: Callable[[Answer], None]) -> None:
        super().__init__(reply)
        self._keep = keep
        self._pieces: list[bytes] = []
        self._head: tuple[int, CIMultiDict[str], str] | None = None

    async def start(
        self, status: int, headers: CIMultiDict[str], *, reason: str = "", length: int | None = None
    ) -> None:
        """Pass the head on."""
        if 200 <= status < 300:
            self._head = (status, headers, reason)
        await super().start(status, headers, reason=reason, length=length)

    async def write(self, data: bytes) -> None:
        """Pass a piece on."""
        if self._head is not None:
            self._pieces.append(data)
        await super().write(data)

    async def finish(self) -> None:
        """Pass the end on."""
        await super().finish()
        if self._head is not None:
            status, headers, reason = self._head
            self._keep(Answer(status, headers, b"".join(self._pieces), reason))
