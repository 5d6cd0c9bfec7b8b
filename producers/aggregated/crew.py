"""The threads that carry out what the machine decides: one waits for work, the others are away."""

import logging
import threading
from collections.abc import Callable
from math import inf
from typing import Final

from producers.aggregated.calls import Calls
from producers.aggregated.departure import PutRequest
from producers.aggregated.endings import Batch, Endings
from producers.aggregated.machine import ListRequest, Machine
from producers.aggregated.values import Sent
from producers.put_records import Failure

log = logging.getLogger(__name__)

# Waking without need once an hour costs nothing; the platform's longest wait is finite.
_LONGEST_WAIT_SECONDS: Final = 3_600.0


class Crew:
    """Threads around one machine.

    One of them leads: it waits for the next thing to do. When it goes off to do it, another takes
    the lead; there are only as many threads as were ever away at once, and one.

    Args:
        machine: What decides; to be used under `lock` only.
        calls: What the threads are away for.
        endings: What ends the futures of what is settled.
        lock: The lock of the owner, too.
        told: Called without the lock, when the shards were listed or could not be, and at a defect.
        tick: Called without the lock, every `tick_seconds`.
        name: What the threads are called.
        max_threads: How many there may be, the one that waits included.

    Attributes:
        threads: All that were started.
        stopping: Whether the threads end once nothing is buffered.
        failed: Whether one of them has come upon a defect.
        not_listed: Why the shards could not be listed, the last time; None if they were.
    """

    def __init__(
        self,
        machine: Machine,
        calls: Calls,
        endings: Endings,
        *,
        lock: threading.Lock,
        told: Callable[[], None],
        tick: Callable[[], None] | None,
        tick_seconds: float,
        name: str,
        max_threads: int,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
    ) -> None:
        self.threads: list[threading.Thread] = []
        self.stopping = False
        self.failed = False
        self.not_listed: Failure | None = None
        self._machine, self._calls, self._endings = machine, calls, endings
        self._lock = lock
        self._told = told
        self._tick = tick
        self._tick_seconds = tick_seconds
        self._tick_at = inf if tick is None else clock() + tick_seconds
        self._name, self._max_threads = name, max_threads
        self._clock, self._wall_clock = clock, wall_clock
        self._lead = threading.Condition(lock)
        self._spare = threading.Condition(lock)
        self._spares = 0
        # When the thread that leads wakes by itself; None: none of them leads.
        self._leader_wakes_at: float | None = None

    def wake(self) -> None:
        """Have the machine asked again; with the lock."""
        if self._leader_wakes_at is not None:
            self._lead.notify()
        elif not self.threads:
            self._start_one()

    def stop(self) -> None:
        """Have the threads end when nothing is buffered any more; with the lock."""
        self.stopping = True
        self._lead.notify_all()
        self._spare.notify_all()

    def is_own_thread(self) -> bool:
        """Whether the caller is called by this crew."""
        return threading.current_thread() in self.threads or self._endings.is_closing_thread()

    def _start_one(self) -> None:
        thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self.threads.append(thread)
        try:
            thread.start()
        except RuntimeError:
            # The interpreter ends, or the system has no more threads: those that there are go on.
            log.warning("%s could not start a thread", self._name)
        finally:
            if thread.ident is None:  # Not for Ctrl-C either.
                self.threads.remove(thread)

    def _run(self) -> None:
        try:
            while self._turn():
                pass
        except BaseException:
            # A defect of ours, or of the client: say so, but leave no caller waiting for ever.
            log.exception("%s stopped", self._name)
            self._give_up()

    def _give_up(self) -> None:
        with self._lock:
            self.failed = True
            self._machine.abandon("ProducerFailed", "the producer stopped; its log says why")
            batch = self._endings.take()
            self.stop()
        if batch is not None:
            self._call(self._endings.end, batch)
        self._call(self._told)

    def _call(self, call: Callable[..., None], *arguments: object) -> None:
        """Call what calls callbacks: this thread is needed, whatever they raise."""
        try:
            call(*arguments)
        except Exception:
            raise  # It is none of theirs, for those were logged.
        except BaseException:
            log.exception("%s: a callback tried to end the thread", self._name)

    def _turn(self) -> bool:
        """Wait for something to do, and do it; False when all is done."""
        with self._lock:
            task = self._next()
        if task is None:
            return False
        request, batch, ticks = task
        if batch is not None:
            self._call(self._endings.end, batch)
        if ticks and self._tick is not None:
            self._call(self._tick)
            with self._lock:
                self._tick_at = self._clock() + self._tick_seconds
        if isinstance(request, PutRequest):
            request.started_at, now = self._wall_clock(), self._clock()
            reply = self._calls.put(request.records)
            with self._lock:
                then = self._clock()
                sent = Sent(request.started_at, then - now)
                self._machine.put_answered(request, reply, now=then, sent=sent)
        elif isinstance(request, ListRequest):
            listed = self._calls.list()
            with self._lock:
                self.not_listed = listed if isinstance(listed, Failure) else None
                self._machine.shards_listed(listed, now=self._clock())
            self._call(self._told)
        return True

    def _next(self) -> tuple[PutRequest | ListRequest | None, Batch | None, bool] | None:
        while True:
            now = self._clock()
            ticks = now >= self._tick_at
            if ticks:
                self._tick_at = inf  # Until it has returned.
            # Nothing waits for a callback, neither of what was settled nor of the metrics.
            batch = None if ticks else self._endings.take()
            request = self._machine.step(now) if batch is None and not ticks else None
            if request is None and batch is None and not ticks:
                batch = self._endings.take()
            if request is not None or batch is not None or ticks:
                self._see_to_a_leader()
                return request, batch, ticks
            if self.stopping and not self._machine.ledger.records:
                self.stop()
                return None
            self._rest(now)

    def _see_to_a_leader(self) -> None:
        """Have another thread wait for work while this one is away."""
        if self._leader_wakes_at is not None or self.failed:
            return
        if self._spares:
            self._spare.notify()
        elif len(self.threads) < self._max_threads:
            self._start_one()

    def _rest(self, now: float) -> None:
        wake_at = self._machine.wake_at()
        wake_at = min(inf if wake_at is None else wake_at, self._tick_at)
        if self._leader_wakes_at is not None:
            if wake_at < self._leader_wakes_at:
                self._lead.notify()
            self._spares += 1
            try:
                self._spare.wait()
            finally:
                self._spares -= 1
            return
        self._leader_wakes_at = wake_at
        try:
            self._lead.wait(min(max(0.0, wake_at - now), _LONGEST_WAIT_SECONDS))
        finally:
            self._leader_wakes_at = None
