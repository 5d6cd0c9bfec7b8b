"""`kit up`, `env`, `status` and `down`, as commands and against real engines."""

import contextlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.errors import AwsRefusedError, StackError
from infra.stack import supervisor
from infra.stack.supervisor import _holding, find_running
from kit import stacks
from tests.support import alive, eventually

ROOT = Path(__file__).parents[2]


class Kit:
    """Runs the functions behind `kit` in processes of their own, as a shell would."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self.environment = dict(os.environ) | {stacks.STATE_DIR_VARIABLE: str(state_dir)}

    def __call__(self, command: str, *argv: str) -> "subprocess.CompletedProcess[str]":
        code = "import sys; from kit import stacks; sys.exit(getattr(stacks, sys.argv[1])())"
        return subprocess.run(
            [sys.executable, "-c", code, command, *argv],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            cwd=ROOT,
            env=self.environment,
        )

    def pid(self) -> int:
        running = find_running("embedded", self.state_dir)
        assert running is not None
        return running.pid


@pytest.fixture
def kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kit]:
    state_dir = tmp_path / "state"
    monkeypatch.setenv(stacks.STATE_DIR_VARIABLE, str(state_dir))
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    kit = Kit(state_dir)
    yield kit
    ended = kit("down")
    assert ended.returncode == 0, ended.stderr


def test_a_stack_outlives_its_command_and_ends_with_down(kit: Kit):
    up = kit("up")
    assert up.returncode == 0, up.stderr
    assert "embedded is up" in up.stdout
    running = find_running("embedded", kit.state_dir)
    assert running is not None
    assert str(running.endpoints.kinesis) in up.stdout

    again = kit("up")
    assert again.returncode == 0
    assert "runs already" in again.stdout
    assert find_running("embedded", kit.state_dir) == running

    status = kit("status")
    assert status.returncode == 0, status.stdout
    services = {line.split()[0]: line.split()[1] for line in status.stdout.splitlines()}
    assert services == dict.fromkeys(["kinesis", "dynamodb", "s3", "sqs", "mqtt"], "ok")

    down = kit("down")
    assert down.returncode == 0
    assert down.stdout == "embedded is stopped\n"
    # Its lock is free an instant before the process is gone.
    eventually(lambda: not alive(running.pid))
    for service, problem in stacks._check(running):
        assert problem is not None, service
    assert kit("down").stdout == "embedded was not running\n"


def test_the_variables_are_for_a_shell(kit: Kit):
    kit("up")
    running = find_running("embedded", kit.state_dir)
    assert running is not None
    variables = kit("env").stdout
    show = "import json, os; print(json.dumps(dict(os.environ)))"
    shell = subprocess.run(
        ["sh", "-c", f'eval "$1"; exec {sys.executable} -c "$2"', "-", variables, show],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": os.environ["PATH"]},
    )
    found = json.loads(shell.stdout)
    expected = running.endpoints.environment()
    assert {name: found.get(name) for name in expected} == expected


def test_the_password_is_the_owners_alone_and_not_on_the_screen(kit: Kit):
    up = kit("up")
    state = kit.state_dir / "embedded.json"
    assert stat.S_IMODE(state.stat().st_mode) == 0o600
    password = json.loads(state.read_text())["endpoints"]["mqtt_url"].split(":")[2].split("@")[0]
    assert len(password) > 10
    assert password not in up.stdout + kit("status").stdout


def test_what_a_killed_supervisor_leaves_behind_counts_for_nothing(kit: Kit):
    kit("up")
    running = find_running("embedded", kit.state_dir)
    assert running is not None
    os.kill(running.pid, signal.SIGKILL)
    eventually(lambda: not alive(running.pid))
    assert (kit.state_dir / "embedded.json").exists(), "the state it left"
    # By `env`: `status` is 1 also while the supervisor is there and an engine is not.
    eventually(lambda: kit("env").returncode == 1)
    assert kit("env").stdout == ""
    assert kit("status").returncode == 1
    # The engines went with it, and a new stack comes up in its place.
    eventually(lambda: all(problem for _, problem in stacks._check(running)))
    assert kit("up").returncode == 0
    assert kit("status").returncode == 0
    assert kit.pid() != running.pid


def test_a_stack_that_is_starting_is_not_taken_for_the_one_that_was_killed(kit: Kit):
    kit.state_dir.mkdir(parents=True)
    state = {"pid": 1, "endpoints": {"aws": "x", "kinesis": "x", "mqtt_url": None}}
    (kit.state_dir / "embedded.json").write_text(json.dumps(state))
    lock = kit.state_dir / "embedded.lock"
    lock.write_text("1\n")
    with _holding(lock):
        assert find_running("embedded", kit.state_dir) is None
        state["pid"] = os.getpid()
        (kit.state_dir / "embedded.json").write_text(json.dumps(state))
        assert find_running("embedded", kit.state_dir) is not None


def test_a_process_that_got_the_old_number_is_not_touched(kit: Kit):
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as stranger:
        kit.state_dir.mkdir(parents=True)
        state = {"pid": stranger.pid, "endpoints": {"aws": "x", "kinesis": "x", "mqtt_url": None}}
        (kit.state_dir / "embedded.json").write_text(json.dumps(state))
        (kit.state_dir / "embedded.lock").write_text(f"{stranger.pid}\n")
        assert kit("status").returncode == 1
        assert kit("down").stdout == "embedded was not running\n"
        assert stranger.poll() is None
        stranger.kill()


def test_a_sick_engine_is_named_and_the_others_are_well(kit: Kit):
    kit("up")
    # End the engine as a crash would: its port is gone while the supervisor lives on.
    with contextlib.suppress(ProcessLookupError):
        os.kill(engine_pid(kit, "ministack"), signal.SIGKILL)

    def sick() -> bool:
        lines = dict(line.split(maxsplit=1) for line in kit("status").stdout.splitlines())
        return "does not answer" in lines["dynamodb"] and lines["kinesis"] == "ok"

    eventually(sick)
    assert kit("status").returncode == 1


def engine_pid(kit: Kit, word: str) -> int:
    if not Path("/proc/self/environ").exists():
        pytest.skip("this system has no /proc to find the engine in")
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_text().split("\0")
            owned = str(kit.state_dir) in (folder / "environ").read_text()
        except OSError:
            continue
        if owned and word in command and "guard.py" not in " ".join(command):
            return int(folder.name)
    pytest.fail(f"no {word} of this stack runs")


def test_several_at_once_start_one_stack(kit: Kit):
    code = "import sys; from kit import stacks; sys.exit(stacks.up())"
    commands = [
        subprocess.Popen(
            [sys.executable, "-c", code], cwd=ROOT, env=kit.environment, stdout=subprocess.DEVNULL
        )
        for _ in range(5)
    ]
    assert [command.wait(timeout=120) for command in commands] == [0] * 5
    assert kit("status").returncode == 0


def test_who_comes_too_late_leaves_the_running_stack_alone(kit: Kit):
    assert kit("up").returncode == 0
    logs = supervisor.log_dir("embedded", kit.state_dir)
    before = {path: path.stat().st_ino for path in logs.iterdir()}
    assert before
    # What a second `kit up` does that has not seen the first one's lock yet.
    late = supervisor._spawn("embedded", kit.state_dir)
    assert late.wait(timeout=60) == 0
    assert {path: path.stat().st_ino for path in logs.iterdir()} == before
    assert kit("status").returncode == 0


def test_a_stack_that_cannot_start_says_why(kit: Kit, tmp_path: Path):
    checkout = tmp_path / "checkout"
    for room in ("infra", "kit", "records"):
        shutil.copytree(ROOT / room, checkout / room, ignore=shutil.ignore_patterns("node_modules"))
    ended = subprocess.run(
        [sys.executable, "-c", "import sys; from kit import stacks; sys.exit(stacks.up())"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=checkout,
        env=kit.environment | {"PYTHONPATH": str(checkout)},
    )
    assert ended.returncode == 1
    assert "make setup" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_nothing_running_and_nothing_named_is_refused(kit: Kit):
    with pytest.raises(AwsRefusedError, match=r"kit up.*AWS_ENDPOINT_URL.*--stack aws"):
        stacks.endpoints_for(None, {"AWS_PROFILE": "prod"})
    with pytest.raises(StackError, match="kit up"):
        stacks.endpoints_for("embedded", {})
    with pytest.raises(StackError, match="no stack 'production'"):
        stacks.endpoints_for("production", {})
    assert not kit.state_dir.exists()


def test_the_endpoint_in_the_environment_wins_over_a_running_stack(kit: Kit):
    kit("up")
    running = find_running("embedded", kit.state_dir)
    assert running is not None
    assert stacks.endpoints_for(None, {}) == running.endpoints
    assert stacks.endpoints_for("embedded", {}) == running.endpoints
    named = stacks.endpoints_for(None, {"AWS_ENDPOINT_URL": "http://127.0.0.1:1"})
    assert named.aws == "http://127.0.0.1:1"
    broker = stacks.endpoints_for(None, {"MQTT_URL": "mqtt://u:p@h:1"})
    assert (broker.aws, broker.mqtt_url) == (running.endpoints.aws, "mqtt://u:p@h:1")
    with pytest.raises(AwsRefusedError, match="AWS_ENDPOINT_URL_S3"):
        stacks.endpoints_for("embedded", {"AWS_ENDPOINT_URL_S3": "https://s3.amazonaws.com"})


def test_aws_takes_the_word(kit: Kit):
    endpoint = {"AWS_ENDPOINT_URL": "https://kinesis.us-east-1.amazonaws.com"}
    with pytest.raises(AwsRefusedError, match="leads to AWS"):
        stacks.endpoints_for(None, endpoint)
    assert stacks.endpoints_for("aws", {}).aws is None
    assert kit("status").returncode == 1
