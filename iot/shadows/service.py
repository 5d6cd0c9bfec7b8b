"""The shadow service without a network: a request in, the publications it causes out."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from iot.shadows.document import ShadowDocument, stamped
from iot.shadows.protocol import (
    Limits,
    Rejected,
    Request,
    ShadowName,
    compact,
    parse_request,
    parse_topic,
)
from iot.shadows.store import ShadowStore, StoredShadow

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Publication:
    """A message to publish."""

    topic: str
    payload: bytes


class ShadowService:
    """Answers shadow requests as AWS IoT does.

    Args:
        store: Where shadows live.
        clock: Returns epoch seconds.
        limits: Size and depth of a document.

    Answers come in the order delta, documents, accepted. AWS promises no order, and a client must
    not rely on one. Where AWS documents nothing: an update of a shadow that never existed may carry
    the version 1 and no other, and one of a deleted shadow may carry none.

    Not done here, because a plain broker does not tell who sent a request: 401 and 403 (an access
    list in the broker does that), 429 (more than 10 unanswered requests on one connection).
    """

    def __init__(
        self, store: ShadowStore, *, clock: Callable[[], float], limits: Limits | None = None
    ) -> None:
        self._store = store
        self._clock = clock
        self._limits = limits or Limits()

    def handle(self, topic: str, payload: bytes) -> list[Publication]:
        """Return what is to be published in answer to a message; nothing if it is no request."""
        parsed = parse_topic(topic)
        if parsed is None:
            return []
        name, operation = parsed
        now = int(self._clock())
        token: str | None = None
        try:
            name.check()
            request = parse_request(operation, payload, self._limits)
            token = request.client_token
            return self._answer(name, request, now)
        except Rejected as rejected:
            refusal, token = rejected, token or rejected.client_token
        except Exception:  # noqa: BLE001 - see below
            # One request must not take the service away from all other things.
            _log.exception("no answer to a request on %s", topic)
            refusal = Rejected(500, "Internal service failure")
        body = {"code": refusal.code, "message": refusal.message, "timestamp": now}
        return [_publication(f"{topic}/rejected", body, token)]

    def _answer(self, name: ShadowName, request: Request, now: int) -> list[Publication]:
        if request.operation == "update":
            return self._update(name, request, now)
        if request.operation == "get":
            return self._get(name, request, now)
        return self._delete(name, request, now)

    def _get(self, name: ShadowName, request: Request, now: int) -> list[Publication]:
        version, document = self._existing(name, now)
        body = _body(document, version)
        difference, stamps = document.delta()
        if difference:
            body["state"]["delta"] = difference
            body["metadata"]["delta"] = stamps
        body["timestamp"] = now
        return [_publication(f"{name.prefix}/get/accepted", body, request.client_token)]

    def _update(self, name: ShadowName, request: Request, now: int) -> list[Publication]:
        before = self._store.load(name, now=now)
        _check_version(request, before)
        previous = before.document if before else None
        current = (previous or ShadowDocument()).updated(request.state, timestamp=now)
        if len(compact(current.state)) > self._limits.document_bytes:
            raise Rejected(413, "The payload exceeds the maximum size allowed")
        after = StoredShadow(before.version + 1 if before else 1, now, current)
        self._store.save(name, after)
        return [
            _publication(f"{name.prefix}/update/{topic}", body, request.client_token)
            for topic, body in (
                ("delta", _delta(current, after.version, now)),
                ("documents", _documents(before, after)),
                ("accepted", _accepted(request, after)),
            )
            if body
        ]

    def _delete(self, name: ShadowName, request: Request, now: int) -> list[Publication]:
        version, _ = self._existing(name, now)
        self._store.save(name, StoredShadow(version, now, None))
        body = {"version": version, "timestamp": now}
        return [_publication(f"{name.prefix}/delete/accepted", body, request.client_token)]

    def _existing(self, name: ShadowName, now: int) -> tuple[int, ShadowDocument]:
        shadow = self._store.load(name, now=now)
        if shadow is None or shadow.document is None:
            raise Rejected(404, f"No shadow exists with name: {name.name or name.thing}")
        return shadow.version, shadow.document


def _check_version(request: Request, before: StoredShadow | None) -> None:
    if request.version is None:
        return
    if before is None:
        if request.version != 1:
            raise Rejected(400, "Invalid version")
    elif before.document is None or request.version != before.version:
        raise Rejected(409, "Version conflict")


def _accepted(request: Request, after: StoredShadow) -> dict[str, Any]:
    """Only what was in the request, nulls too: they were written like any other leaf."""
    metadata = (
        {section: stamped(patch, after.timestamp) for section, patch in request.state.items()}
        if request.state is not None
        else {"timestamp": after.timestamp}
    )
    return {
        "state": request.state,
        "metadata": metadata,
        "version": after.version,
        "timestamp": after.timestamp,
    }


def _delta(current: ShadowDocument, version: int, now: int) -> dict[str, Any] | None:
    difference, stamps = current.delta()
    if not difference:
        return None
    return {"version": version, "timestamp": now, "state": difference, "metadata": stamps}


def _documents(before: StoredShadow | None, after: StoredShadow) -> dict[str, Any]:
    previous = _body(before.document, before.version) if before and before.document else None
    current = _body(after.document or ShadowDocument(), after.version)
    return {"previous": previous, "current": current, "timestamp": after.timestamp}


def _body(document: ShadowDocument, version: int) -> dict[str, Any]:
    return {
        "state": dict(document.state),
        "metadata": dict(document.metadata),
        "version": version,
    }


def _publication(topic: str, body: dict[str, Any], client_token: str | None) -> Publication:
    if client_token is not None:
        body["clientToken"] = client_token
    return Publication(topic, compact(body))
