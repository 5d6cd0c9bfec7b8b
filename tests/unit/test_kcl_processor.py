"""Order of sink, checkpoint and status, with a scripted daemon at the other end."""

import base64
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumers.errors import CheckpointThrottled, ProtocolError, SinkError
from consumers.kcl.events import (
    Journal,
    end_torn_line,
    initialized_shards,
    read_events,
    read_status,
)
from consumers.kcl.processor import CHECKPOINT_RETRY, Processor, Retry
from consumers.record import StreamRecord
from consumers.sinks.base import Applied


class Daemon:
    """Plays requests, answers checkpoints with the given errors, and notes what it is told."""

    def __init__(self, *requests: dict[str, Any], errors: Sequence[str | None] = ()) -> None:
        self.requests = list(requests)
        self.errors = list(errors)
        self.said: list[Any] = []
        self._answer: bytes | None = None

    def receive(self) -> bytes | None:
        if self._answer is not None:
            answer, self._answer = self._answer, None
            return answer
        return json.dumps(self.requests.pop(0)).encode() if self.requests else None

    def send(self, line: bytes) -> None:
        message = json.loads(line)
        if message["action"] == "checkpoint":
            error = self.errors.pop(0) if self.errors else None
            self.said.append((message["sequenceNumber"], message["subSequenceNumber"], error))
            self._answer = json.dumps({**message, "error": error}).encode()
        else:
            self.said.append(message["responseFor"])


class MemorySink:
    """Keeps what it is given, after raising the given errors."""

    def __init__(self, *errors: Exception | None) -> None:
        self.errors = list(errors)
        self.kept: list[bytes] = []
        self.calls = 0

    def apply(self, records: Sequence[StreamRecord]) -> Applied:
        self.calls += 1
        if self.errors and (error := self.errors.pop(0)):
            raise error
        self.kept += [record.data for record in records]
        return Applied(len(records), 0)

    def close(self) -> None:
        pass


INITIALIZE = {
    "action": "initialize",
    "shardId": "shard-1",
    "sequenceNumber": "TRIM_HORIZON",
    "subSequenceNumber": 0,
}
SHARD_ENDED = {"action": "shardEnded"}
SHUTDOWN = {"action": "shutdownRequested"}
LEASE_LOST = {"action": "leaseLost"}
THROTTLED = "ThrottlingException"


def batch(*places: tuple[int, int]) -> dict[str, Any]:
    records = [
        {
            "action": "record",
            "data": base64.b64encode(b"%d.%d" % place).decode(),
            "partitionKey": "k",
            "sequenceNumber": str(place[0]),
            "subSequenceNumber": place[1],
            "approximateArrivalTimestamp": 1,
        }
        for place in places
    ]
    return {"action": "processRecords", "records": records, "millisBehindLatest": 7}


def processor(
    daemon: Daemon, sink: MemorySink, work_dir: Path, *, pauses: list[float] | None = None
) -> Processor:
    return Processor(
        line=daemon,
        sink=sink,
        journal=Journal(work_dir, clock=lambda: 12.5),
        worker_id="w",
        retry=Retry(attempts=3),
        sleep=(pauses if pauses is not None else []).append,
        rng=random.Random(1),
    )


def test_each_batch_is_committed_then_checkpointed_then_confirmed(tmp_path: Path) -> None:
    daemon = Daemon(INITIALIZE, batch((1, 0), (2, 0), (2, 1)), batch((2, 2)), batch(), SHUTDOWN)
    sink = MemorySink()
    processor(daemon, sink, tmp_path).serve()
    assert sink.kept == [b"1.0", b"2.0", b"2.1", b"2.2"]
    assert daemon.said == [
        "initialize",
        ("2", 1, None),
        "processRecords",
        ("2", 2, None),
        "processRecords",
        "processRecords",
        "shutdownRequested",
    ]


def test_a_supervisor_sees_what_happened(tmp_path: Path) -> None:
    daemon = Daemon(INITIALIZE, batch((1, 0)), SHARD_ENDED)
    processor(daemon, MemorySink(), tmp_path).serve()
    assert [event["event"] for event in read_events(tmp_path)] == ["initialized", "shard_ended"]
    assert initialized_shards(tmp_path) == {"shard-1"}
    (status,) = read_status(tmp_path)
    assert (status.applied, status.sequence_number, status.millis_behind_latest) == (1, "1", 7)
    Journal(tmp_path).event("starting")
    assert initialized_shards(tmp_path) == set()


def test_a_torn_event_spoils_neither_those_before_nor_those_after_it(tmp_path: Path) -> None:
    end_torn_line(tmp_path)
    assert read_events(tmp_path) == []
    Journal(tmp_path).event("one")
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write('{"event": "two", "at')
    assert [event["event"] for event in read_events(tmp_path)] == ["one"]
    for _ in range(2):
        end_torn_line(tmp_path)
    Journal(tmp_path).event("three")
    assert [event["event"] for event in read_events(tmp_path)] == ["one", "three"]
    assert (tmp_path / "events.jsonl").read_text().count("\n") == 3


def test_the_end_of_a_shard_is_checkpointed_as_such(tmp_path: Path) -> None:
    daemon = Daemon(INITIALIZE, batch((1, 0)), SHARD_ENDED, errors=[None, THROTTLED, None])
    processor(daemon, MemorySink(), tmp_path).serve()
    assert daemon.said[3:] == [(None, None, THROTTLED), (None, None, None), "shardEnded"]


def test_the_end_of_a_shard_cannot_do_without_its_checkpoint(tmp_path: Path) -> None:
    daemon = Daemon(INITIALIZE, SHARD_ENDED, errors=[THROTTLED] * CHECKPOINT_RETRY)
    with pytest.raises(CheckpointThrottled):
        processor(daemon, MemorySink(), tmp_path).serve()
    assert "shardEnded" not in daemon.said


def test_a_sink_that_recovers_gets_the_same_batch_again(tmp_path: Path) -> None:
    pauses: list[float] = []
    daemon = Daemon(INITIALIZE, batch((1, 0), (2, 0)))
    sink = MemorySink(OSError("first"), OSError("second"), None)
    processor(daemon, sink, tmp_path, pauses=pauses).serve()
    assert sink.kept == [b"1.0", b"2.0"]
    assert daemon.said == ["initialize", ("2", 0, None), "processRecords"]
    assert len(pauses) == 2
    assert 0 < pauses[0] < pauses[1]


def test_a_sink_that_keeps_raising_ends_it_without_a_checkpoint(tmp_path: Path) -> None:
    daemon = Daemon(INITIALIZE, batch((1, 0)), batch((2, 0)), batch((3, 0)))
    sink = MemorySink(None, *[OSError("broken")] * 3)
    with pytest.raises(OSError, match="broken"):
        processor(daemon, sink, tmp_path).serve()
    assert sink.calls == 4
    assert daemon.said == ["initialize", ("1", 0, None), "processRecords"]


def test_what_says_it_is_beyond_retry_is_not_retried(tmp_path: Path) -> None:
    sink = MemorySink(SinkError("too large"))
    with pytest.raises(SinkError):
        processor(Daemon(INITIALIZE, batch((1, 0))), sink, tmp_path).serve()
    assert sink.calls == 1


def test_a_throttled_checkpoint_is_retried_alone(tmp_path: Path) -> None:
    daemon = Daemon(INITIALIZE, batch((1, 0)), errors=[THROTTLED, THROTTLED])
    sink = MemorySink()
    processor(daemon, sink, tmp_path).serve()
    assert sink.calls == 1
    assert daemon.said[1:] == [
        ("1", 0, THROTTLED),
        ("1", 0, THROTTLED),
        ("1", 0, None),
        "processRecords",
    ]


def test_a_checkpoint_that_stays_throttled_is_covered_by_the_next(tmp_path: Path) -> None:
    errors = [THROTTLED] * CHECKPOINT_RETRY
    daemon = Daemon(INITIALIZE, batch((1, 0)), SHUTDOWN, errors=errors)
    processor(daemon, MemorySink(), tmp_path).serve()
    assert daemon.said[-3:] == ["processRecords", ("1", 0, None), "shutdownRequested"]


def test_a_lost_lease_ends_quietly(tmp_path: Path) -> None:
    daemon = Daemon(
        INITIALIZE,
        batch((1, 0)),
        batch((2, 0)),
        SHUTDOWN,
        LEASE_LOST,
        errors=["ShutdownException"],
    )
    sink = MemorySink()
    processor(daemon, sink, tmp_path).serve()
    assert sink.kept == [b"1.0"]
    assert daemon.said == [
        "initialize",
        ("1", 0, "ShutdownException"),
        "processRecords",
        "processRecords",
        "shutdownRequested",
        "leaseLost",
    ]


def test_an_answer_out_of_turn_ends_it(tmp_path: Path) -> None:
    daemon = Daemon(INITIALIZE, {"action": "checkpoint", "sequenceNumber": "1", "error": None})
    with pytest.raises(ProtocolError):
        processor(daemon, MemorySink(), tmp_path).serve()


def test_a_daemon_that_goes_away_inside_a_checkpoint_ends_it(tmp_path: Path) -> None:
    daemon = Daemon(INITIALIZE, batch((1, 0)))
    original = daemon.send

    def send(line: bytes) -> None:
        if b"checkpoint" in line:
            return
        original(line)

    daemon.send = send  # type: ignore[method-assign]
    with pytest.raises(ProtocolError, match="went away"):
        processor(daemon, MemorySink(), tmp_path).serve()


@settings(max_examples=150, deadline=None)
@given(
    failures=st.lists(st.booleans(), max_size=12),
    errors=st.lists(
        st.sampled_from([None, None, THROTTLED, "ShutdownException", "InvalidStateException"]),
        max_size=12,
    ),
)
def test_whatever_fails_no_checkpoint_passes_a_record_that_is_not_committed(
    failures: list[bool],
    errors: list[str | None],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    daemon = Daemon(INITIALIZE, *(batch((n, 0)) for n in range(1, 6)), SHARD_ENDED, errors=errors)
    sink = MemorySink(*(OSError() if failed else None for failed in failures))
    committed_at: list[int] = []
    original = daemon.send

    def send(line: bytes) -> None:
        message = json.loads(line)
        if message["action"] == "checkpoint" and message["sequenceNumber"]:
            committed_at.append(len(sink.kept))
            assert int(message["sequenceNumber"]) <= len(sink.kept)
        original(line)

    daemon.send = send  # type: ignore[method-assign]
    work_dir = tmp_path_factory.mktemp("work")
    try:
        processor(daemon, sink, work_dir).serve()
    except (OSError, CheckpointThrottled, ProtocolError):
        assert daemon.said[-1:] != ["shardEnded"]
    if (None, None, None) in daemon.said:  # the end of the shard was checkpointed
        assert len(sink.kept) == 5
