"""SubscribeToShard: who may subscribe when, and who has to give way."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from infra.proxy.messages import Refusal
from records.limits import SUBSCRIPTION_LIFE_SECONDS, SUBSCRIPTION_TAKEOVER_SECONDS

_CAPACITY: Final = 20_000


@dataclass(frozen=True, slots=True, eq=False)
class Subscription:
    """A subscription that may begin.

    Attributes:
        consumer_arn: The consumer that subscribes.
        shard_id: The shard to which it does.
        started_at: When, in seconds of the clock.
        lasts_seconds: How long it lasts, in seconds of the clock.
        takes_over: Whether an older one of the same consumer and shard may still be running, which
            the caller then ends.
    """

    consumer_arn: str
    shard_id: str
    started_at: float
    lasts_seconds: float
    takes_over: bool


class Subscriptions:
    """The rule of SubscribeToShard, for each consumer and shard.

    A second call within 5 s of a successful one is refused; a later one takes over. A subscription
    ends after five minutes.

    AWS: Kinesis Data Streams API Reference, SubscribeToShard.

    Args:
        clock: Monotonic seconds.
        time_scale: How many times sooner both times pass.
    """

    def __init__(self, clock: Callable[[], float], *, time_scale: float = 1.0) -> None:
        self._clock = clock
        self._life = SUBSCRIPTION_LIFE_SECONDS / time_scale
        self._takeover = SUBSCRIPTION_TAKEOVER_SECONDS / time_scale
        # Each with the one before it, for as long as it may still fail. The oldest first.
        self._latest: OrderedDict[tuple[str, str], tuple[Subscription, Subscription | None]] = (
            OrderedDict()
        )

    def __len__(self) -> int:
        return len(self._latest)

    def subscribe(self, consumer_arn: str, shard_id: str) -> Subscription | Refusal:
        """Admit a subscription or refuse it.

        One that is admitted counts as successful; if it comes to nothing, `failed` says so.

        Args:
            consumer_arn: The consumer.
            shard_id: The shard.
        """
        now = self._clock()
        self._drop(now)
        key = (consumer_arn, shard_id)
        before, _ = self._latest.get(key, (None, None))
        if before is not None and now - before.started_at < self._takeover:
            return Refusal(
                "ResourceInUseException",
                f"Another active subscription exists for this consumer: {consumer_arn}",
            )
        running = before is not None and now - before.started_at < before.lasts_seconds
        subscription = Subscription(consumer_arn, shard_id, now, self._life, running)
        self._latest[key] = (subscription, before)
        self._latest.move_to_end(key)
        return subscription

    def failed(self, subscription: Subscription) -> None:
        """Say that a subscription did not begin: the one before it, if any, counts again."""
        key = (subscription.consumer_arn, subscription.shard_id)
        latest, before = self._latest.get(key, (None, None))
        if latest is not subscription:
            return
        if before is None:
            del self._latest[key]
        else:
            self._latest[key] = (before, None)

    def _drop(self, now: float) -> None:
        """Forget what is over."""
        latest = self._latest
        while latest:
            oldest, _ = next(iter(latest.values()))
            if len(latest) < _CAPACITY and now - oldest.started_at < oldest.lasts_seconds:
                return
            latest.popitem(last=False)
