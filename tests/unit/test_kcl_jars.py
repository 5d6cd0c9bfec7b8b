"""No JVM sees a jar that is altered, missing or unknown."""

import hashlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from consumers.errors import SetupError
from consumers.kcl import jars
from consumers.kcl.jars import known_releases, verified_jars

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three small jars and a list of them, beside the lists of the real releases."""
    folder = tmp_path / "jars"
    folder.mkdir()
    digests = {}
    for name in ("a-1.jar", "b-2.jar", "c-3.jar"):
        (folder / name).write_bytes(name.encode() * 1000)
        digests[name] = hashlib.sha256(name.encode() * 1000).hexdigest()
    (folder / "__init__.py").touch()
    releases = [*known_releases(), jars.JarList("small 1.0", digests)]
    monkeypatch.setattr(jars, "known_releases", lambda: releases)
    return folder


def test_jars_as_released_pass(folder: Path) -> None:
    assert [path.name for path in verified_jars(folder)] == ["a-1.jar", "b-2.jar", "c-3.jar"]


@pytest.mark.parametrize("content", [b"", b"b-2.jar" * 999, b"c-2.jar" + b"b-2.jar" * 999])
def test_an_empty_truncated_or_altered_jar_is_refused(folder: Path, content: bytes) -> None:
    (folder / "b-2.jar").write_bytes(content)
    with pytest.raises(SetupError, match=r"not those of small 1\.0; 1 altered: b-2\.jar"):
        verified_jars(folder)


def test_a_missing_jar_is_refused(folder: Path) -> None:
    (folder / "c-3.jar").unlink()
    with pytest.raises(SetupError, match=r"1 missing: c-3\.jar"):
        verified_jars(folder)


def test_a_jar_that_is_on_no_list_is_refused(folder: Path) -> None:
    (folder / "d-4.jar").write_bytes(b"hello")
    with pytest.raises(SetupError, match=r"1 not known: d-4\.jar"):
        verified_jars(folder)


def test_an_empty_folder_is_refused(folder: Path) -> None:
    with pytest.raises(SetupError, match="missing"):
        verified_jars(folder.parent)


def test_the_installed_jars_are_those_on_the_list() -> None:
    paths = verified_jars()
    assert len(paths) == 79
    assert any(path.name == "amazon-kinesis-client-multilang-3.1.3.jar" for path in paths)


def test_one_altered_byte_of_the_real_ones_is_found(tmp_path: Path) -> None:
    for path in verified_jars():
        (tmp_path / path.name).symlink_to(path)
    victim = tmp_path / "amazon-kinesis-client-3.1.3.jar"
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.unlink()
    victim.write_bytes(data)
    with pytest.raises(SetupError, match=r"1 altered: amazon-kinesis-client-3\.1\.3\.jar"):
        verified_jars(tmp_path)


def test_each_list_has_a_digest_for_every_jar_and_both_agree_where_names_do() -> None:
    standard, ext = known_releases()
    assert len(standard.digests) == len(ext.digests) == 79
    common = set(standard.digests) & set(ext.digests)
    assert len(common) == 62
    assert all(standard.digests[name] == ext.digests[name] for name in common)
    assert all(len(bytes.fromhex(digest)) == 32 for digest in standard.digests.values())


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(SetupError, match=r"pip install amazon_kclpy==3\.1\.3"):
        verified_jars()


def test_run_by_itself_it_verifies_what_is_installed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "consumers.kcl.jars"]
    good = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert good.stdout.startswith("verified: 79 jars in ")
    (tmp_path / "amazon_kclpy" / "jars").mkdir(parents=True)
    (tmp_path / "amazon_kclpy" / "__init__.py").touch()
    (tmp_path / "amazon_kclpy" / "jars" / "netty-common-4.1.118.Final.jar").touch()
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    bad = subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert bad.returncode == 1
    assert bad.stdout == ""
    assert "are not those of" in bad.stderr
    assert len(bad.stderr.splitlines()) == 1
