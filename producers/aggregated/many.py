"""Records that are put together, and what becomes of each."""

from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import TypeAlias

from producers.aggregated.values import PutResult
from producers.errors import BufferFullError, DeliveryError, FailedRecord
from records.errors import RecordsError

Asked: TypeAlias = tuple[str, bytes] | tuple[str, bytes, int | None]


def put_each(
    put: Callable[..., "Future[PutResult]"], records: Iterable[Asked]
) -> "list[Future[PutResult] | DeliveryError]":
    """Put records; what `put` would not take has an error in its place, named after what it raised.

    For room `put` waits as long as it takes, so what comes too late is what the stream says of
    large records: such a record has expired, and may be put again.
    """
    return [_put_or_refuse(put, *record) for record in records]


def outcome_of(asked: "Future[PutResult] | DeliveryError") -> PutResult | DeliveryError:
    """Wait for a record, and return what became of it."""
    if isinstance(asked, DeliveryError):
        return asked
    error = asked.exception()
    return error if isinstance(error, DeliveryError) else asked.result()


def _put_or_refuse(
    put: Callable[..., "Future[PutResult]"],
    partition_key: str,
    data: bytes,
    explicit_hash_key: int | None = None,
) -> "Future[PutResult] | DeliveryError":
    try:
        return put(partition_key, data, explicit_hash_key=explicit_hash_key)
    except (RecordsError, TypeError, BufferFullError) as error:
        late = isinstance(error, BufferFullError)
        return DeliveryError(
            FailedRecord(partition_key, data, explicit_hash_key, None),
            attempts=(),
            error_code="RecordExpired" if late else type(error).__name__,
            error_message=str(error),
            retriable=late,
        )
