"""What is known of the streams: asked for once, kept for a while, asked for again on a change."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from multidict import CIMultiDict

from infra.proxy.exchange import Incoming
from infra.proxy.messages import Call, Identity, Service
from infra.proxy.streams import _KEPT_STREAMS, Streams, list_all_shards, stream_of
from infra.proxy.upstream import UpstreamError
from records.limits import MAX_HASH_KEY, MIB

ME = Identity("000000000000", "eu-west-1")
CALL = Call(
    Service.KINESIS,
    "PutRecords",
    "application/x-amz-json-1.1",
    ME,
    Incoming("POST", "/", CIMultiDict(), b"", "127.0.0.1"),
)


def shard(number: int) -> dict[str, Any]:
    return {
        "ShardId": f"shardId-{number:012}",
        "HashKeyRange": {"StartingHashKey": "0", "EndingHashKey": str(MAX_HASH_KEY)},
        "SequenceNumberRange": {"StartingSequenceNumber": "1"},
    }


@dataclass
class Engine:
    """One that has a stream of one shard, and counts how often it is asked for it."""

    now: float = 100.0
    shard: int = 0
    kib: int | None = None
    error: UpstreamError | None = None
    asked: int = 0
    held: asyncio.Event | None = None
    waiting: asyncio.Event = field(default_factory=asyncio.Event)

    def clock(self) -> float:
        return self.now

    async def ask(self, call: Call, operation: str, parameters: dict[str, Any]) -> dict[str, Any]:
        assert (call, parameters) == (CALL, {"StreamName": "orders"})
        if self.error is not None:
            self.asked += operation == "DescribeStreamSummary"
            raise self.error
        if operation == "DescribeStreamSummary":
            size = {} if self.kib is None else {"MaxRecordSizeInKiB": self.kib}
            return {"StreamDescriptionSummary": size}
        self.asked += 1
        answer = {"Shards": [shard(self.shard)]}
        self.waiting.set()
        if self.held is not None:
            await self.held.wait()
        return answer

    def streams(self) -> Streams:
        return Streams(self.clock, self.ask)


async def shard_of(streams: Streams) -> str:
    view = await streams.view(CALL, "orders")
    assert view is not None
    return view.shards.open_shards[0].shard_id[-1]


def test_a_view_has_the_shards_and_the_largest_record():
    async def scenario() -> None:
        for kib, size in ((None, MIB), (2048, 2 * MIB)):
            view = await Engine(kib=kib).streams().view(CALL, "orders")
            assert view is not None
            assert view.max_record_bytes == size
            assert [s.shard_id for s in view.shards.open_shards] == ["shardId-000000000000"]

    asyncio.run(scenario())


def test_it_is_kept_for_five_seconds():
    async def scenario() -> None:
        engine = Engine()
        streams = engine.streams()
        for now, asked in ((100.0, 1), (104.9, 1), (105.0, 2), (109.9, 2)):
            engine.now = now
            await shard_of(streams)
            assert engine.asked == asked

    asyncio.run(scenario())


def test_those_who_want_it_at_once_ask_once():
    async def scenario() -> None:
        engine = Engine()
        streams = engine.streams()
        assert await asyncio.gather(*[shard_of(streams) for _ in range(20)]) == ["0"] * 20
        assert engine.asked == 1

    asyncio.run(scenario())


def test_one_who_leaves_while_asking_holds_nobody_up():
    async def scenario() -> None:
        engine = Engine(held=asyncio.Event())
        streams = engine.streams()
        leaving = asyncio.create_task(shard_of(streams))
        await engine.waiting.wait()
        staying = asyncio.create_task(shard_of(streams))
        leaving.cancel()
        engine.held = None
        assert await asyncio.wait_for(staying, 10) == "0"

    asyncio.run(scenario())


def test_what_is_forgotten_is_asked_for_again():
    async def scenario() -> None:
        engine = Engine()
        streams = engine.streams()
        await shard_of(streams)
        engine.shard = 1
        streams.forget(Identity("111122223333", ME.region), "orders")
        streams.forget(ME, "others")
        assert await shard_of(streams) == "0"
        streams.forget(ME, "orders")
        assert await shard_of(streams) == "1"

    asyncio.run(scenario())


@pytest.mark.parametrize("how", ["forget", "changed"])
def test_an_answer_from_before_a_change_is_not_kept(how: str):
    async def scenario() -> None:
        engine = Engine(held=asyncio.Event())
        streams = engine.streams()
        asking = asyncio.create_task(shard_of(streams))
        await engine.waiting.wait()
        engine.shard = 1
        getattr(streams, how)(ME, "orders")
        assert engine.held is not None
        engine.held.set()
        assert await asking == "0"
        assert await shard_of(streams) == "1"

    asyncio.run(scenario())


@pytest.mark.parametrize("used", [True, False])
def test_after_a_reshard_began_it_is_asked_for_at_almost_every_call(used: bool):  # noqa: FBT001 - a parameter
    async def scenario() -> None:
        engine = Engine()
        streams = engine.streams()
        if used:
            await shard_of(streams)
        streams.changed(ME, "orders")
        assert await shard_of(streams) == "0"  # accepted, and not carried out yet
        engine.shard = 1
        engine.now += 0.0625
        assert await shard_of(streams) == "1"
        engine.now += 10
        await shard_of(streams)
        engine.shard = 2
        engine.now += 0.0625
        assert await shard_of(streams) == "1", "ten seconds later all is as usual"

    asyncio.run(scenario())


def test_a_stream_that_is_missing_is_soon_looked_for_again():
    async def scenario() -> None:
        engine = Engine(error=UpstreamError("ResourceNotFoundException", "no", 400))
        streams = engine.streams()
        assert [await streams.view(CALL, "orders") for _ in range(5)] == [None] * 5
        assert engine.asked == 1
        engine.error = None
        engine.now += 0.0625
        assert await shard_of(streams) == "0"

    asyncio.run(scenario())


def test_another_error_is_the_caller_s_and_is_not_kept():
    async def scenario() -> None:
        engine = Engine(error=UpstreamError("ServiceUnavailable", "no", 502))
        streams = engine.streams()
        for _ in range(2):
            with pytest.raises(UpstreamError):
                await streams.view(CALL, "orders")
        engine.error = None
        assert await shard_of(streams) == "0"

    asyncio.run(scenario())


def test_what_is_kept_is_bounded():
    async def scenario() -> None:
        streams = Engine().streams()
        for number in range(_KEPT_STREAMS + 10):
            streams.changed(ME, str(number))
        await shard_of(streams)
        assert len(streams._known) == _KEPT_STREAMS

    asyncio.run(scenario())


def pages(*answers: dict[str, Any]) -> tuple[Callable[..., Any], list[dict[str, Any]]]:
    """An engine that answers these, and the last one for ever."""
    asked: list[dict[str, Any]] = []

    async def ask(_call: Call, operation: str, parameters: dict[str, Any]) -> dict[str, Any]:
        assert operation == "ListShards"
        asked.append(parameters)
        assert len(asked) <= 10, "it does not end"
        return answers[min(len(asked), len(answers)) - 1]

    return ask, asked


def test_shards_are_listed_over_all_pages():
    ask, asked = pages(
        {"Shards": [shard(0), shard(1)], "NextToken": "t"}, {"Shards": [shard(2)], "NextToken": ""}
    )
    shards = asyncio.run(list_all_shards(ask, CALL, {"StreamName": "orders"}))
    assert shards == [shard(0), shard(1), shard(2)]
    assert asked == [{"StreamName": "orders"}, {"NextToken": "t"}]


def test_a_list_that_turns_in_a_circle_ends():
    ask, _ = pages({"Shards": [shard(0)], "NextToken": "t"})
    assert asyncio.run(list_all_shards(ask, CALL, {"StreamName": "orders"})) == [shard(0)]


ARN = "arn:aws:kinesis:eu-west-1:000000000000:stream/orders"


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        ({"StreamName": "orders"}, "orders"),
        ({"StreamName": "orders", "StreamARN": ARN + "2"}, "orders"),
        ({"StreamARN": ARN}, "orders"),
        ({"ConsumerARN": ARN + "/consumer/app:1583284230"}, "orders"),
        ({"StreamName": "", "StreamARN": ARN}, "orders"),
        ({"StreamName": 7}, None),
        ({"StreamARN": "orders"}, None),
        ({}, None),
    ],
)
def test_a_call_names_its_stream(parameters: dict[str, Any], name: str | None):
    assert stream_of(parameters) == name


def test_calls_that_wait_together_do_not_ask_a_slow_engine_one_after_the_other():
    async def scenario() -> None:
        engine = Engine()

        async def slowly(call: Call, operation: str, parameters: dict[str, Any]) -> dict[str, Any]:
            engine.now += 0.5
            await asyncio.sleep(0)
            return await engine.ask(call, operation, parameters)

        streams = Streams(engine.clock, slowly)
        streams.changed(ME, "orders")
        await asyncio.gather(*(streams.view(CALL, "orders") for _ in range(6)))
        # The first was asked before the others came, the second one after.
        assert engine.asked <= 2

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "answers",
    [
        {"DescribeStreamSummary": {}, "ListShards": {"Shards": []}},
        {"DescribeStreamSummary": {"StreamDescriptionSummary": {}}, "ListShards": {}},
        {"DescribeStreamSummary": {"StreamDescriptionSummary": {}}, "ListShards": {"Shards": [{}]}},
    ],
)
def test_a_description_that_nobody_understands_is_the_upstreams_fault(answers: dict[str, Any]):
    async def ask(_call: Call, operation: str, _parameters: dict[str, Any]) -> dict[str, Any]:
        answer: dict[str, Any] = answers[operation]
        return answer

    with pytest.raises(UpstreamError, match="nobody understands") as caught:
        asyncio.run(Streams(lambda: 0.0, ask).view(CALL, "orders"))
    assert caught.value.status == 502


def test_a_filtered_list_goes_on_without_a_token():
    ask, asked = pages({"Shards": [shard(0)], "NextToken": "t"}, {"Shards": [shard(1)]})
    at = {"Type": "AT_TIMESTAMP", "Timestamp": 1}
    shards = asyncio.run(list_all_shards(ask, CALL, {"StreamName": "orders"}, at))
    assert shards == [shard(0), shard(1)]
    first = {"StreamName": "orders", "ShardFilter": at}
    assert asked == [first, {**first, "ExclusiveStartShardId": "shardId-000000000000"}]
