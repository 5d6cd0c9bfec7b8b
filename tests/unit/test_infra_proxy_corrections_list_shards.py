import asyncio
import base64
import itertools
import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from cbor2 import CBORTag
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from infra.proxy.corrections.names import ALL, ENDING_SEQUENCE_NUMBER, LIST_SHARDS_FILTER
from infra.proxy.desk import Tally
from infra.proxy.exchange import Answer, Incoming
from infra.proxy.messages import Call, Identity, Service, decode, encode
from infra.proxy.operations import describe, list_shards
from infra.proxy.upstream import UpstreamError
from tests.unit.proxy_corrections_support import (
    MOCKS_END,
    START,
    History,
    TrueShard,
    histories,
    ids,
)

JSON, CBOR = "application/x-amz-json-1.1", "application/x-amz-cbor-1.1"
FORWARDED = b'{"Shards": "the upstream\'s own answer"}'


@dataclass
class Engine:
    """A desk before an engine that lists a history in short pages, and forgets the filter."""

    history: History
    like_mock: bool = True
    page: int = 2
    corrections: frozenset[str] = frozenset(ALL)
    error: UpstreamError | None = None
    forwarded: bytes = FORWARDED
    now: float = 1000.0
    tally: Tally = field(default_factory=Tally)
    asked: list[str] = field(default_factory=list)

    def clock(self) -> float:
        return self.now

    async def forward(self, _call: Call, parameters: dict[str, Any] | None = None) -> Answer:
        assert parameters is None
        return Answer(200, CIMultiDict({"x-from": "upstream"}), self.forwarded)

    async def ask(self, _call: Call, operation: str, parameters: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(operation)
        if self.error is not None:
            raise self.error
        if operation == "GetShardIterator":
            assert parameters["StreamName"] == "orders"
            return {"ShardIterator": parameters["ShardId"]}
        if operation == "GetRecords":
            (shard,) = (s for s in self.history.shards if s.id == parameters["ShardIterator"])
            return {"Records": [{"SequenceNumber": shard.number(1, shard.opened)}]}
        assert operation == "ListShards"
        token = parameters.get("NextToken", "")
        # As kinesis-mock does: with a token, the filter is forgotten.
        shards = self._filtered(parameters.get("ShardFilter", {}))
        after = token.removeprefix("after ") or parameters.get("ExclusiveStartShardId", "")
        rest = [shard for shard in shards if shard["ShardId"] > after]
        answer: dict[str, Any] = {"Shards": rest[: self.page]}
        if len(rest) > self.page:
            answer["NextToken"] = f"after {rest[self.page - 1]['ShardId']}"
        return answer

    def _filtered(self, shard_filter: dict[str, Any]) -> list[dict[str, Any]]:
        listed = self.history.listed(like_mock=self.like_mock)
        if shard_filter.get("Type") != "AT_TIMESTAMP":
            return listed
        second = int(shard_filter["Timestamp"])
        return [
            summary
            for shard, summary in zip(self.history.shards, listed, strict=True)
            if int(shard.opened) <= second and (shard.closed is None or int(shard.closed) >= second)
        ]


def call(operation: str = "ListShards", *, cbor: bool = False, **parameters: Any) -> Call:
    body = encode(parameters, cbor=cbor)
    incoming = Incoming("POST", "/", CIMultiDict(), body, "test")
    return Call(Service.KINESIS, operation, CBOR if cbor else JSON, Identity("a", "b"), incoming)


def answer(desk: Any, *, cbor: bool = False, **parameters: Any) -> Answer:
    return asyncio.run(list_shards.treat(call(cbor=cbor, **parameters), desk))


def value(desk: Any, *, cbor: bool = False, **parameters: Any) -> dict[str, Any]:
    answered = answer(desk, cbor=cbor, **parameters)
    assert answered.status == 200, answered.body
    return decode(answered.body, cbor=cbor)


def pages(desk: Any, size: int | None, **parameters: Any) -> list[list[str]]:
    limit = {} if size is None else {"MaxResults": size}
    listed = [value(desk, StreamName="orders", **limit, **parameters)]
    while token := listed[-1].get("NextToken"):
        assert len(listed) < 100
        listed.append(value(desk, NextToken=token, **limit))
    return [ids(page["Shards"]) for page in listed]


FOUR = History(
    tuple(
        TrueShard(index=n, parents=(), low=n, high=n, opened=START, closed=None) for n in range(4)
    )
)
AT_LATEST = {"Type": "AT_LATEST"}


@given(histories(), st.integers(1, 6), st.sampled_from(["AT_TRIM_HORIZON", "AT_LATEST"]))
def test_pages_together_are_the_whole_list(history: History, size: int, kind: str) -> None:
    desk = Engine(history)
    listed = pages(desk, size, ShardFilter={"Type": kind})
    first = {s.id for s in history.shards if not s.parents}
    latest = {s.id for s in history.shards if s.closed is None}
    assert list(itertools.chain(*listed)) == sorted(first if kind == "AT_TRIM_HORIZON" else latest)
    assert all(len(page) == size for page in listed[:-1])
    assert 0 < len(listed[-1]) <= size
    assert pages(desk, None, ShardFilter={"Type": kind}) == [list(itertools.chain(*listed))]


@given(histories(least_pause=1.0), st.integers(-2, 25))
def test_a_time_that_the_numbers_hide_is_asked_of_the_upstream(
    history: History, second: int
) -> None:
    # With kinesis-mock's numbers of merges and without: the same shards, also before the first.
    shard_filter = {"Type": "AT_TIMESTAMP", "Timestamp": START + second + 0.5}
    mocks, right = (
        value(Engine(history, like_mock=like), StreamName="orders", ShardFilter=shard_filter)
        for like in (True, False)
    )
    assert ids(mocks["Shards"]) == ids(right["Shards"])


def test_a_time_before_the_stream_is_the_trim_horizon_where_the_numbers_hide_times_too() -> None:
    two = [
        TrueShard(index=n, parents=(), low=n, high=n, opened=START, closed=START + 5.0)
        for n in (0, 1)
    ]
    merged = TrueShard(index=2, parents=(0, 1), low=0, high=1, opened=START + 5.0)
    shard_filter = {"Type": "AT_TIMESTAMP", "Timestamp": START - 60}
    desk = Engine(History((*two, merged)))
    assert ids(value(desk, StreamName="orders", ShardFilter=shard_filter)["Shards"]) == [
        two[0].id,
        two[1].id,
    ]


def test_a_reshard_between_two_pages_does_not_make_the_list_overlap() -> None:
    first, *others = FOUR.shards
    desk = Engine(FOUR)
    page = value(desk, StreamName="orders", MaxResults=2, ShardFilter=AT_LATEST)
    third = others[1]
    split = [TrueShard(index=n, parents=(2,), low=2, high=2, opened=START + 5.0) for n in (4, 5)]
    closed = TrueShard(index=2, parents=(), low=2, high=2, opened=START, closed=START + 5.0)
    desk.history = History((first, others[0], closed, others[2], *split))
    following = value(desk, NextToken=page["NextToken"])
    assert ids(page["Shards"] + following["Shards"]) == [shard.id for shard in FOUR.shards]
    assert third.id in ids(following["Shards"])
    assert ids(value(desk, StreamName="orders", ShardFilter=AT_LATEST)["Shards"])[-2:] == [
        shard.id for shard in split
    ]


def test_a_token_lives_three_hundred_seconds() -> None:
    desk = Engine(FOUR)
    token = value(desk, StreamName="orders", MaxResults=1, ShardFilter=AT_LATEST)["NextToken"]
    assert "orders" not in token
    desk.now += 300
    assert len(value(desk, NextToken=token)["Shards"]) == 3
    for now in (1300.1, 999.0):  # too late; of a proxy that ran before
        desk.now = now
        expired = answer(desk, NextToken=token)
        assert expired.status == 400
        assert json.loads(expired.body)["__type"] == "ExpiredNextTokenException"


@pytest.mark.parametrize(
    "parameters",
    [
        {"StreamName": "orders"},  # no filter
        {"NextToken": "orders::shardId-000000000001"},  # the upstream's own
        {"ShardFilter": AT_LATEST},  # no stream
        {"StreamName": "orders", "ShardFilter": {"Type": "AT_MIDNIGHT"}},
        {"StreamName": "orders", "ShardFilter": {}},
        {"StreamName": "orders", "ShardFilter": "AT_LATEST"},
        {"StreamName": "orders", "ShardFilter": {"Type": "AFTER_SHARD_ID"}},
        {"StreamName": "orders", "ShardFilter": {"Type": "AT_TIMESTAMP"}},
        {"StreamName": "orders", "ShardFilter": AT_LATEST, "MaxResults": 0},
        {"StreamName": "orders", "ShardFilter": AT_LATEST, "MaxResults": 10_001},
        {"StreamName": "orders", "ShardFilter": AT_LATEST, "MaxResults": "many"},
        {"StreamName": "orders", "ShardFilter": AT_LATEST, "ExclusiveStartShardId": 5},
        {"StreamName": "orders", "ShardFilter": AT_LATEST, "StreamCreationTimestamp": START},
        {"StreamName": "orders", "ShardFilter": AT_LATEST, "NextToken": "orders::x"},
        {"NextToken": "proxied:", "MaxResults": 5},
        {"NextToken": "proxied:bm8=", "MaxResults": 5},
        {"NextToken": "proxied:W10=", "MaxResults": 5},
        {"NextToken": "proxied:!", "MaxResults": 5},
        {"NextToken": "proxied:" + base64.b64encode(b"[" * 100_000).decode()},
        {"StreamName": ["orders"], "ShardFilter": AT_LATEST},
        {"StreamName": "orders", "ShardFilter": {"Type": "AT_TIMESTAMP", "Timestamp": 10**400}},
    ],
)
def test_what_is_out_of_the_ordinary_is_the_upstreams_affair(parameters: dict[str, Any]) -> None:
    desk = Engine(FOUR, corrections=frozenset({LIST_SHARDS_FILTER}))
    assert answer(desk, **parameters).body == FORWARDED
    assert desk.asked == []


def test_a_name_that_is_no_text_is_the_upstreams_affair() -> None:
    # It could not be asked about in JSON either.
    desk = Engine(FOUR, corrections=frozenset({LIST_SHARDS_FILTER}))
    answered = answer(desk, cbor=True, StreamName=b"orders", ShardFilter=AT_LATEST)
    assert answered.body == FORWARDED
    assert desk.asked == []


def test_a_token_of_ours_goes_with_no_filter() -> None:
    desk = Engine(FOUR, corrections=frozenset({LIST_SHARDS_FILTER}))
    token = value(desk, StreamName="orders", MaxResults=1, ShardFilter=AT_LATEST)["NextToken"]
    assert answer(desk, NextToken=token, ShardFilter=AT_LATEST).body == FORWARDED


def test_the_filter_is_left_to_the_upstream_when_its_correction_is_off() -> None:
    desk = Engine(FOUR, corrections=frozenset(ALL) - {LIST_SHARDS_FILTER, ENDING_SEQUENCE_NUMBER})
    assert answer(desk, StreamName="orders", ShardFilter=AT_LATEST).body == FORWARDED


def test_the_upstreams_refusal_is_passed_on_and_its_silence_raised() -> None:
    desk = Engine(FOUR, error=UpstreamError("ResourceNotFoundException", "no such stream", 400))
    refused = answer(desk, StreamName="orders", ShardFilter=AT_LATEST)
    assert refused.status == 400
    assert json.loads(refused.body) == {
        "__type": "ResourceNotFoundException",
        "message": "no such stream",
    }
    desk.error = UpstreamError("ServiceUnavailable", "gone", 502)
    with pytest.raises(UpstreamError):
        answer(desk, StreamName="orders", ShardFilter=AT_LATEST)


def test_cbor_calls_are_answered_in_cbor_and_their_times_read() -> None:
    parent = TrueShard(index=0, parents=(), low=0, high=9, opened=START, closed=START + 9.0)
    child = TrueShard(index=1, parents=(0,), low=0, high=9, opened=START + 9.0)
    desk = Engine(History((parent, child)))
    for seconds, expected in ((5, parent), (20, child)):
        shard_filter = {
            "Type": "AT_TIMESTAMP",
            "Timestamp": CBORTag(1, (START + seconds) * 1000),
        }
        listed = value(desk, cbor=True, StreamName="orders", ShardFilter=shard_filter)
        assert ids(listed["Shards"]) == [expected.id]


@given(histories(least_pause=1.0))
def test_ends_are_right_in_every_answer(history: History) -> None:
    desk = Engine(history)
    listed = history.listed(like_mock=True)
    ours = value(desk, StreamName="orders", ShardFilter={"Type": "FROM_TRIM_HORIZON"})["Shards"]
    desk.forwarded = json.dumps({"Shards": listed}).encode()
    unfiltered = value(desk, StreamName="orders")["Shards"]
    description = {"StreamName": "orders", "Shards": listed, "HasMoreShards": False}
    desk.forwarded = json.dumps({"StreamDescription": description}).encode()
    answered = asyncio.run(describe.treat(call("DescribeStream", StreamName="orders"), desk))
    described = decode(answered.body, cbor=False)["StreamDescription"]
    assert ours == unfiltered == described["Shards"]
    assert described == {**description, "Shards": ours}
    assert answered.headers["x-from"] == "upstream"
    for shard, summary in zip(history.shards, ours, strict=True):
        end = summary["SequenceNumberRange"].get("EndingSequenceNumber")
        assert (end is None) == (shard.closed is None)
        assert end is None or int(end) > int(shard.number(10**9, shard.closed or 0))


def test_an_answer_without_closed_shards_is_not_touched() -> None:
    desk = Engine(FOUR)
    desk.forwarded = json.dumps({"Shards": FOUR.listed()}, indent=3).encode()
    assert answer(desk, StreamName="orders").body == desk.forwarded
    assert desk.asked == []
    desk.forwarded = json.dumps({"StreamDescription": {"Shards": FOUR.listed()}}).encode()
    answered = asyncio.run(describe.treat(call("DescribeStream", StreamName="orders"), desk))
    assert answered.body == desk.forwarded


def test_a_page_of_the_upstreams_own_has_right_ends_too() -> None:
    closed = TrueShard(index=0, parents=(), low=0, high=9, opened=START, closed=START + 9.0)
    desk = Engine(History((closed,)))
    desk.forwarded = json.dumps({"Shards": desk.history.listed()}).encode()
    (shard,) = value(desk, NextToken="orders::shardId-000000000009")["Shards"]
    assert shard["SequenceNumberRange"]["EndingSequenceNumber"] != MOCKS_END
    assert desk.asked == []  # nobody has said whose page it is
