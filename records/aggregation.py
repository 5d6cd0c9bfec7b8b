"""KPL aggregates: many user records in one Kinesis record, in the format of AWS's own libraries.

::

    magic F3 89 9A C2 | AggregatedRecord (protobuf) | MD5 of the protobuf
    4 bytes           | the rest                    | 16 bytes

    message AggregatedRecord {
      repeated string partition_key_table     = 1;
      repeated string explicit_hash_key_table = 2;
      repeated Record records                 = 3;
    }
    message Record {
      required uint64 partition_key_index     = 1;
      optional uint64 explicit_hash_key_index = 2;
      required bytes  data                    = 3;
      repeated Tag    tags                    = 4;   // never in use; skipped here
    }

The builder writes what the KPL writes, byte for byte: both tables in the order in which their
keys were first seen, then the records. The decoder takes whatever protobuf allows. Both are
written out by hand: for two messages plain Python is well ahead of AWS's own Python library, not
far from the C runtime of protobuf alone (benchmarks/codec.py), and has nothing to install.

AWS: KPL Aggregated Record Format,
https://github.com/awslabs/amazon-kinesis-producer/blob/master/aggregation-format.md
"""

import hashlib
from functools import partial
from itertools import count
from typing import Final, NamedTuple

from records.aggregate_body import Message, read_any, read_canonical
from records.errors import AggregateError, InvalidPartitionKey
from records.limits import MAX_HASH_KEY, MAX_RECORD_BYTES
from records.partition import hash_key
from records.protobuf import WireError, encode_varint

MAGIC: Final = b"\xf3\x89\x9a\xc2"
# Magic and MD5: what an aggregate has beside its protobuf, in bytes.
OVERHEAD_BYTES: Final = 20
# A user record takes at least six bytes, so this is the most that a record of 1 MiB can hold. It
# bounds what a 10 MiB record made in bad faith can make of itself in memory.
MAX_USER_RECORDS: Final = MAX_RECORD_BYTES // 6

_DIGEST_BYTES: Final = 16
_KEY_TABLE: Final = b"\x0a"
_HASH_KEY_TABLE: Final = b"\x12"
_KEY_INDEX: Final = b"\x08"
_HASH_KEY_INDEX: Final = b"\x10"
_RECORD: Final = b"\x1a"  # also the tag of `data` inside a Record: both are field 3 and bytes

_md5: Final = hashlib.md5


class UserRecord(NamedTuple):
    """One record as an application put it, before aggregation.

    A named tuple, because a consumer makes one for each record that it reads.

    Attributes:
        partition_key: The key the application gave.
        data: Its data.
        explicit_hash_key: The place in the hash space it asked for instead of its key's MD5.
        sub_sequence_number: Its place in the aggregate, from 0. The sequence number of the
            Kinesis record and this one together are its position in the shard.
    """

    partition_key: str
    data: bytes
    explicit_hash_key: int | None = None
    sub_sequence_number: int = 0

    @property
    def hash_key(self) -> int:
        """Its place in the hash space: the explicit hash key, else the MD5 of the key."""
        if self.explicit_hash_key is not None:
            return self.explicit_hash_key
        return hash_key(self.partition_key)


class AggregateBuilder:
    """Packs user records into one aggregate, and knows its exact size at any moment.

    It checks no record against the limits of Kinesis (`records.limits.check_record` does), and
    is not safe to share between threads.
    """

    __slots__ = (
        "_count",
        "_hash_index_headers",
        "_hash_key_table",
        "_index_headers",
        "_key_table",
        "_max_bytes",
        "_records",
        "_size",
    )

    def __init__(self, *, max_bytes: int) -> None:
        """Make an empty builder.

        Args:
            max_bytes: The most that `build` may return. The partition key that the aggregate is
                put under counts against the record size as well: leave room for it.
        """
        self._max_bytes = max_bytes
        self._count: int
        self._size: int
        self._records: list[bytes]
        self.clear()

    def try_add(
        self, partition_key: str, data: bytes, explicit_hash_key: int | None = None
    ) -> bool:
        """Add a user record, and return True; or change nothing and return False: no room for it.

        An empty builder that returns False will never take this record.

        Raises:
            InvalidPartitionKey: the key cannot be written in UTF-8, or the explicit hash key is
                outside 0..2**128-1.
        """
        if explicit_hash_key is not None:
            return self._try_add_explicit(partition_key, data, explicit_hash_key)
        new_size = self._size
        index_header = self._index_headers.get(partition_key)
        key_entry: tuple[bytes, ...] = ()
        if index_header is None:
            key_entry, index_header = self._new_key(partition_key)
            new_size += len(key_entry[0]) + len(key_entry[1])
        size = len(data)
        data_header = _LENGTHS[size] if size < _KNOWN else _RECORD + encode_varint(size)
        size += len(index_header) + len(data_header)
        header = _LENGTHS[size] if size < _KNOWN else _RECORD + encode_varint(size)
        new_size += len(header) + size
        if new_size > self._max_bytes:
            return False
        if key_entry:
            self._index_headers[partition_key] = index_header
            self._key_table += key_entry
        self._size = new_size
        self._count += 1
        self._records += (header, index_header, data_header, data)
        return True

    @property
    def size(self) -> int:
        """The exact length in bytes of what `build` returns now."""
        return self._size

    def __len__(self) -> int:
        """Return the number of user records in it."""
        return self._count

    def build(self) -> bytes:
        """Return the aggregate. The builder keeps its records: `clear` it to begin another.

        An aggregate of no records is 20 bytes, which every reader takes for a plain record.
        """
        body = b"".join((*self._key_table, *self._hash_key_table, *self._records))
        return b"".join((MAGIC, body, _md5(body, usedforsecurity=False).digest()))

    def clear(self) -> None:
        """Forget all records."""
        self._count = 0
        self._size = OVERHEAD_BYTES
        # What stands in a Record for a key: its tag and its index in the table.
        self._index_headers: dict[str, bytes] = {}
        self._hash_index_headers: dict[int, bytes] = {}
        self._key_table: list[bytes] = []
        self._hash_key_table: list[bytes] = []
        self._records = []

    def _new_key(self, partition_key: str) -> tuple[tuple[bytes, bytes], bytes]:
        """Return the table entry of a key that is not there yet, and what a Record has for it."""
        try:
            key = partition_key.encode()
        except UnicodeEncodeError as error:
            raise InvalidPartitionKey(f"a partition key must be Unicode text: {error}") from None
        size, index = len(key), len(self._index_headers)
        entry = _KEY_LENGTHS[size] if size < _KNOWN else _KEY_TABLE + encode_varint(size)
        header = _KEY_INDEXES[index] if index < _KNOWN else _KEY_INDEX + encode_varint(index)
        return (entry, key), header

    def _try_add_explicit(self, partition_key: str, data: bytes, explicit_hash_key: int) -> bool:
        """Do what `try_add` does for a record with an explicit hash key."""
        index_header = self._index_headers.get(partition_key)
        key_entry: tuple[bytes, ...] = ()
        if index_header is None:
            key_entry, index_header = self._new_key(partition_key)
        hash_index_header = self._hash_index_headers.get(explicit_hash_key)
        hash_entry = b""
        if hash_index_header is None:
            if not 0 <= explicit_hash_key <= MAX_HASH_KEY:
                raise InvalidPartitionKey("an explicit hash key lies in 0..2**128-1")
            digits = b"%d" % explicit_hash_key
            hash_entry = _HASH_KEY_TABLE + encode_varint(len(digits)) + digits
            hash_index_header = _HASH_KEY_INDEX + encode_varint(len(self._hash_index_headers))
        indexes = index_header + hash_index_header
        data_header = _RECORD + encode_varint(len(data))
        size = len(indexes) + len(data_header) + len(data)
        header = _RECORD + encode_varint(size)
        new_size = self._size + sum(map(len, key_entry)) + len(hash_entry) + len(header) + size
        if new_size > self._max_bytes:
            return False
        if key_entry:
            self._index_headers[partition_key] = index_header
            self._key_table += key_entry
        if hash_entry:
            self._hash_index_headers[explicit_hash_key] = hash_index_header
            self._hash_key_table.append(hash_entry)
        self._size = new_size
        self._count += 1
        self._records += (header, indexes, data_header, data)
        return True


def is_aggregate(blob: bytes) -> bool:
    """Return True if magic and checksum say that this is an aggregate.

    Data that merely begins with the magic is a plain record to every reader.
    """
    return (
        len(blob) > OVERHEAD_BYTES
        and blob.startswith(MAGIC)
        and _md5(memoryview(blob)[len(MAGIC) : -_DIGEST_BYTES], usedforsecurity=False).digest()
        == blob[-_DIGEST_BYTES:]
    )


def needs_wrapping(data: bytes) -> bool:
    """Return True if this data of a plain record would be taken apart by consumers.

    It is itself an aggregate, such as a record that is copied from one stream to another. To
    arrive as it is, it must be put as the only record of another aggregate: readers take apart
    one layer only.
    """
    return is_aggregate(data)


def decode(
    blob: bytes, *, max_records: int = MAX_USER_RECORDS, strict: bool = True
) -> list[UserRecord] | None:
    """Take an aggregate apart.

    Like the Kinesis Client Library it takes a record whose checksum or protobuf is wrong for a
    plain one, and does not look into aggregates inside aggregates. An explicit hash key that is
    no number in 0..2**128-1 is left out, so that the key's MD5 counts, where that library would
    lose the record and all that follow it.

    Args:
        blob: The data of a Kinesis record.
        max_records: The most user records to unpack, and the most keys of either kind to read.
        strict: What to do about a record that points outside a table: raise, or return those
            before it, as the Kinesis Client Library does.

    Returns:
        The user records in their order, maybe none; or None if this is a plain record.

    Raises:
        AggregateError: there are more than `max_records` of anything, or, if strict, a record
            points outside a table. It carries the blob and, of the latter, what came before it.
    """
    if not is_aggregate(blob):
        return None
    end = len(blob) - _DIGEST_BYTES
    columns = read_canonical(blob, len(MAGIC), end, max_records)
    if columns is not None:
        return list(map(_new_user_record, zip(*columns, count(), strict=False)))
    try:
        message = read_any(blob, len(MAGIC), end, max_records)
    except WireError:
        return None
    if message.longest() > max_records:
        reason = f"an aggregate of more than {max_records} records or keys"
        raise AggregateError(reason, decoded=(), blob=blob, too_many=True)
    return _resolve(message, blob, strict=strict)


def _resolve(message: Message, blob: bytes, *, strict: bool) -> list[UserRecord]:
    """Look the indexes up in their tables."""
    records: list[UserRecord] = []
    for place, (key_index, hash_key_index, data) in enumerate(message.records):
        try:
            key = message.keys[key_index]
            explicit = None if hash_key_index is None else message.hash_keys[hash_key_index]
        except IndexError:
            if not strict:
                break
            reason = f"record {place} of {len(message.records)} points outside a key table"
            raise AggregateError(reason, decoded=records, blob=blob, too_many=False) from None
        records.append(UserRecord(key, data, explicit, place))
    return records


# Makes a UserRecord of a tuple without a Python call, which would take as long as the rest.
_new_user_record: Final = partial(tuple.__new__, UserRecord)

# Each tag with each number below 2,048: what nearly every header of a record is made of.
_KNOWN: Final = 2048
_LENGTHS: Final = tuple(_RECORD + encode_varint(size) for size in range(_KNOWN))
_KEY_LENGTHS: Final = tuple(_KEY_TABLE + encode_varint(size) for size in range(_KNOWN))
_KEY_INDEXES: Final = tuple(_KEY_INDEX + encode_varint(index) for index in range(_KNOWN))
