"""What goes through the engine: a user record on its way, what came of it, and the settings."""

from dataclasses import dataclass
from math import inf, isfinite
from typing import Final, NamedTuple

from producers.errors import Attempt, DeliveryError, FailedRecord
from producers.put_records import Failure
from records.aggregation import MAX_USER_RECORDS
from records.limits import KPL_AGGREGATE_BYTES
from records.partition import ShardMap
from records.record_ids import record_id_text


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How the engine packs and sends, and for how long it tries.

    Args:
        linger: Seconds that a record may wait for others to travel with; never more than half of
            `max_record_age`, or it would be too old before it is sent.
        aggregation: Whether records travel together; if not, each is a Kinesis record of its own.
        same_key: Whether only records of one key travel together: they cannot straddle a split.
        max_aggregate_bytes: The most an aggregate may count, its outer partition key included.
        max_aggregate_records: The most user records in one aggregate.
        max_record_age: Seconds after which a record that is not confirmed is given up; None: never.
        ordered: Whether records of one key stay in order, whatever fails.
        skip_failed: In order, whether those behind a record that is given up go on without it.
        rate: The part of a shard's write quota to use, such as 0.5 beside another producer.
        max_in_flight: Requests on the road at most.

    Raises:
        ValueError: a setting is out of its bounds.
    """

    linger: float = 0.1
    aggregation: bool = True
    same_key: bool = False
    max_aggregate_bytes: int = KPL_AGGREGATE_BYTES
    max_aggregate_records: int = MAX_USER_RECORDS
    max_record_age: float | None = 30.0
    ordered: bool = False
    skip_failed: bool = False
    rate: float = 1.0
    max_in_flight: int = 8

    def __post_init__(self) -> None:
        age = self.max_record_age
        if not 0 <= self.linger < inf or not (age is None or age > 0):  # so that NaN is refused too
            raise ValueError("linger must not be negative, and max_record_age must be positive")
        if self.max_aggregate_bytes < 64:
            raise ValueError("max_aggregate_bytes must be at least 64")
        if self.max_aggregate_records < 1 or self.max_in_flight < 1:
            raise ValueError("max_aggregate_records and max_in_flight must be at least 1")
        if not (isfinite(self.rate) and self.rate > 0):
            raise ValueError("rate must be positive")
        if self.skip_failed and not self.ordered:
            raise ValueError("skip_failed has a meaning only with ordered")


# A record that is never given up may be sent for days.
_ATTEMPTS_KEPT: Final = 50


def joined(first: tuple[Attempt, ...], then: tuple[Attempt, ...]) -> tuple[Attempt, ...]:
    """Return the attempts in order; of more than 100 the first 50 and the last 50."""
    attempts = first + then
    if len(attempts) <= 2 * _ATTEMPTS_KEPT:
        return attempts
    return attempts[:_ATTEMPTS_KEPT] + attempts[-_ATTEMPTS_KEPT:]


class PutResult(NamedTuple):
    """Where a user record is.

    Attributes:
        shard_id: The shard that holds it.
        sequence_number: The sequence number of the Kinesis record it travelled in.
        sub_sequence_number: Its place in that aggregate, from 0.
        attempts: Each time it was sent; the last one is the one that counts. Of more than 100 the
            first 50 and the last 50.
        identity: The record ID as it was sealed: 16 bytes of a UUID, or text.
    """

    shard_id: str
    sequence_number: str
    sub_sequence_number: int
    attempts: tuple[Attempt, ...]
    identity: bytes | str | None = None

    @property
    def record_id(self) -> str | None:
        """The ID the record carries, if any."""
        return None if self.identity is None else record_id_text(self.identity)


class Item:
    """A user record that was taken and is not settled. Its owner may add to it in a class below.

    Attributes:
        accepted_at: When the machine accepted it, by its clock.
        size: Its data and key, in bytes.
        hash_key: Where it belongs in the hash space.
        history: The attempts made with an earlier pack.
        first_sent_at: When the first of these was made, by the machine's clock; only if there are.
    """

    __slots__ = (
        "accepted_at",
        "data",
        "explicit_hash_key",
        "first_sent_at",
        "hash_key",
        "history",
        "identity",
        "partition_key",
        "size",
    )

    def __init__(  # noqa: PLR0917 - positional, because one is made for each record
        self,
        partition_key: str,
        data: bytes,
        explicit_hash_key: int | None,
        identity: bytes | str | None,
        hash_key: int,
        size: int,
    ) -> None:
        self.partition_key = partition_key
        self.data = data
        self.explicit_hash_key = explicit_hash_key
        self.identity = identity
        self.accepted_at = 0.0
        self.hash_key = hash_key
        self.size = size
        self.history: tuple[Attempt, ...] = ()
        self.first_sent_at: float  # Not set for each record: few have a history.

    @property
    def key(self) -> tuple[str, int | None]:
        """What its order is kept by: records of one key may not overtake each other."""
        return self.partition_key, self.explicit_hash_key

    def error(self, code: str, message: str, *, retriable: bool) -> DeliveryError:
        """Return the error that says this record is given up."""
        record_id = None if self.identity is None else record_id_text(self.identity)
        return DeliveryError(
            FailedRecord(self.partition_key, self.data, self.explicit_hash_key, record_id),
            attempts=self.history,
            error_code=code,
            error_message=message,
            retriable=retriable,
        )


class Delivery(NamedTuple):
    """Where a pack is: what the results of its records have in common.

    Attributes:
        shard_id: The shard that holds it.
        sequence_number: The sequence number of its Kinesis record.
        attempts: Each time it was sent; the last one is the one that counts.
    """

    shard_id: str
    sequence_number: str
    attempts: tuple[Attempt, ...]

    def result(self, place: int, identity: bytes | str | None) -> PutResult:
        """Return the result of the record at a place in the pack."""
        return PutResult(self.shard_id, self.sequence_number, place, self.attempts, identity)


class Confirmed(NamedTuple):
    """The records of a pack, which the stream holds where KCL hands them out."""

    items: list[Item]
    delivery: Delivery

    def delivery_of(self, item: Item) -> Delivery:
        """Return the delivery as one of the records sees it: with its attempts in earlier packs."""
        if not item.history:
            return self.delivery
        return self.delivery._replace(attempts=joined(item.history, self.delivery.attempts))


class GivenUp(NamedTuple):
    """A record that is handed back, and why."""

    item: Item
    error: DeliveryError


Settled = Confirmed | GivenUp


class Listed(NamedTuple):
    """A stream as it was told of.

    Attributes:
        shards: Its shards, closed ones too.
        auto: Whether the service spreads records as it likes: RecordDistributionStrategy is AUTO.
        max_record_bytes: The most its records may count, if that was told.
    """

    shards: ShardMap
    auto: bool = False
    max_record_bytes: int | None = None


class Sent(NamedTuple):
    """When a request was sent, in seconds since 1970, and how long the answer took."""

    started_at: float
    duration: float

    def attempt(self, failure: Failure | None = None) -> Attempt:
        """Return what is remembered of it for a record."""
        code, message = (failure.code, failure.message) if failure else (None, None)
        return Attempt(self.started_at, self.duration, code, message)
