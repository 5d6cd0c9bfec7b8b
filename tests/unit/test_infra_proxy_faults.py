import json
import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.proxy.fault import WINDOWS, Action, Fault, Subject
from infra.proxy.faults import KEPT_STRIKES, MAX_FAULTS, FaultPlan, Strike

PUT = Subject("PutRecords", "orders")
GET = Subject("GetRecords", "orders", "shardId-000000000001")


class Time:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def plan_with(*faults: Fault, seed: int = 0, clock: Time | None = None) -> FaultPlan:
    plan = FaultPlan(seed=seed, clock=clock or Time())
    plan.add(*faults)
    return plan


def lose(count: int | None = None, **fields: object) -> Fault:
    return Fault(action=Action.LOSE, operations=("PutRecords",), count=count, **fields)  # type: ignore[arg-type]


def call(plan: FaultPlan, subject: Subject = PUT, status: int | None = 200) -> list[str]:
    """One call from arrival to settlement; returns the faults that struck it."""
    strikes = plan.arrived(subject)
    happened = status is not None and 200 <= status < 300
    for strike in strikes:
        plan.settle(strike, happened=happened)
    return [strike.fault for strike in strikes if happened]


def test_nothing_strikes_unasked():
    plan = plan_with()
    assert plan.arrived(PUT) == []
    assert not plan.active
    assert plan.throttled("PutRecords", "orders", "shardId-000000000000") is None
    assert plan.frozen_seconds(PUT) == 0


def test_exactly_the_asked_number_of_the_asked_operation_is_struck():
    plan = plan_with(lose(2))
    calls = [GET, PUT, Subject("PutRecord", "orders"), PUT, PUT, PUT]
    assert [bool(call(plan, subject)) for subject in calls] == [
        *(False, True, False),
        *(True, False, False),
    ]
    assert not plan.active


def test_a_strike_that_came_to_nothing_stays_due():
    plan = plan_with(lose(1))
    struck = [bool(call(plan, status=status)) for status in (400, 500, None, 200, 200)]
    assert struck == [False, False, False, True, False]


def test_two_requests_at_once_do_not_share_one_strike():
    plan = plan_with(lose(1))
    (first,) = plan.arrived(PUT)
    assert plan.arrived(PUT) == []
    assert plan.active, "it may still be given back"
    plan.settle(first, happened=False)
    assert [strike.number for strike in plan.arrived(PUT)] == [3]


@given(
    due=st.integers(1, 20),
    statuses=st.lists(st.sampled_from([200, 400, 500, None]), max_size=40),
)
def test_strikes_are_the_smaller_of_what_was_asked_and_what_succeeded(
    due: int, statuses: list[int | None]
):
    plan = plan_with(lose(due))
    struck = sum(len(call(plan, status=status)) for status in statuses)
    status = plan.status()
    assert struck == min(due, statuses.count(200))
    assert status["pending"] == status["by_name"]["lose-PutRecords"]["pending"] == due - struck
    assert status["lost"] == plan.lost == struck == len(status["strikes"])
    assert plan.active == (struck < due)


def test_a_strike_is_settled_once():
    plan = plan_with(lose(1))
    (strike,) = plan.arrived(PUT)
    plan.settle(strike, happened=True)
    plan.settle(strike, happened=True)
    plan.settle(strike, happened=False)
    assert plan.lost == 1
    assert plan.arrived(PUT) == []


def test_the_status_gives_every_strike_its_reason_and_is_json():
    clock = Time()
    plan = plan_with(lose(2, name="gone"), clock=clock)
    call(plan, GET)
    clock.now += 2.5
    call(plan, PUT)
    reason = "fault 'gone': the answer is lost after the commit"
    assert json.loads(json.dumps(plan.status(), allow_nan=False)) == {
        "seed": 0,
        "lost": 1,
        "pending": 1,
        "by_name": {
            "gone": {"action": "lose", "struck": 1, "affected": 1, "pending": 1, "reason": reason}
        },
        "by_action": {"lose": 1},
        "by_operation": {"PutRecords": {"lose": 1}},
        "strikes": [
            {
                "request": 2,
                "operation": "PutRecords",
                "stream": "orders",
                "shard": None,
                "action": "lose",
                "fault": "gone",
                "reason": reason,
                "at": 2.5,
            }
        ],
    }


def test_the_list_of_strikes_is_bounded_and_the_count_is_not():
    plan = plan_with(lose(KEPT_STRIKES + 5))
    for _ in range(KEPT_STRIKES + 5):
        call(plan)
    assert len(plan.status()["strikes"]) == KEPT_STRIKES
    assert plan.status()["strikes"][-1]["request"] == KEPT_STRIKES + 5
    assert plan.lost == KEPT_STRIKES + 5


def test_made_up_operations_are_counted_without_a_bound_and_listed_with_one():
    plan = plan_with(Fault(action=Action.LOSE, count=1000))
    for number in range(1000):
        call(plan, Subject(f"GET /{number}"))
    counts = plan.status()["by_operation"]
    assert len(counts) < 300
    assert sum(count["lose"] for count in counts.values()) == 1000


def test_a_fault_that_is_there_already_adds_its_count():
    plan = plan_with(lose(2), lose(3), lose())
    assert plan.status()["by_name"]["lose-PutRecords"]["pending"] == 6
    plan.add(lose(1, name="lose-PutRecords"))
    assert plan.status()["pending"] == 7
    plan.add(lose(1, skip=1))
    plan.add(lose(1, skip=1))  # it lets one pass from now on, and the other from then on
    assert set(plan.status()["by_name"]) == {f"lose-PutRecords{end}" for end in ("", "-2", "-3")}


def test_a_name_is_of_one_fault_and_faults_are_taken_all_or_none():
    plan = plan_with(lose(name="mine"))
    with pytest.raises(ValueError, match="name: there is another fault 'mine'"):
        plan.add(lose(5), Fault(action=Action.RESET_AFTER, name="mine"))
    assert plan.status()["pending"] == 1
    with pytest.raises(ValueError, match=f"takes {MAX_FAULTS} faults"):
        plan.add(*(lose(name=str(number)) for number in range(MAX_FAULTS)))
    assert list(plan.status()["by_name"]) == ["mine"]


def test_cleared_faults_strike_no_more_and_what_is_on_its_way_is_still_counted():
    plan = plan_with(lose(5, name="a"), Fault(action=Action.DELAY, seconds=1, name="b"))
    strikes = {strike.fault: strike for strike in plan.arrived(PUT)}
    assert set(strikes) == {"a", "b"}
    assert plan.clear("c") == 0
    assert plan.clear("a") == 1
    plan.settle(strikes["a"], happened=True)
    plan.settle(strikes["b"], happened=False)
    assert call(plan) == ["b"]
    assert plan.lost == 1
    plan.add(lose(1, name="a"))
    assert plan.clear() == 2
    assert plan.arrived(PUT) == []
    assert not plan.active


@pytest.mark.parametrize(
    ("fault", "struck"),
    [
        (lose(2, skip=3), "...xx..."),
        (lose(skip=1), ".x......"),
        (lose(probability=0.999999), "xxxxxxxx"),
        (lose(for_seconds=3), "xxx....."),
        (lose(for_seconds=3, after_seconds=2), "..xxx..."),
        (lose(for_seconds=4, after_seconds=2, skip=2), "....xx.."),
        (lose(3, after_seconds=4), "....xxx."),
        (Fault(action=Action.LOSE, stream="others"), "........"),
        (Fault(action=Action.LOSE, shard="shardId-000000000001"), "........"),
        (Fault(action=Action.LOSE), "x......."),
    ],
)
def test_when_and_how_often_a_fault_strikes_a_request_a_second(fault: Fault, struck: str):
    clock = Time()
    plan = plan_with(fault, clock=clock)
    seen = ""
    for _ in struck:
        seen += "x" if call(plan) else "."
        clock.now += 1
    assert seen == struck


def test_a_shard_is_that_of_reads():
    plan = plan_with(Fault(action=Action.LOSE, shard="shardId-000000000001", count=9))
    other = Subject("GetRecords", "orders", "shardId-000000000002")
    assert [bool(call(plan, subject)) for subject in (GET, other, PUT)] == [True, False, False]


def test_a_subscription_is_never_sent_twice():
    plan = plan_with(Fault(action=Action.SEND_TWICE))
    assert plan.arrived(Subject("SubscribeToShard", "orders", "shardId-000000000001")) == []
    assert call(plan) == ["send-twice"]


FAULTS = [
    Fault(action=Action.LOSE, probability=0.4),
    Fault(action=Action.DELAY, seconds=1, probability=0.5),
    Fault(action=Action.SEND_TWICE, operations=("PutRecords",), probability=0.3, skip=2),
    Fault(action=Action.ERROR, operations=("GetRecords",), probability=0.6, count=5),
    Fault(action=Action.PARTIAL, share=0.5, probability=0.7),
]
SUBJECTS = st.lists(st.sampled_from([PUT, GET, Subject("ListShards")]), max_size=60)


def run(plan: FaultPlan, clock: Time, subjects: list[Subject], gaps: list[float]) -> list[object]:
    told: list[object] = []
    for subject, gap in zip(subjects, gaps, strict=True):
        for strike in plan.arrived(subject):
            fails = plan.fails(strike, 20) if strike.action is Action.PARTIAL else None
            told.append((strike, fails))
            plan.settle(strike, happened=True)
        clock.now += gap
    return told


@given(SUBJECTS, st.integers(0, 2**64), st.data())
def test_the_same_seed_and_requests_meet_the_same_strikes_whatever_the_timing(
    subjects: list[Subject], seed: int, data: st.DataObject
):
    length = len(subjects)
    gaps = data.draw(st.lists(st.floats(0, 1e6), min_size=length, max_size=length))
    slow, fast = Time(), Time()
    told = run(plan_with(*FAULTS, seed=seed, clock=slow), slow, subjects, gaps)
    assert told == run(plan_with(*FAULTS, seed=seed, clock=fast), fast, subjects, [0.0] * length)


def test_another_seed_meets_others():
    subjects = [PUT, GET] * 50
    told = [run(plan_with(*FAULTS, seed=seed), Time(), subjects, [0.0] * 100) for seed in (1, 2, 1)]
    assert told[0] == told[2] != told[1]
    one, two = (plan_with(lose(probability=0.5), seed=seed) for seed in (1, 2))
    assert [call(one) for _ in range(50)] != [call(two) for _ in range(50)]


@given(SUBJECTS, st.integers(0, 1000))
def test_another_fault_does_not_change_the_draws_of_one(subjects: list[Subject], seed: int):
    one = Fault(action=Action.DELAY, seconds=1, probability=0.5)
    more = [Fault(action=Action.LOSE, probability=0.5), Fault(action=Action.REPEAT, name="r")]
    alone = plan_with(one, seed=seed)
    among = plan_with(more[0], one, more[1], seed=seed)
    for subject in subjects:
        here = [s for s in among.arrived(subject) if s.action is Action.DELAY]
        assert here == alone.arrived(subject)


@given(SUBJECTS, st.integers(0, 1000))
def test_when_a_fault_may_strike_does_not_change_what_it_draws(subjects: list[Subject], seed: int):
    """What was drawn while it could not strike is gone: the rest is as if it could have."""
    clock = Time()
    always = plan_with(lose(name="x", probability=0.5), seed=seed)
    later = plan_with(lose(name="x", probability=0.5, after_seconds=10), seed=seed, clock=clock)
    for number, subject in enumerate(subjects):
        clock.now = 100 + number
        wanted = always.arrived(subject)
        assert later.arrived(subject) == (wanted if number >= 10 else [])


def test_chance_is_about_what_it_says():
    plan = plan_with(lose(probability=0.2), seed=3)
    assert 300 < sum(bool(call(plan)) for _ in range(2000)) < 500


@given(st.permutations([a for a in Action if a not in WINDOWS]))
def test_no_two_strikes_of_a_request_contradict_each_other(actions: list[Action]):
    needs = {Action.DELAY: {"seconds": 1.0}, Action.PARTIAL: {"share": 0.5}}
    faults = [Fault(action=action, count=9, **needs.get(action, {})) for action in actions]  # type: ignore[arg-type]
    plan = plan_with(*faults, *(Fault(action=Action.LOSE, count=1, name=str(n)) for n in range(2)))
    for subject in (PUT, GET):
        struck = Counter(strike.action for strike in plan.arrived(subject))
        ends = [*(Action.LOSE, Action.RESET_BEFORE, Action.RESET_AFTER)]
        ends += [Action.ERROR, Action.EXPIRE_ITERATOR]
        assert max(struck.values()) == 1
        assert sum(struck[end] for end in ends) == 1
        assert struck[Action.DELAY] == 1
        if struck[Action.LOSE] or struck[Action.RESET_AFTER]:
            assert struck[Action.PARTIAL] + struck[Action.SEND_TWICE] == 1
            assert struck[Action.REPEAT] == (subject is GET)
        else:
            assert not struck.keys() & {Action.PARTIAL, Action.SEND_TWICE, Action.REPEAT}


def test_the_fault_that_was_added_first_goes_first_and_the_other_keeps_its_count():
    plan = plan_with(Fault(action=Action.ERROR, name="first"), lose(name="second"))
    assert [call(plan), call(plan), call(plan)] == [["first"], ["second"], []]


def test_a_request_is_not_struck_twice_by_one_action():
    delays = [Fault(action=Action.DELAY, seconds=1, name=name) for name in ("a", "b")]
    plan = plan_with(*delays)
    assert [call(plan), call(plan), call(plan)] == [["a"], ["b"], []]


def test_answers_are_lost_by_a_reset_too_if_it_came_after_the_commit():
    plan = plan_with(
        lose(), Fault(action=Action.RESET_AFTER), Fault(action=Action.RESET_BEFORE, skip=1)
    )
    assert [len(call(plan)) for _ in range(4)] == [1, 1, 1, 0]
    assert plan.lost == 2
    assert plan.status()["by_action"] == {"lose": 1, "reset-after": 1, "reset-before": 1}


def partial(plan: FaultPlan) -> Strike:
    (strike,) = plan.arrived(PUT)
    return strike


def test_partial_fails_the_entries_it_names():
    plan = plan_with(Fault(action=Action.PARTIAL, records=(0, 2, 7)))
    strike = partial(plan)
    assert plan.fails(strike, 5) == {0, 2}
    assert strike.code == "ProvisionedThroughputExceededException"
    plan.settle(strike, happened=True, affected=2)
    row = plan.status()["by_name"]["partial"]
    assert (row["struck"], row["affected"]) == (1, 2)


def test_partial_fails_each_entry_by_chance():
    plan = plan_with(Fault(action=Action.PARTIAL, share=0.25, count=2), seed=5)
    first, second = partial(plan), partial(plan)
    fails = plan.fails(first, 500)
    assert 80 < len(fails) < 170
    assert plan.fails(first, 500) == fails
    assert plan.fails(first, 100) == {index for index in fails if index < 100}
    assert plan.fails(second, 500) != fails
    everything = plan_with(Fault(action=Action.PARTIAL, share=1.0))
    assert plan.fails(partial(everything), 0) == frozenset()
    assert everything.fails(partial(plan_with(lose())), 3) == frozenset()


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        (Fault(action=Action.ERROR), 500, "InternalFailure"),
        (Fault(action=Action.ERROR, status=503), 503, "ServiceUnavailable"),
        (Fault(action=Action.ERROR, code="Odd", status=418), 418, "Odd"),
        (Fault(action=Action.ERROR, code="Odd"), 500, "Odd"),
    ],
)
def test_an_error_has_a_status_and_a_code(fault: Fault, status: int, code: str):
    (strike,) = plan_with(fault).arrived(PUT)
    assert (strike.status, strike.code) == (status, code)
    assert code in strike.reason


def test_a_delay_has_its_seconds():
    (strike,) = plan_with(Fault(action=Action.DELAY, seconds=1.5)).arrived(PUT)
    assert strike.seconds == 1.5
    assert "1.5 s" in strike.reason


def test_everything_that_waits_has_an_end_but_a_freeze():
    assert math.isinf(_frozen(Fault(action=Action.FREEZE)))
    assert _frozen(Fault(action=Action.FREEZE, seconds=3)) == 3


def _frozen(fault: Fault) -> float:
    plan = plan_with(fault)
    assert plan.arrived(PUT) == []
    return plan.frozen_seconds(PUT)
