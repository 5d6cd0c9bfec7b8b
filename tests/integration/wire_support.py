"""What the tests of `wire` share: the two clients, a scripted server, and what "alike" means."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import boto3
import cbor2
from botocore.config import Config

from wire.client import client as wire_client

CBOR = "application/x-amz-cbor-1.1"
# What two calls that do the same say differently, though both say it.
VOLATILE = {"SequenceNumber", "ShardIterator", "NextShardIterator", "RequestId", "x-amz-id-2"}
VOLATILE |= {"x-amzn-requestid", "x-amz-request-id", "date", "NextToken", "MillisBehindLatest"}
# JSON and CBOR are not of one length, and say what they are.
TRANSPORT = {"content-length", "content-type", "transfer-encoding"}


def client_named(name: str, url: str | None, **arguments: Any) -> Any:
    """Make a client of one kind; by itself without the SDK's own retries."""
    settings = {"connect_timeout": 10, "read_timeout": 30, "retries": {"total_max_attempts": 1}}
    config = Config(**(settings | arguments.pop("settings", {})))
    if name == "wire":
        return wire_client(session=_session(), endpoint_url=url, config=config, **arguments)
    return _session().client("kinesis", endpoint_url=url, config=config, **arguments)


@cache
def _session() -> Any:
    """Return one session for all: it takes longest to read botocore's models."""
    return boto3.session.Session()


def outcome_of(call: Callable[[], Any]) -> Any:
    """Return an answer, or all that an exception says."""
    try:
        return call()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what is compared
        said = {name: getattr(error, name, None) for name in ("operation_name", "response")}
        # What boto3's retries would have retried says that it was not.
        says = str(error).replace(" (reached max retries: 0)", "")
        if said["response"]:
            said["response"]["ResponseMetadata"].pop("MaxAttemptsReached", None)
        return {"raised": type(error).__mro__[:-1], "says": says, **said}


def assert_alike(one: Any, other: Any, *, at: str = "", but: set[str] | None = None) -> None:
    """Compare two answers field by field, types too; `but` may differ in what they say."""
    loose = VOLATILE | (but or set())
    name = at.rpartition(".")[2].partition("[")[0]
    assert type(one) is type(other), f"{at}: {one!r} is no {other!r}"
    if isinstance(one, dict):
        names, others = (
            set(each) - (TRANSPORT if name == "HTTPHeaders" else set()) for each in (one, other)
        )
        assert names == others, f"{at}: {names ^ others}"
        for key in names:
            assert_alike(one[key], other[key], at=f"{at}.{key}", but=but)
    elif isinstance(one, list):
        assert len(one) == len(other), at
        for number, (left, right) in enumerate(zip(one, other, strict=True)):
            assert_alike(left, right, at=f"{at}[{number}]", but=but)
    elif name == "raised":
        assert [each.__qualname__ for each in one] == [each.__qualname__ for each in other], at
    elif name in loose:
        assert bool(one) == bool(other), at
    else:
        assert one == other, at


@dataclass
class Heard:
    """A request as a server heard it, and on which connection, counted from 0."""

    connection: int
    headers: dict[str, str]
    body: bytes
    target: str

    @property
    def parameters(self) -> Any:
        return cbor2.loads(self.body, semantic_decoders={1: lambda v, _: cbor2.CBORTag(1, v)})


@dataclass
class Reply:
    """Bytes to answer with, and whether the connection stays open."""

    content: bytes
    keep: bool = True


Script = Callable[[Heard], Reply | None]


def reply(
    body: Any = None, *, status: int = 200, raw: bytes | None = None, content_type: str = CBOR
) -> Reply:
    content = cbor2.dumps({} if body is None else body) if raw is None else raw
    head = f"HTTP/1.1 {status} X\r\nx-amzn-RequestId: r-1\r\nContent-Type: {content_type}\r\n"
    return Reply(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)


RECORD = {"Data": b"x", "PartitionKey": "k"}


def put(client: Any) -> Any:
    return client.put_records(StreamName="s", Records=[RECORD])


def fine(_heard: Heard) -> Reply:
    return reply({"Records": [{"SequenceNumber": "1", "ShardId": "s"}], "FailedRecordCount": 0})


def both(url: str, **arguments: Any) -> tuple[Any, Any]:
    """Return what a put at `url` comes to, for the wire client and for boto3."""
    outcomes = []
    for name in ("wire", "boto3"):
        client = client_named(name, url, **arguments)
        outcomes.append(outcome_of(lambda made=client: put(made)))
        client.close()
    return outcomes[0], outcomes[1]


@dataclass
class Server:
    url: str
    heard: list[Heard] = field(default_factory=list)
    connections: list[socket.socket] = field(default_factory=list)


@contextmanager
def scripted(script: Script, *, tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    """Run a server that answers each request as the script says; None closes without a word."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    server = Server(f"{'https' if tls else 'http'}://localhost:{port}")
    threads: list[threading.Thread] = []

    def serve(raw: socket.socket, number: int) -> None:
        try:
            connection = tls.wrap_socket(raw, server_side=True) if tls else raw
            with connection:
                server.connections.append(connection)
                converse(connection, number, server, script)
        except OSError:
            raw.close()  # the test's client went away, or refused the certificate

    def accept() -> None:
        while True:
            try:
                raw, _ = listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=serve, args=(raw, len(threads)), daemon=True)
            threads.append(thread)
            thread.start()

    accepting = threading.Thread(target=accept, daemon=True)
    accepting.start()
    try:
        yield server
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for connection in server.connections:
            with suppress(OSError):  # closed already
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        for thread in (accepting, *threads):
            thread.join(10)


def converse(connection: socket.socket, number: int, server: Server, script: Script) -> None:
    with connection.makefile("rb") as incoming:
        while line := incoming.readline():
            headers: dict[str, str] = {}
            while (header := incoming.readline().decode().strip()) != "":
                name, _, value = header.partition(":")
                headers[name.lower()] = value.strip()
            body = incoming.read(int(headers.get("content-length", "0")))
            heard = Heard(number, headers, body, line.decode().split()[1])
            server.heard.append(heard)
            answer = script(heard)
            if answer is not None:
                connection.sendall(answer.content)
            if answer is None or not answer.keep:
                return
