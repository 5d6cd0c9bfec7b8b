"""Each fault before a real engine: what the client meets, what the engine did, what is counted."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError, HTTPClientError

from infra.proxy import control
from tests.proxy_in_thread import kinesis_at, proxied
from tests.support import eventually

if TYPE_CHECKING:
    from types_boto3_kinesis import KinesisClient


@dataclass
class Troubled:
    """A client that reaches the engine through a proxy, and a stream of one shard."""

    client: "KinesisClient"
    url: str
    stream: str
    engine: "KinesisClient"

    def put(self, *data: bytes) -> Any:
        records = [{"Data": each, "PartitionKey": "k"} for each in data]
        return self.client.put_records(StreamName=self.stream, Records=records)  # type: ignore[arg-type]

    def iterator(self) -> str:
        return self.client.get_shard_iterator(
            StreamName=self.stream,
            ShardId="shardId-000000000000",
            ShardIteratorType="TRIM_HORIZON",
        )["ShardIterator"]

    def written(self) -> list[bytes]:
        iterator = self.engine.get_shard_iterator(
            StreamName=self.stream,
            ShardId="shardId-000000000000",
            ShardIteratorType="TRIM_HORIZON",
        )["ShardIterator"]
        return [r["Data"] for r in self.engine.get_records(ShardIterator=iterator)["Records"]]

    def counted(self, action: str) -> int:
        status = control.status(self.url)["faults"]
        for strike in status["strikes"]:
            assert strike["reason"]
        return int(status["by_action"].get(action, 0))


@pytest.fixture
def troubled(
    local_kinesis: str, kinesis: "KinesisClient", stream: Callable[..., str]
) -> Iterator[Troubled]:
    with proxied(local_kinesis) as proxy:
        client = kinesis_at(proxy.url)
        yield Troubled(client, proxy.url, stream(), kinesis)
        client.close()


@pytest.mark.parametrize("action", ["lose", "reset-after"])
def test_an_answer_is_lost_after_the_commit(troubled: Troubled, action: str):
    control.add(troubled.url, action=action, operation="PutRecords", count=2)
    for _ in range(2):
        with pytest.raises(HTTPClientError):
            troubled.put(b"once")
    assert troubled.put(b"then")["FailedRecordCount"] == 0
    assert troubled.written() == [b"once", b"once", b"then"]
    assert troubled.counted(action) == 2
    assert control.status(troubled.url)["lost"] == 2


def test_a_reset_before_leaves_nothing_behind(troubled: Troubled):
    control.add(troubled.url, action="reset-before", operation="PutRecords")
    with pytest.raises(HTTPClientError):
        troubled.put(b"never")
    assert troubled.put(b"then")["FailedRecordCount"] == 0
    assert troubled.written() == [b"then"]
    assert troubled.counted("reset-before") == 1


def test_an_error_of_the_engine_is_not_worth_losing(troubled: Troubled):
    control.add(troubled.url, action="lose", operation="DescribeStreamSummary")
    with pytest.raises(troubled.client.exceptions.ResourceNotFoundException):
        troubled.client.describe_stream_summary(StreamName="nowhere")
    assert troubled.counted("lose") == 0
    with pytest.raises(HTTPClientError):
        troubled.client.describe_stream_summary(StreamName=troubled.stream)
    assert troubled.counted("lose") == 1


@pytest.mark.parametrize(
    ("status", "code"), [(500, "InternalFailure"), (503, "ServiceUnavailable")]
)
def test_an_error_is_answered_without_asking_the_engine(troubled: Troubled, status: int, code: str):
    control.add(troubled.url, action="error", operation="PutRecords", status=status)
    with pytest.raises(ClientError) as caught:
        troubled.put(b"never")
    assert caught.value.response["Error"]["Code"] == code
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == status
    assert troubled.written() == []
    assert troubled.counted("error") == 1


def test_the_entries_that_fail_do_not_reach_the_engine(troubled: Troubled):
    control.add(
        troubled.url,
        action="partial",
        operation="PutRecords",
        records=[0, 2],
        code="InternalFailure",
    )
    answer = troubled.put(b"a", b"b", b"c", b"d")
    assert [r.get("ErrorCode") for r in answer["Records"]] == ["InternalFailure", None] * 2
    assert answer["FailedRecordCount"] == 2
    assert troubled.written() == [b"b", b"d"]
    assert control.status(troubled.url)["faults"]["strikes"][0]["operation"] == "PutRecords"


def test_an_answer_that_commits_nothing_is_not_lost(troubled: Troubled):
    control.add(troubled.url, action="partial", operation="PutRecords", records=[0])
    control.lose(troubled.url, "PutRecords")
    assert troubled.put(b"a")["FailedRecordCount"] == 1
    assert troubled.counted("lose") == 0
    with pytest.raises(HTTPClientError):
        troubled.put(b"b")
    assert troubled.written() == [b"b"]


def test_a_read_is_delivered_twice_and_nothing_is_skipped(troubled: Troubled):
    troubled.put(b"a", b"b", b"c")
    control.add(troubled.url, action="repeat", operation="GetRecords", stream=troubled.stream)
    seen, iterator = [], troubled.iterator()
    for _ in range(5):
        answer = troubled.client.get_records(ShardIterator=iterator, Limit=2)
        seen += [record["Data"] for record in answer["Records"]]
        iterator = answer["NextShardIterator"]
    assert seen == [b"a", b"b", b"a", b"b", b"c"]
    assert troubled.counted("repeat") == 1


def test_a_request_is_sent_twice(troubled: Troubled):
    control.add(troubled.url, action="send-twice", operation="PutRecords")
    assert troubled.put(b"a")["FailedRecordCount"] == 0
    assert troubled.put(b"b")["FailedRecordCount"] == 0
    assert troubled.written() == [b"a", b"a", b"b"]
    assert troubled.counted("send-twice") == 1


def test_an_iterator_expires_on_demand_for_good(troubled: Troubled):
    iterator = troubled.iterator()
    control.add(troubled.url, action="expire-iterator")
    for _ in range(2):
        with pytest.raises(troubled.client.exceptions.ExpiredIteratorException):
            troubled.client.get_records(ShardIterator=iterator)
    assert troubled.client.get_records(ShardIterator=troubled.iterator())["Records"] == []
    assert troubled.counted("expire-iterator") == 1


def test_a_shard_is_throttled_for_a_while_for_puts_and_reads(troubled: Troubled):
    control.add(
        troubled.url,
        action="throttle",
        stream=troubled.stream,
        shard="shardId-000000000000",
        seconds=2,
    )
    iterator = troubled.iterator()
    answer = troubled.put(b"a", b"b")
    codes = {record["ErrorCode"] for record in answer["Records"]}
    assert codes == {"ProvisionedThroughputExceededException"}
    with pytest.raises(troubled.client.exceptions.ProvisionedThroughputExceededException):
        troubled.client.get_records(ShardIterator=iterator)
    eventually(lambda: troubled.put(b"later")["FailedRecordCount"] == 0, every=0.2)
    assert troubled.written() == [b"later"]
    assert troubled.counted("throttle") == 1
    assert control.status(troubled.url)["throttled"] >= 3


def test_a_delay_holds_the_answer_back_and_not_the_request(troubled: Troubled):
    control.add(troubled.url, action="delay", operation="PutRecords", seconds=60)

    def put() -> None:
        with pytest.raises(HTTPClientError):
            troubled.put(b"a")

    late = threading.Thread(target=put)
    late.start()
    eventually(lambda: troubled.written() == [b"a"])
    assert late.is_alive()
    assert troubled.counted("delay") == 0, "it has not been held back to the end"


def test_a_short_delay_is_counted_and_the_answer_comes(troubled: Troubled):
    control.add(troubled.url, action="delay", operation="PutRecords", seconds=0.05)
    assert troubled.put(b"a")["FailedRecordCount"] == 0
    assert troubled.counted("delay") == 1


def test_frozen_requests_are_held_until_they_are_thawed(troubled: Troubled):
    control.add(troubled.url, action="freeze", operation="PutRecords")
    answers: list[Any] = []
    held = [threading.Thread(target=lambda: answers.append(troubled.put(b"x"))) for _ in range(3)]
    for thread in held:
        thread.start()
    freeze = "freeze-PutRecords"
    eventually(
        lambda: control.status(troubled.url)["faults"]["by_name"][freeze]["affected"] == 3,
        message="three requests held",
    )
    assert troubled.written() == []
    assert answers == []
    control.thaw(troubled.url)
    for thread in held:
        thread.join(30)
    assert [answer["FailedRecordCount"] for answer in answers] == [0, 0, 0]
    assert troubled.written() == [b"x"] * 3
