"""Record IDs for a producer that seals every record: `records.envelope.seal`, but quick.

An ID is a UUIDv7. The first of a millisecond is random, and each further one of that millisecond is
the one before plus 1: they sort in the order in which they were made (RFC 9562, section 6.2,
method 2), and the operating system is asked for random bits once a millisecond, not once a record.
Where the clock steps back, IDs go on from the latest millisecond until it is there again; after a
step of more than 10 seconds they go by the clock, and sort below those before.
"""

import itertools
import json
import math
import os
import struct
import zlib
from collections.abc import Callable
from typing import Final

from records.envelope import FIELD, open_envelope, seal

_HEADER: Final = b"\xf7RI\xc4\x01\x00"  # of a frame whose ID is a UUID
_HEADER_CHECKSUM: Final = zlib.crc32(_HEADER[4:])
_FIELD_BYTES: Final = FIELD.encode()
_OPENING: Final = f'{{"{FIELD}":"'.encode()
_MILLISECONDS: Final = 2**48 - 1
_STEP_BACK: Final = 10_000  # milliseconds
_packed: Final = struct.Struct(">I").pack


class RecordIds:
    """Mints record IDs and seals payloads with them. Safe between threads, and across a fork.

    Args:
        clock: Returns the time in seconds since 1970.
    """

    __slots__ = ("_clock",)

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock

    def seal(self, payload: bytes) -> tuple[bytes, bytes | str]:
        """Return the payload with a record ID, and the ID.

        The payload is what `envelope.seal` makes of it. One that carries an ID is kept as it is.

        Args:
            payload: Any bytes.

        Returns:
            The sealed payload; and the 16 bytes of a new UUID, or the text of the ID that the
            payload has. `record_id_text` gives the text of both.

        Raises:
            EnvelopeError: the payload is a JSON object whose `record_id` is no record ID.
        """
        first = payload[:1]
        if first == b"{":
            return self._seal_object(payload)
        if first in _UNUSUAL:
            return self._seal_slowly(payload)
        identity = self._mint()
        checksum = zlib.crc32(payload, zlib.crc32(identity, _HEADER_CHECKSUM))
        return b"".join((_HEADER, _packed(checksum), identity, payload)), identity

    def _seal_object(self, payload: bytes) -> tuple[bytes, bytes | str]:
        # The field's name could also be spelled with escapes. Without either there is none.
        escaped = b"\\" in payload and b"\\u" in payload
        if payload[1:2] != b'"' or escaped or _FIELD_BYTES in payload or not _is_json(payload):
            return self._seal_slowly(payload)
        identity = self._mint()
        text = record_id_text(identity).encode()
        return b"".join((_OPENING, text, b'",', payload[1:])), identity

    def _seal_slowly(self, payload: bytes) -> tuple[bytes, bytes | str]:
        carried = open_envelope(payload).record_id
        if carried is not None:
            return payload, carried
        identity = self._mint()
        return seal(payload, record_id_text(identity)), identity

    def _mint(self) -> bytes:
        now = int(self._clock() * 1000)
        minted_at, numbers = _latest.series
        if now != minted_at and not minted_at - _STEP_BACK <= now < minted_at:
            numbers = _latest.begin(now)
        return next(numbers).to_bytes(16, "big")


def record_id_text(identity: bytes | str) -> str:
    """Return the text of a record ID that `RecordIds.seal` gave."""
    if isinstance(identity, str):
        return identity
    digits = identity.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


class _Latest:
    """The series of IDs of the latest millisecond, in one attribute that is read at one stroke."""

    __slots__ = ("series",)

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        self.series: tuple[float, itertools.count[int]] = (-math.inf, itertools.count())

    def begin(self, now: int) -> "itertools.count[int]":
        """Begin the series of this millisecond, or return the one that another thread began."""
        begun = (now, _series(now))
        # Asking for random bits lets other threads in. From here on nothing does, in CPython with
        # its lock; where two series of a moment are begun all the same, both are good.
        if not now <= self.series[0] <= now + _STEP_BACK:
            self.series = begun
        return self.series[1]


def _series(milliseconds: int) -> "itertools.count[int]":
    # 73 random bits: the 74th is 0, so that no count runs over into what is not random.
    bits = int.from_bytes(os.urandom(10), "big")
    high, low = bits & 0xFFF, bits >> 12 & (2**61 - 1)
    start = (milliseconds & _MILLISECONDS) << 80 | 7 << 76 | high << 64 | 2 << 62 | low
    return itertools.count(start)


def _is_json(payload: bytes) -> bool:
    """Return True only for JSON; False also for some that is, as with a number of 5,000 digits."""
    try:
        text = payload.decode()
        _, end = _DECODER.raw_decode(text)
    except (ValueError, RecursionError):
        return False
    return end == len(text) or not text[end:].strip(" \t\n\r")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


_UNUSUAL: Final = frozenset((b" ", b"\t", b"\n", b"\r", _HEADER[:1]))
_DECODER: Final = json.JSONDecoder(parse_constant=_refuse_constant)
_latest: Final = _Latest()
# A child of this process would go on with the same series.
os.register_at_fork(after_in_child=_latest.forget)
