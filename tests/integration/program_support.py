"""Starts the producers' programs as a person would, and ends those that are left."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.stack.endpoints import Endpoints
from tests.integration.aggregated_support import environment_of

ROOT = Path(__file__).resolve().parents[2]

Start = Callable[..., "subprocess.Popen[bytes]"]


@contextmanager
def starting(module: str, stack: Endpoints) -> Iterator[Start]:
    """Give a function that starts the module with arguments, against the stack or the `url`."""
    made: list[subprocess.Popen[bytes]] = []

    def start(*arguments: object, url: str | None = None) -> "subprocess.Popen[bytes]":
        made.append(
            subprocess.Popen(
                [sys.executable, "-m", module, *map(str, arguments)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=ROOT,
                env=environment_of(stack, url),
            )
        )
        return made[-1]

    try:
        yield start
    finally:
        for process in made:
            process.kill()
            process.communicate()
