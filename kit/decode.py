"""`kit decode [FILE|-]`: what is inside the data of one Kinesis record, layer by layer.

It reads one record's data, as GetRecords gives it or, with `--base64`, as the AWS CLI and Lambda
print it, and shows plain text, JSON, record IDs, KPL aggregates, and whatever of these is nested in
another. Nothing that is in the data can move the cursor: what is not printable is escaped.
"""

import base64 as encoding
import binascii
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final, TextIO

from records.aggregation import MAGIC, UserRecord, decode
from records.envelope import Envelope, is_json_object, open_envelope
from records.errors import AggregateError
from records.limits import MAX_LARGE_RECORD_BYTES, MIB

_INDENT: Final = "  "
_MAX_DEPTH: Final = 8  # layers that somebody nested in good faith are two or three
_MAX_TEXT_CHARS: Final = 4_000
_MAX_HEX_BYTES: Final = 256
_HEX_BYTES_PER_LINE: Final = 16


def main(source: str = "-", *, base64: bool = False) -> int:
    """Print what is in the file `source`, or on standard input if that is "-".

    Args:
        source: A file that holds the data of one record.
        base64: The file holds it as base64 text.

    Returns:
        0: all was read; 1: an aggregate is damaged, what could be read is printed; 2: there is no
        such file, or it holds no record.
    """
    try:
        if source == "-" and sys.stdin is None:  # What Python makes of a closed descriptor.
            print("standard input is closed", file=sys.stderr)
            return 2
        if isinstance(sys.stdout, io.TextIOWrapper):
            # A terminal may have no character for what is in the data.
            sys.stdout.reconfigure(errors="backslashreplace")
        if source == "-":
            return run(sys.stdin.buffer, base64=base64)
        with Path(source).open("rb") as file:
            return run(file, base64=base64)
    except BrokenPipeError:
        # Whoever read our output has seen enough; do not let Python fail while it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        print(f"{source}: {error.strerror or error}", file=sys.stderr)
        return 2


def run(source: BinaryIO, *, base64: bool = False, out: TextIO | None = None) -> int:
    """Describe the record that `source` gives, on `out` (standard output if None).

    Returns:
        An exit code, as `main` does.
    """
    most = MAX_LARGE_RECORD_BYTES * 2 if base64 else MAX_LARGE_RECORD_BYTES
    data = source.read(most + 1)
    if base64:
        try:
            data = encoding.b64decode(b"".join(data.split()), validate=True)
        except binascii.Error as error:
            print(f"this is not base64: {error}", file=sys.stderr)
            return 2
    if len(data) > MAX_LARGE_RECORD_BYTES:
        print(f"more than {MAX_LARGE_RECORD_BYTES // MIB} MiB: no Kinesis record", file=sys.stderr)
        return 2
    try:
        for line in describe(data):
            print(line, file=out)
        (out or sys.stdout).flush()
    except AggregateError as error:
        print(f"a damaged aggregate: {error}", file=sys.stderr)
        return 1
    return 0


def describe(data: bytes) -> Iterator[str]:
    """Yield lines of text that tell what the data of a Kinesis record holds.

    Raises:
        AggregateError: an aggregate in it is damaged. What came before the fault was yielded.
    """
    return _describe(data, 0)


def _describe(data: bytes, depth: int) -> Iterator[str]:
    if depth == _MAX_DEPTH:
        yield f"{len(data):,} bytes, not looked into any deeper"
        return
    try:
        records = decode(data)
    except AggregateError as error:
        yield f"aggregate, damaged: {len(error.decoded):,} readable records in {len(data):,} bytes"
        yield from _user_records(error.decoded, depth)
        raise
    if records is not None:
        yield f"aggregate: {_count(len(records), 'user record')} in {len(data):,} bytes"
        yield from _user_records(records, depth)
        return
    if data.startswith(MAGIC):
        yield "begins like an aggregate but is none by its checksum: a plain record to every reader"
    envelope = open_envelope(data)
    if envelope.form == "frame":
        yield f"frame with record ID {envelope.record_id}"
        yield from _indented(_describe(envelope.payload, depth + 1))
        return
    yield _headline(envelope)
    yield from _indented(_content(data))


def _user_records(records: list[UserRecord] | tuple[UserRecord, ...], depth: int) -> Iterator[str]:
    for record in records:
        explicit = record.explicit_hash_key
        placed = "" if explicit is None else f", explicit hash key {explicit}"
        yield f"{_INDENT}[{record.sub_sequence_number}] partition key {_quoted(record)}{placed}"
        for line in _describe(record.data, depth + 1):
            yield _INDENT * 3 + line


def _headline(envelope: Envelope) -> str:
    size = f"{len(envelope.payload):,} bytes"
    if envelope.form == "json":
        return f"JSON object with record ID {_printable(envelope.record_id or '')}, {size}"
    if is_json_object(envelope.payload):
        return f"JSON object without a record ID, {size}"
    return f"{'text' if _text(envelope.payload) is not None else 'binary'}, {size}"


def _content(data: bytes) -> Iterator[str]:
    text = _text(data)
    if text is not None:
        yield from map(_printable, text[:_MAX_TEXT_CHARS].splitlines())
        if len(text) > _MAX_TEXT_CHARS:
            yield f"... and {len(text) - _MAX_TEXT_CHARS:,} more characters"
        return
    for start in range(0, min(len(data), _MAX_HEX_BYTES), _HEX_BYTES_PER_LINE):
        piece = data[start : min(start + _HEX_BYTES_PER_LINE, _MAX_HEX_BYTES)]
        seen = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in piece)
        yield f"{start:04x}  {piece.hex(' '):{_HEX_BYTES_PER_LINE * 3}} {seen}"
    if len(data) > _MAX_HEX_BYTES:
        yield f"... and {len(data) - _MAX_HEX_BYTES:,} more bytes"


def _text(data: bytes) -> str | None:
    """Return the data as text, or None if it is none that a person would read."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return None
    return text if all(each.isprintable() or each in "\t\r\n" for each in text) else None


def _printable(text: str) -> str:
    return "".join(
        each if each.isprintable() or each == "\t" else each.encode("unicode_escape").decode()
        for each in text
    )


def _quoted(record: UserRecord) -> str:
    return f'"{_printable(record.partition_key)}"'


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _indented(lines: Iterator[str]) -> Iterator[str]:
    for line in lines:
        yield _INDENT + line
