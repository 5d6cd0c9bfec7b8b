"""What can be wrong with the bytes of a record. None of it is mended by trying again."""

from collections.abc import Sequence
from typing import Any, ClassVar


class RecordsError(ValueError):
    """Root of everything `records` raises on purpose.

    Five kinds are raised; the two above them are there to be caught::

        RecordsError
        ├── RecordError            Kinesis would refuse the record
        │   ├── RecordTooLarge       data and partition key exceed the stream's record size
        │   └── InvalidPartitionKey  empty, too long, not encodable, or a hash key out of range
        ├── AggregateError         an aggregate that must not be read further
        ├── EnvelopeError          a record ID that cannot be given to this payload
        └── DeadLetterCorrupt      a dead-letter file is damaged or torn here

    Attributes:
        retriable: Whether the same call may succeed later. Always False here: bytes do not heal.
    """

    retriable: ClassVar[bool] = False


class RecordError(RecordsError):
    """A record that Kinesis would refuse, found before it is sent."""


class RecordTooLarge(RecordError):  # noqa: N818 - it says what is wrong
    """Data and partition key together exceed the record size of the stream.

    Attributes:
        size: Bytes of data plus bytes of the partition key in UTF-8.
        limit: The most the stream takes, in bytes.
    """

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"a record of {size} bytes (data and partition key) exceeds {limit} bytes")
        self.size = size
        self.limit = limit


class InvalidPartitionKey(RecordError):  # noqa: N818 - it says what is wrong
    """The partition key, or the explicit hash key in its place, is none that Kinesis takes."""


class AggregateError(RecordsError):
    """An aggregate, genuine by its checksum, that must not be read to its end.

    Attributes:
        decoded: The `records.aggregation.UserRecord`s before the fault, in their order.
        blob: The whole aggregate as it came, to be set aside.
        too_many: True if the aggregate holds more records or keys than the caller allowed; False
            if one of its records points outside a key table.
    """

    def __init__(
        self, message: str, *, decoded: Sequence[Any], blob: bytes, too_many: bool
    ) -> None:
        super().__init__(message)
        # Any: the module of UserRecord imports this one.
        self.decoded: tuple[Any, ...] = tuple(decoded)
        self.blob = blob
        self.too_many = too_many


class EnvelopeError(RecordsError):
    """The payload already carries another record ID, or the ID is none that can be carried."""


class DeadLetterCorrupt(RecordsError):  # noqa: N818 - it says what is wrong
    """A dead-letter file cannot be read at `offset`; everything before it has been yielded.

    Attributes:
        offset: Where the damaged frame begins, in bytes from the start of the file.
        torn: True if the file merely ends inside the frame, as after a crash while writing.
    """

    def __init__(self, message: str, *, offset: int, torn: bool) -> None:
        super().__init__(f"{message} at byte {offset}")
        self.offset = offset
        self.torn = torn
