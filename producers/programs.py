"""What the producers' programs share: a client, signals that end the input, and a tally."""

import argparse
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from stat import S_ISREG
from types import FrameType
from typing import TYPE_CHECKING, BinaryIO, Final, TextIO, TypeAlias

import boto3
from botocore.config import Config

from producers.dead_letters import DeadLetterFile
from records.dead_letter import DeadLetter
from records.stream_ref import stream_argument

if TYPE_CHECKING:
    from types_boto3_kinesis import KinesisClient

EPILOG: Final = (
    "Endpoint, region and credentials are found as boto3 does: AWS_ENDPOINT_URL_KINESIS,"
    " AWS_ENDPOINT_URL, AWS_DEFAULT_REGION, AWS_PROFILE. Ctrl-C ends the input, and what was read"
    " is still delivered; a second Ctrl-C gives up at once. Exit code: 0 all delivered,"
    " 1 something was not, such as the rest of FILE after Ctrl-C, 2 bad usage or bad input."
)
STREAM_HELP: Final = "the stream's name or ARN"

_CONNECT_TIMEOUT_SECONDS: Final = 6
_PROGRESS_SECONDS: Final = 0.1  # A screen shows no more than that anyway.
# One Ctrl-C can arrive twice, from the terminal and from whoever started us.
_SAME_SIGNAL_SECONDS: Final = 1.0
# Failures told one by one; those of further streams and kinds are told as one.
_MAX_KINDS: Final = 20
_MAX_COMPLAINTS: Final = 10
_NAMED_STREAMS: Final = 3


class Tally:
    """What became of the records of one run, and what a person is told of it. Thread-safe.

    Args:
        program: The program's name, which begins each line on stderr.
        letters: Gets what is given up, if there is such a file.
        progress: Called with the tally now and then, and at the end.

    Attributes:
        delivered_records: Records that the stream has confirmed.
        failed_records: Records that were given up.
        bytes_read: How far the input has been read.
        total_bytes: The size of the input, or None if it is a pipe or a terminal.
        finished: Whether the last record is settled; the summary comes next.
    """

    def __init__(
        self, program: str, *, letters: DeadLetterFile | None, progress: "Progress | None"
    ) -> None:
        self.delivered_records = 0
        self.failed_records = 0
        self.bytes_read = 0
        self.total_bytes: int | None = None
        self.finished = False
        self._stopped = False
        self._program = program
        self._letters = letters
        self._progress = progress
        self._told_at = -math.inf
        self._kept = 0
        self._lost = 0
        self._synced = True
        self._complaints = 0
        self._bad_input = False
        # The first message of each error code at each stream, and how often it occurred.
        self._failures: dict[tuple[str, str], tuple[int, str]] = {}
        self._lock = threading.Lock()

    def delivered(self) -> None:
        """Count one record that the stream has confirmed."""
        with self._lock:
            self.delivered_records += 1
            self._tell_progress()

    def give_up(self, letter: DeadLetter) -> None:
        """Count one record that is not delivered, and keep it if there is a file for that."""
        with self._lock:
            self._count_failure(letter.stream, letter.error_code, letter.error_message)
            self._keep(letter)
            self._tell_progress()

    def refuse(self, stream: str, code: str, message: str) -> None:
        """Count one record that is not delivered and that cannot be kept."""
        with self._lock:
            self._count_failure(stream, code, message)
            self._tell_progress()

    def bad_input(self, message: str) -> None:
        """Say what is wrong with the whole input; the exit code is 2."""
        self._bad_input = True
        self.complain(message)

    def complain(self, message: str) -> None:
        """Say what is wrong at one place of the input, unless such things were often said."""
        self._complaints += 1
        if self._complaints <= _MAX_COMPLAINTS:
            self.say(message)

    def sum_up(self, streams: Iterable[str], ending: str = "") -> None:
        """Close the dead-letter file, and print one line of result and one for each failure."""
        self.finished = True
        self._tell_progress()
        self._close_letters()
        names = list(streams)
        for (stream, code), (count, message) in self._failures.items():
            where = f" to {stream}" if stream and len(names) > 1 else ""
            self.say(f"{count} not delivered{where}, {code}: {' '.join(message.split())}")
        if (more := self._complaints - _MAX_COMPLAINTS) > 0:
            self.say(f"{more} more of the like about the input")
        total = self.delivered_records + self.failed_records
        if self._letters is not None and self._kept:
            ending += f"; {self._kept} kept in {self._letters.path}"
        if self._lost:
            ending += f"; {self._lost} could not be kept"
        summary = f"delivered {self.delivered_records} of {total} records{_to(names)}{ending}"
        if problem := _print(summary, sys.stdout):
            self.say(f"{summary} (standard output: {problem})")

    @property
    def exit_code(self) -> int:
        """0: all delivered; 1: something was not, or not even read; 2: the input is bad."""
        if self._bad_input:
            return 2
        return 1 if self.failed_records or not self.complete else 0

    @property
    def complete(self) -> bool:
        """Whether a signal left nothing of a file unread. What a pipe still held, nobody knows."""
        return not self._stopped or self.total_bytes is None or self.bytes_read >= self.total_bytes

    @property
    def all_kept(self) -> bool:
        """Whether each record that was given up is in the dead-letter file, and on the disk."""
        return self._kept == self.failed_records and self._synced

    def say(self, message: str) -> None:
        """Print a line on stderr. If nobody is there to be told, the records still matter."""
        _print(f"{self._program}: {message}", sys.stderr)

    def _count_failure(self, stream: str, code: str, message: str) -> None:
        self.failed_records += 1
        kind = (stream, code)
        if kind not in self._failures and len(self._failures) >= _MAX_KINDS:
            kind = ("", "other errors")
        count, first = self._failures.get(kind, (0, message))
        self._failures[kind] = (count + 1, first)

    def _keep(self, letter: DeadLetter) -> None:
        if self._letters is None:
            return
        try:
            self._letters.append(letter)
            self._kept += 1
        except (OSError, ValueError) as error:  # ValueError: larger than a file keeps
            self._lost += 1
            if self._lost == 1:
                self.say(f"a dead letter cannot be kept, the first of perhaps more: {error}")

    def _close_letters(self) -> None:
        try:
            if self._letters is not None:
                self._letters.close()
        except OSError as error:
            self._synced = False
            self.say(f"the dead letters may not outlive a crash of the machine: {error}")

    def _tell_progress(self) -> None:
        now = time.monotonic()
        if self._progress and (self.finished or now - self._told_at >= _PROGRESS_SECONDS):
            self._told_at = now
            self._progress(self)


Progress: TypeAlias = Callable[[Tally], None]


def open_letters(path: str, source: BinaryIO) -> DeadLetterFile:
    """Open a dead-letter file beside an input.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is the input itself, which would never come to its end.
    """
    # The input, and the disk, are what bounds it.
    letters = DeadLetterFile(path, max_bytes=None)
    if size_of(source) is not None and _is_same(letters.path, source):
        letters.close()
        raise ValueError(f"{path} is the input: what cannot be delivered needs another file")
    return letters


def size_of(source: BinaryIO) -> int | None:
    """Return the bytes of a file, or None if it is a pipe or a terminal."""
    try:
        status = os.fstat(source.fileno())
    except OSError:
        return None
    return status.st_size if S_ISREG(status.st_mode) else None


def make_client(read_timeout: float) -> "KinesisClient":
    """Return a Kinesis client by boto3's own rules that waits so many seconds for an answer.

    Raises:
        BotoCoreError: there is no region, or the profile is not there.
        ValueError: the endpoint is no URL.
    """
    # One attempt: the producer itself retries, and knows which records to send again.
    config = Config(
        retries={"total_max_attempts": 1},
        connect_timeout=_CONNECT_TIMEOUT_SECONDS,
        read_timeout=read_timeout,
    )
    return boto3.client("kinesis", config=config)


@contextmanager
def stopped_by_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Let SIGINT and SIGTERM call `stop`; another one, a second later or more, ends the process."""
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
        stop()

    before = {each: signal.signal(each, handler) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for each, previous in before.items():
            signal.signal(each, previous)


def add_patience(parser: argparse.ArgumentParser) -> None:
    """Add the options that say for how long a record is tried, and whether others wait for it.

    The default age is twice that of the producer: nobody waits for a single line of a file.
    """
    parser.add_argument(
        "--max-age",
        metavar="SECONDS",
        type=seconds,
        default=60.0,
        help="after which an unconfirmed record is given up (%(default)s)",
    )
    parser.add_argument(
        "--unordered",
        action="store_true",
        help="send at once what need not wait for an answer: faster, and the only way for streams"
        " that spread records as they like, but records of one key may overtake each other",
    )


def usage(program: str) -> str | None:
    """Return the usage that errors begin with; None: as argparse makes it of the arguments.

    A command of another program, such as `kit put`, has arguments of its own.
    """
    return f"{program} --help" if " " in program else None


def file(text: str) -> str:
    """Read an argument that is the path of a file."""
    if not text:
        raise argparse.ArgumentTypeError("a file has a name")
    return text


def seconds(text: str) -> float:
    """Read an argument that is a positive number of seconds."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no positive number of seconds")
    return value


def stream(text: str) -> str:
    """Read an argument that is a stream's name or ARN."""
    try:
        stream_argument(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _is_same(path: Path, file: BinaryIO) -> bool:
    return os.path.samestat(path.stat(), os.fstat(file.fileno()))


def _to(streams: list[str]) -> str:
    named = ", ".join(streams[:_NAMED_STREAMS])
    more = len(streams) - _NAMED_STREAMS
    return (f" to {named}" if named else "") + (f" and {more} more streams" if more > 0 else "")


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
