"""A Kinesis that stores nothing and answers at once: what a benchmark puts behind the proxy.

A stream has as many open shards as its name ends with, such as `null-512`, of equal width. Records
are answered with the shard that their key belongs to and with a made-up sequence number; reads find
nothing. JSON over HTTP/1.1 only, and no more of either than the proxy and the load generator need.

How to run it: `python benchmarks/null_kinesis.py`; it prints `ready http://127.0.0.1:PORT`.
"""

import asyncio
import hashlib
import json
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

_STREAM: Final = re.compile(rb'"Stream(?:Name|ARN)": ?"[^"]*?([0-9]+)"')
_KEY: Final = re.compile(rb'"PartitionKey": ?"([^"]*)"')
_TARGET: Final = re.compile(rb"\r\nx-amz-target: *[^.]*\.(\w+)", re.IGNORECASE)
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)
_HASHES: Final = 1 << 128


async def main() -> None:
    """Serve until killed."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Connection, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    print(f"ready http://127.0.0.1:{port}", flush=True)
    await server.serve_forever()


class Connection(asyncio.Protocol):
    """Answers requests one after the other."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._missing = 0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer every request that is there as a whole."""
        self._buffer += data
        while len(self._buffer) >= self._missing and (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._buffer[:end])
            length = _LENGTH.search(head)
            size = end + 4 + (int(length[1]) if length else 0)
            self._missing = size
            if len(self._buffer) < size:
                return
            body = bytes(self._buffer[end + 4 : size])
            del self._buffer[:size]
            self._missing = 0
            self._answer(head, body)

    def _answer(self, head: bytes, body: bytes) -> None:
        target = _TARGET.search(head)
        answer = ANSWERS[target[1].decode()](body) if target else b"{}"
        if self._transport is not None:
            self._transport.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/x-amz-json-1.1\r\n"
                b"x-amzn-RequestId: 0\r\nContent-Length: %d\r\n\r\n%b" % (len(answer), answer)
            )


def put_record(body: bytes) -> bytes:
    """Answer PutRecord."""
    return entry(_KEY.findall(body)[0], shard_count(body))


def put_records(body: bytes) -> bytes:
    """Answer PutRecords, without decoding its data."""
    count = shard_count(body)
    entries = b",".join(entry(key, count) for key in _KEY.findall(body))
    return b'{"FailedRecordCount":0,"Records":[%b]}' % entries


def list_shards(body: bytes) -> bytes:
    """Answer ListShards with all shards in one page."""
    return json.dumps(
        {"Shards": [shard(n, shard_count(body)) for n in range(shard_count(body))]}
    ).encode()


def describe(body: bytes) -> bytes:
    """Answer DescribeStreamSummary."""
    count = shard_count(body)
    summary = {
        "StreamName": f"null-{count}",
        "StreamARN": f"arn:aws:kinesis:us-east-1:000000000000:stream/null-{count}",
        "StreamStatus": "ACTIVE",
        "StreamModeDetails": {"StreamMode": "PROVISIONED"},
        "RetentionPeriodHours": 24,
        "StreamCreationTimestamp": 1.7e9,
        "EnhancedMonitoring": [],
        "OpenShardCount": count,
        "ConsumerCount": 0,
    }
    return json.dumps({"StreamDescriptionSummary": summary}).encode()


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


def shard_of(key: bytes, count: int) -> int:
    """Return the number of the shard that a key belongs to."""
    digest = hashlib.md5(key, usedforsecurity=False).digest()
    return int.from_bytes(digest, "big") * count >> 128


@lru_cache(maxsize=8192)
def entry(key: bytes, count: int) -> bytes:
    """Answer one record; the same number for all, since nobody reads it."""
    name = shard_id(shard_of(key, count)).encode()
    return (
        b'{"SequenceNumber":"49590338271490256608559692538361571095921575989136588898","ShardId":"%b"}'
        % name
    )


def shard_count(body: bytes) -> int:
    """Return how many shards the stream of a call has; 1 when it names none."""
    found = _STREAM.search(body, 0, 4096) or _STREAM.search(body, max(0, len(body) - 4096))
    return int(found[1]) if found else 1


ANSWERS: Final[dict[str, Callable[[bytes], bytes]]] = {
    "PutRecord": put_record,
    "PutRecords": put_records,
    "ListShards": list_shards,
    "DescribeStreamSummary": describe,
    "GetShardIterator": lambda _: b'{"ShardIterator":"null"}',
    "GetRecords": lambda _: b'{"Records":[],"NextShardIterator":"null","MillisBehindLatest":0}',
}


if __name__ == "__main__":
    asyncio.run(main())
