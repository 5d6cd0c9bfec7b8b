"""The real Kinesis Client Library, from the first record over a split and a kill to the last.

A JVM takes ten to forty seconds to its first record, so two workers tell the whole story once, at
the same time, and the tests look at what they left behind.
"""

import json
import os
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from consumers.kcl.events import read_events, read_status
from consumers.sinks.base import DAY
from consumers.sinks.sqlite import SqliteSink
from infra.stack.endpoints import Endpoints
from records.aggregation import AggregateBuilder, is_aggregate
from records.envelope import seal
from tests.integration.kcl_worker_support import (
    KEYS,
    PATIENCE,
    Producer,
    Worker,
    effects,
    is_alive,
    leases,
)
from tests.support import eventually

if TYPE_CHECKING:
    from types_boto3_dynamodb import DynamoDBClient
    from types_boto3_kinesis import KinesisClient


pytestmark = pytest.mark.timeout(420)


@dataclass
class Story:
    """What the first worker did, as seen from outside, in the order in which it happened."""

    worker: Worker
    producer: Producer
    database: Path
    inner: bytes = b""
    children_at_kill: set[int] = field(default_factory=set)
    survivors: set[int] = field(default_factory=set)
    exit_codes: list[int] = field(default_factory=list)
    effects_before_kill: int = 0
    leases: dict[str, tuple[str, int]] = field(default_factory=dict)
    last: dict[str, tuple[str, int]] = field(default_factory=dict)


def tell_the_story(worker: Worker, producer: Producer, dynamodb: "DynamoDBClient") -> Story:
    database = Path(worker.sink.partition(":")[2])
    story = Story(worker, producer, database)

    def all_stored() -> bool:
        numbered = [data for *_, data, _ in effects(database) if b'"number"' in data]
        return len(numbered) >= len(producer.sent)

    # 1. Plain and aggregated records; one user record is itself a valid aggregate; one record
    #    is put twice, as a producer does that lost an answer.
    inner = AggregateBuilder(max_bytes=50_000)
    inner.try_add("inner key", b"inner data")
    story.inner = inner.build()
    outer = AggregateBuilder(max_bytes=50_000)
    outer.try_add("nest", b"before")
    outer.try_add("nest", story.inner)
    outer.try_add("nest", b"after")
    producer.put("nest", outer.build())
    for _ in range(3):
        producer.round()
    twice = seal(b'{"twice": true}', str(uuid.uuid4()))
    producer.put("twice", twice)
    producer.put("twice", twice)
    first = worker.start()
    worker.wait_for_shards(1)
    worker.wait_until(all_stored, "done with the first records")

    # 2. A split under load.
    producer.client.split_shard(
        StreamName=producer.stream,
        ShardToSplit="shardId-000000000000",
        NewStartingHashKey=str(2**127),
    )
    for _ in range(6):
        producer.round()
    eventually(
        lambda: (
            producer.client.describe_stream_summary(StreamName=producer.stream)[
                "StreamDescriptionSummary"
            ]["StreamStatus"]
            == "ACTIVE"
        ),
        timeout=30,
    )
    for _ in range(3):
        producer.round()
    worker.wait_for_shards(3)
    worker.wait_until(all_stored, "done with the split")

    # 3. kill -9 after both children have delivered, with records on the way.
    story.children_at_kill = {
        event["pid"]
        for event in worker.events("initialized")
        if event["shard_id"] != "shardId-000000000000"
    }
    story.effects_before_kill = len(effects(database))
    for _ in range(3):
        producer.round()
    first.kill()
    story.exit_codes.append(first.wait(10))
    deadline = time.monotonic() + 10
    while (alive := {pid for pid in story.children_at_kill if is_alive(pid)}) and (
        time.monotonic() < deadline
    ):
        time.sleep(0.05)
    story.survivors = alive
    for _ in range(3):
        producer.round()

    # 4. The same worker again, to the end; then SIGTERM.
    second = worker.start()
    worker.wait_for_shards(2)
    worker.wait_until(all_stored, "done with what came while it was dead")
    second.terminate(30)
    story.exit_codes.append(second.wait(30))
    story.leases = leases(dynamodb, worker.application)
    story.last = {
        status.shard_id: (status.sequence_number, status.applied)
        for status in read_status(worker.work_dir)
    }
    return story


_POISONED = '''\
import json, subprocess
from consumers.sinks.sqlite import SqliteSink

class Sink(SqliteSink):
    """Cannot take one record, and talks to the daemon in its handler."""

    def __init__(self, **keywords):
        super().__init__({path!r}, **keywords)

    def apply(self, records):
        print(json.dumps({{"action": "status", "responseFor": "processRecords"}}), flush=True)
        subprocess.run(["echo", json.dumps({{"action": "checkpoint"}})], check=True)
        if any(record.data == b"poison" for record in records):
            raise RuntimeError("I cannot take this")
        return super().apply(records)
'''


@dataclass
class Poisoned:
    """What became of the worker whose handler keeps failing."""

    worker: Worker
    good: list[str]
    poison: str
    exit_code: int
    leases: dict[str, tuple[str, int]]
    stored: list[bytes]
    keys: set[str]
    survivors: set[int]


def poison(worker: Worker, producer: Producer, dynamodb: "DynamoDBClient") -> Poisoned:
    database = worker.folder / "poisoned.db"
    (worker.folder / "poisonedsink.py").write_text(_POISONED.format(path=str(database)))
    good = [producer.put("ключ", b"good %d" % n) for n in range(5)]
    process = worker.start()
    worker.wait_until(lambda: len(effects(database)) == len(good), "done with the good ones")
    bad = producer.put("ключ", b"poison")
    producer.put("ключ", b"behind it")
    exit_code = process.wait(PATIENCE)
    children = worker.children()
    eventually(lambda: not any(map(is_alive, children)), timeout=10)
    return Poisoned(
        worker,
        good,
        bad,
        exit_code,
        leases(dynamodb, worker.application),
        [data for *_, data, _ in effects(database)],
        {key for _, key, *_ in effects(database)},
        {pid for pid in children if is_alive(pid)},
    )


@pytest.fixture(scope="module")
def told(
    stack: Endpoints,
    kinesis: "KinesisClient",
    dynamodb: "DynamoDBClient",
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Story, Poisoned]]:
    """Both stories, told at once."""
    environment = stack.applied_to(os.environ)
    workers: list[Worker] = []

    def make(name: str, sink: str, *arguments: str, worker_id: str) -> Worker:
        folder = tmp_path_factory.mktemp(name)
        stream = f"{name}-{uuid.uuid4().hex[:12]}"
        kinesis.create_stream(StreamName=stream, ShardCount=1)
        kinesis.get_waiter("stream_exists").wait(StreamName=stream, WaiterConfig={"Delay": 1})
        extended = {**environment, "PYTHONPATH": str(folder)}
        spec = sink.format(folder=folder)
        worker = Worker(stream, folder, spec, extended, arguments, worker_id=worker_id)
        workers.append(worker)
        return worker

    try:
        story = make("story", "sqlite:{folder}/the effects.db", worker_id="wörker 1=:#")
        poisoned = make("poison", "python:poisonedsink:Sink", "--attempts", "2", worker_id="slot-0")
        # The locale of many an init system: Java reads no path in it that is not ASCII.
        poisoned.environment = {**poisoned.environment, "LC_ALL": "C"}
        poisoned.work_folder = "work"
        with ThreadPoolExecutor(2) as pool:
            producers = [Producer(kinesis, worker.stream) for worker in (story, poisoned)]
            first = pool.submit(tell_the_story, story, producers[0], dynamodb)
            second = pool.submit(poison, poisoned, producers[1], dynamodb)
            yield first.result(), second.result()
    finally:
        for worker in workers:
            for process in worker.processes:
                process.close()
            kinesis.delete_stream(StreamName=worker.stream)


@pytest.fixture
def story(told: tuple[Story, Poisoned]) -> Story:
    return told[0]


@pytest.fixture
def poisoned(told: tuple[Story, Poisoned]) -> Poisoned:
    return told[1]


def test_each_event_took_effect_once_and_in_order_across_split_and_kill(story: Story) -> None:
    numbers: dict[str, list[int]] = {}
    for *_, data, _ in effects(story.database):
        if b'"number"' in data:
            event = json.loads(data)
            numbers.setdefault(event["key"], []).append(event["number"])
    expected = {
        key: sorted(number for other, number in story.producer.sent if other == key) for key in KEYS
    }
    assert numbers == expected


def test_the_parent_was_drained_before_its_children(story: Story) -> None:
    for key in KEYS:
        shards = [shard for shard, other, *_ in effects(story.database) if other == key]
        parents = shards.count("shardId-000000000000")
        assert 0 < parents < len(shards)
        assert set(shards[:parents]) == {"shardId-000000000000"}
        assert len(set(shards[parents:])) == 1
    assert [event["shard_id"] for event in story.worker.events("shard_ended")] == [
        "shardId-000000000000"
    ]


def test_a_user_record_that_is_an_aggregate_arrives_as_it_was_put(story: Story) -> None:
    assert is_aggregate(story.inner)
    nest = [(data, sub) for _, key, _, data, sub in effects(story.database) if key == "nest"]
    assert nest == [(b"before", 0), (story.inner, 1), (b"after", 2)]


def test_what_was_put_twice_was_refused_once_at_least(story: Story) -> None:
    twice = [data for *_, data, _ in effects(story.database) if b'"twice"' in data]
    assert len(twice) == 1
    sink = SqliteSink(story.database, retention=DAY)
    counts = sink.counts()
    sink.close()
    assert counts.effects == counts.distinct
    assert counts.refused >= 1


def test_a_killed_worker_leaves_no_process_behind(story: Story) -> None:
    assert story.exit_codes[0] == -9
    assert len(story.children_at_kill) == 2
    assert story.survivors == set()


def test_a_restarted_worker_goes_on_under_its_own_name(story: Story) -> None:
    assert len(effects(story.database)) > story.effects_before_kill
    assert len(story.worker.events("starting")) == 2
    after = [
        event
        for event in read_events(story.worker.work_dir)
        if event["pid"] not in story.children_at_kill
    ]
    again = [e for e in after if e["event"] == "initialized" and e["shard_id"][-1] != "0"]
    # It goes on from a checkpoint, not from the horizon.
    assert len(again) == 2
    assert all(event["sequence_number"].isdigit() for event in again)


def test_sigterm_reaches_the_processors_and_the_last_record_is_checkpointed(story: Story) -> None:
    assert story.exit_codes[1] == 143
    asked = {event["shard_id"] for event in story.worker.events("shutdown_requested")}
    children = {"shardId-000000000001", "shardId-000000000002"}
    assert asked == children
    assert story.leases["shardId-000000000000"] == ("SHARD_END", 0)
    for shard in children:
        last = [(seq, sub) for s, _, seq, _, sub in effects(story.database) if s == shard][-1]
        assert story.leases[shard] == last
        assert story.last[shard][0] == last[0]


def test_nothing_is_left_of_either_worker(story: Story, poisoned: Poisoned) -> None:
    for worker in (story.worker, poisoned.worker):
        eventually(lambda: not any(map(is_alive, worker.children())), timeout=10)  # noqa: B023
        assert [process.returncode is None for process in worker.processes] == [False] * worker.runs


def test_a_handler_that_keeps_failing_stops_the_worker(poisoned: Poisoned) -> None:
    assert poisoned.exit_code == 1
    assert [event["error"] for event in poisoned.worker.events("failed")] == [
        "RuntimeError: I cannot take this"
    ]
    assert any("stopped: RuntimeError" in line for line in poisoned.worker.processes[0].lines())
    assert poisoned.survivors == set()


def test_its_checkpoint_has_not_passed_the_record_that_failed(poisoned: Poisoned) -> None:
    assert poisoned.stored == [b"good %d" % n for n in range(5)]
    assert poisoned.leases == {"shardId-000000000000": (poisoned.good[-1], 0)}
    assert int(poisoned.good[-1]) < int(poisoned.poison)


def test_a_partition_key_arrives_whole_under_any_locale(poisoned: Poisoned) -> None:
    assert poisoned.keys == {"ключ"}


def test_what_a_handler_printed_went_to_its_log(poisoned: Poisoned) -> None:
    log = (poisoned.worker.work_dir / "logs" / "shardId-000000000000.log").read_text()
    assert '{"action": "checkpoint"}' in log
    assert "Skipping unexpected line" not in (poisoned.worker.work_dir / "kcl.log").read_text()


def test_only_warnings_pass_to_the_console(story: Story) -> None:
    lines = [line for process in story.worker.processes for line in process.lines()]
    assert {line for line in lines if line.startswith("ready: ")} == {
        f"ready: shardId-00000000000{n} is being read" for n in range(3)
    }
    assert not [line for line in lines if "INFO" in line]
    assert (story.worker.work_dir / "kcl.log").stat().st_size > 1000
