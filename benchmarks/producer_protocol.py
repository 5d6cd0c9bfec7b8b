"""What `benchmarks/producer.py` asks of the process of a producer, and what that answers.

A job is a line of JSON on standard input, and what came of it is a line on standard output. The
standard library is all that is needed here: the peers live in an environment of their own.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

CHUNK: Final = 1000
"""How many records are put between two looks at what is done."""

LOOKS: Final = 40
"""How often memory is looked at in a run, at most."""

_KIB_PER_MIB: Final = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is to be put.

    Attributes:
        stream: Its name ends with its number of shards.
        size: The data of a record, in bytes.
        count: How many records, or how many calls.
        first: The number of the first record, so that each key is used once.
        rate: Records a second; 0 is as fast as it goes.
        records: Of a call by itself: how many are in a PutRecords; 0 is PutRecord.
        stages: Whether to find out where the time goes, which costs time itself.
    """

    stream: str = "null-1"
    size: int = 100
    count: int = 1000
    first: int = 0
    rate: float = 0.0
    records: int = 0
    stages: bool = False

    @property
    def data(self) -> bytes:
        """The data of every record."""
        return b"x" * self.size

    def key_chunks(self) -> Iterator[list[str]]:
        """Yield unique keys of 16 characters, so many at a time."""
        last = self.first + self.count
        for start in range(self.first, last, CHUNK):
            yield [f"device-{n:09}" for n in range(start, min(start + CHUNK, last))]


@dataclass(slots=True, kw_only=True)
class Done:
    """What came of it.

    Attributes:
        confirmed: How many records were confirmed, each for itself where the producer does that.
        seconds: How long it took until all were.
        p50_ms: The median time from put to confirmation, if there was a rate.
        p99_ms: The 99th percentile.
        resident_mib: Memory, looked at so many times over the run.
        stages: CPU seconds of each stage.
    """

    confirmed: int = 0
    seconds: float = 0.0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    resident_mib: list[float] = field(default_factory=list)
    stages: dict[str, float] = field(default_factory=dict)

    def took(self, latencies: list[float]) -> "Done":
        """Enter latencies in seconds."""
        ordered = sorted(latencies)
        self.p50_ms = ordered[len(ordered) // 2] * 1e3
        self.p99_ms = ordered[len(ordered) * 99 // 100] * 1e3
        return self


class Future(Protocol):
    """What a put returns: a result to come."""

    def done(self) -> bool:
        """Whether it has come."""

    def result(self) -> Any:
        """Wait for it, and return or raise it."""


class Pace:
    """Says when a record is due."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._started = time.perf_counter()

    def wait(self, number: int) -> float:
        """Return the seconds until record `number` is due; nothing if they are hardly any."""
        pause = self._started + number / self._rate - time.perf_counter()
        return pause if pause > 1e-3 else 0.0


def serve(run: Callable[[Job], Done]) -> None:
    """Do job after job until there are no more."""
    for line in sys.stdin:
        print(json.dumps(asdict(run(Job(**json.loads(line))))), flush=True)


def resident_mib() -> float:
    """Return the memory that this process holds."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / _KIB_PER_MIB
