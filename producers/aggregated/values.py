"""What goes through the engine: a user record on its way, what came of it, and the settings."""

from dataclasses import dataclass, field

from producers.errors import DeliveryError, FailedRecord
from records.limits import KPL_AGGREGATE_BYTES, MAX_RECORD_BYTES, record_bytes
from records.partition import hash_key


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How the engine packs, and for how long it tries.

    Args:
        linger: Seconds that a record may wait for others to travel with.
        max_aggregate_bytes: The most an aggregate may count, its outer partition key included.
        max_record_bytes: The stream's own maximum for one record, with its key.
        max_record_age: Seconds after which a record that is not confirmed is given up; None: never.
    """

    linger: float = 0.1
    max_aggregate_bytes: int = KPL_AGGREGATE_BYTES
    max_record_bytes: int = MAX_RECORD_BYTES
    max_record_age: float | None = 60.0

    def __post_init__(self) -> None:
        age = self.max_record_age
        if not self.linger >= 0 or not (age is None or age > 0):  # so that NaN is refused too
            raise ValueError("linger must not be negative, and max_record_age must be positive")
        if not 64 <= self.max_aggregate_bytes <= self.max_record_bytes:
            raise ValueError("max_aggregate_bytes must lie between 64 and max_record_bytes")


@dataclass(frozen=True, slots=True)
class PutResult:
    """Where a user record is.

    Attributes:
        shard_id: The shard that holds it.
        sequence_number: The sequence number of the Kinesis record it travelled in.
        sub_sequence_number: Its place in that aggregate, from 0.
        attempts: How often it was sent.
        record_id: The ID it carries, if any.
    """

    shard_id: str
    sequence_number: str
    sub_sequence_number: int
    attempts: int
    record_id: str | None


@dataclass(slots=True, eq=False)
class Item:
    """A user record that was taken and is not settled; `number` counts up in the order of put."""

    number: int
    partition_key: str
    data: bytes
    explicit_hash_key: int | None
    record_id: str | None
    accepted_at: float
    attempts: int = 0
    hash_key: int = field(init=False)
    size: int = field(init=False)

    def __post_init__(self) -> None:
        explicit = self.explicit_hash_key
        self.hash_key = hash_key(self.partition_key) if explicit is None else explicit
        self.size = record_bytes(self.partition_key, self.data)

    def error(self, code: str, message: str, *, retriable: bool) -> DeliveryError:
        """Return the error that says this record is given up."""
        return DeliveryError(
            FailedRecord(self.partition_key, self.data, self.explicit_hash_key, self.record_id),
            attempts=self.attempts,
            error_code=code,
            error_message=message,
            retriable=retriable,
        )


@dataclass(frozen=True, slots=True)
class Settled:
    """The end of a user record: confirmed, or given up."""

    item: Item
    result: PutResult | DeliveryError
