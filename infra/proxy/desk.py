"""What the treatment of a call works with: the upstream, the quotas, the faults, what is known."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final

from multidict import CIMultiDict

from infra.proxy.exchange import Answer, Incoming
from infra.proxy.faults import FaultPlan
from infra.proxy.messages import Call, MalformedBodyError, Service, decode, encode
from infra.proxy.quotas.dynamodb import DynamoQuotas
from infra.proxy.quotas.iterators import Iterators
from infra.proxy.quotas.kinesis import KinesisQuotas
from infra.proxy.quotas.subscriptions import Subscriptions
from infra.proxy.streams import Streams
from infra.proxy.upstream import Upstream, UpstreamError

_TARGET = {Service.KINESIS: "Kinesis_20131202", Service.DYNAMODB: "DynamoDB_20120810"}


_MAX_OPERATIONS: Final = 200
_OTHER: Final = "other"


@dataclass(slots=True)
class Tally:
    """What has happened so far, by operation; a request without one counts as its method.

    Any client can make up operations: from the 201st on, those that are new count as `other`.
    """

    requests: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    corrected: Counter[str] = field(default_factory=Counter)
    upstream_errors: int = 0

    def arrived(self, operation: str) -> str:
        """Count a request, and return what its operation counts as."""
        name = self.named(operation)
        self.requests[name] += 1
        return name

    def named(self, operation: str) -> str:
        """Return what an operation counts as."""
        known = operation in self.requests or len(self.requests) < _MAX_OPERATIONS
        return operation if known else _OTHER


@dataclass(slots=True, kw_only=True)
class Desk:
    """One for the whole proxy.

    Attributes:
        clock: Monotonic seconds.
        upstream: The engine.
        faults: What is to go wrong.
        corrections: The names of those that are switched on.
        iterators: Which shard an iterator is of, and since when it lives.
        subscriptions: The rule of SubscribeToShard.
        quotas: Kinesis' quotas, or None when they are off.
        dynamo: DynamoDB's, likewise.
        tally: What has happened.
        running: What ends the subscription of a consumer (its ARN) to a shard, while there is one.
        streams: The shards of the streams.
    """

    clock: Callable[[], float]
    upstream: Upstream
    faults: FaultPlan
    corrections: frozenset[str]
    iterators: Iterators
    subscriptions: Subscriptions
    quotas: KinesisQuotas | None
    dynamo: DynamoQuotas | None
    tally: Tally = field(default_factory=Tally)
    running: dict[tuple[str, str], asyncio.Event] = field(default_factory=dict)
    streams: Streams = field(init=False)

    def __post_init__(self) -> None:
        """Give the streams a way to ask."""
        self.streams = Streams(self.clock, self.ask)

    async def forward(self, call: Call, parameters: dict[str, Any] | None = None) -> Answer:
        """Send a call on and return the whole answer.

        Args:
            call: The call.
            parameters: What to send in place of its own; None sends its body untouched.

        Raises:
            UpstreamError: There was no answer.
        """
        body = None if parameters is None else encode(parameters, cbor=call.cbor)
        incoming = call.incoming
        if "Accept-Encoding" in incoming.headers:  # the answer will be read here
            headers = incoming.headers.copy()
            headers["Accept-Encoding"] = "identity"
            incoming = replace(incoming, headers=headers)
        return await self.upstream.fetch(incoming, body)

    async def ask(self, call: Call, operation: str, parameters: dict[str, Any]) -> dict[str, Any]:
        """Make a call of our own, in JSON, under the identity of a call that came in.

        Local engines do not check signatures; account and region are what they read from it.

        Raises:
            UpstreamError: There was no answer, or it is an error.
        """
        headers = CIMultiDict(
            (name, value)
            for name, value in call.incoming.headers.items()
            if name.lower() in ("authorization", "host", "x-amz-date", "x-amz-security-token")
        )
        headers["X-Amz-Target"] = f"{_TARGET[call.service]}.{operation}"
        headers["Content-Type"] = (
            "application/x-amz-json-1.0"
            if call.service is Service.DYNAMODB
            else "application/x-amz-json-1.1"
        )
        incoming = Incoming("POST", "/", headers, json.dumps(parameters).encode(), "proxy")
        answer = await self.upstream.fetch(incoming)
        try:
            value = decode(answer.body, cbor=False)
        except MalformedBodyError as error:
            text = f"the upstream's answer to {operation} is no JSON: {error}"
            raise UpstreamError("ServiceUnavailable", text, 502) from error
        if answer.status != 200:
            code = str(value.get("__type", "")).rpartition("#")[2] or f"HTTP {answer.status}"
            message = str(value.get("message") or value.get("Message") or "")
            raise UpstreamError(code, message, answer.status)
        return value
