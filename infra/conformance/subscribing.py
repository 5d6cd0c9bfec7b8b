"""Consumers and subscriptions as several checks need them."""

import base64
from typing import Any

from botocore.exceptions import ClientError

from infra.conformance.ground import Deviation, Ground
from infra.conformance.shards import first_shard
from infra.conformance.wire import Subscription

_EVENT_SECONDS = 15.0
_MAX_EVENTS = 50


def consumer(ground: Ground, stream: str) -> str:
    """Register a consumer with a stream, wait until it is ACTIVE, and return its ARN."""
    made = ground.kinesis.register_stream_consumer(
        StreamARN=ground.arn(stream), ConsumerName=ground.unique("consumer")
    )
    arn = made["Consumer"]["ConsumerARN"]

    def active() -> bool:
        found = ground.kinesis.describe_stream_consumer(ConsumerARN=arn)
        return found["ConsumerDescription"]["ConsumerStatus"] == "ACTIVE"

    ground.eventually(active, expected="the consumer ACTIVE")
    return arn


def subscribed(ground: Ground, stream: str, **position: Any) -> Subscription:
    """Subscribe a consumer of its own to a stream's first shard.

    Raises:
        ClientError: It is refused.
    """
    shard = first_shard(ground, stream)
    subscription = Subscription(ground.kinesis, consumer(ground, stream), shard, **position)
    if (refusal := subscription.refusal) is not None:
        subscription.close()
        message = str(refusal.value.get("message", refusal.body[:200]))
        code = refusal.error or str(refusal.status)
        raise ClientError({"Error": {"Code": code, "Message": message}}, "SubscribeToShard")
    return subscription


def refusal_of(subscription: Subscription) -> str:
    """Return the error that a subscription was refused with; empty when it was not.

    An engine may refuse it by the status of the answer or by an exception as the first event.
    """
    if subscription.refusal is not None:
        return subscription.refusal.error or f"status {subscription.refusal.status}"
    try:
        event = subscription.next_event(_EVENT_SECONDS)
    except TimeoutError:
        return ""
    return str((event or {}).get("exception", ""))


def put(ground: Ground, stream: str, *texts: str) -> list[str]:
    """Put a record for each text, one after the other; return their sequence numbers."""
    return [
        ground.kinesis.put_record(StreamName=stream, PartitionKey="k", Data=text.encode())[
            "SequenceNumber"
        ]
        for text in texts
    ]


def records_of(subscription: Subscription, count: int) -> tuple[list[str], str]:
    """Take events until they have carried so many records.

    Returns:
        The records' texts, and the ContinuationSequenceNumber of the last event.

    Raises:
        Deviation: The stream of events ends or falls silent before.
    """
    texts: list[str] = []
    for _ in range(_MAX_EVENTS):
        try:
            event = subscription.next_event(_EVENT_SECONDS)
        except TimeoutError as error:
            raise Deviation(f"{count} records", f"{texts}, then {error}") from error
        if event is None or "exception" in event:
            raise Deviation(f"{count} records", f"{texts}, then {event or 'the end'}")
        texts += [base64.b64decode(each["Data"]).decode() for each in event["Records"]]
        if len(texts) >= count:
            return texts, event.get("ContinuationSequenceNumber") or ""
    raise Deviation(f"{count} records", f"{texts} in {_MAX_EVENTS} events")
