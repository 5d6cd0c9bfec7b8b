"""`kit` as a person types it: what it refuses, and the small commands at work."""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from infra.processes import start
from infra.proxy import control
from infra.stack.endpoints import Endpoints
from records.aggregation import AggregateBuilder
from records.dead_letter import read_dead_letters
from records.envelope import open_envelope, seal
from tests.integration.aggregated_support import read_back

if TYPE_CHECKING:
    from types_boto3_kinesis import KinesisClient

ROOT = Path(__file__).resolve().parents[2]
AMBIENT = {"AWS_ACCESS_KEY_ID": "AKIAEXAMPLE", "AWS_SECRET_ACCESS_KEY": "x", "AWS_PROFILE": "prod"}


def kit(
    *arguments: str, env: Mapping[str, str], stdin: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    return subprocess.run(
        [sys.executable, "-m", "kit", *arguments],
        env={**kept, **env},
        cwd=ROOT,
        input=stdin,
        capture_output=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("put", "orders", os.devnull),
        ("put", "orders", os.devnull, "--aggregate"),
        ("replay", os.devnull),
        ("provision", "--stream", "orders:1"),
        ("consume", "--stream=s", "--application=a", "--worker-id=w", "--sink=sqlite:x"),
    ],
)
def test_ambient_credentials_without_an_endpoint_never_reach_aws(
    arguments: tuple[str, ...], tmp_path: Path
) -> None:
    ran = kit(*arguments, env={**AMBIENT, "KIT_STATE_DIR": str(tmp_path)})
    assert ran.returncode == 1
    assert b"no stack is running" in ran.stderr
    assert b"--stack aws" in ran.stderr
    assert b"Traceback" not in ran.stderr


@pytest.mark.parametrize("stack", ["environment", "aws"])
def test_the_demo_refuses_aws(stack: str, tmp_path: Path) -> None:
    url = "https://kinesis.us-east-1.amazonaws.com"
    folder = str(tmp_path / "demo")
    ran = kit(
        "demo", "--stack", stack, "--folder", folder, env={**AMBIENT, "AWS_ENDPOINT_URL": url}
    )
    assert ran.returncode in {1, 2}
    assert b"Traceback" not in ran.stderr
    assert b"kit demo: " in ran.stderr


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [(("--devices", "0"), b"--devices"), (("--devices", "5", "--events", "4"), b"--events")],
)
def test_a_plan_that_makes_no_sense_starts_nothing(
    arguments: tuple[str, ...], problem: bytes
) -> None:
    ran = kit("demo", *arguments, env={})
    assert ran.returncode == 2
    assert problem in ran.stderr


def test_put_feeds_lines_to_the_stack_in_the_environment(
    stack: Endpoints, kinesis: "KinesisClient", stream: Callable[..., str]
) -> None:
    name = stream()
    lines = b"".join(b'{"device": "d%d"}\n' % n for n in range(7))
    ran = kit("put", name, "-", "--key-field", "device", env=stack.environment(), stdin=lines)
    assert ran.returncode == 0, ran.stderr.decode()
    shard = kinesis.list_shards(StreamName=name)["Shards"][0]["ShardId"]
    iterator = kinesis.get_shard_iterator(
        StreamName=name, ShardId=shard, ShardIteratorType="TRIM_HORIZON"
    )["ShardIterator"]
    records = kinesis.get_records(ShardIterator=iterator)["Records"]
    assert sorted(record["PartitionKey"] for record in records) == [f"d{n}" for n in range(7)]


def test_put_aggregates_and_replay_brings_back_what_failed_with_the_same_record_ids(
    stack: Endpoints,
    kinesis: "KinesisClient",
    stream: Callable[..., str],
    unique: Callable[[str], str],
    tmp_path: Path,
) -> None:
    name, letters = stream(), tmp_path / "failed.dlq"
    arn = kinesis.describe_stream_summary(StreamName=name)["StreamDescriptionSummary"]["StreamARN"]
    lines = b"".join(b'{"device": "d%d", "n": %d}\n' % (n % 3, n) for n in range(40))
    options = ("--aggregate", "--key-field=device", "--linger=0.5", "--max-age=50")
    failing = (*options, "--dead-letter", str(letters))
    gone = kit("put", unique("gone"), "-", *failing, env=stack.environment(), stdin=lines)
    assert gone.returncode == 1
    assert gone.stdout.endswith(f"; 40 kept in {letters}\n".encode())
    assert gone.stderr.startswith(b"kit put: 40 not delivered, ResourceNotFoundException: ")
    with letters.open("rb") as file:
        kept = [letter.data for letter in read_dead_letters(file)]

    replay = ("replay", str(letters), "--stream", arn, "--remove", "--aggregate", "--max-age=50")
    back = kit(*replay, env=stack.environment())
    assert (back.returncode, back.stderr) == (0, b"")
    assert back.stdout == f"delivered 40 of 40 records to {arn}\n".encode()
    assert [*tmp_path.iterdir()] == []
    fine = kit("put", arn, "-", *options, env=stack.environment(), stdin=lines)
    assert (fine.returncode, fine.stderr) == (0, b"")

    held = read_back(kinesis, name)
    assert len(held) < 40, "nothing was packed"
    found = [user.data for each in held for user in each.users()]
    assert found[:40] == kept
    assert len(found) == len({open_envelope(data).record_id for data in found}) == 80


@pytest.mark.parametrize("option", ["--linger=1", "--max-age=1", "--unordered"])
def test_put_refuses_options_that_mean_nothing_without_aggregate(option: str) -> None:
    ran = kit("put", "orders", os.devnull, option, env={})
    assert ran.returncode == 2
    assert b"need --aggregate" in ran.stderr.replace(b"\n", b" ")


@pytest.mark.parametrize("command", ["put", "replay"])
def test_bad_values_are_told_by_the_command_that_got_them(
    stack: Endpoints, command: str, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    arguments = {"put": ("two words", "-", "--aggregate"), "replay": (str(tmp_path / "file"),)}
    ran = kit(command, *arguments[command], "--max-age=soon", env=stack.environment())
    assert ran.returncode == 2
    usage, error = ran.stderr.decode().splitlines()
    assert usage == f"usage: kit {command} --help"
    assert error.startswith(f"kit {command}: error: argument ")


def test_a_runnable_keeps_its_own_options(stack: Endpoints, unique: Callable[[str], str]) -> None:
    ran = kit("provision", "--stream", f"{unique('kit')}:1", env=stack.environment())
    assert ran.returncode == 0, ran.stderr.decode()
    assert b"created stream" in ran.stdout
    assert b"--stream" in kit("bridge", "--help", env={}).stdout
    assert kit("bridge", "--no-such-option", env=stack.environment()).returncode == 2


@pytest.mark.parametrize("as_base64", [False, True])
def test_decode_shows_what_is_inside(as_base64: bool) -> None:  # noqa: FBT001 - parametrized
    builder = AggregateBuilder(max_bytes=1000)
    builder.try_add("device-7", seal(b'{"temperature": 21}', "0199-some-id"))
    raw = builder.build()
    stdin = base64.b64encode(raw) if as_base64 else raw
    ran = kit("decode", "-", *(["--base64"] if as_base64 else []), env={}, stdin=stdin)
    assert ran.returncode == 0, ran.stderr.decode()
    for part in (b"device-7", b"0199-some-id", b"temperature"):
        assert part in ran.stdout


def test_conformance_sees_what_the_proxy_adds_to_the_engine(
    stack: Endpoints, tmp_path: Path
) -> None:
    check = ("conformance", "--only", "put-records-501", "--json")
    bare = kit(*check, env=stack.environment())
    assert (bare.returncode, bare.stderr) == (1, b"")
    (failure,) = json.loads(bare.stdout)["failures"]
    assert (failure["name"], failure["found"]) == ("put-records-501", "success 200")

    command = [sys.executable, "-m", "kit", "proxy", "--quotas", "aws", "--plain"]
    environment = os.environ | stack.environment()
    with start(command, name="proxy", log_dir=tmp_path, env=environment, cwd=ROOT) as proxy:
        url = proxy.wait_for_line(r"^ready (http://\S+)$", timeout=60)[1]
        behind = kit(*check, env=stack.environment() | {"AWS_ENDPOINT_URL_KINESIS": url})
        refused = control.status(url)["operations"]["PutRecords"]["refused"]
    found = json.loads(behind.stdout)
    assert (behind.returncode, behind.stderr) == (0, b"")
    assert (found["passed"], found["total"], refused) == (1, 1, 1)
