"""What the treatments do with engines that refuse, fail, or are right by themselves."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from multidict import CIMultiDict

from infra.proxy.corrections import names
from infra.proxy.desk import Tally
from infra.proxy.exchange import Answer, Incoming
from infra.proxy.faults import FaultPlan
from infra.proxy.messages import Call, Identity, Service, decode, encode
from infra.proxy.operations import delete_stream, get_records, lists, reshard, summary
from infra.proxy.quotas.iterators import Iterators
from infra.proxy.upstream import UpstreamError

JSON = "application/x-amz-json-1.1"
GONE = UpstreamError("ResourceNotFoundException", "not there", 400)
ARN = "arn:aws:kinesis:us-east-1:000000000000:stream/orders"
DOWN = UpstreamError("ServiceUnavailable", "no answer", 503)


@dataclass
class Engine:
    """A desk before an engine that answers what it is told to."""

    answers: list[tuple[int, dict[str, Any]]] = field(default_factory=lambda: [(200, {})])
    asked: dict[str, Any] = field(default_factory=dict)  # an answer or an error, by operation
    corrections: frozenset[str] = frozenset(names.ALL)
    tally: Tally = field(default_factory=Tally)
    forwarded: list[dict[str, Any] | None] = field(default_factory=list)
    iterators: Iterators = field(default_factory=lambda: Iterators(lambda: 0.0))
    quotas: None = None
    faults: FaultPlan = field(default_factory=lambda: FaultPlan(seed=0, clock=lambda: 0.0))

    async def forward(self, _call: Call, parameters: dict[str, Any] | None = None) -> Answer:
        self.forwarded.append(parameters)
        status, value = self.answers[min(len(self.forwarded), len(self.answers)) - 1]
        return Answer(status, CIMultiDict(), encode(value, cbor=False))

    async def ask(self, _call: Call, operation: str, _parameters: dict[str, Any]) -> dict[str, Any]:
        answer = self.asked[operation]
        if isinstance(answer, UpstreamError):
            raise answer
        return dict(answer)


def treated(
    treat: Callable[[Call, Any], Awaitable[Answer]],
    desk: Engine,
    operation: str = "Any",
    **parameters: Any,
) -> tuple[int, dict[str, Any]]:
    incoming = Incoming("POST", "/", CIMultiDict(), encode(parameters, cbor=False), "test")
    call = Call(Service.KINESIS, operation, JSON, Identity("a", "b"), incoming)

    async def scenario() -> Answer:
        return await treat(call, desk)

    answer = asyncio.run(scenario())
    return answer.status, decode(answer.body, cbor=False)


def described(**members: Any) -> dict[str, Any]:
    own = {"StreamName": "orders", "StreamARN": ARN}
    return {"StreamDescriptionSummary": own | members}


CONSUMED = {"Consumers": [{"ConsumerName": "reader"}]}
ON_DEMAND = described(StreamModeDetails={"StreamMode": "ON_DEMAND"})
SHARDS = {
    "Shards": [
        {
            "ShardId": "shardId-000000000001",
            "HashKeyRange": {"StartingHashKey": "100", "EndingHashKey": "200"},
        }
    ]
}
SPLIT = {"StreamName": "orders", "ShardToSplit": "shardId-000000000001"}


def test_an_iterator_that_the_engine_fails_at_twice_is_invalid() -> None:
    desk = Engine([(500, {})])
    status, error = treated(get_records.get_records, desk, ShardIterator="x")
    assert (status, error["__type"]) == (400, "InvalidArgumentException")
    assert error["message"] == "Invalid ShardIterator."
    assert desk.tally.corrected == {names.BAD_ITERATOR: 1}


def test_an_engine_that_failed_by_accident_is_believed_the_second_time() -> None:
    desk = Engine([(500, {}), (200, {"Records": []})])
    assert treated(get_records.get_records, desk, ShardIterator="x") == (200, {"Records": []})
    assert not desk.tally.corrected


def test_an_iterator_that_was_given_out_is_not_blamed_for_a_failure() -> None:
    desk = Engine([(500, {})])
    desk.iterators.remember("x", (Identity("a", "b"), "orders"), "shardId-000000000000")
    assert treated(get_records.get_records, desk, ShardIterator="x")[0] == 500
    assert len(desk.forwarded) == 1


def test_a_failure_stays_one_when_the_correction_is_off() -> None:
    desk = Engine([(500, {})], corrections=frozenset())
    assert treated(get_records.get_records, desk, ShardIterator="x")[0] == 500


def test_a_stream_with_consumers_is_not_deleted() -> None:
    desk = Engine(asked={"DescribeStreamSummary": described(), "ListStreamConsumers": CONSUMED})
    status, error = treated(delete_stream.delete_stream, desk, StreamName="orders")
    assert (status, error["__type"]) == (400, "ResourceInUseException")
    assert not desk.forwarded
    assert desk.tally.corrected == {names.DELETE_WITH_CONSUMERS: 1}


@pytest.mark.parametrize(
    ("summarised", "consumers", "parameters", "corrections"),
    [
        (described(), CONSUMED, {"EnforceConsumerDeletion": True}, set(names.ALL)),
        (described(), CONSUMED, {}, set(names.ALL) - {names.DELETE_WITH_CONSUMERS}),
        (described(), {"Consumers": []}, {"EnforceConsumerDeletion": False}, set(names.ALL)),
        (described(), GONE, {}, set(names.ALL)),
        (GONE, CONSUMED, {}, set(names.ALL)),
    ],
)
def test_another_delete_is_the_engines(
    summarised: Any, consumers: Any, parameters: dict[str, Any], corrections: set[str]
) -> None:
    asked = {"DescribeStreamSummary": summarised, "ListStreamConsumers": consumers}
    desk = Engine(asked=asked, corrections=frozenset(corrections))
    assert treated(delete_stream.delete_stream, desk, StreamName="orders", **parameters)[0] == 200
    assert desk.forwarded == [None]
    assert not desk.tally.corrected


@pytest.mark.parametrize("treat", [delete_stream.delete_stream, reshard.reshard])
def test_an_engine_that_is_down_is_not_taken_for_consent(treat: Any) -> None:
    desk = Engine(asked={"DescribeStreamSummary": DOWN})
    with pytest.raises(UpstreamError):
        treated(treat, desk, StreamName="orders")
    assert not desk.forwarded


@pytest.mark.parametrize(
    ("key", "right"), [("99", 0), ("100", 0), ("101", 1), ("200", 1), ("201", 0)]
)
def test_a_split_leaves_keys_on_both_sides(key: str, right: int) -> None:
    desk = Engine(asked={"DescribeStreamSummary": described(), "ListShards": SHARDS})
    status, error = treated(reshard.reshard, desk, "SplitShard", **SPLIT, NewStartingHashKey=key)
    assert len(desk.forwarded) == right
    if not right:
        assert (status, error["__type"]) == (400, "InvalidArgumentException")
        assert f"NewStartingHashKey {key} " in error["message"]
    assert desk.tally.corrected[names.RESHARD_ARGUMENTS] == 1 - right


@pytest.mark.parametrize(
    "changed", [{"ShardToSplit": "shardId-9"}, {"NewStartingHashKey": "x"}, {}]
)
def test_another_fault_of_a_split_is_the_engines(changed: dict[str, Any]) -> None:
    desk = Engine(asked={"DescribeStreamSummary": described(), "ListShards": SHARDS})
    assert treated(reshard.reshard, desk, "SplitShard", **{**SPLIT, **changed})[0] == 200


@pytest.mark.parametrize("operation", ["SplitShard", "MergeShards", "UpdateShardCount"])
def test_an_on_demand_stream_is_not_resharded(operation: str) -> None:
    desk = Engine(asked={"DescribeStreamSummary": ON_DEMAND})
    status, error = treated(reshard.reshard, desk, operation, StreamName="orders")
    assert (status, error["__type"]) == (400, "ValidationException")
    off = Engine(asked={"DescribeStreamSummary": ON_DEMAND}, corrections=frozenset())
    assert treated(reshard.reshard, off, operation, StreamName="orders")[0] == 200
    assert (len(desk.forwarded), len(off.forwarded)) == (0, 1)


@pytest.mark.parametrize(("own", "expected"), [(None, 1024), (4096, 4096)])
def test_the_largest_record_is_said_where_the_engine_does_not(own: Any, expected: int) -> None:
    desk = Engine([(200, described(MaxRecordSizeInKiB=own))])
    _, answer = treated(summary.describe_stream_summary, desk)
    assert answer == described(MaxRecordSizeInKiB=expected)
    assert desk.tally.corrected[names.MAX_RECORD_SIZE] == (own is None)


def test_a_list_of_streams_that_is_right_stays_as_it_is() -> None:
    own = {
        "StreamNames": ["orders"],
        "HasMoreStreams": True,
        "NextToken": "own",
        "StreamSummaries": [{"StreamName": "orders"}],
    }
    desk = Engine([(200, own)])
    assert treated(lists.list_streams, desk, NextToken="theirs") == (200, own)
    assert desk.forwarded == [None]
    assert not desk.tally.corrected


def test_a_stream_that_went_meanwhile_has_no_summary() -> None:
    desk = Engine(
        [(200, {"StreamNames": ["orders"], "HasMoreStreams": False})],
        asked={"DescribeStreamSummary": GONE},
    )
    assert treated(lists.list_streams, desk)[1]["StreamSummaries"] == []


def test_a_token_of_streams_goes_on_after_the_last_name() -> None:
    desk = Engine(
        [(200, {"StreamNames": ["orders", "rivers"], "HasMoreStreams": True})],
        asked={"DescribeStreamSummary": described()},
    )
    token = treated(lists.list_streams, desk)[1]["NextToken"]
    treated(lists.list_streams, desk, NextToken=token, Limit=2)
    assert desk.forwarded == [None, {"Limit": 2, "ExclusiveStartStreamName": "rivers"}]


@pytest.mark.parametrize("parameters", [{"NextToken": "theirs"}, {"MaxResults": 0}])
def test_a_list_of_consumers_that_cannot_be_paged_is_the_engines(
    parameters: dict[str, Any],
) -> None:
    desk = Engine([(400, {"__type": "InvalidArgumentException"})])
    assert treated(lists.list_stream_consumers, desk, **parameters)[0] == 400
    assert desk.forwarded == [None]
