import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from cbor2 import CBORTag
from multidict import CIMultiDict

from infra.proxy.corrections import subscription
from infra.proxy.corrections.event_stream import Frame, Frames, encode
from infra.proxy.corrections.names import (
    ALL,
    CBOR_TYPES,
    SUBSCRIBE_CHILD_SHARDS,
    SUBSCRIBE_INITIAL_RESPONSE,
)
from infra.proxy.corrections.subscription import corrected
from infra.proxy.desk import Tally
from infra.proxy.exchange import Incoming
from infra.proxy.messages import Call, Identity, Service, decode
from infra.proxy.messages import encode as encode_body
from infra.proxy.upstream import UpstreamError

JSON, CBOR = "application/x-amz-json-1.1", "application/x-amz-cbor-1.1"
CHILDREN = [{"ShardId": "b", "ParentShards": ["a"], "HashKeyRange": {"StartingHashKey": "0"}}]
ARN = "arn:aws:kinesis:us-east-1:000000000000:stream/orders/consumer/c:1"

Desk = Any  # what `Engine` stands in for


@dataclass
class Engine:
    """A desk whose upstream has one shard with some records, perhaps closed.

    Every iterator is the number after which it reads.
    """

    numbers: list[int] = field(default_factory=list)
    closed: bool = False
    children: bool = True
    corrections: frozenset[str] = frozenset(ALL)
    failing: bool = False
    tally: Tally = field(default_factory=Tally)
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    looked: asyncio.Event = field(default_factory=asyncio.Event)

    async def ask(self, _call: Call, operation: str, parameters: dict[str, Any]) -> dict[str, Any]:
        self.asked.append((operation, parameters))
        if self.failing:
            raise UpstreamError("InternalFailure", "out of order", 500)
        if operation == "GetShardIterator":
            assert (parameters["StreamName"], parameters["ShardId"]) == ("orders", "a")
            match parameters["ShardIteratorType"]:
                case "TRIM_HORIZON":
                    return {"ShardIterator": "0"}
                case "LATEST":
                    return {"ShardIterator": str(max(self.numbers, default=0))}
                case "AFTER_SEQUENCE_NUMBER":
                    return {"ShardIterator": parameters["StartingSequenceNumber"]}
        if operation == "ListShards":
            child = {"ShardId": "b", "ParentShardId": "a", "HashKeyRange": {"StartingHashKey": "0"}}
            return {"Shards": [{"ShardId": "a", "HashKeyRange": {}}, child]}
        assert operation == "GetRecords"
        self.looked.set()
        rest = [n for n in self.numbers if n > int(parameters["ShardIterator"])]
        answer: dict[str, Any] = {"Records": [{"SequenceNumber": str(n)} for n in rest[:1]]}
        if len(rest) > 1 or not self.closed:
            answer["NextShardIterator"] = str(rest[0]) if rest else parameters["ShardIterator"]
        elif self.children:
            answer["ChildShards"] = CHILDREN
        return answer


def call_for(content_type: str = JSON, start: str = "TRIM_HORIZON") -> Call:
    parameters = {"ConsumerARN": ARN, "ShardId": "a", "StartingPosition": {"Type": start}}
    body = encode_body(parameters, cbor=content_type == CBOR)
    incoming = Incoming("POST", "/", CIMultiDict(), body, "test")
    return Call(Service.KINESIS, "SubscribeToShard", content_type, Identity("", ""), incoming)


def event(*numbers: int, **members: Any) -> bytes:
    """Return an event as kinesis-mock sends it: JSON for every call."""
    records = [
        {"SequenceNumber": str(n), "Data": "aGk=", "ApproximateArrivalTimestamp": 1795566752.287}
        for n in numbers
    ]
    value = {"Records": records, "MillisBehindLatest": 0, "ChildShards": None} | members
    headers = {":message-type": "event", ":event-type": "SubscribeToShardEvent"}
    return encode(headers | {":content-type": "application/json"}, json.dumps(value).encode())


INITIAL = encode({":event-type": "initial-response", ":message-type": "event"}, b"")
EXCEPTION = encode({":message-type": "exception", ":exception-type": "InternalFailure"}, b"{}")


async def arriving(
    *pieces: bytes, error: Exception | None = None, for_ever: bool = False
) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece
    if error is not None:
        raise error
    if for_ever:
        await asyncio.Event().wait()


def run(chunks: AsyncIterator[bytes], desk: Desk, call: Call | None = None) -> bytes:
    async def scenario() -> bytes:
        return b"".join([p async for p in corrected(chunks, call=call or call_for(), desk=desk)])

    return asyncio.run(scenario())


def frames(data: bytes) -> list[Frame]:
    reader = Frames()
    read = list(reader.feed(data))
    assert reader.take_rest() == b""
    return read


def values(data: bytes, *, cbor: bool = False) -> list[dict[str, Any]]:
    return [
        decode(frame.payload, cbor=cbor)
        for frame in frames(data)
        if frame.headers.get(":event-type") == "SubscribeToShardEvent"
    ]


def only(*names: str) -> frozenset[str]:
    return frozenset(names)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscription, "_LOOK_SECONDS", 0.01)


def test_without_corrections_every_byte_is_the_upstreams() -> None:
    desk = Engine(numbers=[1], closed=True, corrections=frozenset())
    for end in (b"", b"no frame at all", event()[:20]):
        data = INITIAL + event(1) + EXCEPTION + end
        assert run(arriving(data[:30], data[30:]), desk) == data
    assert desk.asked == []


@pytest.mark.parametrize("sent", [(event(1),), (INITIAL, event(1)), ()])
@pytest.mark.parametrize("content_type", [JSON, CBOR])
def test_there_is_one_initial_event_and_it_is_first(
    sent: tuple[bytes, ...], content_type: str
) -> None:
    desk = Engine(corrections=only(SUBSCRIBE_INITIAL_RESPONSE))
    first, *others = frames(run(arriving(*sent), desk, call_for(content_type)))
    assert first.headers[":event-type"] == "initial-response"
    assert first.headers[":content-type"] == content_type
    assert decode(first.payload, cbor=content_type == CBOR) == {}
    assert [frame.raw for frame in others] == [raw for raw in sent if raw != INITIAL]
    assert desk.tally.corrected == {SUBSCRIBE_INITIAL_RESPONSE: 1}


def test_the_initial_event_does_not_wait_for_the_upstream() -> None:
    async def scenario() -> bytes:
        stream = corrected(arriving(for_ever=True), call=call_for(), desk=Engine())
        first = await asyncio.wait_for(anext(stream), 10)
        await stream.aclose()
        return first

    assert frames(asyncio.run(scenario()))[0].headers[":event-type"] == "initial-response"


@pytest.mark.parametrize("step", [1, 7, 100_000])
def test_the_end_of_a_drained_shard_is_told_once(step: int) -> None:
    data = INITIAL + event(1, 2) + event(3) + event()
    pieces = [data[at : at + step] for at in range(0, len(data), step)]
    desk = Engine(numbers=[1, 2, 3], closed=True)
    sent = values(run(arriving(*pieces, for_ever=True), desk))
    assert [len(value["Records"]) for value in sent] == [2, 1, 0, 0]
    assert sent[-1] == {"Records": [], "MillisBehindLatest": 0, "ChildShards": CHILDREN}
    assert not any(value["ChildShards"] for value in sent[:-1])
    assert desk.tally.corrected[SUBSCRIBE_CHILD_SHARDS] == 1


def test_no_end_is_told_before_the_last_record() -> None:
    # Record 3 is on the shard, and the upstream is slow to send it.
    desk = Engine(numbers=[1, 2, 3], closed=True)
    sent = values(run(arriving(event(1, 2), event(), event(), event(3), event()), desk))
    assert [[int(r["SequenceNumber"]) for r in value["Records"]] for value in sent] == [
        *([1, 2], [], [], [3]),
        *([], []),
    ]
    assert sent[-1]["ChildShards"] == CHILDREN


def test_no_end_is_told_of_an_open_shard() -> None:
    desk = Engine(numbers=[1])
    sent = values(run(arriving(event(1), event(), event()), desk))
    assert len(sent) == 3
    assert not any(value["ChildShards"] for value in sent)


@pytest.mark.usefixtures("quick")
def test_a_silent_upstream_is_asked_too() -> None:
    desk = Engine(numbers=[1], closed=True)
    sent = values(run(arriving(event(1), for_ever=True), desk))
    assert sent[-1]["ChildShards"] == CHILDREN


@pytest.mark.usefixtures("quick")
def test_latest_is_the_end_of_the_shard_when_the_subscription_began() -> None:
    desk = Engine(numbers=[1, 2])

    async def late() -> AsyncIterator[bytes]:
        desk.numbers.append(3)
        desk.closed = True
        desk.looked.clear()
        await desk.looked.wait()  # it was asked while the record was on its way
        yield event(3)
        await asyncio.Event().wait()

    sent = values(run(late(), desk, call_for(start="LATEST")))
    assert [len(value["Records"]) for value in sent] == [1, 0]
    assert sent[-1]["ChildShards"] == CHILDREN


def test_the_children_come_from_the_list_when_get_records_does_not_name_them() -> None:
    desk = Engine(closed=True, children=False)
    assert values(run(arriving(event()), desk))[-1]["ChildShards"] == CHILDREN


def test_an_upstream_that_says_it_itself_is_not_repeated() -> None:
    desk = Engine(numbers=[1], closed=True)
    sent = values(run(arriving(event(1), event(ChildShards=CHILDREN), event()), desk))
    assert [bool(value["ChildShards"]) for value in sent] == [False, True, False]


def test_an_upstream_that_breaks_off_at_the_end_of_the_shard_has_ended_well() -> None:
    broken = UpstreamError("ServiceUnavailable", "broke off", 502)
    desk = Engine(numbers=[1], closed=True)
    assert values(run(arriving(event(1), error=broken), desk))[-1]["ChildShards"] == CHILDREN
    for other in (Engine(numbers=[1, 2], closed=True), Engine(numbers=[1])):
        with pytest.raises(UpstreamError, match="broke off"):
            run(arriving(event(1), error=broken), other)


def test_an_upstream_that_cannot_be_asked_loses_nothing() -> None:
    desk = Engine(numbers=[1], closed=True, failing=True)
    assert [len(value["Records"]) for value in values(run(arriving(event(1), event()), desk))] == [
        1,
        0,
    ]


def test_events_of_cbor_calls_become_cbor() -> None:
    desk = Engine(numbers=[7], closed=True)
    data = run(arriving(EXCEPTION, event(7), event()), desk, call_for(CBOR))
    assert EXCEPTION in data
    sent = values(data, cbor=True)
    record = {
        "SequenceNumber": "7",
        "Data": b"hi",
        "ApproximateArrivalTimestamp": CBORTag(1, 1795566752287),
    }
    assert sent[0] == {"Records": [record], "MillisBehindLatest": 0}
    assert sent[-1]["ChildShards"] == CHILDREN
    types = {f.headers.get(":content-type") for f in frames(data) if f.raw != EXCEPTION}
    assert types == {CBOR}
    assert desk.tally.corrected[CBOR_TYPES] == 2


def test_events_that_are_right_are_not_written_anew() -> None:
    value = {"Records": [{"SequenceNumber": "1", "Data": b"hi"}], "MillisBehindLatest": 0}
    right = encode({":event-type": "SubscribeToShardEvent"}, encode_body(value, cbor=True))
    desk = Engine(corrections=only(CBOR_TYPES))
    assert run(arriving(right), desk, call_for(CBOR)) == right
    assert run(arriving(event(1)), desk, call_for(JSON)) == event(1)
    assert desk.tally.corrected == {}


@pytest.mark.parametrize("garbage", [b"<html>no event stream</html>", event()[:20] + b"\0" * 300])
def test_what_is_no_frame_passes_and_no_end_is_told_after_it(garbage: bytes) -> None:
    desk = Engine(numbers=[1], closed=True, corrections=only(SUBSCRIBE_CHILD_SHARDS))
    data = event(1) + garbage + event()
    assert run(arriving(data, event()), desk) == data + event()


@pytest.mark.parametrize(
    "consume",
    [
        pytest.param(lambda stream: stream.aclose(), id="closed"),
        pytest.param(lambda stream: asyncio.wait_for(anext(stream), 0.01), id="cancelled"),
    ],
)
def test_the_upstream_is_let_go_when_nobody_listens(consume: Callable[[Any], Any]) -> None:
    async def scenario() -> None:
        freed = asyncio.Event()

        async def watched() -> AsyncIterator[bytes]:
            try:
                yield event(1)
                await asyncio.Event().wait()
            finally:
                freed.set()

        stream = corrected(watched(), call=call_for(), desk=Engine(corrections=only(CBOR_TYPES)))
        assert await anext(stream) == event(1)
        with contextlib.suppress(TimeoutError):
            await consume(stream)
        assert freed.is_set()
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(scenario())
