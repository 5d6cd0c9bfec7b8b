"""Just enough of protobuf's wire format to read any message: varints and fields.

Protocol Buffers, Encoding: https://protobuf.dev/programming-guides/encoding/
"""

from collections.abc import Iterator
from typing import Final

VARINT: Final = 0
FIXED64: Final = 1
BYTES: Final = 2
START_GROUP: Final = 3
END_GROUP: Final = 4
FIXED32: Final = 5

_MAX_VARINT_BYTES: Final = 10
_MAX_TAG: Final = 2**32 - 1
_MAX_GROUP_DEPTH: Final = 100  # as in protobuf's own libraries


class WireError(ValueError):
    """These bytes are no protobuf message."""


def encode_varint(value: int) -> bytes:
    """Return a number that is not negative as a varint: seven bits a byte, the lowest first."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_varint(data: bytes, position: int, end: int) -> tuple[int, int]:
    """Return the varint at `position`, cut to 64 bits as protobuf does, and where it ends.

    Raises:
        WireError: it does not end before `end`, or not within ten bytes.
    """
    value = shift = 0
    for place in range(position, min(end, position + _MAX_VARINT_BYTES)):
        byte = data[place]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (2**64 - 1), place + 1
        shift += 7
    raise WireError("a varint without an end")


def read_fields(data: bytes, position: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield each field of the message at `data[position:end]`.

    Yields:
        (field number, wire type, a, b): for a VARINT a is its value; for BYTES they are
        `data[a:b]`; for the other types, which nothing here reads, they only say where it lies.

    Raises:
        WireError: the bytes are no message. The fields before the fault have been yielded.
    """
    while position < end:
        tag, position = read_varint(data, position, end)
        number, kind = tag >> 3, tag & 7
        if number == 0 or tag > _MAX_TAG:
            raise WireError("a field without a number")
        if kind == VARINT:
            value, position = read_varint(data, position, end)
            yield number, kind, value, position
            continue
        start, position = _skip(data, position, end, number, kind)
        yield number, kind, start, position


def _skip(data: bytes, position: int, end: int, number: int, kind: int) -> tuple[int, int]:
    """Return where the value of a field that is no varint begins and ends."""
    if kind == BYTES:
        size, position = read_varint(data, position, end)
    elif kind == FIXED64:
        size = 8
    elif kind == FIXED32:
        size = 4
    elif kind == START_GROUP:
        return position, _skip_group(data, position, end, number)
    else:
        raise WireError(f"a field of type {kind}")
    if size > end - position:
        raise WireError("a field beyond the end")
    return position, position + size


def _skip_group(data: bytes, position: int, end: int, number: int) -> int:
    """Return the end of the group whose start tag was just read. Groups nest; the stack is ours."""
    opened = [number]
    while opened:
        tag, position = read_varint(data, position, end)
        number, kind = tag >> 3, tag & 7
        if number == 0 or tag > _MAX_TAG:
            raise WireError("a field without a number")
        if kind == START_GROUP:
            opened.append(number)
            if len(opened) > _MAX_GROUP_DEPTH:
                raise WireError("groups nested too deep")
        elif kind == END_GROUP:
            if opened.pop() != number:
                raise WireError("a group with another's end")
        elif kind == VARINT:
            _, position = read_varint(data, position, end)
        else:
            _, position = _skip(data, position, end, number, kind)
    return position
