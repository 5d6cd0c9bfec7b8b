"""The process between a parent and its child that outlives a parent killed with SIGKILL.

It is started by `infra.processes.start` as a script, by path, with nothing but the standard
library: it has to be up within a few milliseconds. It starts the child in a process group of the
child's own and holds the read end of a pipe whose write end only the parent has. When the parent
ends in whatever way, the kernel closes that pipe, and the guard stops the child's whole group.
No signal handler in the parent, no `prctl` and no thread is needed for that, so it works on Linux
and macOS alike.

Usage: guard.py LIFELINE_FD REPORT_FD GRACE_SECONDS PROGRAM [ARGUMENT ...]

On the lifeline the parent may write lines `signal N`; on the report the guard writes `pid N`, or
`failed REASON` when the program cannot be started, and `exit CODE` when it has ended.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
import time

LEFTOVERS_GRACE_SECONDS = 5.0
"""How long members of the child's group may take to see by themselves that the child is gone.

A KCL record processor, for one, reads the end of its standard input and leaves in good order.
"""


def main(argv: list[str]) -> int:
    """Start the child, watch the lifeline, and report how the child ended."""
    lifeline, report, grace = int(argv[0]), int(argv[1]), float(argv[2])
    # A parent that waits with `sigwait` has its signals blocked, and a child inherits that.
    signal.pthread_sigmask(signal.SIG_SETMASK, set())
    wake_reader = _wake_on_signals()
    try:
        child = subprocess.Popen(argv[3:], stdin=subprocess.DEVNULL, process_group=0)
    except OSError as error:
        _tell(report, f"failed {error}")
        return 1
    _tell(report, f"pid {child.pid}")
    lifeline_open = _watch(child, lifeline, wake_reader, grace)
    _tell(report, f"exit {child.returncode}")
    _clear_group(child.pid, lifeline if lifeline_open else None)
    return 0


def _wake_on_signals() -> int:
    """Make SIGCHLD and SIGTERM wake `select`; a terminal's Ctrl-C is the parent's to handle."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    # Handlers, not SIG_IGN: the child would inherit an ignored signal, and never a handler.
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda _number, _frame: None)
    return reader


def _watch(child: "subprocess.Popen[bytes]", lifeline: int, wake_reader: int, grace: float) -> bool:
    """Wait until the child has ended; return whether the parent was still there then."""
    sources = [lifeline, wake_reader]
    kill_at: float | None = None
    buffered = b""
    while child.poll() is None:
        timeout = None if kill_at is None else max(0.0, kill_at - time.monotonic())
        readable, _, _ = select.select(sources, [], [], timeout)
        if wake_reader in readable and signal.SIGTERM in os.read(wake_reader, 512):
            kill_at = _terminate_group(child.pid, grace)
        if lifeline in readable:
            received = os.read(lifeline, 512)
            if received:
                *lines, buffered = (buffered + received).split(b"\n")
                for line in lines:
                    child.send_signal(int(line.split()[1]))
            else:
                sources.remove(lifeline)
                kill_at = _terminate_group(child.pid, grace)
        if kill_at is not None and time.monotonic() >= kill_at:
            _signal_group(child.pid, signal.SIGKILL)
    return lifeline in sources


def _terminate_group(group: int, grace: float) -> float:
    """Ask the group to end and return the monotonic time at which to stop asking."""
    _signal_group(group, signal.SIGTERM)
    return time.monotonic() + grace


def _clear_group(group: int, lifeline: int | None) -> None:
    """Let the rest of the group end by itself while the parent lives, then end it."""
    give_up = time.monotonic() + LEFTOVERS_GRACE_SECONDS
    while lifeline is not None and _signal_group(group, 0) and time.monotonic() < give_up:
        readable, _, _ = select.select([lifeline], [], [], 0.05)
        if readable and not os.read(lifeline, 512):
            break
    if _signal_group(group, signal.SIGTERM):
        time.sleep(0.2)
        _signal_group(group, signal.SIGKILL)


def _signal_group(group: int, number: int) -> bool:
    """Signal the group; return whether it still has a member."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):  # macOS says EPERM for a group of zombies
        return False
    return True


def _tell(report: int, line: str) -> None:
    """Report to the parent, which may be gone."""
    with contextlib.suppress(BrokenPipeError):
        os.write(report, line.replace("\n", " ").encode() + b"\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
