"""SubscribeToShard through the proxy on an engine that botocore cannot subscribe to by itself."""

import contextlib
import queue
import socket
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from infra.proxy.corrections import names
from infra.proxy.corrections.event_stream import encode
from tests.proxy_in_thread import kinesis_at, proxied
from tests.support import eventually

if TYPE_CHECKING:
    from types_boto3_kinesis import KinesisClient

CORRECTIONS = frozenset(names.ALL)


class Subscription:
    """Reads the events of one subscription in a thread of its own."""

    def __init__(self, client: "KinesisClient", consumer: str, shard: str) -> None:
        answer = client.subscribe_to_shard(
            ConsumerARN=consumer, ShardId=shard, StartingPosition={"Type": "TRIM_HORIZON"}
        )
        self._stream = answer["EventStream"]
        self.records: queue.Queue[bytes] = queue.Queue()
        self.last: dict[str, Any] = {}
        self.problem: Exception | None = None
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            for event in self._stream:
                self.last = event["SubscribeToShardEvent"]  # type: ignore[assignment]
                for record in self.last["Records"]:
                    self.records.put(record["Data"])
        except Exception as error:  # noqa: BLE001 - the test looks at it
            self.problem = error

    @property
    def over(self) -> bool:
        return not self._thread.is_alive()

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self._stream.close()


@pytest.fixture
def consumer(kinesis: "KinesisClient", stream: Callable[..., str]) -> Iterator[tuple[str, str]]:
    """A stream of one shard and the ARN of a consumer of it."""
    name = stream()
    arn = kinesis.describe_stream_summary(StreamName=name)["StreamDescriptionSummary"]["StreamARN"]
    made = kinesis.register_stream_consumer(StreamARN=arn, ConsumerName="c")["Consumer"]
    consumer = made["ConsumerARN"]
    eventually(
        lambda: (
            kinesis.describe_stream_consumer(ConsumerARN=consumer)["ConsumerDescription"][
                "ConsumerStatus"
            ]
            == "ACTIVE"
        )
    )
    yield name, consumer
    kinesis.deregister_stream_consumer(ConsumerARN=consumer)


@pytest.fixture
def subscriber(local_kinesis: str) -> Iterator[Callable[..., "KinesisClient"]]:
    with contextlib.ExitStack() as opened:

        def make(**settings: Any) -> "KinesisClient":
            settings = {"quotas": True, "corrections": CORRECTIONS} | settings
            proxy = opened.enter_context(proxied(local_kinesis, **settings))
            client = kinesis_at(proxy.url)
            opened.callback(client.close)
            return client

        yield make


def test_a_second_subscription_is_refused_within_five_seconds_and_takes_over_later(
    subscriber: Callable[..., "KinesisClient"],
    kinesis: "KinesisClient",
    consumer: tuple[str, str],
):
    client, (stream, arn) = subscriber(), consumer
    kinesis.put_record(StreamName=stream, Data=b"a", PartitionKey="k")
    first = Subscription(client, arn, "shardId-000000000000")
    assert first.records.get(timeout=20) == b"a"
    with pytest.raises(client.exceptions.ResourceInUseException):
        Subscription(client, arn, "shardId-000000000000")
    second = eventually(lambda: subscribed(client, arn), every=0.5)
    assert second.records.get(timeout=20) == b"a"
    eventually(lambda: first.over)
    assert first.problem is None, "it ends as AWS ends it, not torn"
    kinesis.put_record(StreamName=stream, Data=b"b", PartitionKey="k")
    assert second.records.get(timeout=20) == b"b"
    assert first.records.empty()
    second.close()


def test_a_subscription_ends_by_itself_after_five_minutes(
    subscriber: Callable[..., "KinesisClient"],
    kinesis: "KinesisClient",
    consumer: tuple[str, str],
):
    client, (stream, arn) = subscriber(time_scale=60.0), consumer
    kinesis.put_record(StreamName=stream, Data=b"a", PartitionKey="k")
    subscription = Subscription(client, arn, "shardId-000000000000")
    assert subscription.records.get(timeout=20) == b"a"
    eventually(lambda: subscription.over)
    assert subscription.problem is None
    assert subscription.last["ContinuationSequenceNumber"]


def test_a_shard_that_was_split_ends_with_its_children(
    subscriber: Callable[..., "KinesisClient"],
    kinesis: "KinesisClient",
    consumer: tuple[str, str],
):
    client, (stream, arn) = subscriber(), consumer
    kinesis.put_record(StreamName=stream, Data=b"a", PartitionKey="k")
    subscription = Subscription(client, arn, "shardId-000000000000")
    assert subscription.records.get(timeout=20) == b"a"
    kinesis.put_record(StreamName=stream, Data=b"b", PartitionKey="k")
    kinesis.split_shard(
        StreamName=stream, ShardToSplit="shardId-000000000000", NewStartingHashKey=str(2**127)
    )
    assert subscription.records.get(timeout=20) == b"b"
    eventually(lambda: subscription.over)
    assert subscription.problem is None
    assert subscription.last["Records"] == []
    assert "ContinuationSequenceNumber" not in subscription.last
    children = subscription.last["ChildShards"]
    assert [child["ShardId"] for child in children] == [
        "shardId-000000000001",
        "shardId-000000000002",
    ]
    assert {parent for child in children for parent in child["ParentShards"]} == {
        "shardId-000000000000"
    }


def subscribed(client: "KinesisClient", consumer: str) -> Subscription | None:
    try:
        return Subscription(client, consumer, "shardId-000000000000")
    except client.exceptions.ResourceInUseException:
        return None


class Endless:
    """An upstream that sends events to whoever subscribes, until it is hung up on."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        self.hung_up = threading.Event()
        threading.Thread(target=self._talk, daemon=True).start()

    def close(self) -> None:
        self._server.close()

    def _talk(self) -> None:
        connection, _ = self._server.accept()
        event = encode({":event-type": "SubscribeToShardEvent"}, b'{"Records":[]}' + b" " * 60_000)
        with connection, contextlib.suppress(OSError):
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            while True:
                connection.sendall(b"%x\r\n%b\r\n" % (len(event), event))
        self.hung_up.set()


def test_a_subscriber_that_does_not_read_does_not_hold_on_to_what_is_over():
    upstream = Endless()
    request = (
        b"POST / HTTP/1.1\r\nHost: h\r\nX-Amz-Target: Kinesis_20131202.SubscribeToShard\r\n"
        b"Content-Type: application/x-amz-json-1.1\r\nContent-Length: 33\r\n\r\n"
        b'{"ConsumerARN":"c","ShardId":"s"}'
    )
    with proxied(upstream.url, quotas=True, time_scale=300.0) as proxy:
        parts = urlsplit(proxy.url)
        with socket.create_connection((parts.hostname, parts.port)) as stalled:
            stalled.sendall(request)
            assert upstream.hung_up.wait(20), "it is still being sent to"
    upstream.close()
