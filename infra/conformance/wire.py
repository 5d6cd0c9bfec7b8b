"""Calls made without the SDK: in CBOR, with a body the SDK would not write, or read as they arrive.

Requests are signed with the credentials boto3 would use, so that AWS takes them as well.
"""

import http.client
import json
import queue
import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import urlsplit

import boto3
import cbor2
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.eventstream import EventStreamBuffer
from botocore.exceptions import NoCredentialsError

if TYPE_CHECKING:
    from types_boto3_dynamodb import DynamoDBClient
    from types_boto3_kinesis import KinesisClient

JSON_TYPE: Final = "application/x-amz-json-1.1"
CBOR_TYPE: Final = "application/x-amz-cbor-1.1"

_TIMEOUT_SECONDS: Final = 50.0
_READ_BYTES: Final = 65_536
_KEEP_TIMES: Final = {1: lambda value, _immutable: cbor2.CBORTag(1, value)}
"""AWS tags timestamps with 1 and milliseconds, where the tag means seconds: left as they are."""


@dataclass(frozen=True, slots=True)
class WireAnswer:
    """An answer as it travelled.

    Attributes:
        status: The HTTP status.
        headers: By their names in lower case.
        body: Exactly as it was sent.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def content_type(self) -> str:
        """The content type without its parameters."""
        return self.headers.get("content-type", "").partition(";")[0].strip()

    @property
    def value(self) -> dict[str, Any]:
        """The body as a map, by its content type; empty when it is none."""
        try:
            found = _loads(self.body) if self.content_type == CBOR_TYPE else json.loads(self.body)
        except (ValueError, cbor2.CBORDecodeError):
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def error(self) -> str:
        """The error's name without its namespace; empty when there is none."""
        return str(self.value.get("__type", "")).rpartition("#")[2]


def send(
    client: "KinesisClient | DynamoDBClient",
    operation: str,
    parameters: Mapping[str, Any] | bytes,
    *,
    content_type: str = JSON_TYPE,
) -> WireAnswer:
    """Make one call over a connection of its own.

    Args:
        client: Whose endpoint, region and service it is.
        operation: Such as `PutRecord`.
        parameters: As they travel (`Data` is base64 text in JSON), or a body that is sent as it is.
        content_type: The protocol.

    Raises:
        OSError: The endpoint does not answer.
    """
    connection = _connect(client)
    try:
        response = _request(connection, client, operation, _body(parameters, content_type))
        return _answer(response)
    finally:
        connection.close()


class Subscription:
    """One SubscribeToShard in JSON, whose events are taken as they come.

    It does not need the `initial-response` event that the SDK insists on, so that an engine without
    it can still be asked for the rest.

    Attributes:
        refusal: The answer instead of events when the call was refused, else None.
    """

    def __init__(self, client: "KinesisClient", consumer: str, shard: str, **position: Any) -> None:
        self._events: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._connection = _connect(client)
        self.refusal: WireAnswer | None = None
        self._reader: threading.Thread | None = None
        parameters = {"ConsumerARN": consumer, "ShardId": shard, "StartingPosition": position}
        try:
            response = _request(
                self._connection, client, "SubscribeToShard", _body(parameters, JSON_TYPE)
            )
            if response.status != http.client.OK:
                self.refusal = _answer(response)
                return
        except BaseException:
            self._connection.close()
            raise
        self._socket = self._connection.sock
        self._reader = threading.Thread(target=self._read, args=(response,), daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def next_event(self, timeout: float) -> dict[str, Any] | None:
        """Return the next SubscribeToShardEvent, or None when the stream of them has ended.

        Args:
            timeout: Seconds to wait.

        Raises:
            TimeoutError: Neither happened in time.
        """
        try:
            event = self._events.get(timeout=timeout)
        except queue.Empty:
            raise TimeoutError(f"no event within {timeout:g} s") from None
        if event is None:
            self._events.put(None)  # it stays ended
        return event

    def close(self) -> None:
        """Leave."""
        if self._reader is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)  # wakes the reader
            self._reader.join()
        self._connection.close()

    def _read(self, response: http.client.HTTPResponse) -> None:
        frames = EventStreamBuffer()
        with suppress(OSError, ValueError, http.client.HTTPException):
            while data := response.read1(_READ_BYTES):
                frames.add_data(data)
                for frame in frames:
                    # botocore's types say less than it gives.
                    headers: Mapping[str, Any] = frame.to_response_dict()["headers"]
                    if headers.get(":message-type") == "exception":
                        self._events.put({"exception": headers.get(":exception-type")})
                    elif headers.get(":event-type") == "SubscribeToShardEvent":
                        self._events.put(json.loads(frame.payload))
        self._events.put(None)


def _connect(client: "KinesisClient | DynamoDBClient") -> http.client.HTTPConnection:
    parts = urlsplit(client.meta.endpoint_url)
    make = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    return make(parts.hostname or "", parts.port, timeout=_TIMEOUT_SECONDS)


def _request(
    connection: http.client.HTTPConnection,
    client: "KinesisClient | DynamoDBClient",
    operation: str,
    body: tuple[bytes, str],
) -> http.client.HTTPResponse:
    data, content_type = body
    model = client.meta.service_model
    request = AWSRequest(
        method="POST",
        url=client.meta.endpoint_url,
        data=data,
        headers={
            "X-Amz-Target": f"{model.metadata['targetPrefix']}.{operation}",
            "Content-Type": content_type,
        },
    )
    credentials = boto3.session.Session().get_credentials()
    if credentials is None:
        raise NoCredentialsError
    SigV4Auth(credentials, model.signing_name, client.meta.region_name).add_auth(request)
    connection.request("POST", "/", data, dict(request.headers.items()))
    return connection.getresponse()


def _body(parameters: Mapping[str, Any] | bytes, content_type: str) -> tuple[bytes, str]:
    if isinstance(parameters, bytes):
        return parameters, content_type
    if content_type == CBOR_TYPE:
        return cbor2.dumps(parameters), content_type
    return json.dumps(parameters, default=_seconds).encode(), content_type


def _seconds(value: object) -> float:
    """Write a time as the JSON protocol does."""
    if isinstance(value, datetime):
        return value.timestamp()
    raise TypeError(f"{type(value).__name__} does not travel in JSON")


def _answer(response: http.client.HTTPResponse) -> WireAnswer:
    headers = {name.lower(): value for name, value in response.getheaders()}
    return WireAnswer(response.status, headers, response.read())


def _loads(body: bytes) -> Any:
    return cbor2.loads(body, semantic_decoders=_KEEP_TIMES)
