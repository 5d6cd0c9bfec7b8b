"""Every runnable as a person meets it: help, answer to nonsense, docstring, copy."""

import ast
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from kit.copy import ROOT, TEMPLATES, copy, plan
from tests.templates.alone import alone, site_packages

ROOMS = ("records", "producers", "consumers", "iot", "infra")
# Programs that other programs start and a person never does, so that nobody wants to copy them.
STARTED_BY_OTHERS = {
    "consumers/kcl/child.py",  # by the MultiLangDaemon, one for each shard
    "consumers/kcl/jars.py",  # by `make` and the Dockerfile; holds the jars against their digests
    "infra/emulators",  # by us; writes docs/emulators.md
    "infra/guard.py",  # by infra.processes; ends a process when its parent has died
    "infra/stack/reaper.py",  # by infra.stack; removes containers when their owner has died
    "infra/stack/supervisor.py",  # by `kit up`; holds a stack until `kit down`
}

every_template = pytest.mark.parametrize("path", [template.path for template in TEMPLATES])


def module_of(path: str) -> str:
    return path.removesuffix(".py").replace("/", ".")


def run(
    *argv: str, cwd: Path = ROOT, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *argv],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
        timeout=120,
    )


def test_every_runnable_of_the_tree_is_on_the_list() -> None:
    programs = set()
    for room in ROOMS:
        for file in (ROOT / room).rglob("*.py"):
            if "node_modules" in file.parts:
                continue
            if file.name == "__main__.py":
                programs.add(file.parent.relative_to(ROOT).as_posix())
            elif '\nif __name__ == "__main__":' in file.read_text("utf-8"):
                programs.add(file.relative_to(ROOT).as_posix())
    assert programs - STARTED_BY_OTHERS == {template.path for template in TEMPLATES}


@every_template
def test_the_help_teaches(path: str) -> None:
    shown = run("-m", module_of(path), "--help")
    assert shown.returncode == 0, shown.stderr
    assert shown.stderr == ""
    usage, _, rest = shown.stdout.partition("\n\n")
    assert module_of(path).rpartition(".")[2] in usage
    assert not rest.lstrip().startswith(("options:", "positional arguments:")), "no description"
    assert unexplained(shown.stdout) == []


def unexplained(help_text: str) -> list[str]:
    """The arguments of an argparse help that have no word of explanation."""
    arguments = re.split(r"\n(?:positional arguments|options):", help_text, maxsplit=1)[1]
    items: list[str] = re.findall(r"^  (\S.*(?:\n {3,}.*)*)", arguments, re.MULTILINE)
    return [item for item in items if not re.search(r"\s{2,}\S", item)]


def test_an_argument_without_a_word_is_seen() -> None:
    explained = "usage: x\n\nDoes.\n\noptions:\n  -h, --help  show this\n  --stream S"
    assert unexplained(explained + "  its name\n") == []
    assert unexplained(explained + "\n      its name\n") == []
    assert unexplained(explained + "\n") == ["--stream S"]


@every_template
def test_bad_usage_ends_with_2_and_a_word_about_it(path: str) -> None:
    refused = run("-m", module_of(path), "--no-such-option")
    assert refused.returncode == 2, refused.stderr
    assert "usage:" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert refused.stdout == ""


@every_template
def test_the_docstring_has_its_five_parts_in_order(path: str) -> None:
    files = [ROOT / path] if path.endswith(".py") else sorted((ROOT / path).glob("__*__.py"))
    docstrings = [ast.get_docstring(ast.parse(file.read_text("utf-8"))) or "" for file in files]
    parts = [
        "what it shows",
        "how to run it",
        "what you will see",
        "what is guaranteed",
        "what to change for production",
    ]
    places = [[text.lower().find(part) for part in parts] for text in docstrings]
    assert any(-1 not in found and found == sorted(found) for found in places), parts


@every_template
def test_the_copy_runs_alone(path: str, tmp_path: Path) -> None:
    src = tmp_path / "src"
    assert copy(path, src / "app") == 0
    assert_no_trace_of_the_checkout(src / "app")
    module = f"app.{plan(ROOT, path).module}"
    listing = tmp_path / "loaded"
    shown = run(
        "-S", "-c", LIST_LOADED, str(listing), module, "--help", cwd=tmp_path, env=alone(src)
    )
    assert shown.returncode == 0, shown.stderr
    assert "usage:" in shown.stdout
    loaded = [Path(line) for line in listing.read_text().splitlines()]
    assert any(file.is_relative_to(src / "app") for file in loaded)
    allowed = (src, site_packages(), Path(sysconfig.get_paths()["stdlib"]))
    assert [file for file in loaded if not any(file.is_relative_to(a) for a in allowed)] == []
    for room in ROOMS:
        assert not any(file.is_relative_to(ROOT / room) for file in loaded)


def test_all_templates_share_one_target(tmp_path: Path) -> None:
    src = tmp_path / "src"
    for template in TEMPLATES:
        assert copy(template.path, src / "app") == 0, template.path
    for template in TEMPLATES:
        shown = run(
            "-S", "-m", f"app.{plan(ROOT, template.path).module}", "--help",
            cwd=tmp_path, env=alone(src),
        )  # fmt: skip
        assert shown.returncode == 0, shown.stderr


# Runs a module as `python -m` does, and writes down where every module came from.
LIST_LOADED = """
import pathlib, runpy, sys
listing, module, *argv = sys.argv[1:]
sys.argv = [module, *argv]
try:
    runpy.run_module(module, run_name="__main__", alter_sys=True)
finally:
    files = [getattr(loaded, "__file__", None) for loaded in list(sys.modules.values())]
    pathlib.Path(listing).write_text("\\n".join(filter(None, files)))
"""


def assert_no_trace_of_the_checkout(app: Path) -> None:
    absolute = re.compile(rf"^\s*(?:from|import) (?:{'|'.join(ROOMS)}|kit)\b", re.MULTILINE)
    run_lines = re.compile(rf"-m[\"', ]+(?:{'|'.join(ROOMS)})\.\w+")
    for file in app.rglob("*.py"):
        text = file.read_text("utf-8")
        assert not absolute.search(text), file
        assert str(ROOT) not in text, file
        if file.name != "__init__.py" or text:
            assert re.match(r"(#!.*\n)?# Copied from \S+ of \S+ \S+", text), file
        for line in run_lines.findall(text):
            # A docstring may speak of a neighbour that did not come along; code may not start it.
            assert line.startswith("-m "), f"{file}: {line}"
