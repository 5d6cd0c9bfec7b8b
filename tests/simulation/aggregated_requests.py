"""What every request must keep to, whatever became of those before it."""

from collections.abc import Sequence

from producers.put_records import Record
from records.aggregation import UserRecord, is_aggregate
from records.limits import MAX_PUT_REQUEST_BYTES, MAX_RECORDS_PER_PUT, record_bytes
from tests.simulation.aggregated_regime import Regime


class BrokenError(AssertionError):
    """A promise does not hold."""


def check_request(
    regime: Regime, records: Sequence[Record], users: Sequence[Sequence[UserRecord]]
) -> None:
    """Hold a request to the limits of Kinesis and to the settings.

    Raises:
        BrokenError: with what does not hold.
    """
    sizes = [record_bytes(record.partition_key, record.data) for record in records]
    if not 0 < len(records) <= MAX_RECORDS_PER_PUT or sum(sizes) > MAX_PUT_REQUEST_BYTES:
        raise BrokenError(f"a request of {len(records)} records and {sum(sizes)} bytes")
    if max(sizes) > regime.max_record_bytes:
        raise BrokenError(f"a record of {max(sizes)} bytes")
    settings = regime.settings
    is_auto = regime.auto_from == 0  # Later on it may not know yet.
    for size, inside in zip(sizes, users, strict=True):
        if len(inside) == 1:
            continue
        if not settings.aggregation or is_auto:
            raise BrokenError("records travel together where they must not")
        if size > settings.max_aggregate_bytes or len(inside) > settings.max_aggregate_records:
            raise BrokenError(f"an aggregate of {len(inside)} records and {size} bytes")
        if settings.same_key and len({_key(user) for user in inside}) > 1:
            raise BrokenError("records of two keys travel together in spite of same_key")
    if is_auto and any(is_aggregate(record.data) for record in records):
        raise BrokenError("KCL will drop an aggregate that may land on any shard")


def _key(user: UserRecord) -> tuple[str, int | None]:
    return user.partition_key, user.explicit_hash_key
