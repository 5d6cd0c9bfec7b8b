"""A KCL worker as a supervisor sees it, what feeds it, and what it leaves behind."""

import json
import os
import sqlite3
import sys
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from consumers.kcl.events import initialized_shards, read_events
from infra.processes import GuardedProcess, start
from records.aggregation import AggregateBuilder
from records.envelope import seal

if TYPE_CHECKING:
    from types_boto3_dynamodb import DynamoDBClient
    from types_boto3_kinesis import KinesisClient


ROOT = Path(__file__).parents[2]
KEYS = [f"key-{n}" for n in range(8)]


PATIENCE = 90.0
"""Seconds for a step that KCL takes on its own: its random pause at an empty lease table is 30."""


@dataclass
class Worker:
    """One application with one worker, and all that it leaves behind."""

    stream: str
    folder: Path
    sink: str
    environment: Mapping[str, str]
    arguments: tuple[str, ...] = ()
    worker_id: str = "wörker 1=:#"  # every character that a properties file could trip over
    work_folder: str = "wörk dir"
    runs: int = 0
    processes: list[GuardedProcess] = field(default_factory=list)

    @property
    def work_dir(self) -> Path:
        return self.folder / self.work_folder

    @property
    def application(self) -> str:
        return f"{self.stream}-application"

    def start(self) -> GuardedProcess:
        self.runs += 1
        command = [sys.executable, "-m", "consumers.kcl", "--stream", self.stream]
        command += ["--application", self.application, "--worker-id", self.worker_id]
        command += ["--sink", self.sink, "--work-dir", str(self.work_dir), *self.arguments]
        process = start(
            command,
            name=f"worker-{self.runs}",
            log_dir=self.folder,
            env=self.environment,
            cwd=ROOT,
            grace=30.0,
        )
        self.processes.append(process)
        return process

    def wait_until(self, predicate: Callable[[], bool], what: str) -> None:
        self.processes[-1].wait_until(predicate, timeout=PATIENCE, what=what)

    def wait_for_shards(self, count: int) -> None:
        self.wait_until(lambda: len(initialized_shards(self.work_dir)) >= count, "reading")

    def children(self) -> set[int]:
        return {event["pid"] for event in self.events("initialized")}

    def events(self, name: str) -> list[Mapping[str, Any]]:
        return [event for event in read_events(self.work_dir) if event["event"] == name]


def effects(path: Path) -> list[tuple[str, str, str, bytes, int]]:
    if not path.exists():
        return []
    connection = sqlite3.connect(path)
    try:
        return connection.execute(
            "SELECT shard_id, partition_key, sequence_number, data, sub_sequence_number"
            " FROM effects ORDER BY position"
        ).fetchall()
    except sqlite3.OperationalError:  # the worker is just making the tables
        return []
    finally:
        connection.close()


def leases(dynamodb: "DynamoDBClient", table: str) -> dict[str, tuple[str, int]]:
    """The checkpoint of each shard, with its sub-sequence number."""
    items = dynamodb.scan(TableName=table, ConsistentRead=True)["Items"]
    return {
        item["leaseKey"]["S"]: (
            item["checkpoint"]["S"],
            int(item["checkpointSubSequenceNumber"]["N"]),
        )
        for item in items
    }


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not (stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z")


class Producer:
    """Puts numbered events of `KEYS`, alone and in aggregates, one of each key per round."""

    def __init__(self, client: "KinesisClient", stream: str) -> None:
        self.client = client
        self.stream = stream
        self.sent: list[tuple[str, int]] = []
        self._round = 0

    def round(self) -> None:
        events = [(key, self._round) for key in KEYS]
        payloads = [self._event(key, number) for key, number in events]
        if self._round % 3 == 0:
            for key, payload in zip(KEYS, payloads, strict=True):
                self.put(key, payload)
        else:
            # One aggregate per key, so that no user record lies outside the shard it is put to.
            for key, payload in zip(KEYS, payloads, strict=True):
                builder = AggregateBuilder(max_bytes=50_000)
                assert builder.try_add(key, payload)
                assert builder.try_add(key, self._event(key, self._round, half=True))
                self.put(key, builder.build())
                self.sent.append((key, self._round * 10 + 5))
        self.sent += [(key, number * 10) for key, number in events]
        self._round += 1

    def put(self, key: str, data: bytes) -> str:
        answer = self.client.put_record(StreamName=self.stream, PartitionKey=key, Data=data)
        return answer["SequenceNumber"]

    @staticmethod
    def _event(key: str, number: int, *, half: bool = False) -> bytes:
        body = {"key": key, "number": number * 10 + (5 if half else 0)}
        return seal(json.dumps(body).encode(), str(uuid.uuid4()))
