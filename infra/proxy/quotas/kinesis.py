"""Kinesis' quotas: per shard what is written and read, per account and stream the other calls.

AWS counts on many machines and by their clocks, so that its limits are blurred. Here each is exact:
a bucket that holds one second's worth and is refilled all the time.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from infra.proxy.messages import ACCOUNT, Identity, Refusal
from infra.proxy.quotas.keys import StreamKey
from infra.proxy.quotas.rates import LIMIT_EXCEEDED, RATES, Scope
from infra.proxy.quotas.recent import Recent
from infra.proxy.quotas.shard import ShardQuota
from records.limits import (
    GET_PENALTY_SECONDS,
    LARGE_RECORD_BURST_BYTES,
    MAX_RECORD_BYTES,
    SHARD_WRITE_BYTES_PER_SECOND,
)
from records.quota import TokenBucket

THROTTLED: Final = "ProvisionedThroughputExceededException"
"""What AWS answers when a shard is asked for more than it gives."""


@dataclass(frozen=True, slots=True)
class ShardRow:
    """How busy one shard is.

    Attributes:
        stream: Whose, and the stream's name.
        shard_id: The shard.
        records_per_second: Written, over the last whole seconds.
        bytes_per_second: Likewise.
        reads_per_second: Calls of GetRecords, likewise.
        read_bytes_per_second: Likewise.
        admitted: Records written since it came into use.
        throttled: Records and calls refused since then.
    """

    stream: StreamKey
    shard_id: str
    records_per_second: float
    bytes_per_second: float
    reads_per_second: float
    read_bytes_per_second: float
    admitted: int
    throttled: int


class KinesisQuotas:
    """What Kinesis would admit now. Not safe between threads.

    AWS: Kinesis Data Streams Developer Guide, Quotas and limits; API Reference, each operation.

    Args:
        clock: Monotonic seconds.
        time_scale: How many times sooner the pause after a full answer of GetRecords ends. Rates
            are those of AWS at any scale.

    Attributes:
        throttled: Records and calls that shards have refused, in all; `rows` forgets idle shards.
    """

    def __init__(self, clock: Callable[[], float], *, time_scale: float = 1.0) -> None:
        self.throttled = 0
        self._clock = clock
        self._penalty = GET_PENALTY_SECONDS / time_scale
        self._shards: Recent[tuple[StreamKey, str], ShardQuota] = Recent(lambda _: ShardQuota())
        self._calls: dict[str, Recent[StreamKey, TokenBucket]] = {
            operation: Recent(_bucket_maker(rate.calls)) for operation, rate in RATES.items()
        }

    def put(self, stream: StreamKey, shard_id: str, size: int, *, max_record_bytes: int) -> bool:
        """Say whether a shard takes one record, and count it if so; see `put_all`."""
        return self.put_all(stream, [(shard_id, size)], max_record_bytes=max_record_bytes)[0]

    def put_all(
        self, stream: StreamKey, records: Sequence[tuple[str, int]], *, max_record_bytes: int
    ) -> list[bool]:
        """Say of each record, in their order, whether its shard takes it, and count those taken.

        Args:
            stream: Whose, and the stream's name.
            records: Each one's shard and size: data and partition key, in bytes.
            max_record_bytes: The stream's own maximum. Once it is raised above 1 MiB, a shard takes
                up to 10 MiB at once, and still no more than 1 MiB a second in the long run.
        """
        now = self._clock()
        large = max_record_bytes > MAX_RECORD_BYTES
        burst = LARGE_RECORD_BURST_BYTES if large else SHARD_WRITE_BYTES_PER_SECOND
        by_shard: dict[str, list[int]] = {}
        for shard_id, size in records:
            by_shard.setdefault(shard_id, []).append(size)
        answers = {
            shard_id: iter(self._shards.get((stream, shard_id), now).put(sizes, now, burst=burst))
            for shard_id, sizes in by_shard.items()
        }
        taken = [next(answers[shard_id]) for shard_id, _ in records]
        self.throttled += taken.count(False)
        return taken

    def get_records(self, stream: StreamKey, shard_id: str) -> Refusal | None:
        """Refuse a GetRecords that comes too soon, or count it.

        That is: a sixth one in a second; one before what earlier ones have read is paid for at
        2 MiB a second; one within 5 s of an answer of 10 MiB.
        """
        now = self._clock()
        admitted = self._shards.get((stream, shard_id), now).get_records(now)
        return None if admitted else self._throttle(stream, shard_id)

    def got_records(self, stream: StreamKey, shard_id: str, size: int) -> None:
        """Charge the answer of a GetRecords.

        Args:
            stream: Whose, and the stream's name.
            shard_id: The shard that was read.
            size: Of all its records: data and partition keys, in bytes.
        """
        now = self._clock()
        self._shards.get((stream, shard_id), now).got_records(size, now, penalty=self._penalty)

    def get_shard_iterator(self, stream: StreamKey, shard_id: str) -> Refusal | None:
        """Refuse a sixth GetShardIterator in a second, or count it."""
        now = self._clock()
        admitted = self._shards.get((stream, shard_id), now).get_shard_iterator(now)
        return None if admitted else self._throttle(stream, shard_id)

    def control_plane(
        self, operation: str, identity: Identity, stream: str | None
    ) -> Refusal | None:
        """Refuse a call that comes too soon by the table in `rates`, or count it.

        Args:
            operation: Any; one that the table does not name is never refused.
            identity: Whose call it is.
            stream: The stream's name, if the call says one.
        """
        rate = RATES.get(operation)
        if rate is None:
            return None
        now = self._clock()
        of = stream or "" if rate.scope is Scope.STREAM else ""
        if self._calls[operation].get((identity, of), now).take(1, now):
            return None
        about = f" for stream {stream}" if stream else ""
        return Refusal(LIMIT_EXCEEDED, f"Rate exceeded{about} under account {ACCOUNT}.")

    def forget(self, stream: StreamKey) -> None:
        """Forget a stream's shards: another of that name has other ones."""
        self._shards.forget(lambda key: key[0] == stream)

    def rows(self) -> list[ShardRow]:
        """Return how busy each shard is that was used in the last ten minutes."""
        now = self._clock()
        return [
            ShardRow(*key, *shard.meter.rates(now), shard.admitted, shard.throttled)
            for key, shard in self._shards.items(now)
        ]

    def _throttle(self, stream: StreamKey, shard_id: str) -> Refusal:
        self.throttled += 1
        return Refusal(THROTTLED, throttled_message(stream[1], shard_id))


def throttled_message(stream_name: str, shard_id: str) -> str:
    """Return what AWS says when a shard is asked for more than it gives."""
    return f"Rate exceeded for shard {shard_id} in stream {stream_name} under account {ACCOUNT}."


def _bucket_maker(rate: int) -> Callable[[float], TokenBucket]:
    return lambda now: TokenBucket(rate=rate, burst=rate, now=now)
