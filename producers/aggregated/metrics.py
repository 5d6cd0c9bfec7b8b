"""What a producer counts, under the names of the KPL where it has one: see `MetricsSnapshot`.

Otherwise than there, the bytes of user records are those of their data (with record IDs) and keys;
BufferingTime leaves out the waits between attempts; a request that failed as a whole is an error of
each of its Kinesis records; and one that landed on a wrong shard is an error and was not put.

`Metrics` is told of requests and Kinesis records, and of single user records only if these were
given up or packed anew: what counts the others is in the numbers that come with their aggregate.

AWS: Kinesis Data Streams Developer Guide, Monitor the Kinesis Producer Library.
https://docs.aws.amazon.com/streams/latest/dev/monitoring-with-kpl.html
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from math import inf
from types import MappingProxyType
from typing import Final, TypeVar

# A stream that reshards for years has had any number of shards; later ones are counted together.
MAX_SHARDS: Final = 1_000
MAX_CODES: Final = 100
OTHER: Final = "other"
EXPIRED: Final = "RecordExpired"

_V = TypeVar("_V")

_STEPS: Final = tuple(chain.from_iterable((2**n, 3 * 2 ** (n - 1)) for n in range(1, 17)))
# Upper bounds, at most half above the one before: 1 ms to 98 s, and 0 to 98,304.
SECONDS_BOUNDS: Final = (0.001, 0.0015, *(step / 1000 for step in _STEPS))
COUNT_BOUNDS: Final = (0.0, 1.0, *map(float, _STEPS))


@dataclass(frozen=True, slots=True)
class Distribution:
    """How often which values came.

    Attributes:
        bounds: The inclusive upper bound of each bucket but the last, which takes what is above.
        counts: The values in each bucket.
        sums: Their sums.
        min: The least value; 0 if there is none.
        max: The greatest one. Of a difference both are known only to the edges of their buckets.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    sums: tuple[float, ...]
    min: float = 0.0
    max: float = 0.0

    @property
    def count(self) -> int:
        """How many values there are."""
        return sum(self.counts)

    @property
    def sum(self) -> float:
        """What they add up to."""
        return sum(self.sums)

    def __sub__(self, earlier: "Distribution") -> "Distribution":
        counts = tuple(map(int.__sub__, self.counts, earlier.counts))
        sums = tuple(
            late - early if count else 0.0
            for late, early, count in zip(self.sums, earlier.sums, counts, strict=True)
        )
        filled = [place for place, count in enumerate(counts) if count]
        if not filled:
            return Distribution(self.bounds, counts, sums)
        lower = self.bounds[filled[0] - 1] if filled[0] else 0.0
        upper = (*self.bounds, inf)[filled[-1]]
        return Distribution(self.bounds, counts, sums, max(self.min, lower), min(self.max, upper))


@dataclass(frozen=True, slots=True)
class ShardMetrics:
    """What was counted for one shard, or for all of them.

    Attributes:
        user_records_put: User records confirmed (UserRecordsPut).
        user_bytes_put: Their data and keys, in bytes (UserRecordsDataPut).
        kinesis_records_put: Kinesis records confirmed (KinesisRecordsPut).
        kinesis_bytes_put: Their data, in bytes (KinesisRecordsDataPut).
        errors: Attempts of Kinesis records that failed, by code (ErrorsByCode); as WrongShard those
            that this shard has taken and does not cover. Not those without an answer at `close`.
        retries_per_record: For each user record that is settled and was sent (RetriesPerRecord); at
            most 99. What was given up counts for all shards, but for none of them.
        buffering_time: Of the same, seconds from put to the first attempt (BufferingTime).
        user_records_per_kinesis_record: Of those confirmed (UserRecordsPerKinesisRecord).
    """

    user_records_put: int
    user_bytes_put: int
    kinesis_records_put: int
    kinesis_bytes_put: int
    errors: Mapping[str, int]
    retries_per_record: Distribution
    buffering_time: Distribution
    user_records_per_kinesis_record: Distribution

    @property
    def all_errors(self) -> int:
        """Attempts that failed, whatever the code (AllErrors)."""
        return sum(self.errors.values())

    def __sub__(self, earlier: "ShardMetrics") -> "ShardMetrics":
        return ShardMetrics(
            self.user_records_put - earlier.user_records_put,
            self.user_bytes_put - earlier.user_bytes_put,
            self.kinesis_records_put - earlier.kinesis_records_put,
            self.kinesis_bytes_put - earlier.kinesis_bytes_put,
            _counts_since(self.errors, earlier.errors),
            self.retries_per_record - earlier.retries_per_record,
            self.buffering_time - earlier.buffering_time,
            self.user_records_per_kinesis_record - earlier.user_records_per_kinesis_record,
        )


@dataclass(frozen=True, slots=True)
class MetricsSnapshot:
    """All that a producer counted since it was made; `later - earlier` is what came in between.

    Attributes:
        at: When it was taken, in seconds since 1970.
        user_records_received: What `put` took (UserRecordsReceived).
        user_bytes_received: The data and keys of these, in bytes.
        user_records_pending: What is not settled yet (UserRecordsPending).
        user_bytes_pending: What that takes of the buffer, in bytes.
        user_records_given_up: Handed back with a DeliveryError, by code.
        request_time: Seconds of each PutRecords request (RequestTime).
        kinesis_records_per_request: KinesisRecordsPerPutRecordsRequest.
        user_records_per_request: UserRecordsPerPutRecordsRequest.
        total: Of all shards.
        shards: Of each shard; above 1,000 of them, the further ones together as "other".
        shares: What the limiter uses now of each shard's share, from 0 to 1.
    """

    at: float
    user_records_received: int
    user_bytes_received: int
    user_records_pending: int
    user_bytes_pending: int
    user_records_given_up: Mapping[str, int]
    request_time: Distribution
    kinesis_records_per_request: Distribution
    user_records_per_request: Distribution
    total: ShardMetrics
    shards: Mapping[str, ShardMetrics]
    shares: Mapping[str, float]

    @property
    def user_records_expired(self) -> int:
        """User records given up because they were too old (UserRecordExpired)."""
        return self.user_records_given_up.get(EXPIRED, 0)

    def __sub__(self, earlier: "MetricsSnapshot") -> "MetricsSnapshot":
        return MetricsSnapshot(
            self.at,
            self.user_records_received - earlier.user_records_received,
            self.user_bytes_received - earlier.user_bytes_received,
            self.user_records_pending,  # How things are is no count, and has no difference.
            self.user_bytes_pending,
            _counts_since(self.user_records_given_up, earlier.user_records_given_up),
            self.request_time - earlier.request_time,
            self.kinesis_records_per_request - earlier.kinesis_records_per_request,
            self.user_records_per_request - earlier.user_records_per_request,
            self.total - earlier.total,
            _frozen(
                {
                    shard_id: shard - earlier.shards[shard_id]
                    if shard_id in earlier.shards
                    else shard
                    for shard_id, shard in self.shards.items()
                }
            ),
            self.shares,
        )


class Metrics:
    """Counts from its making on, and forgets nothing. Not safe between threads."""

    __slots__ = (
        "_given_up",
        "_kinesis_records_per_request",
        "_on_no_shard",
        "_request_time",
        "_shards",
        "_user_records_per_request",
    )

    def __init__(self) -> None:
        self._given_up: dict[str, int] = {}
        self._request_time = _Histogram(SECONDS_BOUNDS)
        self._kinesis_records_per_request = _Histogram(COUNT_BOUNDS)
        self._user_records_per_request = _Histogram(COUNT_BOUNDS)
        self._shards: dict[str, _Shard] = {}
        self._on_no_shard = _Shard()

    def request_answered(self, *, kinesis_records: int, user_records: int, seconds: float) -> None:
        """Count a PutRecords request that ended, in whatever way, after so many seconds."""
        self._request_time.add(seconds)
        self._kinesis_records_per_request.add(kinesis_records)
        self._user_records_per_request.add(user_records)

    def record_put(
        self, shard_id: str, *, user_records: int, user_bytes: int, wire_bytes: int
    ) -> None:
        """Count a Kinesis record that was confirmed.

        Args:
            shard_id: Where it is.
            user_records: How many user records it carries.
            user_bytes: The data and keys of these, in bytes.
            wire_bytes: Its own data, in bytes.
        """
        shard = self._shard(shard_id)
        shard.user_records_put += user_records
        shard.user_bytes_put += user_bytes
        shard.kinesis_records_put += 1
        shard.kinesis_bytes_put += wire_bytes
        shard.user_records_per_kinesis_record.add(user_records)

    def settled(
        self,
        shard_id: str | None,
        *,
        user_records: int = 1,
        retries: int,
        buffered_mean: float,
        buffered_min: float,
        buffered_max: float,
    ) -> None:
        """Count how often and when user records were sent that are settled now.

        Args:
            shard_id: Where they are; None: they were given up.
            user_records: How many.
            retries: How often each was sent again.
            buffered_mean: Seconds from put to the first attempt, their mean.
            buffered_min: The least of these.
            buffered_max: The greatest of these.
        """
        shard = self._on_no_shard if shard_id is None else self._shard(shard_id)
        shard.retries_per_record.add(retries, user_records)
        shard.buffering_time.add_many(user_records, buffered_mean, buffered_min, buffered_max)

    def record_failed(self, shard_id: str, code: str, count: int = 1) -> None:
        """Count attempts of Kinesis records that failed with this code."""
        _count(self._shard(shard_id).errors, code, count)

    def given_up(self, code: str, count: int = 1) -> None:
        """Count user records that were handed back with a DeliveryError of this code."""
        _count(self._given_up, code, count)

    def snapshot(
        self,
        *,
        now_wall: float,
        received: int,
        received_bytes: int,
        pending: int,
        pending_bytes: int,
        shares: Mapping[str, float],
    ) -> MetricsSnapshot:
        """Return what was counted, with what only the caller knows.

        Args:
            now_wall: The time, in seconds since 1970.
            received: User records taken since the start.
            received_bytes: Their data and keys, in bytes.
            pending: User records that are not settled.
            pending_bytes: What these take of the buffer, in bytes.
            shares: What the limiter of each shard uses of its share.
        """
        return MetricsSnapshot(
            now_wall,
            received,
            received_bytes,
            pending,
            pending_bytes,
            _frozen(self._given_up),
            self._request_time.frozen(),
            self._kinesis_records_per_request.frozen(),
            self._user_records_per_request.frozen(),
            _total((*self._shards.values(), self._on_no_shard)).frozen(),
            _frozen({shard_id: shard.frozen() for shard_id, shard in self._shards.items()}),
            _frozen(shares),
        )

    def _shard(self, shard_id: str) -> "_Shard":
        shard = self._shards.get(shard_id)
        if shard is None:
            if len(self._shards) >= MAX_SHARDS:
                shard_id = OTHER
            shard = self._shards.setdefault(shard_id, _Shard())
        return shard


class _Histogram:
    __slots__ = ("bounds", "counts", "max", "min", "sums")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sums = [0.0] * (len(bounds) + 1)
        self.min = inf
        self.max = 0.0

    def add(self, value: float, weight: int = 1) -> None:
        place = bisect_left(self.bounds, value)
        self.counts[place] += weight
        self.sums[place] += value * weight
        self.min = min(self.min, value)
        self.max = max(self.max, value)

    def add_many(self, count: int, mean: float, least: float, greatest: float) -> None:
        """Add values of which only this is known: each end once, and the others in the middle."""
        if count < 3:
            self.add(mean, count)
            return
        self.add(least)
        self.add(greatest)
        self.add((mean * count - least - greatest) / (count - 2), count - 2)

    def include(self, other: "_Histogram") -> None:
        self.counts = list(map(int.__add__, self.counts, other.counts))
        self.sums = list(map(float.__add__, self.sums, other.sums))
        self.min = min(self.min, other.min)
        self.max = max(self.max, other.max)

    def frozen(self) -> Distribution:
        least = self.min if self.min < inf else 0.0
        return Distribution(self.bounds, tuple(self.counts), tuple(self.sums), least, self.max)


@dataclass(slots=True)
class _Shard:
    user_records_put: int = 0
    user_bytes_put: int = 0
    kinesis_records_put: int = 0
    kinesis_bytes_put: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    retries_per_record: _Histogram = field(default_factory=lambda: _Histogram(COUNT_BOUNDS))
    buffering_time: _Histogram = field(default_factory=lambda: _Histogram(SECONDS_BOUNDS))
    user_records_per_kinesis_record: _Histogram = field(
        default_factory=lambda: _Histogram(COUNT_BOUNDS)
    )

    def frozen(self) -> ShardMetrics:
        return ShardMetrics(
            self.user_records_put,
            self.user_bytes_put,
            self.kinesis_records_put,
            self.kinesis_bytes_put,
            _frozen(self.errors),
            self.retries_per_record.frozen(),
            self.buffering_time.frozen(),
            self.user_records_per_kinesis_record.frozen(),
        )


def _total(shards: Iterable[_Shard]) -> _Shard:
    total = _Shard()
    for shard in shards:
        total.user_records_put += shard.user_records_put
        total.user_bytes_put += shard.user_bytes_put
        total.kinesis_records_put += shard.kinesis_records_put
        total.kinesis_bytes_put += shard.kinesis_bytes_put
        for code, count in shard.errors.items():
            _count(total.errors, code, count)
        total.retries_per_record.include(shard.retries_per_record)
        total.buffering_time.include(shard.buffering_time)
        total.user_records_per_kinesis_record.include(shard.user_records_per_kinesis_record)
    return total


def _count(counts: dict[str, int], code: str, count: int) -> None:
    if code not in counts and len(counts) >= MAX_CODES:
        code = OTHER
    counts[code] = counts.get(code, 0) + count


def _counts_since(late: Mapping[str, int], early: Mapping[str, int]) -> Mapping[str, int]:
    changes = {code: count - early.get(code, 0) for code, count in late.items()}
    return _frozen({code: count for code, count in changes.items() if count})


def _frozen(mapping: Mapping[str, _V]) -> Mapping[str, _V]:
    return MappingProxyType(dict(mapping))
