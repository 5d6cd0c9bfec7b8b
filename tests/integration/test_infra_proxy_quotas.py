"""Quotas before a real engine: what is refused never reaches it, what is accepted is written.

The quotas' clock stands still unless a test moves it: nothing depends on how fast the machine is.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

from infra.proxy.proxy import RunningProxy
from infra.proxy.quotas.kinesis import KinesisQuotas
from records.limits import KIB, MAX_HASH_KEY, MIB
from tests.proxy_in_thread import kinesis_at, proxied
from tests.support import eventually

if TYPE_CHECKING:
    from types_boto3_kinesis import KinesisClient


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Line:
    """client → proxy with quotas → a proxy that only counts → the engine"""

    client: "KinesisClient"
    proxy: RunningProxy
    counter: RunningProxy
    clock: Clock

    def reached(self, operation: str) -> int:
        row = self.counter.status()["operations"].get(operation, {"requests": 0})
        return int(row["requests"])


@pytest.fixture
def line(local_kinesis: str) -> Iterator[Callable[..., Line]]:
    opened: list[Any] = []

    def make(**settings: Any) -> Line:
        counter = opened_here(proxied(local_kinesis))
        proxy = opened_here(proxied(counter.url, **({"quotas": True} | settings)))
        clock = Clock()
        proxy.desk.quotas = KinesisQuotas(clock)
        client = kinesis_at(proxy.url)
        return Line(client, proxy, counter, clock)

    def opened_here(manager: Any) -> Any:
        opened.append(manager)
        return manager.__enter__()

    yield make
    for manager in reversed(opened):
        manager.__exit__(None, None, None)


def entries(count: int, size: int = 1, key: str = "k") -> Any:
    return [{"Data": b"%0*d" % (size, n), "PartitionKey": key} for n in range(count)]


def read_all(client: "KinesisClient", stream: str) -> list[bytes]:
    """Everything in a stream, shard by shard, read from the engine itself."""
    found = []
    for shard in client.list_shards(StreamName=stream)["Shards"]:
        iterator: str | None = client.get_shard_iterator(
            StreamName=stream, ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
        )["ShardIterator"]
        for _ in range(100):
            if iterator is None:
                break
            answer = client.get_records(ShardIterator=iterator)
            found += [record["Data"] for record in answer["Records"]]
            iterator = answer.get("NextShardIterator")
            if not answer["Records"] and answer["MillisBehindLatest"] == 0:
                break
    return found


def test_the_records_over_quota_fail_and_exactly_the_others_are_written_in_order(
    line: Callable[..., Line], kinesis: "KinesisClient", stream: Callable[..., str]
):
    through, name = line(), stream()
    # One byte more than a sixteenth of a mebibyte, fifteen of which fit; then some that still do.
    sent = [*entries(30, size=64 * KIB), *entries(20, size=KIB)]
    answer = through.client.put_records(StreamName=name, Records=sent)
    results = answer["Records"]
    admitted = [n for n, result in enumerate(results) if "ErrorCode" not in result]
    assert admitted == [*range(15), *range(30, 50)]
    assert answer["FailedRecordCount"] == 15
    for n in range(15, 30):
        assert "SequenceNumber" not in results[n]
        assert results[n]["ErrorCode"] == "ProvisionedThroughputExceededException"
        assert results[n]["ErrorMessage"] == (
            f"Rate exceeded for shard shardId-000000000000 in stream {name}"
            " under account 000000000000."
        )
    numbers = [int(results[n]["SequenceNumber"]) for n in admitted]
    assert numbers == sorted(numbers)
    assert read_all(kinesis, name) == [sent[n]["Data"] for n in admitted]
    (row,) = through.proxy.status()["shards"]
    assert (row["admitted"], row["throttled"]) == (35, 15)


def test_no_more_than_a_thousand_records_are_admitted_at_once(
    line: Callable[..., Line], kinesis: "KinesisClient", stream: Callable[..., str]
):
    through, name = line(), stream()
    with ThreadPoolExecutor(6) as pool:
        calls = [
            pool.submit(through.client.put_records, StreamName=name, Records=entries(500))
            for _ in range(6)
        ]
        failed = sum(call.result()["FailedRecordCount"] for call in calls)
    assert failed == 2_000
    assert len(read_all(kinesis, name)) == 1_000


def test_a_call_of_which_nothing_is_admitted_does_not_reach_the_engine(
    line: Callable[..., Line], stream: Callable[..., str]
):
    through, name = line(), stream()
    big = entries(1, size=MIB - 1)
    assert through.client.put_records(StreamName=name, Records=big)["FailedRecordCount"] == 0
    answer = through.client.put_records(StreamName=name, Records=big)
    assert answer["FailedRecordCount"] == 1
    with pytest.raises(
        through.client.exceptions.ProvisionedThroughputExceededException, match="Rate exceeded for"
    ):
        through.client.put_record(StreamName=name, **big[0])
    assert (through.reached("PutRecords"), through.reached("PutRecord")) == (1, 0)


def test_each_shard_has_a_quota_of_its_own_and_a_split_brings_another(
    line: Callable[..., Line], kinesis: "KinesisClient", stream: Callable[..., str]
):
    through, name = line(), stream()
    records = [
        {"Data": bytes(64 * KIB), "PartitionKey": "k", "ExplicitHashKey": str(n % 2 * MAX_HASH_KEY)}
        for n in range(60)
    ]

    def admitted() -> int:
        answer = through.client.put_records(StreamName=name, Records=records)  # type: ignore[arg-type]
        return 60 - answer["FailedRecordCount"]

    assert admitted() == 15
    through.client.split_shard(
        StreamName=name, ShardToSplit="shardId-000000000000", NewStartingHashKey=str(2**127)
    )
    eventually(lambda: len(kinesis.list_shards(StreamName=name)["Shards"]) == 3)
    assert admitted() == 30, "two new shards start with two full buckets"
    used = {row["shard"] for row in through.proxy.status()["shards"]}
    assert used == {f"shardId-00000000000{n}" for n in range(3)}


def test_a_reshard_behind_the_proxys_back_is_noticed_by_where_records_land(
    line: Callable[..., Line], kinesis: "KinesisClient", stream: Callable[..., str]
):
    through, name = line(), stream()
    record = {"Data": b"x", "PartitionKey": "k", "ExplicitHashKey": "0"}
    through.client.put_records(StreamName=name, Records=[record])  # type: ignore[list-item]
    kinesis.split_shard(
        StreamName=name, ShardToSplit="shardId-000000000000", NewStartingHashKey=str(2**127)
    )
    eventually(lambda: len(kinesis.list_shards(StreamName=name)["Shards"]) == 3)
    for _ in range(2):  # the first one lands on a child and says so
        through.client.put_records(StreamName=name, Records=[record])  # type: ignore[list-item]
    assert "shardId-000000000001" in {row["shard"] for row in through.proxy.status()["shards"]}


@pytest.mark.parametrize(
    ("records", "code"),
    [
        (entries(501), "ValidationException"),
        (entries(11, size=MIB - 10), "InvalidArgumentException"),
        (entries(1, size=MIB), "InvalidArgumentException"),
    ],
)
def test_what_is_beyond_a_limit_is_refused_whole_and_does_not_reach_the_engine(
    line: Callable[..., Line], stream: Callable[..., str], records: Any, code: str
):
    through, name = line(), stream()
    with pytest.raises(ClientError) as caught:
        through.client.put_records(StreamName=name, Records=records)
    assert caught.value.response["Error"]["Code"] == code
    assert through.reached("PutRecords") == 0


def test_a_raised_record_size_is_noticed_and_bursts_once(
    line: Callable[..., Line], stream: Callable[..., str], stack_name: str
):
    if stack_name == "containers":
        pytest.skip("the kinesis-mock in LocalStack 4.14.0 has no UpdateMaxRecordSize")
    through, name = line(), stream()
    large = {"Data": os.urandom(9 * MIB), "PartitionKey": "k"}
    with pytest.raises(ClientError):
        through.client.put_record(StreamName=name, **large)
    arn = through.client.describe_stream_summary(StreamName=name)["StreamDescriptionSummary"]
    through.client.update_max_record_size(StreamARN=arn["StreamARN"], MaxRecordSizeInKiB=10 * KIB)
    eventually(
        lambda: (
            through.client.describe_stream_summary(StreamName=name)["StreamDescriptionSummary"][
                "StreamStatus"
            ]
            == "ACTIVE"
        )
    )
    assert through.client.put_record(StreamName=name, **large)["SequenceNumber"]
    through.clock.now += 7.9
    with pytest.raises(through.client.exceptions.ProvisionedThroughputExceededException):
        through.client.put_record(StreamName=name, **large)
    through.clock.now += 0.2
    assert through.client.put_record(StreamName=name, **large)["SequenceNumber"]


def test_the_sixth_read_in_a_second_is_throttled(
    line: Callable[..., Line], stream: Callable[..., str]
):
    through, name = line(), stream()
    iterator = iterator_of(through.client, name)
    outcomes = [read(through.client, iterator) for _ in range(6)]
    assert outcomes == ["ok"] * 5 + ["ProvisionedThroughputExceededException"]
    assert through.reached("GetRecords") == 5


def test_a_large_answer_keeps_the_shard_from_being_read_until_it_is_paid_for(
    line: Callable[..., Line], kinesis: "KinesisClient", stream: Callable[..., str]
):
    through, name = line(), stream()
    for _ in range(6):
        kinesis.put_record(StreamName=name, Data=os.urandom(MIB - 8), PartitionKey="k")
    iterator = iterator_of(through.client, name)
    answer = through.client.get_records(ShardIterator=iterator)
    size = sum(len(record["Data"]) + 1 for record in answer["Records"])
    assert size > 4 * MIB
    assert read(through.client, answer["NextShardIterator"]).startswith("ProvisionedThroughput")
    through.clock.now += (size - 2 * MIB) / (2 * MIB) - 0.01
    assert read(through.client, answer["NextShardIterator"]).startswith("ProvisionedThroughput")
    through.clock.now += 0.02
    assert read(through.client, answer["NextShardIterator"]) == "ok"


def test_an_iterator_expires_and_a_new_one_does_not(
    line: Callable[..., Line], stream: Callable[..., str]
):
    through, name = line(time_scale=300.0), stream()
    iterator = iterator_of(through.client, name)
    assert read(through.client, iterator) == "ok"
    eventually(lambda: read(through.client, iterator) == "ExpiredIteratorException", timeout=10)
    with pytest.raises(ClientError, match="tolerated delay of 300000 milliseconds"):
        through.client.get_records(ShardIterator=iterator)
    through.clock.now += 1  # as many reads as there were while it was waited for
    assert read(through.client, iterator_of(through.client, name)) == "ok"


def test_an_iterator_from_elsewhere_passes(
    line: Callable[..., Line], kinesis: "KinesisClient", stream: Callable[..., str]
):
    through, name = line(), stream()
    iterator = iterator_of(kinesis, name)
    assert [read(through.client, iterator) for _ in range(8)] == ["ok"] * 8


def test_a_missing_stream_has_the_engines_own_error(line: Callable[..., Line]):
    client = line().client
    for put in (
        lambda: client.put_record(StreamName="nowhere", Data=b"x", PartitionKey="k"),
        lambda: client.put_records(StreamName="nowhere", Records=entries(1)),
    ):
        with pytest.raises(client.exceptions.ResourceNotFoundException):
            put()


def test_describe_stream_is_limited_per_account(
    line: Callable[..., Line], stream: Callable[..., str]
):
    through, name = line(), stream()
    refused = 0
    for _ in range(40):
        try:
            through.client.describe_stream(StreamName=name)
        except through.client.exceptions.LimitExceededException:
            refused += 1
    assert refused == 30


def iterator_of(client: "KinesisClient", stream: str) -> str:
    return client.get_shard_iterator(
        StreamName=stream, ShardId="shardId-000000000000", ShardIteratorType="TRIM_HORIZON"
    )["ShardIterator"]


def read(client: "KinesisClient", iterator: str) -> str:
    try:
        client.get_records(ShardIterator=iterator)
    except ClientError as error:
        return error.response["Error"]["Code"]
    return "ok"
