import itertools
import math
import random
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from producers.aggregated.lanes import OUTER_PARTITION_KEY, Pack
from producers.aggregated.machine import ListRequest, Machine, PutRequest
from producers.aggregated.values import Item, PutResult, Settings
from producers.errors import DeliveryError
from producers.put_records import Failure, Record
from records.aggregation import AggregateBuilder, UserRecord, decode, is_aggregate
from records.limits import KPL_AGGREGATE_BYTES, MAX_HASH_KEY, MAX_RECORD_BYTES, record_bytes
from records.partition import hash_key
from tests.unit.aggregated_machine_support import (
    DENIED,
    SLOW,
    accept,
    answer,
    machine_with,
    sent,
    shard_map,
)

users = st.lists(
    st.tuples(
        st.text(alphabet="abé", min_size=1, max_size=4),
        st.binary(max_size=300),
        st.none() | st.integers(0, MAX_HASH_KEY),
    ),
    min_size=1,
    max_size=40,
)


@given(users=users, most=st.integers(64, 400), shards=st.integers(1, 4))
@settings(max_examples=200)
def test_whatever_is_put_arrives_once_in_order_and_within_the_sizes(
    users: list[tuple[str, bytes, int | None]], most: int, shards: int
) -> None:
    machine = machine_with(shards, max_aggregate_bytes=most)
    for key, data, explicit in users:
        machine.accept(key, data, explicit, None, now=1.0)
    machine.flush()
    arrived: dict[str, list[UserRecord]] = {}
    while (request := machine.step(1.0)) is not None:
        assert isinstance(request, PutRequest)
        assert len({lane.shard.shard_id for lane in request.lanes}) == len(request.records)
        for record, lane in zip(request.records, request.lanes, strict=True):
            assert record.explicit_hash_key is not None
            assert lane.shard.covers(record.explicit_hash_key)
            inside = decode(record.data)
            if inside is None:
                place = record.explicit_hash_key
                inside = [UserRecord(record.partition_key, record.data, place)]
            else:
                assert record.partition_key == OUTER_PARTITION_KEY
                assert record_bytes(record.partition_key, record.data) <= most
            arrived.setdefault(lane.shard.shard_id, []).extend(inside)
        answer(machine, request, 1.0)
    shards_known = shard_map(shards)
    for shard_id, found in arrived.items():
        put = [
            (key, data)
            for key, data, explicit in users
            if shards_known.shard_for(hash_key(key) if explicit is None else explicit).shard_id
            == shard_id
        ]
        assert [(user.partition_key, user.data) for user in found] == put
    results = [each.result for each in machine.take_settled()]
    assert len(results) == len(users) == sum(map(len, arrived.values()))
    assert machine.buffered_records == machine.buffered_bytes == 0


@given(sizes=st.lists(st.integers(0, 200), min_size=2, max_size=40), most=st.integers(64, 600))
@settings(max_examples=200)
def test_a_pack_is_as_full_as_the_next_record_allows(sizes: list[int], most: int) -> None:
    machine = machine_with(max_aggregate_bytes=most)
    for size in sizes:
        accept(machine, b"x" * size, 1.0)
    (lane,) = machine._lanes.values()
    packs = [[len(item.data) for item in pack.items] for pack in lane.packs]
    assert [size for pack in packs for size in pack] == sizes
    for pack, following in itertools.pairwise(packs):
        builder = AggregateBuilder(max_bytes=most - len(OUTER_PARTITION_KEY))
        held = [builder.try_add("k", b"x" * size) for size in [*pack, following[0]]]
        assert not all(held)


def item(data: bytes, *, key: str = "mine", explicit: int | None = None) -> Item:
    return Item(1, key, data, explicit, None, 0.0)


def test_a_record_alone_travels_as_it_is_with_its_hash_key() -> None:
    wire = Pack(item(b"data"), max_bytes=KPL_AGGREGATE_BYTES).seal()
    assert wire == Record("mine", b"data", hash_key("mine"))
    wire = Pack(item(b"data", explicit=7), max_bytes=KPL_AGGREGATE_BYTES).seal()
    assert wire == Record("mine", b"data", 7)


@pytest.mark.parametrize("explicit", [None, 7])
def test_a_record_alone_that_looks_like_an_aggregate_is_wrapped(explicit: int | None) -> None:
    builder = AggregateBuilder(max_bytes=100_000)
    builder.try_add("inner", b"x" * 60_000)
    blob = builder.build()
    wire = Pack(item(blob, explicit=explicit), max_bytes=KPL_AGGREGATE_BYTES).seal()
    assert wire.explicit_hash_key == (hash_key("mine") if explicit is None else explicit)
    assert is_aggregate(wire.data)
    assert decode(wire.data) == [UserRecord("mine", blob, explicit)]


def test_a_record_too_large_for_an_aggregate_travels_alone_and_in_its_place() -> None:
    machine = machine_with()
    large = b"L" * (MAX_RECORD_BYTES - 1)
    for data in (b"before", large, b"after"):
        accept(machine, data, 1.0)
    machine.flush()
    order = []
    for _ in range(3):
        request = sent(machine, 1.0)
        order.append(request.records[0].data)
        answer(machine, request, 1.0)
    assert order == [b"before", large, b"after"]


def test_a_record_lingers_no_longer_than_it_should() -> None:
    machine = machine_with(linger=0.5)
    accept(machine, b"1", 10.0)
    accept(machine, b"2", 10.4)
    assert machine.step(10.49) is None
    assert machine.wake_at() == 10.5
    assert len(decode(sent(machine, 10.5).records[0].data) or ()) == 2


def test_a_full_pack_and_a_flushed_one_do_not_linger() -> None:
    machine = machine_with(linger=5.0, max_aggregate_bytes=100)
    accept(machine, b"x" * 40, 10.0)
    assert machine.step(10.0) is None
    accept(machine, b"x" * 40, 10.0)
    request = sent(machine, 10.0)
    answer(machine, request, 10.0)
    assert machine.step(10.0) is None
    machine.flush()
    assert sent(machine, 10.0).records
    accept(machine, b"later", 10.0)
    assert machine.step(10.0) is None


def test_one_pack_of_a_shard_is_on_the_road_whatever_waits() -> None:
    machine = machine_with(max_aggregate_bytes=64)
    for n in range(9):
        accept(machine, b"%d" % n * 30, 10.0)
    machine.flush()
    request = sent(machine, 10.0)
    assert len(request.records) == 1
    assert machine.step(10.0) is None
    machine.put_answered(request, [SLOW], now=10.0)
    assert machine.step(10.0) is None
    again_at = machine.wake_at()
    assert again_at is not None
    assert 10.0 < again_at <= 10.1
    assert sent(machine, again_at).records[0] is request.records[0]


def test_the_shards_share_requests_of_500_records_and_ten_mebibytes() -> None:
    machine = machine_with(1200)
    step = (MAX_HASH_KEY + 1) // 1200
    for at in range(1200):
        machine.accept("k", b"x", at * step, None, now=1.0)
    machine.flush()
    counts = []
    seen = set[str]()
    while (request := machine.step(1.0)) is not None:
        assert isinstance(request, PutRequest)
        counts.append(len(request.records))
        seen.update(lane.shard.shard_id for lane in request.lanes)
    assert counts == [500, 500, 200]
    assert len(seen) == 1200
    machine.abandon("Test", "enough")
    for at in range(12):
        machine.accept("k", b"x" * (MAX_RECORD_BYTES - 1), at * step, None, now=2.0)
    machine.flush()
    counts = []
    while (request := machine.step(2.0)) is not None:
        assert isinstance(request, PutRequest)
        assert sum(record_bytes(r.partition_key, r.data) for r in request.records) <= 10 * 2**20
        counts.append(len(request.records))
    assert counts == [10, 2]


def test_no_shard_starves_when_a_request_cannot_carry_all() -> None:
    machine = machine_with(20)
    step = (MAX_HASH_KEY + 1) // 20
    for _ in range(3):
        for at in range(20):
            machine.accept("k", b"x" * 900_000, at * step, None, now=1.0)
    machine.flush()
    served: list[str] = []
    for _ in range(2):
        request = sent(machine, 1.0)
        served += [lane.shard.shard_id for lane in request.lanes]
        answer(machine, request, 1.0)
    assert len(set(served)) == 20


def test_a_fatal_error_fails_the_record_with_all_about_it_and_not_the_next() -> None:
    machine = machine_with(max_aggregate_bytes=64)
    machine.accept("k", b"one" * 20, 5, "id-1", now=1.0)
    machine.accept("k", b"two", 5, "id-2", now=1.0)
    machine.flush()
    request = sent(machine, 1.0)
    machine.put_answered(request, [SLOW], now=1.0)
    request = sent(machine, 2.0)
    machine.put_answered(request, DENIED, now=2.0)
    answer(machine, sent(machine, 2.0), 2.0)
    first, second = machine.take_settled()
    assert isinstance(first.result, DeliveryError)
    assert (first.result.error_code, first.result.attempts) == ("AccessDeniedException", 2)
    assert not first.result.retriable
    lost = first.result.record
    assert (lost.partition_key, lost.data, lost.explicit_hash_key, lost.record_id) == (
        ("k", b"one" * 20, 5, "id-1")
    )
    assert second.result == PutResult("shard-0", "2.0", 0, 1, "id-2")


def test_a_record_that_spoils_a_request_fails_alone() -> None:
    machine = machine_with(3)
    step = (MAX_HASH_KEY + 1) // 3
    for at in range(3):
        machine.accept("k", b"poison" if at == 1 else b"good", at * step, None, now=1.0)
    machine.flush()
    refused = Failure("InvalidArgumentException", "one of them is bad", retriable=False)
    requests = 0
    while (request := machine.step(1.0)) is not None:
        assert isinstance(request, PutRequest)
        requests += 1
        if any(record.data == b"poison" for record in request.records):
            machine.put_answered(request, refused, now=1.0)
        else:
            answer(machine, request, 1.0)
    fates = {each.item.data: type(each.result) for each in machine.take_settled()}
    assert fates == {b"good": PutResult, b"poison": DeliveryError}
    assert requests == 4
    for at in range(3):
        machine.accept("k", b"after", at * step, None, now=2.0)
    machine.flush()
    assert len(sent(machine, 2.0).records) == 3


def test_what_grows_too_old_is_given_up_with_the_last_error_and_the_rest_goes_on() -> None:
    machine = machine_with(max_record_age=10.0)
    accept(machine, b"old", 0.0)
    accept(machine, b"young", 5.0)
    request = sent(machine, 5.0)
    machine.put_answered(request, [SLOW], now=9.95)
    machine.step(10.0)
    settled = machine.take_settled()
    assert [each.item.data for each in settled] == [b"old"]
    error = settled[0].result
    assert isinstance(error, DeliveryError)
    assert error.error_code == "RecordExpired"
    assert "slow down" in error.error_message
    assert error.retriable
    assert machine.buffered_records == 1


@given(age=st.floats(0.001, 60), at=st.floats(0, 1e9))
@settings(max_examples=200)
def test_waking_when_told_always_finds_something_to_do(age: float, at: float) -> None:
    assume(at + age > at)
    machine = Machine(Settings(max_record_age=age), rng=random.Random(1))
    accept(machine, b"x", at)
    assert machine.step(at) == ListRequest()
    machine.shards_listed(SLOW, now=at)
    for _ in range(300):
        wake = machine.wake_at()
        if wake is None:
            break
        if machine.step(wake) is not None:
            machine.shards_listed(SLOW, now=wake)
        elif not machine.take_settled():
            raise AssertionError("woke for nothing")
    else:
        raise AssertionError("never idle, though nothing is left to deliver")
    assert machine.buffered_records == 0


def test_abandon_settles_everything_and_later_answers_change_nothing() -> None:
    machine = machine_with(max_aggregate_bytes=64)
    for n in range(5):
        accept(machine, b"%d" % n * 30, 1.0)
    machine.flush()
    request = sent(machine, 1.0)
    machine.abandon("ProducerClosed", "enough")
    settled = machine.take_settled()
    assert [each.result.attempts for each in settled] == [1, 0, 0, 0, 0]
    assert all(isinstance(each.result, DeliveryError) for each in settled)
    answer(machine, request, 2.0)
    machine.shards_listed(shard_map(3), now=2.0)
    assert machine.take_settled() == []
    assert machine.buffered_records == machine.buffered_bytes == 0
    assert machine.step(2.0) is None
    assert machine.wake_at() is None


@pytest.mark.parametrize(
    "options",
    [
        {"linger": -1},
        {"linger": math.nan},
        {"max_record_age": math.nan},
        {"max_record_age": 0},
        {"max_aggregate_bytes": 63},
        {"max_record_bytes": 64},
    ],
)
def test_settings_out_of_bounds_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must"):
        Settings(**options)
