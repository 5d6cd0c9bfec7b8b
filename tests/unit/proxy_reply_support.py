"""A reply that notes what it was told, and a fault plan to go with it."""

from typing import Any

from multidict import CIMultiDict

from infra.proxy.exchange import Answer, Incoming
from infra.proxy.messages import Call, call_of

HEADERS = CIMultiDict({"X-Kind": "text"})


class Noted:
    """A `Reply` that keeps what comes, in order; it may fail at a step as a client that leaves."""

    def __init__(self, fails_at: str = "") -> None:
        self.told: list[tuple[Any, ...]] = []
        self._fails_at = fails_at

    async def start(
        self, status: int, headers: CIMultiDict[str], *, reason: str = "", length: int | None = None
    ) -> None:
        self._note("start", status, dict(headers), reason, length)

    async def write(self, data: bytes) -> None:
        self._note("write", data)

    async def finish(self) -> None:
        self._note("finish")

    def cut(self, *, reset: bool) -> None:
        self._note("cut", reset)

    def _note(self, *step: Any) -> None:
        if step[0] == self._fails_at:
            raise ConnectionResetError("gone")
        self.told.append(step)

    @property
    def steps(self) -> list[str]:
        return [step[0] for step in self.told]


def answer(status: int = 200, body: bytes = b"body") -> Answer:
    return Answer(status, HEADERS, body, "Fine")


WHOLE = [("start", 200, {"X-Kind": "text"}, "Fine", 4), ("write", b"body"), ("finish",)]
"""What a reply is told of `answer()`."""


def call_to(operation: str, *, account: str = "000000000000", content: str = "json-1.1") -> Call:
    headers = CIMultiDict(
        {
            "X-Amz-Target": f"Kinesis_20131202.{operation}",
            "Content-Type": f"application/x-amz-{content}",
            "Authorization": f"AWS4-HMAC-SHA256 Credential={account}/20261125/us-east-1/kinesis/x",
        }
    )
    call = call_of(Incoming("POST", "/", headers, b"{}", "127.0.0.1"))
    assert call is not None
    return call
