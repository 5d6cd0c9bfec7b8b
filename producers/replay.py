"""Put dead letters back on their streams: the same bytes, the same keys, the same record IDs.

What it shows: a record that could not be delivered is not lost, and putting it again is harmless.
Each letter goes to the stream that it names, with the partition key, explicit hash key and data
it has, so a consumer that applies each record ID once takes it once, however often it is put.

How to run it: `python -m producers.replay FILE [--stream STREAM] [--dead-letter failed-again.dlq]
[--remove]`. Producers may go on appending to FILE; what is in it at the start is put.

What you will see: one line, `delivered 120 of 120 records to orders`, and on stderr one line for
each kind of failure and each damaged place. Exit code 0 if all was delivered, 1 if something was
not (also because a signal came), 2 for bad usage or a file that is damaged or torn.

What is guaranteed and what is not: at least once, every letter that can be read is delivered or
kept in `FILE.failed`; FILE itself stays as it is. A crash or Ctrl-C loses nothing: run it again.
Letters of one key arrive in the order of the file, whether they name their stream or give its ARN,
and one that fails does not stop those after it; what was delivered before the file was written is
already there, so the order of a key across both is gone. Doubles cannot be told where records carry
no record ID; their number is said.

What to change for production: `--remove`, so that a timer may start this whenever FILE is there. It
takes what was delivered, or kept in `FILE.failed`, out of FILE; letters that came meanwhile and a
torn end stay in it, and a file damaged before its end stays whole as `FILE.damaged`. Only a run
that ended early, or could not keep a letter, takes nothing out: the next one puts all again.
"""

import argparse
import itertools
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from botocore.exceptions import BotoCoreError

from producers import programs
from producers.aggregated.producer import AggregatingProducer
from producers.aggregated.values import PutResult
from producers.dead_letters import DeadLetterFile, drop_read
from producers.errors import ProducerError
from records.dead_letter import DeadLetter, read_dead_letters
from records.envelope import open_envelope
from records.errors import DeadLetterCorrupt, RecordsError
from records.limits import MIB
from records.stream_ref import stream_name

if TYPE_CHECKING:
    from types_boto3_kinesis import KinesisClient

# Beyond these the stream that was not used for longest is brought to its end first.
MAX_STREAMS_AT_ONCE: Final = 16
_MAX_BUFFERED_BYTES: Final = 8 * MIB  # of each
_MAX_BUFFERED_RECORDS: Final = 5_000
_MAX_BUFFERED_SLOW: Final = 200


def main(
    argv: Sequence[str] | None = None,
    *,
    progress: programs.Progress | None = None,
    program: str = "producers.replay",
) -> int:
    """Put the dead letters of a file back; `progress` is told how far it is."""
    parser = _parser(program)
    options = parser.parse_args(argv)
    with ExitStack() as stack:
        try:
            source = stack.enter_context(_open(options.file))
            client = stack.enter_context(closing(programs.make_client(read_timeout=10)))
            failed = options.dead_letter or f"{options.file}.failed"
            letters = stack.enter_context(programs.open_letters(failed, source))
        except (OSError, BotoCoreError, ValueError) as error:  # ValueError: no URL, no path
            parser.error(str(error))
        replay = Replay(
            program, options, client=client, source=source, letters=letters, progress=progress
        )
        with programs.stopped_by_signals(replay.stop):
            replay.run()
        replay.end()
        return replay.exit_code


def _open(name: str) -> BinaryIO:
    if not Path(name).is_file() and Path(name).exists():
        raise OSError(f"{name} is no file that can be read twice")
    return Path(name).open("rb")


class Replay(programs.Tally):
    """One run: the letters of a file, the producers they go to, and what becomes of each."""

    def __init__(
        self,
        name: str,
        options: argparse.Namespace,
        *,
        client: "KinesisClient",
        source: BinaryIO,
        letters: DeadLetterFile,
        progress: programs.Progress | None,
    ) -> None:
        super().__init__(name, letters=letters, progress=progress)
        self.total_bytes: int = programs.size_of(source) or 0
        self._options = options
        self._client = client
        self._source = source
        self._read = 0
        self._without_id = 0
        self._streams: dict[str, None] = {}
        self._producers: dict[str, AggregatingProducer] = {}  # the one used last at the end
        self._damaged_at: int | None = None  # The first place.
        self._unreadable = False

    def run(self) -> None:
        """Put every letter, and wait until each is delivered or given up."""
        try:
            for letter in self._from_file():
                stream = self._options.stream or letter.stream
                self._streams[stream] = None
                self._put(replace(letter, stream=stream))
        finally:
            for producer in self._producers.values():
                _settle(producer)

    def stop(self) -> None:
        """Read no further; what was read is still settled. Safe in a signal handler."""
        self._stopped = True

    def end(self) -> None:
        """Sum up, and remove the file if that was asked for and may be done."""
        if self._without_id:
            self.say(f"{self._without_id} carry no record ID: doubles of them cannot be told")
        rest = ""
        if not self.complete:
            path = self._options.file
            rest = f", stopped by a signal after record {self._read}: all are still in {path}"
        self.sum_up(self._streams, rest)
        if self._options.remove:
            self._remove()

    def _from_file(self) -> Iterator[DeadLetter]:
        """Yield the letters that are there at the start, whoever may be appending others."""
        try:
            for letter in read_dead_letters(self._source, on_corrupt=self._note_damage):
                self._read += 1
                self.bytes_read = self._source.tell()
                yield letter
                if self._stopped or self.bytes_read >= self.total_bytes:
                    return
        except OSError as error:
            self._unreadable = True
            self.bad_input(f"the file cannot be read after record {self._read}: {error}")

    def _note_damage(self, damage: DeadLetterCorrupt) -> None:
        if self._damaged_at is None:
            self._damaged_at = damage.offset
        hint = ", or somebody is writing it" if damage.torn else ""
        self.bad_input(f"{self._options.file} is damaged{hint}: {damage}")

    def _put(self, letter: DeadLetter) -> None:
        self._without_id += open_envelope(letter.data).record_id is None
        try:
            future = self._producer_of(letter.stream).put(
                letter.partition_key, letter.data, explicit_hash_key=letter.explicit_hash_key
            )
        except (ProducerError, ValueError) as error:  # A record, or a stream, that none can be.
            known = isinstance(error, ProducerError | RecordsError)
            code = type(error).__name__ if known else "InvalidStream"
            found = replace(letter, error_code=code, error_message=str(error))
            self.give_up(replace(found, attempts=0, failed_at=time.time()))
        else:
            future.add_done_callback(self._settled)

    def _producer_of(self, stream: str) -> AggregatingProducer:
        self._settle_other_name(stream)
        producer = self._producers.pop(stream, None)
        if producer is None:
            if len(self._producers) >= MAX_STREAMS_AT_ONCE:
                _settle(self._producers.pop(next(iter(self._producers))))
            options = self._options
            ordered = not options.unordered
            slow = ordered and not options.aggregate  # One record of each shard is on the road.
            producer = AggregatingProducer(
                self._client,
                stream,
                aggregation=options.aggregate,
                max_record_age=options.max_age,
                ordered=ordered,
                skip_failed=ordered,
                # What waits in the file does not grow old.
                max_buffered_bytes=_MAX_BUFFERED_BYTES,
                max_buffered_records=_MAX_BUFFERED_SLOW if slow else _MAX_BUFFERED_RECORDS,
                record_ids=False,  # The records have theirs, or never had one.
                on_dead_letter=self.give_up,
            )
        self._producers[stream] = producer
        return producer

    def _settle_other_name(self, stream: str) -> None:
        """Let what goes to the same name arrive first: it may be the same stream.

        Whether a name and an ARN are the same depends on the account, which nobody here knows. Two
        ARNs are two streams.
        """
        if self._options.unordered or stream == next(reversed(self._producers), None):
            return
        name = stream_name(stream)
        for other, producer in self._producers.items():
            if other != stream and name in {stream, other} and stream_name(other) == name:
                producer.flush()

    def _settled(self, done: "Future[PutResult]") -> None:
        if done.exception() is None:  # Otherwise the producer has called give_up.
            self.delivered()

    def _remove(self) -> None:
        """Take out of the file what was delivered or is kept elsewhere."""
        name, path = self._options.file, Path(self._options.file).resolve()
        if self._unreadable or not self.complete:
            self.say(f"{name} stays as it is: not all of it was read")
            return
        if not self.all_kept or self.delivered_records + self.failed_records < self._read:
            self.say(f"{name} stays as it is: not all that failed is kept elsewhere")
            return
        # What cannot be read at its end stays in the file; elsewhere there are letters around it.
        amid = self._damaged_at is not None and self._damaged_at < self.bytes_read
        aside = _free(f"{path}.damaged") if amid else None
        try:
            left = drop_read(self._source, path, size=self.bytes_read, keep_as=aside)
        except OSError as error:
            self.say(f"{name} stays as it is: {error}")
            return
        if left is None:
            self.say(f"{name} is not removed: it is another file by now")
        elif aside is not None:
            self.say(f"what is damaged, and all that was around it, is in {aside}")
        if left:
            self.say(f"{name} keeps {left} bytes that came meanwhile or cannot be read")


def _free(name: str) -> Path:
    """Return a path that is not there, of this name or with a number behind it."""
    names = (name if not number else f"{name}.{number}" for number in itertools.count())
    return next(path for path in map(Path, names) if not path.exists())


def _settle(producer: AggregatingProducer) -> None:
    # close() has a deadline of its own; here each record has the age it was promised.
    producer.flush()
    producer.close()


def _parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        program,
        description="Put the records of a dead-letter file back on the streams that they name, with"
        " the same data, keys and record IDs. Without --remove the file stays as it is.",
        epilog=programs.EPILOG,
        usage=programs.usage(program),
    )
    parser.add_argument("file", metavar="FILE", help="what --dead-letter of a producer has written")
    parser.add_argument(
        "--stream",
        metavar="STREAM",
        type=programs.stream,
        help="put all of them on this stream, by name or ARN, whatever they name",
    )
    parser.add_argument(
        "--aggregate",
        action="store_true",
        help="pack many records in one, in the KPL's format, which is much faster; by default each"
        " travels by itself, which every consumer can read",
    )
    programs.add_patience(parser)
    parser.add_argument(
        "--dead-letter",
        metavar="FILE",
        type=programs.file,
        help="append what cannot be delivered once more to this file (FILE.failed)",
    )
    parser.add_argument(
        "--remove",
        action="store_true",
        help="in the end take out of FILE what was delivered, or kept in the other file, and remove"
        " it if nothing else is in it",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
