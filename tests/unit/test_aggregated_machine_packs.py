"""The parts of the machine by themselves: packs, lanes, halving, and when to list the shards."""

import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from producers.aggregated.halving import Halving
from producers.aggregated.lane import Landed, Lane
from producers.aggregated.limiter import ShardLimiter
from producers.aggregated.map_watch import MapWatch
from producers.aggregated.metrics import Metrics
from producers.aggregated.pack import OUTER_PARTITION_KEY, Pack
from producers.aggregated.values import Item, Sent, Settings
from producers.errors import Attempt
from producers.put_records import Stored
from records.aggregation import AggregateBuilder, UserRecord, decode, is_aggregate
from records.limits import KPL_AGGREGATE_BYTES, MAX_HASH_KEY, record_bytes
from records.partition import Shard, hash_key
from tests.unit.aggregated_machine_support import LOST, item

ATTEMPT = Attempt(1.0, 0.5, "X", "x")
SENT = Sent(1.0, 0.5)
METRICS = Metrics()


def packed(items: Sequence[Item], **options: Any) -> Pack:
    pack = Pack(items[0], Settings(**options), due_at=0.0, alone=False)
    for each in items[1:]:
        pack.try_add(each)
    return pack


@given(
    contents=st.lists(st.tuples(st.sampled_from("ab"), st.binary(max_size=90)), min_size=1),
    most=st.integers(64, 400),
    most_records=st.integers(1, 8),
)
@settings(max_examples=200)
def test_a_pack_takes_what_fits_knows_its_size_and_is_always_the_same_bytes(
    contents: list[tuple[str, bytes]], most: int, most_records: int
) -> None:
    items = [item(data, key) for key, data in contents]
    pack = packed(items, max_aggregate_bytes=most, max_aggregate_records=most_records)
    taken = [(each.partition_key, each.data) for each in pack.items]
    assert taken == contents[: len(taken)]
    assert len(taken) <= most_records
    assert pack.user_bytes == sum(each.size for each in pack.items)
    told = pack.size
    wire = pack.seal()
    assert record_bytes(wire.partition_key, wire.data) == told == pack.size
    assert wire.explicit_hash_key == items[0].hash_key
    if len(taken) > 1:
        assert told <= most
        assert [user[:2] for user in decode(wire.data) or ()] == taken
    if len(taken) < len(contents):
        assert pack.full
    assert not pack.try_add(item(b"late"))
    assert pack.seal() is wire


@pytest.mark.parametrize("place", [None, 7])
def test_a_record_alone_that_looks_like_an_aggregate_is_wrapped(place: int | None) -> None:
    builder = AggregateBuilder(max_bytes=100_000)
    builder.try_add("inner", b"x" * 60_000)
    blob = builder.build()
    wire = packed([item(blob, "mine", place=place)]).seal()
    assert wire.partition_key == OUTER_PARTITION_KEY
    assert wire.explicit_hash_key == (hash_key("mine") if place is None else place)
    assert len(wire.data) > KPL_AGGREGATE_BYTES
    assert is_aggregate(wire.data)
    assert decode(wire.data) == [UserRecord("mine", blob, place)]


def test_the_attempts_of_a_pack_go_with_its_records_into_the_next() -> None:
    pack = packed([item(b"1"), item(b"2")])
    pack.failed(ATTEMPT)
    pack.failed(ATTEMPT)
    assert [each.history for each in pack.dissolve()] == [(ATTEMPT, ATTEMPT)] * 2
    again = packed(pack.items)
    again.failed(ATTEMPT)
    assert [each.history for each in again.dissolve()] == [(ATTEMPT,) * 3] * 2


@given(packs=st.lists(st.integers(1, 30), min_size=1, max_size=10), data=st.data())
def test_halving_finds_each_culprit_and_blames_no_other(
    packs: list[int], data: st.DataObject
) -> None:
    lane = lane_with()
    made = [packed([item(b"%d" % n) for n in range(size)]) for size in packs]
    everything = [each for pack in made for each in pack.items]
    culprits = data.draw(st.sets(st.sampled_from(everything), max_size=3))
    halving = Halving()
    blamed: set[Item] = set()
    queue = [[(lane, pack) for pack in made]]
    for _ in range(1_000):
        if not queue:
            break
        request = queue.pop(0)
        groups = {pack.group for _, pack in request}
        assert len(groups) == 1
        if culprits.isdisjoint(each for _, pack in request for each in pack.items):
            halving.taken()
            continue
        again = halving.divide(request)
        if not again:
            blamed.update(each for _, pack in request for each in pack.items)
        queue += [
            [each for each in again if each[1].group == group]
            for group in dict.fromkeys(pack.group for _, pack in again)
        ]
    assert not queue
    assert blamed == culprits


def lane_with(**options: Any) -> Lane:
    limiter = ShardLimiter(share=1.0, max_record_bytes=1 << 20, now=0.0)
    return Lane(Shard("shard-0", 0, MAX_HASH_KEY), Settings(**options), limiter)


class LaneLaws(RuleBasedStateMachine):
    """Whatever is done to a lane: it loses nothing, doubles nothing, and keeps the order of put."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.lane = lane_with(max_aggregate_records=3)
        self.here: dict[Item, int] = {}  # In the order of put.
        self.road: list[Pack] = []

    @rule(key=st.sampled_from("ab"), later=st.sampled_from([0.0, 1.0]), alone=st.booleans())
    def add(self, key: str, later: float, *, alone: bool) -> None:
        self.now += later
        made = item(b"%d" % len(self.here), key)
        made.accepted_at = self.now
        self.here[made] = len(self.here)
        self.lane.add(made, due_at=self.now, alone=alone)

    @precondition(lambda self: self.lane.head is not None)
    @rule()
    def depart(self) -> None:
        head = self.lane.head
        assert self.lane.depart(self.now) is head
        self.road.append(head)

    @precondition(lambda self: self.road)
    @rule(which=st.integers(0, 100), how=st.sampled_from(["again", "halves", "lands", "confirmed"]))
    def answer(self, which: int, how: str) -> None:
        pack = self.road.pop(which % len(self.road))
        self.lane.on_the_road -= 1
        if how == "again":
            self.lane.put_back(pack)
        elif how == "halves" and len(pack.items) > 1:
            self.lane.put_back(*self.lane.halve(pack))
        elif how == "lands":
            self.lane.landed.append(Landed(pack, Stored("other", "1"), SENT, METRICS))
        else:
            self.leave(pack.items)

    @rule(age=st.sampled_from([0.0, 1.0, 5.0]))
    def expire(self, age: float) -> None:
        expired = self.lane.take_expired(self.now, age)
        assert all(each.accepted_at + age <= self.now for each in expired)
        self.leave(expired)
        assert self.lane.oldest_accepted_at() + age > self.now

    @rule(key=st.sampled_from("ab"))
    def take_key(self, key: str) -> None:
        taken = self.lane.take_keys({(key, None)})
        assert {each.partition_key for each in taken} <= {key}
        assert [*taken] == sorted(taken, key=self.here.__getitem__) or self.road or self.lane.landed
        self.leave(taken)
        assert all(key != each.partition_key for pack in self.lane.waiting() for each in pack.items)

    def leave(self, items: Sequence[Item]) -> None:
        for each in items:
            assert self.here.pop(each) >= 0
            self.here[each] = -1

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        packs = [*self.lane.waiting(), *self.road, *(each.pack for each in self.lane.landed)]
        found = [each for pack in packs for each in pack.items]
        assert len(found) == len(set(found))
        assert set(found) == {each for each, number in self.here.items() if number >= 0}
        assert self.lane.full_packs == sum(pack.full for pack in self.lane.fresh)
        ages = [pack.oldest for pack in self.lane.again]
        assert ages == sorted(ages)
        ages = [pack.oldest for pack in self.lane.fresh]
        assert ages == sorted(ages)


TestLaneLaws = LaneLaws.TestCase
TestLaneLaws.settings = settings(max_examples=100, stateful_step_count=40)


def test_a_list_of_shards_is_asked_for_once_and_never_in_a_hot_loop() -> None:
    watch = MapWatch(random.Random(1))
    watch.want()
    watch.want()
    now = 0.0
    pauses = []
    for _ in range(40):
        assert watch.due_at() <= now
        watch.asked()
        watch.want()
        assert watch.due_at() > 1e9  # It is on its way.
        watch.answered(LOST, enough=False, now=now)
        pauses.append(watch.due_at() - now)
        now = watch.due_at()
    assert max(pauses[:2]) <= 0.2
    assert 2.5 < max(pauses) <= 5.0
    watch.asked()
    watch.answered(None, enough=True, now=now)
    assert watch.due_at() > 1e9
    watch.want()
    assert watch.due_at() <= now
