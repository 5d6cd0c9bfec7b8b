"""Worlds made for one question each."""

import random
from dataclasses import replace

import pytest

from producers.aggregated.values import PutResult
from producers.errors import DeliveryError
from tests.simulation.aggregated_regime import CALM, Regime, draw
from tests.simulation.aggregated_trial import trial, trials
from tests.simulation.aggregated_world import World

ROUGH = Regime(
    throttle=0.3,
    fail=0.1,
    refuse=0.1,
    lose_answer=0.15,
    commit_late=0.1,
    list_fails=0.2,
    stale_for=0.5,
    reshards=4,
)


def confirmed(world: World) -> int:
    return sum(isinstance(entry.result, PutResult) for entry in world.entries)


@pytest.mark.parametrize("ordered", [False, True])
def test_in_a_rough_world_nothing_is_lost(*, ordered: bool) -> None:
    regime = replace(ROUGH, settings=replace(CALM, ordered=ordered))
    for world in trials(range(40), regime):
        assert confirmed(world) == regime.records


def test_a_calm_world_sends_everything_once_and_many_together() -> None:
    for world in trials(range(20), Regime()):
        held = sum(len(shard.held) for shard in world.stream.shards)
        assert {len(entry.attempts) for entry in world.entries} == {1}
        assert held < len(world.entries)


@pytest.mark.parametrize("ordered", [False, True])
def test_a_shard_that_is_throttled_for_30_seconds_delays_no_other(*, ordered: bool) -> None:
    """The checker holds the other shards' records to their bound."""
    settings = replace(CALM, ordered=ordered, max_in_flight=2)
    regime = Regime(
        settings=settings, shards=3, records=120, keys=40, spread=40.0, throttled=(5.0, 35.0)
    )
    for world in trials(range(20), regime):
        assert world.regime.prompt
        blocked = world.stream.shards[0].shard
        waits = [
            (entry.settled_at - entry.accepted_at, blocked.covers(entry.place))
            for entry in world.entries
        ]
        assert max(wait for wait, was_blocked in waits if was_blocked) > 20
        assert max(wait for wait, was_blocked in waits if not was_blocked) < 2
        assert confirmed(world) == regime.records


def test_a_dead_endpoint_is_called_seldom_and_the_buffer_keeps_its_bound() -> None:
    settings = replace(CALM, max_record_age=30.0)
    regime = Regime(settings=settings, records=200, spread=100.0, dead=(0.5, 1e9), room=20)
    for world in trials(range(10), regime):
        # Full jitter up to 5 s: about one call in 2.5 s, for the list or the records.
        assert world.requests + world.lists < 200
        expired = [each for each in world.entries if isinstance(each.result, DeliveryError)]
        assert len(expired) > 100


def test_an_outage_of_a_minute_is_survived_without_an_age_limit() -> None:
    for world in trials(range(10), Regime(dead=(1.0, 61.0))):
        assert confirmed(world) == world.regime.records
        assert world.requests + world.lists < 200


def test_a_long_outage_leaves_no_endless_list_of_attempts() -> None:
    for world in trials(range(2), Regime(dead=(20.0, 1_000.0), records=50, spread=50.0)):
        assert confirmed(world) == world.regime.records
        assert max(len(entry.attempts) for entry in world.entries) > 200
        results = [entry.result for entry in world.entries]
        assert max(len(result.attempts) for result in results if result is not None) == 100


def test_records_keep_within_the_quota_of_each_shard() -> None:
    """The model refuses what is above it, and the checker allows not one such refusal."""
    settings = replace(CALM, aggregation=False, rate=0.01)
    regime = Regime(settings=settings, quota=0.01, records=100, spread=2.0)
    for world in trials(range(20), regime):
        assert world.regime.within_quota
        # 100 records on two shards that take 10 at once and then 10 a second.
        assert 3 < world.now < 11


def test_beside_other_producers_it_finds_its_share() -> None:
    settings = replace(CALM, aggregation=False, rate=0.05)
    regime = Regime(settings=settings, quota=0.02, records=200, spread=2.0)
    for world in trials(range(10), regime):
        assert confirmed(world) == regime.records
        sent = sum(len(entry.attempts) for entry in world.entries)
        assert sent < 2 * regime.records


def test_a_list_of_shards_that_lags_behind_for_long_costs_few_calls() -> None:
    for world in trials(range(10), Regime(stale_for=60.0, reshards=3)):
        assert world.lists < 60
        assert confirmed(world) == world.regime.records


def test_after_many_reshards_nothing_is_left_of_the_old_shards() -> None:
    for world in trials(range(5), Regime(reshards=40, records=200, spread=60.0)):
        assert len(world.stream.shards) > 40
        assert world.machine.held() <= world.stream.most_open


def test_one_poisoned_record_costs_no_other_anything_but_time() -> None:
    regime = Regime(poison=0.05, records=60, spread=0.2)
    for world in trials(range(30), regime):
        lost = {entry for entry in world.entries if not isinstance(entry.result, PutResult)}
        assert lost == {entry for entry in world.entries if entry.poison}


def test_a_run_is_the_same_each_time_and_each_misfortune_is_drawn() -> None:
    told: list[list[str]] = [[], []]
    for log in told:
        World(7, log=log.append).run()
    assert told[0] == told[1]
    drawn = [draw(random.Random(seed)) for seed in range(300)]
    calm = Regime()
    for name in Regime.__slots__:
        if name != "max_record_bytes":
            assert any(getattr(each, name) != getattr(calm, name) for each in drawn), name
    assert sum(each.prompt for each in drawn) > 10
    assert sum(each.same_bytes for each in drawn) > 30
    assert sum(each.within_quota and each.settings.rate < 1 for each in drawn) > 10
    trial(7)
