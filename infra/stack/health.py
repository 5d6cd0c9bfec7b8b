"""Whether a service really answers, asked with nothing but the standard library.

Each check returns None for a healthy service, else one line that says what is wrong with it.
"""

import http.client
import json
import socket
import struct
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

CHECK_SECONDS = 2.0
"""How long a healthy local service may take to answer."""

_MQTT_REFUSALS = {
    1: "unacceptable protocol version",
    2: "client identifier rejected",
    3: "server unavailable",
    4: "bad user name or password",
    5: "not authorized",
}


def check_kinesis(url: str, *, timeout: float = CHECK_SECONDS) -> str | None:
    """Ask a Kinesis endpoint for its streams, and wait `timeout` seconds for the answer."""
    return _check_json(url, "kinesis", "Kinesis_20131202.ListStreams", timeout)


def check_dynamodb(url: str, *, timeout: float = CHECK_SECONDS) -> str | None:
    """Ask a DynamoDB endpoint for its tables, and wait `timeout` seconds for the answer."""
    return _check_json(url, "dynamodb", "DynamoDB_20120810.ListTables", timeout)


def check_sqs(url: str, *, timeout: float = CHECK_SECONDS) -> str | None:
    """Ask an SQS endpoint for its queues, and wait `timeout` seconds for the answer."""
    return _check_json(url, "sqs", "AmazonSQS.ListQueues", timeout)


def check_s3(url: str, *, timeout: float = CHECK_SECONDS) -> str | None:
    """Ask an S3 endpoint for its buckets, and wait `timeout` seconds for the answer."""
    return _check(url, "s3", _Request("GET", "/", _signed("s3")), timeout)


def check_http(url: str, path: str, *, service: str) -> str | None:
    """Ask an HTTP service for a page that it answers with 200 when it is ready."""
    return _check(url, service, _Request("GET", path, {}), CHECK_SECONDS)


def check_localstack(url: str) -> str | None:
    """Ask LocalStack whether it has finished its start, init scripts included."""
    try:
        status, body = _request(url, _Request("GET", "/_localstack/init/ready", {}), CHECK_SECONDS)
        ready = status == 200 and json.loads(body)["completed"] is True
    except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
        return f"LocalStack at {url} does not answer: {error}"
    return None if ready else f"LocalStack at {url} is still starting"


@dataclass(frozen=True, slots=True)
class Broker:
    """An MQTT broker's address and the credentials to use with it."""

    host: str
    port: int
    username: str | None
    password: str | None

    @classmethod
    def from_url(cls, url: str) -> "Broker":
        """Read `mqtt://user:password@host:port`.

        Raises:
            ValueError: The URL is not of that form.
        """
        parts = urlsplit(url)
        if parts.scheme != "mqtt" or not parts.hostname:
            raise ValueError("the broker's URL has to look like mqtt://user:password@host:port")
        return cls(
            host=parts.hostname,
            port=parts.port or 1883,
            username=None if parts.username is None else unquote(parts.username),
            password=None if parts.password is None else unquote(parts.password),
        )


def check_mqtt(url: str) -> str | None:
    """Connect to the broker with the credentials in the URL, as a device would."""
    broker = Broker.from_url(url)
    where = f"the broker at {broker.host}:{broker.port}"
    try:
        code = _connect_code(broker)
    except OSError as error:
        return f"{where} does not answer: {error}"
    return None if code == 0 else f"{where} refuses: {_MQTT_REFUSALS.get(code, code)}"


def _connect_code(broker: Broker) -> int:
    """Send CONNECT and return the code of the CONNACK (MQTT 3.1.1, sections 3.1 and 3.2)."""
    flags = 0x02  # clean session
    # An empty client identifier makes the broker choose one, so that no client is pushed out.
    fields = [b""]
    if broker.username is not None:
        flags |= 0x80
        fields.append(broker.username.encode())
    if broker.password is not None:
        flags |= 0x40
        fields.append(broker.password.encode())
    body = b"\x00\x04MQTT\x04" + struct.pack(">BH", flags, 30)
    body += b"".join(struct.pack(">H", len(field)) + field for field in fields)
    if len(body) > 127:
        raise OSError("user name and password are too long for this check")
    address = (broker.host, broker.port)
    with socket.create_connection(address, timeout=CHECK_SECONDS) as connection:
        connection.sendall(b"\x10" + bytes([len(body)]) + body)
        answer = b""
        while len(answer) < 4:
            received = connection.recv(4 - len(answer))
            if not received:
                raise ConnectionResetError("it closed the connection")
            answer += received
        connection.sendall(b"\xe0\x00")  # DISCONNECT
    if answer[:2] != b"\x20\x02":
        raise OSError(f"it answers CONNECT with {answer.hex()}")
    return answer[3]


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes | None = None


def _check_json(url: str, service: str, target: str, timeout: float) -> str | None:
    headers = _signed(service) | {
        "X-Amz-Target": target,
        "Content-Type": "application/x-amz-json-1.1",
    }
    return _check(url, service, _Request("POST", "/", headers, b"{}"), timeout)


def _check(url: str, service: str, request: _Request, timeout: float) -> str | None:
    try:
        status, body = _request(url, request, timeout)
    except (OSError, http.client.HTTPException) as error:
        return f"{service} at {url} does not answer: {error}"
    return None if status == 200 else f"{service} at {url} answers HTTP {status}: {body[:200]!r}"


def _signed(service: str) -> dict[str, str]:
    """Return headers that look signed: local engines route by them and do not check them."""
    scope = f"test/20260101/us-east-1/{service}/aws4_request"
    return {
        "Authorization": f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=0",
        "X-Amz-Date": "20260101T000000Z",
    }


def _request(url: str, request: _Request, timeout: float) -> tuple[int, bytes]:
    parts = urlsplit(url)
    make = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = make(parts.hostname or "", parts.port, timeout=timeout)
    try:
        connection.request(request.method, request.path, request.body, request.headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()
