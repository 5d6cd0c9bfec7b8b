"""Before a record is taken: its ID is sealed in, and it is checked and hashed."""

from collections.abc import Callable

from producers.aggregated.future import PutFuture
from producers.aggregated.pack import lone_record
from records.aggregation import is_aggregate
from records.envelope import open_envelope, seal
from records.errors import RecordTooLarge
from records.limits import MAX_LARGE_RECORD_BYTES, MAX_RECORD_BYTES, check_record, record_bytes
from records.partition import hash_key
from records.record_ids import RecordIds


class Intake:
    """Makes futures of what callers put. Safe between threads.

    Args:
        record_ids: Whether each payload gets a record ID.
        wall_clock: Seconds since 1970, for the IDs.
        surely: What a record may count in any case, in bytes.
    """

    def __init__(
        self, *, record_ids: bool, wall_clock: Callable[[], float], surely: int = MAX_RECORD_BYTES
    ) -> None:
        self._surely = surely
        self._ids = RecordIds(wall_clock) if record_ids else None

    def future(  # noqa: PLR0917 - positional, because it is called for each record
        self,
        partition_key: str,
        data: bytes,
        explicit_hash_key: int | None,
        record_id: str | None,
        maximum: Callable[[int, float | None], int],
        until: float | None,
    ) -> PutFuture:
        """Return the future of a record; see `AggregatingProducer.put` for what it raises.

        `maximum` is asked only about a record of more than that, with its size and `until`: it
        returns the most that the stream takes, or raises if that is not known in time.
        """
        data, identity = self._sealed(data, record_id)
        try:
            size = counted = check_record(
                partition_key, data, explicit_hash_key, max_record_bytes=MAX_LARGE_RECORD_BYTES
            )
            if explicit_hash_key is None:
                place = hash_key(partition_key)
            else:
                place = _checked(partition_key, explicit_hash_key)
        except AttributeError:  # Quicker than a look at the type of each.
            raise TypeError(f"a partition key is text, not {partition_key!r:.100}") from None
        # What carries an ID begins with it.
        if identity is None and is_aggregate(data):  # It will be wrapped, which makes it larger.
            wire = lone_record(partition_key, data, explicit_hash_key)
            counted = record_bytes(wire.partition_key, wire.data)
        if counted > self._surely and counted > (most := maximum(counted, until)):
            raise RecordTooLarge(counted, most)
        return PutFuture(partition_key, data, explicit_hash_key, identity, place, size)

    def _sealed(self, data: bytes, record_id: str | None) -> tuple[bytes, bytes | str | None]:
        if type(data) is not bytes:
            data = bytes(memoryview(data))  # A copy of what the caller may change.
        if record_id is None:
            return (data, None) if self._ids is None else self._ids.seal(data)
        if open_envelope(data).record_id == record_id:
            return data, record_id
        return seal(data, record_id), record_id


def _checked(partition_key: object, explicit_hash_key: object) -> int:
    if not isinstance(partition_key, str):
        raise TypeError(f"a partition key is text, not {partition_key!r:.100}")
    if not isinstance(explicit_hash_key, int):
        raise TypeError(f"an explicit hash key is a whole number, not {explicit_hash_key!r:.100}")
    return explicit_hash_key
