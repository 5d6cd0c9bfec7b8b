"""The bounds of the buffer, and those who wait for room in it."""

import logging
import threading
from collections.abc import Callable

from producers.aggregated.crew import Crew
from producers.aggregated.ledger import Ledger
from producers.errors import BufferFullError, ProducerClosedError

log = logging.getLogger(__name__)


class Room:
    """Room for records, in bytes and in records. A record larger than all of it goes in alone.

    Args:
        ledger: How much is buffered.
        crew: Whose threads make the room, and so cannot wait for it.
        lock: The producer's lock.
        max_bytes: Data and keys held at most.
        max_records: Records held at most.
        clock: Seconds that never go back.
    """

    def __init__(
        self,
        ledger: Ledger,
        crew: Crew,
        *,
        lock: threading.Lock,
        max_bytes: int,
        max_records: int,
        clock: Callable[[], float],
    ) -> None:
        self._ledger, self._crew = ledger, crew
        self._max_bytes, self._max_records = max_bytes, max_records
        self._clock = clock
        self._lock = lock
        self._made = threading.Condition(lock)
        self._calls: list[Callable[[], None]] = []

    def has(self, size: int) -> bool:
        """Whether a record of `size` bytes finds room in an open producer; with the lock."""
        ledger = self._ledger
        fits = ledger.records < self._max_records and ledger.bytes + size <= self._max_bytes
        return (fits or not ledger.records) and not self._crew.stopping

    def wait(self, size: int, until: float | None) -> None:
        """Wait until a record of `size` bytes has room; with the lock.

        Raises:
            BufferFullError: it had none until then.
            ProducerClosedError: the producer is closed.
        """
        if not self.wait_for(lambda: self.has(size), until):
            records, held = self._ledger.records, self._ledger.bytes
            told = f"no room: the buffer holds {records} records, {held} bytes"
            raise BufferFullError(told, size=size)

    def wait_for(self, ready: Callable[[], bool], until: float | None) -> bool:
        """Wait for something else that an answer brings; with the lock.

        Raises:
            ProducerClosedError: the producer is closed.
        """
        # The producer's own threads make the room: waiting for it there would never end.
        own = self._crew.is_own_thread()
        timeout = 0 if own else None if until is None else max(0.0, until - self._clock())
        in_time = self._made.wait_for(lambda: self._crew.stopping or ready(), timeout)
        if self._crew.stopping:
            raise ProducerClosedError("the producer is closed")
        return in_time

    def call_when(self, ready: Callable[[], bool], callback: Callable[[], None]) -> None:
        """Call back once: now, if that is so or the producer is closed, else when it may be."""
        with self._lock:
            if not self._crew.stopping and not ready():
                self._calls.append(callback)
                return
        callback()

    def tell(self) -> None:
        """Tell all who wait that there may be room, or that the producer is closed."""
        with self._lock:
            self._made.notify_all()
            calls, self._calls = self._calls, []
        for callback in calls:
            try:
                callback()
            except Exception:
                log.exception("a callback that waited for room failed")
