"""The machine when the shards change: merges, splits, gaps, a stream made anew."""

import random
from dataclasses import replace
from typing import Any

from botocore.exceptions import ClientError

from producers.aggregated.machine import ListRequest, Machine
from producers.aggregated.values import PutResult, Settings
from producers.errors import DeliveryError
from producers.put_records import Failure, Stored, failure_of
from records.aggregation import decode
from records.limits import MAX_HASH_KEY
from records.partition import Shard, ShardMap
from tests.unit.aggregated_machine_support import accept, answer, machine_with, sent, shard_map


def test_what_cannot_be_routed_fails_with_the_reason_and_is_not_asked_for_in_a_hot_loop() -> None:
    machine = Machine(Settings(), rng=random.Random(1))
    accept(machine, b"1", 0.0)
    missing = Failure("ResourceNotFoundException", "no stream", retriable=False)
    assert machine.step(0.0) == ListRequest()
    machine.shards_listed(missing, now=0.0)
    (settled,) = machine.take_settled()
    assert isinstance(settled.result, DeliveryError)
    assert settled.result.error_code == "ResourceNotFoundException"
    assert settled.result.attempts == 0
    assert machine.wake_at() is None
    asked = 0
    now = 0.0
    while now < 20.0:
        accept(machine, b"2", now)
        now += 0.01
        if machine.step(now) is not None:
            asked += 1
            machine.shards_listed(missing, now=now)
    assert 4 <= asked <= 60


def test_a_list_with_a_gap_is_not_believed() -> None:
    machine = Machine(Settings(), rng=random.Random(1))
    machine.accept("k", b"x", 10, None, now=0.0)
    machine.step(0.0)
    machine.shards_listed(ShardMap([Shard("shard-0", 100, MAX_HASH_KEY)]), now=0.0)
    retry_at = machine.wake_at()
    assert retry_at is not None
    assert machine.step(retry_at) == ListRequest()
    machine.shards_listed(shard_map(1), now=retry_at)
    machine.flush()
    assert sent(machine, retry_at).records[0].data == b"x"


def test_a_merge_confirms_at_once_what_the_new_shard_covers() -> None:
    machine = machine_with(2)
    machine.accept("k", b"x", 0, None, now=1.0)
    machine.accept("k", b"y", MAX_HASH_KEY, None, now=1.0)
    machine.flush()
    request = sent(machine, 1.0)
    machine.put_answered(request, [Stored("shard-9", "1"), Stored("shard-9", "2")], now=1.0)
    assert machine.take_settled() == []
    assert machine.step(1.0) == ListRequest()
    closed = (
        Shard("shard-0", 0, 2**127 - 1, closed=True),
        Shard("shard-1", 2**127, MAX_HASH_KEY, closed=True),
    )
    machine.shards_listed(shard_map(1, first_id=9, closed=closed), now=1.0)
    results = [each.result for each in machine.take_settled()]
    assert results == [
        PutResult("shard-9", "1", 0, 1, None),
        PutResult("shard-9", "2", 0, 1, None),
    ]
    assert machine.step(1.0) is None


def test_a_split_sends_a_straddler_again_in_two_and_in_order() -> None:
    machine = machine_with(1)
    places = [0, MAX_HASH_KEY, 0, MAX_HASH_KEY]
    for n, place in enumerate(places):
        machine.accept("k", b"%d" % n, place, None, now=1.0)
    machine.flush()
    request = sent(machine, 1.0)
    machine.put_answered(request, [Stored("shard-1", "1")], now=1.0)
    machine.accept("k", b"4", 0, None, now=1.0)  # while the pack's place is in doubt
    assert machine.step(1.0) == ListRequest()
    assert machine.take_settled() == []
    closed = (Shard("shard-0", 0, MAX_HASH_KEY, closed=True),)
    machine.shards_listed(shard_map(2, first_id=1, closed=closed), now=1.0)
    machine.flush()
    again = sent(machine, 1.0)
    inside = [[user.data for user in decode(r.data) or ()] for r in again.records]
    assert inside == [[b"0", b"2", b"4"], [b"1", b"3"]]
    answer(machine, again, 1.5)
    attempts = [each.result.attempts for each in machine.take_settled()]
    assert sorted(attempts) == [1, 2, 2, 2, 2]


def test_the_lanes_of_shards_that_are_gone_are_not_kept() -> None:
    machine = machine_with(4)
    for at in range(4):
        machine.accept("k", b"x", at * (MAX_HASH_KEY // 4 + 1), None, now=1.0)
    machine.flush()
    answer(machine, sent(machine, 1.0), 1.0)
    gone = tuple(replace(shard, closed=True) for shard in shard_map(4).open_shards)
    for generation in range(5):
        new = shard_map(2, first_id=10 + 2 * generation, closed=gone)
        machine.accept("k", b"x", 0, None, now=2.0)
        machine.flush()
        request = sent(machine, 2.0)
        where = new.open_shards[0].shard_id
        machine.put_answered(request, [Stored(where, "1")], now=2.0)
        assert machine.step(2.0) == ListRequest()
        machine.shards_listed(new, now=2.0)
        gone = tuple(replace(shard, closed=True) for shard in new.open_shards)
    assert machine.buffered_records == 0
    assert len(machine._lanes) <= 2


def test_a_stream_made_anew_under_its_old_name_is_not_taken_for_the_old_one() -> None:
    """Its shards have the same IDs and cover less, so an aggregate for the old one may straddle."""
    machine = machine_with(1)
    for hash_key_of in (0, MAX_HASH_KEY):
        machine.accept("k", b"x", hash_key_of, None, now=1.0)
    machine.flush()
    gone = Failure("ResourceNotFoundException", "no such stream", retriable=False)
    machine.put_answered(sent(machine, 1.0), gone, now=1.0)
    assert all(isinstance(each.result, DeliveryError) for each in machine.take_settled())
    for hash_key_of in (0, MAX_HASH_KEY):
        machine.accept("k", b"y", hash_key_of, None, now=2.0)
    machine.flush()
    assert machine.step(2.0) == ListRequest()
    machine.shards_listed(shard_map(2), now=2.0)
    request = sent(machine, 2.0)
    assert [record.explicit_hash_key for record in request.records] == [0, MAX_HASH_KEY]
    answer(machine, request, 2.0)
    assert all(isinstance(each.result, PutResult) for each in machine.take_settled())


def test_a_stream_that_is_still_being_made_is_waited_for() -> None:
    machine = Machine(Settings(), rng=random.Random(1))
    machine.accept("k", b"x", None, None, now=0.0)
    assert machine.step(0.0) == ListRequest()
    told: Any = {"Error": {"Code": "ResourceInUseException", "Message": "it is being created"}}
    machine.shards_listed(failure_of(ClientError(told, "ListShards")), now=0.0)
    assert machine.buffered_records == 1
    at = machine.wake_at()
    assert at is not None
    assert machine.step(at) == ListRequest()
