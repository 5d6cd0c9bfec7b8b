"""What the proxy does with a request: a pure decision over what it knows of it.

Everything here is data in, data out. The shell (`infra.proxy.server`) asks `Plan.decide` when a
request has been read, acts, and tells `Plan.settle` what came of it.
"""

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

KEPT_LOSSES = 1000
"""How many losses the status lists; older ones are only counted."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a decision may look at.

    Attributes:
        number: The request's place in the order of arrival, from 1.
        operation: The API operation such as `PutRecords`, or `METHOD /path` for any other.
        body_bytes: The size of the body.
    """

    number: int
    operation: str
    body_bytes: int


@dataclass(frozen=True, slots=True)
class Forward:
    """Send the request on and the answer back."""


@dataclass(frozen=True, slots=True)
class LoseAnswer:
    """Send the request on, and cut the connection once the upstream has answered in full.

    Attributes:
        reason: Why, for the log and the status.
    """

    reason: str


Decision = Forward | LoseAnswer


@dataclass(frozen=True, slots=True)
class Loss:
    """An answer that was lost after its request had been carried out."""

    request: int
    operation: str
    reason: str
    status: int
    at: float


@dataclass(slots=True)
class Plan:
    """Which answers are still to be lost, and what has happened so far."""

    requests: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    losses: deque[Loss] = field(default_factory=lambda: deque(maxlen=KEPT_LOSSES))
    _pending: Counter[str] = field(default_factory=Counter)

    def lose(self, operation: str, count: int) -> None:
        """Lose the answers to the next `count` successful calls of an operation.

        Args:
            operation: An API operation, such as `PutRecords`.
            count: Added to what is still outstanding; at least 1.

        Raises:
            ValueError: The operation is empty or the count is below 1.
        """
        if not operation or count < 1:
            raise ValueError("an operation and a count of at least 1 are needed")
        self._pending[operation] += count

    def arrived(self, operation: str, body_bytes: int) -> Request:
        """Count a request that has been read."""
        self.requests[operation] += 1
        return Request(self.requests.total(), operation, body_bytes)

    def decide(self, request: Request) -> Decision:
        """Decide about a request that is about to be sent on.

        A loss is taken off the plan at once, so that two requests at the same time do not both
        take the last one; `settle` gives it back if there was nothing to lose.
        """
        if self._pending[request.operation] < 1:
            return Forward()
        self._pending[request.operation] -= 1
        return LoseAnswer(reason=f"asked to lose an answer to {request.operation}")

    def settle(self, request: Request, decision: LoseAnswer, status: int | None, at: float) -> bool:
        """Say whether an answer is really lost now that it is known.

        Args:
            request: The request it answers.
            decision: What had been decided.
            status: The upstream's HTTP status, or None when it gave no answer. Only a success has
                committed something, so any other answer is passed on and the loss stays due.
            at: The time, in seconds since the epoch.
        """
        if status is None or not 200 <= status < 300:
            self._pending[request.operation] += 1
            return False
        self.lost[request.operation] += 1
        self.losses.append(Loss(request.number, request.operation, decision.reason, status, at))
        return True

    def status(self) -> dict[str, Any]:
        """Return everything countable, ready for JSON."""
        return {
            "requests": self.requests.total(),
            "lost": self.lost.total(),
            "pending": self._pending.total(),
            "operations": {
                operation: {
                    "requests": self.requests[operation],
                    "lost": self.lost[operation],
                    "pending": self._pending[operation],
                }
                for operation in sorted({*self.requests, *+self._pending})
            },
            "losses": [
                {
                    "request": loss.request,
                    "operation": loss.operation,
                    "reason": loss.reason,
                    "status": loss.status,
                    "at": loss.at,
                }
                for loss in self.losses
            ],
        }


def operation_of(method: str, path: str, headers: Mapping[str, str]) -> str:
    """Return the API operation of a request.

    Args:
        method: The HTTP method.
        path: The path without its query.
        headers: A mapping that finds names in any case.
    """
    target = headers.get("X-Amz-Target", "")
    if target:  # AWS JSON, and the CBOR of the Java SDK
        return target.rpartition(".")[2]
    service, separator, operation = path.rpartition("/operation/")
    if separator and service.startswith("/service/"):  # Smithy RPC v2 CBOR
        return operation
    return f"{method} {path}"
