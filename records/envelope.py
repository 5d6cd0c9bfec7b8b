"""The record ID travels with the payload, so that whoever reads twice can tell.

Kinesis has no idempotent put: a producer that retries after a lost answer writes the record a
second time, under another sequence number. AWS's advice is to embed a primary key (Kinesis Data
Streams Developer Guide, "Handle duplicate records"). This module embeds one in two forms:

- a JSON object gets the field `record_id`, in front, and is otherwise kept byte for byte;
- anything else is put in a binary frame::

    magic F7 'R' 'I' C4 | version 1 | n | CRC-32 | record ID | payload
    4 bytes             | 1 byte    | 1 | 4      | see n     | the rest

  n = 0: the ID is a UUID in canonical text, stored as its 16 bytes; else the ID is n bytes of
  ASCII. The checksum (big endian) covers version, n, ID and payload, so that bytes which merely
  begin like a frame are not taken for one.

Every ID and payload has exactly one sealed form. A payload that is itself a frame is framed again.
"""

import hashlib
import json
import random
import re
import struct
import time
import uuid
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from json.encoder import encode_basestring_ascii
from typing import Any, Final, Literal

from records.errors import EnvelopeError

FIELD: Final = "record_id"
MAX_RECORD_ID_CHARS: Final = 128

_FIELD_BYTES: Final = FIELD.encode()

_MAGIC: Final = b"\xf7RI\xc4"  # F7 never occurs in UTF-8, so no text begins like a frame
_VERSION: Final = 1
_HEADER: Final = struct.Struct(">4sBBI")
_UUID_BYTES: Final = 16
# What a frame adds to a payload whose ID is a UUID, in bytes.
FRAME_OVERHEAD: Final = _HEADER.size + _UUID_BYTES

_NAMESPACE: Final = uuid.UUID("7f1d3a52-90c4-5d0e-8b6a-52494b494e53")
_UUID_TEXT: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
_RECORD_ID: Final = re.compile(rf"[!-~]{{1,{MAX_RECORD_ID_CHARS}}}", re.ASCII)
_SYSTEM_RANDOM: Final = random.SystemRandom()


def new_record_id(
    *, clock: Callable[[], float] = time.time, rng: random.Random = _SYSTEM_RANDOM
) -> str:
    """Mint a record ID: a UUIDv7 in canonical text, which sorts by the millisecond it was made.

    Mint it once, where the event is born, and let every retry carry the same one.

    Args:
        clock: Returns the time in seconds since 1970.
        rng: Gives the 74 random bits; the operating system's by default.

    RFC 9562, section 5.7.
    """
    milliseconds = int(clock() * 1000) & (2**48 - 1)
    bits = rng.getrandbits(74)
    high, low = bits >> 62, bits & (2**62 - 1)
    return _uuid_text(f"{milliseconds << 80 | 7 << 76 | high << 64 | 2 << 62 | low:032x}")


def derived_record_id(source: str, position: str) -> str:
    """Return the record ID of what lies at `position` of `source`: the same again each time.

    A producer that reads a file or another stream gives each record such an ID, so that a
    restart which reads the source once more makes duplicates that can be told.

    Args:
        source: What is read, such as a file's path or a topic. It may hold lone surrogates, as the
            path of a file does whose name is not UTF-8.
        position: Where in it, such as a byte offset or a sequence number.
    """
    # The length keeps ("a", "bc") and ("ab", "c") apart. `uuid.uuid5` would take no surrogates.
    name = f"{len(source)}:{source}{position}".encode(errors="surrogatepass")
    digest = hashlib.sha1(_NAMESPACE.bytes + name, usedforsecurity=False).digest()
    return str(uuid.UUID(bytes=digest[:16], version=5))


@dataclass(frozen=True, slots=True)
class Envelope:
    """What was found in the data of a record.

    Attributes:
        record_id: The ID it carries, or None.
        payload: What the application wrote; in the form "json" that includes the field.
        form: "json" (a JSON object with the field), "frame", or "bare" (no ID in it).
    """

    record_id: str | None
    payload: bytes
    form: Literal["json", "frame", "bare"]


def seal(payload: bytes, record_id: str) -> bytes:
    """Return `payload` with its record ID, ready to be put.

    Args:
        payload: Any bytes. A JSON object in UTF-8 stays one; if it has this ID already, it is
            returned as it is.
        record_id: 1 to 128 printable ASCII characters without spaces; better a UUID.

    Raises:
        EnvelopeError: the ID is none of that kind, or the JSON object has another `record_id`.
    """
    if not _RECORD_ID.fullmatch(record_id):
        raise EnvelopeError(
            f"a record ID is 1 to {MAX_RECORD_ID_CHARS} printable ASCII characters: {record_id!r}"
        )
    found = _json_record_ids(payload)
    if found is None:
        return _frame(payload, record_id)
    if not found:
        return _with_field(payload, record_id)
    if any(other != record_id for other in found):
        raise EnvelopeError(f"the payload has {FIELD} {found[0]!r:.150}, not {record_id!r}")
    return payload


def open_envelope(data: bytes) -> Envelope:
    """Tell which form `data` has, and take it apart. Never raises: what has no ID is "bare"."""
    if data.startswith(_MAGIC):
        return _open_frame(data) or Envelope(None, data, "bare")
    # Without the field there is no need to parse; its name could also be spelled with escapes.
    if _FIELD_BYTES not in data and b"\\u" not in data:
        return Envelope(None, data, "bare")
    found = _json_record_ids(data)
    # Parsers disagree on which of two fields counts, so two that differ are none.
    if not found or any(other != found[0] for other in found):
        return Envelope(None, data, "bare")
    if not isinstance(found[0], str) or not _RECORD_ID.fullmatch(found[0]):
        return Envelope(None, data, "bare")
    return Envelope(found[0], data, "json")


def is_json_object(data: bytes) -> bool:
    """Return True if `seal` would put the ID into this payload, as a field, and not around it."""
    return _json_record_ids(data) is not None


def _frame(payload: bytes, record_id: str) -> bytes:
    if _UUID_TEXT.fullmatch(record_id):
        size, identity = 0, bytes.fromhex(record_id.replace("-", ""))
    else:
        size, identity = len(record_id), record_id.encode("ascii")
    checksum = _checksum(bytes((_VERSION, size)), identity, payload)
    return b"".join((_HEADER.pack(_MAGIC, _VERSION, size, checksum), identity, payload))


def _open_frame(data: bytes) -> Envelope | None:
    if len(data) < _HEADER.size:
        return None
    _, version, size, checksum = _HEADER.unpack_from(data)
    end = _HEADER.size + (size or _UUID_BYTES)
    if version != _VERSION or size > MAX_RECORD_ID_CHARS or len(data) < end:
        return None
    identity, payload = data[_HEADER.size : end], data[end:]
    if _checksum(data[4:6], identity, payload) != checksum:
        return None
    if size == 0:
        return Envelope(_uuid_text(identity.hex()), payload, "frame")
    record_id = identity.decode("ascii", "replace")
    # A UUID spelled out would be a second form of the same frame.
    if not _RECORD_ID.fullmatch(record_id) or _UUID_TEXT.fullmatch(record_id):
        return None
    return Envelope(record_id, payload, "frame")


def _uuid_text(digits: str) -> str:
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def _checksum(*parts: bytes) -> int:
    value = 0
    for part in parts:
        value = zlib.crc32(part, value)
    return value


def _with_field(payload: bytes, record_id: str) -> bytes:
    """Put the field in front of the others, touching nothing else of the text."""
    start = payload.index(b"{") + 1
    rest = payload[start:]
    comma = b"" if rest.lstrip(b" \t\n\r").startswith(b"}") else b","
    field = f'"{FIELD}":{encode_basestring_ascii(record_id)}'.encode()
    return b"".join((payload[:start], field, comma, rest))


def _json_record_ids(data: bytes) -> list[Any] | None:
    """Return each value of the field in the JSON object `data`; None if it is no such object."""
    if not data.lstrip(b" \t\n\r").startswith(b"{"):
        return None
    try:
        # RFC 8259 wants UTF-8 without a byte order mark; `json` alone would take UTF-16 too.
        pairs = _DECODER.decode(data.decode())
    except (ValueError, RecursionError):
        return None
    return [value for name, value in pairs if name == FIELD]


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


# Pairs instead of dicts show a field that is there twice. As a float no number is too long to read,
# and it is only looked at.
_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=list, parse_int=float, parse_constant=_refuse_constant
)
