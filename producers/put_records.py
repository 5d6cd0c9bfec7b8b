"""Put lines on a Kinesis stream in full batches, and know what became of every one.

What it shows: `PutRecords` answers 200 even when every record in it failed, and 501 records are
one too many. Here batches keep to the real limits, only the records whose own `ErrorCode` says so
are sent again, with full-jitter back-off, and each gets an `Outcome`: its place or its error.

How to run it: `python -m producers.put_records STREAM [FILE|-] [--key-field thing]`

What you will see: one line, `delivered 501 of 501 records to STREAM`, and on stderr one line for
each kind of failure. Exit code 0 if all was delivered, 1 if not, 2 for bad usage or bad input.

What is guaranteed and what is not: at least once; every line read is delivered or reported. No
order: `PutRecords` promises none, and what is sent again comes late. Duplicates are possible: a
request that timed out may have been stored. A batch waits until it is full or the input ends.

Which producer when: this for whole batches, `PutRecord` where somebody waits for one record, and
`producers.aggregated` for many small ones, a live feed or order per key (docs/which-producer.md).

What to change for production: the partition key (random by default), and add `--dead-letter`.
"""

import argparse
import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from botocore import exceptions as sdk

from producers import lines
from records import limits
from records.errors import RecordError
from records.stream_ref import stream_argument

if TYPE_CHECKING:
    from types_boto3_kinesis import KinesisClient

BACKOFF_BASE_SECONDS, BACKOFF_CAP_SECONDS = 0.1, 5.0
# What may succeed later; trying anything else again would only delay the news.
RETRIABLE_CODES = {
    *("ProvisionedThroughputExceededException", "LimitExceededException", "ThrottlingException"),
    *("KMSThrottlingException", "RequestTimeout", "InternalFailure", "ServiceUnavailable"),
    *("RequestTimeoutException", "InternalFailureException", "ResourceInUseException"),
}


@dataclass(frozen=True, slots=True)
class Record:
    """One record to put; `explicit_hash_key`, if given, picks the shard instead of the key."""

    partition_key: str
    data: bytes
    explicit_hash_key: int | None = None


@dataclass(frozen=True, slots=True)
class Stored:
    """Where the stream put a record."""

    shard_id: str
    sequence_number: str


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a record, or a whole request, was not stored, and whether it may be later."""

    code: str
    message: str
    retriable: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a record, after so many attempts (0: it was never sent)."""

    record: Record
    shard_id: str | None
    sequence_number: str | None
    attempts: int
    error_code: str | None
    error_message: str | None

    @property
    def delivered(self) -> bool:
        """Whether the stream has confirmed the record."""
        return self.error_code is None


def put_records(
    client: "KinesisClient",
    stream: str,
    records: Iterable[Record],
    *,
    max_attempts: int = 8,
    sleep: Callable[[float], None] = time.sleep,
    rng: random.Random | None = None,
    max_record_bytes: int = limits.MAX_RECORD_BYTES,
) -> list[Outcome]:
    """Put all `records` and return an outcome for each, in the order given; see `deliver`."""
    options: Any = {"sleep": sleep, "rng": rng, "max_record_bytes": max_record_bytes}
    return [*deliver(client, stream, records, max_attempts=max_attempts, **options)]


def deliver(
    client: "KinesisClient",
    stream: str,
    records: Iterable[Record],
    *,
    max_attempts: int = 8,
    sleep: Callable[[float], None] = time.sleep,
    rng: random.Random | None = None,
    max_record_bytes: int = limits.MAX_RECORD_BYTES,
) -> Iterator[Outcome]:
    """Put `records` while reading them, one batch in memory, and yield outcomes in their order.

    A failure is an outcome, never an exception. A record that is invalid by itself is not sent and
    harms no other. Once a whole request fails for good (no such stream, access denied, no answer
    in `max_attempts`), the records after it are not sent and get its error with 0 attempts.
    `max_record_bytes` is the stream's own maximum: 1 MiB, unless it was raised to up to 10 MiB.
    """
    rng = rng or random.Random()
    down: Failure | None = None
    for batch in batches(records):
        refusals = [_refusal(record, max_record_bytes) or down for record in batch]
        outcomes = {at: _undelivered(batch[at], 0, why) for at, why in enumerate(refusals) if why}
        for attempt in range(1, max_attempts + 1):
            waiting = [at for at in range(len(batch)) if at not in outcomes]
            if not waiting:
                break
            if attempt > 1:
                sleep(backoff_seconds(attempt - 1, rng))
            reply = put_once(client, stream, [batch[at] for at in waiting])
            if isinstance(reply, Failure):
                down = reply if attempt == max_attempts or not reply.retriable else None
                reply = [reply] * len(waiting)
            for at, result in zip(waiting, reply, strict=True):
                if isinstance(result, Stored):
                    place = (result.shard_id, result.sequence_number)
                    outcomes[at] = Outcome(batch[at], *place, attempt, None, None)
                elif attempt == max_attempts or not result.retriable:
                    outcomes[at] = _undelivered(batch[at], attempt, result)
        yield from (outcomes[at] for at in range(len(batch)))


def batches(
    records: Iterable[Record],
    *,
    max_records: int = limits.MAX_RECORDS_PER_PUT,
    max_bytes: int = limits.MAX_PUT_REQUEST_BYTES,
) -> Iterator[list[Record]]:
    """Group records, in order, into requests of at most `max_records` and `max_bytes`.

    Data and partition keys count (AWS: Kinesis Data Streams API Reference, PutRecords). A record
    larger than `max_bytes` comes in a batch of its own.
    """
    batch: list[Record] = []
    size = 0
    for record in records:
        # A key that is no Unicode text is refused in its turn; here it must only be counted.
        added = len(record.data) + len(record.partition_key.encode(errors="surrogatepass"))
        if batch and (len(batch) == max_records or size + added > max_bytes):
            yield batch
            batch, size = [], 0
        batch.append(record)
        size += added
    if batch:
        yield batch


def put_once(
    client: "KinesisClient", stream: str, batch: Sequence[Record]
) -> list[Stored | Failure] | Failure:
    """Send one request; return a result for each record, or the one failure of the request.

    Raises:
        ValueError: `stream` is neither a name nor an ARN.
    """
    named = stream_argument(stream)
    try:
        answer = client.put_records(**named, Records=[_entry(each) for each in batch])
        # Only each record's own ErrorCode counts: an emulator says FailedRecordCount=1 if all fail.
        results = [_result(entry) for entry in answer.get("Records") or ()]
    except Exception as error:  # noqa: BLE001 - botocore lets out whatever a bad answer trips up
        return failure_of(error)
    if len(results) != len(batch):
        return Failure("MalformedAnswer", f"{len(results)} results of {len(batch)}", retriable=True)
    return results


def failure_of(error: Exception) -> Failure:
    """Tell what may pass from what will not.

    Throttles, 5xx, no answer or none that the SDK can read, and no fresh credentials may pass.
    """
    passing = sdk.ConnectionError | sdk.HTTPClientError | sdk.CredentialRetrievalError
    if not isinstance(error, sdk.ClientError):
        retriable = isinstance(error, passing) or not isinstance(error, sdk.BotoCoreError)
        return Failure(type(error).__name__, str(error), retriable)
    code = error.response.get("Error", {}).get("Code") or "Unknown"
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    message = str(error.response.get("Error", {}).get("Message") or error)
    return Failure(code, message, status >= 500 or status == 429 or code in RETRIABLE_CODES)


def backoff_seconds(failures: int, rng: random.Random) -> float:
    """Full jitter: from 0 to a bound that doubles with each failure in a row, capped."""
    longest = BACKOFF_BASE_SECONDS * 2.0 ** min(failures - 1, 16)
    return rng.uniform(0, min(BACKOFF_CAP_SECONDS, longest))


def _entry(record: Record) -> Any:
    entry: dict[str, Any] = {"PartitionKey": record.partition_key, "Data": record.data}
    if record.explicit_hash_key is not None:
        entry["ExplicitHashKey"] = str(record.explicit_hash_key)
    return entry


def _result(entry: Any) -> Stored | Failure:
    if code := str(entry.get("ErrorCode") or ""):
        return Failure(code, str(entry.get("ErrorMessage") or ""), code in RETRIABLE_CODES)
    if not entry.get("ShardId") or not entry.get("SequenceNumber"):
        return Failure("MalformedAnswer", "neither place nor error", retriable=True)
    return Stored(entry["ShardId"], entry["SequenceNumber"])


def _refusal(record: Record, most: int) -> Failure | None:
    key, explicit = record.partition_key, record.explicit_hash_key
    try:
        limits.check_record(key, record.data, explicit, max_record_bytes=most)
    except RecordError as error:
        return Failure(type(error).__name__, str(error), error.retriable)
    return None


def _undelivered(record: Record, attempts: int, failure: Failure) -> Outcome:
    return Outcome(record, None, None, attempts, failure.code, failure.message)


def main(
    argv: Sequence[str] | None = None,
    *,
    progress: lines.Progress | None = None,
    program: str = "producers.put_records",
) -> int:
    """Deliver the lines of a file or of stdin; `progress` is told how far it is."""
    parser = argparse.ArgumentParser(program, description="Put each line on a Kinesis stream.")
    with lines.feed(parser, argv, progress=progress, read_timeout=30) as feed:
        records = (Record(key, line) for key, line in feed)
        for each in deliver(feed.client, feed.stream, records):
            if each.error_code is None:
                feed.delivered()
            else:
                key, data, error = each.record.partition_key, each.record.data, each.error_code
                feed.failed(key, data, error, each.error_message or "", each.attempts)
    return feed.exit_code


if __name__ == "__main__":
    sys.exit(main())
