from math import inf

from infra.proxy.messages import Identity
from infra.proxy.quotas.iterators import Iterators, expired_refusal

ME = Identity("key", "eu-west-1")
STREAM, OTHER = (ME, "orders"), (ME, "others")
SHARD = "shardId-000000000000"


class Clock:
    now = 50.0

    def __call__(self) -> float:
        return self.now


def expired(iterators: Iterators, iterator: str) -> bool:
    issued = iterators.look_up(iterator)
    assert issued is not None
    return issued.expired


def test_an_iterator_is_known_by_its_shard():
    iterators = Iterators(Clock())
    iterators.remember("a", STREAM, SHARD)
    issued = iterators.look_up("a")
    assert issued is not None
    assert (issued.stream, issued.shard_id, issued.issued_at) == (STREAM, SHARD, 50.0)
    assert iterators.look_up("b") is None


def test_it_expires_after_five_minutes_sooner_by_the_scale():
    for scale, life in ((1.0, 300.0), (100.0, 3.0)):
        clock = Clock()
        iterators = Iterators(clock, time_scale=scale)
        iterators.remember("a", STREAM, SHARD)
        clock.now += life
        assert not expired(iterators, "a")
        clock.now += 0.01
        assert expired(iterators, "a")
        iterators.remember("a", STREAM, SHARD)
        assert not expired(iterators, "a")


def test_the_error_is_worded_as_by_aws_in_aws_s_time():
    clock = Clock()
    iterators = Iterators(clock, time_scale=10)
    iterators.remember("a", STREAM, SHARD)
    clock.now += 47  # for AWS 470 s
    issued = iterators.look_up("a")
    assert issued is not None
    refusal = expired_refusal(issued, 1583284230.0)
    assert refusal.code == "ExpiredIteratorException"
    assert refusal.message == (
        "Iterator expired. The iterator was created at time Wed Mar 04 01:02:40 UTC 2020 while"
        " right now it is Wed Mar 04 01:10:30 UTC 2020 which is further in the future than the"
        " tolerated delay of 300000 milliseconds."
    )


def test_those_of_a_stream_or_a_shard_can_be_made_to_expire():
    iterators = Iterators(Clock())
    for name, stream, shard in (("a", STREAM, "1"), ("b", STREAM, "2"), ("c", OTHER, "1")):
        iterators.remember(name, stream, shard)
    assert iterators.expire_all(STREAM, "1") == 1
    assert [expired(iterators, name) for name in "abc"] == [True, False, False]
    assert iterators.expire_all(STREAM) == 2
    assert [expired(iterators, name) for name in "abc"] == [True, True, False]
    assert iterators.expire_all() == 3
    assert expired(iterators, "c")
    iterators.remember("d", STREAM, "1")
    assert not expired(iterators, "d")


def test_one_that_was_made_to_expire_has_an_age_that_can_be_told():
    iterators = Iterators(Clock())
    iterators.remember("a", STREAM, SHARD)
    iterators.expire_all()
    issued = iterators.look_up("a")
    assert issued is not None
    assert issued.age_seconds == inf
    message = expired_refusal(issued, 1583284230.0).message
    assert "created at time Wed Mar 04 01:05:29 UTC 2020 while" in message


def test_beyond_the_capacity_the_longest_unused_goes():
    iterators = Iterators(Clock(), capacity=2)
    iterators.remember("a", STREAM, SHARD)
    iterators.remember("b", STREAM, SHARD)
    iterators.look_up("a")
    iterators.remember("c", STREAM, SHARD)
    assert [iterators.look_up(name) is not None for name in "abc"] == [True, False, True]
    for number in range(1_000):
        iterators.remember(str(number), STREAM, SHARD)
    assert len(iterators) == 2


def test_those_that_expire_on_demand_are_bounded_too():
    iterators = Iterators(Clock(), capacity=2)
    for number in range(1_000):
        iterators.expire(str(number))
        assert expired(iterators, str(number))
    assert len(iterators) == 2
