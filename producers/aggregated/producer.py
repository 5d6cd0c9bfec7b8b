"""The producer as an application sees it: puts come in, futures end."""

import logging
import random
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from producers.aggregated.calls import Calls
from producers.aggregated.crew import Crew
from producers.aggregated.endings import Endings
from producers.aggregated.exits import close_at_exit, forget
from producers.aggregated.intake import Intake
from producers.aggregated.machine import Machine
from producers.aggregated.many import Asked, outcome_of, put_each
from producers.aggregated.maximum import Maximum
from producers.aggregated.metrics import Metrics, MetricsSnapshot
from producers.aggregated.process import here
from producers.aggregated.room import Room
from producers.aggregated.values import PutResult, Settings
from producers.errors import DeliveryError, ProducerClosedError
from records.aggregation import MAX_USER_RECORDS
from records.dead_letter import DeadLetter
from records.limits import KPL_AGGREGATE_BYTES, MAX_LARGE_RECORD_BYTES, MAX_RECORD_BYTES, MIB

if TYPE_CHECKING:
    from types_boto3_kinesis import KinesisClient

log = logging.getLogger(__name__)

# How long close() waits, beyond its deadline, for a callback that does not return.
_PATIENCE_SECONDS: Final = 5.0


class AggregatingProducer:
    """Puts many small records cheaply, packed in KPL aggregates, and tells what became of each.

    Guaranteed: at least once for every record that `put` took, else its future raises
    `DeliveryError` and the dead-letter callback gets it; no future stays pending. A record is
    confirmed only where KCL hands it out, also across reshards. Duplicates are possible: an answer
    can be lost, or a reshard put a pack on the wrong shard; they carry the same record ID. A stream
    that was deleted and made anew while nothing was put looks like the old one: make a producer,
    too.

    Order: none by default, as with the KPL. With `ordered`, for one key (partition key and explicit
    hash key), consumers that keep each record ID once and follow the lineage of shards, as KCL
    does, see the records in the order of put: one Kinesis record of a shard is on the road at a
    time. A record that is given up takes those with it that are buffered behind it on its key; what
    is put later starts a new line. What no producer can prevent: a request that timed out may be
    carried out late, so that a record comes once more, after younger ones, or comes although it was
    given up. It carries the same record ID. Futures end in order, too, and dead letters come in it;
    so a callback must not wait for another record.

    Callbacks should be brief, for they hold up others; `flush`, `put` and `close` do not wait in
    them. What they raise is logged; what is no `Exception` leaves `close`, if that called them.

    Use it as a context manager. Safe to call from many threads. One producer serves one stream: the
    buffer's bounds, the limiter and the order belong to it. Its threads are daemons: at the
    interpreter's exit it is closed with a deadline of 5 s. A process that a signal kills closes
    nothing: SIGTERM needs a handler, such as `lambda *_: sys.exit()`. A forked child cannot use it
    and must make one of its own, with a client of its own.

    The client needs kinesis:PutRecords, kinesis:ListShards and
    kinesis:DescribeStreamSummary (without it, records are taken to be of 1 MiB at most), and must
    have SDK retries off; a warning names one that has not.

    Which producer when: docs/which-producer.md.

    Args:
        client: A Kinesis client, of boto3 or like it.
        stream: The stream's name or ARN.
        linger: Seconds that a record may wait for others to travel with.
        aggregation: Whether records travel together. Where the service spreads records as it likes
            (RecordDistributionStrategy AUTO), they never do: KCL would drop such aggregates.
        same_key: Whether only records of one key travel together; no reshard divides them.
        max_aggregate_bytes: The most one aggregate may count.
        max_aggregate_records: The most user records in one aggregate.
        max_record_bytes: The most one record may count, up to 10 MiB; None: what
            DescribeStreamSummary says, which is read with the list of shards.
        max_record_age: Seconds after which an unconfirmed record is given up; None: never. What is
            on the road is answered first, and in order what is behind it waits for that: the
            client's read_timeout should be well below.
        ordered: Whether the records of one key stay in order; see above.
        skip_failed: In order, whether those behind a record that is given up go on without it.
        rate: The part of each shard's quota of 1,000 records and 1 MiB a second to use at most.
        max_in_flight: Requests on the road at most.
        max_buffered_bytes: Data and keys held at most, each until its future ends; a single record
            may exceed it alone.
        max_buffered_records: Records held at most, likewise.
        record_ids: Whether each payload is sealed with a record ID; one that has an ID keeps it.
        on_dead_letter: Called with each record that is given up, before its future raises; in a
            thread of the producer, or in the one that calls `close`.
        on_metrics: Called with the counts since the start, every `metrics_interval` and at `close`.
        metrics_interval: Seconds.
        clock: Seconds that never go back.
        wall_clock: Seconds since 1970, for record IDs, attempts and dead letters.
        rng: Where the jitter comes from.

    Raises:
        ValueError: a setting is out of its bounds.
    """

    def __init__(
        self,
        client: "KinesisClient",
        stream: str,
        *,
        linger: float = 0.1,
        aggregation: bool = True,
        same_key: bool = False,
        max_aggregate_bytes: int = KPL_AGGREGATE_BYTES,
        max_aggregate_records: int = MAX_USER_RECORDS,
        max_record_bytes: int | None = None,
        max_record_age: float | None = 30.0,
        ordered: bool = False,
        skip_failed: bool = False,
        rate: float = 1.0,
        max_in_flight: int = 8,
        max_buffered_bytes: int = 32 * MIB,
        max_buffered_records: int = 50_000,
        record_ids: bool = True,
        on_dead_letter: Callable[[DeadLetter], None] | None = None,
        on_metrics: Callable[[MetricsSnapshot], None] | None = None,
        metrics_interval: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
    ) -> None:
        if max_buffered_bytes < 1 or max_buffered_records < 1:
            raise ValueError("the buffer needs room for at least one record")
        if not 0 < metrics_interval < float("inf"):
            raise ValueError("metrics_interval must be positive")
        if max_record_bytes is not None and not 1 <= max_record_bytes <= MAX_LARGE_RECORD_BYTES:
            raise ValueError(f"max_record_bytes must be 1 to {MAX_LARGE_RECORD_BYTES}")
        most = max_record_bytes or MAX_RECORD_BYTES
        if max_aggregate_bytes > most:
            raise ValueError("max_aggregate_bytes exceeds the most that one record may count")
        settings = Settings(
            linger=linger,
            aggregation=aggregation,
            same_key=same_key,
            max_aggregate_bytes=max_aggregate_bytes,
            max_aggregate_records=max_aggregate_records,
            max_record_age=max_record_age,
            ordered=ordered,
            skip_failed=skip_failed,
            rate=rate,
            max_in_flight=max_in_flight,
        )
        self._stream = stream
        surely = min(MAX_RECORD_BYTES, most)
        self._intake = Intake(record_ids=record_ids, wall_clock=wall_clock, surely=surely)
        self._on_metrics = on_metrics
        self._clock, self._wall_clock = clock, wall_clock
        self._metrics = Metrics()
        self._machine = Machine(
            settings,
            rng=rng or random.Random(),
            metrics=self._metrics,
            max_record_bytes=max_record_bytes,
        )
        self._ledger = self._machine.ledger
        self._process_id = here.process_id
        self._lock = threading.Lock()
        self._told_at_close = False
        self._endings = Endings(
            self._lock,
            self._machine.take_settled,
            in_order=ordered,
            ended=self._tell_of_room,
            is_awaited=lambda: self._room.is_awaited,
            stream=stream,
            on_dead_letter=on_dead_letter,
            clock=clock,
            wall_clock=wall_clock,
        )
        self._crew = Crew(
            *(self._machine, Calls(client, stream), self._endings),
            lock=self._lock,
            told=self._tell_of_room,
            tick=self._tell_metrics if on_metrics else None,
            tick_seconds=metrics_interval,
            name=f"put-{stream}",
            max_threads=max_in_flight + 1,
            clock=clock,
            wall_clock=wall_clock,
        )
        self._room = Room(
            *(self._ledger, self._endings, self._crew),
            lock=self._lock,
            max_bytes=max_buffered_bytes,
            max_records=max_buffered_records,
            clock=clock,
        )
        self._maximum = Maximum(
            *(self._machine, self._crew, self._room),
            lock=self._lock,
            max_record_age=max_record_age,
            clock=clock,
        )
        close_at_exit(self)

    def put(
        self,
        partition_key: str,
        data: bytes,
        *,
        explicit_hash_key: int | None = None,
        record_id: str | None = None,
        timeout: float | None = None,
    ) -> "Future[PutResult]":
        """Take a record, after those that were taken before; blocks while the buffer is full.

        Args:
            partition_key: 1 to 256 characters.
            data: The payload, before the record ID is added.
            explicit_hash_key: Chooses the shard instead of the key, 0 to 2**128 - 1.
            record_id: The ID to carry; minted if None and the payload has none.
            timeout: Seconds to wait for room; None: until there is some. A record of more than
                1 MiB waits for what the stream says of it, too, for `max_record_age` at most.

        Returns:
            A future that gives a `PutResult` or raises `DeliveryError`. It cannot be cancelled.

        Raises:
            BufferFullError: no room in time, or it was not known in time whether the stream takes
                such a large record; the record was not taken.
            ProducerClosedError: `close` was called, or this is a forked child; the record was not
                taken.
            RecordError: Kinesis would refuse the record (`records.errors`).
            EnvelopeError: the payload carries another record ID, or one of a wrong form.
            TypeError: the key is no text, the data no bytes, or the hash key no whole number.
        """
        if here.process_id != self._process_id:
            self._refuse_forked_child()
        until = None if timeout is None else self._clock() + timeout
        known = self._maximum.for_record
        future = self._intake.future(
            partition_key, data, explicit_hash_key, record_id, known, until
        )
        with self._lock:
            if not self._room.has(future.size):
                self._room.wait(future.size, until)
            try:
                self._endings.pending.add(future)
                # Its first thread may have failed to start.
                if self._machine.accept(future, now=self._clock()) or not self._crew.threads:
                    self._crew.wake()
            except BaseException:  # Ctrl-C strikes anywhere.
                if not self._machine.recover(future):
                    self._endings.pending.discard(future)
                self._crew.wake()
                raise
        return future

    def put_many(self, records: Iterable[Asked]) -> list[PutResult | DeliveryError]:
        """Put records, wait until each is settled, and return what became of them, in their order.

        For callers that must leave nothing behind when they return, such as a Lambda function: it
        returns within `max_record_age` and the client's time-outs after the last record found room.
        A record that `put` would refuse has a `DeliveryError` without attempts in its place, named
        after what `put` would raise; `RecordExpired` if it was not known in time whether the stream
        takes such a large one.

        Args:
            records: Partition key, data and, if the caller chooses the shard, explicit hash key.

        Raises:
            ProducerClosedError: as `put`; those taken before are still sent.
            RuntimeError: this is a callback of this producer, which would wait for itself.
        """
        if self._crew.is_own_thread():
            raise RuntimeError("put_many in a callback of its producer would wait for itself")
        asked = put_each(self.put, records)
        self.flush()
        return [outcome_of(each) for each in asked]

    def call_when_room(self, callback: Callable[[], None], size: int) -> None:
        """Call back once when a record of `size` bytes might have room, or the producer closes.

        At once if it has room now; else when something has left the buffer, however little. In a
        thread of the producer, so it must be brief.

        Raises:
            ProducerClosedError: this is a forked child.
        """
        self._refuse_forked_child()

        def ready() -> bool:
            known = size <= MAX_RECORD_BYTES or self._maximum.is_known()
            return known and self._room.has(size)

        self._room.call_when(ready, callback)

    def flush(self, timeout: float | None = None) -> bool:
        """Send what was taken so far without lingering, and wait until all of it is settled.

        Returns:
            False if something is still unsettled after `timeout` seconds; it stays in the buffer.
            In a callback of this producer it does not wait, for nothing else could be settled.

        Raises:
            ProducerClosedError: this is a forked child.
        """
        self._refuse_forked_child()
        with self._lock:
            self._machine.flush()
            self._crew.wake()
            own = self._crew.is_own_thread()
            return self._endings.wait(self._endings.pending.copy(), 0 if own else timeout)

    def close(self, deadline: float = 30.0) -> None:
        """Take nothing more, deliver what there is, and give up the rest after `deadline` seconds.

        When it returns, no future is pending: it waits for the callbacks as long as they take. What
        is behind one that has not returned for 5 s it calls itself; the log tells of that one. What
        was given up while its answer was awaited may be in the stream. Calling it again is
        harmless. In a callback of this producer it cannot wait: it takes nothing more and returns,
        and the rest is delivered or grows too old. In a forked child it does nothing: what is there
        belongs to the parent.
        """
        if here.process_id != self._process_id:
            return
        with self._lock:
            self._machine.flush()
            if self._endings.pending:
                self._crew.wake()
            self._crew.stop()
        try:
            self._tell_of_room()
        finally:
            if not self._crew.is_own_thread():
                self._close(deadline)

    def metrics(self) -> MetricsSnapshot:
        """Return the counts since the start.

        Raises:
            ProducerClosedError: this is a forked child.
        """
        self._refuse_forked_child()
        with self._lock:
            return self._metrics.snapshot(
                now_wall=self._wall_clock(),
                received=self._ledger.received,
                received_bytes=self._ledger.received_bytes,
                pending=self._ledger.records,
                pending_bytes=self._ledger.bytes,
                shares=self._machine.shares(),
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _close(self, deadline: float) -> None:
        with self._lock:
            self._endings.wait(self._endings.pending, deadline)
            message = f"the producer was closed and not done within {deadline:g} s"
            self._machine.abandon("ProducerClosed", message)
            self._crew.stop()
        try:
            self._endings.end_all(_PATIENCE_SECONDS)
        finally:
            with self._lock:
                left = [future.done() for future in self._endings.pending]
                told, self._told_at_close = self._told_at_close, True
            if left:
                what = "the producer of %s is closed, but a callback does not return; pending: %d"
                log.error(what, self._stream, left.count(False))
            forget(self)
            if self._on_metrics and not told:
                self._tell_metrics()

    def _refuse_forked_child(self) -> None:
        # Before any lock: at the moment of the fork a thread that is not here may have held it.
        if here.process_id != self._process_id:
            raise ProducerClosedError("the producer belongs to the process that made it")

    def _tell_of_room(self) -> None:
        self._room.tell()

    def _tell_metrics(self) -> None:
        try:
            if self._on_metrics is not None:
                self._on_metrics(self.metrics())
        except Exception:
            log.exception("the metrics callback of the producer of %s failed", self._stream)
