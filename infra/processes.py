"""Child processes that never outlive the process that started them.

`start` puts a small guard process (`infra/guard.py`) between the caller and the child. The guard
notices the end of the caller even when it is killed with SIGKILL, and stops the child and whatever
the child has started. Standard output and error go to one log file per child.

>>> import sys, tempfile
>>> from pathlib import Path
>>> with start(
...     [sys.executable, "-c", "print('ready', flush=True); input()"],
...     name="example",
...     log_dir=Path(tempfile.mkdtemp()),
...     ready=r"^ready",
... ) as child:
...     _ = child.wait(timeout=10)  # input() finds no standard input
>>> child.returncode
1
"""

import atexit
import contextlib
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from infra.errors import ProcessError

STOP_GRACE_SECONDS = 10.0
"""How long a child may take to end after SIGTERM before it gets SIGKILL."""

_POLL_SECONDS = 0.02
_TAIL_BYTES = 4096
_GUARD = Path(__file__).with_name("guard.py")

_live: "set[GuardedProcess]" = set()


def start(
    argv: Sequence[str | os.PathLike[str]],
    *,
    name: str,
    log_dir: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    ready: str | re.Pattern[str] | Callable[[], bool] | None = None,
    ready_timeout: float = 30.0,
    grace: float = STOP_GRACE_SECONDS,
) -> "GuardedProcess":
    """Start a program that ends when this process does, and wait until it is ready.

    Args:
        argv: The program and its arguments; never a shell line.
        name: Names the child in messages, and its log file, `log_dir/name.log`.
        log_dir: Folder of the log file; it is made when missing. A second child of the same name
            appends to the same file.
        env: The child's whole environment; this process's own when None.
        cwd: The child's working directory; this process's own when None.
        ready: A regular expression that a line of the log must match, or a predicate that must
            become true. None returns as soon as the program runs.
        ready_timeout: Seconds to wait for `ready`.
        grace: Seconds between SIGTERM and SIGKILL when the child is stopped.

    Returns:
        The running child. It is a context manager that stops the child at the end.

    Raises:
        ProcessError: The program cannot be started, ended before it was ready, or was not ready in
            time. The message holds the end of its log; the child has been stopped.
    """
    process = GuardedProcess(argv, name=name, log_dir=log_dir, env=env, cwd=cwd, grace=grace)
    if ready is None:
        return process
    try:
        if callable(ready):
            process.wait_until(ready, timeout=ready_timeout)
        else:
            process.wait_for_line(ready, timeout=ready_timeout)
    except BaseException:
        process.close()
        raise
    return process


class GuardedProcess:
    """A child process behind a guard; made by `start`.

    Attributes:
        name: The name it was given.
        pid: The process ID of the child itself, not of its guard.
        log_path: The file its standard output and error go to.
    """

    def __init__(
        self,
        argv: Sequence[str | os.PathLike[str]],
        *,
        name: str,
        log_dir: Path,
        env: Mapping[str, str] | None,
        cwd: Path | None,
        grace: float,
    ) -> None:
        self.name = name
        self.log_path = log_dir / f"{name}.log"
        log_dir.mkdir(parents=True, exist_ok=True)
        self._grace = grace
        self._lock = threading.Lock()
        self._returncode: int | None = None
        self._buffered = b""
        with self.log_path.open("ab") as log:
            self._log_start = log.tell()
            self._guard, self._lifeline, self._report = _start_guard(argv, log, env, cwd, grace)
        _live.add(self)
        self.pid = self._read_pid()

    @property
    def returncode(self) -> int | None:
        """The child's exit code, negative for a signal, or None while it runs."""
        self._take_reports(timeout=0.0)
        return self._returncode

    def wait(self, timeout: float) -> int:
        """Wait until the child has ended and return its exit code.

        Raises:
            TimeoutError: It still runs after `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        while self.returncode is None:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise TimeoutError(f"{self.name} (pid {self.pid}) still runs after {timeout} s")
            # In slices, for the lock is held while waiting and others may ask for the return code.
            self._take_reports(timeout=min(remaining, 0.2))
        code = self.returncode
        assert code is not None  # noqa: S101 - the loop has just seen it
        return code

    def wait_until(
        self, predicate: Callable[[], bool], *, timeout: float, what: str = "ready"
    ) -> None:
        """Wait until a predicate holds, which is asked some fifty times a second.

        Args:
            predicate: Must not block for long.
            timeout: Seconds.
            what: What is waited for, for the message.

        Raises:
            ProcessError: The child ended, or `timeout` seconds have passed.
        """
        deadline = time.monotonic() + timeout
        while not predicate():
            if self.returncode is not None:
                if predicate():  # the last it did may be just what is waited for
                    return
                raise ProcessError(
                    f"{self.name} ended with {describe_exit(self.returncode)} before it was "
                    f"{what}{self._tail()}"
                )
            if time.monotonic() >= deadline:
                raise ProcessError(f"{self.name} was not {what} within {timeout:g} s{self._tail()}")
            self._take_reports(timeout=_POLL_SECONDS)

    def wait_for_line(self, pattern: str | re.Pattern[str], timeout: float) -> re.Match[str]:
        """Wait for a line of the child's output that matches a regular expression.

        Args:
            pattern: Searched for in each complete line since the child was started.
            timeout: Seconds.

        Returns:
            The match in the first such line.

        Raises:
            ProcessError: The child ended, or `timeout` seconds have passed without such a line.
        """
        regex = re.compile(pattern)
        found: list[re.Match[str]] = []

        def seen() -> bool:
            match = next((m for line in self.lines() if (m := regex.search(line))), None)
            found.extend([match] if match else [])
            return match is not None

        self.wait_until(seen, timeout=timeout, what=f"seen to print /{regex.pattern}/")
        return found[0]

    def lines(self) -> list[str]:
        """Return the complete lines this child has printed so far."""
        with self.log_path.open("rb") as log:
            log.seek(self._log_start)
            text = log.read().decode(errors="replace")
        return text.split("\n")[:-1]

    def send_signal(self, number: int) -> None:
        """Send a signal to the child itself; nothing happens when it has ended.

        The guard sends it, because only the child's own parent knows that the process ID is still
        the child's.
        """
        with contextlib.suppress(BrokenPipeError):
            os.write(self._lifeline, b"signal %d\n" % number)

    def kill(self) -> int:
        """Kill the child itself with SIGKILL, wait, and return its exit code (-9)."""
        self.send_signal(signal.SIGKILL)
        return self.wait(timeout=10.0)

    def terminate(self, grace: float | None = None) -> int:
        """Stop the child with SIGTERM, or SIGKILL after `grace` seconds; return its exit code."""
        self.send_signal(signal.SIGTERM)
        try:
            return self.wait(timeout=self._grace if grace is None else grace)
        except TimeoutError:
            return self.kill()

    def close(self) -> None:
        """Stop the child, if it still runs, and everything it has started."""
        if self not in _live:
            return
        try:
            if self.returncode is None:
                self.terminate()
        finally:
            _live.discard(self)
            os.close(self._lifeline)
            self._guard.wait(timeout=self._grace + 10.0)
            os.close(self._report)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _read_pid(self) -> int:
        deadline = time.monotonic() + 30.0
        while b"\n" not in self._buffered and time.monotonic() < deadline:
            if not self._fill(timeout=1.0):
                break
        line, _, self._buffered = self._buffered.partition(b"\n")
        word, _, rest = line.decode().partition(" ")
        if word == "pid":
            return int(rest)
        self._returncode = 127
        self.close()
        raise ProcessError(f"{self.name} cannot be started: {rest or 'its guard ended'}")

    def _take_reports(self, *, timeout: float) -> None:
        """Read what the guard has to say, waiting up to `timeout` seconds for it."""
        with self._lock:
            if self._returncode is not None or self not in _live:
                return
            guard_lives = self._fill(timeout=timeout)
            line, separator, _ = self._buffered.partition(b"\n")
            if separator:
                self._returncode = int(line.split()[1])
            elif not guard_lives:
                # Somebody killed the guard: nobody is left to watch the child, so end it here.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self.pid, signal.SIGKILL)
                self._returncode = -signal.SIGKILL

    def _fill(self, *, timeout: float) -> bool:
        """Read from the report pipe; return False when the guard has closed it."""
        readable, _, _ = select.select([self._report], [], [], timeout)
        if not readable:
            return True
        received = os.read(self._report, 4096)
        self._buffered += received
        return bool(received)

    def _tail(self) -> str:
        with self.log_path.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_start, size - _TAIL_BYTES))
            text = log.read().decode(errors="replace").strip()
        return f"; the end of {self.log_path}:\n{text}" if text else f"; {self.log_path} is empty"


def describe_exit(code: int) -> str:
    """Say an exit code in words: `code 1`, or `signal SIGKILL`."""
    if code >= 0:
        return f"code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"


def _start_guard(
    argv: Sequence[str | os.PathLike[str]],
    log: IO[bytes],
    env: Mapping[str, str] | None,
    cwd: Path | None,
    grace: float,
) -> tuple["subprocess.Popen[bytes]", int, int]:
    """Start the guard; return it with this side's ends of the lifeline and the report."""
    lifeline_reader, lifeline = os.pipe()
    report, report_writer = os.pipe()
    try:
        guard = subprocess.Popen(
            # -I -S: no environment, no site packages, so it starts at once and imports only
            # the standard library. The child gets the environment unchanged.
            [
                *(sys.executable, "-I", "-S", _GUARD),
                *(str(lifeline_reader), str(report_writer), str(grace)),
                *argv,
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=env,
            cwd=cwd,
            pass_fds=(lifeline_reader, report_writer),
            start_new_session=True,  # so that a terminal's Ctrl-C does not reach the guard
        )
    except BaseException:
        os.close(lifeline)
        os.close(report)
        raise
    finally:
        os.close(lifeline_reader)
        os.close(report_writer)
    return guard, lifeline, report


@atexit.register
def _close_all() -> None:
    for process in sorted(_live, key=lambda p: p.pid, reverse=True):
        with contextlib.suppress(Exception):
            process.close()
