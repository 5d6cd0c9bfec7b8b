"""Checks of shard iterators and of GetRecords, on open shards."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from infra.conformance.check import INVALID, about_now, check, equal, expect, refused
from infra.conformance.ground import Deviation, Ground
from infra.conformance.records import iterator, put, read, texts

if TYPE_CHECKING:
    from types_boto3_kinesis.type_defs import PutRecordsRequestEntryTypeDef

AREA = "reading"
SHARD = "shardId-000000000000"

AGE_SECONDS = 1.1
"""How far apart two records are that a point in time is to lie between."""


@dataclass(frozen=True, slots=True)
class Filled:
    """A stream of one shard with ten records, `0` to `9`, which nothing is added to.

    Attributes:
        name: The stream.
        numbers: The sequence numbers of the records.
    """

    name: str
    numbers: tuple[str, ...]


def _filled(ground: Ground) -> Filled:
    def make() -> Filled:
        name = ground.stream()
        placed = [put(ground, name, str(number)) for number in range(10)]
        return Filled(name, tuple(str(each.sequence_number) for each in placed))

    return ground.once("ten records", make)


@check("iterator-trim-horizon", source="GetShardIterator: TRIM_HORIZON", area=AREA)
def iterator_trim_horizon(ground: Ground) -> None:
    """TRIM_HORIZON starts at the oldest record, and the records come in the order put."""
    start = iterator(ground, _filled(ground).name, SHARD, "TRIM_HORIZON")
    equal(texts(read(ground, start, 10)), [str(number) for number in range(10)])


@check("iterator-latest", source="GetShardIterator: LATEST", area=AREA)
def iterator_latest(ground: Ground) -> None:
    """LATEST starts after the records that are there: the first one read is put later."""
    name = ground.stream()
    put(ground, name, "before")
    start = iterator(ground, name, SHARD, "LATEST")
    put(ground, name, "after")
    equal(texts(read(ground, start, 1)), ["after"])


@check("iterator-latest-empty", source="GetShardIterator: LATEST", area=AREA)
def iterator_latest_empty(ground: Ground) -> None:
    """LATEST on a shard that has had no record yet starts at the first one."""
    name = ground.stream()
    start = iterator(ground, name, SHARD, "LATEST")
    put(ground, name, "first")
    equal(texts(read(ground, start, 1)), ["first"])


@check("iterator-at-sequence", source="GetShardIterator: AT_SEQUENCE_NUMBER", area=AREA)
def iterator_at_sequence(ground: Ground) -> None:
    """AT_SEQUENCE_NUMBER starts with the record of that number, the first and the last as well."""
    filled = _filled(ground)
    for at in (0, 4, 9):
        found = _read_from(ground, filled, "AT_SEQUENCE_NUMBER", filled.numbers[at], 10 - at)
        equal(found, [str(number) for number in range(at, 10)], f"from {at}:")


@check("iterator-after-sequence", source="GetShardIterator: AFTER_SEQUENCE_NUMBER", area=AREA)
def iterator_after_sequence(ground: Ground) -> None:
    """AFTER_SEQUENCE_NUMBER starts with the record after the one of that number."""
    filled = _filled(ground)
    for at in (0, 4, 8):
        found = _read_from(ground, filled, "AFTER_SEQUENCE_NUMBER", filled.numbers[at], 9 - at)
        equal(found, [str(number) for number in range(at + 1, 10)], f"after {at}:")


@check("iterator-after-last", source="GetShardIterator: AFTER_SEQUENCE_NUMBER", area=AREA)
def iterator_after_last(ground: Ground) -> None:
    """AFTER_SEQUENCE_NUMBER of the last record starts with the next one that is put."""
    name = ground.stream()
    last = put(ground, name, "last").sequence_number
    start = iterator(ground, name, SHARD, "AFTER_SEQUENCE_NUMBER", StartingSequenceNumber=str(last))
    put(ground, name, "next")
    equal(texts(read(ground, start, 1)), ["next"])


@check("iterator-timestamp-past", source="GetShardIterator: AT_TIMESTAMP, Timestamp", area=AREA)
def iterator_timestamp_past(ground: Ground) -> None:
    """AT_TIMESTAMP before the oldest record starts with the oldest record."""
    past = datetime.now(UTC) - timedelta(hours=12)
    start = iterator(ground, _filled(ground).name, SHARD, "AT_TIMESTAMP", Timestamp=past)
    equal(texts(read(ground, start, 10)), [str(number) for number in range(10)])


@check("iterator-timestamp-between", source="GetShardIterator: AT_TIMESTAMP, Timestamp", area=AREA)
def iterator_timestamp_between(ground: Ground) -> None:
    """AT_TIMESTAMP between two records starts with the later one."""
    name = ground.stream()
    put(ground, name, "earlier")
    ground.pause(AGE_SECONDS)
    put(ground, name, "later")
    earlier, later = read(ground, iterator(ground, name, SHARD, "TRIM_HORIZON"), 2)
    first = earlier["ApproximateArrivalTimestamp"]
    between = first + (later["ApproximateArrivalTimestamp"] - first) / 2
    start = iterator(ground, name, SHARD, "AT_TIMESTAMP", Timestamp=between)
    equal(texts(read(ground, start, 1)), ["later"])


@check("iterator-timestamp-exact", source="GetShardIterator: AT_TIMESTAMP, Timestamp", area=AREA)
def iterator_timestamp_exact(ground: Ground) -> None:
    """AT_TIMESTAMP at the arrival of a record starts with that record."""
    name = ground.stream()
    put(ground, name, "earlier")
    ground.pause(AGE_SECONDS)
    put(ground, name, "later")
    _, later = read(ground, iterator(ground, name, SHARD, "TRIM_HORIZON"), 2)
    at = later["ApproximateArrivalTimestamp"]
    start = iterator(ground, name, SHARD, "AT_TIMESTAMP", Timestamp=at)
    equal(texts(read(ground, start, 1)), ["later"])


@check("iterator-kind-unknown", source="GetShardIterator: ShardIteratorType, enum", area=AREA)
def iterator_kind_unknown(ground: Ground) -> None:
    """A type of iterator that does not exist is refused."""
    name = ground.shared_stream()
    refused(INVALID, lambda: iterator(ground, name, SHARD, "SOMEWHERE"))


@check("iterator-no-sequence", source="GetShardIterator: StartingSequenceNumber", area=AREA)
def iterator_no_sequence(ground: Ground) -> None:
    """Both types that start at a sequence number are refused without one."""
    name = ground.shared_stream()
    for kind in ("AT_SEQUENCE_NUMBER", "AFTER_SEQUENCE_NUMBER"):
        refused(INVALID, lambda kind=kind: iterator(ground, name, SHARD, kind))  # type: ignore[misc] # its default binds it


@check("iterator-no-timestamp", source="GetShardIterator: Timestamp", area=AREA)
def iterator_no_timestamp(ground: Ground) -> None:
    """AT_TIMESTAMP without a timestamp is refused."""
    name = ground.shared_stream()
    refused(INVALID, lambda: iterator(ground, name, SHARD, "AT_TIMESTAMP"))


@check("iterator-bad-sequence", source="StartingSequenceNumber, pattern", area=AREA)
def iterator_bad_sequence(ground: Ground) -> None:
    """A starting sequence number that is no number is refused."""
    name = ground.shared_stream()
    refused(
        INVALID,
        lambda: iterator(ground, name, SHARD, "AT_SEQUENCE_NUMBER", StartingSequenceNumber="first"),
    )


@check("iterator-no-shard", source="GetShardIterator: ResourceNotFoundException", area=AREA)
def iterator_no_shard(ground: Ground) -> None:
    """An iterator of a shard that does not exist is not found."""
    name = ground.shared_stream()
    refused(
        "ResourceNotFoundException",
        lambda: iterator(ground, name, "shardId-000000000999", "TRIM_HORIZON"),
    )


@check("get-bad-iterator", source="GetRecords: InvalidArgumentException", area=AREA)
def get_bad_iterator(ground: Ground) -> None:
    """A shard iterator that AWS never gave is refused."""
    refused(INVALID, lambda: ground.kinesis.get_records(ShardIterator="AAAAAAAAAAE="))


@check("get-limit", source="GetRecords: Limit", area=AREA)
def get_limit(ground: Ground) -> None:
    """No answer has more records than the Limit, and the next iterator goes on after them."""
    at = iterator(ground, _filled(ground).name, SHARD, "TRIM_HORIZON")
    seen: list[str] = []

    def page() -> bool:
        nonlocal at
        answer = ground.kinesis.get_records(ShardIterator=at, Limit=3)
        expect(len(answer["Records"]) <= 3, "at most 3 records", len(answer["Records"]))
        seen.extend(texts(answer["Records"]))
        at = _next(answer.get("NextShardIterator"))
        return len(seen) >= 10

    ground.eventually(page, expected="ten records")
    equal(seen, [str(number) for number in range(10)])


@check("get-again", source="GetRecords: ShardIterator", area=AREA)
def get_again(ground: Ground) -> None:
    """An iterator is a position: used a second time, it gives the same records."""
    start = iterator(ground, _filled(ground).name, SHARD, "TRIM_HORIZON")
    first = texts(read(ground, start, 10))
    equal(texts(read(ground, start, 10)), first)


@check("get-empty", source="GetRecords: NextShardIterator", area=AREA)
def get_empty(ground: Ground) -> None:
    """An empty open shard answers with no records, a next iterator and no lag."""
    answer = ground.kinesis.get_records(
        ShardIterator=iterator(ground, ground.shared_stream(), SHARD, "TRIM_HORIZON")
    )
    equal(answer["Records"], [], "records")
    _next(answer.get("NextShardIterator"))
    equal(answer.get("MillisBehindLatest"), 0, "MillisBehindLatest")


@check("get-next-at-the-tip", source="GetRecords: NextShardIterator", area=AREA)
def get_next_at_the_tip(ground: Ground) -> None:
    """The iterator after an empty answer gives the records that are put later."""
    name = ground.stream()
    at = iterator(ground, name, SHARD, "TRIM_HORIZON")
    for _ in range(3):
        at = _next(ground.kinesis.get_records(ShardIterator=at).get("NextShardIterator"))
        ground.pause(0.25)
    put(ground, name, "later")
    equal(texts(read(ground, at, 1)), ["later"])


@check("get-behind", source="GetRecords: MillisBehindLatest", area=AREA)
def get_behind(ground: Ground) -> None:
    """MillisBehindLatest is more than 0 while older records are unread, and 0 after the last."""
    name = ground.stream()
    put(ground, name, "0")
    ground.pause(AGE_SECONDS)
    put(ground, name, "1")
    at = iterator(ground, name, SHARD, "TRIM_HORIZON")
    behind: dict[str, int] = {}

    def page() -> bool:
        nonlocal at
        answer = ground.kinesis.get_records(ShardIterator=at, Limit=1)
        at = _next(answer.get("NextShardIterator"))
        for text in texts(answer["Records"]):
            behind[text] = answer.get("MillisBehindLatest", -1)
        return len(behind) == 2

    ground.eventually(page, expected="two records")
    expect(behind["0"] > 0, "more than 0 ms behind after the first record", behind["0"])
    last = ground.kinesis.get_records(ShardIterator=at)
    equal(last.get("MillisBehindLatest"), 0, "MillisBehindLatest at the tip:")


@check("get-many", source="GetRecords: NextShardIterator", area=AREA)
def get_many(ground: Ground) -> None:
    """Answer for answer, 1,500 records come once each and in the order of their numbers."""
    name = ground.stream()
    for start in range(0, 1_500, 500):
        _put_all(ground, name, [str(number) for number in range(start, start + 500)])
    found = read(ground, iterator(ground, name, SHARD, "TRIM_HORIZON"), 1_500, Limit=400)
    numbers = [record["SequenceNumber"] for record in found]
    expect(numbers == sorted(set(numbers), key=int), "each once and in order", numbers[:5])
    equal({int(text) for text in texts(found)}, set(range(1_500)), "records")


@check("get-record-fields", source="Record", area=AREA)
def get_record_fields(ground: Ground) -> None:
    """A record comes back with its data byte for byte, its key, its number and its arrival."""
    name, data = ground.stream(), bytes(range(256))
    placed = ground.kinesis.put_record(StreamName=name, Data=data, PartitionKey="\N{SNOWMAN}")
    (record,) = read(ground, iterator(ground, name, SHARD, "TRIM_HORIZON"), 1)
    equal(record["Data"], data, "data")
    equal(record["PartitionKey"], "\N{SNOWMAN}", "partition key")
    equal(record["SequenceNumber"], placed["SequenceNumber"], "sequence number")
    about_now(record["ApproximateArrivalTimestamp"])


@check("get-arrival-milliseconds", source="Record: ApproximateArrivalTimestamp", area=AREA)
def get_arrival_milliseconds(ground: Ground) -> None:
    """The arrival of a record is told to the millisecond."""
    name = ground.stream()
    for number in range(4):  # that all four arrive at a full second is as good as impossible
        put(ground, name, str(number))
        ground.pause(0.13)
    found = read(ground, iterator(ground, name, SHARD, "TRIM_HORIZON"), 4)
    times = [record["ApproximateArrivalTimestamp"] for record in found]
    expect(any(time.microsecond for time in times), "milliseconds", [str(time) for time in times])


def _read_from(ground: Ground, filled: Filled, kind: str, number: str, count: int) -> list[str]:
    start = iterator(ground, filled.name, SHARD, kind, StartingSequenceNumber=number)
    return texts(read(ground, start, count))


def _next(found: str | None) -> str:
    """Return the next iterator, which an open shard always has."""
    if not found:
        raise Deviation("a NextShardIterator, since the shard is open", repr(found))
    return found


def _put_all(ground: Ground, name: str, values: list[str]) -> None:
    """Put records; those that the shard's write limit refuses are put again."""
    left: list[PutRecordsRequestEntryTypeDef] = [
        {"Data": value.encode(), "PartitionKey": "k"} for value in values
    ]

    def put_left() -> bool:
        nonlocal left
        answer = ground.kinesis.put_records(StreamName=name, Records=left)
        left = [
            entry
            for entry, outcome in zip(left, answer["Records"], strict=True)
            if "ErrorCode" in outcome
        ]
        return not left

    ground.eventually(put_left, expected=f"{len(values)} records put")
