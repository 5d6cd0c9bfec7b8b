"""The answers a producer builds on, in JSON and in CBOR, and the errors in both."""

import time
from typing import TYPE_CHECKING, Any

import cbor2

from infra.conformance.check import check, equal, expect
from infra.conformance.ground import Ground
from infra.conformance.records import beginning, read
from infra.conformance.wire import CBOR_TYPE, JSON_TYPE, WireAnswer, send

if TYPE_CHECKING:
    from types_boto3_kinesis.type_defs import PutRecordsRequestEntryTypeDef

_ENTRY = "PutRecords: PutRecordsResultEntry"
_CBOR = "Kinesis CBOR protocol, as the AWS SDK for Java 2 reads and writes it"
_JSON = "Smithy: AWS JSON 1.1 protocol"

_AN_HOUR = 3_600.0


@check("put-record-answer", source="PutRecord: ShardId, SequenceNumber", area="producing")
def put_record_answer(ground: Ground) -> None:
    """PutRecord answers with the shard and a sequence number of digits."""
    name = ground.stream()
    answer = ground.kinesis.put_record(StreamName=name, PartitionKey="k", Data=b"x")
    shards = [each["ShardId"] for each in ground.kinesis.list_shards(StreamName=name)["Shards"]]
    equal(answer.get("ShardId"), shards[0], "ShardId")
    number = answer.get("SequenceNumber", "")
    expect(number.isdecimal() and not number.startswith("0"), "a number without zeros", number)


@check("put-records-answer", source=_ENTRY, area="producing")
def put_records_answer(ground: Ground) -> None:
    """Each entry of a full success has a shard and a sequence number, and no error."""
    records = [_record(str(n)) for n in range(20)]
    answer = ground.kinesis.put_records(StreamName=ground.stream(2), Records=records)
    equal(len(answer["Records"]), len(records), "entries")
    equal(answer.get("FailedRecordCount", 0), 0, "FailedRecordCount")
    for entry in answer["Records"]:
        complete = entry.get("ShardId") and entry.get("SequenceNumber")
        expect(complete and not entry.get("ErrorCode"), "ShardId and SequenceNumber", entry)


@check("put-records-are-read-back", source="PutRecords; GetRecords", area="producing")
def put_records_are_read_back(ground: Ground) -> None:
    """What was put is read exactly: any bytes, any key, and the sequence numbers answered."""
    name, data = ground.stream(), bytes(range(256))
    records: list[PutRecordsRequestEntryTypeDef] = [
        {"Data": data, "PartitionKey": "clé-鍵-🔑"},
        {"Data": b"", "PartitionKey": " "},
        {"Data": data, "PartitionKey": "clé-鍵-🔑"},
    ]
    put = ground.kinesis.put_records(StreamName=name, Records=records)["Records"]
    found = read(ground, beginning(ground, name), len(records))
    seen = {each["SequenceNumber"]: (each["PartitionKey"], each["Data"]) for each in found}
    sent = {
        entry.get("SequenceNumber", ""): (record["PartitionKey"], record["Data"])
        for entry, record in zip(put, records, strict=True)
    }
    equal(seen, sent, "records by sequence number")


@check("same-record-twice", source="Handling duplicate records", area="producing")
def same_record_twice(ground: Ground) -> None:
    """The same record put twice is two records with two sequence numbers."""
    name = ground.stream()
    records = [_record("k"), _record("k")]
    put = ground.kinesis.put_records(StreamName=name, Records=records)["Records"]
    numbers = {entry.get("SequenceNumber") for entry in put}
    equal(len(numbers), 2, "different sequence numbers")
    found = read(ground, beginning(ground, name), 2)
    equal(len(found), 2, "records read")


@check("json-error", source=_JSON, area="producing")
def json_error(ground: Ground) -> None:
    """An error in JSON has status 400, `__type` and `message`, and a request ID."""
    answer = send(ground.kinesis, "DescribeStreamSummary", {"StreamName": ground.unique()})
    _is_not_found(answer, JSON_TYPE)


@check("json-times", source="Smithy: AWS JSON 1.1 protocol, epoch-seconds", area="producing")
def json_times(ground: Ground) -> None:
    """Times in JSON are numbers of seconds."""
    name = ground.stream()
    ground.kinesis.put_record(StreamName=name, PartitionKey="k", Data=b"x")
    read(ground, beginning(ground, name), 1)
    answer = send(ground.kinesis, "GetRecords", {"ShardIterator": beginning(ground, name)})
    arrival = answer.value["Records"][0].get("ApproximateArrivalTimestamp")
    is_number = isinstance(arrival, int | float)
    expect(is_number and abs(arrival - time.time()) < _AN_HOUR, "seconds since 1970", arrival)


@check("cbor-put-record", source=_CBOR, area="producing")
def cbor_put_record(ground: Ground) -> None:
    """PutRecord in CBOR takes data as bytes and answers in CBOR."""
    name = ground.stream()
    body = {"StreamName": name, "PartitionKey": "k", "Data": b"\x00\xff"}
    answer = _cbor(ground, "PutRecord", body)
    expect(answer.value.get("SequenceNumber"), "a SequenceNumber", answer.value)
    found = read(ground, beginning(ground, name), 1)
    equal([each["Data"] for each in found], [b"\x00\xff"], "data read")


@check("cbor-put-records", source=_CBOR, area="producing")
def cbor_put_records(ground: Ground) -> None:
    """PutRecords in CBOR answers with an entry for each record."""
    records = [{"PartitionKey": str(n), "Data": b"x"} for n in range(3)]
    answer = _cbor(ground, "PutRecords", {"StreamName": ground.stream(), "Records": records})
    entries = answer.value.get("Records", [])
    equal(len(entries), 3, "entries")
    equal(answer.value.get("FailedRecordCount", 0), 0, "FailedRecordCount")
    expect(all(e.get("SequenceNumber") for e in entries), "a SequenceNumber in each", entries)


@check("cbor-data-is-bytes", source=_CBOR, area="producing")
def cbor_data_is_bytes(ground: Ground) -> None:
    """GetRecords in CBOR answers data as bytes, not as base64 text."""
    equal(_cbor_record(ground).get("Data"), b"\x00\xff", "Data")


@check("cbor-times", source=_CBOR, area="producing")
def cbor_times(ground: Ground) -> None:
    """Times of records in CBOR are integers of milliseconds, tagged as times."""
    _is_tagged_now(_cbor_record(ground).get("ApproximateArrivalTimestamp"))


@check("cbor-times-of-streams", source=_CBOR, area="producing")
def cbor_times_of_streams(ground: Ground) -> None:
    """Times of streams in CBOR are integers of milliseconds, tagged as times."""
    answer = _cbor(ground, "DescribeStreamSummary", {"StreamName": ground.stream()})
    summary = answer.value.get("StreamDescriptionSummary", {})
    _is_tagged_now(summary.get("StreamCreationTimestamp"))


@check("cbor-error", source=_CBOR, area="producing")
def cbor_error(ground: Ground) -> None:
    """An error in CBOR is a map of `__type` and `message`, with status 400 and a request ID."""
    body = {"StreamName": ground.unique()}
    answer = send(ground.kinesis, "DescribeStreamSummary", body, content_type=CBOR_TYPE)
    _is_not_found(answer, CBOR_TYPE)


def _cbor(ground: Ground, operation: str, body: dict[str, Any]) -> WireAnswer:
    answer = send(ground.kinesis, operation, body, content_type=CBOR_TYPE)
    equal((answer.status, answer.content_type), (200, CBOR_TYPE), "status and content type")
    return answer


def _cbor_record(ground: Ground) -> dict[str, Any]:
    """Return the one record of a stream as GetRecords answers it in CBOR."""
    name = ground.once("stream of one record", lambda: _stream_of_one_record(ground))
    answer = _cbor(ground, "GetRecords", {"ShardIterator": beginning(ground, name)})
    records = answer.value.get("Records", [])
    equal(len(records), 1, "records")
    record: dict[str, Any] = records[0]
    return record


def _stream_of_one_record(ground: Ground) -> str:
    name = ground.stream()
    ground.kinesis.put_record(StreamName=name, PartitionKey="k", Data=b"\x00\xff")
    read(ground, beginning(ground, name), 1)
    return name


def _is_not_found(answer: WireAnswer, content_type: str) -> None:
    equal((answer.status, answer.content_type), (400, content_type), "status and content type")
    equal(answer.error, "ResourceNotFoundException", "__type")
    expect(isinstance(answer.value.get("message"), str), "a `message`", answer.value)
    expect(answer.headers.get("x-amzn-requestid"), "x-amzn-RequestId", sorted(answer.headers))


def _is_tagged_now(found: Any) -> None:
    right = (
        isinstance(found, cbor2.CBORTag)
        and found.tag == 1
        and isinstance(found.value, int)
        and abs(found.value / 1000 - time.time()) < _AN_HOUR
    )
    expect(right, "tag 1 and an integer of milliseconds", found)


def _record(key: str) -> "PutRecordsRequestEntryTypeDef":
    return {"Data": key.encode(), "PartitionKey": key}
