"""The DynamoDB sink on a real engine: redelivery, lost answers, writers that overtake."""

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError, ReadTimeoutError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from consumers.errors import SetupError, SinkError
from consumers.record import StreamRecord
from consumers.sinks.base import Applied, Counts
from consumers.sinks.dynamodb import DynamoDBSink, ensure_table
from records.envelope import seal

if TYPE_CHECKING:
    from types_boto3_dynamodb import DynamoDBClient

MakeTable = Callable[[], str]


@pytest.fixture(scope="module")
def made(dynamodb: "DynamoDBClient") -> Iterator[list[str]]:
    tables: list[str] = []
    yield tables
    for table in tables:
        dynamodb.delete_table(TableName=table)


@pytest.fixture
def table(dynamodb: "DynamoDBClient", unique: Callable[[str], str], made: list[str]) -> MakeTable:
    def make() -> str:
        name = unique("sink")
        ensure_table(dynamodb, name)
        made.append(name)
        return name

    return make


def record(number: int, *, key: str = "k", record_id: str | None = None) -> StreamRecord:
    data = seal(b'{"n":%d}' % number, record_id or f"id-{number}")
    return StreamRecord("shardId-0", str(10**20 + number), 0, key, data, None)


def effects(client: "DynamoDBClient", table: str, key: str) -> list[str]:
    """The record IDs of a key in the order in which they were applied."""
    found: list[str] = []
    for page in client.get_paginator("query").paginate(
        TableName=table,
        KeyConditionExpression="pk = :pk",
        ExpressionAttributeValues={":pk": {"S": f"key#{key}"}},
        ConsistentRead=True,
    ):
        found += [item["record_id"]["S"] for item in page["Items"] if "record_id" in item]
    return found


class Losing:
    """A client that loses answers: of the chosen writes, after they were committed or instead."""

    def __init__(self, client: "DynamoDBClient", plan: Sequence[str]) -> None:
        self._client = client
        self._plan = list(plan)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def transact_write_items(self, **request: Any) -> Any:
        fate = self._plan.pop(0) if self._plan else "answered"
        if fate == "forgotten":
            del request["ClientRequestToken"]  # as if the token's ten minutes were over
            self._client.transact_write_items(**request)
        elif fate != "never sent":
            answer = self._client.transact_write_items(**request)
            if fate == "answered":
                return answer
        raise ReadTimeoutError(endpoint_url="http://test")


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    shard=st.lists(st.tuples(st.integers(1, 9), st.sampled_from("abc")), min_size=1, max_size=40),
    cuts=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=3),
    plan=st.lists(st.sampled_from(["answered", "lost", "never sent", "forgotten"]), max_size=6),
)
def test_any_redelivery_with_any_lost_answers_applies_each_id_once_and_in_order(
    shard: list[tuple[int, str]],
    cuts: list[tuple[float, float]],
    plan: list[str],
    dynamodb: "DynamoDBClient",
    table: MakeTable,
) -> None:
    records = [record(n, key=key, record_id=f"{key}{kind}") for n, (kind, key) in enumerate(shard)]
    name = table()
    client: Any = Losing(dynamodb, plan)
    sink = DynamoDBSink(client, name, sleep=lambda _seconds: None)
    total, done, offered = len(records), 0, 0
    applied = Applied(0, 0)
    for back, forth in [*cuts, (0.0, 1.0)]:
        start = int(back * done)
        end = start + int(forth * (total - start))
        result = sink.apply(records[start:end])
        applied = Applied(applied.applied + result.applied, applied.refused + result.refused)
        offered += end - start
        done = max(done, end)
    distinct = list(dict.fromkeys(f"{key}{kind}" for kind, key in shard))
    for key in "abc":
        expected = [record_id for record_id in distinct if record_id[0] == key]
        assert effects(dynamodb, name, key) == expected
    assert applied == Applied(len(distinct), offered - len(distinct))
    counts = sink.counts()
    assert (counts.effects, counts.distinct) == (len(distinct), len(distinct))
    if "forgotten" not in plan:  # else a transaction of refusals alone may be counted twice
        assert counts.refused == offered - len(distinct)


def test_writers_that_overtake_each_other_keep_the_order(
    dynamodb: "DynamoDBClient", table: MakeTable
) -> None:
    name = table()
    records = [record(n, key=str(n % 3)) for n in range(60)]
    results: list[Applied] = []

    def read_the_shard(step: int) -> None:  # a zombie and its successor
        sink = DynamoDBSink(dynamodb, name)
        results.extend(
            sink.apply(records[start : start + step]) for start in range(0, len(records), step)
        )

    threads = [threading.Thread(target=read_the_shard, args=(step,)) for step in (7, 20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sum(result.applied for result in results) == 60
    assert sum(result.refused for result in results) == 60
    assert DynamoDBSink(dynamodb, name).counts() == Counts(60, 60, 60)
    for key in range(3):
        assert effects(dynamodb, name, str(key)) == [f"id-{n}" for n in range(60) if n % 3 == key]


class Overtaken:
    """A client that lets someone else write before each of its first writes."""

    def __init__(self, client: "DynamoDBClient", others: Iterator[Callable[[], object]]) -> None:
        self._client = client
        self._others = others

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def transact_write_items(self, **request: Any) -> Any:
        for write in self._others:
            write()
            break
        return self._client.transact_write_items(**request)


def test_a_writer_that_is_overtaken_starts_over_and_overwrites_nothing(
    dynamodb: "DynamoDBClient", table: MakeTable
) -> None:
    name = table()
    other = DynamoDBSink(dynamodb, name)
    intrusions = iter(
        [
            lambda: other.apply([record(100)]),  # moves the head of the key
            lambda: other.apply([record(1)]),  # applies a record of the same batch
            lambda: other.apply([record(101), record(2)]),
        ]
    )
    client: Any = Overtaken(dynamodb, intrusions)
    sink = DynamoDBSink(client, name, sleep=lambda _seconds: None)
    assert sink.apply([record(1), record(2), record(3)]) == Applied(1, 2)
    assert effects(dynamodb, name, "k") == ["id-100", "id-1", "id-101", "id-2", "id-3"]
    assert sink.counts() == Counts(5, 5, 2)


def test_each_sighting_starts_the_horizon_anew(
    dynamodb: "DynamoDBClient", table: MakeTable
) -> None:
    name = table()
    now = [1_000.0]
    sink = DynamoDBSink(dynamodb, name, retention=100, horizon=200, clock=lambda: now[0])

    def expires_at() -> int:
        item = dynamodb.get_item(
            TableName=name,
            Key={"pk": {"S": "seen#id-1"}, "sk": {"S": "seen"}},
            ConsistentRead=True,
        )["Item"]
        return int(item["expires_at"]["N"])

    sink.apply([record(1)])
    assert expires_at() >= 1_200
    now[0] = 1_150.0
    assert sink.apply([record(1)]) == Applied(0, 1)
    assert expires_at() >= 1_350
    ttl = dynamodb.describe_time_to_live(TableName=name)["TimeToLiveDescription"]
    assert ttl.get("AttributeName") == "expires_at"
    assert ttl["TimeToLiveStatus"] in {"ENABLED", "ENABLING"}


def test_an_id_that_the_ttl_takes_while_its_duplicate_is_refused_is_a_new_one(
    dynamodb: "DynamoDBClient", table: MakeTable
) -> None:
    name = table()
    DynamoDBSink(dynamodb, name).apply([record(1)])
    key = {"pk": {"S": "seen#id-1"}, "sk": {"S": "seen"}}
    forget = iter([lambda: dynamodb.delete_item(TableName=name, Key=key)])
    client: Any = Overtaken(dynamodb, forget)
    sink = DynamoDBSink(client, name, sleep=lambda _seconds: None)
    assert sink.apply([record(1)]) == Applied(1, 0)
    assert sink.apply([record(1)]) == Applied(0, 1)  # it is remembered, whole


def test_a_record_too_large_for_an_item_is_refused_after_those_before_it(
    dynamodb: "DynamoDBClient", table: MakeTable
) -> None:
    name = table()
    sink = DynamoDBSink(dynamodb, name)
    large = StreamRecord("shardId-0", "5", 0, "k", b"x" * 500_000, None)
    with pytest.raises(SinkError, match="500000 bytes"):
        sink.apply([record(1), record(2), large, record(3)])
    assert effects(dynamodb, name, "k") == ["id-1", "id-2"]


def test_a_payload_near_the_limit_of_an_item_is_stored(
    dynamodb: "DynamoDBClient", table: MakeTable
) -> None:
    name = table()
    key = "ключ" * 30
    payload = b"x" * (400 * 1024 - 512 - len(key.encode()))
    whole = StreamRecord("shardId-0", "5", 0, key, payload, None)
    assert DynamoDBSink(dynamodb, name).apply([whole]) == Applied(1, 0)
    assert len(effects(dynamodb, name, key)) == 1


def test_a_missing_table_is_an_error_at_once(
    dynamodb: "DynamoDBClient", unique: Callable[[str], str]
) -> None:
    def never(_seconds: float) -> None:
        raise AssertionError("there is nothing to wait for")

    with pytest.raises(ClientError, match="ResourceNotFoundException"):
        DynamoDBSink(dynamodb, unique("missing"), sleep=never).apply([record(1)])


def test_a_short_horizon_is_refused(dynamodb: "DynamoDBClient") -> None:
    with pytest.raises(SetupError, match="shorter"):
        DynamoDBSink(dynamodb, "t", retention=100, horizon=99)


def test_a_table_of_something_else_is_left_alone(
    dynamodb: "DynamoDBClient", unique: Callable[[str], str], made: list[str]
) -> None:
    name = unique("other")
    dynamodb.create_table(
        TableName=name,
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
    )
    made.append(name)
    with pytest.raises(SetupError, match="other keys"):
        ensure_table(dynamodb, name)


def test_making_the_table_again_changes_nothing(
    dynamodb: "DynamoDBClient", table: MakeTable
) -> None:
    name = table()
    DynamoDBSink(dynamodb, name).apply([record(1)])
    ensure_table(dynamodb, name)
    assert effects(dynamodb, name, "k") == ["id-1"]
