"""What `AggregatingProducer` confirmed through a reshard, read by the real Kinesis Client Library.

The shards are split and merged under load, with quotas on and faults of every kind. Three readings
are held against each other: the futures, `aws_kinesis_agg` with KCL's rule, and KCL's effects. A
JVM takes ten to forty seconds to its first record, so both workers start before the load begins.
"""

import json
import os
import sqlite3
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from consumers.sinks.base import DAY
from consumers.sinks.sqlite import SqliteSink
from infra.stack.endpoints import Endpoints
from tests.integration.aggregated_load import MODES, Load, reshard_under_load
from tests.integration.aggregated_support import (
    Held,
    Place,
    check_account,
    kept_by_kcl,
    read_back,
    shard_id,
)
from tests.integration.kcl_worker_support import Worker
from tests.proxy_process import proxy_before

if TYPE_CHECKING:
    from types_boto3_kinesis import KinesisClient

pytestmark = pytest.mark.timeout(420)

TOLD = ("packed", "ordered")


@dataclass
class Told:
    """What was put in one mode, what the stream holds, and what KCL made of it."""

    mode: str
    load: Load
    held: list[Held]
    worker: Worker
    database: Path
    exit_code: int

    def effects(self) -> list[tuple[str, Place, str, int]]:
        """The ID, the place, the key and the number of each effect, in the order of effects."""
        connection = sqlite3.connect(self.database)
        try:
            rows = connection.execute(
                "SELECT record_id, shard_id, sequence_number, sub_sequence_number, partition_key,"
                " data FROM effects ORDER BY position"
            ).fetchall()
        finally:
            connection.close()
        return [(row[0], (row[1], row[2], row[3]), row[4], json.loads(row[5])["n"]) for row in rows]


def tell(mode: str, stack: Endpoints, upstream: str, kinesis: "KinesisClient", at: Path) -> Told:
    stream = f"aggregated-{mode}-{uuid.uuid4().hex[:12]}"
    database = at / "effects.db"
    kinesis.create_stream(StreamName=stream, ShardCount=1)
    with ExitStack() as cleanup:
        cleanup.callback(kinesis.delete_stream, StreamName=stream, EnforceConsumerDeletion=True)
        kinesis.get_waiter("stream_exists").wait(StreamName=stream, WaiterConfig={"Delay": 1})
        proxy = cleanup.enter_context(
            proxy_before(upstream, "--correct", "--quotas", "aws", log_dir=at)
        )
        environment = {**stack.applied_to(os.environ), "AWS_ENDPOINT_URL_KINESIS": proxy.url}
        worker = Worker(stream, at, f"sqlite:{database}", environment, worker_id="slot-0")
        process = cleanup.enter_context(worker.start())
        load = reshard_under_load(kinesis, proxy.url, stream, mode)
        held = read_back(kinesis, stream)
        told = Told(mode, load, held, worker, database, exit_code=-1)
        expected = len(kept_by_kcl(held))
        worker.wait_until(lambda: seen_by_kcl(database) >= expected, "done with the records")
        told.exit_code = process.terminate(30)
    return told


def seen_by_kcl(database: Path) -> int:
    """How many records have come to the sink, those that it had seen before included."""
    if not database.exists():
        return 0
    sink = SqliteSink(database, retention=DAY)
    try:
        counts = sink.counts()
    finally:
        sink.close()
    return counts.effects + counts.refused


@pytest.fixture(scope="module")
def all_told(
    stack: Endpoints,
    local_kinesis: str,
    kinesis: "KinesisClient",
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[str, Told]]:
    with ThreadPoolExecutor() as pool:
        running = {
            mode: pool.submit(
                tell, mode, stack, local_kinesis, kinesis, tmp_path_factory.mktemp(mode)
            )
            for mode in TOLD
        }
        yield {mode: future.result() for mode, future in running.items()}


@pytest.fixture(params=TOLD)
def told(request: pytest.FixtureRequest, all_told: dict[str, Told]) -> Told:
    return all_told[request.param]


def test_each_confirmed_record_took_effect_once_where_it_was_confirmed_to_be(told: Told) -> None:
    # The futures against the stream, as aws_kinesis_agg and our decoder read it.
    times = check_account(told.held, told.load.puts, ordered=told.mode == "ordered")
    assert not any(put.error for put in told.load.puts)
    effects = told.effects()
    assert Counter(record_id for record_id, *_ in effects) == Counter(times.keys())
    assert {record_id for record_id, *_ in effects} == {put.record_id for put in told.load.puts}
    # What came a second time was recognised by its ID.
    assert seen_by_kcl(told.database) == times.total() > len(effects)
    by_id = {put.record_id: put for put in told.load.puts}
    users = kept_by_kcl(told.held)
    for record_id, place, key, number in effects:
        assert (key, number) == (by_id[record_id].key, by_id[record_id].number)
        assert users[place].partition_key == key


def test_an_aggregate_across_the_split_lies_there_and_kcl_drops_it(told: Told) -> None:
    dropped = {(h.shard.shard_id, h.sequence_number) for h in told.held if not h.users()}
    assert dropped
    assert not dropped & {(place[0], place[1]) for _, place, *_ in told.effects()}
    assert "WrongShard" in {a.error_code for put in told.load.puts for a in put.attempts}


def test_in_order_each_key_took_effect_in_the_order_of_put(all_told: dict[str, Told]) -> None:
    told = all_told["ordered"]
    numbers: dict[str, list[int]] = {}
    for _, _, key, number in told.effects():
        numbers.setdefault(key, []).append(number)
    assert MODES["ordered"] == {"ordered": True}
    assert all(each == sorted(each) for each in numbers.values())


def test_it_was_hard(told: Told) -> None:
    assert all(told.load.struck.values()), told.load.struck
    assert told.load.shards == {shard_id(n) for n in range(4)}
    assert {event["shard_id"] for event in told.worker.events("shard_ended")} == {
        shard_id(n) for n in range(3)
    }
    assert told.exit_code == 143
