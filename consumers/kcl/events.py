"""What a worker does, written down for whoever supervises it.

`<work-dir>/events.jsonl` gets one JSON line for each thing that happens::

    {"event": "starting", "at": 1795553661612, "pid": 4711, "worker_id": "w0"}
    {"event": "initialized", "at": ..., "pid": 4750, "shard_id": "shardId-000000000000", ...}

Events, in the usual order: `starting` (the launcher, once per start; its pid is the JVM's),
`initialized` (a child is about to read a shard), `shard_ended`, `shutdown_requested`, `lease_lost`
(also at the end of a clean stop, when the leases are given back), `failed` (with `error`; the
worker stops). `initialized_shards` tells which shards were begun since the last start, which is
what "ready" means for a consumer.

`<work-dir>/status/<shard id>.json` is replaced after every batch and says how far a shard is.
"""

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

EVENTS_FILE: Final = "events.jsonl"
STATUS_FOLDER: Final = "status"


@dataclass(frozen=True, slots=True)
class ShardStatus:
    """How far a shard was read by the child that wrote this last.

    Args:
        shard_id: The shard.
        pid: The child's process.
        at: When this was written, milliseconds since the epoch.
        applied: Effects stored by this child.
        refused: Duplicates refused by this child.
        sequence_number: Of the last record stored, empty before the first.
        millis_behind_latest: How far the last batch lay behind the tip of the shard, in
            milliseconds; None if the daemon did not say.
    """

    shard_id: str
    pid: int
    at: int
    applied: int
    refused: int
    sequence_number: str
    millis_behind_latest: int | None


class Journal:
    """Writes the events and the status of one process.

    Args:
        work_dir: The worker's folder.
        clock: Seconds since the epoch.
    """

    def __init__(self, work_dir: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._work_dir = work_dir
        self._clock = clock

    def event(self, name: str, **details: Any) -> None:
        """Append one event."""
        entry = {"event": name, "at": self.now_ms(), "pid": os.getpid(), **details}
        # One write to a file opened for appending is not torn by the other children's.
        line = json.dumps(entry).encode() + b"\n"
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        descriptor = os.open(self._work_dir / EVENTS_FILE, flags, 0o644)
        try:
            os.write(descriptor, line)
        finally:
            os.close(descriptor)

    def status(self, status: ShardStatus) -> None:
        """Replace the status of a shard; a reader sees the old one or the new one, whole."""
        folder = self._work_dir / STATUS_FOLDER
        folder.mkdir(exist_ok=True)
        draft = folder / f".{status.shard_id}.{status.pid}"
        draft.write_text(json.dumps(asdict(status)))
        draft.replace(folder / f"{status.shard_id}.json")

    def now_ms(self) -> int:
        """Milliseconds since the epoch."""
        return int(self._clock() * 1000)


def read_events(work_dir: Path) -> list[Mapping[str, Any]]:
    """Read all events so far, oldest first; none when the worker was never started.

    A line that a full disk or a power cut tore is passed over.
    """
    try:
        text = (work_dir / EVENTS_FILE).read_text()
    except FileNotFoundError:
        return []
    events = []
    for line in text.splitlines():  # a last line that is still being written reads like a torn one
        with contextlib.suppress(json.JSONDecodeError):
            events.append(json.loads(line))
    return events


def end_torn_line(work_dir: Path) -> None:
    """End what a full disk or a power cut left half written, so that the next event stands alone.

    Only while no other process writes events.
    """
    with contextlib.suppress(FileNotFoundError), (work_dir / EVENTS_FILE).open("r+b") as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            if file.read() != b"\n":
                file.write(b"\n")


def initialized_shards(work_dir: Path) -> set[str]:
    """Tell which shards the worker has begun to read since it was last started."""
    shards: set[str] = set()
    for event in read_events(work_dir):
        if event["event"] == "starting":
            shards.clear()
        elif event["event"] == "initialized":
            shards.add(event["shard_id"])
    return shards


def read_status(work_dir: Path) -> Iterator[ShardStatus]:
    """Read the status of each shard this worker has had, in the order of their IDs."""
    for path in sorted((work_dir / STATUS_FOLDER).glob("*.json")):
        yield ShardStatus(**json.loads(path.read_text()))
