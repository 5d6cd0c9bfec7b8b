"""Registered consumers, and what SubscribeToShard pushes to them."""

import time
from collections.abc import Callable
from typing import Any

from botocore.parsers import ResponseParserError

from infra.conformance.check import check, equal, expect, refused
from infra.conformance.ground import Deviation, Ground
from infra.conformance.records import first_shard
from infra.conformance.subscribing import (
    active,
    consumer,
    put,
    records_of,
    refusal_of,
    subscribed,
)
from infra.conformance.wire import Subscription
from records.limits import MAX_CONSUMERS_PER_STREAM, SUBSCRIPTION_TAKEOVER_SECONDS

_REGISTER = "RegisterStreamConsumer"
_SUBSCRIBE = "SubscribeToShard"
_EVENT = "SubscribeToShardEvent: ContinuationSequenceNumber"
_POSITION = "StartingPosition: Type"

_CREATING = 5
"""How many consumers of a stream can be CREATING at the same time."""


@check("consumer-register", source=_REGISTER, area="fan-out")
def consumer_register(ground: Ground) -> None:
    """A registered consumer has an ARN below its stream's and becomes ACTIVE."""
    arn = ground.arn(ground.stream())
    made = ground.kinesis.register_stream_consumer(StreamARN=arn, ConsumerName="one")["Consumer"]
    equal(made["ConsumerName"], "one", "ConsumerName")
    expect(made["ConsumerARN"].startswith(f"{arn}/consumer/one:"), "its ARN", made["ConsumerARN"])
    active(ground, arn, "one")


@check("consumer-register-again", source=f"{_REGISTER}: errors", area="fan-out")
def consumer_register_again(ground: Ground) -> None:
    """Registering a second consumer of the same name is a ResourceInUseException."""
    arn = ground.arn(ground.stream())
    ground.kinesis.register_stream_consumer(StreamARN=arn, ConsumerName="one")
    refused(
        "ResourceInUseException",
        lambda: ground.kinesis.register_stream_consumer(StreamARN=arn, ConsumerName="one"),
    )


@check("consumer-register-unknown-stream", source=f"{_REGISTER}: errors", area="fan-out")
def consumer_register_unknown_stream(ground: Ground) -> None:
    """Registering a consumer with no such stream is a ResourceNotFoundException."""
    arn = ground.arn(ground.shared_stream()).rpartition("/")[0] + "/" + ground.unique()
    refused(
        "ResourceNotFoundException",
        lambda: ground.kinesis.register_stream_consumer(StreamARN=arn, ConsumerName="one"),
    )


@check("consumer-describe", source="DescribeStreamConsumer", area="fan-out")
def consumer_describe(ground: Ground) -> None:
    """A consumer is described the same by its ARN and by its stream and name."""
    arn = ground.arn(ground.stream())
    by_name = active(ground, arn, _registered(ground, arn))
    by_arn = ground.kinesis.describe_stream_consumer(ConsumerARN=by_name["ConsumerARN"])
    equal(by_arn["ConsumerDescription"], by_name, "description")
    equal(by_name.get("StreamARN"), arn, "StreamARN")


@check("consumer-describe-unknown", source="DescribeStreamConsumer: errors", area="fan-out")
def consumer_describe_unknown(ground: Ground) -> None:
    """Describing a consumer that does not exist is a ResourceNotFoundException."""
    arn = ground.arn(ground.shared_stream())
    refused(
        "ResourceNotFoundException",
        lambda: ground.kinesis.describe_stream_consumer(StreamARN=arn, ConsumerName="nobody"),
    )


@check("consumer-list", source="ListStreamConsumers: MaxResults, NextToken", area="fan-out")
def consumer_list(ground: Ground) -> None:
    """Consumers are listed in pages of the size asked for, each consumer once."""
    arn = ground.arn(ground.stream())
    for name in ("a", "b", "c"):
        ground.kinesis.register_stream_consumer(StreamARN=arn, ConsumerName=name)
    sizes, names = [], []
    token: dict[str, Any] = {}
    for _ in range(4):  # at the most
        page = ground.kinesis.list_stream_consumers(StreamARN=arn, MaxResults=2, **token)
        sizes.append(len(page["Consumers"]))
        names += [each["ConsumerName"] for each in page["Consumers"]]
        if not page.get("NextToken"):
            break
        token = {"NextToken": page["NextToken"]}
    equal(sorted(names), ["a", "b", "c"], "names")
    equal(max(sizes), 2, "largest page")


@check("consumer-deregister", source="DeregisterStreamConsumer", area="fan-out")
def consumer_deregister(ground: Ground) -> None:
    """A deregistered consumer is gone, and its name can be used again."""
    arn = ground.arn(ground.stream())
    name = _registered(ground, arn)
    active(ground, arn, name)
    ground.kinesis.deregister_stream_consumer(StreamARN=arn, ConsumerName=name)
    missing = ground.kinesis.exceptions.ResourceNotFoundException

    def gone() -> bool:
        try:
            ground.kinesis.describe_stream_consumer(StreamARN=arn, ConsumerName=name)
        except missing:
            return True
        return False

    ground.eventually(gone, expected="the consumer gone")
    ground.kinesis.register_stream_consumer(StreamARN=arn, ConsumerName=name)


@check("consumer-deregister-unknown", source="DeregisterStreamConsumer: errors", area="fan-out")
def consumer_deregister_unknown(ground: Ground) -> None:
    """Deregistering a consumer that does not exist is a ResourceNotFoundException."""
    arn = ground.arn(ground.shared_stream())
    refused(
        "ResourceNotFoundException",
        lambda: ground.kinesis.deregister_stream_consumer(StreamARN=arn, ConsumerName="nobody"),
    )


@check("consumers-20", source=f"{_REGISTER}: 20 consumers a stream", area="fan-out")
def consumers_20(ground: Ground) -> None:
    """A stream has at most 20 consumers; one more is a LimitExceededException."""
    arn = ground.arn(ground.stream())
    names = [f"c{number}" for number in range(MAX_CONSUMERS_PER_STREAM)]
    for start in range(0, len(names), _CREATING):
        for name in names[start : start + _CREATING]:
            ground.kinesis.register_stream_consumer(StreamARN=arn, ConsumerName=name)
        for name in names[start : start + _CREATING]:
            active(ground, arn, name)
    ground.pause(1.0)  # so that the rate of five calls a second is not what refuses
    refused(
        "LimitExceededException",
        lambda: ground.kinesis.register_stream_consumer(StreamARN=arn, ConsumerName="more"),
    )


@check("subscribe-initial-response", source="event streams: initial-response", area="fan-out")
def subscribe_initial_response(ground: Ground) -> None:
    """The stream of events begins with the initial response, without which boto3 takes none."""
    name = ground.stream()
    arn = consumer(ground, name)
    try:
        answer = ground.kinesis.subscribe_to_shard(
            ConsumerARN=arn,
            ShardId=first_shard(ground, name),
            StartingPosition={"Type": "TRIM_HORIZON"},
        )
    except ResponseParserError as error:
        raise Deviation("initial-response", str(error)) from error
    answer["EventStream"].close()


@check("subscribe-event-without-records", source=_EVENT, area="fan-out")
def subscribe_event_without_records(ground: Ground) -> None:
    """An empty shard sends an event every few seconds, with a place to continue from."""
    with subscribed(ground, ground.stream(), Type="LATEST") as subscription:
        event = subscription.next_event(15)
    expect(event is not None, "an event", "the end of the stream")
    found = event or {}
    equal(found.get("Records"), [], "Records")
    expect(found.get("ContinuationSequenceNumber"), "ContinuationSequenceNumber", found)
    equal(found.get("MillisBehindLatest"), 0, "MillisBehindLatest")


@check("subscribe-trim-horizon", source=_POSITION, area="fan-out")
def subscribe_trim_horizon(ground: Ground) -> None:
    """TRIM_HORIZON delivers what was there before, in order and exactly."""
    name = ground.stream()
    put(ground, name, "a", "b", "c")
    with subscribed(ground, name, Type="TRIM_HORIZON") as subscription:
        equal(records_of(subscription, 3)[0], ["a", "b", "c"], "records")


@check("subscribe-latest", source=_POSITION, area="fan-out")
def subscribe_latest(ground: Ground) -> None:
    """LATEST delivers what is put afterwards and nothing from before."""
    name = ground.stream()
    put(ground, name, "before")
    with subscribed(ground, name, Type="LATEST") as subscription:
        subscription.next_event(15)  # it stands at the tip now
        put(ground, name, "after-1", "after-2")
        equal(records_of(subscription, 2)[0], ["after-1", "after-2"], "records")


@check("subscribe-at-sequence-number", source=_POSITION, area="fan-out")
def subscribe_at_sequence_number(ground: Ground) -> None:
    """AT_SEQUENCE_NUMBER begins with that record."""
    name = ground.stream()
    numbers = put(ground, name, "a", "b", "c")
    position = {"Type": "AT_SEQUENCE_NUMBER", "SequenceNumber": numbers[1]}
    with subscribed(ground, name, **position) as subscription:
        equal(records_of(subscription, 2)[0], ["b", "c"], "records")


@check("subscribe-after-sequence-number", source=_POSITION, area="fan-out")
def subscribe_after_sequence_number(ground: Ground) -> None:
    """AFTER_SEQUENCE_NUMBER begins behind that record."""
    name = ground.stream()
    numbers = put(ground, name, "a", "b", "c")
    position = {"Type": "AFTER_SEQUENCE_NUMBER", "SequenceNumber": numbers[1]}
    with subscribed(ground, name, **position) as subscription:
        equal(records_of(subscription, 1)[0], ["c"], "records")


@check("subscribe-at-timestamp", source=_POSITION, area="fan-out")
def subscribe_at_timestamp(ground: Ground) -> None:
    """AT_TIMESTAMP delivers what was put since then; long ago is all."""
    name = ground.stream()
    put(ground, name, "a", "b")
    long_ago = time.time() - 3_600
    with subscribed(ground, name, Type="AT_TIMESTAMP", Timestamp=long_ago) as subscription:
        equal(records_of(subscription, 2)[0], ["a", "b"], "records")


@check("subscribe-continuation", source=_EVENT, area="fan-out")
def subscribe_continuation(ground: Ground) -> None:
    """A subscription from the ContinuationSequenceNumber goes on behind what was delivered."""
    name = ground.stream()
    put(ground, name, "a", "b")
    with subscribed(ground, name, Type="TRIM_HORIZON") as subscription:
        number = records_of(subscription, 2)[1]
    expect(number, "ContinuationSequenceNumber", number)
    put(ground, name, "c")
    position = {"Type": "AFTER_SEQUENCE_NUMBER", "SequenceNumber": number}
    with subscribed(ground, name, **position) as subscription:
        equal(records_of(subscription, 1)[0], ["c"], "records")


@check("subscribe-two-consumers", source=f"{_REGISTER}: enhanced fan-out", area="fan-out")
def subscribe_two_consumers(ground: Ground) -> None:
    """Two consumers each get every record."""
    name = ground.stream()
    put(ground, name, "a", "b")
    with (
        subscribed(ground, name, Type="TRIM_HORIZON") as one,
        subscribed(ground, name, Type="TRIM_HORIZON") as other,
    ):
        equal((records_of(one, 2)[0], records_of(other, 2)[0]), (["a", "b"],) * 2, "records")


@check("subscribe-again-at-once", source=f"{_SUBSCRIBE}: within 5 seconds", area="fan-out")
def subscribe_again_at_once(ground: Ground) -> None:
    """A second call for the same consumer and shard at once is a ResourceInUseException."""
    name = ground.stream()
    arn, shard = consumer(ground, name), first_shard(ground, name)
    with Subscription(ground.kinesis, arn, shard, Type="LATEST") as one:
        # Its first event may take five seconds, which must not pass before the second call.
        equal(one.refusal.error if one.refusal else "", "", "error of the first call:")
        with Subscription(ground.kinesis, arn, shard, Type="LATEST") as other:
            equal(refusal_of(other), "ResourceInUseException", "error of the second call:")


@check("subscribe-takes-over", source=f"{_SUBSCRIBE}: 5 seconds or more", area="fan-out")
def subscribe_takes_over(ground: Ground) -> None:
    """A second call five seconds later takes over, and the first subscription ends."""
    name = ground.stream()
    arn, shard = consumer(ground, name), first_shard(ground, name)
    with Subscription(ground.kinesis, arn, shard, Type="LATEST") as one:
        equal(refusal_of(one), "", "error of the first call:")
        ground.pause(SUBSCRIPTION_TAKEOVER_SECONDS + 1)
        with Subscription(ground.kinesis, arn, shard, Type="LATEST") as other:
            equal(refusal_of(other), "", "error of the second call:")
            put(ground, name, "a")
            equal(records_of(other, 1)[0], ["a"], "records of the second call")
            _ends(ground, one, lambda event: "exception" in event)


@check("subscribe-child-shards", source="SubscribeToShardEvent: ChildShards", area="fan-out")
def subscribe_child_shards(ground: Ground) -> None:
    """The last event of a split shard names its children, and the stream of events ends."""
    name = ground.stream()
    put(ground, name, "a")
    parent = first_shard(ground, name)
    children: list[str] = []
    with subscribed(ground, name, Type="TRIM_HORIZON") as subscription:
        equal(records_of(subscription, 1)[0], ["a"], "records")
        ground.kinesis.split_shard(
            StreamName=name, ShardToSplit=parent, NewStartingHashKey=str(2**127)
        )

        def look(event: dict[str, Any]) -> bool:
            children.extend(each["ShardId"] for each in event.get("ChildShards") or [])
            return False

        _ends(ground, subscription, look)
    shards = ground.kinesis.list_shards(StreamName=name)["Shards"]
    equal(
        sorted(children),
        sorted(each["ShardId"] for each in shards if each.get("ParentShardId") == parent),
        "ChildShards",
    )


@check("subscribe-unknown-consumer", source=f"{_SUBSCRIBE}: errors", area="fan-out")
def subscribe_unknown_consumer(ground: Ground) -> None:
    """Subscribing as a consumer that does not exist is a ResourceNotFoundException."""
    name = ground.shared_stream()
    _is_not_found(ground, f"{ground.arn(name)}/consumer/nobody:1700000000", name, None)


@check("subscribe-unknown-shard", source=f"{_SUBSCRIBE}: errors", area="fan-out")
def subscribe_unknown_shard(ground: Ground) -> None:
    """Subscribing to a shard that does not exist is a ResourceNotFoundException."""
    name = ground.stream()
    _is_not_found(ground, consumer(ground, name), name, "shardId-000000000099")


def _registered(ground: Ground, stream_arn: str) -> str:
    """Register a consumer and return its name."""
    name = ground.unique("consumer")
    ground.kinesis.register_stream_consumer(StreamARN=stream_arn, ConsumerName=name)
    return name


def _ends(
    ground: Ground, subscription: Subscription, look: Callable[[dict[str, Any]], bool]
) -> None:
    """Take events until there are no more, or until `look` says that one of them is the end."""
    end = time.monotonic() + ground.patience / 2
    while (left := end - time.monotonic()) > 0:
        try:
            event = subscription.next_event(left)
        except TimeoutError:
            break
        if event is None or look(event):
            return
    raise Deviation("the end of the subscription", "events without end")


def _is_not_found(ground: Ground, arn: str, stream: str, shard: str | None) -> None:
    shard = shard or first_shard(ground, stream)
    with Subscription(ground.kinesis, arn, shard, Type="LATEST") as subscription:
        equal(refusal_of(subscription), "ResourceNotFoundException", "error:")
