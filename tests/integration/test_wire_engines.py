"""The two clients on real engines: the same call gives the same answer, or the same error."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from infra.stack.embedded import start_ministack
from infra.stack.endpoints import Endpoints
from tests.integration.wire_support import assert_alike, client_named, outcome_of
from tests.support import eventually


@dataclass
class Pair:
    """Both clients on one engine, and a stream with records there."""

    engine: str
    boto3: Any
    wire: Any
    stream: str
    arn: str

    def same(self, method: str, *, but: set[str] | None = None, **parameters: Any) -> Any:
        """Call both, compare what comes of it, and return what the wire client gave."""
        plain, fast = (
            outcome_of(lambda client=each: getattr(client, method)(**parameters))
            for each in (self.boto3, self.wire)
        )
        assert_alike(fast, plain, at=method, but=but)
        return fast

    def iterator(self, shard: str, **parameters: Any) -> str:
        where = {"StreamName": self.stream, "ShardId": shard} | parameters
        answer = self.same("get_shard_iterator", **where)
        return str(answer["ShardIterator"])


@pytest.fixture(scope="module", params=["the stack's", "MiniStack"])
def engine(
    request: pytest.FixtureRequest,
    stack_name: str,
    stack: Endpoints,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[str, str]]:
    if request.param != "MiniStack":
        url = stack.kinesis or stack.aws
        if url is None:
            pytest.skip("the comparison needs an engine of its own, not AWS")
        yield ("kinesis-mock" if stack_name == "embedded" else "LocalStack"), url
        return
    if stack_name != "embedded":
        pytest.skip("MiniStack is an engine of the embedded stack")
    process, url = start_ministack(tmp_path_factory.mktemp("mini"), services=("kinesis",))
    with process:
        yield "MiniStack", url


@pytest.fixture(scope="module")
def pair(engine: tuple[str, str]) -> Iterator[Pair]:
    name, url = engine
    clients = [client_named(kind, url) for kind in ("boto3", "wire")]
    stream = f"wire-{time.time_ns()}"
    clients[0].create_stream(StreamName=stream, ShardCount=2)
    clients[0].get_waiter("stream_exists").wait(StreamName=stream, WaiterConfig={"Delay": 1})
    summary = clients[0].describe_stream_summary(StreamName=stream)["StreamDescriptionSummary"]
    yield Pair(name, *clients, stream, summary["StreamARN"])
    clients[0].delete_stream(StreamName=stream)
    for each in clients:
        each.close()


LOW, HIGH = "0", str(2**128 - 1)
BINARY = bytes(range(256))


def test_put_records(pair: Pair):
    entries = [
        {"Data": BINARY, "PartitionKey": "k", "ExplicitHashKey": LOW},
        {"Data": b"", "PartitionKey": "schlüssel-✓"},
        {"Data": "text", "PartitionKey": "k", "ExplicitHashKey": HIGH},
        {"Data": bytearray(b"array"), "PartitionKey": "p" * 256},
    ]
    answer = pair.same("put_records", StreamName=pair.stream, Records=entries)
    assert len(answer["Records"]) == 4
    assert answer["FailedRecordCount"] == 0
    assert type(answer["FailedRecordCount"]) is int
    assert answer["Records"][0]["ShardId"] != answer["Records"][2]["ShardId"]
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 200
    assert answer["ResponseMetadata"]["RetryAttempts"] == 0
    assert answer["ResponseMetadata"]["RequestId"]


def test_put_records_by_arn_and_as_a_tuple(pair: Pair):
    entries = tuple({"Data": b"%d" % n, "PartitionKey": f"{n}"} for n in range(500))
    answer = pair.same("put_records", StreamARN=pair.arn, Records=entries)
    assert len(answer["Records"]) == 500


@pytest.mark.parametrize("data", [BINARY, b"", "text ✓", bytearray(b"array")])
def test_put_record(pair: Pair, data: Any):
    answer = pair.same("put_record", StreamName=pair.stream, Data=data, PartitionKey="k")
    assert answer["SequenceNumber"].isdigit()


def test_put_record_with_every_argument(pair: Pair):
    more = {"StreamARN": pair.arn, "Data": b"x", "PartitionKey": "k", "ExplicitHashKey": HIGH}
    first = pair.same("put_record", **more)
    second = pair.same("put_record", SequenceNumberForOrdering=first["SequenceNumber"], **more)
    assert int(second["SequenceNumber"]) > int(first["SequenceNumber"])


def test_what_one_client_puts_both_read_byte_for_byte(pair: Pair):
    put = pair.wire.put_record(StreamName=pair.stream, Data=BINARY, PartitionKey="✓")
    at = {
        "ShardIteratorType": "AT_SEQUENCE_NUMBER",
        "StartingSequenceNumber": put["SequenceNumber"],
    }
    iterator = pair.iterator(put["ShardId"], **at)
    answer = pair.same("get_records", ShardIterator=iterator, Limit=1)
    [record] = answer["Records"]
    assert record["Data"] == BINARY
    assert record["PartitionKey"] == "✓"
    assert record["SequenceNumber"] == put["SequenceNumber"]
    arrived = record["ApproximateArrivalTimestamp"]
    assert abs(arrived - datetime.now(UTC)) < timedelta(minutes=5)
    assert arrived.microsecond % 1000 == 0
    assert type(answer["MillisBehindLatest"]) is int


def test_get_records_from_the_horizon_with_an_arn(pair: Pair):
    shard = pair.boto3.put_record(StreamName=pair.stream, Data=b"1", PartitionKey="k")["ShardId"]
    iterator = pair.iterator(shard, ShardIteratorType="TRIM_HORIZON")
    answer = pair.same("get_records", ShardIterator=iterator, StreamARN=pair.arn)
    assert len(answer["Records"]) >= 1
    assert answer["NextShardIterator"]


def test_get_records_that_finds_nothing(pair: Pair):
    shard = pair.boto3.put_record(StreamName=pair.stream, Data=b"1", PartitionKey="k")["ShardId"]
    iterator = pair.iterator(shard, ShardIteratorType="LATEST")
    assert pair.same("get_records", ShardIterator=iterator)["Records"] == []


def test_after_a_sequence_number(pair: Pair):
    puts = [
        pair.wire.put_record(StreamName=pair.stream, Data=b"%d" % n, PartitionKey="k")
        for n in range(2)
    ]
    after = {
        "ShardIteratorType": "AFTER_SEQUENCE_NUMBER",
        "StartingSequenceNumber": puts[0]["SequenceNumber"],
    }
    iterator = pair.iterator(puts[0]["ShardId"], **after)
    answer = pair.same("get_records", ShardIterator=iterator, Limit=10)
    assert answer["Records"][0]["SequenceNumber"] == puts[1]["SequenceNumber"]


# MiniStack does not read the form in which AWS's SDKs send a timestamp, CBOR's tag 1 with
# milliseconds: it hands it to a generic decoder, which takes it for seconds.
NO_TAGGED_TIMESTAMPS = "Could not decode request body: error decoding epoch-form datetime"


def test_at_a_timestamp(pair: Pair):
    put = pair.wire.put_record(StreamName=pair.stream, Data=b"x", PartitionKey="k")
    number, shard = put["SequenceNumber"], put["ShardId"]
    first = {"ShardIteratorType": "AT_SEQUENCE_NUMBER", "StartingSequenceNumber": number}
    [held] = pair.wire.get_records(ShardIterator=pair.iterator(shard, **first))["Records"]
    arrived = held["ApproximateArrivalTimestamp"]
    # LocalStack cuts a request's timestamp to whole seconds.
    later = arrived + timedelta(seconds=1 if pair.engine == "LocalStack" else 0.001)
    eventually(lambda: datetime.now(UTC) > later + timedelta(seconds=0.1))
    at = {"StreamName": pair.stream, "ShardId": shard, "ShardIteratorType": "AT_TIMESTAMP"}
    for moment in (arrived, arrived.astimezone(UTC).isoformat(), arrived.timestamp(), later):
        if pair.engine == "MiniStack":
            with pytest.raises(pair.wire.exceptions.ClientError, match=NO_TAGGED_TIMESTAMPS):
                pair.wire.get_shard_iterator(**at, Timestamp=moment)
            continue
        for each in (pair.boto3, pair.wire):
            iterator = each.get_shard_iterator(**at, Timestamp=moment)["ShardIterator"]
            records = pair.same("get_records", ShardIterator=iterator)["Records"]
            assert (number in [r["SequenceNumber"] for r in records]) is (moment is not later)


def test_list_shards_in_pages(pair: Pair):
    whole = pair.same("list_shards", StreamName=pair.stream)
    assert len(whole["Shards"]) == 2
    first = pair.same("list_shards", StreamARN=pair.arn, MaxResults=1)
    second = pair.same("list_shards", NextToken=first["NextToken"], MaxResults=1)
    if pair.engine == "MiniStack":  # it wants the stream's name too, which AWS refuses
        assert second["response"]["Error"]["Code"] == "ResourceNotFoundException"
    else:
        assert first["Shards"] + second["Shards"] == whole["Shards"]
    rest = {"StreamName": pair.stream, "ExclusiveStartShardId": whole["Shards"][0]["ShardId"]}
    assert pair.same("list_shards", **rest)["Shards"] == whole["Shards"][1:]


@pytest.mark.parametrize("kind", ["AT_LATEST", "AT_TRIM_HORIZON", "FROM_TRIM_HORIZON"])
def test_list_shards_filtered(pair: Pair, kind: str):
    answer = pair.same("list_shards", StreamName=pair.stream, ShardFilter={"Type": kind})
    assert len(answer["Shards"]) == 2


def test_list_shards_filtered_by_shard_and_time(pair: Pair):
    first = pair.wire.list_shards(StreamName=pair.stream)["Shards"][0]["ShardId"]
    after = {"Type": "AFTER_SHARD_ID", "ShardId": first}
    pair.same("list_shards", StreamName=pair.stream, ShardFilter=after)
    past = {"Type": "AT_TIMESTAMP", "Timestamp": datetime.now(UTC) - timedelta(seconds=1)}
    if pair.engine == "MiniStack":
        with pytest.raises(pair.wire.exceptions.ClientError, match=NO_TAGGED_TIMESTAMPS):
            pair.wire.list_shards(StreamName=pair.stream, ShardFilter=past)
    else:
        pair.same("list_shards", StreamName=pair.stream, ShardFilter=past)


def test_describe_stream_summary(pair: Pair):
    for named in ({"StreamName": pair.stream}, {"StreamARN": pair.arn}):
        summary = pair.same("describe_stream_summary", **named)["StreamDescriptionSummary"]
        assert summary["OpenShardCount"] == 2
        made = summary["StreamCreationTimestamp"]
        assert abs(made - datetime.now(UTC)) < timedelta(minutes=5)


NOWHERE = "no-such-stream"
ERRORS: dict[str, dict[str, Any]] = {
    "put_record": {"StreamName": NOWHERE, "Data": b"x", "PartitionKey": "k"},
    "put_records": {"StreamName": NOWHERE, "Records": [{"Data": b"x", "PartitionKey": "k"}]},
    "get_shard_iterator": {
        "StreamName": NOWHERE,
        "ShardId": "shardId-000000000000",
        "ShardIteratorType": "LATEST",
    },
    "list_shards": {"StreamName": NOWHERE},
    "describe_stream_summary": {"StreamName": NOWHERE},
}


@pytest.mark.parametrize("method", ERRORS)
def test_a_stream_that_is_not_there(pair: Pair, method: str):
    said = pair.same(method, **ERRORS[method])
    assert said["raised"][0] is pair.wire.exceptions.ResourceNotFoundException
    assert said["response"]["Error"]["Code"] == "ResourceNotFoundException"
    assert said["response"]["ResponseMetadata"]["HTTPStatusCode"] == 400


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("get_records", {"ShardIterator": "not-an-iterator"}),
        ("get_records", {"ShardIterator": "{iterator}", "Limit": 10_001}),
        ("list_shards", {"NextToken": "not-a-token"}),
        ("list_shards", {}),
        ("put_record", {"StreamName": "{stream}", "Data": b"x", "PartitionKey": "k" * 257}),
        ("put_record", {"Data": b"x", "PartitionKey": "k"}),
        (
            "put_records",
            {"StreamName": "{stream}", "Records": [{"Data": b"x", "PartitionKey": "k"}] * 501},
        ),
        (
            "get_shard_iterator",
            {"StreamName": "{stream}", "ShardId": "shardId-000000000009", "ShardIteratorType": "?"},
        ),
    ],
)
def test_what_the_engine_refuses(pair: Pair, method: str, parameters: dict[str, Any]):
    shard = pair.wire.list_shards(StreamName=pair.stream)["Shards"][0]["ShardId"]
    known = {"stream": pair.stream}
    if "{iterator}" in parameters.values():
        known["iterator"] = pair.iterator(shard, ShardIteratorType="LATEST")
    filled = {
        name: value.format(**known) if isinstance(value, str) else value
        for name, value in parameters.items()
    }
    # kinesis-mock says of a value it cannot decode what each of its two decoders says.
    worded = {"says", "Message"} if "?" in parameters.values() else set[str]()
    pair.same(method, but=worded if pair.engine != "MiniStack" else None, **filled)


BAD: list[tuple[str, dict[str, Any]]] = [
    ("put_records", {}),
    ("put_records", {"Records": []}),
    ("put_records", {"Records": "x", "StreamName": 3}),
    ("put_records", {"Records": [{"Data": b"x"}], "StreamName": ""}),
    ("put_records", {"Records": [{"PartitionKey": "k"}, {"Data": 1, "PartitionKey": ""}]}),
    ("put_records", {"Records": [{"Data": b"x", "PartitionKey": "k", "More": 1}], "Other": 2}),
    ("put_records", {"Records": [{"Data": b"x", "PartitionKey": "k", "ExplicitHashKey": 7}]}),
    ("put_records", {"Records": [{"Data": memoryview(b"x"), "PartitionKey": "k"}]}),
    ("put_record", {"PartitionKey": "k"}),
    ("put_record", {"Data": None, "PartitionKey": None}),
    ("get_records", {"Limit": 0}),
    ("get_records", {"ShardIterator": "i", "Limit": "1"}),
    ("get_shard_iterator", {"ShardId": "s"}),
    ("get_shard_iterator", {"ShardId": "s", "ShardIteratorType": "x", "Timestamp": "never"}),
    ("list_shards", {"ShardFilter": {}, "MaxResults": -1}),
    ("describe_stream_summary", {"StreamName": b"name"}),
]


@pytest.mark.parametrize(("method", "parameters"), BAD)
def test_parameters_that_boto3_refuses(pair: Pair, method: str, parameters: dict[str, Any]):
    said = pair.same(method, **parameters)
    assert said["raised"][0].__name__ == "ParamValidationError"


def test_an_arn_that_leads_nowhere_is_refused_before_the_other_parameters(pair: Pair):
    said = pair.same("put_records", StreamARN=b"arn", Records=[])
    assert said["raised"][0].__name__ == "EndpointResolutionError"


def test_the_paginator_and_the_other_operations_are_there(pair: Pair):
    pages = pair.wire.get_paginator("list_shards").paginate(StreamName=pair.stream)
    assert sum(len(page["Shards"]) for page in pages) == 2
    described = pair.same("describe_stream", StreamName=pair.stream)
    assert described["StreamDescription"]["StreamName"] == pair.stream


def test_the_same_names_are_there(pair: Pair):
    assert set(dir(pair.boto3)) <= set(dir(pair.wire))
    assert pair.wire.meta.region_name == pair.boto3.meta.region_name
    call: Callable[..., Any] = pair.wire.put_records
    with pytest.raises(TypeError):
        call("positional")
    with pytest.raises(AttributeError):
        _ = pair.wire.no_such_thing
