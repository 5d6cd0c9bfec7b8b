"""Answers that wait for a call like their own."""

import pytest

from infra.proxy.fault import Action, Fault, Subject
from infra.proxy.faults import FaultPlan, Strike
from infra.proxy.messages import Call
from infra.proxy.repeats import KEPT_ANSWERS, Repeats
from tests.unit.proxy_reply_support import answer, call_to

GET = Subject("GetRecords", "orders", "shardId-000000000001")
CALL = call_to("GetRecords")


@pytest.fixture
def plan() -> FaultPlan:
    made = FaultPlan(clock=lambda: 0.0)
    made.add(Fault(action=Action.REPEAT, name="again", count=1000))
    return made


def strike(plan: FaultPlan, subject: Subject = GET) -> Strike:
    [one] = plan.arrived(subject)
    return one


def counts(plan: FaultPlan) -> tuple[int, int]:
    row = plan.status()["by_name"]["again"]
    return row["struck"], row["pending"]


def test_an_answer_is_delivered_once_more_and_counted_then(plan: FaultPlan):
    repeats = Repeats(plan)
    assert repeats.take(CALL, GET) is None
    repeats.keep(CALL, answer(), strike(plan))
    assert counts(plan) == (0, 999)
    assert repeats.take(CALL, GET) == answer()
    assert counts(plan) == (1, 999)
    assert repeats.take(CALL, GET) is None
    assert len(repeats) == 0


@pytest.mark.parametrize(
    ("call", "subject"),
    [
        (CALL, Subject("GetRecords", "orders", "shardId-000000000002")),
        (CALL, Subject("GetRecords", "others", "shardId-000000000001")),
        (call_to("GetRecords", account="111111111111"), GET),
        (call_to("GetRecords", content="cbor-1.1"), GET),
    ],
    ids=["shard", "stream", "account", "protocol"],
)
def test_only_a_call_like_its_own_gets_it(plan: FaultPlan, call: Call, subject: Subject):
    repeats = Repeats(plan)
    repeats.keep(CALL, answer(), strike(plan))
    assert repeats.take(call, subject) is None
    assert repeats.take(CALL, GET) == answer()


def test_a_newer_answer_takes_the_place_of_an_older_one_which_gives_its_strike_back(
    plan: FaultPlan,
):
    repeats = Repeats(plan)
    repeats.keep(CALL, answer(body=b"1"), strike(plan))
    repeats.keep(CALL, answer(body=b"2"), strike(plan))
    assert counts(plan) == (0, 999)
    assert repeats.take(CALL, GET) == answer(body=b"2")
    assert counts(plan) == (1, 999)


def test_there_is_a_bound_and_the_oldest_gives_its_strike_back(plan: FaultPlan):
    repeats = Repeats(plan)
    subjects = [Subject("GetRecords", "orders", f"shard-{n}") for n in range(KEPT_ANSWERS + 2)]
    for subject in subjects:
        repeats.keep(CALL, answer(), strike(plan, subject))
    assert len(repeats) == KEPT_ANSWERS
    assert counts(plan) == (0, 1000 - KEPT_ANSWERS)
    assert [repeats.take(CALL, subject) for subject in subjects[:2]] == [None, None]
    assert repeats.take(CALL, subjects[2]) == answer()


def test_a_fault_that_was_cleared_delivers_nothing(plan: FaultPlan):
    repeats = Repeats(plan)
    repeats.keep(CALL, answer(), strike(plan))
    plan.clear()
    assert repeats.take(CALL, GET) is None
    assert plan.status()["by_action"] == {}
    assert not plan.active
