"""The shadow protocol: reserved topics, requests, limits and the service's words when it refuses.

AWS: IoT Core, Device Shadow MQTT topics; Device Shadow error messages; endpoints and quotas.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from iot.names import SHADOW_NAME, THING_NAME
from iot.shadows.document import SECTIONS, JsonObject, deeper_than
from records.limits import IOT_MAX_PAYLOAD_BYTES, IOT_MAX_SHADOW_BYTES

MAX_DEPTH: Final = 8
"""Levels in a section. AWS's page of quotas says 8, its page of error messages 6: use 6 or less."""

MAX_CLIENT_TOKEN_BYTES: Final = 64
"""AWS: IoT Core endpoints and quotas."""

SUBSCRIPTIONS: Final = ("$aws/things/+/shadow/+", "$aws/things/+/shadow/name/+/+")
"""Every request to the classic and the named shadows, and none of the service's own answers."""

_REQUEST = re.compile(r"\$aws/things/([^/]*)/shadow/(?:name/([^/]*)/)?(get|update|delete)")


class Rejected(Exception):  # noqa: N818 - the protocol's own word; never leaves the service
    """A request that is answered on its ``rejected`` topic."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.client_token: str | None = None


@dataclass(frozen=True, slots=True)
class ShadowName:
    """Which shadow: the thing, and the name of the shadow, None for the classic one."""

    thing: str
    name: str | None = None

    @property
    def prefix(self) -> str:
        """The topics of this shadow begin with it, without a slash at the end."""
        classic = f"$aws/things/{self.thing}/shadow"
        return classic if self.name is None else f"{classic}/name/{self.name}"

    def check(self) -> None:
        """Raise :class:`Rejected` for a name that AWS IoT does not allow."""
        if not THING_NAME.fullmatch(self.thing):
            raise Rejected(400, "Invalid thing name")
        if self.name is not None and not SHADOW_NAME.fullmatch(self.name):
            raise Rejected(400, "Invalid shadow name")


def parse_topic(topic: str) -> tuple[ShadowName, str] | None:
    """Return the shadow and the operation of a request topic; None for any other topic."""
    match = _REQUEST.fullmatch(topic)
    return (ShadowName(match[1], match[2]), match[3]) if match else None


@dataclass(frozen=True, slots=True)
class Limits:
    """What a service allows: two quotas that AWS raises, or contradicts itself on."""

    document_bytes: int = IOT_MAX_SHADOW_BYTES
    depth: int = MAX_DEPTH


@dataclass(frozen=True, slots=True)
class Request:
    """A valid request.

    Args:
        operation: ``get``, ``update`` or ``delete``.
        client_token: Echoed in every answer.
        state: Update only: sections to merge (None removes a section); None removes both.
        version: Update only: the version that the sender has seen; None: last writer wins.
    """

    operation: str
    client_token: str | None = None
    state: dict[str, JsonObject | None] | None = None
    version: int | None = None


def parse_request(operation: str, payload: bytes, limits: Limits) -> Request:
    """Read a request; raise :class:`Rejected` with the code and the words of AWS IoT."""
    if operation == "update":
        return _parse_update(payload, limits)
    if operation == "get":
        return _parse_get(payload, limits)
    try:
        # Nothing in the payload of a delete matters but its token.
        return Request("delete", _parse_get(payload, limits).client_token)
    except Rejected:
        return Request("delete")


def compact(value: Any) -> bytes:
    """Encode as the shortest UTF-8 JSON: what is published, and what is counted against limits."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def _parse_update(payload: bytes, limits: Limits) -> Request:
    document = _parse_json(payload, limits)
    if not isinstance(document, dict):
        raise Rejected(400, "Missing required node: state")
    token = _client_token(document)
    try:
        _check_update(document, limits)
    except Rejected as rejected:
        rejected.client_token = token
        raise
    return Request("update", token, document["state"], document.get("version"))


def _check_update(document: JsonObject, limits: Limits) -> None:
    if "state" not in document:
        raise Rejected(400, "Missing required node: state")
    if document["state"] is not None:
        _check_state(document["state"], limits)
    version = document.get("version")
    if version is not None and type(version) is not int:  # a bool is no version
        raise Rejected(400, "Invalid version")


def _parse_get(payload: bytes, limits: Limits) -> Request:
    if not payload.strip():
        return Request("get")
    document = _parse_json(payload, limits)
    if not isinstance(document, dict):
        raise Rejected(400, "Invalid JSON")
    return Request("get", _client_token(document))


def _parse_json(payload: bytes, limits: Limits) -> Any:
    """Read strict JSON: no NaN, no Infinity, no half of a surrogate pair, no second encoding."""
    if len(payload) > IOT_MAX_PAYLOAD_BYTES:
        raise Rejected(413, "The payload exceeds the maximum size allowed")
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        raise Rejected(
            415, "Unsupported documented encoding; supported encoding is UTF-8"
        ) from None
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except RecursionError:
        raise _too_deep(limits.depth) from None
    except ValueError:
        raise Rejected(400, "Invalid JSON") from None
    return value


def _refuse_constant(name: str) -> Any:
    raise ValueError(name)


def _client_token(document: Mapping[str, Any]) -> str | None:
    token = document.get("clientToken")
    if token is not None and (
        not isinstance(token, str) or len(token.encode()) > MAX_CLIENT_TOKEN_BYTES
    ):
        raise Rejected(400, "Invalid clientToken")
    return token


def _check_state(state: Any, limits: Limits) -> None:
    if not isinstance(state, dict):
        raise Rejected(400, "State node must be an object")
    if state.keys() - set(SECTIONS):
        raise Rejected(400, "State contains an invalid node")
    for section, value in state.items():
        if value is None:
            continue
        if not isinstance(value, dict):
            raise Rejected(400, f"{section.capitalize()} node must be an object")
        if deeper_than(value, limits.depth):
            raise _too_deep(limits.depth)
        if _null_in_array(value):
            raise Rejected(400, "State contains an invalid node")


def _too_deep(maximum: int) -> Rejected:
    return Rejected(400, f"JSON contains too many levels of nesting; maximum is {maximum}")


def _null_in_array(value: Any, *, inside: bool = False) -> bool:
    """Find a null below an array: arrays are values, so it could never mean "delete"."""
    if isinstance(value, dict):
        return any(_null_in_array(item, inside=inside) for item in value.values())
    if isinstance(value, list):
        return any(_null_in_array(item, inside=True) for item in value)
    return inside and value is None
