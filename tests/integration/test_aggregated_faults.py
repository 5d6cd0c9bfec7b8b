"""`AggregatingProducer` when things go wrong: what fails, fails alone, and every future ends."""

import gc
import random
import threading
import tracemalloc
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import pytest

from infra.proxy import control
from infra.stack.endpoints import Endpoints
from producers.aggregated import AggregatingProducer, PutResult
from producers.errors import BufferFullError, DeliveryError, ProducerClosedError
from records.dead_letter import read_dead_letters, write_dead_letter
from records.limits import KIB, MIB
from tests.integration.aggregated_support import (
    Answer,
    Forward,
    Put,
    check_account,
    client_of,
    endpoint_of,
    payloads,
    put_numbered,
    read_back,
    refused,
    shard_id,
    tampering,
)
from tests.proxy_in_thread import kinesis_at, proxied
from tests.support import eventually

if TYPE_CHECKING:
    from types_boto3_kinesis import KinesisClient

Streams = Callable[..., str]
THROTTLED = "ProvisionedThroughputExceededException"


@pytest.mark.parametrize("seed", [1, 2])
def test_ordered_records_stay_in_order_under_random_partial_failure(
    kinesis: "KinesisClient", local_kinesis: str, stream: Streams, seed: int
) -> None:
    name = stream(shards=3)
    with proxied(local_kinesis, seed=seed) as proxy:
        for code in (THROTTLED, "InternalFailure"):
            partial: Any = {"action": "partial", "share": 0.4, "probability": 0.5, "code": code}
            control.add(proxy.url, name=code, **partial)
        control.add(proxy.url, name="lost", action="lose", operation="PutRecords", count=2, skip=3)
        settings: Any = {"ordered": True, "linger": 0.01, "max_aggregate_bytes": 1000}
        with AggregatingProducer(
            kinesis_at(proxy.url), name, max_record_age=120, **settings
        ) as producer:
            puts: list[Put] = []
            for first in range(0, 8000, 400):  # On a busy machine requests are few.
                puts += put_numbered(producer, range(first, first + 400))
                assert producer.flush(90)
                rows = proxy.status()["faults"]["by_name"]
                struck = min(row["affected"] for row in rows.values())
                if struck > 1 and max(len(put.attempts) for put in puts) > 2:
                    break
    assert struck > 1
    times = check_account(read_back(kinesis, name), puts, ordered=True)
    assert len(times) == len(puts)
    assert not any(put.error for put in puts)
    assert max(len(put.attempts) for put in puts) > 2


def test_a_hot_shard_delays_no_other(local_kinesis: str, stream: Streams) -> None:
    name = stream(shards=2)
    order: list[int] = []
    low, high = 0, 2**128 - 1
    with proxied(local_kinesis) as proxy:
        control.add(
            proxy.url, name="hot", action="throttle", shard=shard_id(0), seconds=600.0, count=1
        )
        with AggregatingProducer(
            kinesis_at(proxy.url), name, linger=0.01, max_aggregate_bytes=1000, max_record_age=None
        ) as producer:
            futures: dict[int, list[Future[PutResult]]] = {low: [], high: []}
            for n in range(400):
                for place, waiting in futures.items():
                    future = producer.put("k", b"%d" % n, explicit_hash_key=place)
                    future.add_done_callback(lambda _, place=place: order.append(place))
                    waiting.append(future)
            for future in futures[high]:
                assert future.result(60).shard_id == shard_id(1)
            assert not any(future.done() for future in futures[low])
            control.clear(proxy.url, "hot")
            assert producer.flush(60)
        assert proxy.status()["throttled"] > 0
    assert {future.result(0).shard_id for future in futures[low]} == {shard_id(0)}
    assert Counter(order[:400]) == {high: 400}
    attempts = futures[low][0].result(0).attempts
    assert {attempt.error_code for attempt in attempts} == {THROTTLED, None}
    assert max(len(future.result(0).attempts) for future in futures[high]) == 1


@pytest.mark.parametrize("ordered", [False, True])
def test_close_under_total_throttle_ends_every_future_and_keeps_every_record(
    kinesis: "KinesisClient", local_kinesis: str, stream: Streams, tmp_path: Any, *, ordered: bool
) -> None:
    name = stream(shards=2)
    path = tmp_path / "failed.dlq"
    with proxied(local_kinesis) as proxy, path.open("wb") as file:
        control.add(proxy.url, name="all", action="partial", share=1.0, count=10**6)
        producer = AggregatingProducer(
            kinesis_at(proxy.url),
            name,
            ordered=ordered,
            max_aggregate_bytes=1000,
            on_dead_letter=lambda letter: write_dead_letter(file, letter),
        )
        puts = put_numbered(producer, range(500))
        eventually(lambda: proxy.status()["faults"]["by_name"]["all"]["affected"] > 10)
        producer.close(deadline=0.3)
        errors = [put.error for put in puts]
    assert {error and error.error_code for error in errors} == {"ProducerClosed"}
    assert {error and error.retriable for error in errors} == {True}
    assert max(len(put.attempts) for put in puts) >= 1
    codes = {attempt.error_code for put in puts for attempt in put.attempts}
    assert codes <= {THROTTLED, "Unanswered"}
    with path.open("rb") as file:
        letters = Counter(letter.data for letter in read_dead_letters(file))
    assert letters == Counter(error.record.data for error in errors if error)
    assert check_account(read_back(kinesis, name), puts).total() == 0
    with pytest.raises(ProducerClosedError):
        producer.put("k", b"late")


def test_close_while_nothing_is_answered_ends_every_future(
    local_kinesis: str, stream: Streams
) -> None:
    name = stream()
    with proxied(local_kinesis) as proxy:
        control.add(proxy.url, name="ice", action="freeze", operation="PutRecords")
        producer = AggregatingProducer(
            kinesis_at(proxy.url), name, linger=0.01, max_aggregate_bytes=1000
        )
        puts = put_numbered(producer, range(500))
        eventually(lambda: proxy.status()["faults"]["by_name"]["ice"]["affected"])
        producer.close(deadline=0.2)
        assert {put.error and put.error.error_code for put in puts} == {"ProducerClosed"}
        control.thaw(proxy.url)
        # What was on the road when it was given up may be there, and counts as sent.
        assert max(len(put.attempts) for put in puts) == 1


def held_by_us() -> int:
    """The memory that the producer's own code has taken and not given back."""
    gc.collect()  # The SDK's exceptions hold on to each other, and to whom they were raised in.
    ours = tracemalloc.Filter(inclusive=True, filename_pattern="*/producers/*")
    statistics = tracemalloc.take_snapshot().filter_traces([ours]).statistics("filename")
    return sum(each.size for each in statistics)


class Hasty(random.Random):
    """No pause between two attempts, to have very many of them."""

    def uniform(self, a: float, _b: float) -> float:
        return a


@pytest.mark.parametrize("dead", ["from the start", "after the shards were listed"])
def test_memory_stays_flat_against_a_dead_endpoint(
    stack: Endpoints, stream: Streams, dead: str
) -> None:
    requests = Counter[str]()

    def tamper(operation: str, body: bytes, forward: Forward) -> Answer | None:
        requests["all"] += 1
        alive = dead != "from the start" and operation != "PutRecords"
        return forward(body) if alive else None

    with tampering(endpoint_of(stack), tamper) as url:
        producer = AggregatingProducer(
            client_of(url),
            stream(),
            linger=0,
            aggregation=False,
            max_buffered_records=20,
            max_in_flight=1,
            max_record_age=None,
            rate=1000.0,
            rng=Hasty(1),
        )

        def fill(puts: int) -> None:
            for n in range(puts):
                producer.put(f"key-{n}", b"x", timeout=0)

        with pytest.raises(BufferFullError):
            fill(21)
        tracemalloc.start()
        try:
            eventually(lambda: requests["all"] > 150)
            before, made = held_by_us(), requests["all"]
            for _ in range(500):
                with pytest.raises(BufferFullError):
                    fill(1)
            eventually(lambda: requests["all"] > made + 250)
            grown = held_by_us() - before
        finally:
            tracemalloc.stop()
            producer.close(deadline=0)
    # Each attempt that was remembered for each record would add 40 KiB for its place alone.
    assert grown < 16 * KIB


@pytest.mark.parametrize("bound", ["bytes", "records"])
def test_put_blocks_while_the_buffer_is_full_and_goes_on_when_there_is_room(
    kinesis: "KinesisClient", local_kinesis: str, stream: Streams, bound: str
) -> None:
    name = stream()
    most: Any = {"max_buffered_bytes": 1100} if bound == "bytes" else {"max_buffered_records": 10}
    with proxied(local_kinesis) as proxy:
        control.add(proxy.url, name="ice", action="freeze", operation="PutRecords")
        with AggregatingProducer(
            kinesis_at(proxy.url), name, linger=0, record_ids=False, **most
        ) as producer:
            for n in range(10):
                producer.put("k", b"%0100d" % n, timeout=10)
            with pytest.raises(BufferFullError):
                producer.put("k", b"%0100d" % 10, timeout=0.05)
            late: list[Future[PutResult]] = []
            blocked = threading.Thread(
                target=lambda: late.append(producer.put("k", b"%0100d" % 11, timeout=60))
            )
            blocked.start()
            eventually(lambda: control.status(proxy.url)["faults"]["by_name"]["ice"]["affected"])
            assert not late
            control.clear(proxy.url)
            blocked.join(60)
            assert late[0].result(60).shard_id
    users = [user.data for held in read_back(kinesis, name) for user in held.users()]
    assert sorted(users) == [*(b"%0100d" % n for n in range(10)), b"%0100d" % 11]


def test_one_poison_record_of_500_fails_alone(
    kinesis: "KinesisClient", local_kinesis: str, stream: Streams
) -> None:
    """Kinesis refuses the whole request, and does not say which record it is about."""
    name = stream(shards=4)
    with proxied(local_kinesis, quotas=True) as proxy:
        # The caller believes that the stream takes 2 MiB; it does not.
        with AggregatingProducer(
            kinesis_at(proxy.url), name, aggregation=False, max_record_bytes=2 * MIB
        ) as producer:
            puts = put_numbered(producer, range(250))
            poison = producer.put("poison", b"x" * MIB)
            puts += put_numbered(producer, range(250, 499))
            assert producer.flush(60)
        operations = proxy.status()["operations"]
    error = poison.exception(0)
    assert isinstance(error, DeliveryError)
    assert error.error_code in {"InvalidArgumentException", "ValidationException"}
    assert not error.retriable
    assert set(check_account(read_back(kinesis, name), puts).values()) == {1}
    assert not any(put.error for put in puts)
    # By halving: far fewer than one request for each of the innocent.
    assert operations["PutRecords"]["requests"] < 40


def test_one_poison_record_in_an_aggregate_fails_alone(
    kinesis: "KinesisClient", stack: Endpoints, stream: Streams
) -> None:
    name = stream(shards=2)
    requests = Counter[str]()

    def tamper(operation: str, body: bytes, forward: Forward) -> Answer:
        requests[operation] += 1
        if operation == "PutRecords" and b"poison" in payloads(body):
            return refused("ValidationException")
        return forward(body)

    with (
        tampering(endpoint_of(stack), tamper) as url,
        AggregatingProducer(client_of(url), name) as producer,
    ):
        puts = put_numbered(producer, range(200))
        poison = producer.put("key-1", b"poison")
        puts += put_numbered(producer, range(200, 500))
        assert producer.flush(60)
    error = poison.exception(0)
    assert isinstance(error, DeliveryError)
    assert (error.error_code, error.retriable) == ("ValidationException", False)
    assert set(check_account(read_back(kinesis, name), puts).values()) == {1}
    assert not any(put.error for put in puts)
    assert requests["PutRecords"] < 40
