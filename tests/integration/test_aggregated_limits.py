"""`AggregatingProducer` at the limits: sizes to the byte, counts to the record, rates to the quota.

The proxy refuses what AWS would refuse, so that a byte too many or a record too soon is noticed.
"""

import base64
import json
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

from infra.proxy.proxy import RunningProxy
from infra.stack.endpoints import Endpoints
from producers.aggregated import AggregatingProducer, PutResult
from records.aggregation import AggregateBuilder
from records.errors import RecordTooLarge
from records.limits import KIB, MAX_RECORDS_PER_PUT, MIB, record_bytes
from tests.integration.aggregated_support import (
    Answer,
    Forward,
    check_account,
    client_of,
    described,
    endpoint_of,
    put_numbered,
    read_back,
    shard_id,
    stored_on,
    tampering,
    wait_until_active,
)
from tests.proxy_in_thread import kinesis_at, proxied

if TYPE_CHECKING:
    from types_boto3_kinesis import KinesisClient

Streams = Callable[..., str]


def row_of(proxy: RunningProxy, stream: str) -> dict[str, Any]:
    (row,) = (row for row in proxy.status()["shards"] if row["stream"] == stream)
    return row


@pytest.mark.parametrize("count", [499, 500, 501, 1001])
def test_a_request_has_500_records_at_most(
    kinesis: "KinesisClient", stack: Endpoints, stream: Streams, count: int
) -> None:
    name = stream(shards=4)
    sizes: list[int] = []

    def tamper(operation: str, body: bytes, forward: Forward) -> Answer:
        if operation == "PutRecords":
            sizes.append(len(json.loads(body)["Records"]))
        return forward(body)

    with (
        tampering(endpoint_of(stack), tamper) as url,
        AggregatingProducer(client_of(url), name, aggregation=False, linger=3600) as producer,
    ):
        puts = put_numbered(producer, range(count), keys=count)
        assert producer.flush(60)
    assert set(check_account(read_back(kinesis, name), puts).values()) == {1}
    assert sum(sizes) == count
    assert max(sizes) <= MAX_RECORDS_PER_PUT
    assert len(sizes) <= count // 200 + 1


def wrapped(data: bytes, key: str) -> int:
    """What a record counts that is an aggregate already, and is wrapped in another one."""
    builder = AggregateBuilder(max_bytes=2 * len(data) + 1000)
    builder.try_add(key, data)
    return record_bytes("a", builder.build())


def aggregate_of(size: int) -> bytes:
    builder = AggregateBuilder(max_bytes=2 * size)
    assert builder.try_add("inner", bytes(size))
    return builder.build()


def at_the_limit(limit: int, key: str, what: str) -> tuple[bytes, bytes]:
    """Return data that makes a record of exactly this size, and data of one byte more."""
    size = limit - len(key.encode())
    if what == "plain":
        return bytes(size), bytes(size + 1)
    around = 2 * limit - wrapped(aggregate_of(limit), key)
    inner = next(n for n in range(around + 4, 0, -1) if wrapped(aggregate_of(n), key) <= limit)
    return aggregate_of(inner), aggregate_of(inner + 1)


KEY = "ключ"  # It counts eight bytes, not four characters.


@pytest.mark.parametrize(("what", "kib"), [("plain", 1024), ("aggregate", 1024), ("plain", 2048)])
def test_a_record_as_large_as_the_stream_takes_is_stored_and_one_byte_more_is_refused(
    kinesis: "KinesisClient", local_kinesis: str, stream: Streams, what: str, kib: int
) -> None:
    name, limit = stream(), kib * KIB
    if kib > 1024:
        raise_record_size(kinesis, name, kib)
    data, more = at_the_limit(limit, KEY, what)
    with (
        proxied(local_kinesis, quotas=True) as proxy,
        AggregatingProducer(kinesis_at(proxy.url), name, record_ids=False, linger=0) as producer,
    ):
        with pytest.raises(RecordTooLarge) as error:
            producer.put(KEY, more)
        assert (error.value.size, error.value.limit) == (limit + 1, limit)
        assert len(producer.put(KEY, data).result(60).attempts) == 1
    (stored,) = read_back(kinesis, name)
    assert record_bytes(stored.partition_key, stored.data) == limit
    assert [(user.partition_key, user.data) for user in stored.users()] == [(KEY, data)]


def raise_record_size(kinesis: "KinesisClient", name: str, kib: int) -> None:
    arn = kinesis.describe_stream_summary(StreamName=name)["StreamDescriptionSummary"]["StreamARN"]
    try:
        kinesis.update_max_record_size(StreamARN=arn, MaxRecordSizeInKiB=kib)
    except ClientError as error:
        pytest.skip(f"the engine has no UpdateMaxRecordSize: {error}")
    wait_until_active(kinesis, name)


# It is not the engine that is on trial: kinesis-mock takes two seconds for a MiB.
class Fake:
    """Describes a stream as one of 10 MiB, takes every record at once, and keeps the sizes."""

    def __init__(self, shards: int, kib: int = 1024) -> None:
        self.shards = shards
        self.kib = kib
        self.requests: list[list[int]] = []

    def __call__(self, operation: str, body: bytes, forward: Forward) -> Answer:
        if operation == "DescribeStreamSummary":
            return described(forward(body), MaxRecordSizeInKiB=self.kib)
        if operation != "PutRecords":
            return forward(body)
        entries = json.loads(body)["Records"]
        self.requests.append(
            [
                len(base64.b64decode(each["Data"])) + len(each["PartitionKey"].encode())
                for each in entries
            ]
        )
        places = [int(each["ExplicitHashKey"]) * self.shards // 2**128 for each in entries]
        return stored_on(shard_id(place) for place in places)


@pytest.mark.parametrize("what", ["plain", "aggregate"])
def test_a_record_of_10_mib_is_sent_where_the_stream_takes_it_and_one_byte_more_is_refused(
    stack: Endpoints, stream: Streams, what: str
) -> None:
    name, limit = stream(), 10 * MIB
    data, more = at_the_limit(limit, KEY, what)
    fake = Fake(1, kib=10 * KIB)
    with (
        tampering(endpoint_of(stack), fake) as engine,
        proxied(engine, quotas=True) as proxy,
        AggregatingProducer(kinesis_at(proxy.url), name, record_ids=False, linger=0) as producer,
    ):
        with pytest.raises(RecordTooLarge) as error:
            producer.put(KEY, more)
        assert (error.value.size, error.value.limit) == (limit + 1, limit)
        assert len(producer.put(KEY, data).result(60).attempts) == 1
        assert proxy.status()["throttled"] == 0
    assert fake.requests == [[limit]]


@pytest.mark.parametrize("limit", [64, 1000, 51_200])
def test_an_aggregate_is_filled_to_the_byte_and_not_beyond(
    kinesis: "KinesisClient", stream: Streams, limit: int
) -> None:
    name = stream()
    builder = AggregateBuilder(max_bytes=limit - len("a"))
    assert builder.try_add("k", b"1")
    fitting = next(n for n in range(limit, 0, -1) if builder.try_add("k", bytes(n)))
    assert builder.size + len("a") == limit
    with AggregatingProducer(
        kinesis, name, record_ids=False, max_aggregate_bytes=limit, linger=3600
    ) as producer:
        for size in (fitting, fitting + 1):
            producer.put("k", b"1")
            producer.put("k", bytes(size))
            assert producer.flush(60)
    held = read_back(kinesis, name)
    assert [len(h.users()) for h in held] == [2, 1, 1]
    assert record_bytes(held[0].partition_key, held[0].data) == limit


def test_a_request_has_10_mib_at_most(stack: Endpoints, stream: Streams) -> None:
    name = stream(shards=12)
    fake = Fake(12)
    with (
        tampering(endpoint_of(stack), fake) as url,
        AggregatingProducer(client_of(url), name, record_ids=False, linger=3600) as producer,
    ):
        futures = [
            producer.put("k", bytes(MIB - 1), explicit_hash_key=n * 2**128 // 12 + 1)
            for n in range(12)
        ]
        assert producer.flush(60)
    assert len({future.result(0).shard_id for future in futures}) == 12
    assert sorted(sum(sizes) for sizes in fake.requests) == [2 * MIB, 10 * MIB]


@pytest.mark.parametrize(("count", "size"), [(8 * 64, 16 * KIB), (6000, 10)])
def test_alone_on_a_stream_the_producer_is_hardly_ever_throttled(
    stack: Endpoints, stream: Streams, count: int, size: int
) -> None:
    name = stream()
    with (
        tampering(endpoint_of(stack), Fake(1)) as engine,
        proxied(engine, quotas=True) as proxy,
        AggregatingProducer(
            kinesis_at(proxy.url), name, linger=0.01, aggregation=False
        ) as producer,
    ):
        # The shard takes a second's worth at once, and then as much each second. What was sent late
        # and comes beside the next is refused, so a busy machine has a third of a second to hiccup;
        # to find the shards and to connect is not part of that.
        producer.put(KEY, b"").result(60)
        puts = put_numbered(producer, range(count), size=size)
        assert producer.flush(60)
        row = row_of(proxy, name)
    assert not any(put.error for put in puts)
    assert row["admitted"] == 1 + count
    assert row["throttled"] <= count // 20


def test_two_producers_share_one_shard(stack: Endpoints, stream: Streams) -> None:
    name = stream()
    order: list[int] = []
    with (
        tampering(endpoint_of(stack), Fake(1)) as engine,
        proxied(engine, quotas=True) as proxy,
    ):
        producers = [
            AggregatingProducer(kinesis_at(proxy.url), name, linger=0.01, max_record_age=None)
            for _ in range(2)
        ]
        futures: list[Future[PutResult]] = []
        together = threading.Barrier(2)

        def load(which: int) -> None:
            together.wait(30)
            for n in range(2 * 64):
                future = producers[which].put(f"{which}", b"%016384d" % n)
                future.add_done_callback(lambda _: order.append(which))
                futures.append(future)
            producers[which].close(deadline=60)

        threads = [threading.Thread(target=load, args=(which,)) for which in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(90)
        assert not wait(futures, 0).not_done
        row = row_of(proxy, name)
    assert not any(future.exception(0) for future in futures)
    # Neither had to wait for the other to be done: the first half holds some of both. How soon
    # their shares are equal is for the limiter's own simulation.
    assert min(order[: len(order) // 2].count(which) for which in range(2)) > len(order) // 16
    assert 0 < row["throttled"] < row["admitted"]
