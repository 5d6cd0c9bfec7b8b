"""The futures of what was taken, and how they end."""

import logging
import threading
from collections.abc import Callable

from producers.aggregated.future import PutFuture
from producers.aggregated.values import Settled
from producers.errors import DeliveryError
from records.dead_letter import DeadLetter

log = logging.getLogger(__name__)


class Endings:
    """Ends futures, and knows which are pending.

    Args:
        lock: The producer's lock.
        stream: The stream's name, for dead letters.
        on_dead_letter: Called with each record that is given up, before its future raises.
        wall_clock: Seconds since 1970.
    """

    def __init__(
        self,
        lock: threading.Lock,
        *,
        stream: str,
        on_dead_letter: Callable[[DeadLetter], None] | None,
        wall_clock: Callable[[], float],
    ) -> None:
        self.pending: set[PutFuture] = set()
        self._lock = lock
        self._ended = threading.Condition(lock)
        self._stream = stream
        self._on_dead_letter = on_dead_letter
        self._wall_clock = wall_clock

    def end(self, settled: list[Settled]) -> None:
        """End the futures of what is settled, outside the lock: their callbacks may call us."""
        for item, result in settled:
            try:
                if isinstance(result, DeliveryError):
                    self._dead_letter(result)
                    item.ticket.set_exception(result)
                else:
                    item.ticket.confirm(result)
            except SystemExit:
                # Of a callback: it would end this thread, and the others would wait for ever.
                log.error("a callback of the producer of %s tried to exit", self._stream)  # noqa: TRY400
        with self._lock:
            self.pending.difference_update([item.ticket for item, _ in settled])
            self._ended.notify_all()

    def wait(self, futures: set[PutFuture], timeout: float | None) -> bool:
        """Wait until none of these is pending any more; with the lock."""
        return self._ended.wait_for(lambda: futures.isdisjoint(self.pending), timeout)

    def _dead_letter(self, error: DeliveryError) -> None:
        if self._on_dead_letter is None:
            return
        letter = DeadLetter(
            self._stream,
            error.record.partition_key,
            error.record.data,
            error.record.explicit_hash_key,
            error.error_code,
            error.error_message,
            len(error.attempts),
            failed_at=self._wall_clock(),
        )
        try:
            self._on_dead_letter(letter)
        except (Exception, SystemExit):
            log.exception("the dead-letter callback failed; the record's future still tells of it")
