"""What a device does with what it hears about its shadow.

A state machine without a network: bodies of messages in, requests to publish out.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from iot.shadows.document import JsonObject, delta, merge

_log = logging.getLogger(__name__)

ANSWER_SECONDS: Final = 5.0
"""A request that has no answer by then is taken for lost, and the whole shadow is read again."""


@dataclass(frozen=True, slots=True)
class ShadowRequest:
    """A request to publish: ``get`` or ``update``, and its JSON body."""

    operation: str
    body: JsonObject


class ShadowFollower:
    """Follows one shadow: reads it on each connect, applies deltas, reports what was applied.

    Args:
        settings: What the device has now; reported when the shadow does not say the same.
        apply: Given a delta, applies what it can and returns the values the device then has.
        clock: Returns seconds, monotonic.
        new_token: Returns a client token, unique among this device's requests.

    Three rules that devices get wrong:

    * A delta with a version that is not newer than the last *delta* is discarded: messages may be
      delivered twice, and overtake each other. The versions of accepted answers do not count here,
      or the delta that belongs to an answer would be thrown away with it.
    * A report is sent only if it says something new. A device that cannot have what is desired, and
      says so each time it is told, would never stop: each report brings the delta back.
    * What is lost is not repeated but read: after a reconnect, or when no answer came, the device
      gets the whole shadow and settles the difference.
    """

    def __init__(
        self,
        settings: JsonObject,
        *,
        apply: Callable[[JsonObject], JsonObject],
        clock: Callable[[], float],
        new_token: Callable[[], str],
    ) -> None:
        self.settings = settings
        self._apply = apply
        self._clock = clock
        self._new_token = new_token
        self._delta_version = 0
        self._reported: JsonObject = {}
        self._unanswered: dict[str, float] = {}

    def connected(self) -> list[ShadowRequest]:
        """Start again from what the shadow says; call it once the answers are subscribed to."""
        self._delta_version = 0
        self._unanswered.clear()
        return [self._request("get", {})]

    def tick(self) -> list[ShadowRequest]:
        """Read the shadow again if an answer is overdue; call it every second or so."""
        now = self._clock()
        if all(now - since < ANSWER_SECONDS for since in self._unanswered.values()):
            return []
        self._unanswered.clear()
        return [self._request("get", {})]

    def handle(self, answer: str, body: JsonObject) -> list[ShadowRequest]:
        """Take in a message.

        Args:
            answer: The topic below ``…/shadow/``, such as ``update/delta``.
            body: Its payload.
        """
        match answer:
            case "get/accepted":
                return self._shadow_read(body)
            case "get/rejected" if body.get("code") == 404:
                self._settled(body)
                self._reported = {}
                return self._report()
            case "update/delta" if body["version"] > self._delta_version:
                self._delta_version = body["version"]
                return self._settle(body["state"])
            case "update/accepted":
                self._settled(body)
            case "update/rejected" | "get/rejected" if body.get("code") not in {429, 500}:
                if self._settled(body):
                    _log.warning("shadow request rejected: %s", body)
            case "delete/accepted":
                # A shadow made again after two days counts from 1.
                self._delta_version = 0
                self._reported = {}
        return []

    def _shadow_read(self, body: JsonObject) -> list[ShadowRequest]:
        self._settled(body)
        if body["version"] < self._delta_version:
            return []
        self._delta_version = body["version"]
        state = body["state"]
        self._reported = state.get("reported", {})
        return self._settle(state.get("delta", {}))

    def _settle(self, difference: JsonObject) -> list[ShadowRequest]:
        applied = self._apply(difference)
        self.settings, _ = merge(self.settings, {}, applied, timestamp=0)
        return self._report()

    def _report(self) -> list[ShadowRequest]:
        news = delta(self.settings, self._reported)
        if not news:
            return []
        self._reported, _ = merge(self._reported, {}, news, timestamp=0)
        return [self._request("update", {"state": {"reported": news}})]

    def _request(self, operation: str, body: JsonObject) -> ShadowRequest:
        token = self._new_token()
        self._unanswered[token] = self._clock()
        return ShadowRequest(operation, body | {"clientToken": token})

    def _settled(self, body: dict[str, Any]) -> bool:
        return self._unanswered.pop(body.get("clientToken", ""), None) is not None
