"""Frames of `application/vnd.amazon.eventstream`, in which SubscribeToShard answers.

A frame is its length, its headers' length, a checksum of these eight bytes, headers, payload, and a
checksum of all before it. Pure.
"""

import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

# Smithy: Amazon Event Stream Specification.
# https://smithy.io/2.0/aws/amazon-eventstream.html
_PRELUDE: Final = struct.Struct(">III")
_CHECKSUM: Final = struct.Struct(">I")
_LEAST_FRAME_BYTES: Final = _PRELUDE.size + _CHECKSUM.size
_MAX_HEADERS_BYTES: Final = 128 * 1024
_MAX_PAYLOAD_BYTES: Final = 24 * 1024 * 1024
_MAX_NAME_BYTES: Final = 255
_TEXT: Final = 7
_BYTES: Final = 6
# True, false, byte, short, integer, long; timestamp, UUID.
_FIXED_SIZES: Final = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}


class BrokenFrameError(ValueError):
    """The bytes are no frames."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame that was read.

    Attributes:
        raw: All its bytes.
        headers: Those of its headers that are text, which all of AWS' own are.
        payload: Its payload.
    """

    raw: bytes
    headers: Mapping[str, str]
    payload: bytes


@dataclass(slots=True)
class Frames:
    """Reads frames from pieces that are cut anywhere."""

    _rest: bytearray = field(default_factory=bytearray)

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Return the frames that are complete with these bytes, each as it is asked for.

        Raises:
            BrokenFrameError: What comes next is no frame; `take_rest` has it.
        """
        self._rest += data
        while len(self._rest) >= _PRELUDE.size:
            size = _size(self._rest)
            if len(self._rest) < size:
                return
            frame = _frame(bytes(self._rest[:size]))
            del self._rest[:size]
            yield frame

    def take_rest(self) -> bytes:
        """Return the bytes that no frame has been made of, and forget them."""
        rest = bytes(self._rest)
        self._rest.clear()
        return rest


def encode(headers: Mapping[str, str], payload: bytes) -> bytes:
    """Return a frame.

    Args:
        headers: Text, in this order.
        payload: Any bytes.

    Raises:
        ValueError: A name is longer than 255 bytes, a value longer than 32 KiB - 1, or all of it
            longer than a frame may be.
    """
    written = b"".join(_header(name, value) for name, value in headers.items())
    if len(written) > _MAX_HEADERS_BYTES or len(payload) > _MAX_PAYLOAD_BYTES:
        raise ValueError(f"{len(written)} B of headers, {len(payload)} B of payload: too long")
    size = _LEAST_FRAME_BYTES + len(written) + len(payload)
    prelude = struct.pack(">II", size, len(written))
    body = prelude + _CHECKSUM.pack(zlib.crc32(prelude)) + written + payload
    return body + _CHECKSUM.pack(zlib.crc32(body))


def _header(name: str, value: str) -> bytes:
    key, text = name.encode(), value.encode()
    if not 0 < len(key) <= _MAX_NAME_BYTES or len(text) > 0x7FFF:
        raise ValueError(f"the header {name!r} has no place in a frame")
    return bytes((len(key),)) + key + bytes((_TEXT,)) + struct.pack(">H", len(text)) + text


def _size(data: bytearray) -> int:
    size, headers_size, checksum = _PRELUDE.unpack_from(data)
    if zlib.crc32(data[:8]) != checksum:
        raise BrokenFrameError("a frame's prelude has another checksum")
    payload_size = size - headers_size - _LEAST_FRAME_BYTES
    if headers_size > _MAX_HEADERS_BYTES or not 0 <= payload_size <= _MAX_PAYLOAD_BYTES:
        raise BrokenFrameError(f"a frame of {size} B with {headers_size} B of headers")
    return int(size)


def _frame(raw: bytes) -> Frame:
    if _CHECKSUM.unpack(raw[-4:])[0] != zlib.crc32(raw[:-4]):
        raise BrokenFrameError("a frame has another checksum")
    headers_end = _PRELUDE.size + struct.unpack_from(">I", raw, 4)[0]
    headers: dict[str, str] = {}
    at = _PRELUDE.size
    try:
        while at < headers_end:
            name, value, at = _read_header(raw, at)
            if value is not None:
                headers[name] = value
    except (IndexError, KeyError, struct.error, UnicodeDecodeError) as error:
        raise BrokenFrameError("a frame's headers cannot be read") from error
    if at != headers_end:
        raise BrokenFrameError("a frame's headers are longer than it says")
    return Frame(raw, headers, raw[headers_end:-4])


def _read_header(raw: bytes, at: int) -> tuple[str, str | None, int]:
    value_type = at + 1 + raw[at]
    name = raw[at + 1 : value_type].decode()
    kind = raw[value_type]
    value = value_type + 1
    if kind not in (_TEXT, _BYTES):
        return name, None, value + _FIXED_SIZES[kind]
    (size,) = struct.unpack_from(">H", raw, value)
    end = value + 2 + int(size)
    return name, raw[value + 2 : end].decode() if kind == _TEXT else None, end
