"""Sizes and numbers: what is taken at the limit, and refused one beyond it."""

import base64
from typing import TYPE_CHECKING

from infra.conformance.check import INVALID, check, equal, expect, refused
from infra.conformance.ground import Ground
from infra.conformance.records import beginning, read
from infra.conformance.wire import WireAnswer, send
from records.limits import (
    MAX_HASH_KEY,
    MAX_PARTITION_KEY_CHARS,
    MAX_PUT_REQUEST_BYTES,
    MAX_RECORD_BYTES,
    MAX_RECORDS_PER_GET,
    MAX_RECORDS_PER_PUT,
    MIB,
)

if TYPE_CHECKING:
    from types_boto3_kinesis.type_defs import PutRecordsRequestEntryTypeDef

_RECORDS = "PutRecords: Records, 1..500"
_KEY = "PutRecord: PartitionKey, 1..256 Unicode characters"
_HASH_KEY = "PutRecord: ExplicitHashKey, ^(0|([1-9]\\d{0,38}))$"
_RECORD = "Quotas and limits: a record is at most 1 MiB unless the stream's maximum is raised"
_REQUEST = "PutRecords: 10 MiB for the entire request, including partition keys"
_LARGE = "UpdateMaxRecordSize: MaxRecordSizeInKiB, 1024..10240"
_LIMIT = "GetRecords: Limit, 1..10000"


@check("put-records-500", source=_RECORDS, area="limits")
def put_records_500(ground: Ground) -> None:
    """500 records in one call are taken."""
    answer = ground.kinesis.put_records(
        StreamName=ground.stream(), Records=_small(MAX_RECORDS_PER_PUT)
    )
    equal(len(answer["Records"]), MAX_RECORDS_PER_PUT, "entries in the answer:")
    equal(answer.get("FailedRecordCount", 0), 0, "FailedRecordCount")


@check("put-records-501", source=_RECORDS, area="limits")
def put_records_501(ground: Ground) -> None:
    """501 records in one call are refused."""
    name = ground.stream()
    records = _small(MAX_RECORDS_PER_PUT + 1)
    refused(INVALID, lambda: ground.kinesis.put_records(StreamName=name, Records=records))


@check("put-records-none", source=_RECORDS, area="limits")
def put_records_none(ground: Ground) -> None:
    """A call with no records is refused."""
    name = ground.stream()
    refused(INVALID, lambda: ground.kinesis.put_records(StreamName=name, Records=[]))


@check("put-record-1-mib", source=_RECORD, area="limits")
def put_record_1_mib(ground: Ground) -> None:
    """PutRecord takes 1 MiB of data and partition key together."""
    _put(ground, ground.stream(), "k", MAX_RECORD_BYTES - 1)


@check("put-record-1-mib-and-1", source=_RECORD, area="limits")
def put_record_1_mib_and_1(ground: Ground) -> None:
    """PutRecord refuses 1 MiB and one byte of data and partition key together."""
    name = ground.stream()
    refused(INVALID, lambda: _put(ground, name, "k", MAX_RECORD_BYTES))


@check("record-size-counts-key-bytes", source=_RECORD, area="limits")
def record_size_counts_key_bytes(ground: Ground) -> None:
    """The partition key counts towards the record's size by its bytes in UTF-8."""
    name, key = ground.stream(), "é" * 100  # 200 bytes
    _put(ground, name, key, MAX_RECORD_BYTES - 200)
    refused(INVALID, lambda: _put(ground, name, key, MAX_RECORD_BYTES - 199))


@check("put-records-1-mib", source=_RECORD, area="limits")
def put_records_1_mib(ground: Ground) -> None:
    """PutRecords takes a record of 1 MiB of data and partition key together."""
    answer = ground.kinesis.put_records(
        StreamName=ground.stream(),
        Records=[{"Data": bytes(MAX_RECORD_BYTES - 1), "PartitionKey": "k"}],
    )
    equal(answer["Records"][0].get("ErrorCode"), None, "ErrorCode")


@check("put-records-1-mib-and-1", source=_RECORD, area="limits")
def put_records_1_mib_and_1(ground: Ground) -> None:
    """PutRecords refuses a record of 1 MiB and one byte of data and partition key together."""
    name = ground.stream()
    records: list[PutRecordsRequestEntryTypeDef] = [
        {"Data": b"small", "PartitionKey": "k"},
        {"Data": bytes(MAX_RECORD_BYTES), "PartitionKey": "k"},
    ]
    refused(INVALID, lambda: ground.kinesis.put_records(StreamName=name, Records=records))


@check("put-records-10-mib", source=_REQUEST, area="limits")
def put_records_10_mib(ground: Ground) -> None:
    """PutRecords takes 10 MiB of data and partition keys in one call."""
    answer = _put_ten(ground)
    equal((answer.status, answer.error), (200, ""), "status and error")
    equal(len(answer.value["Records"]), 10, "entries in the answer:")


@check("put-records-10-mib-and-1", source=_REQUEST, area="limits")
def put_records_10_mib_and_1(ground: Ground) -> None:
    """PutRecords refuses 10 MiB and one byte of data and partition keys in one call."""
    answer = _put_ten(ground, {"Data": "", "PartitionKey": "k"})
    equal(answer.status, 400, "status")
    expect(answer.error in INVALID, " or ".join(INVALID), answer.error)


@check("put-record-no-data", source="PutRecord: Data, from 0 bytes", area="limits")
def put_record_no_data(ground: Ground) -> None:
    """A record may have no data at all."""
    _put(ground, ground.stream(), "k", 0)


@check("partition-key-256", source=_KEY, area="limits")
def partition_key_256(ground: Ground) -> None:
    """A partition key of 256 characters is taken."""
    _put(ground, ground.stream(), "k" * MAX_PARTITION_KEY_CHARS, 1)


@check("partition-key-257", source=_KEY, area="limits")
def partition_key_257(ground: Ground) -> None:
    """A partition key of 257 characters is refused."""
    name = ground.stream()
    refused(INVALID, lambda: _put(ground, name, "k" * (MAX_PARTITION_KEY_CHARS + 1), 1))


@check("partition-key-256-multi-byte", source=_KEY, area="limits")
def partition_key_256_multi_byte(ground: Ground) -> None:
    """256 characters are a partition key's limit even when they are 768 bytes."""
    _put(ground, ground.stream(), "鍵" * MAX_PARTITION_KEY_CHARS, 1)


@check("partition-key-257-in-put-records", source=_KEY, area="limits")
def partition_key_257_in_put_records(ground: Ground) -> None:
    """One partition key of 257 characters has a whole PutRecords refused."""
    name = ground.stream()
    records: list[PutRecordsRequestEntryTypeDef] = [
        {"Data": b"fine", "PartitionKey": "k"},
        {"Data": b"not", "PartitionKey": "k" * (MAX_PARTITION_KEY_CHARS + 1)},
    ]
    refused(INVALID, lambda: ground.kinesis.put_records(StreamName=name, Records=records))


@check("partition-key-empty", source=_KEY, area="limits")
def partition_key_empty(ground: Ground) -> None:
    """An empty partition key is refused."""
    name = ground.stream()
    refused(INVALID, lambda: _put(ground, name, "", 1))


@check("hash-key-highest", source=_HASH_KEY, area="limits")
def hash_key_highest(ground: Ground) -> None:
    """The explicit hash key 2^128 - 1 is taken."""
    _put_to(ground, ground.stream(), str(MAX_HASH_KEY))


@check("hash-key-beyond", source="Shard HashKeyRange: 0..2^128 - 1", area="limits")
def hash_key_beyond(ground: Ground) -> None:
    """The explicit hash key 2^128 is refused."""
    name = ground.stream()
    refused(INVALID, lambda: _put_to(ground, name, str(MAX_HASH_KEY + 1)))


@check("hash-key-leading-zero", source=_HASH_KEY, area="limits")
def hash_key_leading_zero(ground: Ground) -> None:
    """An explicit hash key with a leading zero is refused."""
    name = ground.stream()
    refused(INVALID, lambda: _put_to(ground, name, "01"))


@check("hash-key-negative", source=_HASH_KEY, area="limits")
def hash_key_negative(ground: Ground) -> None:
    """A negative explicit hash key is refused."""
    name = ground.stream()
    refused(INVALID, lambda: _put_to(ground, name, "-1"))


@check("get-records-limit-10000", source=_LIMIT, area="limits")
def get_records_limit_10000(ground: Ground) -> None:
    """GetRecords takes a Limit of 10,000."""
    position = beginning(ground, ground.shared_stream())
    ground.kinesis.get_records(ShardIterator=position, Limit=MAX_RECORDS_PER_GET)


@check("get-records-limit-10001", source=_LIMIT, area="limits")
def get_records_limit_10001(ground: Ground) -> None:
    """GetRecords refuses a Limit of 10,001."""
    position = beginning(ground, ground.shared_stream())
    limit = MAX_RECORDS_PER_GET + 1
    refused(INVALID, lambda: ground.kinesis.get_records(ShardIterator=position, Limit=limit))


@check("get-records-limit-0", source=_LIMIT, area="limits")
def get_records_limit_0(ground: Ground) -> None:
    """GetRecords refuses a Limit of 0."""
    position = beginning(ground, ground.shared_stream())
    refused(INVALID, lambda: ground.kinesis.get_records(ShardIterator=position, Limit=0))


@check("large-record-2-mib", source=_LARGE, area="limits")
def large_record_2_mib(ground: Ground) -> None:
    """A stream whose maximum is raised to 2 MiB takes 2 MiB and gives them back."""
    name = _raised(ground, 2048)
    _put(ground, name, "k", 2 * MIB - 1)
    records = read(ground, beginning(ground, name), 1)
    equal([len(each["Data"]) for each in records], [2 * MIB - 1], "bytes read")


@check("large-record-2-mib-and-1", source=_LARGE, area="limits")
def large_record_2_mib_and_1(ground: Ground) -> None:
    """A stream whose maximum is raised to 2 MiB refuses 2 MiB and one byte."""
    name = _raised(ground, 2048)
    refused(INVALID, lambda: _put(ground, name, "k", 2 * MIB))


@check("base64-malformed", source="JSON protocol of Kinesis: blobs are base64 text", area="limits")
def base64_malformed(ground: Ground) -> None:
    """Data that is no base64 is refused as a client's mistake."""
    body = {"StreamName": ground.stream(), "PartitionKey": "k", "Data": "not*base64!"}
    answer = send(ground.kinesis, "PutRecord", body)
    equal(answer.status, 400, "status")
    equal(answer.error, "SerializationException", "error")


@check("partition-key-of-wrong-type", source="PutRecord: PartitionKey, a string", area="limits")
def partition_key_of_wrong_type(ground: Ground) -> None:
    """A list where a string belongs is refused as a client's mistake."""
    data = base64.b64encode(b"data").decode()
    body = {"StreamName": ground.stream(), "PartitionKey": ["k"], "Data": data}
    answer = send(ground.kinesis, "PutRecord", body)
    equal(answer.status, 400, "status")
    equal(answer.error, "SerializationException", "error")


def _raised(ground: Ground, kib: int) -> str:
    name = ground.stream()
    ground.kinesis.update_max_record_size(StreamARN=ground.arn(name), MaxRecordSizeInKiB=kib)
    ground.active(name)
    return name


def _small(count: int) -> "list[PutRecordsRequestEntryTypeDef]":
    return [{"Data": b"x", "PartitionKey": "k"} for _ in range(count)]


def _put_ten(ground: Ground, *more: dict[str, str]) -> WireAnswer:
    """Put ten records of 1 MiB, one into each of ten shards, and perhaps one more.

    It is no shard's fault then if they are too many. An engine may need long for them, which is no
    deviation: `send` waits longer than the client.
    """
    shards = MAX_PUT_REQUEST_BYTES // MAX_RECORD_BYTES
    name, data = ground.stream(shards), base64.b64encode(bytes(MAX_RECORD_BYTES - 1)).decode()
    step = (MAX_HASH_KEY + 1) // shards
    hash_keys = [str(n * step + step // 2) for n in range(shards)]
    records = [{"Data": data, "PartitionKey": "k", "ExplicitHashKey": key} for key in hash_keys]
    body = {"StreamName": name, "Records": [*records, *more]}
    return send(ground.kinesis, "PutRecords", body)


def _put(ground: Ground, stream: str, key: str, size: int) -> None:
    """Put a record of `size` bytes of data."""
    ground.kinesis.put_record(StreamName=stream, PartitionKey=key, Data=bytes(size))


def _put_to(ground: Ground, stream: str, hash_key: str) -> None:
    ground.kinesis.put_record(
        StreamName=stream, PartitionKey="k", Data=b"x", ExplicitHashKey=hash_key
    )
