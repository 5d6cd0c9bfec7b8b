"""What strikes one request: counted once, or given back."""

import pytest

from infra.proxy.fault import Action, Fault, Subject
from infra.proxy.faults import FaultPlan
from infra.proxy.strikes import Strikes

PUT = Subject("PutRecords", "orders")
BOTH = (Action.LOSE, Action.DELAY)


@pytest.fixture
def plan() -> FaultPlan:
    made = FaultPlan(clock=lambda: 0.0)
    made.add(
        Fault(action=Action.LOSE, name="lose"), Fault(action=Action.DELAY, name="delay", seconds=1)
    )
    return made


def pending(plan: FaultPlan) -> dict[str, int]:
    return {name: row["pending"] for name, row in plan.status()["by_name"].items()}


def struck(plan: FaultPlan) -> dict[str, int]:
    return {name: row["struck"] for name, row in plan.status()["by_name"].items()}


def test_a_strike_is_due_until_it_has_happened_and_counts_once(plan: FaultPlan):
    strikes = Strikes(plan, PUT)
    lose = strikes.get(Action.LOSE)
    assert lose is not None
    assert strikes.is_due(Action.LOSE)
    strikes.happened(lose, affected=3)
    strikes.happened(lose)
    assert not strikes.is_due(Action.LOSE)
    assert strikes.get(Action.LOSE) is None
    strikes.give_back()
    assert struck(plan) == {"lose": 1, "delay": 0}
    assert pending(plan) == {"lose": 0, "delay": 1}
    assert plan.status()["by_name"]["lose"]["affected"] == 3
    assert not Strikes(plan, PUT).is_due(Action.LOSE)


def test_what_does_not_strike_is_not_due(plan: FaultPlan):
    strikes = Strikes(plan, PUT)
    assert strikes.get(Action.ERROR) is None
    assert not strikes.is_due(Action.ERROR)
    strikes.give_back(Action.ERROR)
    assert all(strikes.is_due(action) for action in BOTH)


def test_some_are_given_back_and_strike_the_next_request(plan: FaultPlan):
    strikes = Strikes(plan, PUT)
    strikes.give_back(Action.LOSE)
    assert [strikes.is_due(action) for action in BOTH] == [False, True]
    following = Strikes(plan, PUT)
    assert [following.is_due(action) for action in BOTH] == [True, False]


def test_in_the_end_all_that_are_left_are_given_back(plan: FaultPlan):
    strikes = Strikes(plan, PUT)
    assert pending(plan) == {"lose": 0, "delay": 0}
    strikes.give_back()
    strikes.give_back()
    assert pending(plan) == {"lose": 1, "delay": 1}
    assert struck(plan) == {"lose": 0, "delay": 0}


def test_one_that_is_kept_is_somebody_elses_to_settle(plan: FaultPlan):
    strikes = Strikes(plan, PUT)
    kept = strikes.keep(Action.LOSE)
    strikes.give_back()
    assert pending(plan) == {"lose": 0, "delay": 1}
    assert plan.active
    plan.settle(kept, happened=True)
    assert struck(plan)["lose"] == 1
