"""The futures of what was taken, and how they end."""

import logging
import threading
from collections.abc import Callable
from operator import attrgetter

from producers.aggregated.future import PutFuture, confirm_unwatched
from producers.aggregated.values import Confirmed, Settled
from producers.errors import DeliveryError
from records.dead_letter import DeadLetter

log = logging.getLogger(__name__)

_ticket = attrgetter("ticket")


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
        for each in settled:
            if isinstance(each, Confirmed):
                self._confirm(each)
            else:
                self._dead_letter(each.error)
                self._end_one(each.item.ticket.set_exception, each.error)
        with self._lock:
            for each in settled:
                items = each.items if isinstance(each, Confirmed) else (each.item,)
                self.pending.difference_update(map(_ticket, items))
            self._ended.notify_all()

    def wait(self, futures: set[PutFuture], timeout: float | None) -> bool:
        """Wait until none of these is pending any more; with the lock."""
        return self._ended.wait_for(lambda: futures.isdisjoint(self.pending), timeout)

    def _confirm(self, confirmed: Confirmed) -> None:
        items = confirmed.items
        place = 0
        while (place := confirm_unwatched(confirmed, place)) < len(items):
            item = items[place]
            delivery = confirmed.delivery_of(item)
            self._end_one(item.ticket.confirm, delivery, place, item.identity)
            place += 1

    def _end_one(self, end: Callable[..., None], *result: object) -> None:
        try:
            end(*result)
        except SystemExit:
            # Of a callback: it would end this thread, and the others would wait for ever.
            log.error("a callback of the producer of %s tried to exit", self._stream)  # noqa: TRY400

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
