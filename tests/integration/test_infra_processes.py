"""Children end with their parent, however the parent ends."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.errors import ProcessError
from infra.processes import describe_exit, start
from tests.support import alive, eventually

ROOT = Path(__file__).parents[2]

SLEEPER = "import time; print('ready', flush=True); time.sleep(60)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SLEEPER
# A child with a child of its own, as KCL's daemon has; it prints both process IDs.
FAMILY = textwrap.dedent(
    """
    import os, subprocess, sys, time
    grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    print("ready", os.getpid(), grandchild.pid, flush=True)
    time.sleep(60)
    """
)
# A parent that starts a child and then does nothing at all about signals.
PARENT = textwrap.dedent(
    """
    import sys, time
    from pathlib import Path
    from infra.processes import start
    child = start([sys.executable, "-c", sys.argv[1]], name="child", log_dir=Path(sys.argv[2]),
                  ready="^ready", grace=float(sys.argv[3]))
    print(child.lines()[0], flush=True)
    time.sleep(60)
    """
)


@contextlib.contextmanager
def parent_of(code: str, log_dir: Path, grace: float = 5.0) -> "Iterator[subprocess.Popen[str]]":
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, code, str(log_dir), str(grace)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
        start_new_session=True,
    ) as parent:
        try:
            yield parent
        finally:
            parent.kill()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_no_child_outlives_its_parent(number: int, tmp_path: Path):
    with parent_of(FAMILY, tmp_path) as parent:
        assert parent.stdout is not None
        _, child, grandchild = parent.stdout.readline().split()
        assert alive(int(child))
        assert alive(int(grandchild))
        parent.send_signal(number)
        parent.wait(timeout=30)
    eventually(lambda: not alive(int(child)), message="the child is gone")
    eventually(lambda: not alive(int(grandchild)), message="the grandchild is gone")


def test_ctrl_c_reaches_the_parent_alone_and_the_children_end_in_good_order(tmp_path: Path):
    code = textwrap.dedent(
        """
        import signal, sys, time
        signal.signal(signal.SIGINT, lambda *_: print("interrupted", flush=True))
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(print("terminated", flush=True)))
        print("ready", flush=True)
        while True:
            time.sleep(60)
        """
    )
    with parent_of(code, tmp_path) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        os.killpg(parent.pid, signal.SIGINT)  # what a terminal does on Ctrl-C
        parent.wait(timeout=30)
    log = tmp_path / "child.log"
    eventually(lambda: "terminated" in log.read_text(), message="the child was told to end")
    assert "interrupted" not in log.read_text()


def test_a_child_that_ignores_sigterm_is_killed_after_the_parents_death(tmp_path: Path):
    with parent_of(
        STUBBORN.replace("'ready'", "'ready', __import__('os').getpid()"), tmp_path, 0.3
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline().split()[1])
        parent.kill()
        parent.wait(timeout=30)
    eventually(lambda: not alive(child), message="the child is gone")


def test_the_pid_is_the_childs_own_and_kill_kills_it(tmp_path: Path):
    code = "import os; print('ready', os.getpid(), flush=True); " + SLEEPER
    with start([sys.executable, "-c", code], name="c", log_dir=tmp_path) as child:
        match = child.wait_for_line(r"^ready (\d+)", timeout=30)
        assert int(match[1]) == child.pid
        assert child.returncode is None
        assert child.kill() == -signal.SIGKILL
        assert child.returncode == -signal.SIGKILL


def test_a_signal_from_elsewhere_is_seen(tmp_path: Path):
    with start(
        [sys.executable, "-c", SLEEPER], name="c", log_dir=tmp_path, ready="^ready"
    ) as child:
        os.kill(child.pid, signal.SIGKILL)
        assert child.wait(timeout=30) == -signal.SIGKILL


def test_terminate_asks_first_and_kills_later(tmp_path: Path):
    polite = [sys.executable, "-c", SLEEPER]
    with start(polite, name="polite", log_dir=tmp_path, ready="^ready") as child:
        assert child.terminate(grace=30) == -signal.SIGTERM
    stubborn = [sys.executable, "-c", STUBBORN]
    with start(stubborn, name="stubborn", log_dir=tmp_path, ready="^ready") as child:
        assert child.terminate(grace=0.2) == -signal.SIGKILL


def test_closing_takes_the_grandchildren_along(tmp_path: Path):
    with start([sys.executable, "-c", FAMILY], name="c", log_dir=tmp_path) as child:
        grandchild = int(child.wait_for_line(r"^ready \d+ (\d+)", timeout=30)[1])
        assert alive(grandchild)
    eventually(lambda: not alive(grandchild), message="the grandchild is gone")


def test_a_grandchild_may_end_by_itself_when_the_child_is_killed(tmp_path: Path):
    # The grandchild notices the end of its standard input, writes its last words, and leaves.
    grandchild = (
        "import sys, pathlib; sys.stdin.read(); pathlib.Path(sys.argv[1]).write_text('bye')"
    )
    words = tmp_path / "words"
    code = (
        "import subprocess, sys, time; "
        f"subprocess.Popen([sys.executable, '-c', {grandchild!r}, {str(words)!r}], "
        "stdin=subprocess.PIPE); " + SLEEPER
    )
    with start([sys.executable, "-c", code], name="c", log_dir=tmp_path, ready="^ready") as child:
        child.kill()
        eventually(lambda: words.exists() and words.read_text() == "bye")


def test_an_early_end_shows_the_end_of_the_log(tmp_path: Path):
    code = "print('port 1 is in use'); raise SystemExit(3)"
    with pytest.raises(ProcessError, match=r"(?s)engine ended with code 3 .*port 1 is in use"):
        start([sys.executable, "-c", code], name="engine", log_dir=tmp_path, ready="^ready")


def test_a_child_that_is_never_ready_is_stopped(tmp_path: Path):
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    with pytest.raises(ProcessError, match=r"(?s)engine was not ready within 2 s.*\d+"):
        start(
            [sys.executable, "-c", code],
            name="engine",
            log_dir=tmp_path,
            ready=lambda: False,
            ready_timeout=2,
        )
    child = int((tmp_path / "engine.log").read_text())
    eventually(lambda: not alive(child), message="the child is gone")


def test_a_program_that_is_not_there_is_a_clear_error(tmp_path: Path):
    with pytest.raises(ProcessError, match=r"engine cannot be started: .*no-such-program"):
        start([tmp_path / "no-such-program"], name="engine", log_dir=tmp_path)


def test_the_environment_and_the_folder_are_the_childs(tmp_path: Path):
    code = "import os; print('got', os.environ.get('A'), os.getcwd(), os.environ.get('PATH'))"
    with start(
        [sys.executable, "-c", code], name="c", log_dir=tmp_path, env={"A": "1"}, cwd=tmp_path
    ) as child:
        match = child.wait_for_line(r"^got (\S+) (\S+) (\S+)$", timeout=30)
    assert match.groups() == ("1", str(tmp_path.resolve()), "None")


def test_a_second_child_of_a_name_does_not_see_the_lines_of_the_first(tmp_path: Path):
    for word in ("first", "second"):
        with start([sys.executable, "-c", f"print('{word}')"], name="c", log_dir=tmp_path) as child:
            child.wait(timeout=30)
            assert child.lines() == [word]
    assert (tmp_path / "c.log").read_text() == "first\nsecond\n"


def test_the_last_line_counts_although_the_child_has_ended(tmp_path: Path):
    with start([sys.executable, "-c", "print('done')"], name="c", log_dir=tmp_path) as child:
        child.wait(timeout=30)
        assert child.wait_for_line(re.compile("^done$"), timeout=1)


def test_a_child_of_a_parent_with_blocked_signals_still_ends_on_sigterm(tmp_path: Path):
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        with start(
            [sys.executable, "-c", SLEEPER], name="c", log_dir=tmp_path, ready="^ready"
        ) as child:
            assert child.terminate(grace=30) == -signal.SIGTERM
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_nothing_is_left_open(tmp_path: Path):
    descriptors = Path("/dev/fd")
    before = len(list(descriptors.iterdir()))
    for _ in range(3):
        with start([sys.executable, "-c", SLEEPER], name="c", log_dir=tmp_path, ready="^ready"):
            pass
    assert len(list(descriptors.iterdir())) == before


@pytest.mark.parametrize(
    ("code", "words"), [(0, "code 0"), (3, "code 3"), (-9, "signal SIGKILL"), (-99, "signal 99")]
)
def test_exits_in_words(code: int, words: str):
    assert describe_exit(code) == words
