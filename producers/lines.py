"""Feeds the lines of a file to a producer, and tells a person what became of them.

The command lines of the producers share this: which arguments they take, how a signal ends the
input without losing a line, where undelivered lines are kept, and the summary at the end.
"""

import argparse
import json
import math
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from stat import S_ISREG
from types import FrameType
from typing import TYPE_CHECKING, BinaryIO, Final, TextIO, TypeAlias

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError

from records.dead_letter import DeadLetter, write_dead_letter
from records.errors import InvalidPartitionKey
from records.limits import KIB, MAX_LARGE_RECORD_BYTES, MAX_PARTITION_KEY_CHARS, check_record

if TYPE_CHECKING:
    from types_boto3_kinesis import KinesisClient

# No stream takes a longer record, and no dead-letter file keeps one.
MAX_LINE_BYTES: Final = MAX_LARGE_RECORD_BYTES
_CONNECT_TIMEOUT_SECONDS: Final = 6
_PROGRESS_EVERY: Final = 100  # settled lines; a screen shows no more than that anyway
# One Ctrl-C can arrive twice, from the terminal and from whoever started us.
_SAME_SIGNAL_SECONDS: Final = 1.0


@contextmanager
def feed(
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None,
    *,
    progress: "Progress | None" = None,
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
    options = parser.parse_args(argv)
    with ExitStack() as stack:
        try:
            source = _open_source(options.source, stack)
            letters: BinaryIO | None = None
            if options.dead_letter:
                letters = stack.enter_context(Path(options.dead_letter).open("ab"))
            client = _client(read_timeout)
        except (OSError, BotoCoreError, ValueError) as error:  # ValueError: no URL, no path
            parser.error(str(error))
        stack.callback(client.close)
        running = Feed(
            parser.prog, options, client=client, source=source, letters=letters, progress=progress
        )
        with _stopped_by_signals(running):
            yield running
        running.sum_up()


def _open_source(name: str, stack: ExitStack) -> BinaryIO:
    if name != "-":
        return stack.enter_context(Path(name).open("rb"))
    if sys.stdin is None:  # What Python makes of a descriptor that is closed.
        raise OSError("standard input is closed")
    return sys.stdin.buffer


def _client(read_timeout: float) -> "KinesisClient":
    # One attempt: the producer itself retries, and knows which records to send again.
    config = Config(
        retries={"total_max_attempts": 1},
        connect_timeout=_CONNECT_TIMEOUT_SECONDS,
        read_timeout=read_timeout,
    )
    return boto3.client("kinesis", config=config)


class Feed:
    """The lines of one file as `(partition_key, line)`, and the tally of what became of them.

    Iterate it once, in one thread; `delivered` and `failed` may be called from another.

    Attributes:
        client: A boto3 Kinesis client, SDK retries off.
        stream: The stream that the person named.
        options: All parsed arguments.
        bytes_read: How far the input has been read.
        total_bytes: The size of the input, or None if it is a pipe or a terminal.
        delivered_lines: Lines that the stream has confirmed.
        failed_lines: Lines that were given up.
        finished: Whether the last line is settled; the summary comes next.
    """

    def __init__(
        self,
        program: str,
        options: argparse.Namespace,
        *,
        client: "KinesisClient",
        source: BinaryIO,
        letters: BinaryIO | None,
        progress: "Progress | None",
    ) -> None:
        self.client = client
        self.options = options
        self.stream: str = options.stream
        self.bytes_read = 0
        self.total_bytes = _size_of(source)
        self.delivered_lines = 0
        self.failed_lines = 0
        self.finished = False
        self._program = program
        self._source = source
        self._letters = letters
        self._progress = progress
        self._lines = 0
        self._kept = 0
        self._stopped = False
        self._bad_input: str | None = None
        # The first message of each error code, and how often the code occurred.
        self._failures: dict[str, tuple[int, str]] = {}
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        """Yield each line without its line end, empty ones left out, as it becomes readable."""
        while line := self._read(MAX_LINE_BYTES + 1):
            ended = line.endswith(b"\n")
            if not ended and self._stopped:
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
            self._bad_input = f"the input cannot be read after line {self._lines}: {error}"
            return b""
        self.bytes_read += len(line)
        return line

    def _skip_long_line(self) -> None:
        """Pass over the rest of a line that no stream takes and that is too long to be kept."""
        while (part := self._read(64 * KIB)) and not part.endswith(b"\n"):
            pass
        self._say(f"line {self._lines} is longer than {MAX_LINE_BYTES} bytes: skipped, not kept")
        with self._lock:
            self._count_failure("RecordTooLarge", "no stream takes such a record")
            self._tell_progress()

    def stop(self) -> None:
        """End the input here; what has been read is still yielded. Safe in a signal handler."""
        self._stopped = True
        # A blocked read resumes after the handler, finds nothing any more, and returns: unlike an
        # exception, this cannot lose a line between the read and the loop.
        with Path(os.devnull).open("rb") as nothing:
            os.dup2(nothing.fileno(), self._source.fileno())

    def delivered(self) -> None:
        """Count one line that the stream has confirmed."""
        with self._lock:
            self.delivered_lines += 1
            self._tell_progress()

    def failed(self, key: str, data: bytes, code: str, message: str, attempts: int) -> None:
        """Count one line that was given up, and keep it if there is a dead-letter file."""
        with self._lock:
            self._count_failure(code, message)
            self._keep(
                DeadLetter(self.stream, key, data, None, code, message, attempts, time.time())
            )
            self._tell_progress()

    def sum_up(self) -> None:
        """Print one line of result, and one line on stderr for each kind of failure."""
        self.finished = True
        self._tell_progress()
        for code, (count, message) in self._failures.items():
            self._say(f"{count} not delivered, {code}: {' '.join(message.split())}")
        if self._bad_input:
            self._say(self._bad_input)
        total = self.delivered_lines + self.failed_lines
        ending = f", stopped by a signal after line {self._lines}" if self._stopped else ""
        if self._kept:
            ending += f"; {self._kept} kept in {self.options.dead_letter}"
        summary = f"delivered {self.delivered_lines} of {total} records to {self.stream}{ending}"
        if problem := _print(summary, sys.stdout):
            self._say(f"{summary} (standard output: {problem})")

    @property
    def exit_code(self) -> int:
        """0: all delivered; 1: something was not; 2: the input is bad."""
        if self._bad_input:
            return 2
        return 1 if self.failed_lines else 0

    def _count_failure(self, code: str, message: str) -> None:
        self.failed_lines += 1
        count, first = self._failures.get(code, (0, message))
        self._failures[code] = (count + 1, first)

    def _keep(self, letter: DeadLetter) -> None:
        if self._letters is None:
            return
        try:
            write_dead_letter(self._letters, letter)
            self._kept += 1
        except OSError as error:
            self._letters = None
            self._say(f"dead letters cannot be kept from here on: {error}")

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
        self._say(
            f"line {self._lines} is no JSON object with a field {field!r}"
            f" of 1 to {MAX_PARTITION_KEY_CHARS} characters to be its key"
        )
        return ""  # Kinesis takes no empty key, so the producer refuses this line and no other.

    def _tell_progress(self) -> None:
        settled = self.delivered_lines + self.failed_lines
        if self._progress is not None and (self.finished or settled % _PROGRESS_EVERY == 0):
            self._progress(self)

    def _say(self, message: str) -> None:
        # If nobody is there to be told, the lines still matter.
        _print(f"{self._program}: {message}", sys.stderr)


Progress: TypeAlias = Callable[[Feed], None]


def _print(text: str, out: TextIO) -> OSError | None:
    """Print a line; return why it could not be, unless the reader merely has seen enough."""
    try:
        print(text, file=out, flush=True)
    except OSError as error:
        # Python would fail over it once more when it flushes at its end.
        with Path(os.devnull).open("wb") as nothing:
            os.dup2(nothing.fileno(), out.fileno())
        return None if isinstance(error, BrokenPipeError) else error
    return None


def seconds(text: str) -> float:
    """Read an argument that is a positive number of seconds."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no positive number of seconds")
    return value


def _key(text: str) -> str:
    try:
        check_record(text, b"")
    except InvalidPartitionKey as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("stream", metavar="STREAM", help="the stream's name")
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
        help="append what cannot be delivered to this file, with its error, in a binary form that"
        " records.dead_letter reads back",
    )
    parser.epilog = (
        "Endpoint, region and credentials are found as boto3 does: AWS_ENDPOINT_URL_KINESIS,"
        " AWS_ENDPOINT_URL, AWS_REGION, AWS_PROFILE. Ctrl-C ends the input, and what was read is"
        " still delivered; a second Ctrl-C gives up at once. Exit code: 0 all delivered,"
        " 1 something was not, 2 bad usage or bad input."
    )


def _size_of(source: BinaryIO) -> int | None:
    try:
        status = os.fstat(source.fileno())
    except OSError:
        return None
    return status.st_size if S_ISREG(status.st_mode) else None


@contextmanager
def _stopped_by_signals(running: Feed) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # Only the main thread may set handlers; whoever runs us in another has its own.
        return

    stopped_at = math.inf

    def handler(number: int, _frame: FrameType | None) -> None:
        nonlocal stopped_at
        now = time.monotonic()
        if now - stopped_at >= _SAME_SIGNAL_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        stopped_at = min(stopped_at, now)
        running.stop()

    before = {each: signal.signal(each, handler) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for each, previous in before.items():
            signal.signal(each, previous)
