"""`AsyncAggregatingProducer` against real engines: order, back-pressure, cancellation."""

import asyncio
import threading
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from infra.stack.endpoints import Endpoints
from producers.aggregated import AggregatingProducer, PutResult
from producers.aggregated.aio import AsyncAggregatingProducer
from producers.errors import DeliveryError, ProducerClosedError
from records.dead_letter import DeadLetter
from records.errors import RecordError, RecordTooLarge
from records.limits import MIB
from tests.integration.aggregated_aio_support import asked_for_room, counted, gate, stored, turns
from tests.integration.aggregated_support import (
    Answer,
    Forward,
    all_failed,
    client_of,
    endpoint_of,
    read_back,
    tampering,
)

if TYPE_CHECKING:
    from types_boto3_kinesis import KinesisClient

Streams = Callable[..., str]


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


@pytest.mark.parametrize(("room", "records"), [(7, 300), (1_200, 3_000)])
def test_room_is_given_in_the_order_of_asking(
    kinesis: "KinesisClient", stream: Streams, room: int, records: int
) -> None:
    name, taken = stream(), []

    async def ask(producer: AsyncAggregatingProducer, at: int) -> PutResult:
        future = await producer.submit("k", b"%d" % at)
        taken.append(at)
        return await future

    async def scenario() -> list[PutResult]:
        plain = AggregatingProducer(
            kinesis, name, ordered=True, record_ids=False, linger=0, max_buffered_records=room
        )
        async with AsyncAggregatingProducer(plain) as producer:
            return await asyncio.gather(*(ask(producer, at) for at in range(records)))

    assert len(asyncio.run(scenario())) == records
    assert taken == list(range(records))
    assert stored(kinesis, name) == [("k", b"%d" % at) for at in range(records)]


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


def test_a_put_cancelled_just_as_there_is_room_was_not_taken_and_holds_nobody_up(
    stack: Endpoints, kinesis: "KinesisClient", stream: Streams
) -> None:
    name = stream()

    async def scenario(url: str, opened: threading.Event) -> None:
        plain = AggregatingProducer(
            client_of(url), name, linger=0, max_buffered_records=1, record_ids=False
        )
        _, told = asked_for_room(plain)
        async with AsyncAggregatingProducer(plain) as producer:
            await producer.submit("k", b"taken")
            cancelled, *puts = [
                asyncio.create_task(producer.put("k", b"put-%d" % at)) for at in range(3)
            ]
            await turns(2)
            opened.set()
            assert plain.flush(60)  # The loop is busy meanwhile, and so are its tasks.
            assert told.wait(60)
            cancelled.cancel()  # The room is given before its task has a turn.
            assert all(end.shard_id for end in await asyncio.gather(*puts))
            assert (await producer.put("k", b"after")).shard_id
            assert not producer._waiting

    with gate(stack) as (url, opened):
        asyncio.run(scenario(url, opened))
    expected = [b"taken", b"put-1", b"put-2", b"after"]
    assert [data for _, data in stored(kinesis, name)] == expected


def test_when_the_first_gives_up_those_behind_it_do_not_wait_for_the_room_it_needed(
    stack: Endpoints, stream: Streams
) -> None:
    name = stream()

    async def scenario(url: str, opened: threading.Event) -> None:
        plain = AggregatingProducer(client_of(url), name, linger=0, max_buffered_bytes=1_000)
        asks, _ = asked_for_room(plain)
        async with AsyncAggregatingProducer(plain) as producer:
            opened.set()
            await producer.put("k", b"x")  # Now the shards are known: no answer comes from here on.
            opened.clear()
            await producer.submit("k", bytes(600))
            big = [asyncio.create_task(producer.put("k", bytes(900))) for _ in range(50)]
            small = asyncio.create_task(producer.submit("k", b"x"))
            await turns(2)
            for each in big:
                each.cancel()
                await turns(2)
            answer = await small
            assert not opened.is_set()
            assert len(asks) < 10, "those who give up ask for nothing"
            opened.set()
            assert (await answer).shard_id

    with gate(stack) as (url, opened):
        asyncio.run(scenario(url, opened))


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
