"""The largest record that a stream takes: it is asked only when somebody must know."""

import threading
from collections.abc import Callable

from producers.aggregated.crew import Crew
from producers.aggregated.machine import Machine
from producers.aggregated.room import Room
from producers.errors import BufferFullError
from records.limits import MAX_RECORD_BYTES


class Maximum:
    """Waits until it is known how large a record may be.

    Args:
        machine: Who knows it, once the stream has said it.
        crew: Whose threads ask.
        room: Where those wait who put.
        lock: The producer's lock.
        max_record_age: Seconds that nobody waits longer than; None: until it is known.
        clock: Seconds that never go back.
    """

    def __init__(
        self,
        machine: Machine,
        crew: Crew,
        room: Room,
        *,
        lock: threading.Lock,
        max_record_age: float | None,
        clock: Callable[[], float],
    ) -> None:
        self._machine, self._crew, self._room = machine, crew, room
        self._lock = lock
        self._max_record_age = max_record_age
        self._clock = clock

    def is_known(self) -> bool:
        """Whether it need not be waited for; with the lock."""
        return self._machine.max_record_bytes is not None

    def for_record(self, size: int, until: float | None) -> int:
        """Return the most that a record of the stream may count, in bytes; without the lock.

        Args:
            size: What the record counts that it is asked for.
            until: When to stop waiting, by the clock.

        Raises:
            BufferFullError: it was not known until then.
            ProducerClosedError: the producer is closed.
        """
        with self._lock:
            if not self.is_known():
                self._machine.want_maximum()
                self._crew.wake()
                if not self._room.wait_for(self.is_known, self._sooner(until)):
                    told = "it is not known yet whether the stream takes such a large record"
                    if last := self._crew.not_listed:
                        told += f"; last error: {last.code}: {last.message}"
                    raise BufferFullError(told, size=size)
            return self._machine.max_record_bytes or MAX_RECORD_BYTES

    def _sooner(self, until: float | None) -> float | None:
        if self._max_record_age is None:
            return until
        expires_at = self._clock() + self._max_record_age
        return expires_at if until is None else min(until, expires_at)
