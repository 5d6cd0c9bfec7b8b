"""Copied producers doing their work from a project that knows nothing of this checkout."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from infra.stack.endpoints import Endpoints
from kit.copy import copy
from records.aggregation import decode
from records.envelope import open_envelope
from tests.support import eventually
from tests.templates.alone import alone

if TYPE_CHECKING:
    from types_boto3_kinesis import KinesisClient

LINES = [f'{{"thing": "lamp-{n % 7}", "sequence": {n}}}' for n in range(501)]


def run_copy(
    template: str, module: str, *argv: str, folder: Path, stack: Endpoints, lines: list[str]
) -> subprocess.CompletedProcess[str]:
    src = folder / "src"
    assert copy(template, src / "my" / "app") == 0
    return subprocess.run(
        [sys.executable, "-S", "-m", f"my.app.{module}", *argv],
        cwd=folder,
        env=alone(src) | stack.environment(),
        input="".join(f"{line}\n" for line in lines),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def stored(kinesis: "KinesisClient", stream: str) -> list[bytes]:
    """The data of every Kinesis record on a stream's shards."""
    found = []
    for shard in kinesis.list_shards(StreamName=stream)["Shards"]:
        iterator = kinesis.get_shard_iterator(
            StreamName=stream, ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
        )["ShardIterator"]
        while True:
            answer = kinesis.get_records(ShardIterator=iterator)
            found += [record["Data"] for record in answer["Records"]]
            if not answer["Records"] and not answer.get("MillisBehindLatest"):
                break
            iterator = answer["NextShardIterator"]
    return found


def test_put_records_delivers_501_lines(
    kinesis: "KinesisClient", stream: Callable[..., str], stack: Endpoints, tmp_path: Path
) -> None:
    name = stream(shards=2)
    done = run_copy(
        "producers/put_records.py", "put_records", name,
        folder=tmp_path, stack=stack, lines=LINES,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"delivered 501 of 501 records to {name}" in done.stdout
    eventually(lambda: len(stored(kinesis, name)) >= len(LINES))
    assert sorted(stored(kinesis, name)) == sorted(line.encode() for line in LINES)


def test_put_records_says_which_stream_there_is_not(
    kinesis: "KinesisClient",  # noqa: ARG001 - the stack must be there to say no
    unique: Callable[[str], str],
    stack: Endpoints,
    tmp_path: Path,
) -> None:
    done = run_copy(
        "producers/put_records.py", "put_records", unique("none"),
        folder=tmp_path, stack=stack, lines=LINES[:3],
    )  # fmt: skip
    assert done.returncode == 1
    assert "ResourceNotFoundException" in done.stderr
    assert "Traceback" not in done.stderr


def test_aggregated_delivers_few_records_that_hold_every_line(
    kinesis: "KinesisClient", stream: Callable[..., str], stack: Endpoints, tmp_path: Path
) -> None:
    name = stream(shards=2)
    done = run_copy(
        "producers/aggregated", "aggregated", name,
        folder=tmp_path, stack=stack, lines=LINES,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    blobs = stored(kinesis, name)
    assert len(blobs) < len(LINES) / 5
    users = [user for blob in blobs for user in decode(blob) or pytest.fail("no aggregate")]
    envelopes = [open_envelope(user.data) for user in users]
    assert len({envelope.record_id for envelope in envelopes}) == len(LINES)


def test_a_shadow_service_and_an_application_from_one_target(
    mqtt_url: str, unique: Callable[[str], str], tmp_path: Path
) -> None:
    src = tmp_path / "src"
    for template in ("iot/shadows", "iot/shadow_client.py"):
        assert copy(template, src / "app") == 0
    environment = alone(src) | {"MQTT_URL": mqtt_url}
    thing = unique("thing")
    start = [sys.executable, "-S", "-m", "app.shadows", "--store", ":memory:"]
    start += ["--client-id", unique("shadows")]
    client = [sys.executable, "-S", "-m", "app.shadow_client", thing]
    with subprocess.Popen(
        start, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
    ) as service:
        try:
            assert service.stdout is not None
            assert service.stdout.readline().startswith("ready")
            for action in (["set", '{"mode": "eco"}'], ["get"]):
                answer = subprocess.run(
                    [*client, *action],
                    cwd=tmp_path,
                    env=environment,
                    capture_output=True,
                    text=True,
                    check=False,
                    timeout=60,
                )
                assert answer.returncode == 0, answer.stderr
            assert json.loads(answer.stdout)["state"]["desired"] == {"mode": "eco"}
        finally:
            service.terminate()
    assert service.returncode == 0
