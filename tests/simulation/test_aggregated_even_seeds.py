"""Half of the seeds; the other half is in a file of its own, for a second worker."""

from collections.abc import Callable

import pytest

from tests.simulation.aggregated_seeds import chunks, try_chunk


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    found = chunks(metafunc.config, half=0)
    metafunc.parametrize("chunk", found, ids=[f"from-{seeds.start}" for seeds in found])


def test_every_promise_holds_in_every_world(
    chunk: range, pytestconfig: pytest.Config, record_property: Callable[[str, object], None]
) -> None:
    record_property("seeds", try_chunk(chunk, pytestconfig))
