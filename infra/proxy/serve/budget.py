"""How many bytes of request bodies the servers hold in memory at once."""

import asyncio
from collections import deque
from typing import Final

MAX_BODY_BYTES: Final = 32 * 1024 * 1024
"""The largest request body: PutRecords' 10 MiB in base64 with the keys, and room.

https://docs.aws.amazon.com/kinesis/latest/APIReference/API_PutRecords.html
"""


class BodyBudget:
    """Memory for request bodies: who asks first is served first, and waits while there is none.

    Args:
        total_bytes: What all bodies together may take, at least `MAX_BODY_BYTES`.

    Raises:
        ValueError: The largest body would wait for ever.
    """

    def __init__(self, *, total_bytes: int = 256 * 1024 * 1024) -> None:
        if total_bytes < MAX_BODY_BYTES:
            raise ValueError(f"a budget has at least {MAX_BODY_BYTES} bytes, not {total_bytes}")
        self._free = total_bytes
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def free_bytes(self) -> int:
        """What is not reserved."""
        return self._free

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        return sum(not turn.done() for _, turn in self._waiting)

    async def reserve(self, size: int) -> None:
        """Wait until so many bytes are free, and take them.

        Args:
            size: At most `MAX_BODY_BYTES`.
        """
        # Nothing waits for nothing: a frozen proxy is thawed also when the frozen fill it all.
        if not size or (size <= self._free and not self._waiting):
            self._free -= size
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((size, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._serve_waiting()  # whoever stood behind may fit now
            else:
                self.release(size)  # it was given in the moment of the cancellation
            raise

    def release(self, size: int) -> None:
        """Give bytes back."""
        self._free += size
        self._serve_waiting()

    def _serve_waiting(self) -> None:
        while self._waiting:
            size, turn = self._waiting[0]
            if not turn.done():
                if size > self._free:
                    return
                self._free -= size
                turn.set_result(None)
            self._waiting.popleft()
