"""The machine when things fail: throttles, lost answers, poisoned records, age, those behind."""

import sys
from types import FrameType
from typing import Any

import pytest

from producers.aggregated.departure import PutRequest
from producers.aggregated.failures import Remedy, remedy_of_request
from producers.aggregated.machine import Machine
from producers.aggregated.values import PutResult
from producers.put_records import Failure, Stored
from records.limits import MAX_HASH_KEY, MIB
from tests.unit.aggregated_machine_support import (
    DENIED,
    GONE,
    LOST,
    REFUSED,
    SLOW,
    accept,
    answer,
    codes,
    ends,
    errors,
    fates,
    inside,
    item,
    machine_with,
    nothing,
    refuse,
    reply,
    sent,
    shards_of,
)

INTERNAL = Failure("InternalFailure", "sorry", retriable=True)


def drain(machine: Machine, poison: bytes) -> int:
    """Answer everything, and refuse each request with poison in it; return how many were."""
    refused = 0
    while (request := machine.step(1.0)) is not None:
        assert isinstance(request, PutRequest)
        if any(poison in data for each in inside(request) for data in each):
            refused += 1
            refuse(machine, request, 1.0, REFUSED)
        else:
            answer(machine, request, 1.0)
    return refused


@pytest.mark.parametrize("failure", [SLOW, INTERNAL])
def test_a_shard_that_fails_backs_off_and_delays_no_other(failure: Failure) -> None:
    machine = machine_with(2)
    for place in (0, MAX_HASH_KEY):
        accept(machine, b"1", 1.0, place=place)
    machine.flush()
    reply(machine, sent(machine, 1.0), 1.0, failure, Stored("shard-1", "1"))
    accept(machine, b"2", 1.0, place=0)
    accept(machine, b"3", 1.0, place=MAX_HASH_KEY)
    machine.flush()
    assert inside(sent(machine, 1.0)) == [[b"3"]]
    nothing(machine, 1.0)
    assert inside(sent(machine, 1.11)) == [[b"1"], [b"2"]]


def test_only_a_throttle_slows_the_shard_down() -> None:
    machine = machine_with(2)
    for place in (0, MAX_HASH_KEY):
        accept(machine, b"1", 1.0, place=place)
    machine.flush()
    reply(machine, sent(machine, 1.0), 1.0, SLOW, INTERNAL)
    shares = machine.shares()
    assert shares["shard-0"] < shares["shard-1"] == 1.0


def test_a_request_that_fails_makes_all_wait() -> None:
    machine = machine_with(2)
    accept(machine, b"1", 1.0, place=0)
    machine.flush()
    refuse(machine, sent(machine, 1.0), 1.0, LOST)
    accept(machine, b"2", 1.0, place=MAX_HASH_KEY)
    machine.flush()
    nothing(machine, 1.0)
    again_at = machine.wake_at()
    assert again_at is not None
    assert 1.0 < again_at <= 1.1
    assert inside(sent(machine, again_at)) == [[b"1"], [b"2"]]


def test_the_back_off_grows_to_five_seconds_and_ends_with_success() -> None:
    machine = machine_with(max_record_age=None)
    accept(machine, b"1", 0.0)
    machine.flush()
    now, pauses = 0.0, []
    for _ in range(60):
        refuse(machine, sent(machine, now), now, LOST)
        wake = machine.wake_at()
        assert wake is not None
        pauses.append(wake - now)
        now = wake
    assert max(pauses) <= 5.0
    assert max(pauses[:2]) <= 0.2
    assert max(pauses[10:]) > 2.5
    answer(machine, sent(machine, now), now)
    accept(machine, b"2", now)
    machine.flush()
    refuse(machine, sent(machine, now), now, LOST)
    wake = machine.wake_at()
    assert wake is not None
    assert wake - now <= 0.1


@pytest.mark.parametrize(
    "failure", [DENIED, GONE, Failure("KMSAccessDeniedException", "", retriable=False)]
)
def test_what_will_never_pass_fails_at_once(failure: Failure) -> None:
    machine = machine_with()
    accept(machine, b"1", 1.0)
    machine.flush()
    refuse(machine, sent(machine, 1.0), 1.0, failure)
    (error,) = errors(machine)
    assert (error.error_code, error.retriable, codes(error)) == (
        failure.code,
        False,
        [failure.code],
    )
    assert error.record.data == b"1"


def test_each_code_has_its_remedy() -> None:
    remedies = {
        SLOW: Remedy.RETRY,
        INTERNAL: Remedy.RETRY,
        LOST: Remedy.RETRY,
        REFUSED: Remedy.SPLIT,
        Failure("ParamValidationError", "", retriable=False): Remedy.SPLIT,
        DENIED: Remedy.NONE,
        GONE: Remedy.NONE,
    }
    assert {failure: remedy_of_request(failure) for failure in remedies} == remedies


@pytest.mark.parametrize("aggregation", [True, False])
@pytest.mark.parametrize("ordered", [True, False])
def test_a_poisoned_record_fails_alone(*, aggregation: bool, ordered: bool) -> None:
    machine = machine_with(3, ordered=ordered, aggregation=aggregation, max_aggregate_records=10)
    step = (MAX_HASH_KEY + 1) // 3
    for n in range(60):
        data = b"poison" if n == 37 else b"%d" % n
        accept(machine, data, 1.0, place=n % 3 * step + n)
    machine.flush()
    refused = drain(machine, b"poison")
    settled = fates(machine)
    assert len(settled) == 60
    assert settled.pop(b"poison") == REFUSED.code
    assert REFUSED.code not in settled.values()
    assert refused <= 7  # 60 in halves


def test_several_poisoned_records_in_one_aggregate_are_all_found() -> None:
    machine = machine_with()
    for n in range(40):
        accept(machine, b"poison %d" % n if n % 10 == 3 else b"%d" % n, 1.0)
    machine.flush()
    drain(machine, b"poison")
    lost = {data for data, fate in fates(machine).items() if fate == REFUSED.code}
    assert lost == {b"poison 3", b"poison 13", b"poison 23", b"poison 33"}


def test_where_all_is_refused_the_search_ends_soon() -> None:
    machine = machine_with(max_aggregate_records=100, rate=100.0)
    for n in range(5_000):
        accept(machine, b"%d" % n, 1.0)
    machine.flush()
    assert drain(machine, b"") < 1_100
    lost = errors(machine)
    assert len(lost) == 5_000
    assert {error.error_code for error in lost} == {REFUSED.code}
    found = [error for error in lost if not error.retriable]
    assert 400 < len(found) < 600  # Each by itself; the others are only under suspicion.
    assert machine.buffered_records == 0


@pytest.mark.parametrize("poisoned", [40, 100, 499])
def test_however_many_poisoned_records_are_in_a_row_no_other_is_given_up(poisoned: int) -> None:
    machine = machine_with(aggregation=False, rate=100.0, max_record_age=None)
    for n in range(500):
        accept(machine, b"poison %d" % n if n < poisoned else b"%d" % n, 1.0)
    machine.flush()
    drain(machine, b"poison")
    kept = {data for data, fate in fates(machine).items() if fate == "shard-0"}
    assert kept == {b"%d" % n for n in range(poisoned, 500)}


def test_what_comes_after_a_large_record_that_expired_does_not_wait_for_its_quota() -> None:
    machine = machine_with(rate=0.01, max_record_age=30.0, linger=0.0)
    for now in (1.0, 1.2):
        accept(machine, bytes(MIB - 10), now)
    answer(machine, sent(machine, 1.2), 1.2)
    nothing(machine, 1.2)
    nothing(machine, 31.2)
    assert [*fates(machine).values()] == ["RecordExpired"]
    accept(machine, b"small", 32.0)
    answer(machine, sent(machine, 32.0), 32.0)
    assert fates(machine) == {b"small": "shard-0"}


def test_in_order_nothing_expires_behind_what_is_on_the_road() -> None:
    machine = machine_with(ordered=True, max_record_age=30.0, linger=0.0)
    accept(machine, b"1", 0.0)
    request = sent(machine, 0.0)
    accept(machine, b"2", 1.0)
    nothing(machine, 31.0)
    assert machine.wake_at() is None
    accept(machine, b"3", 40.0)
    refuse(machine, request, 60.0, LOST)
    nothing(machine, 60.0)
    assert [*fates(machine).items()] == [
        (b"1", "RecordExpired"),
        (b"2", "RecordExpired"),
        (b"3", "PrecedingRecordFailed"),
    ]


def test_what_grows_too_old_is_given_up_with_the_last_error_and_the_rest_goes_on() -> None:
    machine = machine_with(max_record_age=10.0)
    accept(machine, b"old", 0.0)
    accept(machine, b"young", 5.0)
    machine.flush()
    request = sent(machine, 5.0)
    nothing(machine, 10.0)
    assert ends(machine) == []  # Never while it is on the road.
    reply(machine, request, 10.5, SLOW)
    nothing(machine, 10.5)
    (error,) = errors(machine)
    assert (error.record.data, error.error_code) == (b"old", "RecordExpired")
    assert "slow down" in error.error_message
    assert error.retriable
    assert codes(error) == [SLOW.code]
    again = sent(machine, 12.0)
    assert inside(again) == [[b"young"]]
    answer(machine, again, 12.0)
    (_, result) = ends(machine)[0]
    assert codes(result) == [SLOW.code, None]


def test_without_an_age_nothing_is_given_up() -> None:
    machine = machine_with(max_record_age=None)
    accept(machine, b"1", 0.0)
    machine.flush()
    refuse(machine, sent(machine, 0.0), 0.0, LOST)
    assert inside(sent(machine, 1e6)) == [[b"1"]]


@pytest.mark.parametrize("skip_failed", [False, True])
def test_in_order_what_is_given_up_takes_those_behind_it_along(*, skip_failed: bool) -> None:
    machine = machine_with(ordered=True, skip_failed=skip_failed, max_aggregate_records=1)
    puts = (
        (b"1", "a", None),
        (b"2", "a", None),
        (b"3", "b", None),
        (b"4", "a", 7),
        (b"5", "a", None),
    )
    for data, key, place in puts:
        accept(machine, data, 1.0, key, place=place)
    machine.flush()
    refuse(machine, sent(machine, 1.0), 1.0, REFUSED)
    taken = fates(machine)
    assert taken.pop(b"1") == REFUSED.code
    behind = {} if skip_failed else {b"2": "PrecedingRecordFailed", b"5": "PrecedingRecordFailed"}
    assert taken == behind
    drain(machine, b"none")
    kept = {b"3", b"4", b"2", b"5"} if skip_failed else {b"3", b"4"}
    assert set(fates(machine)) == kept


def test_a_record_put_after_the_failure_goes_its_way() -> None:
    machine = machine_with(ordered=True)
    accept(machine, b"1", 1.0)
    machine.flush()
    refuse(machine, sent(machine, 1.0), 1.0, DENIED)
    accept(machine, b"2", 1.0)
    machine.flush()
    answer(machine, sent(machine, 1.0), 1.0)
    assert fates(machine) == {b"1": DENIED.code, b"2": "shard-0"}


def test_those_behind_an_expired_record_go_with_it_though_they_are_young() -> None:
    machine = machine_with(ordered=True, max_record_age=10.0)
    accept(machine, b"old", 0.0)
    machine.flush()
    reply(machine, sent(machine, 9.0), 9.95, SLOW)
    accept(machine, b"behind", 9.95)
    accept(machine, b"other", 9.95, "another key")
    assert inside(sent(machine, 10.06)) == [[b"other"]]
    assert fates(machine) == {b"old": "RecordExpired", b"behind": "PrecedingRecordFailed"}


class BrokenOffError(KeyboardInterrupt):
    """Ctrl-C at a line of our choice."""


def interrupt_at(line: int) -> Any:
    """Return a trace function that raises at the nth line of the machine and what it calls."""
    seen = 0

    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal seen
        if "/producers/aggregated/" not in frame.f_code.co_filename:
            return None
        if event == "line":
            seen += 1
            if seen == line:
                raise BrokenOffError
        return trace

    return trace


@pytest.mark.parametrize("mapped", [True, False])
def test_an_accept_that_is_broken_off_anywhere_loses_and_doubles_nothing(*, mapped: bool) -> None:
    outcomes = set()
    for line in range(1, 200):
        machine = machine_with(max_aggregate_records=2) if mapped else machine_with(auto=False)
        if not mapped:
            machine._router._map = None
        accept(machine, b"before", 1.0)
        broken = item(b"broken")
        previous = sys.gettrace()
        sys.settrace(interrupt_at(line))
        try:
            machine.accept(broken, now=1.0)
        except BrokenOffError:
            sys.settrace(previous)
            is_taken = machine.recover(broken)
        else:
            sys.settrace(previous)
            break
        outcomes.add(is_taken)
        expected = {b"before", b"broken"} if is_taken else {b"before"}
        assert machine.buffered_records == len(expected)
        accept(machine, b"after", 1.0)
        machine.abandon("Test", "enough") if not mapped else machine.flush()
        drain(machine, b"none")
        settled = [each.data for each, _ in ends(machine)]
        assert sorted(settled) == sorted(expected | {b"after"})
        assert machine.buffered_records == machine.buffered_bytes == 0
    else:
        raise AssertionError("it was never left alone")
    assert outcomes == {True, False}


def test_a_record_that_waits_behind_a_lost_answer_is_not_sent_before_it_in_order() -> None:
    machine = machine_with(ordered=True, max_aggregate_records=1)
    accept(machine, b"1", 1.0)
    accept(machine, b"2", 1.0, "another key")
    machine.flush()
    refuse(machine, sent(machine, 1.0), 1.0, LOST)
    order = []
    while machine.buffered_records:
        request = sent(machine, 5.0)
        order += inside(request)
        answer(machine, request, 5.0)
    assert order == [[b"1"], [b"2"]]
    assert all(isinstance(result, PutResult) for _, result in ends(machine))


def test_shards_are_named_in_the_order_of_the_request() -> None:
    machine = machine_with(2)
    accept(machine, b"1", 1.0, place=MAX_HASH_KEY)
    accept(machine, b"2", 2.0, place=0)
    machine.flush()
    assert shards_of(sent(machine, 2.0)) == ["shard-1", "shard-0"]
