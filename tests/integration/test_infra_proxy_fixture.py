"""The pytest fixture that people copy, copied into a project of its own."""

import os
import subprocess
import sys
from pathlib import Path

from kit.copy import copy

TESTS = """
import pytest

def test_a_fault(kinesis_proxy):
    kinesis_proxy.add_fault(action="error", operation="ListStreams", status=500)
    client = kinesis_proxy.client()
    client.list_streams()  # botocore tries again
    client.close()
    assert kinesis_proxy.status()["faults"]["by_action"] == {"error": 1}

def test_the_proxy_is_a_new_one(kinesis_proxy):
    assert kinesis_proxy.status()["requests"] == 0
    with pytest.raises(ValueError, match="operatoin"):
        kinesis_proxy.add_fault(action="lose", operatoin="ListStreams")

@pytest.mark.parametrize("kinesis_proxy", [["--seed", "7"]], indirect=True)
def test_other_options(kinesis_proxy):
    assert kinesis_proxy.status()["faults"]["seed"] == 7
"""


def foreign_tests(folder: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    assert copy("infra/proxy/pytest_fixture.py", folder / "support") == 0
    (folder / "conftest.py").write_text("from support.pytest_fixture import kinesis_proxy\n")
    (folder / "test_mine.py").write_text(TESTS)
    (folder / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    env = {name: value for name, value in os.environ.items() if "ENDPOINT" not in name}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=folder,
        env={**env, "PYTHONPATH": str(folder), **environment},
    )


def test_the_fixture_works_in_a_project_of_somebody_elses(local_kinesis: str, tmp_path: Path):
    ended = foreign_tests(tmp_path, AWS_ENDPOINT_URL_KINESIS=local_kinesis)
    assert ended.returncode == 0, ended.stdout
    assert "3 passed" in ended.stdout


def test_the_fixture_says_what_it_needs(tmp_path: Path):
    ended = foreign_tests(tmp_path)
    assert ended.returncode == 1
    assert "set AWS_ENDPOINT_URL to the engine" in ended.stdout
    assert "3 errors" in ended.stdout
