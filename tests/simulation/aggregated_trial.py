"""One world run and checked. `python -m tests.simulation.aggregated_trial SEED` tells all of it."""

import sys
from collections.abc import Iterable

from tests.simulation.aggregated_checker import check
from tests.simulation.aggregated_regime import Regime
from tests.simulation.aggregated_requests import BrokenError
from tests.simulation.aggregated_world import World


def trial(seed: int, regime: Regime | None = None) -> World:
    """Run one world and check it; a failure names what shows it again.

    Raises:
        BrokenError: a promise does not hold.
    """
    world = World(seed, regime)
    try:
        check(world.run())
    except Exception as error:
        again = f"python -m tests.simulation.aggregated_trial {seed}"
        where = again if regime is None else f"trial({seed}, {regime})"
        raise BrokenError(f"{error!r}; again with: {where}\n{world.regime}") from error
    return world


def trials(seeds: Iterable[int], regime: Regime | None = None) -> list[World]:
    return [trial(seed, regime) for seed in seeds]


if __name__ == "__main__":
    replayed = World(int(sys.argv[1]), log=print)
    print(replayed.regime)  # noqa: T201 - it speaks to the person who ran it
    check(replayed.run())
