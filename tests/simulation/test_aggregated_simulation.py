"""Many seeded worlds against the shipped machine; and each guard taken away must be noticed."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from producers.aggregated import machine
from producers.aggregated.lanes import Lane, Pack
from producers.aggregated.machine import Machine
from producers.aggregated.values import Item, PutResult
from producers.put_records import Failure, Record
from tests.simulation.aggregated_world import BrokenError, Regime, World, check

SEEDS = 250

ROUGH = Regime(
    throttle=0.3,
    refuse=0.1,
    lose_answer=0.15,
    commit_late=0.1,
    list_fails=0.2,
    stale_for=0.5,
    reshards=4,
)


def trial(seed: int, regime: Regime | None = None) -> World:
    """Run one world and check it; a failure names the seed that shows it again."""
    world = World(seed, regime)
    try:
        check(world.run())
    except BrokenError as broken:
        raise BrokenError(f"{broken}; again with trial({seed}, {regime}): {world.regime}") from None
    return world


def trials(seeds: int, regime: Regime) -> list[World]:
    return [trial(seed, regime) for seed in range(seeds)]


def test_every_promise_holds_in_every_world() -> None:
    worlds = [trial(seed) for seed in range(SEEDS)]
    results = [result for world in worlds for result in world.settled.values()]
    confirmed = [result for result in results if isinstance(result, PutResult)]
    # The worlds are neither all calm nor all lost, else the checker has seen nothing.
    assert len(confirmed) > len(results) / 2
    assert any(result.attempts > 3 for result in confirmed)
    assert len(results) > len(confirmed)
    assert any(len(world.stream.shards) > 3 for world in worlds)


def test_in_a_rough_world_nothing_is_lost_and_nothing_is_out_of_order() -> None:
    for world in trials(40, ROUGH):
        assert all(isinstance(result, PutResult) for result in world.settled.values())


def test_a_calm_world_sends_everything_once() -> None:
    for world in trials(20, Regime()):
        held = sum(len(records) for records in world.stream.held.values())
        assert {r.attempts for r in world.settled.values()} == {1}
        assert held < len(world.accepted)  # or nothing travelled together


def test_a_list_of_shards_that_lags_behind_for_long_costs_few_calls() -> None:
    for world in trials(10, Regime(stale_for=60.0, reshards=3)):
        # 60 s of waiting at a back-off of up to 5 s; a hot loop would need tens of thousands.
        assert world.calls < 2_000


def confirm_whatever_was_stored(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Machine, "_covers", lambda _self, _shard_id, _lane: True)


def confirm_if_the_first_record_fits(patch: pytest.MonkeyPatch) -> None:
    def covers(self: Machine, shard_id: str, lane: Lane) -> bool:
        shard = self._map.shard(shard_id) if self._map else None
        return shard is not None and shard.covers(lane.packs[0].items[0].hash_key)

    patch.setattr(Machine, "_covers", covers)


def overtake_a_pack_that_failed(patch: pytest.MonkeyPatch) -> None:
    hold = Lane.hold

    def hold_and_rotate(self: Lane, failure: Failure, until: float) -> None:
        hold(self, failure, until)
        self.packs.rotate(-1)

    patch.setattr(Lane, "hold", hold_and_rotate)


def route_again_in_any_order(patch: pytest.MonkeyPatch) -> None:
    def backwards(items: list[Item], *, key: Callable[[Item], int]) -> list[Item]:
        return sorted(items, key=key, reverse=True)

    patch.setattr(machine, "sorted", backwards, raising=False)


def never_route_again(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(machine, "_strays", lambda _lane, _shards: False)


def route_again_only_what_was_sent(patch: pytest.MonkeyPatch) -> None:
    # What is still buffered stays in the old lane, behind nothing, while newer records of the
    # same key go to the new one.
    def only_head(self: Lane) -> list[Item]:
        return self.packs[0].items if self.packs else []

    patch.setattr(Lane, "items", only_head)


def let_the_outer_key_route(patch: pytest.MonkeyPatch) -> None:
    seal = Pack.seal

    def without_hash_key(self: Pack) -> Record:
        return replace(seal(self), explicit_hash_key=None)

    patch.setattr(Pack, "seal", without_hash_key)


def pack_anew_after_a_failure(patch: pytest.MonkeyPatch) -> None:
    hold = Lane.hold

    def hold_and_pack(self: Lane, failure: Failure, until: float) -> None:
        hold(self, failure, until)
        items = list(self.items())
        self.packs.clear()
        for item in items:
            self.add(item)

    patch.setattr(Lane, "hold", hold_and_pack)


def retry_at_once(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(machine, "backoff_seconds", lambda _failures, _rng: 0.0)


GUARDS = [
    confirm_whatever_was_stored,
    confirm_if_the_first_record_fits,
    overtake_a_pack_that_failed,
    route_again_in_any_order,
    never_route_again,
    route_again_only_what_was_sent,
    let_the_outer_key_route,
]


@pytest.mark.parametrize("take_away", GUARDS, ids=lambda guard: guard.__name__)
def test_the_checker_objects_when_a_guard_is_taken_away(
    take_away: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    take_away(monkeypatch)
    with pytest.raises(BrokenError):
        trials(40, ROUGH)


def test_the_checker_objects_to_a_hot_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    retry_at_once(monkeypatch)
    with pytest.raises(BrokenError, match="hot loop"):
        trials(5, Regime(stale_for=900.0, reshards=3))


def test_the_checker_objects_to_other_bytes_in_a_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    regime = Regime(lose_answer=0.3, throttle=0.2)
    trial(0, regime)
    pack_anew_after_a_failure(monkeypatch)
    with pytest.raises(BrokenError, match="packed anew"):
        trial(0, regime)
