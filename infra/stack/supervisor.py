"""Keep a stack running after the command that started it has ended.

A supervisor is a detached process that opens a stack and holds it until it gets SIGTERM. As long as
it lives it holds a lock on `NAME.lock` in the state folder, and while the stack is up `NAME.json`
says where its services are. The lock, not the process ID, tells whether a stack runs: the kernel
lets go of it whatever kills the supervisor, and a process ID may by then be another program's.
"""

import argparse
import contextlib
import fcntl
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from infra.errors import InfraError, ProcessError
from infra.stack.endpoints import Endpoints
from infra.stack.open import open_stack

_START_SECONDS = 180.0
_STOP_SECONDS = 60.0
_POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Running:
    """A stack that is up.

    Attributes:
        stack: Its name.
        pid: The supervisor's process ID.
        endpoints: Where its services are.
        log_dir: Where its logs are.
    """

    stack: str
    pid: int
    endpoints: Endpoints
    log_dir: Path


def find_running(stack: str, state_dir: Path) -> Running | None:
    """Return the stack of that name if it is up; what a dead supervisor left behind is not."""
    if not _is_locked(_lock_path(stack, state_dir)):
        return None
    try:
        state = json.loads(_state_path(stack, state_dir).read_text())
    except FileNotFoundError:
        return None  # still starting, or already stopping
    if state["pid"] != _locking_pid(_lock_path(stack, state_dir)):
        return None  # left behind by one that was killed; who has the lock now is starting
    return Running(stack, state["pid"], Endpoints(**state["endpoints"]), log_dir(stack, state_dir))


def bring_up(stack: str, state_dir: Path) -> Running:
    """Return the running stack of that name, started if it was not.

    Raises:
        ProcessError: It does not come up; the message has what the supervisor said.
    """
    state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    process = None
    if not _is_locked(_lock_path(stack, state_dir)):
        process = _spawn(stack, state_dir)
    deadline = time.monotonic() + _START_SECONDS
    while (running := find_running(stack, state_dir)) is None:
        ended = process is not None and process.poll() is not None
        # Two commands may start a stack at once: one supervisor gets the lock, the other ends.
        if (ended and not _is_locked(_lock_path(stack, state_dir))) or time.monotonic() > deadline:
            raise ProcessError(f"the stack does not come up: {_last_words(stack, state_dir)}")
        time.sleep(_POLL_SECONDS)
    return running


def bring_down(stack: str, state_dir: Path) -> bool:
    """Stop the stack of that name and wait until it is gone; return whether it was there.

    Raises:
        ProcessError: It is still there after a minute.
    """
    lock = _lock_path(stack, state_dir)
    was_there = _is_locked(lock)
    deadline = time.monotonic() + _STOP_SECONDS
    asked: int | None = None
    while _is_locked(lock):
        pid = _locking_pid(lock)
        if pid is not None and pid != asked:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
            asked = pid
        if time.monotonic() > deadline:
            raise ProcessError(f"the stack's supervisor (pid {pid}) does not end")
        time.sleep(_POLL_SECONDS)
    _state_path(stack, state_dir).unlink(missing_ok=True)
    return was_there


def log_dir(stack: str, state_dir: Path) -> Path:
    """Return the folder of a stack's logs."""
    return state_dir / f"{stack}-logs"


def main(argv: Sequence[str] | None = None) -> int:
    """Be the supervisor: `bring_up` starts this."""
    parser = argparse.ArgumentParser(prog="python -m infra.stack.supervisor", description=__doc__)
    parser.add_argument("--stack", required=True)
    parser.add_argument("--state-dir", required=True, type=Path)
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    # Blocked, so that a SIGTERM during the start is kept until there is something to stop.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
    state = _state_path(arguments.stack, arguments.state_dir)
    try:
        with _holding(_lock_path(arguments.stack, arguments.state_dir)):
            state.unlink(missing_ok=True)
            logs = log_dir(arguments.stack, arguments.state_dir)
            # Only who holds the lock may clear away what an earlier stack has said.
            shutil.rmtree(logs, ignore_errors=True)
            os.truncate(_own_log(arguments.stack, arguments.state_dir), 0)
            with open_stack(arguments.stack, log_dir=logs) as endpoints:
                _write_state(state, endpoints)
                signal.sigwait({signal.SIGTERM, signal.SIGINT})
                state.unlink(missing_ok=True)
    except BlockingIOError:
        return 0  # another supervisor has it
    except InfraError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _spawn(stack: str, state_dir: Path) -> "subprocess.Popen[bytes]":
    # Appended to: another supervisor may be writing to it, and this one may be too late.
    with _own_log(stack, state_dir).open("ab") as log:
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "infra.stack.supervisor"),
                *("--stack", stack, "--state-dir", state_dir.resolve()),
            ],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


@contextmanager
def _holding(lock: Path) -> Iterator[None]:
    """Hold the lock, with this process's ID in it; BlockingIOError if somebody else does."""
    with lock.open("a+") as file:
        _take(file)
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def _take(file: IO[str]) -> None:
    for _ in range(20):
        # Whoever asks for the stack holds the lock for a moment, too.
        with contextlib.suppress(BlockingIOError):
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        time.sleep(_POLL_SECONDS)
    return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_locked(lock: Path) -> bool:
    try:
        with lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _locking_pid(lock: Path) -> int | None:
    try:
        return int(lock.read_text())
    except ValueError:
        return None  # it is just writing it


def _write_state(path: Path, endpoints: Endpoints) -> None:
    """Write the state in one step, readable by its owner only: it has the broker's password."""
    draft = path.with_suffix(".draft")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump({"pid": os.getpid(), "endpoints": asdict(endpoints)}, file)
    draft.replace(path)


def _last_words(stack: str, state_dir: Path) -> str:
    log = _own_log(stack, state_dir)
    text = log.read_text(errors="replace").strip() if log.exists() else ""
    return text or f"its supervisor says nothing in {log}"


def _own_log(stack: str, state_dir: Path) -> Path:
    return state_dir / f"{stack}-supervisor.log"


def _lock_path(stack: str, state_dir: Path) -> Path:
    return state_dir / f"{stack}.lock"


def _state_path(stack: str, state_dir: Path) -> Path:
    return state_dir / f"{stack}.json"


if __name__ == "__main__":
    sys.exit(main())
