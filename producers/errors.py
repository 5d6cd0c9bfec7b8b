"""What a producer raises. What becomes of a record that was taken is a value or its future."""

from dataclasses import dataclass
from typing import NamedTuple


class ProducerError(Exception):
    """Root of everything `producers` raises on purpose.

    ::

        ProducerError
        ├── BufferFullError      put() found no room in time; the record was not taken
        ├── ProducerClosedError  put() came after close(); the record was not taken
        └── DeliveryError   a record that was taken is given up; its future raises this

    A record that Kinesis would refuse by itself raises `records.errors.RecordError` in put().

    Attributes:
        retriable: Whether the same record may be put again with some hope.
    """

    retriable: bool = False


class BufferFullError(ProducerError):
    """The producer's buffer had no room within the timeout; nothing was taken, nothing is lost.

    Attributes:
        size: What the record would have taken of it, in bytes.
    """

    retriable = True

    def __init__(self, message: str, *, size: int) -> None:
        super().__init__(message)
        self.size = size


class ProducerClosedError(ProducerError):
    """The producer is closed or closing; the record was not taken."""


@dataclass(frozen=True, slots=True)
class FailedRecord:
    """The record as it would have been sent, record ID included."""

    partition_key: str
    data: bytes
    explicit_hash_key: int | None
    record_id: str | None


class Attempt(NamedTuple):
    """One time that a record was sent.

    Attributes:
        started_at: When, in seconds since 1970.
        duration: How long the answer took, in seconds.
        error_code: What went wrong, or None.
        error_message: What was said with it, or None.
    """

    started_at: float
    duration: float
    error_code: str | None = None
    error_message: str | None = None


class DeliveryError(ProducerError):
    """A record was taken and could not be confirmed. It may be in the stream all the same.

    Attributes:
        record: The record, ready to be put again: with its ID, so that doubles can be told.
        attempts: Each time it was sent, of more than 100 the first 50 and the last 50. None: it is
            not in the stream.
        error_code: The code of Kinesis or of the SDK, or one of the producer's own:
            `RecordExpired`, `PrecedingRecordFailed`, `ProducerClosed`, `UnorderedStream`.
        error_message: What was said with it.
        retriable: Whether the last error was one that may pass.
    """

    def __init__(
        self,
        record: FailedRecord,
        *,
        attempts: tuple[Attempt, ...],
        error_code: str,
        error_message: str,
        retriable: bool,
    ) -> None:
        super().__init__(
            f"not delivered after {len(attempts)} attempts, {error_code}: {error_message}"
        )
        self.record = record
        self.attempts = attempts
        self.error_code = error_code
        self.error_message = error_message
        self.retriable = retriable
