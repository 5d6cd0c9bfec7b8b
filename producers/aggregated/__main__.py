"""Put lines on a Kinesis stream, packed in aggregates, in order for each key.

What it shows: many small records cost little when they travel together. Each line gets a record
ID and a place in a KPL aggregate for its shard; each is confirmed by itself, and the order of a
key survives throttling, lost answers and reshards.

How to run it: `python -m producers.aggregated STREAM [FILE|-] [--key-field thing]
[--dead-letter failed.dlq]`. A line travels after `--linger` seconds at the latest, so
`tail -f log | python -m producers.aggregated STREAM` is a fine use.

What you will see: one line, `delivered 1000 of 1000 records to STREAM`, and on stderr one line
for each kind of failure. Exit code 0 if all was delivered, 1 if not, such as the rest of FILE after
Ctrl-C, 2 for bad usage or bad input.

What is guaranteed and what is not: at least once, every line read is delivered or reported. Order
for each key, as consumers see it that follow the lineage of shards and apply each record ID once
(not with `--unordered`). Duplicates are possible; they carry the same record ID. A line that is
given up, after `--max-age` seconds or a fatal error, does not stop those after it.

What to change for production: `--key-field`, since the default key, random for each line, orders
nothing; record IDs that come from the source (a field `record_id`), so that a restart makes no new
ones; and a `--dead-letter` file that is watched, and put again with `producers.replay`.
"""

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Final

from producers import lines, programs
from producers.aggregated.producer import AggregatingProducer
from producers.aggregated.values import PutResult
from producers.errors import DeliveryError, ProducerError
from records.errors import RecordsError
from records.limits import MIB

# What waits in the input does not grow old; this takes one shard 8 seconds.
_MAX_BUFFERED_BYTES: Final = 8 * MIB


def main(
    argv: Sequence[str] | None = None,
    *,
    progress: lines.Progress | None = None,
    program: str = "producers.aggregated",
) -> int:
    """Deliver the lines of a file or of stdin; `progress` is told how far it is."""
    parser = argparse.ArgumentParser(
        prog=program,
        description="Put each line on a Kinesis stream as soon as it can be read, packed with"
        " others in KPL aggregates, in order for each partition key.",
    )
    parser.add_argument(
        "--linger",
        metavar="SECONDS",
        type=programs.seconds,
        default=0.1,
        help="that a line may wait for others (%(default)s)",
    )
    programs.add_patience(parser)
    fed = lines.feed(parser, argv, progress=progress, read_timeout=10)
    with fed as feed, _producer(feed) as producer:
        for key, line in feed:
            try:
                future = producer.put(key, line)
            except (RecordsError, ProducerError) as error:
                feed.failed(key, line, type(error).__name__, str(error), 0)
            else:
                future.add_done_callback(lambda done: _tell(feed, done))
        # close() has a deadline of its own; here each line has the age it was promised.
        producer.flush()
    return feed.exit_code


def _producer(feed: lines.Feed) -> AggregatingProducer:
    options = feed.options
    # Random keys have no order, so that nothing need wait for the sake of it.
    keys = options.partition_key is not None or options.key_field is not None
    ordered = keys and not options.unordered
    return AggregatingProducer(
        feed.client,
        feed.stream,
        linger=options.linger,
        max_record_age=options.max_age,
        ordered=ordered,
        skip_failed=ordered,
        max_buffered_bytes=_MAX_BUFFERED_BYTES,
    )


def _tell(feed: lines.Feed, done: "Future[PutResult]") -> None:
    error = done.exception()
    if isinstance(error, DeliveryError):
        record = error.record
        feed.failed(
            record.partition_key,
            record.data,
            error.error_code,
            error.error_message,
            len(error.attempts),
        )
    else:
        feed.delivered()


if __name__ == "__main__":
    sys.exit(main())
