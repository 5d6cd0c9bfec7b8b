"""Rates: what exceeds them is throttled in the documented words, and only that.

No bare emulator but one counts anything, so these are the checks that tell whether a test of
retries, back-off and partial failures can fail at all.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from infra.conformance.check import check, code_of, equal, expect
from infra.conformance.ground import Ground
from infra.conformance.records import beginning, first_shard, read, shards
from records.limits import (
    MAX_RECORD_BYTES,
    MAX_RECORDS_PER_PUT,
    MIB,
    SHARD_READ_CALLS_PER_SECOND,
)

if TYPE_CHECKING:
    from types_boto3_kinesis.type_defs import (
        PutRecordsOutputTypeDef,
        PutRecordsRequestEntryTypeDef,
    )

_WRITES = "Quotas and limits: 1,000 records and 1 MiB a second for each shard"
_READS = "GetRecords: 5 calls and 2 MiB a second for each shard"
_PARTIAL = "PutRecords: FailedRecordCount, ErrorCode, ErrorMessage"

_THROTTLED = "ProvisionedThroughputExceededException"
_ROUNDS = 3
"""How often to try before it counts as never throttled: a shard may be lenient for a moment."""


@check("records-per-second", source=_WRITES, area="quotas")
def records_per_second(ground: Ground) -> None:
    """Thousands of records a second for one shard are throttled in part."""
    name = ground.stream()
    records = _records(MAX_RECORDS_PER_PUT, b"x")

    def call() -> list[str]:
        return [e.get("ErrorCode", "") for e in _put(ground, name, records)["Records"]]

    codes = _at_once(call, 6)
    expect(_THROTTLED in codes, f"entries with {_THROTTLED}", f"{len(codes)} records taken")
    expect("" in codes, "some records taken", "all throttled")


@check("bytes-per-second", source=_WRITES, area="quotas")
def bytes_per_second(ground: Ground) -> None:
    """Several MiB a second for one shard are throttled in part."""
    codes = [e.get("ErrorCode") for answer in _overloaded(ground)[1] for e in answer["Records"]]
    expect(_THROTTLED in codes, f"entries with {_THROTTLED}", f"{len(codes)} records taken")
    expect(None in codes, "some records taken", "all throttled")


@check("partial-failure-is-counted", source=_PARTIAL, area="quotas")
def partial_failure_is_counted(ground: Ground) -> None:
    """FailedRecordCount counts the failed entries; each other one has a sequence number."""
    for answer in _partly_failed(ground)[1]:
        failed = [entry for entry in answer["Records"] if entry.get("ErrorCode")]
        equal(answer["FailedRecordCount"], len(failed), "FailedRecordCount")
        for entry in answer["Records"]:
            written = bool(entry.get("SequenceNumber")) and bool(entry.get("ShardId"))
            equal(written, not entry.get("ErrorCode"), f"written {entry}")


@check("partial-failure-writes-the-rest", source=_PARTIAL, area="quotas")
def partial_failure_writes_the_rest(ground: Ground) -> None:
    """What has a sequence number is read back; what was throttled is not there."""
    name, answers = _partly_failed(ground)
    written = {
        entry.get("SequenceNumber", ""): entry.get("ShardId")
        for answer in answers
        for entry in answer["Records"]
        if not entry.get("ErrorCode")
    }
    found = set()
    for shard in shards(ground, name):
        start = beginning(ground, name, shard["ShardId"])
        mine = {number for number, shard_id in written.items() if shard_id == shard["ShardId"]}
        found |= {record["SequenceNumber"] for record in read(ground, start, len(mine))}
    equal(len(found), len(written), "records read:")
    equal(found, set(written), "sequence numbers")


@check("throttled-entry-says-where", source="PutRecordsResultEntry: ErrorMessage", area="quotas")
def throttled_entry_says_where(ground: Ground) -> None:
    """The message of a throttled entry names the stream and the shard."""
    name, answers = _partly_failed(ground)
    shard = shards(ground, name)[0]["ShardId"]
    for answer in answers:
        for entry in answer["Records"]:
            if entry.get("ErrorCode"):
                message = entry.get("ErrorMessage", "")
                expect(name in message and shard in message, f"{name} and {shard}", message)


@check("put-record-throttled", source="PutRecord: errors", area="quotas")
def put_record_throttled(ground: Ground) -> None:
    """PutRecord beyond a shard's rate is a ProvisionedThroughputExceededException."""
    name, data = ground.stream(), bytes(MAX_RECORD_BYTES - 1)
    kinesis = ground.kinesis_throttled

    def call() -> list[str]:
        return [
            _code(lambda: kinesis.put_record(StreamName=name, PartitionKey="k", Data=data)),
        ]

    codes = _at_once(call, 4)
    expect(_THROTTLED in codes, _THROTTLED, f"{len(codes)} records of 1 MiB taken")


@check("other-shard-is-not-throttled", source=_WRITES, area="quotas")
def other_shard_is_not_throttled(ground: Ground) -> None:
    """The rate is each shard's own: while one is throttled, another takes records."""
    for answer in _partly_failed(ground)[1]:
        equal(answer["Records"][-1].get("ErrorCode"), None, "ErrorCode for the other shard")


@check("get-records-per-second", source=_READS, area="quotas")
def get_records_per_second(ground: Ground) -> None:
    """More than five GetRecords a second on one shard are throttled."""
    position = beginning(ground, ground.stream())
    kinesis = ground.kinesis_throttled
    codes = _at_once(lambda: [_code(lambda: kinesis.get_records(ShardIterator=position))], 20)
    expect(_THROTTLED in codes, _THROTTLED, f"{len(codes)} calls answered")
    expect("" in codes, f"{SHARD_READ_CALLS_PER_SECOND} calls answered", "all throttled")


@check("get-shard-iterator-per-second", source="GetShardIterator: 5 a second", area="quotas")
def get_shard_iterator_per_second(ground: Ground) -> None:
    """More than five GetShardIterator a second on one shard are throttled."""
    name = ground.stream()
    shard, kinesis = first_shard(ground, name), ground.kinesis_throttled

    def call() -> list[str]:
        return [
            _code(
                lambda: kinesis.get_shard_iterator(
                    StreamName=name, ShardId=shard, ShardIteratorType="LATEST"
                )
            )
        ]

    codes = _at_once(call, 20)
    expect(_THROTTLED in codes, _THROTTLED, f"{len(codes)} calls answered")


@check("bytes-read-per-second", source=_READS, area="quotas")
def bytes_read_per_second(ground: Ground) -> None:
    """After an answer of more than 2 MiB the next GetRecords at once is throttled."""
    name, size = ground.stream(), MAX_RECORD_BYTES - 1
    for _ in range(3):
        ground.kinesis.put_record(StreamName=name, PartitionKey="k", Data=bytes(size))
    position = beginning(ground, name)
    ground.pause(1.0)  # so that the number of calls is not what throttles
    answer = ground.kinesis.get_records(ShardIterator=position)
    expect(len(answer["Records"]) == 3, "3 MiB", f"{len(answer['Records'])} records")
    kinesis = ground.kinesis_throttled
    found = _code(lambda: kinesis.get_records(ShardIterator=answer["NextShardIterator"]))
    equal(found, _THROTTLED, "the next call:")


@check("list-consumers-per-second", source="ListStreamConsumers: 5 a second", area="quotas")
def list_consumers_per_second(ground: Ground) -> None:
    """More than five ListStreamConsumers a second are a LimitExceededException."""
    arn, kinesis = ground.arn(ground.stream()), ground.kinesis_throttled
    codes = _at_once(lambda: [_code(lambda: kinesis.list_stream_consumers(StreamARN=arn))], 20)
    expect("LimitExceededException" in codes, "LimitExceededException", f"{len(codes)} answered")


def _partly_failed(ground: Ground) -> "tuple[str, list[PutRecordsOutputTypeDef]]":
    """Return the overloaded stream and the answers, of which some have entries that failed."""
    name, answers = _overloaded(ground)
    failed = sum(answer["FailedRecordCount"] for answer in answers)
    expect(failed, "failed entries", "all records taken")
    return name, answers


def _overloaded(ground: Ground) -> "tuple[str, list[PutRecordsOutputTypeDef]]":
    """Put too much into the first of two shards, once for all checks that look at the answers.

    The last record of each call is a small one for the other shard.
    """

    def overload() -> "tuple[str, list[PutRecordsOutputTypeDef]]":
        name = ground.stream(2)
        low, high = (each["HashKeyRange"]["StartingHashKey"] for each in shards(ground, name))
        records: list[PutRecordsRequestEntryTypeDef] = [
            {"Data": bytes(MIB // 4), "PartitionKey": "k", "ExplicitHashKey": low} for _ in range(6)
        ]
        records.append({"Data": b"x", "PartitionKey": "k", "ExplicitHashKey": high})
        answers: list[PutRecordsOutputTypeDef] = []
        for _ in range(_ROUNDS):
            answers.append(_put(ground, name, records))
            if answers[-1]["FailedRecordCount"]:
                break
        return name, answers

    return ground.once("overloaded stream", overload)


def _put(
    ground: Ground, stream: str, records: "Sequence[PutRecordsRequestEntryTypeDef]"
) -> "PutRecordsOutputTypeDef":
    return ground.kinesis_throttled.put_records(StreamName=stream, Records=records)


def _records(count: int, data: bytes) -> "list[PutRecordsRequestEntryTypeDef]":
    return [{"Data": data, "PartitionKey": "k"} for _ in range(count)]


def _at_once(call: Callable[[], list[str]], times: int) -> list[str]:
    """Make calls side by side, so that they arrive within a second even at a slow engine."""
    with ThreadPoolExecutor(times) as pool:
        answers = [pool.submit(call) for _ in range(times)]
        return [code for answer in answers for code in answer.result()]


def _code(call: Callable[[], Any]) -> str:
    """Return the error a call is answered with; empty if it succeeds."""
    try:
        call()
    except ClientError as error:
        return code_of(error)
    return ""
