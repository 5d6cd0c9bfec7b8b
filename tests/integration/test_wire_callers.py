"""The wire client where a boto3 client goes in: the producers, and behind the proxy."""

import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import boto3
import pytest

from infra.proxy.corrections.names import parse
from infra.proxy.quotas.kinesis import KinesisQuotas
from producers.aggregated import AggregatingProducer
from producers.put_records import Record, put_records
from tests.integration.aggregated_support import read_back
from tests.integration.wire_support import assert_alike, client_named, outcome_of
from tests.proxy_in_thread import proxied
from wire.client import client as wire_client

if TYPE_CHECKING:
    from types_boto3_kinesis import KinesisClient

Streams = Callable[..., str]


@pytest.fixture
def wire(local_kinesis: str) -> Iterator[Any]:
    client = client_named("wire", local_kinesis)
    yield client
    client.close()


def test_put_records_through_the_wire(wire: Any, kinesis: "KinesisClient", stream: Streams):
    name = stream(shards=2)
    records = [Record(f"key-{n}", b"%d" % n) for n in range(501)]
    outcomes = put_records(wire, name, records)
    assert all(each.delivered and each.attempts == 1 for each in outcomes)
    held = {(h.shard.shard_id, h.sequence_number): h.data for h in read_back(kinesis, name)}
    assert len(held) == 501
    for outcome in outcomes:
        assert held[str(outcome.shard_id), str(outcome.sequence_number)] == outcome.record.data


def test_put_records_learns_of_failures_through_the_wire(wire: Any):
    [outcome] = put_records(wire, "no-such-stream", [Record("k", b"x")])
    assert outcome.error_code == "ResourceNotFoundException"
    assert outcome.attempts == 1


def test_the_aggregating_producer_through_the_wire(
    wire: Any, kinesis: "KinesisClient", stream: Streams
):
    name = stream(shards=2)
    with AggregatingProducer(wire, name, record_ids=False) as producer:
        futures = [producer.put(f"key-{n}", b"%d" % n) for n in range(1_000)]
        assert producer.flush(60)
    results = [future.result(0) for future in futures]
    held = read_back(kinesis, name)
    assert len(held) < 1_000  # they travelled in aggregates
    by_number = {(h.shard.shard_id, h.sequence_number): h for h in held}
    for n, result in enumerate(results):
        users = by_number[result.shard_id, result.sequence_number].users()
        user = users[result.sub_sequence_number or 0]
        assert (user.partition_key, user.data) == (f"key-{n}", b"%d" % n)


def test_the_aggregating_producer_has_nothing_to_warn_of(
    caplog: pytest.LogCaptureFixture, local_kinesis: str
):
    client = wire_client(endpoint_url=local_kinesis)
    assert "total_max_attempts" not in client.meta.config.retries
    with caplog.at_level(logging.WARNING, logger="producers"):
        AggregatingProducer(client, "orders").close()
    assert not caplog.records
    client.close()


def test_what_the_proxy_throttles_and_refuses_is_told_alike(local_kinesis: str, stream: Streams):
    name = stream()
    large = [{"Data": b"x" * 65_536, "PartitionKey": "k"}] * 30
    small = [{"Data": b"x", "PartitionKey": "k"}]
    told = []
    for kind in ("wire", "boto3"):
        with proxied(local_kinesis, quotas=True, corrections=parse("all")) as proxy:
            proxy.desk.quotas = KinesisQuotas(lambda: 100.0)  # nothing is ever refilled
            client = client_named(kind, proxy.url)
            calls: list[tuple[str, dict[str, Any]]] = [
                ("put_records", {"StreamName": name, "Records": large}),
                ("put_record", {"StreamName": name, "Data": b"x" * 65_536, "PartitionKey": "k"}),
                ("put_records", {"StreamName": name, "Records": small * 501}),
                ("put_record", {"StreamName": name, "Data": b"x", "PartitionKey": "k" * 257}),
                ("get_records", {"ShardIterator": "nonsense"}),
                ("list_shards", {"StreamName": name, "NextToken": "both"}),
                ("list_shards", {"StreamName": name}),
                ("describe_stream_summary", {"StreamName": name}),
            ]
            told.append(
                [
                    outcome_of(lambda c=client, m=m, p=p: getattr(c, m)(**p))  # type: ignore[misc]
                    for m, p in calls
                ]
            )
            client.close()
    fast, plain = told
    assert fast[0]["FailedRecordCount"] == 15
    assert fast[0]["Records"][29]["ErrorCode"] == "ProvisionedThroughputExceededException"
    assert fast[1]["raised"][0].__name__ == "ProvisionedThroughputExceededException"
    assert len(fast[6]["Shards"]) == 1
    for number, (one, other) in enumerate(zip(fast, plain, strict=True)):
        assert_alike(one, other, at=f"{number}")


def test_the_environment_leads_it_as_it_leads_boto3(
    local_kinesis: str, stream: Streams, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("AWS_ENDPOINT_URL_KINESIS", local_kinesis)
    client: Any = wire_client()
    assert client.meta.endpoint_url == boto3.client("kinesis").meta.endpoint_url == local_kinesis
    assert len(client.list_shards(StreamName=stream())["Shards"]) == 1
    client.close()
