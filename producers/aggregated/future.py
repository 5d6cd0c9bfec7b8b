"""The future of a record: one of `concurrent.futures`, and light, for there is one for each."""

import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final

from producers.aggregated.values import Confirmed, Delivery, Item, PutResult

_PENDING: Final = "PENDING"
_FINISHED: Final = "FINISHED"
# Of all futures, held for an instant only: while one gets a condition, or ends that has none. A
# signal handler may look at a future amid that, so that the same thread may hold it twice.
_lock = threading.RLock()
log = logging.getLogger("concurrent.futures")  # The base class's own.


def _renew_lock() -> None:
    """In a forked child: the thread that held it is not here."""
    global _lock  # noqa: PLW0603
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_renew_lock)


class _MadeWhenNeeded:
    """Makes the condition of a future, and its lists, for the first who waits for it."""

    def __get__(self, future: "PutFuture", _owner: type) -> threading.Condition:
        made = threading.Condition()
        with _lock:
            if future._is_waited_for:  # noqa: SLF001 - of our own class
                made = future.__dict__["_condition"]
            else:
                future._waiters = []  # noqa: SLF001
                future._done_callbacks = [*future._done_callbacks]  # noqa: SLF001
                future.__dict__["_condition"] = made
                future._is_waited_for = True  # noqa: SLF001
            return made


class PutFuture(Item, Future[PutResult]):
    """Gives the record's `PutResult`, or raises its `DeliveryError`. It cannot be cancelled.

    It is the record on its way, too: the garbage collector looks at every object in the buffer, and
    with two for each record that took a sixth of all time. Once confirmed it lets go of the data.

    A `Future` makes a condition with a lock, and two lists, as soon as it is made. That takes more
    time and memory than all else that a producer does for a small record, and few futures are ever
    waited for by themselves. This one begins as an item does, and makes them for the first who
    waits; the rest is the base's.
    """

    _state: str = _PENDING
    _exception: Any = None
    _waiters: Any = ()
    _done_callbacks: Any = ()
    _condition: Any = _MadeWhenNeeded()
    # Rather than a look into `__dict__`, which would make one.
    _is_waited_for = False

    _delivery: Delivery
    _place: int

    @property
    def _result(self) -> PutResult:  # Made when somebody looks at it, which few do.
        return self._delivery.result(self._place, self.identity)

    @_result.setter
    def _result(self, result: PutResult) -> None:
        self._delivery = Delivery(result.shard_id, result.sequence_number, result.attempts)
        self._place, self.identity = result.sub_sequence_number, result.identity

    def cancel(self) -> bool:
        """Return False: a record that was taken is sent."""
        return False

    def done(self) -> bool:
        """Whether the record is settled."""
        return self._state == _FINISHED

    def result(self, timeout: float | None = None) -> PutResult:
        """Return where the record is; see `concurrent.futures.Future.result`.

        Raises:
            DeliveryError: it was given up.
            TimeoutError: it is not settled within `timeout` seconds.
        """
        if self._state == _FINISHED and self._exception is None:
            return self._result
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return why the record was given up, or None; see `concurrent.futures.Future.exception`.

        Raises:
            TimeoutError: it is not settled within `timeout` seconds.
        """
        if self._state != _FINISHED:
            return super().exception(timeout)
        error: BaseException | None = self._exception
        return error

    def confirm(self, delivery: Delivery, place: int) -> None:
        """End it; whoever waits or asked to be called is told.

        Args:
            delivery: Where its pack is.
            place: Its place in there.
        """
        self._delivery, self._place = delivery, place
        self.data, self.partition_key = b"", ""
        with _lock:
            light = not self._is_waited_for
            if light:
                self._state = _FINISHED
        if not light:
            self.set_result(self._result)
        elif self._done_callbacks:
            self._invoke_callbacks()

    def add_done_callback(self, fn: Callable[[Future[PutResult]], object]) -> None:
        """Have `fn` called with this future when it ends, or now if it has ended."""
        with _lock:
            if self._state != _FINISHED and not self._is_waited_for:
                self._done_callbacks = (*self._done_callbacks, fn)
                return
        super().add_done_callback(fn)

    def _invoke_callbacks(self) -> None:  # The base's would call none after `SystemExit`.
        raised: BaseException | None = None
        for callback in self._done_callbacks:
            try:
                callback(self)
            except Exception:
                log.exception("exception calling callback for %r", self)
            except BaseException as error:  # noqa: BLE001 - raised again when all are called
                raised = raised or error
        if raised is not None:
            raise raised


def confirm_unwatched(confirmed: Confirmed, first: int) -> int:
    """End futures of a pack from a place on, up to one that somebody waits for or is to be told of.

    Returns:
        The place of that one; the number of records if there is none.
    """
    futures, delivery = confirmed
    with _lock:
        for place in range(first, len(futures)):
            future: Any = futures[place]
            if future._is_waited_for or future._done_callbacks or future.history:  # noqa: SLF001
                return place
            future.data, future.partition_key = b"", ""
            future._delivery, future._place = delivery, place  # noqa: SLF001
            future._state = _FINISHED  # noqa: SLF001
    return len(futures)
