"""The parts of a fleet that need no broker."""

import json
import random
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iot.device import Event, acceptable_settings, simulated_readings
from iot.fleet import Ledger, due_times, thing_names


@given(st.integers(1, 500), st.floats(0, 1000))
def test_events_are_spread_evenly_over_the_time(events: int, seconds: float):
    due = list(due_times(events, seconds))
    assert len(due) == events
    assert due[0] == 0
    assert due == sorted(due)
    assert due[-1] <= seconds
    for earlier, later in pairwise(due):
        assert later - earlier == pytest.approx(seconds / events)


def test_no_events_are_no_events():
    assert list(due_times(0, 5)) == []


def test_thing_names_differ_and_are_ones_that_aws_allows():
    names = thing_names("thing", 300)
    assert len(set(names)) == 300
    assert names[0] == "thing-0001"


def test_the_ledger_is_on_disk_line_by_line(tmp_path: Path):
    ledger = Ledger(tmp_path / "ledger")
    ledger.write(Event("id-1", "lamp", 1))
    # Read while it is still open: what a kill leaves behind.
    assert json.loads((tmp_path / "ledger").read_text()) == {
        "record_id": "id-1",
        "thing": "lamp",
        "sequence": 1,
    }
    ledger.close()
    again = Ledger(tmp_path / "ledger")
    again.write(Event("id-2", "lamp", 2))
    again.close()
    assert len((tmp_path / "ledger").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("desired", "accepted"),
    [
        ({"interval_ms": 5}, {"interval_ms": 5}),
        ({"interval_ms": 0, "mode": "eco"}, {"mode": "eco"}),
        ({"interval_ms": True}, {}),
        ({"interval_ms": 86_400_000}, {"interval_ms": 86_400_000}),
        ({"interval_ms": 86_400_001}, {}),
        ({"interval_ms": 10**400}, {}),
        ({"interval_ms": "5"}, {}),
        ({"interval_ms": 5.0}, {}),
        ({"mode": 5, "unknown": 1}, {}),
    ],
)
def test_a_device_takes_only_settings_that_it_can_have(
    desired: dict[str, Any], accepted: dict[str, Any]
):
    assert acceptable_settings(desired) == accepted


def test_readings_repeat_with_their_seed():
    first, second = (list(islice(simulated_readings(random.Random(7)), 20)) for _ in range(2))
    assert first == second
    assert all(0 <= reading["humidity"] <= 100 for reading in first)
