"""A copied device and a copied bridge, working together in a project of their own."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from infra.stack.endpoints import Endpoints
from kit.copy import copy
from records.aggregation import decode
from tests.support import eventually
from tests.templates.alone import alone

if TYPE_CHECKING:
    from types_boto3_kinesis import KinesisClient


def test_a_device_and_a_bridge_from_one_target(  # noqa: PLR0917 - pytest names them
    kinesis: "KinesisClient",
    stream: Callable[..., str],
    unique: Callable[[str], str],
    stack: Endpoints,
    mqtt_url: str,
    tmp_path: Path,
) -> None:
    src, name, thing = tmp_path / "src", stream(), unique("thing")
    for template in ("iot/device.py", "iot/bridge.py"):
        assert copy(template, src / "app") == 0
    environment = alone(src) | stack.environment() | {"MQTT_URL": mqtt_url}
    bridge = [sys.executable, "-S", "-m", "app.bridge", "--stream", name]
    bridge += ["--client-id", unique("bridge"), "--topic", f"dt/fleet/{thing}/telemetry"]
    device = [sys.executable, "-S", "-m", "app.device", thing, "--interval-ms", "1"]
    with subprocess.Popen(
        bridge, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
    ) as relaying:
        try:
            assert relaying.stdout is not None
            assert relaying.stdout.readline().startswith("ready")
            sent = subprocess.run(
                [*device, "--count", "5"],
                cwd=tmp_path,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
                timeout=60,
            )
            assert sent.returncode == 0, sent.stderr
            eventually(lambda: sequences(kinesis, name) == [1, 2, 3, 4, 5])
        finally:
            relaying.terminate()
            relaying.wait(60)
    assert relaying.returncode == 0


def sequences(kinesis: "KinesisClient", stream: str) -> list[int]:
    """The sequence numbers of the events in a stream of one shard."""
    iterator = kinesis.get_shard_iterator(
        StreamName=stream, ShardId="shardId-000000000000", ShardIteratorType="TRIM_HORIZON"
    )["ShardIterator"]
    records = kinesis.get_records(ShardIterator=iterator)["Records"]
    users = [user for record in records for user in decode(record["Data"]) or ()]
    return [json.loads(user.data)["sequence"] for user in users]
