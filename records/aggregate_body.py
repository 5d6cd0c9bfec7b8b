"""The protobuf inside an aggregate, read in two ways: fast when it is usual, and else patiently.

Both give the same for the same bytes. `records.aggregation` is what to call.
"""

from collections.abc import Iterable, Sequence
from itertools import chain, repeat
from typing import Final, NamedTuple

from records.limits import MAX_HASH_KEY
from records.protobuf import BYTES, VARINT, WireError, read_fields

_KEY_TABLE_TAG: Final = 0x0A
_HASH_KEY_TABLE_TAG: Final = 0x12
_RECORD_TAG: Final = 0x1A
_KEY_INDEX_TAG: Final = 0x08
_HASH_KEY_INDEX_TAG: Final = 0x10
_DATA_TAG: Final = 0x1A

_MIN_ENTRY_BYTES: Final = 2  # of a table: tag and length
_MIN_RECORD_BYTES: Final = 6  # tag and length, of the index tag and number, and of empty data
_CONTINUED: Final = bytes(range(0x80, 0x100))  # what all bytes of a varint but its last are of
# Looking for entries that are alike pays from a few on; the first time there are fewer, it ends.
_WORTH_A_LOOK: Final = 4
_LOOK_AHEAD: Final = 128


class Columns(NamedTuple):
    """One entry for each user record in each of the three."""

    partition_keys: list[str]
    data: list[bytes]
    explicit_hash_keys: Iterable[int | None]  # may go on with None for ever


class Message(NamedTuple):
    """An AggregatedRecord as it is, its indexes not yet looked up.

    Attributes:
        keys: The table of partition keys.
        hash_keys: The table of explicit hash keys; None for what is no number in 0..2**128-1.
        records: Key index, explicit hash key index and data of each Record.
    """

    keys: list[str]
    hash_keys: list[int | None]
    records: list[tuple[int, int | None, bytes]]

    def longest(self) -> int:
        """Return the length of the longest of the three."""
        return max(len(self.keys), len(self.hash_keys), len(self.records))


def read_canonical(blob: bytes, start: int, end: int, max_records: int) -> Columns | None:
    """Read what the KPL and our builder write; None means that it is something else.

    Whatever is unusual is left to `read_any`: another order or field, numbers of more than two
    bytes, any fault, too much of anything. A few bytes are looked at before it is known that they
    belong to the message.

    Args:
        blob: An aggregate. At least 16 bytes, those of the checksum, follow `end`.
        start: Where the message begins.
        end: Where it ends.
        max_records: The most records to return, and the most keys of either kind.
    """
    try:
        keys, position = _read_table(blob, start, end, _KEY_TABLE_TAG, max_records)
        entries, position = _read_table(blob, position, end, _HASH_KEY_TABLE_TAG, max_records)
        hash_keys = [_parse_hash_key(entry) for entry in entries]
        return _read_records(blob, position, end, keys, hash_keys, most=max_records)
    except (IndexError, UnicodeDecodeError):
        return None


def read_any(blob: bytes, start: int, end: int, max_records: int) -> Message:
    """Read whatever protobuf allows: any order, unknown fields, the last of a field given twice.

    It ends with the first record, or key of either kind, beyond `max_records`.

    Raises:
        WireError: this is no AggregatedRecord, or one of its Records lacks a required field.
    """
    message = Message([], [], [])
    try:
        for number, kind, first, last in read_fields(blob, start, end):
            if kind != BYTES:
                continue
            if number == 1:
                message.keys.append(blob[first:last].decode())
            elif number == 2:
                message.hash_keys.append(_parse_hash_key(blob[first:last].decode()))
            elif number == 3:
                message.records.append(_read_record(blob, first, last))
            if message.longest() > max_records:
                break
    except UnicodeDecodeError as error:
        raise WireError(f"a key that is not UTF-8: {error}") from None
    return message


def _read_table(blob: bytes, position: int, end: int, tag: int, most: int) -> tuple[list[str], int]:
    entries: list[str] = []
    alike = True
    safe = position + most * _MIN_ENTRY_BYTES  # so far there are not too many to count
    while blob[position] == tag:
        if position > safe and len(entries) > most:
            raise IndexError
        start = position
        size = blob[position + 1]
        position += 2
        if size >= 0x80:
            high = blob[position]
            if high >= 0x80:
                raise IndexError
            size += (high << 7) - 0x80
            position += 1
        stop = position + size
        entries.append(blob[position:stop].decode())
        if alike:
            run = _count_alike(blob, start, stop, range(position - start), end)
            alike = run >= _WORTH_A_LOOK
            rest = range(position, start + run * (stop - start), stop - start)[1:]
            entries += [blob[first : first + size].decode() for first in rest]
            stop += len(rest) * (stop - start)
        position = stop
    if len(entries) > most:
        raise IndexError
    return entries, position


def _read_records(  # noqa: C901, PLR0911, PLR0912, PLR0915 - a call takes as long as all this
    blob: bytes, position: int, end: int, keys: list[str], hash_keys: list[int | None], *, most: int
) -> Columns | None:
    picked: list[str] = []
    data: list[bytes] = []
    explicit: list[int | None] = []
    alike = True
    safe = min(end, position + most * _MIN_RECORD_BYTES)  # so far there are not too many to count
    while position < safe or (position < end and len(data) <= most):
        start = position
        if blob[position] != 0x1A:
            return None
        size = blob[position + 1]
        position += 2
        if size >= 0x80:
            high = blob[position]
            if high >= 0x80:
                return None
            size += (high << 7) - 0x80
            position += 1
        stop = position + size
        if blob[position] != 0x08:
            return None
        index_at = position + 1
        index = blob[index_at]
        position += 2
        if index >= 0x80:
            high = blob[position]
            if high >= 0x80:
                return None
            index += (high << 7) - 0x80
            position += 1
        if blob[position] != 0x1A:
            alike = False
            hash_key_index, position = _read_hash_key_index(blob, position)
            explicit += repeat(None, len(data) - len(explicit))
            explicit.append(hash_keys[hash_key_index])
        tag_at = position
        size = blob[position + 1]
        position += 2
        if size >= 0x80:
            high = blob[position]
            if high >= 0x80:
                return None
            size += (high << 7) - 0x80
            position += 1
        if position + size != stop:
            return None
        data.append(blob[position:stop])
        picked.append(keys[index])
        position = stop
        if alike:
            header = _Header(start, index_at, tag_at, stop - size, stop)
            indexes = _indexes_alike(blob, header, end)
            step = stop - start
            position += len(indexes) * step
            picked += [keys[index] for index in indexes]
            data += [blob[last - size : last] for last in range(stop + step, position + 1, step)]
            alike = len(indexes) >= _WORTH_A_LOOK
    if position != end or len(data) > most:
        return None
    return Columns(picked, data, chain(explicit, repeat(None)) if explicit else repeat(None))


class _Header(NamedTuple):
    """Where the parts of one record stand in the blob."""

    start: int
    index_at: int
    tag_at: int
    data_at: int
    stop: int


def _indexes_alike(blob: bytes, header: _Header, end: int) -> Sequence[int]:
    """Return the key indexes of the records behind this one that are headed alike.

    Devices that send records of one size are many, and their headers differ in the index alone.
    """
    start, index_at, tag_at, data_at, stop = header
    fixed = (*range(index_at - start), *range(tag_at - start, data_at - start))
    run = _count_alike(blob, start, stop, fixed, end)
    step = stop - start
    low = blob[index_at + step : start + run * step : step]
    if tag_at - index_at == 1:
        return low if low.isascii() else b""
    high = blob[index_at + 1 + step : start + run * step : step]
    if not high.isascii() or low.translate(None, _CONTINUED):
        return b""
    return [a - 0x80 + (b << 7) for a, b in zip(low, high, strict=True)]


def _count_alike(blob: bytes, start: int, stop: int, fixed: Iterable[int], end: int) -> int:
    """Count the entries from `start` on that are as long as the first and headed as it is.

    Args:
        blob: An aggregate.
        start: Where the first begins.
        stop: Where it ends, and the next begins.
        fixed: Which of its bytes make its header, counted from its start.
        end: Where the message ends. At most 128 entries are looked at.
    """
    step = stop - start
    count = min((end - start) // step, _LOOK_AHEAD)
    for place in fixed:
        column = blob[start + place : start + count * step : step]
        count = len(column) - len(column.lstrip(column[:1]))
    return count


def _read_hash_key_index(blob: bytes, position: int) -> tuple[int, int]:
    """Return the index, and where the tag of the data stands behind it."""
    index = blob[position + 1]
    if index < 0x80:
        behind = position + 2
    else:
        high = blob[position + 2]
        index += (high << 7) - 0x80
        behind = position + 3
        if high >= 0x80:
            raise IndexError
    if blob[position] != _HASH_KEY_INDEX_TAG or blob[behind] != _DATA_TAG:
        raise IndexError
    return index, behind


def _read_record(blob: bytes, start: int, stop: int) -> tuple[int, int | None, bytes]:
    key_index: int | None = None
    hash_key_index: int | None = None
    data: bytes | None = None
    for number, kind, first, last in read_fields(blob, start, stop):
        if number == 1 and kind == VARINT:
            key_index = first
        elif number == 2 and kind == VARINT:
            hash_key_index = first
        elif number == 3 and kind == BYTES:
            data = blob[first:last]
    if key_index is None or data is None:
        raise WireError("a Record without one of its required fields")
    return key_index, hash_key_index, data


def _parse_hash_key(text: str) -> int | None:
    """Return an explicit hash key, or None for what is no decimal number in 0..2**128-1."""
    if not (text.isascii() and text.isdigit()) or len(text) > len(str(MAX_HASH_KEY)):
        return None
    value = int(text)
    return value if value <= MAX_HASH_KEY else None
