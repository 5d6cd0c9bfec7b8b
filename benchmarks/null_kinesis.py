"""A Kinesis that stores nothing and answers at once: what a benchmark puts behind what it measures.

A stream has as many open shards as its name ends with, such as `null-512`, of equal width. Records
are answered with the shard that they belong to and with a made-up sequence number; reads find
nothing. JSON and CBOR over HTTP/1.1 only, and no more of either than the benchmarks need.

How to run it: `python benchmarks/null_kinesis.py [--tls] [--delay MILLISECONDS]`; it prints
`ready http://127.0.0.1:PORT`, and with `--tls` before that `tls https://localhost:PORT`, which
shows a certificate that nobody knows. It spends as little of the machine as it can: a request is
read into the buffer where it stays, and the data of records is stepped over.
"""

import argparse
import asyncio
import hashlib
import json
import re
import sys
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import cbor2

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from infra.proxy.serve.tls import throw_away_identity

_STREAM: Final = re.compile(rb'"Stream(?:Name|ARN)":\s*"[^"]*?([0-9]+)"')
# A member whose value says where a record goes, or one to step over, or the end of a record.
_MEMBER: Final = re.compile(rb'\}|"(PartitionKey|ExplicitHashKey|Data)":\s*"')
_STRING: Final = re.compile(rb'"(?:[^"\\]|\\.)*"')
_TARGET: Final = re.compile(rb"\r\nx-amz-target: *[^.]*\.(\w+)", re.IGNORECASE)
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)
_EXPECT: Final = re.compile(rb"\r\nexpect: *100-continue", re.IGNORECASE)
_CBOR: Final = re.compile(rb"\r\ncontent-type: *application/x-amz-cbor", re.IGNORECASE)
_DIGITS: Final = re.compile(r"[0-9]+$")
_HASHES: Final = 1 << 128
_ROOM: Final = 1 << 18
_EPOCH_TAG: Final = 1
_CREATED_AT: Final = 1_700_000_000


async def main(argv: Sequence[str] | None = None) -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tls", action="store_true", help="listen with TLS, too")
    parser.add_argument(
        "--delay", type=float, default=0.0, help="milliseconds between request and answer"
    )
    options = parser.parse_args(argv)
    loop = asyncio.get_running_loop()
    connection = partial(Connection, options.delay / 1e3)
    if options.tls:
        context = throw_away_identity().context
        context.set_alpn_protocols(["http/1.1"])
        secure = await loop.create_server(connection, "127.0.0.1", 0, ssl=context)
        print(f"tls https://localhost:{secure.sockets[0].getsockname()[1]}", flush=True)
    server = await loop.create_server(connection, "127.0.0.1", 0)
    print(f"ready http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


class Body(NamedTuple):
    """The body of a request, where it was read to."""

    buffer: bytearray
    start: int
    end: int
    cbor: bool

    def decoded(self) -> dict[str, Any]:
        """Decode all of it."""
        content = bytes(memoryview(self.buffer)[self.start : self.end])
        found: dict[str, Any] = cbor2.loads(content) if self.cbor else json.loads(content)
        return found

    def encode(self, answer: dict[str, Any]) -> bytes:
        """Encode an answer the way the question was."""
        return cbor2.dumps(answer) if self.cbor else json.dumps(answer).encode()


class Connection(asyncio.BufferedProtocol):
    """Answers requests one after the other, each a while after it came."""

    def __init__(self, delay: float) -> None:
        self._delay = delay
        self._buffer = bytearray(_ROOM)
        self._filled = 0
        self._missing = 0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:
        """Say where what comes next is to be put: there is room for the request at least."""
        room = max(self._missing, self._filled + max(sizehint, 1))
        if room > len(self._buffer):
            # A new one: the old one cannot grow while somebody looks at it.
            larger = bytearray(2 * room)
            larger[: self._filled] = memoryview(self._buffer)[: self._filled]
            self._buffer = larger
        return memoryview(self._buffer)[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        """Answer every request that is there as a whole."""
        self._filled += nbytes
        while self._filled and self._filled >= self._missing:
            end = self._buffer.find(b"\r\n\r\n", 0, self._filled)
            if end < 0:
                return
            head = bytes(memoryview(self._buffer)[:end])
            length = _LENGTH.search(head)
            size = end + 4 + (int(length[1]) if length else 0)
            if self._filled < size:
                if not self._missing and _EXPECT.search(head):
                    # The KPL's HTTP client waits for a second otherwise.
                    self._write(b"HTTP/1.1 100 Continue\r\n\r\n")
                self._missing = size
                return
            self._missing = 0
            self._answer(head, Body(self._buffer, end + 4, size, bool(_CBOR.search(head))))
            self._buffer[: self._filled - size] = self._buffer[size : self._filled]
            self._filled -= size

    def _answer(self, head: bytes, body: Body) -> None:
        target = _TARGET.search(head)
        answer = ANSWERS[target[1].decode()](body) if target else b"{}"
        kind = b"cbor" if body.cbor else b"json"
        whole = (
            b"HTTP/1.1 200 OK\r\nContent-Type: application/x-amz-%b-1.1\r\n"
            b"x-amzn-RequestId: 0\r\nContent-Length: %d\r\n\r\n%b" % (kind, len(answer), answer)
        )
        if self._delay:
            asyncio.get_running_loop().call_later(self._delay, self._write, whole)
        else:
            self._write(whole)

    def _write(self, content: bytes) -> None:
        if self._transport is not None:
            self._transport.write(content)


def put_record(body: Body) -> bytes:
    """Answer PutRecord."""
    return b"".join(placed(body))


def put_records(body: Body) -> bytes:
    """Answer PutRecords, without decoding its data."""
    entries = placed(body)
    if body.cbor:
        # A map of two, whose last value is the list.
        head = cbor2.dumps({"FailedRecordCount": 0, "Records": [None] * len(entries)})
        return head[: len(head) - len(entries)] + b"".join(entries)
    return b'{"FailedRecordCount":0,"Records":[%b]}' % b",".join(entries)


def placed(body: Body) -> list[bytes]:
    """Answer each record of a request, in their order."""
    if body.cbor:
        request = body.decoded()
        count = shards_of(request)
        return [
            entry(place(each["PartitionKey"], each.get("ExplicitHashKey"), count), cbor=True)
            for each in request.get("Records", [request])
        ]
    count = shard_count(body)
    return [entry(place(key, explicit, count)) for key, explicit in keys(body)]


def keys(body: Body) -> list[tuple[str, str | None]]:
    """Return partition key and explicit hash key of each record of a JSON request."""
    buffer, at, end, _ = body
    found: list[tuple[str, str | None]] = []
    key = explicit = None
    while member := _MEMBER.search(buffer, at, end):
        name = member[1]
        if name is None:
            if key is not None:
                found.append((key, explicit))
            key = explicit = None
            at = member.end()
            continue
        at = buffer.index(b'"', member.end(), end) + 1
        if name == b"PartitionKey" and (string := _STRING.match(buffer, member.end() - 1, end)):
            key = json.loads(string[0])
            at = string.end()
        elif name == b"ExplicitHashKey":
            explicit = buffer[member.end() : at - 1].decode()
    return found


def list_shards(body: Body) -> bytes:
    """Answer ListShards with all shards in one page."""
    count = shards_of(body.decoded())
    return body.encode({"Shards": [shard(n, count) for n in range(count)]})


def describe(body: Body) -> bytes:
    """Answer DescribeStreamSummary."""
    count = shards_of(body.decoded())
    created: Any = float(_CREATED_AT)
    if body.cbor:
        # Milliseconds, where CBOR has seconds.
        created = cbor2.CBORTag(_EPOCH_TAG, _CREATED_AT * 1000)
    summary = {
        "StreamName": f"null-{count}",
        "StreamARN": f"arn:aws:kinesis:us-east-1:000000000000:stream/null-{count}",
        "StreamStatus": "ACTIVE",
        "StreamModeDetails": {"StreamMode": "PROVISIONED"},
        "RetentionPeriodHours": 24,
        "StreamCreationTimestamp": created,
        "EnhancedMonitoring": [],
        "OpenShardCount": count,
        "ConsumerCount": 0,
        "MaxRecordSizeInKiB": 1024,
    }
    return body.encode({"StreamDescriptionSummary": summary})


def nothing(body: Body) -> bytes:
    """Answer GetRecords and GetShardIterator."""
    answer = {"ShardIterator": "null", "NextShardIterator": "null", "MillisBehindLatest": 0}
    return body.encode({**answer, "Records": []})


def shard(number: int, count: int) -> dict[str, Any]:
    """Describe one of `count` shards of equal width."""
    start, end = (-(-_HASHES * n // count) for n in (number, number + 1))
    return {
        "ShardId": shard_id(number),
        "HashKeyRange": {"StartingHashKey": str(start), "EndingHashKey": str(end - 1)},
        "SequenceNumberRange": {"StartingSequenceNumber": "1"},
    }


def shard_id(number: int) -> str:
    """Name a shard as AWS does."""
    return f"shardId-{number:012}"


def place(key: str, explicit_hash_key: str | None, count: int) -> int:
    """Return the number of the shard that a record belongs to."""
    if count == 1:
        return 0
    if explicit_hash_key is not None:
        return int(explicit_hash_key) * count >> 128
    return shard_of(key.encode(), count)


def shard_of(key: bytes, count: int) -> int:
    """Return the number of the shard that a key belongs to."""
    digest = hashlib.md5(key, usedforsecurity=False).digest()
    return int.from_bytes(digest, "big") * count >> 128


@lru_cache(maxsize=8192)
def entry(number: int, *, cbor: bool = False) -> bytes:
    """Answer one record of a shard; the same number for all, since nobody reads it."""
    answer = {
        "SequenceNumber": "49590338271490256608559692538361571095921575989136588898",
        "ShardId": shard_id(number),
    }
    return cbor2.dumps(answer) if cbor else json.dumps(answer).encode()


def shards_of(request: dict[str, Any]) -> int:
    """Return how many shards the stream of a call has; 1 when it names none."""
    name = request.get("StreamName") or request.get("StreamARN") or ""
    found = _DIGITS.search(name)
    return int(found[0]) if found else 1


def shard_count(body: Body) -> int:
    """Return the same for a JSON request, which names its stream before or after the records."""
    buffer, start, end, _ = body
    found = _STREAM.search(buffer, start, min(end, start + 4096))
    found = found or _STREAM.search(buffer, max(start, end - 4096), end)
    return int(found[1]) if found else 1


ANSWERS: Final[dict[str, Callable[[Body], bytes]]] = {
    "PutRecord": put_record,
    "PutRecords": put_records,
    "ListShards": list_shards,
    "DescribeStreamSummary": describe,
    "GetShardIterator": nothing,
    "GetRecords": nothing,
}


if __name__ == "__main__":
    asyncio.run(main())
