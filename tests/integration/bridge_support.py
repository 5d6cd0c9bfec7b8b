"""Both sides of the bridge: a publisher before it, a reader behind it."""

import json
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from iot.connection import Connection
from iot.endpoint import Endpoint
from records.aggregation import UserRecord, decode
from records.envelope import new_record_id

if TYPE_CHECKING:
    from types_boto3_kinesis import KinesisClient


class Publisher:
    """Publishes events of things in order, one connection for all."""

    def __init__(self, endpoint: Endpoint, name: str, prefix: str) -> None:
        self.connection = Connection(endpoint, client_id=name)
        self.prefix = prefix
        self.sequence: Counter[str] = Counter()
        self.acknowledged: dict[str, tuple[str, int]] = {}

    def publish(self, thing: str, count: int = 1) -> None:
        for _ in range(count):
            self.sequence[thing] += 1
            identity = (thing, self.sequence[thing])
            record_id = new_record_id()
            body = {"record_id": record_id, "thing": thing, "sequence": self.sequence[thing]}

            def done(record_id: str = record_id, identity: tuple[str, int] = identity) -> None:
                self.acknowledged[record_id] = identity

            self.raw(thing, json.dumps(body).encode(), done)

    def raw(self, thing: str, payload: bytes, done: Callable[[], None] | None = None) -> None:
        topic = f"dt/{self.prefix}/{thing}/telemetry"
        self.connection.publish(topic, payload, on_acknowledged=done)

    def all_acknowledged(self) -> bool:
        return len(self.acknowledged) == sum(self.sequence.values())


class Reader:
    """Reads a stream from its beginning, a bit further each time."""

    def __init__(self, kinesis: "KinesisClient", stream: str) -> None:
        self.kinesis = kinesis
        self.records: list[UserRecord] = []
        self.iterators = [
            kinesis.get_shard_iterator(
                StreamName=stream, ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
            )["ShardIterator"]
            for shard in kinesis.list_shards(StreamName=stream)["Shards"]
        ]

    def read(self) -> list[UserRecord]:
        for index, iterator in enumerate(self.iterators):
            answer = self.kinesis.get_records(ShardIterator=iterator)
            self.iterators[index] = answer["NextShardIterator"]
            for record in answer["Records"]:
                plain = UserRecord(record["PartitionKey"], record["Data"])
                self.records += decode(record["Data"]) or [plain]
        return self.records

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(record.data) for record in self.read()]

    def distinct(self) -> int:
        return len({event["record_id"] for event in self.events()})

    def check(self, publisher: Publisher) -> None:
        """Nothing lost, IDs as they were minted, the first of each in the order of its thing."""
        events = self.events()
        first = {event["record_id"]: event for event in reversed(events)}
        assert first.keys() == publisher.acknowledged.keys()
        for record_id, event in first.items():
            assert publisher.acknowledged[record_id] == (event["thing"], event["sequence"])
        seen: set[str] = set()
        last: Counter[str] = Counter()
        for event in events:
            if event["record_id"] not in seen:
                seen.add(event["record_id"])
                assert event["sequence"] == last[event["thing"]] + 1
                last[event["thing"]] += 1
        assert {record.partition_key for record in self.records} == publisher.sequence.keys()
