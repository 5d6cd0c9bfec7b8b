import pytest

from infra.proxy.messages import Refusal
from infra.proxy.quotas.subscriptions import Subscription, Subscriptions

ARN = "arn:aws:kinesis:eu-west-1:000000000000:stream/orders/consumer/app:1583284230"
SHARD = "shardId-000000000000"


class Clock:
    now = 50.0

    def __call__(self) -> float:
        return self.now


def begun(subscriptions: Subscriptions, arn: str = ARN, shard: str = SHARD) -> Subscription:
    answer = subscriptions.subscribe(arn, shard)
    assert isinstance(answer, Subscription), answer
    return answer


def test_a_second_call_is_refused_for_five_seconds_and_then_takes_over():
    clock = Clock()
    subscriptions = Subscriptions(clock)
    assert not begun(subscriptions).takes_over
    clock.now += 4.99
    refusal = subscriptions.subscribe(ARN, SHARD)
    assert isinstance(refusal, Refusal)
    assert refusal.code == "ResourceInUseException"
    assert "Another active subscription exists for this consumer" in refusal.message
    clock.now += 0.01
    assert begun(subscriptions).takes_over
    clock.now += 4.99  # counted from the latest that succeeded
    assert isinstance(subscriptions.subscribe(ARN, SHARD), Refusal)


def test_a_call_that_was_refused_does_not_count():
    clock = Clock()
    subscriptions = Subscriptions(clock)
    begun(subscriptions)
    clock.now += 4
    assert isinstance(subscriptions.subscribe(ARN, SHARD), Refusal)
    clock.now += 1
    begun(subscriptions)


def test_other_consumers_and_shards_do_not_mind():
    subscriptions = Subscriptions(Clock())
    begun(subscriptions)
    assert not begun(subscriptions, shard="shardId-000000000001").takes_over
    assert not begun(subscriptions, arn=ARN + "9").takes_over


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_it_lasts_five_minutes_and_then_there_is_nothing_to_take_over(scale: float):
    clock = Clock()
    subscriptions = Subscriptions(clock, time_scale=scale)
    assert begun(subscriptions).lasts_seconds == 300 / scale
    clock.now += 4.99 / scale
    assert isinstance(subscriptions.subscribe(ARN, SHARD), Refusal)
    clock.now += 295.02 / scale
    assert not begun(subscriptions).takes_over


def test_one_that_came_to_nothing_does_not_count():
    clock = Clock()
    subscriptions = Subscriptions(clock)
    subscriptions.failed(begun(subscriptions))
    assert not begun(subscriptions).takes_over
    clock.now += 6
    subscriptions.failed(begun(subscriptions))
    # The one before it still runs, and is old enough to be taken over.
    assert begun(subscriptions).takes_over


def test_an_old_one_that_fails_late_takes_nothing_from_the_new_one():
    clock = Clock()
    subscriptions = Subscriptions(clock)
    old = begun(subscriptions)
    clock.now += 6
    begun(subscriptions)
    subscriptions.failed(old)
    assert isinstance(subscriptions.subscribe(ARN, SHARD), Refusal)


def test_what_is_over_is_forgotten_and_what_runs_is_bounded():
    clock = Clock()
    subscriptions = Subscriptions(clock)
    for number in range(25_000):
        begun(subscriptions, shard=str(number))
    assert len(subscriptions) == 20_000
    clock.now += 300
    begun(subscriptions)
    assert len(subscriptions) == 1
