"""The daemon's lines, checked against what amazon_kclpy's own decoder makes of them."""

import base64
import json

import pytest
from amazon_kclpy import dispatch
from hypothesis import given
from hypothesis import strategies as st

from consumers.errors import CheckpointThrottled, LeaseLost, ProtocolError
from consumers.kcl import protocol
from consumers.record import StreamRecord


def line(action: str, **body: object) -> bytes:
    return json.dumps({"action": action, **body}).encode() + b"\n"


raw_records = st.fixed_dictionaries(
    {
        "action": st.just("record"),
        "data": st.binary().map(lambda data: base64.b64encode(data).decode()),
        "partitionKey": st.text(min_size=1),
        "sequenceNumber": st.integers(0, 10**56).map(str),
        "subSequenceNumber": st.integers(0, 500),
        "approximateArrivalTimestamp": st.integers(10**11, 10**12),
    }
)


@given(st.lists(raw_records, max_size=5), st.integers(0, 10**9))
def test_records_are_read_as_kclpy_reads_them(raws: list[dict[str, object]], behind: int) -> None:
    text = line("processRecords", records=raws, millisBehindLatest=behind)
    ours = protocol.parse(text, shard_id="s")
    theirs = json.loads(text, object_hook=dispatch.message_decode)
    assert isinstance(ours, protocol.ProcessRecords)
    assert ours.millis_behind_latest == theirs.millis_behind_latest
    assert ours.records == tuple(
        StreamRecord(
            shard_id="s",
            sequence_number=record.sequence_number,
            sub_sequence_number=record.sub_sequence_number,
            partition_key=record.partition_key,
            data=record.binary_data,
            arrival_ms=record.timestamp_millis,
        )
        for record in theirs.records
    )


@pytest.mark.parametrize("data", ["", None])
def test_a_record_may_be_empty(data: str | None) -> None:
    raw = {"data": data, "partitionKey": "k", "sequenceNumber": "1"}
    request = protocol.parse(line("processRecords", records=[raw]), shard_id="s")
    assert request == protocol.ProcessRecords((StreamRecord("s", "1", 0, "k", b"", None),), None)


def test_the_other_requests() -> None:
    start = line("initialize", shardId="s", sequenceNumber="TRIM_HORIZON", subSequenceNumber=0)
    assert protocol.parse(start, shard_id="") == protocol.Initialize("s", "TRIM_HORIZON", 0)
    assert protocol.parse(line("leaseLost"), shard_id="s") == protocol.LeaseWasLost()
    assert protocol.parse(line("shardEnded"), shard_id="s") == protocol.ShardEnded()
    assert protocol.parse(line("shutdownRequested"), shard_id="s") == protocol.ShutdownRequested()


@pytest.mark.parametrize(
    "text",
    [
        b"{",
        b"[]",
        b'"initialize"',
        b"\xff",
        b"{}",
        line("explode"),
        line("initialize"),
        line("processRecords", records=[{"data": "!", "sequenceNumber": "1"}]),
        line("processRecords", records=None),
    ],
)
def test_what_is_not_of_the_protocol_is_refused(text: bytes) -> None:
    with pytest.raises(ProtocolError):
        protocol.parse(text, shard_id="s")


@pytest.mark.parametrize(
    ("request_line", "answer"),
    [
        (line("leaseLost"), {"action": "status", "responseFor": "leaseLost"}),
        (line("shardEnded"), {"action": "status", "responseFor": "shardEnded"}),
        (line("processRecords", records=[]), {"action": "status", "responseFor": "processRecords"}),
    ],
)
def test_a_status_names_its_request(request_line: bytes, answer: dict[str, str]) -> None:
    request = protocol.parse(request_line, shard_id="s")
    assert not isinstance(request, protocol.CheckpointAnswer)
    sent = protocol.status(request)
    assert json.loads(sent) == answer
    assert sent.count(b"\n") == 1
    assert sent.endswith(b"\n")


@pytest.mark.parametrize(
    ("name", "kind", "retriable"),
    [
        ("ShutdownException", LeaseLost, False),
        ("ThrottlingException", CheckpointThrottled, True),
        ("KinesisClientLibDependencyException", CheckpointThrottled, True),
        ("InvalidStateException", ProtocolError, False),
        ("IllegalArgumentException", ProtocolError, False),
    ],
)
def test_checkpoint_errors_have_types(name: str, kind: type, retriable: bool) -> None:  # noqa: FBT001 - a table
    error = protocol.checkpoint_error(name)
    assert type(error) is kind
    assert error.retriable is retriable
    assert name in str(error) or kind is LeaseLost
