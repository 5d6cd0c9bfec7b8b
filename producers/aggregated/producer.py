"""The thread and the client around the machine: puts come in, requests go out, futures end."""

import logging
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from botocore.exceptions import BotoCoreError, ClientError

from producers.aggregated.lanes import lone_record
from producers.aggregated.machine import ListRequest, Machine, PutRequest
from producers.aggregated.values import PutResult, Settings, Settled
from producers.errors import BufferFullError, DeliveryError, ProducerClosedError
from producers.put_records import Failure, Stored, failure_of, put_once
from records.aggregation import is_aggregate
from records.dead_letter import DeadLetter
from records.envelope import new_record_id, open_envelope, seal
from records.limits import KPL_AGGREGATE_BYTES, MAX_RECORD_BYTES, MIB, check_record, record_bytes
from records.partition import ShardMap

if TYPE_CHECKING:
    from types_boto3_kinesis import KinesisClient

log = logging.getLogger(__name__)

# How long close() waits, beyond its deadline, for futures that are being resolved right then.
_HANDOVER_SECONDS: Final = 5.0
# Waking without need once an hour costs nothing; the platform's longest wait is finite.
_LONGEST_WAIT_SECONDS: Final = 3_600.0
# A million shards, more than any account has.
_MAX_PAGES: Final = 1_000


class AggregatingProducer:
    """Puts many small records cheaply, packed in KPL aggregates, in order for each key.

    Guaranteed: at least once for every record that `put` took, else its future raises
    `DeliveryError` and the dead-letter callback gets it. For one key (partition key and explicit
    hash key), consumers that keep each record ID once and follow the lineage of shards, as KCL
    does, see the records in the order of put. Not guaranteed: a record that is given up does not
    stop those after it. Duplicates are possible: an answer can be lost, or a reshard put a pack
    on the wrong shard; they carry the same record ID.

    Use it as a context manager. Its thread is a daemon: what a process does not `close` is lost
    with it; a forked child has no such thread and must make a producer of its own. One request is
    on the road at a time, which carries all shards that have something.
    The client needs kinesis:PutRecords and kinesis:ListShards, and should have SDK retries off.

    Args:
        client: A boto3 Kinesis client.
        stream: The stream's name.
        linger: Seconds that a record may wait for others to travel with.
        max_aggregate_bytes: The most one aggregate may count.
        max_record_bytes: The stream's maximum for one record: 1 MiB, unless it was raised.
        max_record_age: Seconds after which an unconfirmed record is given up; None: never.
        max_buffered_bytes: Data and keys held at most; a single record may exceed it alone.
        max_buffered_records: Records held at most.
        record_ids: Whether each payload is sealed with a record ID; one that has an ID keeps it.
        on_dead_letter: Called with each record that is given up, before its future raises; in the
            producer's thread, or in the one that calls `close`.
        clock: Seconds that never go back.
        wall_clock: Seconds since 1970, for record IDs and dead letters.
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
        max_aggregate_bytes: int = KPL_AGGREGATE_BYTES,
        max_record_bytes: int = MAX_RECORD_BYTES,
        max_record_age: float | None = 60.0,
        max_buffered_bytes: int = 32 * MIB,
        max_buffered_records: int = 50_000,
        record_ids: bool = True,
        on_dead_letter: Callable[[DeadLetter], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
    ) -> None:
        if max_buffered_bytes < 1 or max_buffered_records < 1:
            raise ValueError("the buffer needs room for at least one record")
        self._client, self._stream = client, stream
        self._settings = Settings(
            linger=linger,
            max_aggregate_bytes=max_aggregate_bytes,
            max_record_bytes=max_record_bytes,
            max_record_age=max_record_age,
        )
        self._max_buffered_bytes = max_buffered_bytes
        self._max_buffered_records = max_buffered_records
        self._record_ids = record_ids
        self._on_dead_letter = on_dead_letter
        self._clock = clock
        self._wall_clock = wall_clock
        self._machine = Machine(self._settings, rng=rng or random.Random())
        self._process_id = os.getpid()
        self._futures: dict[int, Future[PutResult]] = {}
        self._closing = False
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._room = threading.Condition(self._lock)
        self._thread = threading.Thread(target=self._run, name=f"put-{stream}", daemon=True)
        self._thread.start()

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
            timeout: Seconds to wait for room; None: until there is some.

        Returns:
            A future that gives a `PutResult` or raises `DeliveryError`. It cannot be cancelled.

        Raises:
            BufferFullError: no room in time; the record was not taken.
            ProducerClosedError: `close` was called, or this is a forked child; the record was not
                taken.
            RecordError: Kinesis would refuse the record (`records.errors`).
            EnvelopeError: the payload carries another record ID, or one of a wrong form.
        """
        self._refuse_forked_child()
        data, record_id = self._sealed(data, record_id)
        self._check(partition_key, data, explicit_hash_key)
        future: Future[PutResult] = Future()
        future.set_running_or_notify_cancel()
        with self._lock:
            self._wait_for_room(record_bytes(partition_key, data), timeout)
            try:
                number, urgent = self._machine.accept(
                    partition_key, data, explicit_hash_key, record_id, now=self._clock()
                )
                self._futures[number] = future
                if urgent:
                    self._work.notify()
            except BaseException:  # Ctrl-C strikes anywhere.
                self._machine.recover()
                self._work.notify()
                raise
        return future

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
            self._work.notify()
            unsettled = list(self._futures.values())
        return not wait(unsettled, 0 if self._in_own_thread() else timeout).not_done

    def close(self, deadline: float = 30.0) -> None:
        """Take nothing more, deliver what there is, and give up the rest after `deadline` seconds.

        When it returns, no future is pending. What was given up while its answer was awaited may
        be in the stream. Calling it again is harmless. In a callback of this producer it cannot
        wait: it takes nothing more and returns, and the rest is delivered or grows too old. In a
        forked child it does nothing: what is there belongs to the parent.
        """
        if os.getpid() != self._process_id:
            return
        with self._lock:
            self._closing = True
            self._machine.flush()
            self._work.notify()
            self._room.notify_all()
        if self._in_own_thread():
            return
        self._thread.join(deadline)
        with self._lock:
            message = f"the producer was closed and not done within {deadline} s"
            self._machine.abandon("ProducerClosed", message)
            settled = self._machine.take_settled()
            self._work.notify()
        self._resolve(settled)
        with self._lock:
            unsettled = list(self._futures.values())
        wait(unsettled, _HANDOVER_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _refuse_forked_child(self) -> None:
        # Before any lock: at the moment of the fork a thread that is not here may have held it.
        if os.getpid() != self._process_id:
            raise ProducerClosedError("the producer belongs to the process that made it")

    def _in_own_thread(self) -> bool:
        return threading.current_thread() is self._thread

    def _check(self, partition_key: str, data: bytes, explicit_hash_key: int | None) -> None:
        most = self._settings.max_record_bytes
        check_record(partition_key, data, explicit_hash_key, max_record_bytes=most)
        if is_aggregate(data):  # It will be wrapped, which makes it larger.
            wire = lone_record(partition_key, data, explicit_hash_key)
            check_record(wire.partition_key, wire.data, max_record_bytes=most)

    def _sealed(self, data: bytes, record_id: str | None) -> tuple[bytes, str | None]:
        if record_id is None and not self._record_ids:
            return data, None
        carried = open_envelope(data).record_id
        if carried is not None and record_id in {None, carried}:
            return data, carried
        record_id = record_id or new_record_id(clock=self._wall_clock)
        return seal(data, record_id), record_id

    def _wait_for_room(self, size: int, timeout: float | None) -> None:
        def done_waiting() -> bool:
            return self._closing or self._has_room(size)

        # The producer's own thread makes the room: waiting for it there would never end.
        in_time = self._room.wait_for(done_waiting, 0 if self._in_own_thread() else timeout)
        if self._closing:
            raise ProducerClosedError("the producer is closed")
        if not in_time:
            records, held = self._machine.buffered_records, self._machine.buffered_bytes
            raise BufferFullError(f"no room: the buffer holds {records} records, {held} bytes")

    def _has_room(self, size: int) -> bool:
        records, held = self._machine.buffered_records, self._machine.buffered_bytes
        fits = held + size <= self._max_buffered_bytes and records < self._max_buffered_records
        return fits or not records

    # The producer's thread.

    def _run(self) -> None:
        try:
            while self._turn():
                pass
        except Exception:
            # A defect of ours: say so, but leave no caller waiting for ever.
            log.exception("the producer of stream %s stopped", self._stream)
            with self._lock:
                self._closing = True
                self._machine.abandon("ProducerFailed", "the producer stopped; its log says why")
                settled = self._machine.take_settled()
                self._room.notify_all()
            self._resolve(settled)

    def _turn(self) -> bool:
        """Wait for something to do, and do it; False when all is done."""
        with self._lock:
            now = self._clock()
            request = self._machine.step(now)
            settled = self._machine.take_settled()
            if request is None and not settled:
                if self._closing and not self._machine.buffered_records:
                    return False
                wake_at = self._machine.wake_at()
                pause = _LONGEST_WAIT_SECONDS if wake_at is None else max(0.0, wake_at - now)
                self._work.wait(min(pause, _LONGEST_WAIT_SECONDS))
                return True
            self._room.notify_all()
        self._resolve(settled)
        if isinstance(request, PutRequest):
            reply = self._put(request)
            with self._lock:
                self._machine.put_answered(request, reply, now=self._clock())
        elif isinstance(request, ListRequest):
            listed = self._list_shards()
            with self._lock:
                self._machine.shards_listed(listed, now=self._clock())
        return True

    def _put(self, request: PutRequest) -> list[Stored | Failure] | Failure:
        try:
            reply = put_once(self._client, self._stream, request.records)
        except Exception as error:  # noqa: BLE001 - whatever the SDK trips over, the answer is lost
            reply = Failure(type(error).__name__, str(error), retriable=True)
        if isinstance(reply, Failure):
            log.info("PutRecords to %s: %s: %s", self._stream, reply.code, reply.message)
        return reply

    def _list_shards(self) -> ShardMap | Failure:
        try:
            shards = ShardMap.from_list_shards(self._shard_pages())
        except (ClientError, BotoCoreError) as error:
            failure = failure_of(error)
        except Exception as error:  # noqa: BLE001 - an answer nobody can read is no answer
            failure = Failure(type(error).__name__, str(error), retriable=True)
        else:
            log.info("stream %s has %d open shards", self._stream, len(shards.open_shards))
            return shards
        log.info("ListShards of %s: %s: %s", self._stream, failure.code, failure.message)
        return failure

    def _shard_pages(self) -> Iterator[Any]:
        # Not boto3's paginator: it repeats the stream's name beside the token, which AWS refuses.
        page = self._client.list_shards(StreamName=self._stream)
        for _ in range(_MAX_PAGES):
            yield from page["Shards"]
            if not (token := page.get("NextToken")):
                return
            page = self._client.list_shards(NextToken=token)
        raise LookupError(f"ListShards does not come to an end in {_MAX_PAGES} pages")

    def _resolve(self, settled: list[Settled]) -> None:
        """End the futures of what is settled, outside the lock: their callbacks may call us."""
        with self._lock:
            futures = [self._futures.get(each.item.number) for each in settled]
        for each, future in zip(settled, futures, strict=True):
            try:
                self._end(each.result, future)
            except SystemExit:
                # Of a callback: it would end this thread, and the others would wait for ever.
                log.error("a callback of the producer of %s tried to exit", self._stream)  # noqa: TRY400
        with self._lock:
            for each in settled:
                self._futures.pop(each.item.number, None)

    def _end(self, result: PutResult | DeliveryError, future: "Future[PutResult] | None") -> None:
        if isinstance(result, DeliveryError):
            self._dead_letter(result)
        if future is None:
            return  # An exception, such as KeyboardInterrupt, kept put() from returning it.
        if isinstance(result, DeliveryError):
            future.set_exception(result)
        else:
            future.set_result(result)

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
            error.attempts,
            failed_at=self._wall_clock(),
        )
        try:
            self._on_dead_letter(letter)
        except (Exception, SystemExit):
            log.exception("the dead-letter callback failed; the record's future still tells of it")
