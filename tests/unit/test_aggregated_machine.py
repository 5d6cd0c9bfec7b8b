"""The machine in quiet times: packing, lingering, requests and their limits, the end."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from producers.aggregated.departure import PutRequest
from producers.aggregated.machine import ListRequest, Machine
from producers.aggregated.pack import OUTER_PARTITION_KEY
from producers.aggregated.values import PutResult, Settings
from producers.errors import DeliveryError
from producers.put_records import Stored
from records.aggregation import UserRecord, decode
from records.limits import MAX_HASH_KEY, MAX_RECORD_BYTES, record_bytes
from records.partition import hash_key
from tests.unit.aggregated_machine_support import (
    LOST,
    SLOW,
    accept,
    answer,
    codes,
    ends,
    errors,
    idle,
    inside,
    item,
    lists,
    machine_with,
    new_machine,
    nothing,
    refuse,
    reply,
    sent,
    shard_map,
    shards_of,
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


def requests(machine: Machine, now: float) -> Iterator[PutRequest]:
    """Yield what is sent, and answer it."""
    while (request := machine.step(now)) is not None:
        assert isinstance(request, PutRequest)
        yield request
        answer(machine, request, now)


@given(
    users=users,
    most=st.integers(64, 400),
    shards=st.integers(1, 4),
    ordered=st.booleans(),
    aggregation=st.booleans(),
)
@settings(max_examples=200)
def test_whatever_is_put_arrives_once_in_order_and_within_the_sizes(
    *,
    users: list[tuple[str, bytes, int | None]],
    most: int,
    shards: int,
    ordered: bool,
    aggregation: bool,
) -> None:
    machine = machine_with(
        shards, max_aggregate_bytes=most, ordered=ordered, aggregation=aggregation
    )
    for key, data, explicit in users:
        accept(machine, data, 1.0, key, place=explicit)
    machine.flush()
    arrived: dict[str, list[tuple[str, bytes]]] = {}
    for request in requests(machine, 1.0):
        if ordered:
            assert len(set(shards_of(request))) == len(request.records)
        for record, (lane, _) in zip(request.records, request.packs, strict=True):
            assert record.explicit_hash_key is not None
            assert lane.shard.covers(record.explicit_hash_key)
            found = decode(record.data)
            if found is None:
                found = [UserRecord(record.partition_key, record.data)]
            else:
                assert aggregation
                assert record.partition_key == OUTER_PARTITION_KEY
                assert record_bytes(record.partition_key, record.data) <= most
            arrived.setdefault(lane.shard.shard_id, []).extend(user[:2] for user in found)
    known = shard_map(shards)
    for shard_id, there in arrived.items():
        assert there == [
            (key, data)
            for key, data, explicit in users
            if known.shard_for(hash_key(key) if explicit is None else explicit).shard_id == shard_id
        ]
    results = [result for _, result in ends(machine)]
    assert len(results) == len(users) == sum(map(len, arrived.values()))
    assert machine.buffered_records == machine.buffered_bytes == 0


def test_a_result_tells_where_the_record_is_and_each_attempt() -> None:
    machine = machine_with()
    for data in (b"1", b"2"):
        accept(machine, data, 1.0)
    machine.flush()
    refuse(machine, request := sent(machine, 1.0), 1.5, LOST)
    again = sent(machine, 9.0)
    assert again.records[0] is request.records[0]
    reply(machine, again, 9.5, Stored("shard-0", "77"))
    (_, first), (_, second) = ends(machine)
    assert isinstance(first, PutResult)
    assert isinstance(second, PutResult)
    assert first[:3] == ("shard-0", "77", 0)
    assert second[:3] == ("shard-0", "77", 1)
    assert (
        first.attempts
        == second.attempts
        == ((1.5, 0.5, LOST.code, LOST.message), (9.5, 0.5, None, None))
    )


def test_a_record_lingers_no_longer_than_it_should() -> None:
    machine = machine_with(linger=0.5)
    assert machine.wake_at() is None
    assert accept(machine, b"1", 10.0)
    assert machine.wake_at() == 10.5
    assert not accept(machine, b"2", 10.4)
    nothing(machine, 10.49)
    assert inside(sent(machine, 10.5)) == [[b"1", b"2"]]


def test_a_record_does_not_linger_until_it_is_too_old() -> None:
    machine = machine_with(linger=600.0, max_record_age=30.0)
    accept(machine, b"1", 10.0)
    assert machine.wake_at() == 25.0
    assert inside(sent(machine, 25.0)) == [[b"1"]]


@pytest.mark.parametrize("aggregation", [True, False])
def test_a_full_pack_leaves_at_once_if_the_road_is_free(*, aggregation: bool) -> None:
    machine = machine_with(linger=5.0, max_aggregate_records=2, aggregation=aggregation)
    accept(machine, b"1", 10.0)
    accept(machine, b"2", 10.0)
    accept(machine, b"3", 10.0)
    expected = [[b"1", b"2"]] if aggregation else [[b"1"], [b"2"], [b"3"]]
    request = sent(machine, 10.0)
    assert inside(request) == expected
    accept(machine, b"4", 10.0)
    nothing(machine, 10.0)  # Others may come along while the first is on the road.
    answer(machine, request, 10.1)
    assert inside(sent(machine, 10.1)) == ([[b"3", b"4"]] if aggregation else [[b"4"]])


def test_what_is_flushed_leaves_at_once_and_what_comes_after_lingers() -> None:
    machine = machine_with(linger=5.0)
    accept(machine, b"1", 10.0)
    nothing(machine, 10.0)
    machine.flush()
    assert inside(sent(machine, 10.0)) == [[b"1"]]
    accept(machine, b"2", 10.0)
    nothing(machine, 14.9)


def test_a_record_too_large_for_an_aggregate_travels_alone_and_in_its_place() -> None:
    machine = machine_with(ordered=True, rate=100.0)
    large = b"L" * (MAX_RECORD_BYTES - 1)
    for data in (b"before", large, b"after"):
        accept(machine, data, 1.0)
    machine.flush()
    assert [inside(request) for request in requests(machine, 1.0)] == [
        [[b"before"]],
        [[large]],
        [[b"after"]],
    ]


def test_with_same_key_only_records_of_one_key_travel_together() -> None:
    machine = machine_with(same_key=True)
    for data, key, place in (
        (b"1", "a", None),
        (b"2", "b", None),
        (b"3", "a", None),
        (b"4", "a", 5),
    ):
        accept(machine, data, 1.0, key, place=place)
    machine.flush()
    assert sorted(inside(sent(machine, 1.0))) == [[b"1", b"3"], [b"2"], [b"4"]]


def test_in_order_one_pack_of_a_shard_is_on_the_road_whatever_waits() -> None:
    machine = machine_with(2, max_aggregate_bytes=64, ordered=True)
    for n in range(9):
        accept(machine, b"%d" % n * 30, 10.0, place=0)
    accept(machine, b"other", 10.0, place=MAX_HASH_KEY)
    machine.flush()
    request = sent(machine, 10.0)
    assert shards_of(request) == ["shard-0", "shard-1"]
    nothing(machine, 10.0)
    reply(machine, request, 10.0, SLOW, Stored("shard-1", "1"))
    nothing(machine, 10.0)
    again_at = machine.wake_at()
    assert again_at is not None
    assert 10.0 < again_at <= 10.1
    assert sent(machine, again_at).records[0] is request.records[0]


def test_out_of_order_several_packs_of_a_shard_travel_at_once_up_to_the_bound() -> None:
    machine = machine_with(max_aggregate_bytes=64, max_in_flight=2)
    road = []
    for n in range(3):
        accept(machine, b"%d" % n * 30, 10.0)
        accept(machine, b"%d" % n * 30, 10.0)
        machine.flush()
        if n < 2:
            road.append(sent(machine, 10.0))
    assert [len(request.records) for request in road] == [2, 2]
    nothing(machine, 10.0)
    answer(machine, road[1], 10.1)
    assert len(sent(machine, 10.1).records) == 2


def test_the_shards_share_requests_of_500_records_and_ten_mebibytes() -> None:
    machine = machine_with(1200)
    step = (MAX_HASH_KEY + 1) // 1200
    for at in range(1200):
        accept(machine, b"x", 1.0, place=at * step)
    machine.flush()
    seen = list(requests(machine, 1.0))
    assert [len(request.records) for request in seen] == [500, 500, 200]
    assert len({name for request in seen for name in shards_of(request)}) == 1200
    for at in range(12):
        accept(machine, b"x" * (MAX_RECORD_BYTES - 1), 99.0, place=at * step)
    machine.flush()
    seen = list(requests(machine, 99.0))
    assert [len(request.records) for request in seen] == [10, 2]
    for request in seen:
        assert sum(record_bytes(r.partition_key, r.data) for r in request.records) <= 10 * 2**20


def test_no_shard_starves_when_a_request_cannot_carry_all() -> None:
    machine = machine_with(20, rate=100.0)
    step = (MAX_HASH_KEY + 1) // 20
    for n in range(3):
        for at in range(20):
            accept(machine, b"x" * 900_000, 1.0 + n, place=at * step)
    machine.flush()
    served: list[str] = []
    for _ in range(2):
        request = sent(machine, 4.0)
        served += shards_of(request)
        answer(machine, request, 4.0)
    assert len(set(served)) == 20


def test_a_shard_is_sent_no_more_than_its_quota_and_delays_no_other() -> None:
    machine = machine_with(2, aggregation=False, rate=0.5)
    for n in range(1_000):
        accept(machine, b"%d" % n, 1.0, place=0)
    accept(machine, b"other", 1.0, place=MAX_HASH_KEY)
    machine.flush()
    at_once = [name for request in requests(machine, 1.0) for name in shards_of(request)]
    assert at_once.count("shard-0") == 500
    assert at_once.count("shard-1") == 1
    wake = machine.wake_at()
    assert wake == pytest.approx(1.002, abs=1e-4)
    assert 240 < sum(len(request.records) for request in requests(machine, 1.5)) <= 250
    assert 250 <= sum(len(request.records) for request in requests(machine, 9.0)) < 260


@given(age=st.floats(0.001, 60), at=st.floats(0, 1e9))
@settings(max_examples=200)
def test_waking_when_told_always_finds_something_to_do(age: float, at: float) -> None:
    assume(at + age > at)
    machine = new_machine(max_record_age=age)
    accept(machine, b"x", at)
    assert machine.step(at) == ListRequest()
    machine.shards_listed(SLOW, now=at)
    for _ in range(300):
        wake = machine.wake_at()
        if wake is None:
            break
        if machine.step(wake) is not None:
            machine.shards_listed(SLOW, now=wake)
        elif not ends(machine):
            raise AssertionError("woke for nothing")
    else:
        raise AssertionError("never idle, though nothing is left to deliver")
    assert machine.buffered_records == 0


def test_abandon_settles_everything_and_later_answers_change_nothing() -> None:
    machine = machine_with(max_aggregate_bytes=64, ordered=True)
    for n in range(5):
        accept(machine, b"%d" % n * 30, 1.0)
    machine.flush()
    request = sent(machine, 1.0)
    machine.abandon("ProducerClosed", "enough")
    abandoned = errors(machine)
    assert [codes(error) for error in abandoned] == [["Unanswered"], [], [], [], []]
    assert {(error.error_code, error.retriable) for error in abandoned} == {
        ("ProducerClosed", True)
    }
    answer(machine, request, 2.0)
    assert ends(machine) == []
    assert machine.buffered_records == machine.buffered_bytes == 0
    idle(machine, 2.0)
    assert machine.held() == 0


def test_a_list_that_comes_after_abandon_changes_nothing() -> None:
    machine = new_machine()
    accept(machine, b"x", 1.0)
    assert machine.step(1.0) == ListRequest()
    machine.abandon("ProducerClosed", "enough")
    (error,) = errors(machine)
    assert error.attempts == ()
    machine.shards_listed(SLOW, now=2.0)
    idle(machine, 2.0)


def test_accept_says_when_it_must_be_asked_again() -> None:
    machine = new_machine(linger=1.0)
    assert accept(machine, b"1", 0.0)  # The shards must be listed.
    assert not accept(machine, b"2", 0.0)
    lists(machine, 0.0, shard_map(1))
    sent(machine, 0.0)
    machine.wake_at()
    assert accept(machine, b"3", 5.0)  # Nothing waited, so this is what to wake for.
    machine.wake_at()
    assert not accept(machine, b"4", 5.5)


@pytest.mark.parametrize(
    "options",
    [
        {"linger": -1},
        {"linger": math.nan},
        {"linger": math.inf},
        {"max_record_age": math.nan},
        {"max_record_age": 0},
        {"max_aggregate_bytes": 63},
        {"max_aggregate_records": 0},
        {"max_in_flight": 0},
        {"rate": 0},
        {"rate": math.nan},
        {"rate": math.inf},
        {"skip_failed": True},
    ],
)
def test_settings_out_of_bounds_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        Settings(**options)


def test_an_item_knows_its_key_and_its_size() -> None:
    machine = machine_with()
    accept(machine, b"12345", 0.0, "é")
    assert machine.buffered_bytes == 7
    assert item(b"", "a", place=3).key == ("a", 3) != item(b"", "a").key
    machine.abandon("Test", "enough")
    assert isinstance(ends(machine)[0][1], DeliveryError)
