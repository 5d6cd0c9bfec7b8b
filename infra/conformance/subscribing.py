"""Consumers and subscriptions as several checks need them."""

import base64
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from infra.conformance.ground import Deviation, Ground
from infra.conformance.records import first_shard
from infra.conformance.records import put as put_record
from infra.conformance.wire import Subscription

if TYPE_CHECKING:
    from types_boto3_kinesis.type_defs import ConsumerDescriptionTypeDef

_EVENT_SECONDS = 15.0
_MAX_EVENTS = 50


def consumer(ground: Ground, stream: str) -> str:
    """Register a consumer with a stream, wait until it is ACTIVE, and return its ARN."""
    arn, name = ground.arn(stream), ground.unique("consumer")
    ground.kinesis.register_stream_consumer(StreamARN=arn, ConsumerName=name)
    return active(ground, arn, name)["ConsumerARN"]


def active(ground: Ground, stream_arn: str, name: str) -> "ConsumerDescriptionTypeDef":
    """Wait until a consumer is ACTIVE, and return its description."""

    def look() -> "ConsumerDescriptionTypeDef | None":
        found = ground.kinesis.describe_stream_consumer(StreamARN=stream_arn, ConsumerName=name)
        described = found["ConsumerDescription"]
        return described if described["ConsumerStatus"] == "ACTIVE" else None

    return ground.eventually(look, expected=f"consumer {name} ACTIVE")


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
    return [str(put_record(ground, stream, text).sequence_number) for text in texts]


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
