"""What tests of every layer share."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def eventually(
    predicate: Callable[[], T],
    *,
    timeout: float = 30.0,
    every: float = 0.05,
    message: str = "",
) -> T:
    """Call a predicate until it returns something true, and return that.

    Args:
        predicate: An `AssertionError` it raises counts as "not yet", so it may hold assertions.
        timeout: Seconds before the test fails.
        every: Seconds between two calls.
        message: What was hoped for; the last value or assertion is shown as well.
    """
    deadline = time.monotonic() + timeout
    while True:
        failure: AssertionError | None = None
        value: T | None = None
        try:
            value = predicate()
        except AssertionError as error:
            failure = error
        else:
            if value:
                return value
        if time.monotonic() >= deadline:
            hoped = message or getattr(predicate, "__name__", "the condition")
            last = f"last value {value!r}" if failure is None else f"last failure: {failure}"
            raise AssertionError(f"not within {timeout:g} s: {hoped} ({last})") from failure
        time.sleep(every)


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie that nobody has reaped yet does not."""
    try:
        os.kill(pid, 0)
        if not Path("/proc").is_dir():
            return True
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):  # it may go between the two looks
        return False
