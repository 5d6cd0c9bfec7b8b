"""Which call gets which treatment, and what is remembered of one that succeeded."""

import asyncio
import base64
from typing import Any

import pytest
from multidict import CIMultiDict

from infra.proxy.desk import Desk
from infra.proxy.exchange import Answer, Incoming
from infra.proxy.fault import Action, Fault
from infra.proxy.messages import call_of
from infra.proxy.treatment import is_treated, operation_of, treat
from records.limits import MIB
from tests.unit.proxy_desk_support import JSON, Clock, Engine, call, desk_before, read

SHARD = "shardId-000000000000"
ARN = "arn:aws:kinesis:us-east-1:000000000000:stream/orders"
FULL = [{"Data": base64.b64encode(bytes(MIB - 1)).decode(), "PartitionKey": "k"}]


def answered(desk: Desk, operation: str, **parameters: Any) -> Answer:
    return asyncio.run(treat(call(operation, parameters), desk, None))


def code(answer: Answer) -> str:
    return "ok" if answer.status == 200 else str(read(answer)["__type"])


@pytest.mark.parametrize(
    ("target", "path", "operation"),
    [
        ("Kinesis_20131202.PutRecords", "/", "PutRecords"),
        ("Kinesis_20131202", "/", "Kinesis_20131202"),
        ("", "/service/Kinesis_20131202/operation/PutRecords", "PutRecords"),
        ("", "/bucket/operation/7", "POST"),
        ("", "/bucket/key", "POST"),
    ],
)
def test_what_a_request_counts_as(target: str, path: str, operation: str):
    headers = CIMultiDict({"X-Amz-Target": target} if target else {})
    assert operation_of(Incoming("POST", path + "?a=/b", headers, b"", "peer")) == operation


def test_what_needs_no_look_is_streamed_through():
    plain = desk_before(Engine(), Clock(), quotas=False)
    for operation, expected in (("PutRecords", False), ("GetRecords", True), ("SplitShard", True)):
        assert is_treated(call(operation, {}), plain) is expected
    put = call("PutRecords", {})
    assert is_treated(put, desk_before(Engine(), Clock()))
    assert is_treated(put, desk_before(Engine(), Clock(), quotas=False, corrections="cbor-types"))
    fault = Fault(action=Action.LOSE)
    assert is_treated(put, desk_before(Engine(), Clock(), fault, quotas=False))


@pytest.mark.parametrize("quotas", [True, False])
def test_dynamodb_is_looked_at_with_quotas_only(quotas: bool):  # noqa: FBT001 - a parameter
    headers = CIMultiDict({"X-Amz-Target": "DynamoDB_20120810.PutItem", "Content-Type": JSON})
    write = call_of(Incoming("POST", "/", headers, b"{}", "peer"))
    assert write is not None
    fault = Fault(action=Action.LOSE)
    desk = desk_before(Engine(), Clock(), fault, quotas=quotas, corrections="cbor-types")
    assert is_treated(write, desk) is quotas


def test_a_call_that_comes_too_soon_does_not_reach_the_engine():
    engine = Engine()
    desk = desk_before(engine, Clock())
    codes = [code(answered(desk, "CreateStream", StreamName="a", ShardCount=1)) for _ in range(7)]
    assert codes == ["ok"] * 5 + ["LimitExceededException"] * 2
    assert engine.reached("CreateStream") == 5


@pytest.mark.parametrize("named", [{"StreamName": "orders"}, {"StreamARN": ARN}])
@pytest.mark.parametrize(("status", "asked"), [(200, 2), (400, 1)])
def test_a_reshard_that_succeeded_lets_the_shards_be_asked_for(
    named: dict[str, str], status: int, asked: int
):
    engine = Engine()
    desk = desk_before(engine, Clock())
    one = [{"Data": "QQ==", "PartitionKey": "k"}]
    answered(desk, "PutRecords", StreamName="orders", Records=one)
    engine.scripted["UpdateShardCount"] = (status, {})
    answered(desk, "UpdateShardCount", **named, TargetShardCount=2)
    answered(desk, "PutRecords", StreamName="orders", Records=one)
    assert engine.reached("ListShards") == asked


@pytest.mark.parametrize(("status", "failed"), [(200, 0), (400, 1)])
@pytest.mark.parametrize("operation", ["CreateStream", "DeleteStream"])
def test_only_a_stream_that_was_replaced_has_new_shards(operation: str, status: int, failed: int):
    engine = Engine()
    desk = desk_before(engine, Clock())
    answered(desk, "PutRecords", StreamName="orders", Records=FULL)
    engine.scripted[operation] = (status, {"__type": "ResourceInUseException"})
    answered(desk, operation, StreamName="orders")
    answer = answered(desk, "PutRecords", StreamName="orders", Records=FULL)
    assert read(answer)["FailedRecordCount"] == failed


def iterator(desk: Desk, engine: Engine, text: str) -> Answer:
    engine.scripted["GetShardIterator"] = (200, {"ShardIterator": text})
    return answered(desk, "GetShardIterator", StreamName="orders", ShardId=SHARD)


def test_reads_are_counted_for_the_shard_and_bytes_afterwards():
    engine, clock = Engine(), Clock()
    desk = desk_before(engine, clock)
    assert code(iterator(desk, engine, "a")) == "ok"
    engine.scripted["GetRecords"] = (200, {"Records": FULL * 3, "NextShardIterator": "b"})
    assert code(answered(desk, "GetRecords", ShardIterator="a")) == "ok"
    for known in ("a", "b"):
        refused = answered(desk, "GetRecords", ShardIterator=known)
        assert code(refused) == "ProvisionedThroughputExceededException"
    assert code(answered(desk, "GetRecords", ShardIterator="from elsewhere")) == "ok"
    assert engine.reached("GetRecords") == 2
    clock.now += 0.5  # (3 MiB - 2 MiB) / 2 MiB/s
    assert code(answered(desk, "GetRecords", ShardIterator="b")) == "ok"


def test_the_sixth_call_in_a_second_is_refused():
    engine = Engine()
    desk = desk_before(engine, Clock())
    throttled = "ProvisionedThroughputExceededException"
    assert [code(iterator(desk, engine, "a")) for _ in range(6)] == ["ok"] * 5 + [throttled]
    engine.scripted["GetRecords"] = (200, {"Records": [], "NextShardIterator": "a"})
    codes = [code(answered(desk, "GetRecords", ShardIterator="a")) for _ in range(6)]
    assert codes == ["ok"] * 5 + [throttled]


@pytest.mark.parametrize(("quotas", "end"), [(True, "ExpiredIteratorException"), (False, "ok")])
def test_an_iterator_expires_by_its_age_with_quotas_only(quotas: bool, end: str):  # noqa: FBT001 - a parameter
    engine, clock = Engine(), Clock()
    desk = desk_before(engine, clock, quotas=quotas)
    iterator(desk, engine, "a")
    engine.scripted["GetRecords"] = (200, {"Records": [], "NextShardIterator": "b"})
    clock.now += 299
    assert code(answered(desk, "GetRecords", ShardIterator="a")) == "ok"
    clock.now += 2
    assert code(answered(desk, "GetRecords", ShardIterator="a")) == end
    assert code(answered(desk, "GetRecords", ShardIterator="b")) == "ok"
    desk.iterators.expire("b")
    assert code(answered(desk, "GetRecords", ShardIterator="b")) == "ExpiredIteratorException"


def test_the_last_iterator_of_a_shard_has_none_after_it():
    engine = Engine()
    desk = desk_before(engine, Clock())
    iterator(desk, engine, "a")
    for end in ({}, {"NextShardIterator": None}):
        engine.scripted["GetRecords"] = (200, {"Records": [], **end})
        assert read(answered(desk, "GetRecords", ShardIterator="a")) == {"Records": [], **end}
    assert len(desk.iterators) == 1


def test_a_limit_that_aws_refuses_does_not_reach_the_engine():
    engine = Engine()
    desk = desk_before(engine, Clock())
    refused = answered(desk, "GetRecords", ShardIterator="a", Limit=10_001)
    assert (code(refused), engine.received) == ("ValidationException", [])
