"""The engines that a machine may have, started for the length of a block and asked who they are."""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import docker  # type: ignore[import-untyped] # has no types

from infra.errors import StackError
from infra.processes import GuardedProcess, start
from infra.stack.broker import on_free_port
from infra.stack.containers import LOCALSTACK_IMAGE, containers_stack
from infra.stack.embedded import start_kinesis, start_ministack
from infra.stack.endpoints import without_aws_settings
from infra.stack.health import check_dynamodb, check_kinesis
from infra.stack.nodejs import npm_package

_START_SECONDS = 60.0
_UNKNOWN = "version unknown"


@dataclass(frozen=True, slots=True)
class Engine:
    """A running engine.

    Attributes:
        name: What it is called in the report.
        url: Where it answers.
        version: Exactly which one it is, and how it was started.
        dynamodb: What serves DynamoDB there; empty if nothing does.
    """

    name: str
    url: str
    version: str
    dynamodb: str = ""


@contextmanager
def kinesis_mock(log_dir: Path) -> Iterator[Engine]:
    """Run kinesis-mock as the embedded stack does."""
    package = json.loads((npm_package("kinesis-local") / "package.json").read_text())
    process, url = start_kinesis(log_dir)
    with process:
        yield Engine("kinesis-mock", url, f"npm kinesis-local {package['version']}")


@contextmanager
def ministack(log_dir: Path) -> Iterator[Engine]:
    """Run MiniStack; unlike in the embedded stack it serves Kinesis too."""
    process, url = start_ministack(log_dir, services=("kinesis", "dynamodb"))
    version = importlib.metadata.version("ministack")
    with process:
        yield Engine("MiniStack", url, f"PyPI ministack {version}", dynamodb=f"MiniStack {version}")


@contextmanager
def moto(log_dir: Path) -> Iterator[Engine]:
    """Run moto's server."""
    program = _program("moto_server")
    version = _package_version([str(Path(program).with_name("python"))], "moto", _run)
    process, url = _on_a_port([program, "-H", "127.0.0.1", "-p"], "moto", log_dir)
    with process:
        yield Engine("moto", url, f"PyPI moto {version}", dynamodb=f"moto {version}")


@contextmanager
def ferrokinesis(log_dir: Path) -> Iterator[Engine]:
    """Run ferrokinesis with its own limits on, as the one engine that has any."""
    program = os.environ.get("FERROKINESIS") or _program("ferrokinesis")
    at_once = (f"--{what}-stream-ms=0" for what in ("create", "delete", "update"))
    arguments = [program, "--enforce-limits", "--shard-limit=100000", *at_once, "--port"]
    process, url = _on_a_port(arguments, "ferrokinesis", log_dir)
    with process:
        version = f"{_cargo_version(Path(program))}, with `--enforce-limits`"
        yield Engine("ferrokinesis", url, version)


@contextmanager
def localstack(log_dir: Path) -> Iterator[Engine]:
    """Run LocalStack in its container, as the containers stack does, and look inside."""
    with containers_stack(log_dir=log_dir) as endpoints:
        url = endpoints.aws or ""
        # Its engines are started by the first call.
        for problem in (check_kinesis(url, timeout=120.0), check_dynamodb(url, timeout=120.0)):
            if problem is not None:
                raise StackError(problem)
        client = docker.from_env()
        try:
            port = urlsplit(url).port
            found = client.containers.list(filters={"publish": str(port), "status": "running"})
            inside = _Inside(next(each for each in found if _publishes(each, port)))
            yield Engine(
                "LocalStack",
                url,
                f"image {LOCALSTACK_IMAGE}, with {inside.kinesis()} inside",
                dynamodb=inside.dynamodb(),
            )
        finally:
            client.close()


ENGINES: Mapping[str, Callable[[Path], AbstractContextManager[Engine]]] = {
    "kinesis-mock": kinesis_mock,
    "LocalStack": localstack,
    "MiniStack": ministack,
    "moto": moto,
    "ferrokinesis": ferrokinesis,
}
"""By their names in the report; each raises `StackError` where the machine does not have it."""


class _Inside:
    """What runs in LocalStack's container, by the list of its processes."""

    def __init__(self, container: Any) -> None:
        self._container = container
        listing = 'for f in /proc/[0-9]*/cmdline; do tr "\\0" " " < "$f"; echo; done'
        self._processes = self._run(["sh", "-c", listing]).splitlines()

    def kinesis(self) -> str:
        """Say which kinesis-mock it is."""
        for line in self._processes:
            if found := re.search(r"kinesis-local/([\d.]+)/", line):
                return f"kinesis-mock {found[1]}"
        return f"kinesis-mock ({_UNKNOWN})"

    def dynamodb(self) -> str:
        """Say what serves DynamoDB: LocalStack itself forwards the calls to another process."""
        for line in self._processes:
            if "DynamoDBLocal.jar" in line:
                return "DynamoDB Local"
            if re.search(r"[/ ]ministack( |$)", line):
                version = _package_version([line.split()[0]], "ministack", self._run)
                return f"MiniStack {version}"
        return "an engine that cannot be told from its processes"

    def _run(self, argv: list[str]) -> str:
        code, output = self._container.exec_run(argv)
        return output.decode(errors="replace") if code == 0 else ""


def _publishes(container: Any, port: int | None) -> bool:
    published = [each for ports in container.ports.values() for each in ports or []]
    return any(each["HostPort"] == str(port) for each in published)


def _program(name: str) -> str:
    """Return a program beside this Python, else the one on the PATH.

    Raises:
        StackError: There is neither.
    """
    beside = shutil.which(name, path=str(Path(sys.executable).parent))
    found = beside or shutil.which(name)
    if found is None:
        raise StackError(f"{name} is not installed")
    return found


def _on_a_port(argv: list[str], name: str, log_dir: Path) -> tuple[GuardedProcess, str]:
    """Start a program that takes its port as the last argument, and wait until it has Kinesis."""

    def on_port(port: int) -> tuple[GuardedProcess, str]:
        url = f"http://127.0.0.1:{port}"
        process = start(
            [*argv, str(port)],
            name=name,
            log_dir=log_dir,
            env=without_aws_settings(os.environ),
            ready=lambda: check_kinesis(url) is None,
            ready_timeout=_START_SECONDS,
        )
        return process, url

    return on_free_port(on_port)


def _package_version(python: list[str], package: str, run: Callable[[list[str]], str]) -> str:
    """Ask the Python that has a package for the package's version."""
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    return run([*python, "-c", code]).strip() or f"({_UNKNOWN})"


def _cargo_version(program: Path) -> str:
    """Return the version that cargo has noted for a program; the program does not say it."""
    notes = program.resolve().parent.parent / ".crates.toml"
    found = re.search(r'"ferrokinesis ([\d.]+)', notes.read_text()) if notes.exists() else None
    return f"crate ferrokinesis {found[1]}" if found else f"ferrokinesis ({_UNKNOWN})"


def _run(argv: list[str]) -> str:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30)
    except OSError:
        return ""
    return done.stdout if done.returncode == 0 else ""
