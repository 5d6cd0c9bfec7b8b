"""The futures of what was taken, and how they end."""

import logging
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from operator import attrgetter
from typing import Final, NamedTuple, TypeAlias, cast

from producers.aggregated.future import PutFuture, confirm_unwatched
from producers.aggregated.values import Confirmed, Item, Settled
from producers.errors import DeliveryError
from records.dead_letter import DeadLetter

log = logging.getLogger(__name__)


class Rest(NamedTuple):
    """What is left of a pack to be ended, from a place on."""

    confirmed: Confirmed
    place: int


# What is to be ended. A thread that ends it takes out piece by piece, so that another can take over
# what is left.
Batch: TypeAlias = deque[Settled | Rest]

# While callbacks are slow, those who wait are told so often.
_TELL_SECONDS: Final = 1e-3

_size = attrgetter("size")


class Endings:
    """Ends futures, and knows which are pending.

    Args:
        lock: The producer's lock.
        settled: Returns what is settled and was not returned yet; called with the lock.
        in_order: Whether only one thread at a time ends futures, in the order of the ends.
        ended: Called without the lock, again and again, when futures have ended.
        is_awaited: Whether somebody waits for that call.
        stream: The stream's name, for dead letters.
        on_dead_letter: Called with each record that is given up, before its future raises.
        clock: Seconds that never go back.
        wall_clock: Seconds since 1970.

    Attributes:
        pending: Futures that have not ended, or whose callbacks have not all returned.
        records: How many have ended since the start, callbacks apart.
        bytes: The data and keys of their records.
    """

    def __init__(
        self,
        lock: threading.Lock,
        settled: Callable[[], list[Settled]],
        *,
        in_order: bool,
        ended: Callable[[], None],
        is_awaited: Callable[[], bool],
        stream: str,
        on_dead_letter: Callable[[DeadLetter], None] | None,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
    ) -> None:
        self.pending: set[PutFuture] = set()
        self.records = self.bytes = 0
        self._lock = lock
        self._settled = settled
        self._in_order = in_order
        self._on_ended, self._is_awaited = ended, is_awaited
        self._stream = stream
        self._on_dead_letter = on_dead_letter
        self._clock, self._wall_clock = clock, wall_clock
        self._ended = threading.Condition(lock)
        # Apart from that of the producer, which whoever puts holds most of the time.
        self._counting = threading.Lock()
        self._left: Batch = deque()
        self._at_work: dict[int, Batch] = {}
        self._closing: set[int] = set()
        self._called = 0  # For those who look whether it gets on.

    def take(self) -> Batch | None:
        """Return what the caller is to `end` now, if there is something; with the lock."""
        if self._in_order and self._at_work:
            return None  # Whoever is at it comes back for more.
        self._left += self._settled()  # At one stroke, or what Ctrl-C strikes is lost.
        return self._begun() if self._left else None

    def end(self, batch: Batch) -> None:
        """End what `take` gave; without the lock, since callbacks may call us.

        Raises:
            BaseException: the first that a callback raised and that is no `Exception`; after all
                have been called.
        """
        raised: list[BaseException] = []
        done: list[Item] = []
        tell_at = self._clock() + _TELL_SECONDS
        try:
            while batch:
                self._end_next(batch, done, raised)
                if batch and (now := self._clock()) >= tell_at:
                    self._tell_of(done, raised)
                    done, tell_at = [], now + _TELL_SECONDS
        finally:
            self._tell_of(done, raised, finished=batch)
        if raised:
            raise raised[0]

    def end_all(self, patience: float) -> None:
        """End all that is settled; without the lock.

        What another thread ends is awaited, but taken over once it has ended nothing for `patience`
        seconds; a callback that does not even return then stays behind, and its future `pending`.

        Raises:
            BaseException: as `end`.
        """
        raised: list[BaseException] = []
        self._closing.add(threading.get_ident())
        try:
            while (batch := self._take_patiently(patience)) is not None:
                try:
                    self.end(batch)
                except Exception:
                    raise
                except BaseException as error:  # noqa: BLE001 - raised again when all is ended
                    raised.append(error)
        finally:
            self._closing.discard(threading.get_ident())
        if raised:
            raise raised[0]

    def is_closing_thread(self) -> bool:
        """Whether the caller is called by `end_all`."""
        return threading.get_ident() in self._closing

    def wait(self, futures: set[PutFuture], timeout: float | None) -> bool:
        """Wait until none of these is pending any more; with the lock."""
        most = None if timeout is None else min(timeout, threading.TIMEOUT_MAX)
        return self._ended.wait_for(lambda: futures.isdisjoint(self.pending), most)

    def _begun(self) -> Batch:
        batch = self._at_work[id(self._left)] = self._left
        self._left = deque()
        return batch

    def _take_patiently(self, patience: float) -> Batch | None:
        with self._lock:
            while (batch := self.take()) is None and self._at_work:
                done = (self.records, self._called)

                def gets_on(before: tuple[int, int] = done) -> bool:
                    return (self.records, self._called) != before or not self._at_work

                if not self._ended.wait_for(gets_on, patience):
                    return self._take_over()
            return batch

    def _take_over(self) -> Batch | None:
        # It comes before what is left. Amid Ctrl-C something may be there twice: that is harmless.
        for other in reversed(self._at_work.values()):
            with suppress(IndexError):  # Its thread has gone on after all.
                while True:
                    self._left.appendleft(other[-1])
                    other.pop()
        self._left += self._settled()
        return self._begun() if self._left else None

    def _end_next(self, batch: Batch, done: list[Item], raised: list[BaseException]) -> None:
        try:
            next_one = batch.popleft()
        except IndexError:
            return  # Another thread has taken over.
        try:
            if isinstance(next_one, Confirmed):
                self._confirm(next_one, 0, batch, done, raised)
            elif isinstance(next_one, Rest):
                self._confirm(*next_one, batch, done, raised)
            else:
                item, error = next_one
                future = cast("PutFuture", item)
                if self._on_dead_letter is not None:
                    self._call(raised, self._dead_letter, error)
                self._count([item])
                done.append(item)
                self._end_one(raised, future, future.set_exception, error)
        except BaseException:
            batch.appendleft(next_one)  # Ctrl-C amid these lines; twice harms nothing.
            raise

    def _confirm(
        self,
        confirmed: Confirmed,
        place: int,
        batch: Batch,
        done: list[Item],
        raised: list[BaseException],
    ) -> None:
        """End futures from a place on, up to the next that has callbacks or is waited for."""
        items = confirmed.items
        stop = confirm_unwatched(confirmed, place)
        ended = items[place : stop + 1]
        self._count(ended)
        done += ended
        if stop == len(items):
            return
        if stop + 1 < len(items):
            batch.appendleft(Rest(confirmed, stop + 1))
        future = cast("PutFuture", items[stop])
        delivery = confirmed.delivery_of(future)
        self._end_one(raised, future, future.confirm, delivery, stop)

    def _end_one(
        self,
        raised: list[BaseException],
        future: PutFuture,
        end: Callable[..., None],
        *result: object,
    ) -> None:
        if not future.done():
            if self._is_awaited():
                self._call(raised, self._on_ended)  # The callbacks may take long.
            self._call(raised, end, *result)
            if not future.done():  # Ctrl-C came first.
                self._call(raised, end, *result)

    def _count(self, items: list[Item]) -> None:
        size = items[0].size if len(items) == 1 else sum(map(_size, items))
        with self._counting:
            self.records += len(items)
            self.bytes += size

    def _tell_of(
        self, done: list[Item], raised: list[BaseException], finished: Batch | None = None
    ) -> None:
        with self._lock:
            self.pending.difference_update(done)
            if finished is not None:
                self._left += finished  # Something, if Ctrl-C has broken off.
                del self._at_work[id(finished)]
            self._ended.notify_all()
        self._call(raised, self._on_ended)

    def _call(
        self, raised: list[BaseException], call: Callable[..., None], *arguments: object
    ) -> None:
        """Call what calls callbacks: whatever they raise, the others are to be called, too."""
        self._called += 1
        try:
            call(*arguments)
        except Exception:
            log.exception("a callback of the producer of %s failed", self._stream)
        except BaseException as error:  # noqa: BLE001 - raised again when all are called
            raised.append(error)

    def _dead_letter(self, error: DeliveryError) -> None:
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
        if self._on_dead_letter is not None:
            self._on_dead_letter(letter)
