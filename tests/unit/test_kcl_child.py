"""The child of a shard as a real process, with the test as the daemon at the other end.

The sinks are modules written by the tests, as a user would write one.
"""

import io
import os
import select
import signal
import sqlite3
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from consumers.kcl.channel import EXIT_ORPHANED, Channel
from consumers.kcl.events import read_events
from tests.kcl_daemon import DEADLINE, Child
from tests.support import eventually


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Child]]:
    children: list[Child] = []

    def start(sink: str | None = None, *arguments: str) -> Child:
        """Start a child; ``sink`` is the body of ``apply``, by default records go to SQLite."""
        spec = f"sqlite:{tmp_path / 's.db'}"
        if sink is not None:
            (tmp_path / "usersink.py").write_text(
                _MODULE.format(body=textwrap.indent(sink, " " * 8))
            )
            spec = "python:usersink:Sink"
        child = Child(tmp_path, spec, *arguments)
        children.append(child)
        return child

    yield start
    for child in children:
        child.process.kill()
        child.process.wait()
        for pipe in (child.process.stdin, child.process.stdout, child.process.stderr):
            if pipe:
                pipe.close()


_MODULE = """\
import json, os, subprocess, sys, time
from consumers.sinks.base import Applied

class Sink:
    def __init__(self, *, retention, horizon):
        assert horizon >= retention

    def apply(self, records):
{body}
        return Applied(len(records), 0)

    def close(self):
        pass
"""


def test_a_shard_from_its_first_record_to_its_end(
    start: Callable[..., Child], tmp_path: Path
) -> None:
    child = start()
    child.begin()
    child.records("a", "b")
    child.confirm("2", "processRecords")
    child.ask("shardEnded")
    child.confirm(None, "shardEnded")
    child.hang_up()
    assert child.end() == 0
    assert child.rest() == b""
    assert child.process.stderr
    assert child.process.stderr.read() == b"ready: shard-1 is being read\n"
    connection = sqlite3.connect(tmp_path / "s.db")
    assert connection.execute("SELECT data FROM effects").fetchall() == [(b"a",), (b"b",)]
    connection.close()


def test_nothing_that_a_handler_prints_reaches_the_protocol(start: Callable[..., Child]) -> None:
    child = start("""\
print(json.dumps({"action": "status", "responseFor": "processRecords"}), flush=True)
print(json.dumps({"action": "checkpoint", "sequenceNumber": None, "subSequenceNumber": None}))
os.write(1, b"from C\\n")
subprocess.run(["echo", "from a subprocess"], check=True)
# It would eat the daemon's answer, were standard input still the pipe.
assert subprocess.run(["sh", "-c", "kill -TERM $$; exit 0"]).returncode == -15
eaten = subprocess.run(["cat"], stdout=subprocess.PIPE, check=True).stdout
assert eaten == b"", eaten
assert sys.stdin.read() == ""
""")
    child.begin()
    child.records("a")
    child.confirm("1", "processRecords")
    child.hang_up()
    assert child.end() == 0
    assert child.rest() == b""
    assert "from C" in child.log()
    assert "from a subprocess" in child.log()
    assert '"responseFor": "processRecords"' in child.log()


def test_nothing_that_is_printed_before_the_first_request_reaches_the_protocol(
    start: Callable[..., Child], tmp_path: Path
) -> None:
    (tmp_path / "loud.py").write_text(
        "import sys, usersink\n"
        'print(\'{"action": "status", "responseFor": "initialize"}\', flush=True)\n'
        "Sink = usersink.Sink\n"
    )
    start("pass").hang_up()  # for its module
    child = start(None, "--sink", "python:loud:Sink")
    child.begin()
    child.records("a")
    child.confirm("1", "processRecords")
    child.hang_up()
    assert child.end() == 0
    assert child.rest() == b""


def test_a_handler_that_raises_once_is_asked_again(
    start: Callable[..., Child], tmp_path: Path
) -> None:
    marker = str(tmp_path / "marker")
    child = start(f"""\
if not os.path.exists({marker!r}):
    open({marker!r}, "w").close()
    raise RuntimeError("a passing weakness")
""")
    child.begin()
    child.records("a", "b")
    child.confirm("2", "processRecords")
    assert "a passing weakness" in child.log()


def test_a_handler_that_keeps_raising_ends_the_child_uncheckpointed(
    start: Callable[..., Child],
) -> None:
    child = start(
        'if records[0].data == b"poison": raise RuntimeError("for good")', "--attempts", "2"
    )
    child.begin()
    child.records("good")
    child.confirm("1", "processRecords")
    child.records("poison", "after", start=2)
    assert child.end() == 1
    assert child.rest() == b""  # neither a checkpoint nor a status
    assert child.process.stderr
    assert b"stopped: RuntimeError: for good" in child.process.stderr.read()
    assert [event["event"] for event in read_events(child.work_dir)] == ["initialized", "failed"]


@pytest.mark.parametrize("leave", ["sys.exit(0)", "raise KeyboardInterrupt"])
def test_a_handler_that_leaves_does_not_look_like_success(
    start: Callable[..., Child], leave: str
) -> None:
    child = start(leave)
    child.begin()
    child.records("a")
    assert child.end() == 1
    assert child.rest() == b""


def test_it_ignores_the_signals_that_a_process_group_gets(start: Callable[..., Child]) -> None:
    child = start()
    child.begin()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        child.process.send_signal(number)
    child.records("a")
    child.confirm("1", "processRecords")
    child.ask("shutdownRequested")
    assert child.hear() == {"action": "status", "responseFor": "shutdownRequested"}
    child.hang_up()
    assert child.end() == 0


def test_it_ends_with_its_daemon_while_a_handler_runs(start: Callable[..., Child]) -> None:
    child = start('print("at work", flush=True); time.sleep(600)')
    child.begin()
    child.records("a")
    eventually(lambda: "at work" in child.log(), timeout=DEADLINE)
    child.hang_up()
    assert child.end() == EXIT_ORPHANED


def test_it_ends_with_its_daemon_while_it_waits_for_a_checkpoint(
    start: Callable[..., Child],
) -> None:
    child = start()
    child.begin()
    child.records("a")
    assert child.hear()["action"] == "checkpoint"
    child.hang_up()
    assert child.end() == 1


def test_a_daemon_that_stops_reading_ends_it(start: Callable[..., Child]) -> None:
    child = start()
    child.begin()
    assert child.process.stdout
    child.process.stdout.close()
    child.records("a")
    assert child.end() == 1
    assert "does not read any more" in child.log()


def test_a_line_that_is_no_request_ends_it(start: Callable[..., Child]) -> None:
    child = start()
    child.begin()
    child.ask("dance")
    assert child.end() == 1


def test_a_sink_that_cannot_be_opened_is_said_before_anything_is_read(
    start: Callable[..., Child], tmp_path: Path
) -> None:
    (tmp_path / "s.db").write_text("not a database" * 100)
    child = start()
    assert child.end() == 1
    assert child.process.stderr
    assert b"s.db cannot be used as a sink" in child.process.stderr.read()
    (event,) = read_events(tmp_path)
    assert event["event"] == "failed"


def test_nothing_that_was_printed_before_the_runtime_began_reaches_the_protocol(
    start: Callable[..., Child], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # it is the buffer that matters here
    (tmp_path / "sitecustomize.py").write_text(
        'print(\'{"action": "status", "responseFor": "initialize"}\')\n'
    )
    child = start("print('started loudly')")
    child.begin()
    child.records("a")
    child.confirm("1", "processRecords")
    child.hang_up()
    assert child.end() == 0
    assert child.rest() == b""


_THREAD = "import threading; threading.Thread(target=time.sleep, args=(600,)).start()\n"


def test_a_thread_that_a_handler_started_does_not_keep_a_failed_child(
    start: Callable[..., Child],
) -> None:
    child = start(_THREAD + 'raise RuntimeError("for good")', "--attempts", "1")
    child.begin()
    child.records("a")
    assert child.end() == 1


def test_a_thread_that_a_handler_started_does_not_keep_a_child_without_its_daemon(
    start: Callable[..., Child],
) -> None:
    child = start(_THREAD)
    child.begin()
    child.records("a")
    child.confirm("1", "processRecords")
    child.hang_up()
    assert child.end() == 0


@pytest.mark.parametrize("slow", ["__init__(self, **_)", "close(self)"])
def test_a_sink_that_hangs_while_it_is_opened_or_closed_does_not_outlive_the_daemon(
    start: Callable[..., Child], tmp_path: Path, slow: str
) -> None:
    start("pass").hang_up()  # for its module
    (tmp_path / "slow.py").write_text(
        "import time, usersink\n"
        "class Sink(usersink.Sink):\n"
        f"    def {slow}:\n"
        "        time.sleep(600)\n"
    )
    child = start(None, "--sink", "python:slow:Sink")
    if slow.startswith("close"):
        child.begin()
    child.hang_up()
    assert child.end() == EXIT_ORPHANED


def test_a_process_that_a_handler_forks_does_not_hold_the_pipe(
    start: Callable[..., Child], tmp_path: Path
) -> None:
    forked = tmp_path / "forked"
    child = start(f"""\
pid = os.fork()
if pid == 0:
    time.sleep(600)
    os._exit(0)
open({str(forked)!r}, "w").write(str(pid))
""")
    child.begin()
    child.records("a")
    child.confirm("1", "processRecords")
    try:
        child.hang_up()
        assert child.end() == 0
        assert child.process.stdout
        ready, _, _ = select.select([child.process.stdout], [], [], 5.0)
        assert ready, "the daemon would wait for the end of the child's output for ever"
        assert child.rest() == b""
    finally:
        os.kill(int(forked.read_text()), signal.SIGKILL)


def test_the_reason_is_said_even_when_the_journal_cannot_be_written(
    start: Callable[..., Child], tmp_path: Path
) -> None:
    child = start('raise RuntimeError("for good")', "--attempts", "1")
    child.begin()
    (tmp_path / "events.jsonl").unlink()
    (tmp_path / "events.jsonl").mkdir()  # as good as a full disk
    child.records("a")
    assert child.end() == 1
    assert child.process.stderr
    assert b"stopped: RuntimeError: for good" in child.process.stderr.read()


def test_an_empty_payload_is_a_record(start: Callable[..., Child], tmp_path: Path) -> None:
    child = start()
    child.begin()
    child.records("", "")
    child.confirm("2", "processRecords")
    connection = sqlite3.connect(tmp_path / "s.db")
    assert connection.execute("SELECT data FROM effects").fetchall() == [(b"",), (b"",)]
    connection.close()


def test_a_pipe_that_breaks_is_one_that_closed() -> None:
    class Broken(io.BytesIO):
        def __next__(self) -> bytes:
            raise OSError("input/output error")

    left: list[int] = []
    channel = Channel(Broken(), 1, abandon=left.append)
    assert channel.receive() is None
    assert left == []
