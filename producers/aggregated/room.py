"""The bounds of the buffer, and those who wait for room in it."""

import logging
import threading
from collections.abc import Callable

from producers.aggregated.crew import Crew
from producers.aggregated.endings import Endings
from producers.aggregated.ledger import Ledger
from producers.errors import BufferFullError, ProducerClosedError

log = logging.getLogger(__name__)


class Room:
    """Room for records, in bytes and in records. A record larger than all of it goes in alone.

    A record takes its room until its future ends, so that slow callbacks slow down those who put.

    Args:
        ledger: How much was taken.
        endings: How much of that has ended.
        crew: Whose threads make the room, and so cannot wait for it.
        lock: The producer's lock.
        max_bytes: Data and keys held at most.
        max_records: Records held at most.
        clock: Seconds that never go back.
    """

    def __init__(
        self,
        ledger: Ledger,
        endings: Endings,
        crew: Crew,
        *,
        lock: threading.Lock,
        max_bytes: int,
        max_records: int,
        clock: Callable[[], float],
    ) -> None:
        self._ledger, self._endings, self._crew = ledger, endings, crew
        self._max_bytes, self._max_records = max_bytes, max_records
        self._clock = clock
        self._lock = lock
        self._made = threading.Condition(lock)
        self._calls: list[Callable[[], None]] = []
        self._waiting = 0

    def has(self, size: int) -> bool:
        """Whether a record of `size` bytes finds room in an open producer; with the lock."""
        ledger, endings = self._ledger, self._endings
        records = ledger.received - endings.records
        held = ledger.received_bytes - endings.bytes
        fits = records < self._max_records and held + size <= self._max_bytes
        return (fits or not records) and not self._crew.stopping

    @property
    def is_awaited(self) -> bool:
        """Whether somebody waits to be told; without the lock."""
        return self._waiting > 0 or bool(self._calls)

    def wait(self, size: int, until: float | None) -> None:
        """Wait until a record of `size` bytes has room; with the lock.

        Raises:
            BufferFullError: it had none until then.
            ProducerClosedError: the producer is closed.
        """
        if not self.wait_for(lambda: self.has(size), until):
            records = self._ledger.received - self._endings.records
            held = self._ledger.received_bytes - self._endings.bytes
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
        if timeout is not None:
            timeout = min(timeout, threading.TIMEOUT_MAX)
        self._waiting += 1
        try:
            in_time = self._made.wait_for(lambda: self._crew.stopping or ready(), timeout)
        finally:
            self._waiting -= 1
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
        """Tell all who wait that there may be room, or that the producer is closed.

        Raises:
            BaseException: the first that a callback raised and that is no `Exception`; after all
                have been called.
        """
        with self._lock:
            self._made.notify_all()
            calls, self._calls = self._calls, []
        raised: BaseException | None = None
        for callback in calls:
            try:
                callback()
            except Exception:
                log.exception("a callback that waited for room failed")
            except BaseException as error:  # noqa: BLE001 - raised again when all are called
                raised = raised or error
        if raised is not None:
            raise raised
