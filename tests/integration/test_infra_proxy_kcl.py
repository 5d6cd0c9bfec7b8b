"""The real Kinesis Client Library through the proxy, on a stream that was resharded before.

The engine alone answers ListShards(AT_TRIM_HORIZON) with the children as well, and KCL never starts
on an empty lease table. A JVM takes ten to forty seconds to its first record, so all the workers
run at the same time, and the tests look at what they left behind.
"""

import json
import os
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from consumers.kcl.properties import _TUNINGS
from infra.stack.endpoints import Endpoints
from tests.integration.kcl_worker_support import KEYS, Producer, Worker, effects
from tests.proxy_process import proxy_before
from tests.support import eventually
from tests.wire_tap import WireTap

if TYPE_CHECKING:
    from types_boto3_kinesis import KinesisClient

pytestmark = pytest.mark.timeout(420)

JSON, CBOR = "application/x-amz-json-1.1", "application/x-amz-cbor-1.1"

# The local tuning switches CBOR off; the same values under the other name leave it on.
SPEAKS_CBOR = ["--tuning", "production"]
for _key, _value in _TUNINGS["local"].items():
    SPEAKS_CBOR += ["--property", f"{_key}={_value}"]

WORKERS = {
    "json": ([], ["--correct"]),
    "cbor": (SPEAKS_CBOR, ["--correct", "--quotas", "aws"]),
    "fan-out": (
        [*SPEAKS_CBOR, "--property", "retrievalMode=FANOUT"],
        ["--correct", "--quotas", "aws"],
    ),
}


@dataclass
class Told:
    """What one worker did, as seen from outside."""

    worker: Worker
    producer: Producer
    front: WireTap
    back: WireTap
    bare: list[str]
    corrected: list[str]
    exit_code: int
    status: dict[str, Any]

    @property
    def database(self) -> Path:
        return Path(self.worker.sink.partition(":")[2])


def at_the_trim_horizon(client: "KinesisClient", stream: str) -> list[str]:
    shards = client.list_shards(StreamName=stream, ShardFilter={"Type": "AT_TRIM_HORIZON"})
    return sorted(shard["ShardId"] for shard in shards["Shards"])


def reshard(producer: Producer) -> None:
    """Put records, split the only shard, and put records to its children."""
    client, stream = producer.client, producer.stream
    for _ in range(4):
        producer.round()
    client.split_shard(
        StreamName=stream, ShardToSplit="shardId-000000000000", NewStartingHashKey=str(2**127)
    )
    eventually(
        lambda: (
            client.describe_stream_summary(StreamName=stream)["StreamDescriptionSummary"][
                "StreamStatus"
            ]
            == "ACTIVE"
        )
    )
    for _ in range(4):
        producer.round()


def tell(
    name: str, stack: Endpoints, upstream: str, kinesis: "KinesisClient", folder: Path
) -> Told:
    arguments, options = WORKERS[name]
    stream = f"proxied-{name}-{uuid.uuid4().hex[:12]}"
    kinesis.create_stream(StreamName=stream, ShardCount=1)
    with ExitStack() as cleanup:
        cleanup.callback(kinesis.delete_stream, StreamName=stream, EnforceConsumerDeletion=True)
        kinesis.get_waiter("stream_exists").wait(StreamName=stream, WaiterConfig={"Delay": 1})
        producer = Producer(kinesis, stream)
        reshard(producer)

        back = WireTap(upstream)
        cleanup.callback(back.close)
        proxy = cleanup.enter_context(proxy_before(back.url, *options, log_dir=folder))
        front = WireTap(proxy.url)
        cleanup.callback(front.close)
        client = proxy.client()
        cleanup.callback(client.close)

        environment = {**stack.applied_to(os.environ), "AWS_ENDPOINT_URL_KINESIS": front.url}
        sink = f"sqlite:{folder / 'effects.db'}"
        worker = Worker(stream, folder, sink, environment, tuple(arguments), worker_id="slot-0")
        told = Told(
            worker,
            producer,
            front,
            back,
            at_the_trim_horizon(kinesis, stream),
            at_the_trim_horizon(client, stream),
            exit_code=-1,
            status={},
        )
        process = cleanup.enter_context(worker.start())
        worker.wait_for_shards(1)
        worker.wait_until(
            lambda: len(effects(told.database)) >= len(producer.sent), "done with the records"
        )
        told.status = proxy.status()
        told.exit_code = process.terminate(30)
    return told


@pytest.fixture(scope="module")
def all_told(
    stack: Endpoints,
    local_kinesis: str,
    kinesis: "KinesisClient",
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[str, Told]]:
    with ThreadPoolExecutor() as pool:
        running = {
            name: pool.submit(
                tell, name, stack, local_kinesis, kinesis, tmp_path_factory.mktemp(name)
            )
            for name in WORKERS
        }
        yield {name: future.result() for name, future in running.items()}


@pytest.fixture(params=WORKERS)
def told(request: pytest.FixtureRequest, all_told: dict[str, Told]) -> Told:
    return all_told[request.param]


def test_only_the_correction_lets_kcl_see_one_complete_hash_range(told: Told) -> None:
    assert told.corrected == ["shardId-000000000000"]
    # What would keep KCL waiting for ever; once an engine gets this right, this test may go.
    assert told.bare == [f"shardId-00000000000{n}" for n in range(3)]
    assert told.status["corrections"]["list-shards-filter"] >= 1


def test_each_event_took_effect_once_and_in_order_across_the_split(told: Told) -> None:
    numbers: dict[str, list[int]] = {}
    for *_, data, _ in effects(told.database):
        event = json.loads(data)
        numbers.setdefault(event["key"], []).append(event["number"])
    assert numbers == {
        key: sorted(number for other, number in told.producer.sent if other == key) for key in KEYS
    }


def test_the_parent_was_drained_before_its_children(told: Told) -> None:
    for key in KEYS:
        shards = [shard for shard, other, *_ in effects(told.database) if other == key]
        parents = shards.count("shardId-000000000000")
        assert 0 < parents < len(shards)
        assert set(shards[:parents]) == {"shardId-000000000000"}
        assert len(set(shards[parents:])) == 1
    ended = [event["shard_id"] for event in told.worker.events("shard_ended")]
    assert ended == ["shardId-000000000000"]
    assert told.exit_code == 143


def test_the_wire_was_http2_and_in_the_protocol_that_was_meant(
    all_told: dict[str, Told],
) -> None:
    for name, kind in (("json", JSON), ("cbor", CBOR)):
        told = all_told[name]
        # The launcher's own call is boto3's, over HTTP/1.1; all of KCL's are over HTTP/2.
        assert told.front.connections["PRI"] >= 1
        assert set(told.front.calls) <= {("DescribeStreamSummary", JSON)}
        # The engine is spoken to over HTTP/1.1, with what the client has sent.
        assert told.back.connections["PRI"] == 0
        assert told.back.types_of("GetRecords") == {kind}


def test_enhanced_fan_out_came_to_the_end_of_the_parent_by_its_last_event(
    all_told: dict[str, Told],
) -> None:
    told = all_told["fan-out"]
    # The Java SDK has no CBOR for event streams, whatever it speaks elsewhere.
    assert told.back.types_of("RegisterStreamConsumer") == {CBOR}
    assert told.back.types_of("SubscribeToShard") == {JSON}
    operations = told.status["operations"]
    # One for the parent and one for each child at least, and not one read by polling.
    assert operations["SubscribeToShard"]["requests"] >= 3
    assert "GetRecords" not in operations
    assert told.status["corrections"]["subscribe-child-shards"] == 1


def test_with_quotas_the_reads_were_held_against_them(all_told: dict[str, Told]) -> None:
    assert all_told["json"].status["shards"] == []
    told = all_told["cbor"]
    rows = [row for row in told.status["shards"] if row["stream"] == told.worker.stream]
    assert {row["shard"] for row in rows} >= {"shardId-000000000001", "shardId-000000000002"}
    assert told.status["operations"]["GetRecords"]["requests"] > 0
    # KCL reads each shard four times a second, which is what AWS allows, and is never refused.
    assert told.status["operations"]["GetRecords"]["refused"] == 0
    assert told.status["upstream_errors"] == 0
