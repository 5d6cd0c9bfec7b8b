"""docs/emulators.md cannot rot: what it says of kinesis-mock is what a run says now."""

from pathlib import Path

import pytest

from infra.emulators.__main__ import DOCUMENT, areas_of, proxied, verdicts
from infra.emulators.document import Word, failing
from infra.emulators.engines import Engine, kinesis_mock
from infra.stack.endpoints import Endpoints

ROOT = Path(__file__).resolve().parents[2]
ENGINE = "kinesis-mock"


@pytest.fixture
def areas() -> list[str]:
    return areas_of(Engine(ENGINE, "", ""))


@pytest.fixture
def kinesis_url(stack: Endpoints, stack_name: str) -> str:
    if stack_name != "embedded" or stack.kinesis is None:
        pytest.skip("the page is compared with the embedded stack's kinesis-mock")
    return stack.kinesis


def assert_as_written(url: str, areas: list[str], *, behind: bool) -> None:
    written = failing((ROOT / DOCUMENT).read_text(), ENGINE, proxied=behind)
    found = verdicts(url, areas, known=written)
    now = {name for name, word in found.items() if word == Word.NO}
    assert {"fails now": now - written, "fails no more": written - now} == {
        "fails now": set(),
        "fails no more": set(),
    }, "the page is out of date: python -m infra.emulators --write docs/emulators.md"


@pytest.mark.timeout(600)  # two hundred checks on an engine that takes a second for a megabyte
def test_the_page_is_right_about_kinesis_mock(kinesis_url: str, areas: list[str]) -> None:
    assert_as_written(kinesis_url, areas, behind=False)


@pytest.mark.timeout(600)
def test_the_page_is_right_about_kinesis_mock_behind_the_proxy(
    kinesis_url: str, areas: list[str], tmp_path: Path
) -> None:
    with proxied(kinesis_url, tmp_path) as url:
        assert_as_written(url, areas, behind=True)


def test_the_page_names_the_version_that_is_installed(tmp_path: Path) -> None:
    with kinesis_mock(tmp_path) as engine:
        assert f"| {engine.name} | {engine.version} |" in (ROOT / DOCUMENT).read_text()
