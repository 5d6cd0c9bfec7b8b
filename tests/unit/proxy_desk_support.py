"""A desk before an engine of the test's own, which keeps what reached it."""

import json
from typing import Any, cast

from multidict import CIMultiDict

from infra.proxy.desk import Desk
from infra.proxy.exchange import Answer, Incoming
from infra.proxy.fault import Fault
from infra.proxy.faults import FaultPlan
from infra.proxy.messages import Call, call_of, decode, encode
from infra.proxy.quotas.dynamodb import DynamoQuotas
from infra.proxy.quotas.iterators import Iterators
from infra.proxy.quotas.kinesis import KinesisQuotas
from infra.proxy.quotas.subscriptions import Subscriptions
from infra.proxy.upstream import Upstream
from records.limits import MAX_HASH_KEY

JSON, CBOR = "application/x-amz-json-1.1", "application/x-amz-cbor-1.1"


def shard(number: int, first: int = 0, last: int = MAX_HASH_KEY) -> dict[str, Any]:
    return {
        "ShardId": f"shardId-{number:012}",
        "HashKeyRange": {"StartingHashKey": str(first), "EndingHashKey": str(last)},
        "SequenceNumberRange": {"StartingSequenceNumber": "1"},
    }


class Engine:
    """A Kinesis of one stream; a test changes its shards, or scripts the answer of an operation."""

    def __init__(self) -> None:
        self.shards = [shard(0)]
        self.scripted: dict[str, tuple[int, Any]] = {}
        self.received: list[tuple[str, Incoming, bytes]] = []
        self.written: list[dict[str, Any]] = []

    def reached(self, operation: str) -> int:
        return sum(name == operation for name, _, _ in self.received)

    async def fetch(self, incoming: Incoming, body: bytes | None = None) -> Answer:
        sent = incoming.body if body is None else body
        operation = incoming.headers["X-Amz-Target"].rpartition(".")[2]
        self.received.append((operation, incoming, sent))
        cbor = incoming.headers["Content-Type"] == CBOR
        status, value = self.scripted.get(operation, (200, None))
        if value is None:
            value = self._answer(operation, decode(sent, cbor=cbor))
        written = value if isinstance(value, bytes) else encode(value, cbor=cbor)
        return Answer(status, CIMultiDict({"Content-Type": JSON}), written)

    def _answer(self, operation: str, parameters: dict[str, Any]) -> dict[str, Any]:
        match operation:
            case "DescribeStreamSummary":
                return {"StreamDescriptionSummary": {"StreamName": "orders"}}
            case "ListShards":
                return {"Shards": self.shards}
            case "PutRecord":
                return self._write(parameters)
            case "PutRecords":
                records = [self._write(record) for record in parameters["Records"]]
                return {"FailedRecordCount": 0, "EncryptionType": "NONE", "Records": records}
        return {}

    def _write(self, record: dict[str, Any]) -> dict[str, Any]:
        self.written.append(record)
        return {"SequenceNumber": str(len(self.written)), "ShardId": self.shards[-1]["ShardId"]}


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def desk_before(
    engine: Engine, clock: Clock, *faults: Fault, quotas: bool = True, corrections: str = ""
) -> Desk:
    plan = FaultPlan(clock=clock)
    plan.add(*faults)
    return Desk(
        clock=clock,
        upstream=cast("Upstream", engine),
        faults=plan,
        corrections=frozenset(corrections.split()),
        iterators=Iterators(clock),
        subscriptions=Subscriptions(clock),
        quotas=KinesisQuotas(clock) if quotas else None,
        dynamo=DynamoQuotas(clock) if quotas else None,
    )


def call(
    operation: str, parameters: Any, *, content_type: str = JSON, key: str = "test", **headers: str
) -> Call:
    cbor = content_type == CBOR
    body = encode(parameters, cbor=cbor) if isinstance(parameters, dict) else parameters
    scope = f"Credential={key}/20261125/us-east-1/kinesis/aws4_request"
    named = CIMultiDict(
        {
            "Authorization": f"AWS4-HMAC-SHA256 {scope}",
            "X-Amz-Target": f"Kinesis_20131202.{operation}",
            "Content-Type": content_type,
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
    )
    made = call_of(Incoming("POST", "/", named, body, "127.0.0.1"))
    assert made is not None
    return made


def read(answer: Answer) -> Any:
    return json.loads(answer.body)
