"""What the producers' tests on real engines share: a tampering server, and reading all back."""

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config

from infra.stack.endpoints import Endpoints
from records.aggregation import UserRecord, decode
from records.partition import Shard

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
