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
from records.envelope import seal

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
        ("aggregate", "orders", os.devnull),
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
