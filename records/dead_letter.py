"""Records that could not be delivered, kept in a file that can be read back and put again.

The file is a row of frames, in the order of the failures::

    magic 'K' 'D' 'L' 0x01 | CRC-32 | header length | data length | header (JSON, UTF-8) | data
    4 bytes                | 4      | 4             | 4           |

Integers are big endian; the checksum covers all that follows it. A frame is written at once, so
a crash leaves at most a torn tail, and a reader gets everything before it.
"""

import json
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO, Final

from records.errors import DeadLetterCorrupt
from records.limits import KIB, MAX_LARGE_RECORD_BYTES

_MAGIC: Final = b"KDL\x01"
_PREFIX: Final = struct.Struct(">4sIII")
_LENGTHS: Final = struct.Struct(">II")
# Bounds what a damaged length can make a reader allocate.
_MAX_HEADER_BYTES: Final = 64 * KIB
_MAX_MESSAGE_CHARS: Final = 4 * KIB


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record, with why and when it was given up.

    Attributes:
        stream: The stream it was meant for.
        partition_key: Its partition key.
        data: Its data, as it would have been sent.
        explicit_hash_key: Its explicit hash key, if it had one.
        error_code: The last error, such as `ProvisionedThroughputExceededException`.
        error_message: What the service or the producer said; cut at 4,096 characters.
        attempts: How often it was sent, where the aggregating producer counts no further than 100.
            0: it was never tried.
        failed_at: When it was given up, in seconds since 1970.
    """

    stream: str
    partition_key: str
    data: bytes
    explicit_hash_key: int | None
    error_code: str
    error_message: str
    attempts: int
    failed_at: float


def write_dead_letter(file: BinaryIO, letter: DeadLetter) -> int:
    """Append one dead letter, and return the bytes written.

    The file is flushed, so that the letter outlives the process; call `os.fsync` where it must
    outlive the machine.

    Args:
        file: Opened for binary writing at its end, such as with mode "ab".
        letter: Its data may be as large as a record of Kinesis, 10 MiB.

    Raises:
        ValueError: the letter is larger than a reader would accept.
        OSError: the file cannot be written; a torn tail may be left.
    """
    fields = asdict(letter)
    data = fields.pop("data")
    fields["error_message"] = fields["error_message"][:_MAX_MESSAGE_CHARS]
    header = json.dumps(fields, separators=(",", ":")).encode()
    if len(header) > _MAX_HEADER_BYTES or len(data) > MAX_LARGE_RECORD_BYTES:
        raise ValueError(f"a dead letter of {len(header)} + {len(data)} bytes is too large")
    body = b"".join((_LENGTHS.pack(len(header), len(data)), header, data))
    frame = memoryview(b"".join((_MAGIC, zlib.crc32(body).to_bytes(4, "big"), body)))
    written = 0
    while written < len(frame):  # an unbuffered file may take a part only
        written += file.write(frame[written:])
    file.flush()
    return written


def read_dead_letters(
    file: BinaryIO, *, on_corrupt: Callable[[DeadLetterCorrupt], None] | None = None
) -> Iterator[DeadLetter]:
    """Yield the dead letters of a file, from where it stands.

    Args:
        file: Opened for binary reading.
        on_corrupt: If given, it is told of each damaged place and reading goes on with the next
            intact frame, such as one appended after a torn tail. The file must be seekable.

    Raises:
        DeadLetterCorrupt: a frame is damaged or the file ends inside it, and there is no
            `on_corrupt`. Everything before it has been yielded.
    """
    offset = file.tell() if file.seekable() else 0
    while True:
        try:
            frame = _read_frame(file, offset)
        except DeadLetterCorrupt as damage:
            if on_corrupt is None:
                raise
            on_corrupt(damage)
            resumed = _find_frame(file, offset + 1)
            if resumed is None:
                return
            offset = resumed
            file.seek(offset)
            continue
        if frame is None:
            return
        letter, size = frame
        yield letter
        offset += size


def _read_frame(file: BinaryIO, offset: int) -> tuple[DeadLetter, int] | None:
    prefix = _read_fully(file, _PREFIX.size)
    if not prefix:
        return None
    if not _MAGIC.startswith(prefix[:4]):
        raise DeadLetterCorrupt("no dead letter begins", offset=offset, torn=False)
    if len(prefix) < _PREFIX.size:
        raise DeadLetterCorrupt("the file ends inside a dead letter", offset=offset, torn=True)
    _, checksum, header_size, data_size = _PREFIX.unpack(prefix)
    if header_size > _MAX_HEADER_BYTES or data_size > MAX_LARGE_RECORD_BYTES:
        raise DeadLetterCorrupt("a dead letter of impossible size", offset=offset, torn=False)
    body = _read_fully(file, header_size + data_size)
    if len(body) < header_size + data_size:
        raise DeadLetterCorrupt("the file ends inside a dead letter", offset=offset, torn=True)
    if zlib.crc32(body, zlib.crc32(prefix[8:])) != checksum:
        raise DeadLetterCorrupt("a dead letter with a wrong checksum", offset=offset, torn=False)
    try:
        fields: dict[str, Any] = json.loads(body[:header_size])
        letter = DeadLetter(data=body[header_size:], **fields)
    except (ValueError, TypeError) as error:
        raise DeadLetterCorrupt(
            f"a dead letter of another version ({error})", offset=offset, torn=False
        ) from None
    return letter, _PREFIX.size + len(body)


def _find_frame(file: BinaryIO, start: int) -> int | None:
    """Return where the next intact frame begins, or None."""
    file.seek(start)
    base, window = start, b""
    while chunk := file.read(64 * KIB):
        window += chunk
        place = window.find(_MAGIC)
        while place >= 0:
            resume = file.tell()
            if _is_intact(file, base + place):
                return base + place
            file.seek(resume)
            place = window.find(_MAGIC, place + 1)
        kept = window[-(len(_MAGIC) - 1) :]
        base, window = base + len(window) - len(kept), kept
    return None


def _is_intact(file: BinaryIO, offset: int) -> bool:
    file.seek(offset)
    try:
        return _read_frame(file, offset) is not None
    except DeadLetterCorrupt:
        return False


def _read_fully(file: BinaryIO, size: int) -> bytes:
    """Read `size` bytes, or all there are: a pipe may give them in pieces."""
    parts = []
    while size > 0 and (part := file.read(size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
