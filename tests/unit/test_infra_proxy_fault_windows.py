"""The two faults that last: throttle and freeze."""

from infra.proxy.fault import Action, Fault, Subject
from infra.proxy.faults import FaultPlan

ZERO, ONE = "shardId-000000000000", "shardId-000000000001"
PUT = Subject("PutRecords", "orders")


class Time:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def planned(**fields: object) -> tuple[FaultPlan, Time]:
    clock = Time()
    plan = FaultPlan(clock=clock)
    plan.add(Fault(**fields))  # type: ignore[arg-type]
    return plan, clock


def test_a_shard_is_throttled_from_the_first_request_on_and_for_as_long_as_was_said():
    plan, clock = planned(action=Action.THROTTLE, stream="orders", shard=ZERO, seconds=5)
    assert plan.throttled("PutRecords", "orders", ZERO) is None, "nothing has set it off"
    clock.now += 60
    assert plan.arrived(Subject("PutRecords", "others")) == []
    assert plan.throttled("PutRecords", "orders", ZERO) is None
    assert plan.arrived(PUT) == [], "the plan keeps the window itself"
    reason = plan.throttled("PutRecords", "orders", ZERO)
    assert reason == "fault 'throttle': the shard is over its quota for 5 s"
    assert plan.throttled("GetRecords", "orders", ZERO)
    assert plan.throttled("PutRecord", "orders", ONE) is None
    assert plan.throttled("PutRecord", "others", ZERO) is None
    assert plan.throttled("GetShardIterator", "orders", ZERO) is None
    clock.now += 4.9
    assert plan.throttled("PutRecord", "orders", ZERO, records=7)
    assert plan.active
    clock.now += 0.1
    assert plan.throttled("PutRecord", "orders", ZERO) is None
    assert not plan.active


def test_a_throttle_counts_what_it_refuses():
    plan, _ = planned(action=Action.THROTTLE, seconds=5, name="hot")
    plan.arrived(PUT)
    plan.arrived(PUT)
    for records in (1, 30):
        assert plan.throttled("PutRecords", "any", ONE, records=records)
    status = plan.status()
    row = status["by_name"]["hot"]
    assert (row["struck"], row["affected"], row["pending"]) == (1, 31, 0)
    assert [strike["fault"] for strike in status["strikes"]] == ["hot"]
    assert status["lost"] == 0


def test_a_throttle_with_a_count_opens_again_but_not_before_it_has_closed():
    plan, clock = planned(action=Action.THROTTLE, seconds=5, count=2)
    for seconds in (0, 4, 4):  # the second finds it open
        clock.now += seconds
        plan.arrived(PUT)
    assert plan.status()["by_name"]["throttle"]["struck"] == 2
    clock.now += 4
    assert plan.throttled("PutRecord", "orders", ONE), "open since the third request"


def test_a_throttle_of_reads_leaves_writes_alone():
    plan, _ = planned(action=Action.THROTTLE, operations=("GetRecords",), seconds=5)
    plan.arrived(PUT)
    assert plan.throttled("GetRecords", "orders", ONE) is None
    plan.arrived(Subject("GetRecords", "orders", ONE))
    assert plan.throttled("GetRecords", "orders", ONE)
    assert plan.throttled("PutRecords", "orders", ONE) is None


def test_a_read_of_another_shard_does_not_set_off_a_throttle():
    plan, _ = planned(action=Action.THROTTLE, shard=ZERO, seconds=5)
    plan.arrived(Subject("GetRecords", "orders", ONE))
    assert plan.throttled("GetRecords", "orders", ZERO) is None


def test_a_freeze_holds_what_it_concerns_until_it_is_over():
    plan, clock = planned(action=Action.FREEZE, operations=("PutRecords",), seconds=3)
    assert plan.frozen_seconds(PUT) == 0, "nothing has set it off"
    assert plan.arrived(PUT) == []
    assert plan.frozen_seconds(PUT) == 3
    assert plan.frozen_seconds(Subject("ListShards", "orders")) == 0
    clock.now += 1
    plan.arrived(PUT)
    assert plan.frozen_seconds(PUT) == 2
    clock.now += 2
    plan.arrived(PUT)
    assert plan.frozen_seconds(PUT) == 0
    row = plan.status()["by_name"]["freeze-PutRecords"]
    assert (row["struck"], row["affected"]) == (1, 2), "one freeze, two requests held"
    assert not plan.active


def test_a_freeze_without_seconds_lasts_until_somebody_thaws_it():
    plan, clock = planned(action=Action.FREEZE)
    plan.arrived(PUT)
    clock.now += 1e9
    assert plan.frozen_seconds(PUT) > 1e9
    assert plan.active
    assert plan.thaw() == 1
    assert plan.frozen_seconds(PUT) == 0
    assert plan.thaw() == 0
    plan.arrived(PUT)
    assert plan.frozen_seconds(PUT) == 0


def test_thawing_leaves_a_throttle_alone_and_clearing_ends_both():
    plan, _ = planned(action=Action.THROTTLE, seconds=5)
    plan.add(Fault(action=Action.FREEZE))
    plan.arrived(PUT)
    assert plan.thaw() == 1
    assert plan.throttled("PutRecord", "orders", ONE)
    plan.add(Fault(action=Action.FREEZE))
    plan.arrived(PUT)
    assert plan.frozen_seconds(PUT)
    plan.clear()
    assert plan.throttled("PutRecord", "orders", ONE) is None
    assert plan.frozen_seconds(PUT) == 0


def test_a_window_and_a_strike_meet_the_same_request():
    plan, _ = planned(action=Action.FREEZE, seconds=1)
    plan.add(Fault(action=Action.LOSE))
    assert [strike.action for strike in plan.arrived(PUT)] == [Action.LOSE]
    assert plan.frozen_seconds(PUT) == 1
