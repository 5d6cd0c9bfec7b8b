"""The corrections of requests and lists, each switched on alone, next to what the engine answers.

The calls are written by hand: boto3 would not send some of these requests.
"""

import http.client
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest
from cbor2 import CBORTag

from infra.proxy.corrections import names
from infra.proxy.messages import decode, encode
from infra.proxy.proxy import RunningProxy
from infra.stack.endpoints import FAKE_CREDENTIALS, REGION
from tests.proxy_in_thread import proxied
from tests.support import eventually

FIRST = "shardId-000000000000"
JSON, CBOR = "application/x-amz-json-1.1", "application/x-amz-cbor-1.1"
Answered = tuple[int, dict[str, Any]]


@pytest.fixture
def engine(local_kinesis: str) -> str:
    return local_kinesis


def ask(url: str, operation: str, *, cbor: bool = False, **parameters: Any) -> Answered:
    """Make a call; the body of an answer that is no map, as of a subscription, is left out."""
    address = urlsplit(url)
    scope = f"{FAKE_CREDENTIALS['AWS_ACCESS_KEY_ID']}/20260101/{REGION}/kinesis/aws4_request"
    headers = {
        "Authorization": f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=0",
        "Content-Type": CBOR if cbor else JSON,
        "X-Amz-Date": "20260101T000000Z",
        "X-Amz-Target": f"Kinesis_20131202.{operation}",
    }
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=30)
    try:
        connection.request("POST", "/", encode(parameters, cbor=cbor), headers)
        response = connection.getresponse()
        if response.status == 200 and operation == "SubscribeToShard":
            return 200, {}
        body = response.read()
        return response.status, {} if response.status >= 500 else decode(body, cbor=cbor)
    finally:
        connection.close()


@dataclass(frozen=True)
class Corrected:
    """A proxy with one correction, which is counted."""

    proxy: RunningProxy
    name: str

    def ask(self, operation: str, *, cbor: bool = False, **parameters: Any) -> Answered:
        return ask(self.proxy.url, operation, cbor=cbor, **parameters)

    @property
    def count(self) -> int:
        corrections: dict[str, int] = self.proxy.status()["corrections"]
        assert set(corrections) == {self.name}
        return corrections[self.name]


@contextmanager
def corrected(engine: str, name: str) -> Iterator[Corrected]:
    with proxied(engine, corrections=frozenset({name})) as proxy:
        yield Corrected(proxy, name)


def refusal(answered: Answered) -> str:
    status, error = answered
    assert status == 400, answered
    return str(error["__type"])


def summary_of(engine: str, stream: str) -> dict[str, Any]:
    status, answer = ask(engine, "DescribeStreamSummary", StreamName=stream)
    assert status == 200, answer
    found: dict[str, Any] = answer["StreamDescriptionSummary"]
    return found


def with_consumers(engine: str, stream: str, *consumers: str) -> str:
    """Register consumers of a stream, and return the stream's ARN once they are ACTIVE."""
    arn: str = summary_of(engine, stream)["StreamARN"]
    for consumer in consumers:
        status, answer = ask(engine, "RegisterStreamConsumer", StreamARN=arn, ConsumerName=consumer)
        assert status == 200, answer
    eventually(
        lambda: all(
            each["ConsumerStatus"] == "ACTIVE"
            for each in ask(engine, "ListStreamConsumers", StreamARN=arn)[1]["Consumers"]
        )
    )
    return arn


@pytest.mark.parametrize("cbor", [False, True])
def test_a_request_that_the_model_forbids_does_not_reach_the_engine(
    engine: str, unique: Callable[[str], str], *, cbor: bool
) -> None:
    name = unique("stream")
    position = {"StreamName": name, "ShardId": FIRST, "ShardIteratorType": "SOMEWHERE"}
    subscription = {
        "ConsumerARN": f"arn:aws:kinesis:{REGION}:000000000000:stream/s/consumer/c:1",
        "ShardId": FIRST,
        "StartingPosition": {"Type": "SOMEWHERE"},
    }
    forbidden: list[tuple[str, dict[str, Any]]] = [
        ("CreateStream", {"StreamName": name, "ShardCount": 0}),
        ("CreateStream", {"StreamName": name, "StreamModeDetails": {"StreamMode": "SOMETIMES"}}),
        ("ListShards", {"StreamName": name, "MaxResults": 0}),
        ("ListShards", {"StreamName": name, "ShardFilter": {"Type": "SOMETIMES"}}),
        ("GetShardIterator", position),
        ("SubscribeToShard", subscription),
    ]
    with corrected(engine, names.REQUEST_CONSTRAINTS) as proxy:
        for operation, parameters in forbidden:
            answered = proxy.ask(operation, cbor=cbor, **parameters)
            assert refusal(answered) == "ValidationException", operation
            assert "1 validation error detected: Value '" in answered[1]["message"]
        assert proxy.count == len(forbidden)
        assert proxy.proxy.status()["operations"]["SubscribeToShard"]["refused"] == 1
        assert proxy.ask("ListStreams", cbor=cbor, Limit=1)[0] == 200
        assert proxy.count == len(forbidden)
    assert refusal(ask(engine, "DescribeStreamSummary", StreamName=name)) == (
        "ResourceNotFoundException"
    )


def test_an_iterator_that_nobody_gave_is_invalid(engine: str, stream: Callable[..., str]) -> None:
    position = {"StreamName": stream(), "ShardId": FIRST, "ShardIteratorType": "TRIM_HORIZON"}
    assert ask(engine, "GetRecords", ShardIterator="AAAAAAAAAAE=")[0] == 500, "the engine's own"
    elsewhere = ask(engine, "GetShardIterator", **position)[1]["ShardIterator"]
    with corrected(engine, names.BAD_ITERATOR) as proxy:
        for cbor in (False, True):
            answered = proxy.ask("GetRecords", cbor=cbor, ShardIterator="AAAAAAAAAAE=")
            assert refusal(answered) == "InvalidArgumentException"
        assert proxy.ask("GetRecords", ShardIterator=elsewhere)[0] == 200
        assert proxy.count == 2


def test_a_stream_with_consumers_stays_unless_they_are_meant_too(
    engine: str, stream: Callable[..., str]
) -> None:
    with corrected(engine, names.DELETE_WITH_CONSUMERS) as proxy:
        name = stream()
        arn = with_consumers(engine, name, "reader")
        for which in ({"StreamName": name}, {"StreamARN": arn}):
            assert refusal(proxy.ask("DeleteStream", **which)) == "ResourceInUseException"
        left = ask(engine, "ListStreamConsumers", StreamARN=arn)[1]["Consumers"]
        assert [each["ConsumerName"] for each in left] == ["reader"]
        assert proxy.ask("DeleteStream", StreamName=name, EnforceConsumerDeletion=True)[0] == 200
        assert proxy.ask("DeleteStream", StreamName=stream())[0] == 200
        assert proxy.count == 2


def test_a_split_has_keys_on_both_sides(engine: str, stream: Callable[..., str]) -> None:
    name = stream()
    split = {"StreamName": name, "ShardToSplit": FIRST}
    with corrected(engine, names.RESHARD_ARGUMENTS) as proxy:
        answered = proxy.ask("SplitShard", **split, NewStartingHashKey="0")
        assert refusal(answered) == "InvalidArgumentException"
        assert summary_of(engine, name)["StreamStatus"] == "ACTIVE"
        assert proxy.ask("SplitShard", **split, NewStartingHashKey="1")[0] == 200
        assert proxy.count == 1
    eventually(lambda: summary_of(engine, name)["OpenShardCount"] == 2)


def test_an_on_demand_stream_is_not_resharded(engine: str, stream: Callable[..., str]) -> None:
    name = stream()
    arn = summary_of(engine, name)["StreamARN"]
    mode = {"StreamMode": "ON_DEMAND"}
    assert ask(engine, "UpdateStreamMode", StreamARN=arn, StreamModeDetails=mode)[0] == 200
    eventually(
        lambda: (
            (summary := summary_of(engine, name))["StreamStatus"] == "ACTIVE"
            and summary["StreamModeDetails"] == mode
        )
    )
    with corrected(engine, names.RESHARD_ARGUMENTS) as proxy:
        for operation, parameters in (
            ("UpdateShardCount", {"TargetShardCount": 2, "ScalingType": "UNIFORM_SCALING"}),
            ("SplitShard", {"ShardToSplit": FIRST, "NewStartingHashKey": "5"}),
            ("MergeShards", {"ShardToMerge": FIRST, "AdjacentShardToMerge": FIRST}),
        ):
            answered = proxy.ask(operation, StreamName=name, **parameters)
            assert refusal(answered) == "ValidationException"
            assert "on-demand capacity mode" in answered[1]["message"]
        assert proxy.count == 3
    assert summary_of(engine, name)["StreamStatus"] == "ACTIVE"


def test_the_largest_record_is_said_before_it_was_set(
    engine: str, stream: Callable[..., str]
) -> None:
    name = stream()
    assert summary_of(engine, name).get("MaxRecordSizeInKiB") is None, "the engine's own"
    with corrected(engine, names.MAX_RECORD_SIZE) as proxy:
        for cbor in (False, True):
            answer = proxy.ask("DescribeStreamSummary", cbor=cbor, StreamName=name)[1]
            summary = answer["StreamDescriptionSummary"]
            assert (summary["StreamName"], summary["MaxRecordSizeInKiB"]) == (name, 1024)
        assert proxy.count == 2


def test_a_shard_that_is_not_there_is_not_subscribed_to(
    engine: str, stream: Callable[..., str]
) -> None:
    name = stream()
    arn = with_consumers(engine, name, "reader")
    (consumer,) = ask(engine, "ListStreamConsumers", StreamARN=arn)[1]["Consumers"]
    start = {"ConsumerARN": consumer["ConsumerARN"], "StartingPosition": {"Type": "LATEST"}}
    with corrected(engine, names.UNKNOWN_SHARD) as proxy:
        answered = proxy.ask("SubscribeToShard", ShardId="shardId-000000000099", **start)
        assert refusal(answered) == "ResourceNotFoundException"
        assert proxy.ask("SubscribeToShard", ShardId=FIRST, **start)[0] == 200
        # A shard that has come since the proxy looked is found.
        split = {"StreamName": name, "ShardToSplit": FIRST, "NewStartingHashKey": "5"}
        assert ask(engine, "SplitShard", **split)[0] == 200
        eventually(lambda: summary_of(engine, name)["StreamStatus"] == "ACTIVE")
        assert proxy.ask("SubscribeToShard", ShardId="shardId-000000000001", **start)[0] == 200
        assert proxy.count == 1


@pytest.mark.parametrize("cbor", [False, True])
def test_streams_are_listed_to_the_end_with_summaries(
    engine: str, stream: Callable[..., str], *, cbor: bool
) -> None:
    made = {stream(), stream(), stream()}
    assert ask(engine, "ListStreams", Limit=1)[1].get("NextToken") is None, "the engine's own"
    listed: list[str] = []
    token: dict[str, str] = {}
    pages = 0
    with corrected(engine, names.LIST_STREAMS) as proxy:
        while pages < 100:
            pages += 1
            status, page = proxy.ask("ListStreams", cbor=cbor, Limit=2, **token)
            assert (status, len(page["StreamNames"]) <= 2) == (200, True)
            summaries = page["StreamSummaries"]
            assert [each["StreamName"] for each in summaries] == page["StreamNames"]
            assert all(each["StreamARN"].endswith(each["StreamName"]) for each in summaries)
            made_at = [each["StreamCreationTimestamp"] for each in summaries]
            assert all(isinstance(at, CBORTag if cbor else int | float) for at in made_at)
            listed += page["StreamNames"]
            if not page["HasMoreStreams"]:
                break
            token = {"NextToken": page["NextToken"]}
        assert "NextToken" not in page
        assert (len(listed), made <= set(listed)) == (len(set(listed)), True)
        assert proxy.count == pages


@pytest.mark.parametrize("cbor", [False, True])
def test_consumers_are_listed_to_the_end(
    engine: str, stream: Callable[..., str], *, cbor: bool
) -> None:
    arn = with_consumers(engine, stream(), "a", "b", "c")
    listed: list[list[str]] = []
    token: dict[str, str] = {}
    with corrected(engine, names.LIST_CONSUMERS) as proxy:
        for _ in range(5):
            page = proxy.ask(
                "ListStreamConsumers", cbor=cbor, StreamARN=arn, MaxResults=2, **token
            )[1]
            listed.append([each["ConsumerName"] for each in page["Consumers"]])
            if "NextToken" not in page:
                break
            token = {"NextToken": page["NextToken"]}
        assert listed == [["a", "b"], ["c"]]
        assert proxy.count == 2
