"""A small Kinesis in virtual time: shards, quotas, lists of a while ago, KCL's reading."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

from producers.put_records import Failure, Record, Stored
from records.aggregation import UserRecord, decode
from records.limits import (
    MAX_HASH_KEY,
    SHARD_WRITE_BYTES_PER_SECOND,
    SHARD_WRITE_RECORDS_PER_SECOND,
    record_bytes,
)
from records.partition import Shard, ShardMap, hash_key

_ERA = 1_000_000  # Sequence numbers of one stream.
THROTTLED = Failure("ProvisionedThroughputExceededException", "slow down", retriable=True)


class Bucket:
    """So much per second and so much at once; written anew here, to judge the limiter by."""

    __slots__ = ("_at", "_burst", "_level", "_rate")

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = self._level = burst
        self._at = 0.0

    def has(self, amount: float, now: float) -> bool:
        self._level = min(self._burst, self._level + (now - self._at) * self._rate)
        self._at = now
        return self._level >= amount

    def spend(self, amount: float) -> None:
        self._level -= amount


@dataclass(frozen=True, slots=True)
class Quota:
    """What each shard takes.

    Attributes:
        share: Of AWS's quota, for this producer.
        slack: Seconds by which records that left one after the other may arrive at once.
        max_record_bytes: What the shard takes at once at any rate.
    """

    share: float
    slack: float
    max_record_bytes: int

    def buckets(self) -> tuple[Bucket, Bucket]:
        records = SHARD_WRITE_RECORDS_PER_SECOND * self.share
        size = SHARD_WRITE_BYTES_PER_SECOND * self.share
        return (
            Bucket(records, max(records, 1.0) + records * self.slack),
            Bucket(size, max(size, self.max_record_bytes) + size * self.slack),
        )


class ModelShard:
    """A shard, what it holds, and what it still takes."""

    __slots__ = ("bytes", "held", "records", "shard", "throttled")

    def __init__(self, shard: Shard, quota: Quota) -> None:
        self.shard = shard
        self.held: list[Record] = []
        self.records, self.bytes = quota.buckets()
        self.throttled: tuple[float, float] | None = None  # From when till when it takes nothing.


class ModelStream:
    """The stream: shards in the order of their making, so parents come before children."""

    def __init__(self, shards: int, quota: Quota, *, auto_from: float, rng: random.Random) -> None:
        self.shards: list[ModelShard] = []
        self.auto_from = auto_from
        self.over_quota = 0  # How often a quota said no.
        self.most_open = 0  # As far as any list has told.
        self._quota = quota
        self._rng = rng
        self.gone = False
        self._past: list[ModelShard] = []  # Of streams that had its name before.
        self._by_id: dict[tuple[int, str], ModelShard] = {}
        self._era = -1
        self.make(shards, 0.0)

    def make(self, shards: int, now: float) -> None:
        """Make the stream (anew), with shards of the same IDs as before."""
        self._past += self.shards
        self._era += 1
        self.gone = False
        self.shards = []
        self._open: list[ModelShard] = []
        self._lists: list[tuple[float, ShardMap]] = []
        width = (MAX_HASH_KEY + 1) // shards
        for at in range(shards):
            end = MAX_HASH_KEY if at == shards - 1 else width * (at + 1) - 1
            self._make(width * at, end)
        self._note(now)

    def put(self, record: Record, now: float) -> Stored | Failure:
        """Store a record, unless its shard has no room for it now."""
        place = self._place(record, now)
        if place.throttled is not None and place.throttled[0] <= now < place.throttled[1]:
            return THROTTLED
        size = record_bytes(record.partition_key, record.data)
        if not place.records.has(1, now) or not place.bytes.has(size, now):
            self.over_quota += 1
            return THROTTLED
        place.records.spend(1)
        place.bytes.spend(size)
        place.held.append(record)
        return Stored(place.shard.shard_id, str(self._era * _ERA + len(place.held) - 1))

    def shard_of(self, place: int) -> ModelShard:
        """Return the open shard that covers a hash key."""
        return next(each for each in self._open if each.shard.covers(place))

    def held(self, shard_id: str, sequence_number: str) -> tuple[Shard, Record]:
        """Return a record that is stored, and its shard."""
        era, number = divmod(int(sequence_number), _ERA)
        place = self._by_id[era, shard_id]
        return place.shard, place.held[number]

    def read(self) -> Iterator[UserRecord]:
        """Yield the user records in the order and by the rule of KCL."""
        for each in (*self._past, *self.shards):
            for record in each.held:
                users = user_records(record)
                if kept(each.shard, record, users):
                    yield from users

    def reshard(self, now: float) -> None:
        """Split a shard, or merge two neighbours."""
        open_shards = sorted(self._open, key=lambda each: each.shard.starting_hash_key)
        at = self._rng.randrange(len(open_shards))
        first = open_shards[at]
        low, high = first.shard.starting_hash_key, first.shard.ending_hash_key
        self._close(first)
        if at + 1 < len(open_shards) and self._rng.random() < 0.5:
            second = open_shards[at + 1]
            self._close(second)
            self._make(low, second.shard.ending_hash_key, first, second)
        else:
            middle = low + int((high - low) * self._rng.uniform(0.2, 0.8))
            self._make(low, middle, first)
            self._make(middle + 1, high, first)
        self._note(now)

    def listed(self, asked: float) -> ShardMap:
        """Return the newest list that is at least as old as `asked`."""
        known = (shards for made, shards in reversed(self._lists) if made <= asked)
        return next(known, self._lists[0][1])

    def damaged_list(self) -> ShardMap:
        """Return a list with a shard missing, or with parents still open beside their children."""
        shards = [each.shard for each in self.shards]
        parents = {shards[-1].parent_shard_id, shards[-1].adjacent_parent_shard_id}
        if self._rng.random() < 0.5:
            shards.pop(self._rng.randrange(len(shards)))
        else:
            shards = [
                replace(each, closed=each.closed and each.shard_id not in parents)
                for each in shards
            ]
        self.most_open = max(self.most_open, sum(not each.closed for each in shards))
        return ShardMap(shards)

    def _place(self, record: Record, now: float) -> ModelShard:
        if now >= self.auto_from:
            return self._rng.choice(self._open)
        place = record.explicit_hash_key
        return self.shard_of(hash_key(record.partition_key) if place is None else place)

    def _make(self, start: int, end: int, *parents: ModelShard) -> None:
        ids = [parent.shard.shard_id for parent in parents] + [None, None]
        shard = Shard(f"shardId-{len(self.shards):012}", start, end, ids[0], ids[1])
        made = ModelShard(shard, self._quota)
        self.shards.append(made)
        self._open.append(made)
        self._by_id[self._era, shard.shard_id] = made

    def _close(self, which: ModelShard) -> None:
        which.shard = replace(which.shard, closed=True)
        self._open.remove(which)

    def _note(self, now: float) -> None:
        self.most_open = max(self.most_open, len(self._open))
        self._lists.append((now, ShardMap(each.shard for each in self.shards)))


def user_records(record: Record) -> list[UserRecord]:
    """Return what KCL makes of a record: the user records of an aggregate, or itself."""
    return decode(record.data) or [
        UserRecord(record.partition_key, record.data, record.explicit_hash_key)
    ]


def kept(shard: Shard, record: Record, users: list[UserRecord]) -> bool:
    """Whether KCL hands these user records out: it drops an aggregate with one stranger in it."""
    is_plain = len(users) == 1 and users[0].data is record.data
    return is_plain or all(shard.covers(user.hash_key) for user in users)
