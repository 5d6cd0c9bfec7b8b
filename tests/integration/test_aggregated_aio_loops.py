"""`AsyncAggregatingProducer` and event loops: one after the other, and what they complain of."""

import asyncio
import gc
import logging
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import pytest

from infra.stack.endpoints import Endpoints
from producers.aggregated import AggregatingProducer, PutResult
from producers.aggregated.aio import AsyncAggregatingProducer
from producers.errors import DeliveryError
from tests.integration.aggregated_aio_support import gate, stored, turns
from tests.integration.aggregated_support import (
    client_of,
    closed_port,
)

if TYPE_CHECKING:
    from types_boto3_kinesis import KinesisClient

Streams = Callable[..., str]


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


def complaints_of(scenario: Callable[[AsyncAggregatingProducer], Coroutine[Any, Any, None]]) -> int:
    """Return how many errors asyncio logs because nobody looked at them; all records fail."""
    complaints: list[str] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: complaints.append(context["message"])
        )
        plain = AggregatingProducer(
            client_of(closed_port()), "any", max_record_age=0.1, max_buffered_records=1
        )
        async with AsyncAggregatingProducer(plain) as producer:
            await scenario(producer)
        gc.collect()

    asyncio.run(main())
    assert set(complaints) <= {"Future exception was never retrieved"}
    return len(complaints)


def test_asyncio_complains_of_a_failed_record_only_if_the_caller_dropped_its_future() -> None:
    async def drop(producer: AsyncAggregatingProducer) -> None:
        await producer.submit("k", b"x")
        await producer.flush()

    async def look(producer: AsyncAggregatingProducer) -> None:
        with pytest.raises(DeliveryError):
            await producer.put("k", b"x")

    async def cancel(producer: AsyncAggregatingProducer) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await producer.put("k", b"x")
        await producer.flush()

    async def cancel_just_as_it_is_taken(producer: AsyncAggregatingProducer) -> None:
        first = asyncio.create_task(producer.put("k", b"x"))
        await turns(2)
        waits, take = asyncio.create_task(producer.submit("k", b"x")), producer._take
        loop = asyncio.get_running_loop()

        def take_and_cancel(asked: Any) -> "asyncio.Future[PutResult]":
            answer = take(asked)
            loop.call_soon(waits.cancel)  # Before its task hears that it was taken.
            return answer

        await turns(2)
        producer._take = take_and_cancel  # type: ignore[method-assign]
        await asyncio.wait([first, waits])
        assert first.exception()
        assert waits.cancelled()
        assert not producer._waiting
        assert len(producer._answers) == 1
        await producer.flush()

    cases = (drop, look, cancel, cancel_just_as_it_is_taken)
    assert [complaints_of(case) for case in cases] == [1, 0, 0, 0]


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
