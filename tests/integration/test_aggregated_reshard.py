"""`AggregatingProducer` while shards are split and merged: every record accounted for.

KCL drops an aggregate whole if one of its records lies outside the shard it is read from. So what
matters is not that a record is stored, but that it is stored where KCL keeps it.
"""

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from infra.stack.endpoints import Endpoints
from producers.aggregated import AggregatingProducer
from records.partition import hash_key
from tests.integration.aggregated_load import MODES, Load, reshard_under_load
from tests.integration.aggregated_support import (
    Answer,
    Forward,
    check_account,
    client_of,
    endpoint_of,
    merge,
    put_numbered,
    read_back,
    shard_id,
    split,
    tampering,
)
from tests.proxy_in_thread import kinesis_at, proxied
from tests.support import eventually

if TYPE_CHECKING:
    from types_boto3_kinesis import KinesisClient

Streams = Callable[..., str]


@pytest.mark.parametrize("mode", MODES)
def test_a_split_and_a_merge_under_load_quotas_and_faults_are_accounted_for_exactly(
    kinesis: "KinesisClient", local_kinesis: str, stream: Streams, mode: str
) -> None:
    name = stream()
    with proxied(local_kinesis, quotas=True, seed=7) as proxy:
        load = reshard_under_load(kinesis, proxy.url, name, mode)
    held = read_back(kinesis, name)
    times = check_account(held, load.puts, ordered=mode.startswith("ordered"))
    assert not [put for put in load.puts if put.error]
    assert len(times) == len(load.puts)
    check_that_it_was_hard(load, times)
    if mode == "same key":
        assert all(len({user.partition_key for user in h.users()}) == 1 for h in held)
    if mode == "alone":
        assert all(h.lone for h in held)


def check_that_it_was_hard(load: Load, times: "Counter[str]") -> None:
    """Each fault struck, all shards were in use, and answers were lost after the commit."""
    assert {name for name, times in load.struck.items() if not times} == set()
    assert load.shards == {shard_id(n) for n in range(4)}
    assert max(times.values()) > 1
    codes = {attempt.error_code for put in load.puts for attempt in put.attempts}
    assert codes >= {None, "ProvisionedThroughputExceededException", "InternalFailure"}


@dataclass
class Gate:
    """Holds the requests of an operation until it is opened, and keeps every request."""

    operation: str
    asked: threading.Event = field(default_factory=threading.Event)
    opened: threading.Event = field(default_factory=threading.Event)
    seen: list[tuple[str, Any]] = field(default_factory=list)
    before: Callable[[str, bytes, Forward], Answer | None] = lambda *_: None

    def __call__(self, operation: str, body: bytes, forward: Forward) -> Answer:
        self.seen.append((operation, json.loads(body)))
        if operation == self.operation:
            self.asked.set()
            assert self.opened.wait(60)
        return self.before(operation, body, forward) or forward(body)

    def count(self, operation: str) -> int:
        return sum(each == operation for each, _ in self.seen)


@contextmanager
def gated(
    stack: Endpoints, name: str, gate: Gate, **settings: Any
) -> Iterator[AggregatingProducer]:
    with tampering(endpoint_of(stack), gate) as url:
        try:
            with AggregatingProducer(client_of(url), name, **settings) as producer:
                yield producer
        finally:
            gate.opened.set()


def test_an_aggregate_across_a_split_is_sent_again_whole_and_the_shards_are_listed_once(
    kinesis: "KinesisClient", stack: Endpoints, stream: Streams
) -> None:
    name = stream()
    gate = Gate("PutRecords")
    settings: Any = {"max_aggregate_bytes": 2000, "max_in_flight": 1}
    with gated(stack, name, gate, **settings) as producer:
        first = put_numbered(producer, range(20))
        assert gate.asked.wait(30)
        # Buffered, in dozens of packs for a shard that is about to be no more.
        others = put_numbered(producer, range(20, 1500))
        split(kinesis, name)
        gate.opened.set()
        assert producer.flush(60)
    held = read_back(kinesis, name)
    times = check_account(held, first + others)
    assert set(times.values()) == {1}
    again = [put for put in first + others if len(put.attempts) > 1]
    assert {put.number for put in again} == {put.number for put in first}
    assert {tuple(a.error_code for a in put.attempts) for put in again} == {("WrongShard", None)}
    # Before the first record and after the wrong shard: not once for each record or pack.
    assert gate.count("ListShards") == 2
    # What straddled lies there, and KCL drops it.
    assert sum(not h.users() for h in held) == sum(not h.lone for h in held if not h.users()) == 1


def test_many_aggregates_on_the_road_at_a_split_have_the_shards_listed_once(
    kinesis: "KinesisClient", stack: Endpoints, stream: Streams
) -> None:
    name = stream()
    gate = Gate("PutRecords")
    with gated(stack, name, gate, linger=0, max_aggregate_bytes=1000) as producer:
        puts = put_numbered(producer, range(60))
        assert gate.asked.wait(30)
        for at in range(1, 6):  # More requests, while the first is on the road.
            before = gate.count("PutRecords")
            puts += put_numbered(producer, range(60 * at, 60 * at + 60))
            eventually(lambda: gate.count("PutRecords") > before)  # noqa: B023 - called at once
        split(kinesis, name)
        gate.opened.set()
        assert producer.flush(60)
    held = read_back(kinesis, name)
    check_account(held, puts)
    dropped = [h for h in held if not h.users()]
    assert len(dropped) > 2
    assert gate.count("ListShards") == 2
    # What failed for another reason, as on an engine under load, is none of this.
    moved = [sum(a.error_code == "WrongShard" for a in put.attempts) for put in puts]
    assert max(moved) == 1


def test_after_a_merge_what_was_bound_for_its_parents_stands(
    kinesis: "KinesisClient", stack: Endpoints, stream: Streams
) -> None:
    name = stream(shards=2)
    gate = Gate("PutRecords")
    with gated(stack, name, gate, max_aggregate_bytes=1000, max_in_flight=1) as producer:
        puts = put_numbered(producer, range(60))
        assert gate.asked.wait(30)
        puts += put_numbered(producer, range(60, 600))
        merge(kinesis, name, 0, 1)
        gate.opened.set()
        assert producer.flush(60)
    held = read_back(kinesis, name)
    assert set(check_account(held, puts).values()) == {1}
    assert {len(put.attempts) for put in puts} == {1}
    assert {put.future.result(0).shard_id for put in puts} == {shard_id(2)}
    assert all(h.users() for h in held)
    assert gate.count("ListShards") == 2


def test_same_key_aggregates_cannot_straddle_a_split(
    kinesis: "KinesisClient", stack: Endpoints, stream: Streams
) -> None:
    name = stream()
    gate = Gate("PutRecords")
    with gated(stack, name, gate, same_key=True, max_in_flight=1) as producer:
        puts = put_numbered(producer, range(100), keys=5)
        assert gate.asked.wait(30)
        puts += put_numbered(producer, range(100, 300), keys=5)
        split(kinesis, name)
        gate.opened.set()
        assert producer.flush(60)
    held = read_back(kinesis, name)
    assert set(check_account(held, puts).values()) == {1}
    # Nothing was dropped and nothing sent again, though the shards changed under way.
    assert all(len({user.partition_key for user in h.users()}) == 1 for h in held)
    assert {len(put.attempts) for put in puts} == {1}
    assert {put.future.result(0).shard_id for put in puts} == {shard_id(1), shard_id(2)}
    assert len(held) < 30


def test_a_list_of_shards_that_lags_confirms_nothing_and_nothing_is_sent_over_and_over(
    kinesis: "KinesisClient", stack: Endpoints, stream: Streams
) -> None:
    name = stream()
    old: list[Answer] = []

    def lag(operation: str, body: bytes, forward: Forward) -> Answer | None:
        if operation != "ListShards":
            return None
        if not old:
            old.append(forward(body))
        return old[0] if gate.count("ListShards") <= 4 else None

    gate = Gate("PutRecords", before=lag)
    with gated(stack, name, gate, max_in_flight=1) as producer:
        puts = put_numbered(producer, range(40))
        assert gate.asked.wait(30)
        split(kinesis, name)
        gate.opened.set()
        eventually(lambda: gate.count("ListShards") == 4)
        assert not any(put.future.done() for put in puts)
        assert producer.flush(60)
    held = read_back(kinesis, name)
    assert set(check_account(held, puts).values()) == {1}
    assert {len(put.attempts) for put in puts} == {2}
    # The one that straddled, and what became of it on the two new shards.
    assert gate.count("PutRecords") <= 3


def test_a_record_alone_stands_wherever_its_hash_lies_and_names_that_hash(
    kinesis: "KinesisClient", stack: Endpoints, stream: Streams
) -> None:
    name = stream()
    gate = Gate("PutRecords")
    with gated(stack, name, gate, aggregation=False, max_in_flight=1) as producer:
        puts = put_numbered(producer, range(40))
        chosen: Future[Any] = producer.put("elsewhere", b"x", explicit_hash_key=2**128 - 1)
        assert gate.asked.wait(30)
        split(kinesis, name)
        gate.opened.set()
        assert producer.flush(60)
    assert chosen.result(0).shard_id == shard_id(2)
    assert {len(put.attempts) for put in puts} == {1}
    held = [h for h in read_back(kinesis, name) if h.partition_key != "elsewhere"]
    assert set(check_account(held, puts).values()) == {1}
    # Routing is what was predicted, for the service is told the hash and not left to take it.
    entries = [
        entry for operation, body in gate.seen if operation == "PutRecords"
        for entry in body["Records"]
    ]  # fmt: skip
    assert len(entries) == 41
    for entry in entries:
        key = entry["PartitionKey"]
        place = 2**128 - 1 if key == "elsewhere" else hash_key(key)
        assert entry["ExplicitHashKey"] == str(place)


def test_a_stream_that_was_resharded_before_has_only_its_open_shards_used(
    kinesis: "KinesisClient", local_kinesis: str, stream: Streams
) -> None:
    name = stream()
    split(kinesis, name)
    merge(kinesis, name, 1, 2)
    with (
        proxied(local_kinesis, quotas=True) as proxy,
        AggregatingProducer(kinesis_at(proxy.url), name) as producer,
    ):
        puts = put_numbered(producer, range(100))
    assert set(check_account(read_back(kinesis, name), puts).values()) == {1}
    assert {put.future.result(0).shard_id for put in puts} == {shard_id(3)}
    assert {len(put.attempts) for put in puts} == {1}
