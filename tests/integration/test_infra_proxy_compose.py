"""`docker compose --profile proxy up`: LocalStack behind the proxy, as a person types it."""

import os
import ssl
import subprocess
import uuid
from collections.abc import Callable, Iterator
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import HTTPClientError

from kit.copy import ROOT

# The first build fetches every package.
BUILD_SECONDS, STEP_SECONDS = 900, 180

pytestmark = [pytest.mark.containers, pytest.mark.timeout(BUILD_SECONDS + STEP_SECONDS)]

Compose = Callable[..., str]


@pytest.fixture
def compose() -> Iterator[Compose]:
    """`docker compose` on a project of the test's own, on ports that nobody else has."""
    project = f"test-{uuid.uuid4().hex[:12]}"
    ports = ("LOCALSTACK_PORT", "MQTT_PORT", "PROXY_PORT", "PROXY_TLS_PORT")

    def run(*argv: str, timeout: float = STEP_SECONDS) -> str:
        done = subprocess.run(
            ["docker", "compose", "--ansi", "never", "-p", project, "--profile", "proxy", *argv],
            cwd=ROOT,
            env=os.environ | dict.fromkeys(ports, "0"),
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    try:
        yield run
    finally:
        run("down", "-v", "--remove-orphans", "--timeout", "5")


def test_localstack_stands_behind_quotas_tls_and_corrections(
    compose: Compose, tmp_path: Path
) -> None:
    compose("build", "proxy", timeout=BUILD_SECONDS)
    compose("up", "--no-build", "--wait", "proxy")
    config = Config(retries={"total_max_attempts": 1})
    endpoint = compose("port", "proxy", "4569")
    client = boto3.session.Session().client(
        "kinesis", endpoint_url=f"http://{endpoint}", config=config
    )
    client.create_stream(StreamName="s", ShardCount=1)
    client.get_waiter("stream_exists").wait(StreamName="s", WaiterConfig={"Delay": 1})

    # A shard takes 1 MiB at once and a second's worth more for each second that passes.
    record = {"Data": b"x" * 900_000, "PartitionKey": "k"}
    answers = [client.put_records(StreamName="s", Records=[record] * 4) for _ in range(2)]  # type: ignore[list-item]
    assert sum(answer["FailedRecordCount"] for answer in answers) >= 4

    client.split_shard(
        StreamName="s", ShardToSplit="shardId-000000000000", NewStartingHashKey=str(2**127)
    )
    client.get_waiter("stream_exists").wait(StreamName="s", WaiterConfig={"Delay": 1})
    shards = client.list_shards(StreamName="s", ShardFilter={"Type": "AT_TRIM_HORIZON"})["Shards"]
    assert [shard["ShardId"] for shard in shards] == ["shardId-000000000000"]

    # From inside faults are added, as the comment in docker-compose.yml says.
    lose = 'from infra.proxy import control; control.lose("http://127.0.0.1:4569", "ListShards")'
    compose("exec", "-T", "proxy", "python", "-c", lose)
    with pytest.raises(HTTPClientError):
        client.list_shards(StreamName="s")
    client.close()

    compose("cp", "proxy:/tmp/proxy-ca.pem", str(tmp_path / "ca.pem"))
    port = int(compose("port", "proxy", "4570").rpartition(":")[2])
    context = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
    secure = HTTPSConnection("localhost", port, timeout=30, context=context)
    secure.request("GET", "/_localstack/health")
    assert secure.getresponse().status == 200
    secure.close()

    # From outside nobody drives it.
    outside = HTTPConnection(endpoint, timeout=30)
    outside.request("GET", "/_proxy/status")
    assert outside.getresponse().status == 403
    outside.close()
