"""The load that `benchmarks/proxy.py` puts on an endpoint, from a process of its own.

How to run it: `python benchmarks/proxy_load.py '{"url": ..., ...}'` with the fields of `Load`; it
prints the fields of `Outcome` as one line of JSON.

The client writes prepared bytes over plain HTTP/1.1 connections, so that it costs little beside
what it measures. A latency counts from the moment at which the request was due, the time until
a connection was free included.
"""

import asyncio
import base64
import json
import re
import sys
import time
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.null_kinesis import shard_of

_LENGTH: Final = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)
_OK: Final = b" 200 "


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is sent.

    Attributes:
        url: The endpoint.
        stream: Its name ends with its number of shards.
        records: How many in a request; 0 is PutRecord with one.
        size: The data of each record, in bytes.
        connections: How many requests at a time at most.
        rate: Requests a second, whatever the answers do; 0 sends one after the other.
        seconds: For how long, at most.
        count: How many requests, at most.
        after_refusal: Whether time and counts begin a second after the first record was refused:
            by then the answers to what was admitted before it have come.
    """

    url: str
    stream: str
    records: int = 0
    size: int = 1024
    connections: int = 16
    rate: float = 0.0
    seconds: float = 60.0
    count: int = 1 << 40
    after_refusal: bool = False


@dataclass(slots=True)
class Outcome:
    """What came of it; `admitted` and `refused` count records."""

    requests: int = 0
    errors: int = 0
    seconds: float = 0.0
    admitted: int = 0
    refused: int = 0
    record_bytes: int = 0
    p50_ms: float = 0.0
    p99_ms: float = 0.0


async def run(load: Load) -> Outcome:
    """Put a load on an endpoint and return what came of it."""
    requests = prepare(load)
    free: asyncio.Queue[Connection] = asyncio.Queue()
    host, _, port = urlsplit(load.url).netloc.rpartition(":")
    loop = asyncio.get_running_loop()
    for _ in range(load.connections):
        _, connection = await loop.create_connection(Connection, host, int(port))
        free.put_nowait(connection)
    meter = Meter(load)
    tasks: set[asyncio.Task[None]] = set()
    started = time.perf_counter()
    for number in range(load.count):
        if load.rate:
            await asyncio.sleep(max(0.0, started + number / load.rate - time.perf_counter()))
        else:
            free.put_nowait(await free.get())  # wait until one is free
        if meter.ended(time.perf_counter()):
            break
        task = asyncio.create_task(exchange(requests[number % len(requests)], free, meter))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    return meter.outcome()


async def exchange(request: bytes, free: "asyncio.Queue[Connection]", meter: "Meter") -> None:
    """Send a request as soon as there is a connection, and count its answer."""
    due = time.perf_counter()
    connection = await free.get()
    head, body = await connection.exchange(request)
    free.put_nowait(connection)
    meter.answered(due, time.perf_counter(), head, body)


class Meter:
    """Counts answers; from the first refusal on, if the load says so."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._outcome = Outcome()
        self._latencies: list[float] = []
        self._counts = not load.after_refusal
        self._started = self._last = time.perf_counter()

    def ended(self, now: float) -> bool:
        """Whether the time is over; the first refusal begins it anew."""
        return now > self._started + self._load.seconds

    def answered(self, due: float, now: float, head: bytes, body: bytes) -> None:
        """Count one answer."""
        outcome, records = self._outcome, self._load.records or 1
        ok = _OK in head[:16]
        refused = 0 if ok else records
        if ok and self._load.records:
            refused = int(json.loads(body)["FailedRecordCount"])
        if refused and not self._counts:
            self._counts, self._started = True, now + 1
        if not self._counts or now < self._started:
            return
        if self._load.after_refusal and self.ended(now):
            return
        outcome.requests += 1
        outcome.errors += not ok
        outcome.refused += refused
        outcome.admitted += records - refused
        self._latencies.append(now - due)
        self._last = now

    def outcome(self) -> Outcome:
        """Return what has been counted."""
        outcome = self._outcome
        outcome.seconds = (
            self._load.seconds if self._load.after_refusal else self._last - self._started
        )
        outcome.record_bytes = self._load.size + len(keys_of(1)[0])
        if ordered := sorted(self._latencies):
            outcome.p50_ms = ordered[len(ordered) // 2] * 1e3
            outcome.p99_ms = ordered[len(ordered) * 99 // 100] * 1e3
        return outcome


class Connection(asyncio.Protocol):
    """One connection, for one request at a time."""

    def __init__(self) -> None:
        self._transport: Any = None
        self._answer: asyncio.Future[tuple[bytes, bytes]] | None = None
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = transport

    def exchange(self, request: bytes) -> "asyncio.Future[tuple[bytes, bytes]]":
        """Send a request; the result is the head and the body of the answer."""
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._answer

    def data_received(self, data: bytes) -> None:
        """End the exchange when the answer is whole."""
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0 or self._answer is None:
            return
        head = self._buffer[: end + 2]
        length = _LENGTH.search(head)
        if length is None:
            self._answer.set_exception(RuntimeError(f"an answer without its length: {head!r}"))
            return
        if len(self._buffer) == end + 4 + int(length[1]):
            body, self._buffer = self._buffer[end + 4 :], b""
            self._answer.set_result((head, body))

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the exchange that is under way."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(exc or ConnectionError("the connection was closed"))


def prepare(load: Load) -> list[bytes]:
    """Build the requests that take turns; their records go to one shard after the other."""
    data = base64.b64encode((bytes(range(256)) * (load.size // 256 + 1))[: load.size])
    keys = keys_of(shards_of(load.stream))
    records = [b'"PartitionKey":"%b","Data":"%b"' % (key, data) for key in keys]
    if not load.records:
        return [request(load, "PutRecord", record) for record in records]
    entries = b",".join(b"{%b}" % records[n % len(records)] for n in range(load.records))
    return [request(load, "PutRecords", b'"Records":[%b]' % entries)]


def shards_of(stream: str) -> int:
    """Return the number of shards, with which the name of a stream ends."""
    return int(stream.rpartition("-")[2])


@cache
def keys_of(shards: int) -> tuple[bytes, ...]:
    """Return a key for each shard, all of the same length."""
    found: dict[int, bytes] = {}
    for n in range(1 << 20):
        key = b"device-%08d" % n
        found.setdefault(shard_of(key, shards), key)
        if len(found) == shards:
            break
    return tuple(found.values())


def request(load: Load, operation: str, members: bytes) -> bytes:
    """Write a request as an SDK would, with a signature that nobody checks."""
    body = b'{"StreamName":"%b",%b}' % (load.stream.encode(), members)
    head = (
        f"POST / HTTP/1.1\r\nHost: {urlsplit(load.url).netloc}\r\n"
        f"X-Amz-Target: Kinesis_20131202.{operation}\r\n"
        "Content-Type: application/x-amz-json-1.1\r\n"
        "User-Agent: Boto3/1.42.0 md/Botocore#1.42.0 ua/2.1 os/linux lang/python#3.11.2\r\n"
        "X-Amz-Date: 20260101T000000Z\r\n"
        "Authorization: AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/kinesis/aws4_request,"
        f" SignedHeaders=content-type;host;x-amz-date;x-amz-target, Signature={'0' * 64}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


if __name__ == "__main__":
    print(json.dumps(asdict(asyncio.run(run(Load(**json.loads(sys.argv[1])))))))
