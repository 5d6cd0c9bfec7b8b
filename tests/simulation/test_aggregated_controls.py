"""Take a guard of the machine away, and the checker must object for the right reason, and soon."""

import re

import pytest

from tests.simulation.aggregated_controls import CONTROLS, Control
from tests.simulation.aggregated_requests import BrokenError
from tests.simulation.aggregated_trial import trial

MOST_SEEDS = 2_000  # Of those that the default run tries.


@pytest.mark.parametrize(
    ("take_away", "complaint"), CONTROLS, ids=[control.__name__ for control, _ in CONTROLS]
)
def test_the_checker_objects(
    take_away: Control, complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_away(monkeypatch)
    for seed in range(MOST_SEEDS):
        try:
            trial(seed)
        except BrokenError as broken:
            if re.search(complaint, str(broken).splitlines()[0]):
                return
    raise AssertionError(f"nobody noticed in {MOST_SEEDS} worlds")
