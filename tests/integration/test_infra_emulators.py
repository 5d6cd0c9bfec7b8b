"""docs/emulators.md cannot rot: what it says of kinesis-mock is what a run says now."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from infra.emulators.__main__ import DOCUMENT, areas_of, proxied, verdicts
from infra.emulators.document import Word, failing
from infra.emulators.engines import Engine, kinesis_mock

ROOT = Path(__file__).resolve().parents[2]
ENGINE = "kinesis-mock"


def assert_as_written(engine: Engine, url: str, *, behind: bool) -> None:
    written = failing((ROOT / DOCUMENT).read_text(), ENGINE, proxied=behind)
    found = verdicts(url, areas_of(engine), known=written)
    now = {name for name, word in found.items() if word == Word.NO}
    assert {"fails now": now - written, "fails no more": written - now} == {
        "fails now": set(),
        "fails no more": set(),
    }, "the page is out of date: python -m infra.emulators --write docs/emulators.md"


def bare(log_dir: Path) -> None:
    with kinesis_mock(log_dir) as engine:
        assert f"| {engine.name} | {engine.version} |" in (ROOT / DOCUMENT).read_text()
        assert_as_written(engine, engine.url, behind=False)


def behind_the_proxy(log_dir: Path) -> None:
    with kinesis_mock(log_dir) as engine, proxied(engine.url, log_dir) as url:
        assert_as_written(engine, url, behind=True)


@pytest.mark.timeout(600)  # two hundred checks, twice, on an engine that takes a second for a MB
def test_the_page_is_right_about_kinesis_mock_bare_and_behind_the_proxy(
    stack_name: str, tmp_path: Path
) -> None:
    if stack_name != "embedded":
        pytest.skip("the page is compared with the embedded stack's kinesis-mock")
    # Side by side, each on an engine of its own: most of the time is spent waiting.
    with ThreadPoolExecutor() as pool:
        runs = [pool.submit(run, tmp_path / run.__name__) for run in (bare, behind_the_proxy)]
    for each in runs:
        each.result()
