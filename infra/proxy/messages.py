"""AWS's calls as they travel: JSON 1.0/1.1 and the CBOR of the Java SDK, read and written.

A call's parameters stay in the form of their protocol: `Data` is base64 text in JSON and bytes in
CBOR. `data_bytes` gives its size in either.
"""

import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final

import cbor2
from multidict import CIMultiDict

from infra.proxy.exchange import Answer, Incoming

ACCOUNT: Final = "000000000000"
"""The account in messages, and of every access key that names none."""

_CBOR_TYPE: Final = "application/x-amz-cbor-1.1"
_KEEP_TIMES: Final = {1: lambda value, _immutable: cbor2.CBORTag(1, value)}
"""AWS tags timestamps with 1 and milliseconds, where the tag means seconds: left as they are."""

_ACCOUNT_ID: Final = re.compile(r"[0-9]{12}")
_CREDENTIAL: Final = re.compile(r"Credential=([^/,\s]+)/[^/,\s]+/([^/,\s]+)/")


class Service(StrEnum):
    """The services that the proxy knows; anything else passes untouched."""

    KINESIS = "kinesis"
    DYNAMODB = "dynamodb"


_TARGETS: Final = {
    "Kinesis_20131202": Service.KINESIS,
    "DynamoDB_20120810": Service.DYNAMODB,
}


class MalformedBodyError(ValueError):
    """A body is not what its content type says."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose call it is, as the signature says: emulators keep accounts and regions apart by it.

    They take an access key of twelve digits for an account; all others belong to one account.
    """

    account: str
    region: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error that AWS would answer, and that the proxy answers without asking the upstream."""

    code: str
    message: str
    status: int = 400


@dataclass(slots=True)
class Call:
    """One call of an API operation.

    Attributes:
        service: Whose operation it is.
        operation: Such as `PutRecords`.
        content_type: In which the answer is written too.
        identity: Whose call it is.
        incoming: The request it came in.
    """

    service: Service
    operation: str
    content_type: str
    identity: Identity
    incoming: Incoming
    _parameters: dict[str, Any] | None = field(default=None, repr=False)

    @property
    def cbor(self) -> bool:
        """Whether it is written in CBOR; in JSON otherwise."""
        return self.content_type == _CBOR_TYPE

    @property
    def parameters(self) -> dict[str, Any]:
        """The call's parameters, read once.

        Raises:
            MalformedBodyError: The body is no map in the protocol of the call.
        """
        if self._parameters is None:
            self._parameters = decode(self.incoming.body, cbor=self.cbor)
        return self._parameters


def call_of(incoming: Incoming) -> Call | None:
    """Return the call a request makes, from its headers alone; None if the proxy knows none."""
    prefix, separator, operation = incoming.headers.get("X-Amz-Target", "").rpartition(".")
    service = _TARGETS.get(prefix)
    if not separator or service is None:
        return None
    content_type = incoming.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if not content_type.startswith(("application/x-amz-json-", "application/x-amz-cbor-")):
        return None
    return Call(service, operation, content_type, identity_of(incoming.headers), incoming)


def identity_of(headers: Mapping[str, str]) -> Identity:
    """Return whose call it is, from the access key and the region in the signature's scope."""
    found = _CREDENTIAL.search(headers.get("Authorization", ""))
    if found is None:
        return Identity(ACCOUNT, "")
    return Identity(found[1] if _ACCOUNT_ID.fullmatch(found[1]) else ACCOUNT, found[2])


def decode(body: bytes, *, cbor: bool) -> dict[str, Any]:
    """Read a body; an empty one is an empty map.

    Raises:
        MalformedBodyError: It is no map in that protocol.
    """
    if not body:
        return {}
    try:
        value = cbor2.loads(body, semantic_decoders=_KEEP_TIMES) if cbor else json.loads(body)
    except (ValueError, RecursionError, cbor2.CBORDecodeError) as error:
        raise MalformedBodyError(str(error) or type(error).__name__) from error
    if not isinstance(value, dict):
        raise MalformedBodyError(f"a map is expected, not {type(value).__name__}")
    return value


def encode(value: Mapping[str, Any], *, cbor: bool) -> bytes:
    """Write a body."""
    if cbor:
        return cbor2.dumps(value)
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode(
        "utf-8", "surrogatepass"
    )


def answer_to(call: Call, value: Mapping[str, Any], *, status: int = 200) -> Answer:
    """Return an answer of the proxy's own."""
    headers = CIMultiDict(
        {"Content-Type": call.content_type, "x-amzn-RequestId": str(uuid.uuid4())}
    )
    return Answer(status, headers, encode(value, cbor=call.cbor))


def refusal_to(call: Call, refusal: Refusal) -> Answer:
    """Return an error in the form of the call's protocol, as AWS would."""
    body = {"__type": refusal.code, "message": refusal.message}
    return replace(answer_to(call, body, status=refusal.status), refused=True)


def plain_error(refusal: Refusal) -> Answer:
    """Return an error to a request that is no call of a known service; an SDK can read it."""
    body = {"__type": refusal.code, "message": refusal.message}
    headers = CIMultiDict({"Content-Type": "application/x-amz-json-1.1"})
    return Answer(refusal.status, headers, encode(body, cbor=False), refused=True)


def with_body(answer: Answer, value: Mapping[str, Any], *, cbor: bool) -> Answer:
    """Return an upstream's answer with another body."""
    headers = answer.headers.copy()
    # DynamoDB's checksum of the body that was; the SDKs believe an answer that has none.
    headers.popall("x-amz-crc32", None)
    headers.popall("Content-Length", None)
    return Answer(answer.status, headers, encode(value, cbor=cbor), answer.reason)


def data_bytes(data: Any) -> int:
    """Return the size of a blob: bytes (CBOR), or base64 text (JSON), which is not decoded.

    Raises:
        MalformedBodyError: It is neither.
    """
    if isinstance(data, str):
        if len(data) % 4:
            raise MalformedBodyError("Data is not base64")
        return len(data) // 4 * 3 - (data.endswith("=") + data.endswith("=="))
    if isinstance(data, bytes):
        return len(data)
    raise MalformedBodyError(f"Data is expected to be a blob, not {type(data).__name__}")
