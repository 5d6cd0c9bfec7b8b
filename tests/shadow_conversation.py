"""A conversation with the shadow service, without a broker."""

import json
from typing import Any

from iot.shadows.protocol import Limits
from iot.shadows.service import ShadowService
from iot.shadows.store import SqliteShadowStore

CLASSIC = "$aws/things/lamp/shadow"
T0 = 1_700_000_000

_opened: list[SqliteShadowStore] = []


def memory() -> SqliteShadowStore:
    store = SqliteShadowStore(":memory:")
    _opened.append(store)
    return store


class Conversation:
    """A service, its clock, and what it answered last."""

    def __init__(
        self, store: SqliteShadowStore | None = None, limits: Limits | None = None
    ) -> None:
        self.now = T0
        self.service = ShadowService(store or memory(), clock=lambda: self.now + 0.9, limits=limits)

    def ask(self, operation: str, body: Any = None, *, prefix: str = CLASSIC) -> dict[str, Any]:
        """Send a request; return the answers by topic, the prefix left out."""
        raw = (
            body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        )
        publications = self.service.handle(f"{prefix}/{operation}", raw)
        answers = {p.topic.removeprefix(prefix + "/"): json.loads(p.payload) for p in publications}
        assert len(answers) == len(publications)
        return answers

    def update(self, state: Any, **fields: Any) -> dict[str, Any]:
        return self.ask("update", {"state": state, **fields})

    def get(self) -> dict[str, Any]:
        answer: dict[str, Any] = self.ask("get")["get/accepted"]
        return answer

    def rejected(self, operation: str, body: Any, **more: Any) -> tuple[int, str]:
        answers = self.ask(operation, body, **more)
        assert list(answers) == [f"{operation}/rejected"]
        answer = answers[f"{operation}/rejected"]
        assert answer["timestamp"] == self.now
        return answer["code"], answer["message"]


def close_stores() -> None:
    """Close the stores of all conversations so far that were given none."""
    while _opened:
        _opened.pop().close()
