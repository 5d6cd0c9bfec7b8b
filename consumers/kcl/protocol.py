"""The MultiLangDaemon protocol as data: one JSON object per line, no I/O here.

The daemon sends a request and waits for one `status`. While a request is open, the child may
send `checkpoint` lines, each answered by one `checkpoint` line. Nothing else may be written.
The classes of `amazon_kclpy.messages` do the same job, untyped, and build a local-time `datetime`
for every record; these are checked against them in the tests.

AWS: Kinesis Client Library, `software.amazon.kinesis.multilang` package documentation.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from consumers.errors import CheckpointThrottled, ConsumerError, LeaseLost, ProtocolError
from consumers.record import StreamRecord


@dataclass(frozen=True, slots=True)
class Initialize:
    """The first request: read this shard, from this position on."""

    shard_id: str
    sequence_number: str
    sub_sequence_number: int


@dataclass(frozen=True, slots=True)
class ProcessRecords:
    """Records of the shard, in order, already de-aggregated by the daemon."""

    records: tuple[StreamRecord, ...]
    millis_behind_latest: int | None


@dataclass(frozen=True, slots=True)
class LeaseWasLost:
    """Another worker reads the shard now; a checkpoint is not allowed."""


@dataclass(frozen=True, slots=True)
class ShardEnded:
    """Every record of a closed shard was handed over; a checkpoint is required."""


@dataclass(frozen=True, slots=True)
class ShutdownRequested:
    """The worker is asked to stop; the last chance for a checkpoint."""


@dataclass(frozen=True, slots=True)
class CheckpointAnswer:
    """What became of a checkpoint: `error` is the name of a KCL exception, or None."""

    error: str | None


Request = Initialize | ProcessRecords | LeaseWasLost | ShardEnded | ShutdownRequested

_ACTIONS: Mapping[type[Request], str] = {
    Initialize: "initialize",
    ProcessRecords: "processRecords",
    LeaseWasLost: "leaseLost",
    ShardEnded: "shardEnded",
    ShutdownRequested: "shutdownRequested",
}


def parse(line: bytes, *, shard_id: str) -> Request | CheckpointAnswer:
    """Read one line of the daemon.

    Args:
        line: UTF-8 JSON.
        shard_id: The shard of this child, which the daemon names only once; empty before that.

    Raises:
        ProtocolError: The line is none that the protocol knows.
    """
    try:
        body = json.loads(line)
        match body["action"]:
            case "initialize":
                return Initialize(
                    body["shardId"], body["sequenceNumber"] or "", body["subSequenceNumber"] or 0
                )
            case "processRecords":
                records = tuple(_record(raw, shard_id) for raw in body["records"])
                return ProcessRecords(records, body.get("millisBehindLatest"))
            case "checkpoint":
                return CheckpointAnswer(body.get("error"))
            case "leaseLost":
                return LeaseWasLost()
            case "shardEnded":
                return ShardEnded()
            case "shutdownRequested":
                return ShutdownRequested()
            case unknown:
                raise ProtocolError(f"the daemon asks for {unknown!r}, which is not known")
    except (ValueError, KeyError, TypeError) as error:
        raise ProtocolError(f"the daemon sent {line[:200]!r}: {error!r}") from error


def status(request: Request) -> bytes:
    """Say that a request is done."""
    return _line({"action": "status", "responseFor": _ACTIONS[type(request)]})


def checkpoint(sequence_number: str | None, sub_sequence_number: int | None) -> bytes:
    """Ask for a checkpoint; None, None is the end of what was delivered (or of the shard)."""
    return _line(
        {
            "action": "checkpoint",
            "sequenceNumber": sequence_number,
            "subSequenceNumber": sub_sequence_number,
        }
    )


def checkpoint_error(name: str) -> ConsumerError:
    """Turn the name of a KCL exception into one of ours."""
    match name:
        case "ShutdownException":
            return LeaseLost("the lease is lost: the checkpoint was refused")
        case "ThrottlingException" | "KinesisClientLibDependencyException":
            return CheckpointThrottled(f"the checkpoint was not written: {name}")
        case _:
            return ProtocolError(f"the checkpoint was refused: {name}")


def _record(raw: Mapping[str, Any], shard_id: str) -> StreamRecord:
    try:
        data = base64.b64decode(raw["data"] or "", validate=True)  # null where there is none
    except binascii.Error as error:
        raise ProtocolError(f"record {raw.get('sequenceNumber')} is not base64") from error
    return StreamRecord(
        shard_id=shard_id,
        sequence_number=raw["sequenceNumber"],
        sub_sequence_number=raw.get("subSequenceNumber") or 0,
        partition_key=raw["partitionKey"],
        data=data,
        arrival_ms=raw.get("approximateArrivalTimestamp"),
    )


def _line(message: Mapping[str, Any]) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"
