"""The machine when its stream is gone, or made anew: shards of the same IDs that cover others."""

import pytest

from producers.aggregated.machine import ListRequest
from producers.aggregated.values import Listed
from producers.put_records import Failure, Stored
from records.limits import MAX_HASH_KEY
from tests.unit.aggregated_machine_support import (
    DENIED,
    GONE,
    LOST,
    SLOW,
    accept,
    answer,
    ends,
    errors,
    fates,
    inside,
    lists,
    machine_with,
    nothing,
    refuse,
    reply,
    sent,
    shard_map,
)


def test_a_stream_made_anew_under_its_old_name_is_not_taken_for_the_old_one() -> None:
    """An aggregate for the old one may straddle."""
    machine = machine_with(1)
    for place in (0, MAX_HASH_KEY):
        accept(machine, b"x", 1.0, place=place)
    machine.flush()
    refuse(machine, sent(machine, 1.0), 1.0, GONE)
    assert len(errors(machine)) == 2
    for place in (0, MAX_HASH_KEY):
        accept(machine, b"y", 2.0, place=place)
    machine.flush()
    lists(machine, 2.0, shard_map(2))
    request = sent(machine, 2.0)
    assert [record.explicit_hash_key for record in request.records] == [0, MAX_HASH_KEY]
    answer(machine, request, 2.0)
    assert len(ends(machine)) == 2


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("listed", ["gone", "denied", "made anew"])
def test_nothing_is_confirmed_by_the_map_of_a_stream_that_was_not_found(
    *, ordered: bool, listed: str
) -> None:
    machine = machine_with(1, ordered=ordered)
    waiting = [] if ordered else [b"waits"]
    accept(machine, b"lost", 1.0)
    machine.flush()
    request = sent(machine, 1.0)
    for data in waiting:
        accept(machine, data, 1.0, place=0)
    refuse(machine, request, 1.0, GONE)
    assert fates(machine) == {b"lost": GONE.code}
    accept(machine, b"low", 2.0, place=0)  # While the list is wanted, or on its way.
    assert machine.step(2.0) == ListRequest()
    accept(machine, b"high", 2.0, place=MAX_HASH_KEY)
    machine.flush()
    nothing(machine, 2.0)
    if listed != "made anew":
        machine.shards_listed(GONE if listed == "gone" else DENIED, now=2.0)
        assert set(fates(machine)) == {b"low", b"high", *waiting}
        accept(machine, b"low", 30.0, place=0)
        accept(machine, b"high", 30.0, place=MAX_HASH_KEY)
        machine.flush()
        assert machine.step(30.0) == ListRequest()
    machine.shards_listed(Listed(shard_map(2)), now=30.0)
    again = sent(machine, 30.0)
    low = [*waiting, b"low"] if listed == "made anew" else [b"low"]
    assert sorted(inside(again)) == sorted([low, [b"high"]])


def test_what_is_on_the_road_while_the_stream_is_not_found_is_judged_by_its_new_shards() -> None:
    machine = machine_with(1)
    for data, place in ((b"first", 0), (b"low", 0), (b"high", MAX_HASH_KEY)):
        accept(machine, data, 1.0, place=place)
        if data != b"low":
            machine.flush()
            request = sent(machine, 1.0)
            if data == b"first":
                first = request
    refuse(machine, first, 1.0, GONE)
    assert fates(machine) == {b"first": GONE.code}
    reply(machine, request, 1.5, Stored("shard-0", "1"))
    assert fates(machine) == {}
    lists(machine, 1.5, shard_map(2))
    assert fates(machine) == {}
    assert sorted(inside(sent(machine, 9.0))) == [[b"high"], [b"low"]]


def test_a_list_that_was_asked_for_before_the_stream_was_not_found_is_asked_for_again() -> None:
    machine = machine_with(1)
    accept(machine, b"lost", 1.0)
    machine.flush()
    request = sent(machine, 1.0)
    machine.want_maximum()
    assert machine.step(1.0) == ListRequest()
    refuse(machine, request, 1.0, GONE)
    assert fates(machine) == {b"lost": GONE.code}
    accept(machine, b"x", 1.0)
    machine.flush()
    machine.shards_listed(Listed(shard_map(1)), now=1.0)
    nothing(machine, 1.0)
    lists(machine, 9.0, shard_map(2))
    assert inside(sent(machine, 9.0)) == [[b"x"]]


@pytest.mark.parametrize("failure", [GONE, DENIED])
def test_in_order_what_waits_is_not_given_up_before_what_is_on_the_road(failure: Failure) -> None:
    machine = machine_with(1, ordered=True)
    accept(machine, b"1", 1.0)
    machine.flush()
    request = sent(machine, 1.0)
    machine.want_maximum()
    assert machine.step(1.0) == ListRequest()
    machine.shards_listed(GONE, now=1.0)
    accept(machine, b"2", 1.0)
    assert fates(machine) == {}
    refuse(machine, request, 2.0, LOST)
    assert fates(machine) == {}
    assert machine.step(9.0) == ListRequest()
    machine.shards_listed(failure, now=9.0)
    assert [*fates(machine).items()] == [(b"1", failure.code), (b"2", failure.code)]


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("whole", [True, False])
def test_what_comes_back_after_the_stream_was_not_found_waits_for_its_new_shards(
    *, ordered: bool, whole: bool
) -> None:
    machine = machine_with(2, ordered=ordered, max_record_age=None)
    requests = []
    for data, place in ((b"lost", 0), (b"back", MAX_HASH_KEY)):
        accept(machine, data, 1.0, place=place)
        machine.flush()
        requests.append(sent(machine, 1.0))
    refuse(machine, requests[0], 1.0, GONE)
    assert fates(machine) == {b"lost": GONE.code}
    nothing(machine, 1.0)
    if whole:
        refuse(machine, requests[1], 2.0, LOST)
    else:
        reply(machine, requests[1], 2.0, SLOW)
    assert machine.wake_at() is not None
    lists(machine, 9.0, shard_map(1))
    assert inside(sent(machine, 99.0)) == [[b"back"]]


def test_in_order_nothing_expires_behind_what_is_on_the_road_to_a_stream_that_is_gone() -> None:
    machine = machine_with(2, ordered=True, max_record_age=30.0)
    requests = []
    for data, place in ((b"lost", 0), (b"1", MAX_HASH_KEY)):
        accept(machine, data, 1.0, place=place)
        machine.flush()
        requests.append(sent(machine, 1.0))
    accept(machine, b"2", 1.0, place=MAX_HASH_KEY)
    refuse(machine, requests[0], 2.0, GONE)
    assert fates(machine) == {b"lost": GONE.code}
    assert machine.step(2.0) == ListRequest()
    nothing(machine, 31.5)
    assert fates(machine) == {}
    refuse(machine, requests[1], 32.0, LOST)
    nothing(machine, 32.0)
    assert [*fates(machine)] == [b"1", b"2"]


def test_what_is_unrouted_expires_by_its_age_whenever_it_came_back() -> None:
    machine = machine_with(2, max_record_age=30.0)
    requests = []
    for data, place in ((b"lost", 0), (b"young", MAX_HASH_KEY)):
        accept(machine, data, 10.0, place=place)
        machine.flush()
        requests.append(sent(machine, 10.0))
    accept(machine, b"old", 9.0, place=0)
    refuse(machine, requests[0], 11.0, GONE)
    assert machine.step(11.0) == ListRequest()
    refuse(machine, requests[1], 12.0, LOST)
    machine.shards_listed(LOST, now=12.0)
    fates(machine)
    machine.step(39.5)
    assert fates(machine) == {b"old": "RecordExpired"}


def test_in_order_a_stream_that_spread_records_and_is_gone_is_asked_for() -> None:
    machine = machine_with(1, auto=True, ordered=True)
    machine.want_maximum()
    assert machine.step(1.0) == ListRequest()
    machine.shards_listed(GONE, now=1.0)
    accept(machine, b"x", 9.0)
    machine.flush()
    lists(machine, 9.0, shard_map(1))
    assert inside(sent(machine, 9.0)) == [[b"x"]]
