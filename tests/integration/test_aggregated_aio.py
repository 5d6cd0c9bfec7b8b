"""`AsyncAggregatingProducer` against real engines: order, back-pressure, cancellation, loops."""

import asyncio
import gc
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from infra.stack.endpoints import Endpoints
from producers.aggregated import AggregatingProducer, PutResult
from producers.aggregated.aio import AsyncAggregatingProducer
from producers.errors import DeliveryError, ProducerClosedError
from records.dead_letter import DeadLetter
from records.errors import RecordError, RecordTooLarge
from records.limits import MIB
from tests.integration.aggregated_support import (
    Answer,
    Forward,
    all_failed,
    client_of,
    closed_port,
    endpoint_of,
    read_back,
    tampering,
)

if TYPE_CHECKING:
    from types_boto3_kinesis import KinesisClient

Streams = Callable[..., str]


@contextmanager
def gate(stack: Endpoints, held: str = "PutRecords") -> Iterator[tuple[str, threading.Event]]:
    """Hold every call of an operation before the engine until the event is set."""
    opened = threading.Event()

    def tamper(operation: str, body: bytes, forward: Forward) -> Answer:
        if operation == held:
            opened.wait(60)
        return forward(body)

    with tampering(endpoint_of(stack), tamper) as url:
        try:
            yield url, opened
        finally:
            opened.set()


def stored(kinesis: "KinesisClient", name: str) -> list[tuple[str, bytes]]:
    return [(u.partition_key, u.data) for held in read_back(kinesis, name) for u in held.users()]


def counted(producer: AggregatingProducer) -> list[None]:
    """Note every call of put; return the notes."""
    tries, put = list[None](), producer.put

    def noted(*args: Any, **named: Any) -> Any:
        tries.append(None)
        return put(*args, **named)

    producer.put = noted  # type: ignore[method-assign]
    return tries


async def turns(number: int) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


def test_ten_thousand_tasks_wake_the_loop_once_a_batch_and_each_gets_its_own_place(
    kinesis: "KinesisClient", stream: Streams
) -> None:
    name, wakes = stream(2), 0

    async def scenario() -> dict[str, PutResult]:
        loop = asyncio.get_running_loop()
        threadsafe = loop.call_soon_threadsafe

        def counted(*args: Any, **named: Any) -> asyncio.Handle:
            nonlocal wakes
            wakes += 1
            return threadsafe(*args, **named)

        loop.call_soon_threadsafe = counted  # type: ignore[method-assign]
        plain = AggregatingProducer(kinesis, name, record_ids=False)
        async with AsyncAggregatingProducer(plain) as producer, asyncio.TaskGroup() as group:
            tasks = {
                f"k{at}": group.create_task(producer.put(f"k{at}", b"%d" % at))
                for at in range(10_000)
            }
        return {key: task.result() for key, task in tasks.items()}

    results = asyncio.run(scenario())
    places = {}
    for held in read_back(kinesis, name):
        for sub, user in enumerate(held.users()):
            assert user.partition_key not in places
            assert user.data.decode() == user.partition_key[1:]
            places[user.partition_key] = (held.shard.shard_id, held.sequence_number, sub)
    assert {key: result[:3] for key, result in results.items()} == places
    assert len(places) == 10_000
    assert wakes < 1_000


def test_room_is_given_in_the_order_of_asking(kinesis: "KinesisClient", stream: Streams) -> None:
    name, taken = stream(), []

    async def ask(producer: AsyncAggregatingProducer, at: int) -> PutResult:
        future = await producer.submit("k", b"%d" % at)
        taken.append(at)
        return await future

    async def scenario() -> list[PutResult]:
        plain = AggregatingProducer(
            kinesis, name, ordered=True, record_ids=False, linger=0, max_buffered_records=7
        )
        async with AsyncAggregatingProducer(plain) as producer:
            return await asyncio.gather(*(ask(producer, at) for at in range(300)))

    assert len(asyncio.run(scenario())) == 300
    assert taken == list(range(300))
    assert stored(kinesis, name) == [("k", b"%d" % at) for at in range(300)]


def test_a_late_asker_does_not_overtake_those_who_wait(
    stack: Endpoints, kinesis: "KinesisClient", stream: Streams
) -> None:
    name = stream()

    async def scenario(url: str, opened: threading.Event) -> list[str]:
        order: list[str] = []
        plain = AggregatingProducer(client_of(url), name, linger=0, max_buffered_bytes=1_000)
        async with AsyncAggregatingProducer(plain) as producer:

            async def ask(key: str, size: int) -> None:
                await producer.submit(key, bytes(size))
                order.append(key)

            await ask("first", 600)
            big = asyncio.create_task(ask("big", 900))
            await turns(5)
            small = asyncio.create_task(ask("small", 1))  # It would fit.
            await turns(50)
            assert order == ["first"]
            opened.set()
            await asyncio.gather(big, small)
        return order

    with gate(stack) as (url, opened):
        assert asyncio.run(scenario(url, opened)) == ["first", "big", "small"]
    assert {key for key, _ in stored(kinesis, name)} == {"first", "big", "small"}


def test_while_a_record_is_too_big_for_the_room_there_is_the_loop_sleeps(
    stack: Endpoints, stream: Streams
) -> None:
    name = stream()

    async def scenario(url: str, opened: threading.Event) -> None:
        plain = AggregatingProducer(client_of(url), name, linger=0, max_buffered_bytes=1_000)
        tries = counted(plain)
        async with AsyncAggregatingProducer(plain) as producer:
            await producer.submit("k", bytes(600))
            waits = asyncio.create_task(producer.submit("k", bytes(600)))
            await turns(200)
            assert len(tries) <= 3
            opened.set()
            assert (await (await waits)).shard_id

    with gate(stack) as (url, opened):
        asyncio.run(scenario(url, opened))


def test_while_it_is_not_known_whether_the_stream_takes_so_large_a_record_the_loop_sleeps(
    stack: Endpoints, stream: Streams
) -> None:
    name = stream()

    async def scenario(url: str, opened: threading.Event) -> None:
        plain = AggregatingProducer(client_of(url), name)
        tries = counted(plain)
        async with AsyncAggregatingProducer(plain) as producer:
            waits = asyncio.create_task(producer.put("k", bytes(2 * MIB)))
            await turns(200)
            assert len(tries) <= 2
            opened.set()
            with pytest.raises(RecordTooLarge):
                await waits

    with gate(stack, "ListShards") as (url, opened):
        asyncio.run(scenario(url, opened))


def test_a_put_cancelled_while_it_waits_was_not_taken_and_holds_nobody_up(
    stack: Endpoints, kinesis: "KinesisClient", stream: Streams
) -> None:
    name = stream()

    async def scenario(url: str, opened: threading.Event) -> None:
        plain = AggregatingProducer(
            client_of(url), name, linger=0, max_buffered_records=1, record_ids=False
        )
        async with AsyncAggregatingProducer(plain) as producer:
            await producer.submit("k", b"taken")
            patient = [asyncio.create_task(producer.put("k", b"patient-1"))]
            await turns(2)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await producer.put("k", b"cancelled")
            patient.append(asyncio.create_task(producer.put("k", b"patient-2")))
            await turns(2)
            assert len(producer._waiting) == 2
            patient.pop(0).cancel()  # The first in the queue, for whom room was asked.
            await turns(2)
            opened.set()
            assert (await patient[0]).shard_id
            assert not producer._waiting

    with gate(stack) as (url, opened):
        asyncio.run(scenario(url, opened))
    assert stored(kinesis, name) == [("k", b"taken"), ("k", b"patient-2")]


def test_a_put_cancelled_after_it_was_taken_is_delivered(
    stack: Endpoints, kinesis: "KinesisClient", stream: Streams
) -> None:
    name = stream()

    async def scenario(url: str, opened: threading.Event) -> None:
        plain = AggregatingProducer(client_of(url), name, linger=0, record_ids=False)
        async with AsyncAggregatingProducer(plain) as producer:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await producer.put("k", b"taken")
            future = await producer.submit("k", b"future")
            assert future.cancel()
            opened.set()
            assert await producer.flush(30)
            await turns(5)
            assert not producer._ended

    with gate(stack) as (url, opened):
        asyncio.run(scenario(url, opened))
    assert sorted(stored(kinesis, name)) == [("k", b"future"), ("k", b"taken")]


def test_a_record_that_kinesis_would_refuse_fails_alone_even_if_it_had_to_wait(
    stack: Endpoints, stream: Streams
) -> None:
    name = stream()

    async def scenario(url: str, opened: threading.Event) -> None:
        plain = AggregatingProducer(client_of(url), name, linger=0, max_buffered_records=1)
        async with AsyncAggregatingProducer(plain) as producer:
            await producer.submit("k", b"taken")
            bad = asyncio.create_task(producer.put("", b"no key"))
            good = asyncio.create_task(producer.put("k", b"good"))
            await turns(5)
            opened.set()
            with pytest.raises(RecordError):
                await bad
            assert (await good).shard_id

    with gate(stack) as (url, opened):
        asyncio.run(scenario(url, opened))


def test_after_a_flush_every_answer_is_there(kinesis: "KinesisClient", stream: Streams) -> None:
    name = stream()

    async def scenario() -> None:
        plain = AggregatingProducer(kinesis, name, linger=600)
        async with AsyncAggregatingProducer(plain) as producer:
            await producer.put("k", b"first")
            for _ in range(20):
                futures = [await producer.submit(f"k{at}", b"x") for at in range(700)]
                assert not any(future.done() for future in futures)
                assert await producer.flush(30)
                assert all(future.done() for future in futures)

    asyncio.run(scenario())


def test_a_flush_that_is_cancelled_keeps_no_loop_from_ending(
    stack: Endpoints, stream: Streams
) -> None:
    name = stream()

    async def scenario(url: str) -> tuple[AggregatingProducer, bool]:
        plain = AggregatingProducer(client_of(url), name, linger=0, max_record_age=None)
        producer = AsyncAggregatingProducer(plain)
        await producer.submit("k", b"x")
        in_time = await producer.flush(0.01)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await producer.flush()
        return plain, in_time

    with gate(stack) as (url, opened):
        plain, in_time = asyncio.run(scenario(url))
        assert not in_time
        assert not opened.is_set()
        opened.set()
        plain.close()


@pytest.mark.filterwarnings("error")
def test_close_under_full_throttle_ends_every_answer_and_turns_away_those_who_wait(
    stack: Endpoints, stream: Streams
) -> None:
    name, letters = stream(), list[DeadLetter]()

    def tamper(operation: str, body: bytes, forward: Forward) -> Answer:
        return all_failed(body) if operation == "PutRecords" else forward(body)

    async def scenario(url: str) -> Counter[str]:
        plain = AggregatingProducer(
            client_of(url), name, linger=0, max_buffered_records=50, on_dead_letter=letters.append
        )
        producer = AsyncAggregatingProducer(plain)
        puts = [asyncio.create_task(producer.put(f"k{at}", b"x")) for at in range(80)]
        await turns(10)
        await producer.close(deadline=0.3)
        ends = await asyncio.gather(*puts, return_exceptions=True)
        with pytest.raises(ProducerClosedError):
            await producer.put("k", b"late")
        return Counter(type(end).__name__ for end in ends)

    with tampering(endpoint_of(stack), tamper) as url:
        ends = asyncio.run(scenario(url))
    assert ends == {DeliveryError.__name__: 50, ProducerClosedError.__name__: 30}
    assert len(letters) == 50


def test_asyncio_complains_only_of_futures_that_the_caller_dropped() -> None:
    complaints: list[str] = []

    async def scenario() -> None:
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: complaints.append(context["message"])
        )
        plain = AggregatingProducer(client_of(closed_port()), "any", max_record_age=0.1)
        async with AsyncAggregatingProducer(plain) as producer:
            dropped = await producer.submit("k", b"dropped")
            awaited = asyncio.create_task(producer.put("k", b"awaited"))
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0):
                    await producer.put("k", b"cancelled")
            with pytest.raises(DeliveryError):
                await awaited
            await producer.flush()
        assert dropped.done()
        del dropped, awaited
        gc.collect()

    asyncio.run(scenario())
    assert complaints == ["Future exception was never retrieved"]


def test_one_producer_serves_one_loop_after_the_other_and_outlives_those_that_end_early(
    kinesis: "KinesisClient", stream: Streams, caplog: pytest.LogCaptureFixture
) -> None:
    name = stream()

    async def drop(plain: AggregatingProducer, at: int) -> None:
        await AsyncAggregatingProducer(plain).submit("k", b"dropped-%d" % at)

    async def handler(plain: AggregatingProducer, at: int) -> PutResult:
        return await AsyncAggregatingProducer(plain).put("k", b"%d" % at)

    with (
        caplog.at_level(logging.WARNING),
        AggregatingProducer(kinesis, name, record_ids=False, linger=0.2) as plain,
    ):
        for at in range(3):
            asyncio.run(drop(plain, at))
            assert asyncio.run(handler(plain, at)).shard_id
    assert not caplog.records
    expected = Counter(data for at in range(3) for data in (b"dropped-%d" % at, b"%d" % at))
    assert Counter(data for _, data in stored(kinesis, name)) == expected


def test_a_front_is_of_one_loop(kinesis: "KinesisClient", stream: Streams) -> None:
    async def front(plain: AggregatingProducer) -> AsyncAggregatingProducer:
        return AsyncAggregatingProducer(plain)

    name = stream()
    with AggregatingProducer(kinesis, name) as plain:
        with pytest.raises(RuntimeError, match="no running event loop"):
            AsyncAggregatingProducer(plain)
        producer = asyncio.run(front(plain))
        with pytest.raises(RuntimeError, match="another event loop"):
            asyncio.run(producer.put("k", b"x"))
    assert not stored(kinesis, name)
