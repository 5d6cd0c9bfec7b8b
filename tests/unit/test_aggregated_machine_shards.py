"""The machine when the shards change: merges, splits, gaps, AUTO streams."""

from dataclasses import replace
from typing import Any

import pytest
from botocore.exceptions import ClientError

from producers.aggregated.machine import ListRequest
from producers.aggregated.values import Listed, PutResult
from producers.put_records import Failure, Stored, failure_of
from records.limits import MAX_HASH_KEY, MIB
from records.partition import Shard, ShardMap
from tests.unit.aggregated_machine_support import (
    DENIED,
    GONE,
    LOST,
    accept,
    answer,
    codes,
    ends,
    errors,
    fates,
    idle,
    inside,
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

GONE_FOR_NOW = Failure("ServiceUnavailable", "sorry", retriable=True)
MERGED = shard_map(
    1,
    first_id=9,
    closed=tuple(replace(shard, closed=True) for shard in shard_map(2).open_shards),
)
SPLIT = shard_map(2, first_id=1, closed=(Shard("shard-0", 0, MAX_HASH_KEY, closed=True),))


def test_what_cannot_be_routed_fails_with_the_reason_and_is_not_asked_for_in_a_hot_loop() -> None:
    machine = new_machine()
    accept(machine, b"1", 0.0)
    assert machine.step(0.0) == ListRequest()
    machine.shards_listed(GONE, now=0.0)
    (error,) = errors(machine)
    assert (error.error_code, error.attempts) == (GONE.code, ())
    idle(machine, 0.0)
    asked = 0
    now = 0.0
    while now < 20.0:
        accept(machine, b"2", now)
        now += 0.01
        if machine.step(now) is not None:
            asked += 1
            machine.shards_listed(GONE, now=now)
    assert 4 <= asked <= 60


def test_a_list_with_a_gap_is_not_believed() -> None:
    machine = new_machine()
    accept(machine, b"x", 0.0, place=10)
    lists(machine, 0.0, ShardMap([Shard("shard-0", 100, MAX_HASH_KEY)]))
    retry_at = machine.wake_at()
    assert retry_at is not None
    lists(machine, retry_at, shard_map(1))
    machine.flush()
    assert inside(sent(machine, retry_at)) == [[b"x"]]


def test_a_merge_confirms_at_once_what_the_new_shard_covers() -> None:
    machine = machine_with(2)
    accept(machine, b"x", 1.0, place=0)
    accept(machine, b"y", 1.0, place=MAX_HASH_KEY)
    machine.flush()
    reply(machine, sent(machine, 1.0), 1.0, Stored("shard-9", "1"), Stored("shard-9", "2"))
    assert ends(machine) == []
    lists(machine, 1.0, MERGED)
    results = [result for _, result in ends(machine)]
    places = [result[:2] for result in results if isinstance(result, PutResult)]
    assert places == [("shard-9", "1"), ("shard-9", "2")]
    assert [codes(result) for result in results] == [[None], [None]]
    nothing(machine, 1.0)


def test_a_split_sends_a_straddler_again_in_two_and_in_order() -> None:
    machine = machine_with(1, ordered=True)
    for n in range(4):
        accept(machine, b"%d" % n, 1.0, place=n % 2 * MAX_HASH_KEY)
    machine.flush()
    reply(machine, sent(machine, 1.0), 1.0, Stored("shard-1", "1"))
    accept(machine, b"4", 1.0, place=0)  # While the pack's place is in doubt.
    lists(machine, 1.0, SPLIT)
    assert ends(machine) == []
    again = sent(machine, 1.0)  # What was moved once leaves at once.
    assert sorted(inside(again)) == [[b"0", b"2", b"4"], [b"1", b"3"]]
    answer(machine, again, 1.5)
    attempts = {item.data: codes(result) for item, result in ends(machine)}
    assert attempts.pop(b"4") == [None]
    assert list(attempts.values()) == [["WrongShard", None]] * 4


def test_the_shards_are_listed_once_for_many_records() -> None:
    machine = machine_with(1, aggregation=False)
    for n in range(50):
        accept(machine, b"%d" % n, 1.0, place=n % 2 * MAX_HASH_KEY)
    machine.flush()
    request = sent(machine, 1.0)
    reply(machine, request, 1.0, *(Stored(f"shard-{1 + n % 2}", f"{n}") for n in range(50)))
    lists(machine, 1.0, SPLIT)
    assert len(ends(machine)) == 50
    idle(machine, 1.0)


def test_a_list_that_does_not_know_the_shard_is_asked_for_again_after_a_pause() -> None:
    machine = machine_with(1)
    accept(machine, b"x", 1.0, place=0)
    machine.flush()
    reply(machine, sent(machine, 1.0), 1.0, Stored("shard-1", "1"))
    now = 1.0
    for _ in range(5):
        lists(machine, now, shard_map(1))
        nothing(machine, now)
        wake = machine.wake_at()
        assert wake is not None
        assert now < wake <= now + 5
        now = wake
    lists(machine, now, SPLIT)
    assert fates(machine) == {b"x": "shard-1"}


def test_a_shard_that_does_not_change_goes_on_while_the_map_waits() -> None:
    machine = machine_with(2)
    closed = (replace(shard_map(2).open_shards[0], closed=True),)
    middle = MAX_HASH_KEY // 4
    half = shard_map(2).open_shards[1]
    split = ShardMap([*closed, Shard("s-2", 0, middle), Shard("s-3", middle + 1, 2**127 - 1), half])
    for n, place in enumerate((0, 2**127 - 1)):
        accept(machine, b"%d" % n, 1.0, place=place)
        machine.flush()
        if n == 0:
            first = sent(machine, 1.0)
    second = sent(machine, 1.0)
    reply(machine, first, 1.0, Stored("s-2", "1"))
    lists(machine, 1.0, split)
    accept(machine, b"held", 1.0, place=0)
    accept(machine, b"goes on", 1.0, place=MAX_HASH_KEY)
    machine.flush()
    assert fates(machine) == {b"0": "s-2"}  # That much the list tells at once.
    goes_on = sent(machine, 1.0)
    assert inside(goes_on) == [[b"goes on"]]
    reply(machine, second, 1.5, Stored("s-3", "1"))
    assert fates(machine) == {b"1": "s-3"}
    assert inside(sent(machine, 1.5)) == [[b"held"]]
    answer(machine, goes_on, 1.6)
    assert fates(machine) == {b"goes on": "shard-1"}


def test_in_order_a_pack_whose_place_is_in_doubt_is_not_overtaken() -> None:
    machine = machine_with(1, ordered=True)
    accept(machine, b"1", 1.0)
    machine.flush()
    reply(machine, sent(machine, 1.0), 1.0, Stored("shard-1", "1"))
    accept(machine, b"2", 1.0)
    machine.flush()
    assert machine.step(1.0) == ListRequest()
    nothing(machine, 1.0)
    machine.shards_listed(LOST, now=1.0)
    nothing(machine, 1.0)


def test_what_has_landed_in_doubt_says_so_when_it_is_given_up() -> None:
    """It may be read, so it must not look like a record that was never sent."""
    for give_up in ("age", "abandon", "denied"):
        machine = machine_with(1, max_record_age=5.0)
        accept(machine, b"1", 1.0)
        machine.flush()
        reply(machine, sent(machine, 1.0), 1.0, Stored("shard-1", "1"))
        assert machine.step(1.0) == ListRequest()
        if give_up == "abandon":
            machine.abandon("ProducerClosed", "enough")
        elif give_up == "denied":
            machine.shards_listed(DENIED, now=1.0)
        else:
            nothing(machine, 6.0)
        (error,) = errors(machine)
        assert codes(error) == ["WrongShard"]


def test_the_lanes_of_shards_that_are_gone_are_not_kept() -> None:
    machine = machine_with(4)
    for at in range(4):
        accept(machine, b"x", 1.0, place=at * (MAX_HASH_KEY // 4 + 1))
    machine.flush()
    answer(machine, sent(machine, 1.0), 1.0)
    gone = tuple(replace(shard, closed=True) for shard in shard_map(4).open_shards)
    for generation in range(5):
        new = shard_map(2, first_id=10 + 2 * generation, closed=gone)
        accept(machine, b"x", 2.0, place=0)
        machine.flush()
        reply(machine, sent(machine, 2.0), 2.0, Stored(new.open_shards[0].shard_id, "1"))
        lists(machine, 2.0, new)
        gone = tuple(replace(shard, closed=True) for shard in new.open_shards)
    assert machine.buffered_records == 0
    assert machine.held() <= 2


def test_a_list_tells_at_once_what_is_in_place_though_a_request_hangs() -> None:
    machine = machine_with(1, max_record_age=30.0)
    accept(machine, b"hangs", 1.0)
    machine.flush()
    hung = sent(machine, 1.0)
    accept(machine, b"low", 1.0, place=0)
    machine.flush()
    reply(machine, sent(machine, 1.0), 1.0, Stored("shard-1", "1"))
    lists(machine, 1.0, SPLIT)
    assert fates(machine) == {b"low": "shard-1"}
    refuse(machine, hung, 60.0, LOST)
    nothing(machine, 60.0)
    assert fates(machine) == {b"hangs": "RecordExpired"}


def test_the_latest_list_says_how_large_a_record_may_be() -> None:
    machine = machine_with(1)
    assert machine.max_record_bytes == MIB
    machine.want_maximum()
    assert machine.step(1.0) == ListRequest()
    machine.shards_listed(Listed(shard_map(1), max_record_bytes=10 * MIB), now=1.0)
    assert machine.max_record_bytes == 10 * MIB
    machine.want_maximum()
    assert machine.step(2.0) == ListRequest()
    machine.shards_listed(Listed(shard_map(1)), now=2.0)
    assert machine.max_record_bytes == 10 * MIB


def test_a_stream_that_is_still_being_made_is_waited_for() -> None:
    machine = new_machine()
    accept(machine, b"x", 0.0)
    assert machine.step(0.0) == ListRequest()
    told: Any = {"Error": {"Code": "ResourceInUseException", "Message": "it is being created"}}
    machine.shards_listed(failure_of(ClientError(told, "ListShards")), now=0.0)
    assert machine.buffered_records == 1
    at = machine.wake_at()
    assert at is not None
    assert machine.step(at) == ListRequest()


def test_records_of_a_merged_shard_leave_and_expire_by_age() -> None:
    machine = machine_with(2, max_record_age=10.0, linger=100.0)
    accept(machine, b"young", 4.0, place=0)
    accept(machine, b"old", 1.0, place=MAX_HASH_KEY)
    machine.flush()
    first = sent(machine, 4.0)
    assert inside(first) == [[b"old"], [b"young"]]
    refuse(machine, first, 4.0, GONE_FOR_NOW)
    machine.want_maximum()
    lists(machine, 4.0, MERGED)
    assert inside(sent(machine, 4.2)) == [[b"old", b"young"]]


def test_on_a_stream_that_spreads_records_itself_each_travels_alone_and_every_answer_counts() -> (
    None
):
    machine = machine_with(2, auto=True)
    for n in range(4):
        accept(machine, b"%d" % n, 1.0)
    machine.flush()
    request = sent(machine, 1.0)
    assert sorted(inside(request)) == [[b"0"], [b"1"], [b"2"], [b"3"]]
    assert set(shards_of(request)) == {"shard-0", "shard-1"}  # So that both limiters are used.
    reply(machine, request, 1.0, *(Stored("shard-1", f"{n}") for n in range(4)))
    assert set(fates(machine).values()) == {"shard-1"}
    idle(machine, 1.0)


def test_such_a_stream_is_listed_again_where_a_new_shard_answers_but_not_often() -> None:
    machine = machine_with(1, auto=True)
    lists_asked = 0
    for n in range(100):
        now = 1.0 + n / 10
        accept(machine, b"%d" % n, now)
        machine.flush()
        reply(machine, sent(machine, now), now, Stored("shard-7", f"{n}"))
        assert fates(machine) == {b"%d" % n: "shard-7"}
        if machine.step(now) == ListRequest():
            lists_asked += 1
            machine.shards_listed(Listed(shard_map(1), auto=True), now=now)  # Not known there yet.
    assert lists_asked == 1
    accept(machine, b"x", 20.0)
    machine.flush()
    reply(machine, sent(machine, 20.0), 20.0, Stored("shard-7", "100"))
    lists(machine, 20.0, shard_map(8), auto=True)
    for n in range(8):
        accept(machine, b"%d" % n, 21.0)
    machine.flush()
    assert len(set(shards_of(sent(machine, 21.0)))) == 8


def test_on_such_a_stream_order_is_refused_until_it_is_one_no_more() -> None:
    machine = machine_with(2, auto=True, ordered=True)
    accept(machine, b"1", 1.0)
    lists(machine, 1.0, shard_map(2), auto=True)
    (error,) = errors(machine)
    assert (error.error_code, error.retriable) == ("UnorderedStream", False)
    accept(machine, b"2", 2.0)
    nothing(machine, 2.0)
    assert len(errors(machine)) == 1
    accept(machine, b"3", 12.0)
    lists(machine, 12.0, shard_map(2))
    assert len(errors(machine)) == 1
    accept(machine, b"4", 13.0)
    machine.flush()
    assert inside(sent(machine, 13.0)) == [[b"4"]]


@pytest.mark.parametrize("covered", [True, False])
def test_a_stream_that_begins_to_spread_records_drops_what_was_packed_before(
    *, covered: bool
) -> None:
    machine = machine_with(2)
    places = (0, 1) if covered else (0, 2**127 - 1)
    for n, place in enumerate(places):
        accept(machine, b"%d" % n, 1.0, place=place)
    machine.flush()
    reply(machine, sent(machine, 1.0), 1.0, Stored("shard-8", "1"))
    half = Shard("shard-8", 0, 5)
    lists(machine, 1.0, ShardMap([*shard_map(2).open_shards, half]), auto=True)
    if covered:
        assert set(fates(machine).values()) == {"shard-8"}
    else:
        assert fates(machine) == {}
        assert sorted(inside(sent(machine, 9.0))) == [[b"0"], [b"1"]]


def test_what_waits_in_packs_is_taken_out_of_them_when_the_stream_begins_to_spread_records() -> (
    None
):
    machine = machine_with(2, linger=5.0)
    for n in (1, 2):
        accept(machine, b"%d" % n, 1.0, place=0)
    machine.want_maximum()
    lists(machine, 1.0, shard_map(2), auto=True)
    accept(machine, b"3", 1.0, place=0)
    machine.flush()
    request = sent(machine, 1.0)
    assert sorted(inside(request)) == [[b"1"], [b"2"], [b"3"]]
    answer(machine, request, 1.0)
    assert len(fates(machine)) == 3


def test_the_first_list_tells_how_large_a_record_may_be() -> None:
    machine = new_machine()
    machine.want_maximum()
    assert machine.step(0.0) == ListRequest()
    machine.shards_listed(Listed(shard_map(1), max_record_bytes=5 << 20), now=0.0)
    assert machine.max_record_bytes == 5 << 20
    assert machine.wake_at() is None
