"""The containers stack, started for this file alone, whatever `--stack` says."""

import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from infra.errors import StackError
from infra.stack.endpoints import Endpoints
from infra.stack.health import Broker, check_dynamodb, check_kinesis, check_mqtt, check_s3
from infra.stack.open import open_stack
from tests.support import eventually

pytestmark = pytest.mark.containers

ROOT = Path(__file__).parents[2]
LABEL = "kinesis-iot-toolkit.stack"


@pytest.fixture(scope="module")
def docker_client() -> Iterator[Any]:
    import docker  # noqa: PLC0415 - only where there is an engine

    client = docker.from_env()
    yield client
    client.close()


@pytest.fixture(scope="module")
def log_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("containers")


@pytest.fixture(scope="module")
def containers(log_dir: Path) -> Iterator[Endpoints]:
    with open_stack("containers", log_dir=log_dir) as endpoints:
        yield endpoints
    assert "New client connected" in (log_dir / "mosquitto.log").read_text()
    assert "Ready." in (log_dir / "localstack.log").read_text()


def test_every_service_is_well(containers: Endpoints):
    assert containers.aws is not None
    assert containers.mqtt_url is not None
    assert check_kinesis(containers.aws) is None
    assert check_dynamodb(containers.aws, timeout=30) is None
    assert check_s3(containers.aws, timeout=30) is None
    assert check_mqtt(containers.mqtt_url) is None


def test_the_broker_takes_no_anonymous_client(containers: Endpoints):
    broker = Broker.from_url(str(containers.mqtt_url))
    problem = check_mqtt(f"mqtt://{broker.host}:{broker.port}")
    assert problem is not None
    assert "not authorized" in problem


def test_a_stream_is_active_at_once_and_splits(containers: Endpoints, unique: Callable[[str], str]):
    client = boto3.session.Session().client("kinesis", endpoint_url=containers.kinesis)
    name = unique("s")
    client.create_stream(StreamName=name, ShardCount=1)
    put = client.put_record(StreamName=name, Data=b"before", PartitionKey="k")
    client.split_shard(StreamName=name, ShardToSplit=put["ShardId"], NewStartingHashKey=str(2**127))
    iterator = client.get_shard_iterator(
        StreamName=name, ShardId=put["ShardId"], ShardIteratorType="TRIM_HORIZON"
    )["ShardIterator"]
    answer = client.get_records(ShardIterator=iterator)
    assert [record["Data"] for record in answer["Records"]] == [b"before"]
    assert len(answer["ChildShards"]) == 2
    client.close()


def published(docker_client: Any) -> dict[str, list[str]]:
    """The addresses that this toolkit's containers are published on, by container."""
    found = {}
    for container in docker_client.containers.list(filters={"label": LABEL}, ignore_removed=True):
        ports = container.attrs["NetworkSettings"]["Ports"].values()
        found[container.id] = [entry["HostIp"] for entries in ports for entry in entries or []]
    return found


def test_only_the_loopback_interface_is_published(containers: Endpoints, docker_client: Any):
    assert containers.aws is not None
    addresses = published(docker_client)
    assert len(addresses) >= 2
    assert {address for some in addresses.values() for address in some} == {"127.0.0.1"}


def test_no_container_outlives_a_killed_owner(docker_client: Any, tmp_path: Path):
    before = {
        c.id for c in docker_client.containers.list(filters={"label": LABEL}, ignore_removed=True)
    }
    code = textwrap.dedent(
        """
        import sys, time
        from pathlib import Path
        from infra.stack.open import open_stack
        with open_stack("containers", log_dir=Path(sys.argv[1])):
            print("up", flush=True)
            time.sleep(300)
        """
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
    ) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "up\n"
        mine = {
            c.id
            for c in docker_client.containers.list(filters={"label": LABEL}, ignore_removed=True)
        } - before
        assert len(mine) == 2
        owner.kill()
        owner.wait(timeout=30)

    def left() -> set[str]:
        labelled = docker_client.containers.list(
            all=True, filters={"label": LABEL}, ignore_removed=True
        )
        return {c.id for c in labelled} & mine

    eventually(lambda: not left(), timeout=60, message="both containers are removed")


def test_no_engine_is_a_clear_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no-docker.sock")
    with (
        pytest.raises(StackError, match="no Docker engine answers"),
        open_stack("containers", log_dir=tmp_path),
    ):
        pytest.fail("it must not open")
