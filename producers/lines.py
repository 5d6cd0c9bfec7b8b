"""Feeds the lines of a file to a producer, and tells a person what became of them.

The command lines of the producers share this: which arguments they take, how a signal ends the
input without losing a line, where undelivered lines are kept, and the summary at the end.
"""

import argparse
import json
import os
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, TypeAlias

from botocore.exceptions import BotoCoreError

from producers import programs
from producers.dead_letters import DeadLetterFile
from records.dead_letter import DeadLetter
from records.errors import InvalidPartitionKey
from records.limits import KIB, MAX_LARGE_RECORD_BYTES, MAX_PARTITION_KEY_CHARS, check_record

if TYPE_CHECKING:
    from types_boto3_kinesis import KinesisClient

# No stream takes a longer record, and no dead-letter file keeps one.
MAX_LINE_BYTES: Final = MAX_LARGE_RECORD_BYTES

Progress: TypeAlias = programs.Progress


@contextmanager
def feed(
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None,
    *,
    progress: Progress | None = None,
    read_timeout: float,
) -> Iterator["Feed"]:
    """Parse the arguments, open what they name, and give a `Feed`; sum up when the body is done.

    While the body runs, SIGINT and SIGTERM end the input, so that the body comes to its own end.
    Another one, a second later or more, ends the process at once.

    Args:
        parser: The program's parser; the arguments that all producers take are added to it.
        argv: The arguments, or None for those of the process.
        progress: Called with the feed now and then, and at the end.
        read_timeout: Seconds to wait for an answer of Kinesis.

    Raises:
        SystemExit: with 2: bad usage, a file that cannot be opened, no region, no valid endpoint.
    """
    _add_arguments(parser)
    options = _parse(parser, argv)
    with ExitStack() as stack:
        try:
            source = _open_source(options.source, stack)
            client = stack.enter_context(closing(programs.make_client(read_timeout)))
            letters: DeadLetterFile | None = None
            if options.dead_letter is not None:
                letters = programs.open_letters(options.dead_letter, source)
                stack.enter_context(letters)
        except (OSError, BotoCoreError, ValueError) as error:  # ValueError: no URL, no path
            parser.error(str(error))
        running = Feed(
            parser.prog, options, client=client, source=source, letters=letters, progress=progress
        )
        with programs.stopped_by_signals(running.stop):
            yield running
        running.end()


def _open_source(name: str, stack: ExitStack) -> BinaryIO:
    if name != "-":
        return stack.enter_context(Path(name).open("rb"))
    if sys.stdin is None:  # What Python makes of a descriptor that is closed.
        raise OSError("standard input is closed")
    return sys.stdin.buffer


class Feed(programs.Tally):
    """The lines of one file as `(partition_key, line)`, and the tally of what became of them.

    Iterate it once, in one thread; `delivered` and `failed` may be called from another.

    Attributes:
        client: A boto3 Kinesis client, SDK retries off.
        stream: The stream that the person named, by its name or ARN.
        options: All parsed arguments.
    """

    def __init__(
        self,
        name: str,
        options: argparse.Namespace,
        *,
        client: "KinesisClient",
        source: BinaryIO,
        letters: DeadLetterFile | None,
        progress: Progress | None,
    ) -> None:
        super().__init__(name, letters=letters, progress=progress)
        self.client = client
        self.options = options
        self.stream: str = options.stream
        self.total_bytes = programs.size_of(source)
        self._source = source
        self._lines = 0

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        """Yield each line without its line end, empty ones left out, as it becomes readable."""
        while line := self._read(MAX_LINE_BYTES + 1):
            ended = line.endswith(b"\n")
            if not ended and self._stopped and self.bytes_read != self.total_bytes:
                return  # The signal cut this line in two; it was never a whole one.
            self._lines += 1
            if not ended and len(line) > MAX_LINE_BYTES:
                self._skip_long_line()
                continue
            line = line.removesuffix(b"\n").removesuffix(b"\r")
            if line:
                yield self._partition_key(line), line

    def _read(self, most: int) -> bytes:
        """Return the next line or the first `most` bytes of it; nothing at the end."""
        try:
            line = self._source.readline(most)
        except OSError as error:
            self.bad_input(f"the input cannot be read after line {self._lines}: {error}")
            return b""
        self.bytes_read += len(line)
        return line

    def _skip_long_line(self) -> None:
        """Pass over the rest of a line that no stream takes and that is too long to be kept."""
        while (part := self._read(64 * KIB)) and not part.endswith(b"\n"):
            pass
        told = f"line {self._lines} is longer than {MAX_LINE_BYTES} bytes: skipped, not kept"
        self.complain(told)
        self.refuse(
            self.stream, "RecordTooLarge", "no stream takes such a record, and no dead-letter file"
        )

    def stop(self) -> None:
        """End the input here; what has been read is still yielded. Safe in a signal handler."""
        self._stopped = True
        # A blocked read resumes after the handler, finds nothing any more, and returns: unlike an
        # exception, this cannot lose a line between the read and the loop.
        with Path(os.devnull).open("rb") as nothing:
            os.dup2(nothing.fileno(), self._source.fileno())

    def failed(self, key: str, data: bytes, code: str, message: str, attempts: int) -> None:
        """Count one line that was given up, and keep it if there is a dead-letter file."""
        self.give_up(DeadLetter(self.stream, key, data, None, code, message, attempts, time.time()))

    def end(self) -> None:
        """Sum up; see `Tally.sum_up`."""
        ending = f", stopped by a signal after line {self._lines}" if self._stopped else ""
        if not self.complete:
            ending += ", and the rest of the file was not put"
        self.sum_up([self.stream], ending)

    def _partition_key(self, line: bytes) -> str:
        if self.options.partition_key is not None:
            return str(self.options.partition_key)
        field = self.options.key_field
        if field is None:
            return str(uuid.uuid4())
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            found = None
        value = found.get(field) if isinstance(found, dict) else None
        key = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
        if 1 <= len(key) <= MAX_PARTITION_KEY_CHARS:
            return key
        self.complain(
            f"line {self._lines} is no JSON object with a field {field!r}"
            f" of 1 to {MAX_PARTITION_KEY_CHARS} characters to be its key"
        )
        return ""  # Kinesis takes no empty key, so the producer refuses this line and no other.


def _key(text: str) -> str:
    try:
        check_record(text, b"")
    except InvalidPartitionKey as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse arguments in which FILE may come behind options; what is behind `--` is no option."""
    given = sys.argv[1:] if argv is None else argv
    # The intermixed parse forgets what `--` has told it.
    return parser.parse_args(given) if "--" in given else parser.parse_intermixed_args(given)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("stream", metavar="STREAM", type=programs.stream, help=programs.STREAM_HELP)
    parser.add_argument(
        "source",
        metavar="FILE",
        nargs="?",
        default="-",
        help="its lines are the records, without their line ends; - or nothing: standard input",
    )
    keys = parser.add_mutually_exclusive_group()
    keys.add_argument(
        "--partition-key",
        metavar="KEY",
        type=_key,
        help="one key for all lines: one shard takes them all",
    )
    keys.add_argument(
        "--key-field",
        metavar="FIELD",
        help="the lines are JSON objects and this field is the key; by default each line gets a"
        " random key, which spreads them over all shards",
    )
    parser.add_argument(
        "--dead-letter",
        metavar="FILE",
        type=programs.file,
        help="append what cannot be delivered to this file, with its error; producers.replay puts"
        " it again",
    )
    parser.epilog = programs.EPILOG
    parser.usage = programs.usage(parser.prog)
