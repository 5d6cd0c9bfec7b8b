"""The proxy against a scripted upstream (byte by byte) and against the real engine."""

import asyncio
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import pytest
from aiohttp import ClientSession
from botocore.config import Config
from botocore.exceptions import ClientError, HTTPClientError

from infra.errors import AwsRefusedError
from infra.processes import GuardedProcess, start
from infra.proxy import control
from infra.proxy.server import MAX_BODY_BYTES, running_proxy
from infra.stack.endpoints import Endpoints
from tests.scripted_upstream import MIB, TARGET, Upstream, connection_to, ok, put, raw_exchange
from tests.support import eventually

if TYPE_CHECKING:
    from types_boto3_kinesis import KinesisClient


@contextmanager
def proxy_before(upstream: str, log_dir: Path) -> Iterator[tuple[str, GuardedProcess]]:
    command = [sys.executable, "-m", "infra.proxy", "--upstream", upstream]
    with start(command, name="proxy", log_dir=log_dir) as process:
        yield process.wait_for_line(r"^ready (http://127\.0\.0\.1:\d+)$", timeout=30)[1], process


@pytest.fixture
def scripted(tmp_path: Path) -> Iterator[Callable[..., tuple[Upstream, str]]]:
    opened: list[tuple[Upstream, object]] = []

    def make(answer: bytes, **script: bool) -> tuple[Upstream, str]:
        upstream = Upstream(answer, **script)
        manager = proxy_before(upstream.url, tmp_path)
        url, _ = manager.__enter__()
        opened.append((upstream, manager))
        return upstream, url

    yield make
    for upstream, manager in opened:
        manager.__exit__(None, None, None)  # type: ignore[attr-defined]
        upstream.close()


def test_a_request_arrives_byte_for_byte(scripted: Callable[..., tuple[Upstream, str]]):
    upstream, url = scripted(ok())
    body = bytes(range(256)) * 3
    request = (
        b"POST /a%2Fb/?x=%20y&z HTTP/1.1\r\n"
        b"Host: kinesis.example:1234\r\n"
        b"X-Amz-Target: Kinesis_20131202.PutRecords\r\n"
        b"content-type: application/x-amz-cbor-1.1\r\n"
        b"X-Twice: one\r\n"
        b"X-Twice: two\r\n"
        b"Content-Encoding: gzip\r\n"
        b"Authorization: AWS4-HMAC-SHA256 Credential=x, Signature=y\r\n"
        b"Connection: close\r\n"
        b"Content-Length: 768\r\n\r\n" + body
    )
    raw_exchange(url, request)
    head, _, received = upstream.received[0].partition(b"\r\n\r\n")
    assert received == body
    lines = head.split(b"\r\n")
    assert lines[0] == b"POST /a%2Fb/?x=%20y&z HTTP/1.1"
    sent = request.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]
    unchanged = [line for line in sent if not line.startswith(b"Connection")]
    assert sorted(lines[1:]) == sorted(unchanged)


def test_an_answer_comes_back_byte_for_byte(scripted: Callable[..., tuple[Upstream, str]]):
    body = bytes(range(256))
    answer = ok(
        body, b"x-amzn-RequestId: 1", b"Set-Cookie: a", b"Set-Cookie: b", b"x-odd: \xc3\xa9"
    )
    _, url = scripted(answer)
    returned = raw_exchange(url, b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    head, _, received = returned.partition(b"\r\n\r\n")
    assert received == body
    wanted = answer.partition(b"\r\n\r\n")[0].split(b"\r\n")
    found = [line for line in head.split(b"\r\n") if not line.startswith(b"Connection")]
    assert sorted(found) == sorted(wanted)


@pytest.mark.parametrize("status", [b"400 Bad Request", b"500 Oops", b"503 Busy"])
def test_an_error_is_passed_on_and_is_never_lost(
    scripted: Callable[..., tuple[Upstream, str]], status: bytes
):
    body = b'{"__type":"ProvisionedThroughputExceededException"}'
    _, url = scripted(ok(body).replace(b"200 OK", status))
    control.lose(url, "PutRecords", 1)
    assert put(url) == (int(status.split()[0]), body)
    assert control.status(url)["lost"] == 0
    assert control.status(url)["pending"] == 1


def test_connections_are_kept_alive(scripted: Callable[..., tuple[Upstream, str]]):
    _, url = scripted(ok(b"again"))
    connection = connection_to(url)
    connection.connect()
    kept = connection.sock
    for _ in range(3):
        connection.request("POST", "/", b"{}", {"X-Amz-Target": TARGET})
        assert connection.getresponse().read() == b"again"
        assert connection.sock is kept
    connection.close()


def test_a_lost_answer_is_not_one_byte(scripted: Callable[..., tuple[Upstream, str]]):
    upstream, url = scripted(ok(b"x" * 100_000))
    control.lose(url, "PutRecords", 1)
    request = (
        b"POST / HTTP/1.1\r\nHost: h\r\nX-Amz-Target: Kinesis_20131202.PutRecords\r\n"
        b"Content-Length: 2\r\n\r\n{}"
    )
    try:
        returned = raw_exchange(url, request)
    except ConnectionResetError:
        returned = b""
    assert returned == b""
    assert len(upstream.received) == 1
    assert put(url) == (200, b"x" * 100_000)
    status = control.status(url)
    assert (status["requests"], status["lost"], status["pending"]) == (2, 1, 0)
    assert status["losses"][0]["operation"] == "PutRecords"
    assert status["losses"][0]["reason"]


def test_a_stream_comes_event_by_event(scripted: Callable[..., tuple[Upstream, str]]):
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    upstream, url = scripted(head + b"5\r\nfirst\r\n|6\r\nsecond\r\n|0\r\n\r\n", pieces=True)
    connection = connection_to(url)
    connection.request("POST", "/", b"{}", {"X-Amz-Target": "Kinesis_20131202.SubscribeToShard"})
    upstream.next_piece.release()
    response = connection.getresponse()
    # The second event has not been sent yet, so this would block if the proxy waited for it.
    assert response.read(5) == b"first"
    upstream.next_piece.release()
    assert response.read(6) == b"second"
    upstream.next_piece.release()
    assert response.read() == b""
    connection.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nfirst",
    ],
)
def test_an_answer_that_breaks_off_does_not_look_complete(
    scripted: Callable[..., tuple[Upstream, str]], answer: bytes
):
    _, url = scripted(answer, hang_up=True)
    connection = connection_to(url)
    connection.request("GET", "/")
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        connection.getresponse().read()
    connection.close()


def test_a_client_that_leaves_harms_nobody(scripted: Callable[..., tuple[Upstream, str]]):
    upstream, url = scripted(ok(b"later").replace(b"later", b"late|r"), pieces=True)
    impatient = connection_to(url)
    impatient.request("POST", "/", b"{}", {"X-Amz-Target": TARGET})
    eventually(lambda: len(upstream.received) == 1)
    impatient.close()
    for _ in range(10):
        upstream.next_piece.release()
    assert put(url) == (200, b"later")


def test_ten_mebibytes_pass_and_a_flood_does_not(
    scripted: Callable[..., tuple[Upstream, str]],
):
    upstream, url = scripted(ok())
    body = os.urandom(MIB) * 11
    assert put(url, body) == (200, b"{}")
    assert upstream.received[0].endswith(body)
    status, _ = put_declared(url, MAX_BODY_BYTES + 1)
    assert status == 413
    assert len(upstream.received) == 1


def put_declared(url: str, length: int) -> tuple[int, bytes]:
    """Announce a body and send it until the server answers."""
    connection = connection_to(url)
    connection.putrequest("POST", "/")
    connection.putheader("Content-Length", str(length))
    connection.endheaders()
    try:
        for _ in range(length // MIB + 1):
            connection.send(b"x" * MIB)
    except OSError:
        pass  # it has answered and hung up
    response = connection.getresponse()
    try:
        return response.status, response.read()
    finally:
        connection.close()


def test_an_upstream_that_is_down_is_a_502_with_the_reason(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with proxy_before(f"http://127.0.0.1:{port}", tmp_path) as (url, process):
        control.lose(url, "PutRecords", 1)
        client = kinesis_client(url)
        with pytest.raises(ClientError, match="Cannot connect to host") as caught:
            client.put_records(StreamName="s", Records=[{"Data": b"x", "PartitionKey": "k"}])
        client.close()
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 502
        assert control.status(url)["pending"] == 1
        process.wait_for_line(rf"no answer from http://127\.0\.0\.1:{port}.* to PutRecords", 10)


def test_bad_control_requests_are_told_what_is_wrong(
    scripted: Callable[..., tuple[Upstream, str]],
):
    upstream, url = scripted(ok())
    with pytest.raises(ValueError, match="count of at least 1"):
        control.lose(url, "PutRecords", 0)
    connection = connection_to(url)
    for method, path, body in [("POST", "/_proxy/lose", b"no"), ("GET", "/_proxy/nothing", None)]:
        connection.request(method, path, body)
        response = connection.getresponse()
        assert response.status in (400, 404)
        assert json.loads(response.read())["error"]
    connection.close()
    assert not upstream.received


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_cleanly_on_a_signal_although_clients_are_connected(tmp_path: Path, number: int):
    upstream = Upstream(ok())
    with proxy_before(upstream.url, tmp_path) as (url, process):
        connection = connection_to(url)
        connection.request("POST", "/", b"{}", {"X-Amz-Target": TARGET})
        assert connection.getresponse().read() == b"{}"
        process.send_signal(number)
        assert process.wait(timeout=30) == 0
        connection.close()
    upstream.close()
    assert "Traceback" not in process.log_path.read_text()


@pytest.mark.parametrize(
    ("upstream", "words"),
    [
        ("https://kinesis.us-east-1.amazonaws.com", "leads to AWS"),
        ("127.0.0.1:4566", "not an http"),
    ],
)
def test_aws_is_refused_as_an_upstream(upstream: str, words: str):
    ended = subprocess.run(
        [sys.executable, "-m", "infra.proxy", "--upstream", upstream],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=Path(__file__).parents[2],
    )
    assert ended.returncode == 2
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""


def test_a_taken_port_is_one_clear_line():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        ended = subprocess.run(
            [
                sys.executable,
                "-m",
                "infra.proxy",
                "--upstream",
                "http://127.0.0.1:1",
                "--port",
                port,
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            cwd=Path(__file__).parents[2],
        )
    assert ended.returncode == 1
    assert "in use" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_it_runs_inside_an_event_loop_as_well():
    async def scenario() -> int:
        upstream = Upstream(ok())
        try:
            async with (
                running_proxy(upstream.url) as url,
                ClientSession() as session,
                session.post(url, data=b"{}") as answer,
            ):
                return answer.status
        finally:
            upstream.close()

    assert asyncio.run(scenario()) == 200


def test_running_it_before_aws_is_refused():
    async def scenario() -> None:
        async with running_proxy("https://kinesis.us-east-1.amazonaws.com"):
            pytest.fail("it must not run")

    with pytest.raises(AwsRefusedError):
        asyncio.run(scenario())


def kinesis_client(url: str) -> "KinesisClient":
    config = Config(retries={"total_max_attempts": 1}, read_timeout=30)
    return boto3.session.Session().client("kinesis", endpoint_url=url, config=config)


@pytest.fixture
def through_proxy(stack: Endpoints, tmp_path: Path) -> Iterator[tuple["KinesisClient", str]]:
    if stack.kinesis is None:
        pytest.skip("the proxy refuses AWS")
    with proxy_before(stack.kinesis, tmp_path) as (url, _):
        client = kinesis_client(url)
        yield client, url
        client.close()


def read_all(client: "KinesisClient", stream: str) -> list[bytes]:
    shard = client.list_shards(StreamName=stream)["Shards"][0]["ShardId"]
    iterator = client.get_shard_iterator(
        StreamName=stream, ShardId=shard, ShardIteratorType="TRIM_HORIZON"
    )["ShardIterator"]
    return [record["Data"] for record in client.get_records(ShardIterator=iterator)["Records"]]


def test_a_lost_answer_was_committed_by_the_engine(
    through_proxy: tuple["KinesisClient", str], stream: Callable[..., str]
):
    client, url = through_proxy
    name = stream()
    control.lose(url, "PutRecords", 2)
    records = [{"Data": b"%d" % n, "PartitionKey": "k"} for n in range(3)]
    for _ in range(2):
        with pytest.raises(HTTPClientError):
            client.put_records(StreamName=name, Records=records)  # type: ignore[arg-type]
    answer = client.put_records(StreamName=name, Records=records)  # type: ignore[arg-type]
    assert answer["FailedRecordCount"] == 0
    assert read_all(client, name) == [b"0", b"1", b"2"] * 3
    status = control.status(url)
    assert status["lost"] == 2
    assert status["operations"]["PutRecords"] == {"requests": 3, "lost": 2, "pending": 0}
    assert status["operations"]["GetRecords"]["lost"] == 0


def test_an_engines_error_keeps_its_name(through_proxy: tuple["KinesisClient", str]):
    client, _ = through_proxy
    with pytest.raises(client.exceptions.ResourceNotFoundException):
        client.describe_stream_summary(StreamName="there-is-no-such-stream")


def test_a_large_record_reaches_the_engine(
    through_proxy: tuple["KinesisClient", str], stream: Callable[..., str]
):
    client, _ = through_proxy
    name = stream()
    data = os.urandom(MIB - 1)
    answer = client.put_records(StreamName=name, Records=[{"Data": data, "PartitionKey": "k"}])
    assert answer["FailedRecordCount"] == 0
    assert read_all(client, name)[0] == data
