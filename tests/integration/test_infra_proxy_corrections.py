"""Each correction on a real engine, next to what the engine answers by itself."""

import http.client
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from botocore.parsers import ResponseParserError
from cbor2 import CBORTag

from infra.proxy.corrections.event_stream import Frames
from infra.proxy.corrections.names import ALL, parse
from infra.proxy.messages import decode, encode
from infra.proxy.proxy import RunningProxy
from infra.stack.endpoints import FAKE_CREDENTIALS, REGION
from tests.proxy_in_thread import kinesis_at, proxied
from tests.support import eventually
from tests.unit.proxy_corrections_support import MOCKS_END, ids, is_whole

if TYPE_CHECKING:
    from types_boto3_kinesis import KinesisClient

FIRST = "shardId-000000000000"
CBOR = "application/x-amz-cbor-1.1"


@dataclass(frozen=True)
class Line:
    """client → proxy that corrects → engine, and a client of the engine itself"""

    client: "KinesisClient"
    engine: "KinesisClient"
    proxy: RunningProxy
    embedded: bool  # whether the engine is kinesis-mock without LocalStack around it


@pytest.fixture(scope="module")
def line(local_kinesis: str, stack_name: str) -> Iterator[Line]:
    with proxied(local_kinesis, corrections=parse("all")) as proxy:
        clients = kinesis_at(proxy.url), kinesis_at(local_kinesis)
        yield Line(*clients, proxy, embedded=stack_name == "embedded")
        for client in clients:
            client.close()


def settled(client: "KinesisClient", stream: str) -> None:
    def is_active() -> bool:
        summary = client.describe_stream_summary(StreamName=stream)
        return summary["StreamDescriptionSummary"]["StreamStatus"] == "ACTIVE"

    eventually(is_active)


def put_everywhere(client: "KinesisClient", stream: str) -> dict[str, list[int]]:
    """Put records over all of the hash keys, and return their numbers by shard."""
    numbers: dict[str, list[int]] = {}
    for key in range(0, 2**128, 2**125):
        record = client.put_record(
            StreamName=stream, Data=b"x", PartitionKey="k", ExplicitHashKey=str(key)
        )
        numbers.setdefault(record["ShardId"], []).append(int(record["SequenceNumber"]))
    return numbers


@dataclass(frozen=True)
class Resharded:
    """Shard 0 was split into 2 and 3; then 3 and 1 were merged into 4, and 2 and 4 into 5."""

    name: str
    numbers: dict[str, list[int]]


@pytest.fixture
def resharded(line: Line, stream: Callable[..., str]) -> Resharded:
    name = stream(shards=2)
    client = line.engine
    numbers = put_everywhere(client, name)
    client.split_shard(StreamName=name, ShardToSplit=FIRST, NewStartingHashKey=str(2**126))
    for merged, adjacent in ((3, 1), (2, 4)):
        settled(client, name)
        for shard, more in put_everywhere(client, name).items():
            numbers.setdefault(shard, []).extend(more)
        client.merge_shards(
            StreamName=name,
            ShardToMerge=f"shardId-{merged:012d}",
            AdjacentShardToMerge=f"shardId-{adjacent:012d}",
        )
    settled(client, name)
    return Resharded(name, numbers)


def listed(client: "KinesisClient", stream: str, **shard_filter: Any) -> list[Any]:
    return client.list_shards(StreamName=stream, ShardFilter=shard_filter)["Shards"]  # type: ignore[arg-type]


def numbers_of(shards: list[Any]) -> list[int]:
    return [int(shard["ShardId"][-12:]) for shard in shards]


def test_a_filtered_list_covers_every_hash_key_once(line: Line, resharded: Resharded) -> None:
    name, now = resharded.name, time.time()
    assert not is_whole(listed(line.engine, name, Type="AT_TRIM_HORIZON")), "the engine's own"
    for shard_filter, expected in (
        ({"Type": "AT_TRIM_HORIZON"}, [0, 1]),
        ({"Type": "AT_LATEST"}, [5]),
        ({"Type": "FROM_TRIM_HORIZON"}, [0, 1, 2, 3, 4, 5]),
        ({"Type": "AFTER_SHARD_ID", "ShardId": "shardId-000000000003"}, [4, 5]),
        ({"Type": "AT_TIMESTAMP", "Timestamp": now - 3600}, [0, 1]),
        ({"Type": "AT_TIMESTAMP", "Timestamp": now + 3600}, [5]),
        ({"Type": "FROM_TIMESTAMP", "Timestamp": now - 3600}, [0, 1, 2, 3, 4, 5]),
        ({"Type": "FROM_TIMESTAMP", "Timestamp": now + 3600}, [5]),
    ):
        assert numbers_of(listed(line.client, name, **shard_filter)) == expected, shard_filter
    # In the very second of a reshard too, where the engine lists parents with their children.
    moments = [at / 4 for at in range(int(now - 10) * 4, int(now + 3) * 4)]
    for moment in moments:
        at_that_time = listed(line.client, name, Type="AT_TIMESTAMP", Timestamp=moment)
        assert is_whole(at_that_time), (moment, ids(at_that_time))


def test_pages_of_a_filtered_list_go_on_with_the_filter(
    line: Line, stream: Callable[..., str]
) -> None:
    # More than the 100 that kinesis-mock puts on a page; LocalStack has a limit of 100 shards.
    before, size = (60, 50) if line.embedded else (20, 15)
    name = stream(shards=before)
    line.engine.update_shard_count(
        StreamName=name, TargetShardCount=2 * before, ScalingType="UNIFORM_SCALING"
    )
    settled(line.engine, name)
    parameters: dict[str, Any] = {"StreamName": name, "ShardFilter": {"Type": "AT_LATEST"}}
    pages = []
    while parameters:
        answer = line.client.list_shards(MaxResults=size, **parameters)
        pages.append(answer["Shards"])
        token = answer.get("NextToken")
        parameters = {"NextToken": token} if token else {}
    together = list(itertools.chain(*pages))
    assert [len(page) for page in pages] == [size, size, 2 * before - 2 * size]
    assert numbers_of(together) == list(range(before, 3 * before))
    assert is_whole(together)
    assert numbers_of(listed(line.client, name, Type="AT_TRIM_HORIZON")) == list(range(before))


def test_a_stream_that_is_not_there_is_refused_as_the_engine_does(line: Line) -> None:
    for client in (line.engine, line.client):
        with pytest.raises(client.exceptions.ResourceNotFoundException):
            listed(client, "nowhere", Type="AT_TRIM_HORIZON")


def test_closed_shards_end_above_their_records(line: Line, resharded: Resharded) -> None:
    name = resharded.name
    own = line.engine.list_shards(StreamName=name)["Shards"]
    assert {s["SequenceNumberRange"].get("EndingSequenceNumber") for s in own} == {MOCKS_END, None}
    description = line.client.describe_stream(StreamName=name)["StreamDescription"]
    in_cbor = decode(ask_in_cbor(line, "ListShards", {"StreamName": name}), cbor=True)
    for shards in (
        line.client.list_shards(StreamName=name)["Shards"],
        listed(line.client, name, Type="FROM_TRIM_HORIZON"),
        description["Shards"],
        in_cbor["Shards"],
    ):
        assert numbers_of(shards) == [0, 1, 2, 3, 4, 5]
        for shard in shards[:-1]:
            end = int(shard["SequenceNumberRange"]["EndingSequenceNumber"])
            assert end > int(shard["SequenceNumberRange"]["StartingSequenceNumber"])
            assert end > max(resharded.numbers[shard["ShardId"]])
        assert "EndingSequenceNumber" not in shards[-1]["SequenceNumberRange"]


def consumer_of(line: Line, stream: str, name: str) -> str:
    arn = line.engine.describe_stream_summary(StreamName=stream)["StreamDescriptionSummary"][
        "StreamARN"
    ]
    made = line.engine.register_stream_consumer(StreamARN=arn, ConsumerName=name)
    consumer = made["Consumer"]["ConsumerARN"]

    def is_active() -> bool:
        described = line.engine.describe_stream_consumer(ConsumerARN=consumer)
        return described["ConsumerDescription"]["ConsumerStatus"] == "ACTIVE"

    eventually(is_active)
    return consumer


def test_boto3_reads_a_subscription_to_the_end_of_its_shard(
    line: Line, stream: Callable[..., str]
) -> None:
    name = stream()
    consumer = consumer_of(line, name, "reader")
    first = put_everywhere(line.engine, name)[FIRST]
    start: Any = {"Type": "TRIM_HORIZON"}
    if line.embedded:
        with pytest.raises(ResponseParserError, match="initial-response"):
            line.engine.subscribe_to_shard(
                ConsumerARN=consumer_of(line, name, "sufferer"),
                ShardId=FIRST,
                StartingPosition=start,
            )
    events: list[Any] = []
    over = threading.Event()

    def read() -> None:
        subscription = line.client.subscribe_to_shard(
            ConsumerARN=consumer, ShardId=FIRST, StartingPosition=start
        )
        for event in subscription["EventStream"]:
            events.append(event["SubscribeToShardEvent"])  # noqa: PERF401 - seen one by one
        over.set()

    def numbers() -> list[int]:
        return [int(r["SequenceNumber"]) for event in events for r in event["Records"]]

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    eventually(lambda: numbers() == first)
    late = put_everywhere(line.engine, name)[FIRST]
    line.engine.split_shard(StreamName=name, ShardToSplit=FIRST, NewStartingHashKey=str(2**127))
    settled(line.engine, name)
    assert over.wait(60), "the subscription does not end"
    assert numbers() == first + late
    *others, last = events
    assert not any(event.get("ChildShards") for event in others)
    assert last["Records"] == []
    assert "ContinuationSequenceNumber" not in last
    assert [child["ShardId"] for child in last["ChildShards"]] == [
        "shardId-000000000001",
        "shardId-000000000002",
    ]
    assert {tuple(child["ParentShards"]) for child in last["ChildShards"]} == {(FIRST,)}
    assert is_whole(last["ChildShards"])


def test_a_closed_shard_without_records_ends_at_once(
    line: Line, stream: Callable[..., str]
) -> None:
    name = stream()
    line.engine.split_shard(StreamName=name, ShardToSplit=FIRST, NewStartingHashKey=str(2**127))
    settled(line.engine, name)
    subscription = line.client.subscribe_to_shard(
        ConsumerARN=consumer_of(line, name, "reader"),
        ShardId=FIRST,
        StartingPosition={"Type": "LATEST"},
    )
    events = [event["SubscribeToShardEvent"] for event in subscription["EventStream"]]
    assert [len(event.get("ChildShards") or ()) for event in events][-1] == 2
    assert all(event["Records"] == [] for event in events)


def connection_to(line: Line) -> http.client.HTTPConnection:
    address = urlsplit(line.proxy.url)
    return http.client.HTTPConnection(address.hostname or "", address.port, timeout=30)


def request_in_cbor(
    connection: http.client.HTTPConnection, operation: str, parameters: dict[str, Any]
) -> http.client.HTTPResponse:
    key = FAKE_CREDENTIALS["AWS_ACCESS_KEY_ID"]
    scope = f"{key}/20260101/{REGION}/kinesis/aws4_request"
    headers = {
        "Authorization": f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=0",
        "Content-Type": CBOR,
        "X-Amz-Date": "20260101T000000Z",
        "X-Amz-Target": f"Kinesis_20131202.{operation}",
    }
    connection.request("POST", "/", encode(parameters, cbor=True), headers)
    response = connection.getresponse()
    assert response.status == 200
    return response


def ask_in_cbor(line: Line, operation: str, parameters: dict[str, Any]) -> bytes:
    connection = connection_to(line)
    try:
        return request_in_cbor(connection, operation, parameters).read()
    finally:
        connection.close()


def is_right_record(record: dict[str, Any]) -> bool:
    arrived = record["ApproximateArrivalTimestamp"]
    return (
        record["Data"] == b"x"
        and isinstance(arrived, CBORTag)
        and arrived.tag == 1
        and abs(arrived.value - time.time() * 1000) < 3_600_000
    )


def test_cbor_answers_have_the_types_of_aws(line: Line, stream: Callable[..., str]) -> None:
    name = stream()
    put_everywhere(line.engine, name)
    summary = decode(ask_in_cbor(line, "DescribeStreamSummary", {"StreamName": name}), cbor=True)[
        "StreamDescriptionSummary"
    ]
    assert isinstance(summary["StreamCreationTimestamp"], CBORTag)
    assert None not in summary.values()
    position = {"StreamName": name, "ShardId": FIRST, "ShardIteratorType": "TRIM_HORIZON"}
    iterator = decode(ask_in_cbor(line, "GetShardIterator", position), cbor=True)["ShardIterator"]
    answer = decode(ask_in_cbor(line, "GetRecords", {"ShardIterator": iterator}), cbor=True)
    assert len(answer["Records"]) == 8
    assert all(is_right_record(record) for record in answer["Records"])
    assert "ChildShards" not in answer


def test_events_of_a_cbor_subscription_are_cbor(line: Line, stream: Callable[..., str]) -> None:
    name = stream()
    consumer = consumer_of(line, name, "reader")
    put_everywhere(line.engine, name)
    line.engine.split_shard(StreamName=name, ShardToSplit=FIRST, NewStartingHashKey=str(2**127))
    settled(line.engine, name)
    connection = connection_to(line)
    start = {"Type": "TRIM_HORIZON"}
    parameters = {"ConsumerARN": consumer, "ShardId": FIRST, "StartingPosition": start}
    try:
        body = request_in_cbor(connection, "SubscribeToShard", parameters).read()
    finally:
        connection.close()
    initial, *events = Frames().feed(body)
    assert initial.headers[":event-type"] == "initial-response"
    values = [decode(event.payload, cbor=True) for event in events]
    records = list(itertools.chain.from_iterable(value["Records"] for value in values))
    assert len(records) == 8
    assert all(is_right_record(record) for record in records)
    assert len(values[-1]["ChildShards"]) == 2
    assert {value.get("ChildShards") is None for value in values[:-1]} == {True}


def test_what_was_corrected_is_counted(line: Line, resharded: Resharded) -> None:
    before = line.proxy.status()["corrections"]
    assert before.keys() == set(ALL)
    listed(line.client, resharded.name, Type="AT_TRIM_HORIZON")
    after = line.proxy.status()["corrections"]
    counted = {name: after[name] - before[name] for name in after if after[name] != before[name]}
    assert counted == {"list-shards-filter": 1, "ending-sequence-number": 1}
