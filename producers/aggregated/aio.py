"""The asyncio front of the producer: the same core, and a loop that never waits for it.

::

    async with AsyncAggregatingProducer(AggregatingProducer(client, "orders")) as producer:
        result = await producer.put("thing-1", b"...")
"""

import asyncio
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any, Final, NamedTuple, Self, TypeVar

from producers.aggregated.producer import AggregatingProducer
from producers.aggregated.values import PutResult
from producers.errors import BufferFullError

T = TypeVar("T")

# How many futures end, or records are taken, before the loop has its turn: about a millisecond.
_AT_ONCE: Final = 500


class AsyncAggregatingProducer:
    """Puts records from an event loop through an `AggregatingProducer`.

    It wraps a producer, and so adds no setting; threads may go on using that producer beside it.
    Make it in the loop that uses it. As a context manager it closes the producer; a producer that
    lives for many loops, such as one `asyncio.run` for each call of a Lambda function, is wrapped
    anew in each loop and closed by whoever made it.

    A record costs half as much CPU time again as `AggregatingProducer.put` alone, by `submit` or by
    `put` in tasks that put many records; with a task for each record it costs three times as much.

    Room is given in the order of asking: records of a key that were put one after the other are
    taken in that order, even if all of them had to wait.

    Args:
        producer: The producer to put through.

    Raises:
        RuntimeError: no event loop is running.
    """

    def __init__(self, producer: AggregatingProducer) -> None:
        self._producer = producer
        self._loop = asyncio.get_running_loop()
        # By the future that tells it was taken. Those that gave up waiting leave it at once.
        self._waiting: OrderedDict[asyncio.Future[asyncio.Future[PutResult]], _Asked] = (
            OrderedDict()
        )
        self._room_is_asked_for = False
        self._answers: dict[Future[Any], asyncio.Future[Any]] = {}
        # From the producer's threads to the loop; one wake-up serves all that lies here.
        self._ended: deque[Future[Any]] = deque()
        self._woken = False
        self._callback = self._hand_over  # One for all, since there may be many.

    async def put(
        self,
        partition_key: str,
        data: bytes,
        *,
        explicit_hash_key: int | None = None,
        record_id: str | None = None,
    ) -> PutResult:
        """Put a record and wait until it is confirmed; while the buffer is full it waits for room.

        One of more than 1 MiB waits, too, and those behind it, until it is known whether the stream
        takes it.

        Cancelled before the record was taken, such as by `asyncio.timeout`, nothing was put;
        cancelled later, the record is delivered all the same, or goes to the dead-letter callback.

        Args:
            partition_key: 1 to 256 characters.
            data: The payload, before the record ID is added.
            explicit_hash_key: Chooses the shard instead of the key, 0 to 2**128 - 1.
            record_id: The ID to carry; minted if None and the payload has none.

        Raises:
            DeliveryError: the record was taken and given up.
            ProducerClosedError: the producer is closed; the record was not taken.
            RecordError: Kinesis would refuse the record (`records.errors`).
            EnvelopeError: the payload carries another record ID, or one of a wrong form.
            RuntimeError: this is not the loop it was made in.
        """
        answer = await self.submit(
            partition_key, data, explicit_hash_key=explicit_hash_key, record_id=record_id
        )
        return await answer

    async def submit(
        self,
        partition_key: str,
        data: bytes,
        *,
        explicit_hash_key: int | None = None,
        record_id: str | None = None,
    ) -> "asyncio.Future[PutResult]":
        """Put a record, and return as soon as it was taken; the arguments are those of `put`.

        Returns:
            A future that gives a `PutResult` or raises `DeliveryError`. Cancelling it does not
            take the record back. asyncio logs the error of a future that nobody looked at.

        Raises:
            ProducerClosedError: the producer is closed; the record was not taken.
            RecordError: Kinesis would refuse the record (`records.errors`).
            EnvelopeError: the payload carries another record ID, or one of a wrong form.
            RuntimeError: this is not the loop it was made in.
        """
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError("this AsyncAggregatingProducer was made in another event loop")
        asked = _Asked(partition_key, data, explicit_hash_key, record_id)
        size = 0
        if not self._waiting:
            try:
                return self._take(asked)
            except BufferFullError as full:
                size = full.size
        taken: asyncio.Future[asyncio.Future[PutResult]] = self._loop.create_future()
        self._waiting[taken] = asked
        if len(self._waiting) == 1:
            self._ask_for_room(size)
        try:
            return await taken
        except asyncio.CancelledError:
            first = next(iter(self._waiting), None) is taken
            self._waiting.pop(taken, None)
            if first:
                self._take_waiting()  # The next may need less room.
            if taken.done() and not taken.cancelled() and taken.exception() is None:
                taken.result().cancel()  # It was just taken, and nobody will look at its answer.
            raise

    async def flush(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109 - as in threads
        """Send what was taken so far without lingering, and wait until all of it is settled.

        Then the futures of these records are done, too. What waits for room was not taken yet.

        Args:
            timeout: Seconds to wait; None: until all is settled.

        Returns:
            False if something is still unsettled after `timeout` seconds; it stays in the buffer.

        Raises:
            ProducerClosedError: this is a forked child.
        """
        return await self._in_thread(partial(self._producer.flush, timeout))

    async def close(self, deadline: float = 30.0) -> None:
        """Close the producer: take nothing more, deliver what there is, and give up the rest.

        Those that wait for room get `ProducerClosedError`. Cancelled, it goes on without you.

        Args:
            deadline: Seconds after which the rest is given up.
        """
        await self._in_thread(partial(self._producer.close, deadline))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    # Into the producer.

    def _take(self, asked: "_Asked") -> "asyncio.Future[PutResult]":
        future = self._producer.put(
            asked.partition_key,
            asked.data,
            explicit_hash_key=asked.explicit_hash_key,
            record_id=asked.record_id,
            timeout=0,
        )
        answer = self._answers[future] = self._loop.create_future()
        future.add_done_callback(self._callback)
        return answer

    def _ask_for_room(self, size: int) -> None:
        if not self._room_is_asked_for:
            self._room_is_asked_for = True
            self._producer.call_when_room(partial(self._wake, self._room_is_made), size)

    def _room_is_made(self) -> None:
        self._room_is_asked_for = False
        self._take_waiting()

    def _take_waiting(self) -> None:
        """Take what waits, in the order of asking, as far as there is room."""
        for _ in range(_AT_ONCE):
            if not self._waiting:
                return
            taken, asked = next(iter(self._waiting.items()))
            try:
                if not taken.done():  # Cancelled, and its task has had no turn yet.
                    taken.set_result(self._take(asked))
            except BufferFullError as full:
                self._ask_for_room(full.size)
                return
            except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to who asked
                taken.set_exception(error)
            del self._waiting[taken]
        self._loop.call_soon(self._take_waiting)

    # Out of the producer.

    def _hand_over(self, ended: "Future[Any]") -> None:
        """Leave an outcome for the loop; called in any thread."""
        self._ended.append(ended)
        if not self._woken:
            self._woken = True
            self._wake(self._settle)

    def _settle(self) -> None:
        self._woken = False  # Before looking: what comes from now on wakes the loop again.
        for _ in range(min(len(self._ended), _AT_ONCE)):
            ended = self._ended.popleft()
            answer = self._answers.pop(ended)
            if answer.done():
                continue  # Its task was cancelled.
            error = ended.exception()
            if error is None:
                answer.set_result(ended.result())
            else:
                answer.set_exception(error)
        if self._ended:
            self._loop.call_soon(self._settle)

    def _wake(self, callback: Callable[[], None]) -> None:
        # A loop that was closed early has nobody left who waits.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(callback)

    async def _in_thread(self, call: Callable[[], T]) -> T:
        # Not in the loop's executor: asyncio.run() would wait for a call that was cancelled.
        # Its end comes back behind the answers that were there before it.
        ended: Future[T] = Future()
        answer: asyncio.Future[T] = self._loop.create_future()
        self._answers[ended] = answer

        def run() -> None:
            try:
                ended.set_result(call())
            except BaseException as error:  # noqa: BLE001 - it is raised where it is awaited
                ended.set_exception(error)
            self._hand_over(ended)

        threading.Thread(target=run, name="await-producer", daemon=True).start()
        return await answer


class _Asked(NamedTuple):
    partition_key: str
    data: bytes
    explicit_hash_key: int | None
    record_id: str | None
