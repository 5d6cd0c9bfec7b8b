"""What the launcher writes, and that one work directory has one worker."""

import os
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from consumers.errors import SetupError
from consumers.kcl.events import initialized_shards, read_events
from consumers.kcl.jvm import Jvm
from consumers.kcl.launch import COMMAND, Launch, child_script, java_command, launch
from consumers.kcl.properties import WorkerSettings

ROOT = Path(__file__).parents[2]
SETTINGS = WorkerSettings(
    stream="orders", application="billing", worker_id="w", region="us-east-1", command=COMMAND
)


def plan(work_dir: Path, executable: Path, *, version: int = 17) -> Launch:
    return Launch(
        work_dir=work_dir,
        settings=SETTINGS,
        child=["--sink", "sqlite:/a b/it's.db"],
        jvm=Jvm(executable, version, "test"),
        jars=[Path("/jars/a.jar"), Path("/jars/b.jar")],
    )


def test_the_child_script_keeps_every_argument_whole() -> None:
    words = shlex.split(child_script(["--sink", "sqlite:/a b/it's $HOME.db", "--x", ""]))
    assert words[:5] == ["exec", sys.executable, "-P", "-m", "consumers.kcl.child"]
    assert words[5:] == ["--sink", "sqlite:/a b/it's $HOME.db", "--x", ""]


def test_a_path_in_another_encoding_comes_back_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An old disk's file name that is not UTF-8; so is every other letter under a Latin-1 locale.
    name = b"/old/b\xfccher.db"
    monkeypatch.setattr(os, "execve", lambda *_arguments: None)
    monkeypatch.chdir(tmp_path)  # the launcher moves; this moves back
    launch(replace(plan(tmp_path, Path("java")), child=[os.fsdecode(name)]), os.environ)
    assert name in (tmp_path / "child.sh").read_bytes()


def test_letters_reach_the_child_under_any_locale(tmp_path: Path) -> None:
    assert "-Dfile.encoding=UTF-8" in java_command(plan(tmp_path, Path("/jvm/bin/java")))


def test_the_jvm_is_given_verified_jars_only(tmp_path: Path) -> None:
    command = java_command(plan(tmp_path, Path("/jvm/bin/java")))
    assert command[command.index("-cp") + 1] == "/jars/a.jar:/jars/b.jar"
    assert command[-2:] == ["--properties-file", str(tmp_path / "kcl.properties")]
    newer = java_command(plan(tmp_path, Path("/jvm/bin/java"), version=25))
    assert "--sun-misc-unsafe-memory-access=allow" in set(newer) - set(command)


def test_the_launcher_becomes_the_jvm_and_holds_the_folder(tmp_path: Path) -> None:
    # A stand-in for `java` that says its process ID and waits for a line.
    java = tmp_path / "java"
    java.write_text('#!/bin/sh\necho "$$ $(pwd)"\nread line\n')
    java.chmod(0o755)
    work_dir = tmp_path / "work dir"
    script = tmp_path / "launcher.py"
    script.write_text(_LAUNCHER)
    process = subprocess.Popen(
        [sys.executable, str(script), str(ROOT), str(java), str(work_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout
        assert process.stdout.readline() == f"{process.pid} {work_dir}\n"
        assert [event["event"] for event in read_events(work_dir)] == ["starting"]
        assert read_events(work_dir)[0]["pid"] == process.pid
        assert initialized_shards(work_dir) == set()
        with pytest.raises(SetupError, match="another worker is running in"):
            launch(plan(work_dir, java), os.environ)
    finally:
        process.kill()
        process.communicate()
    with (work_dir / "events.jsonl").open("a") as file:
        file.write('{"event": "torn by a full di')
    # Dead, however it died, it has let go.
    again = subprocess.run(
        [sys.executable, str(script), str(ROOT), str(java), str(work_dir)],
        input="go on\n",
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert again.stdout.endswith(f"{work_dir}\n")
    assert [event["event"] for event in read_events(work_dir)] == ["starting"] * 2
    ET.parse(work_dir / "kcl-logback.xml")
    assert (work_dir / "child.sh").read_text().startswith("exec ")


_LAUNCHER = """\
import os, pathlib, sys
sys.path.insert(0, sys.argv[1])
from consumers.kcl.jvm import Jvm
from consumers.kcl.launch import COMMAND, Launch, launch
from consumers.kcl.properties import WorkerSettings

launch(
    Launch(
        work_dir=pathlib.Path(sys.argv[3]),
        settings=WorkerSettings(
            stream="s", application="app", worker_id="w", region="r", command=COMMAND
        ),
        child=["--sink", "x"],
        jvm=Jvm(pathlib.Path(sys.argv[2]), 17, "test"),
        jars=[],
    ),
    os.environ,
)
"""
