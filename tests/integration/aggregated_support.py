"""What the producers' tests on real engines share: a tampering server, reading, and accounting."""

import base64
import importlib
import json
import os
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config

from infra.stack.endpoints import Endpoints
from producers.aggregated import AggregatingProducer, PutResult
from producers.errors import Attempt, DeliveryError
from records.aggregation import UserRecord, decode, is_aggregate
from records.envelope import open_envelope
from records.partition import Shard, hash_key
from tests.support import eventually

if TYPE_CHECKING:
    from types_boto3_kinesis import KinesisClient

Answer = tuple[int, bytes]
Forward = Callable[[bytes], Answer]
# Gets the operation, the request's body, and what passes a body on to the real engine; returns
# the answer to give, or None to drop the connection without one.
Tamper = Callable[[str, bytes, Forward], Answer | None]


def client_of(endpoint: str) -> "KinesisClient":
    config = Config(retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=20)
    return boto3.session.Session().client("kinesis", endpoint_url=endpoint, config=config)


def endpoint_of(stack: Endpoints) -> str:
    found = stack.kinesis or stack.aws
    assert found
    return found


def environment_of(stack: Endpoints, url: str | None = None) -> dict[str, str]:
    """Return the environment of a program that is to use the stack, or the endpoint `url`."""
    return os.environ | stack.environment() | ({"AWS_ENDPOINT_URL_KINESIS": url} if url else {})


def closed_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


@contextmanager
def tampering(upstream: str, tamper: Tamper) -> Iterator[str]:
    """Run a local HTTP server in front of a Kinesis endpoint; yields its URL."""
    target = urlsplit(upstream)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            operation = self.headers["X-Amz-Target"].partition(".")[2]
            answer = tamper(operation, body, self.forward)
            self.close_connection = answer is None
            if answer is None:
                return
            status, content = answer
            self.send_response(status)
            self.send_header("Content-Type", self.headers["Content-Type"])
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def forward(self, body: bytes) -> Answer:
            connection = HTTPConnection(str(target.hostname), target.port, timeout=20)
            passed = {k: v for k, v in self.headers.items() if k.lower() != "content-length"}
            try:
                connection.request("POST", "/", body, passed)
                response = connection.getresponse()
                return response.status, response.read()
            finally:
                connection.close()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()


def all_failed(body: bytes) -> Answer:
    """Answer as LocalStack does under KINESIS_ERROR_PROBABILITY: one counted, all failed."""
    failed = {
        "ErrorCode": "ProvisionedThroughputExceededException",
        "ErrorMessage": "Rate exceeded for shard X in stream Y under account Z.",
    }
    entries = json.loads(body)["Records"]
    return 200, json.dumps({"FailedRecordCount": 1, "Records": [failed] * len(entries)}).encode()


def refused(code: str, status: int = 400) -> Answer:
    """Refuse a whole request."""
    return status, json.dumps({"__type": code, "message": f"{code} is what it is"}).encode()


def stored_on(shards: Iterable[str]) -> Answer:
    """Say that the records of a request are stored on these shards, one after the other."""
    results = [{"ShardId": shard, "SequenceNumber": str(n)} for n, shard in enumerate(shards, 1)]
    return 200, json.dumps({"FailedRecordCount": 0, "Records": results}).encode()


def described(answer: Answer, **members: Any) -> Answer:
    """Change an answer of DescribeStreamSummary."""
    status, content = answer
    body = json.loads(content)
    body["StreamDescriptionSummary"] |= members
    return status, json.dumps(body).encode()


def payloads(body: bytes) -> set[bytes]:
    """Return the payload of each user record in the body of a PutRecords."""
    blobs = [base64.b64decode(entry["Data"]) for entry in json.loads(body)["Records"]]
    users = [decode(blob) or [UserRecord("", blob)] for blob in blobs]
    return {open_envelope(user.data).payload for inside in users for user in inside}


def every_other_fails(body: bytes, forward: Forward) -> Answer:
    """Store the first, third, … record of a request, and throttle the others."""
    request = json.loads(body)
    entries = request["Records"]
    status, content = forward(json.dumps(request | {"Records": entries[::2]}).encode())
    if status != 200:
        return status, content
    stored = iter(json.loads(content)["Records"])
    failed = {"ErrorCode": "InternalFailure", "ErrorMessage": "Internal service failure."}
    results = [failed if at % 2 else next(stored) for at in range(len(entries))]
    return 200, json.dumps({"FailedRecordCount": 1, "Records": results}).encode()


@dataclass(frozen=True, slots=True)
class Held:
    """A Kinesis record as it lies in a shard."""

    shard: Shard
    sequence_number: str
    partition_key: str
    data: bytes

    @property
    def lone(self) -> bool:
        """Whether it is no aggregate."""
        return not is_aggregate(self.data)

    def users(self) -> list[UserRecord]:
        """What KCL would hand out: nothing at all if one of them is a stranger to the shard."""
        inside = decode(self.data)
        if inside is None:
            return [UserRecord(self.partition_key, self.data)]
        return inside if all(self.shard.covers(user.hash_key) for user in inside) else []


def read_back(kinesis: "KinesisClient", stream: str) -> list[Held]:
    """Return all a stream holds, shard by shard, parents before children."""
    listed = [Shard.from_list_shards(s) for s in kinesis.list_shards(StreamName=stream)["Shards"]]
    held = []
    for shard in sorted(listed, key=lambda shard: shard.shard_id):
        iterator: str | None = kinesis.get_shard_iterator(
            StreamName=stream, ShardId=shard.shard_id, ShardIteratorType="TRIM_HORIZON"
        )["ShardIterator"]
        while iterator:
            page = kinesis.get_records(ShardIterator=iterator)
            held += [
                Held(shard, r["SequenceNumber"], r["PartitionKey"], r["Data"])
                for r in page["Records"]
            ]
            iterator = page.get("NextShardIterator")
            if not page["Records"] and not page.get("MillisBehindLatest"):
                break
    return held


# Exact accounting: what the futures say against what the stream holds.


@dataclass(frozen=True, slots=True)
class Put:
    """A numbered record that was put, and its future."""

    key: str
    number: int
    future: "Future[PutResult]"

    @property
    def error(self) -> DeliveryError | None:
        """Why it was given up, or None. A future that is still pending raises."""
        error = self.future.exception(0)
        assert error is None or isinstance(error, DeliveryError)
        return error

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        return self.future.result(0).attempts if self.error is None else self.error.attempts

    @property
    def record_id(self) -> str:
        found = self.error.record.record_id if self.error else self.future.result(0).record_id
        assert found
        return found


def put_numbered(
    producer: AggregatingProducer, numbers: range, keys: int = 20, size: int = 0
) -> list[Put]:
    """Put JSON of `size` bytes at least, each number under one of so many keys."""
    puts = []
    for n in numbers:
        key = f"key-{n % keys}"
        data = json.dumps({"n": n, "filler": "x" * size} if size else {"n": n}).encode()
        puts.append(Put(key, n, producer.put(key, data)))
    return puts


Place = tuple[str, str, int]  # shard, sequence number, sub-sequence number


def kept_by_kcl(held: list[Held]) -> dict[Place, UserRecord]:
    """What KCL would hand out, by its place, in the order of reading."""
    return {
        (h.shard.shard_id, h.sequence_number, at): user
        for h in held
        for at, user in enumerate(h.users())
    }


def read_by_aws(held: list[Held]) -> list[tuple[Place, str, bytes]]:
    """The same by `aws_kinesis_agg`: places, partition keys and data, with KCL's rule applied."""
    found = []
    for h in held:
        event = {
            "kinesisSchemaVersion": "1.0",
            "approximateArrivalTimestamp": 0,
            "data": base64.b64encode(h.data),
            "sequenceNumber": h.sequence_number,
            "partitionKey": h.partition_key,
        }
        users = [user["kinesis"] for user in _deaggregated([{"kinesis": event}])]
        if not h.lone and not all(h.shard.covers(_place_of(user)) for user in users):
            continue
        for at, user in enumerate(users):
            place = (h.shard.shard_id, h.sequence_number, at)
            found.append((place, user["partitionKey"], base64.b64decode(user["data"])))
    return found


def _deaggregated(records: list[Any]) -> list[Any]:
    library = importlib.import_module("aws_kinesis_agg.deaggregator")
    return list(library.iter_deaggregate_records(records))


def _place_of(user: dict[str, Any]) -> int:
    explicit = user.get("explicitHashKey")
    return hash_key(user["partitionKey"]) if explicit is None else int(explicit)


def check_account(held: list[Held], puts: list[Put], *, ordered: bool = False) -> "Counter[str]":
    """Hold the futures against the stream; return how often KCL would hand out each record ID.

    Each confirmed record is where its result says; nothing else is there but what was given up
    after it had been sent; nothing is there more often than it was sent. With `ordered` the first
    sightings of each key come in the order of put. Nobody's future is pending.
    """
    by_id = {put.record_id: put for put in puts}
    assert len(by_id) == len(puts)
    users = kept_by_kcl(held)
    assert read_by_aws(held) == [(at, user.partition_key, user.data) for at, user in users.items()]
    times: Counter[str] = Counter()
    last: dict[str, int] = {}
    for user in users.values():
        envelope = open_envelope(user.data)
        assert envelope.record_id in by_id, "nobody put this"
        put = by_id[envelope.record_id]
        assert (user.partition_key, json.loads(envelope.payload)["n"]) == (put.key, put.number)
        if ordered and not times[put.record_id]:
            assert put.number > last.get(put.key, -1), f"{put.key} is out of order"
            last[put.key] = put.number
        times[put.record_id] += 1
    for put in puts:
        assert times[put.record_id] <= len(put.attempts), "there more often than it was sent"
        _check_history(put)
        if put.error is None:
            result = put.future.result(0)
            user = users[result.shard_id, result.sequence_number, result.sub_sequence_number]
            assert open_envelope(user.data).record_id == put.record_id
    return times


def _check_history(put: Put) -> None:
    """All attempts but the one that was confirmed have an error, and they are in their order."""
    codes = [attempt.error_code for attempt in put.attempts]
    confirmed = codes[-1:] == [None]
    assert confirmed == (put.error is None)
    assert all(codes[:-1] if confirmed else codes)
    starts = [attempt.started_at for attempt in put.attempts]
    assert starts == sorted(starts)
    assert all(attempt.duration >= 0 for attempt in put.attempts)


# Resharding.


def wait_until_active(kinesis: "KinesisClient", stream: str) -> None:
    def active() -> bool:
        summary = kinesis.describe_stream_summary(StreamName=stream)["StreamDescriptionSummary"]
        return summary["StreamStatus"] == "ACTIVE"

    eventually(active)


def split(kinesis: "KinesisClient", stream: str) -> None:
    """Split the first shard of a new stream of one shard in halves, shards 1 and 2."""
    kinesis.split_shard(StreamName=stream, ShardToSplit=shard_id(0), NewStartingHashKey=str(2**127))
    wait_until_active(kinesis, stream)


def merge(kinesis: "KinesisClient", stream: str, one: int, other: int) -> None:
    kinesis.merge_shards(
        StreamName=stream, ShardToMerge=shard_id(one), AdjacentShardToMerge=shard_id(other)
    )
    wait_until_active(kinesis, stream)


def shard_id(number: int) -> str:
    return f"shardId-{number:012}"
