"""Which seeds the default run takes, and which `--seeds N` takes, in two files for two workers."""

import time
from typing import Final

import pytest

from producers.aggregated.values import PutResult
from tests.simulation.aggregated_trial import trial
from tests.simulation.aggregated_world import World

DEFAULT_SEEDS: Final = 10_000
CHUNK: Final = 500
# The default run takes as many as fit in this: it must end on any machine. The first few always.
CHUNK_SECONDS: Final = 3.0
FEWEST: Final = 100


def chunks(config: pytest.Config, *, half: int) -> list[range]:
    """Return the seeds of one half, in chunks that each take a few seconds."""
    seeds = range(half, config.getoption("--seeds") or DEFAULT_SEEDS, 2)
    return [seeds[at : at + CHUNK] for at in range(0, len(seeds), CHUNK)]


def try_chunk(chunk: range, config: pytest.Config) -> int:
    """Try the seeds of a chunk, and see to it that they show something; return how many."""
    ends = None if config.getoption("--seeds") else time.monotonic() + CHUNK_SECONDS
    sights = {"confirmed": 0, "given up": 0, "sent again": 0, "resharded": 0}
    tried = 0
    for seed in chunk:
        if ends is not None and tried >= FEWEST and time.monotonic() > ends:
            break
        _note(trial(seed), sights)
        tried += 1
    # The worlds are neither all calm nor all lost, else the checker has seen nothing.
    if tried >= FEWEST:
        assert sights["confirmed"] > sights["given up"] > 0
        assert sights["sent again"] > 0
        assert sights["resharded"] > 0
    return tried


def _note(world: World, sights: dict[str, int]) -> None:
    for entry in world.entries:
        confirmed = isinstance(entry.result, PutResult)
        sights["confirmed" if confirmed else "given up"] += 1
        sights["sent again"] += len(entry.attempts) > 3
    sights["resharded"] += len(world.stream.shards) > world.regime.shards
