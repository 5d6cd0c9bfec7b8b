"""What was taken and is not settled, and what became of the rest."""

from operator import attrgetter

from producers.aggregated.metrics import Metrics
from producers.aggregated.pack import Pack
from producers.aggregated.values import Confirmed, Delivery, GivenUp, Item, Settled, joined
from producers.errors import Attempt
from producers.put_records import Failure, Stored

_accepted_at = attrgetter("accepted_at")


class Ledger:
    """Counts records in and out; each comes out once.

    Attributes:
        received: All items that were ever taken, so those too of a `put` that was broken off late.
        received_bytes: Their data and keys.
    """

    def __init__(self, metrics: Metrics) -> None:
        self.received = 0
        self.received_bytes = 0
        self._metrics = metrics
        self._settled_records = 0
        self._settled_bytes = 0
        self._settled: list[Settled] = []

    @property
    def records(self) -> int:
        """How many items are not settled."""
        return self.received - self._settled_records

    @property
    def bytes(self) -> int:
        """Their data and keys."""
        return self.received_bytes - self._settled_bytes

    def correct(self, items: list[Item]) -> None:
        """Make the counts those of the items that there are."""
        self.received = self._settled_records + len(items)
        self.received_bytes = self._settled_bytes + sum(item.size for item in items)

    def confirm(self, pack: Pack, stored: Stored, attempt: Attempt) -> None:
        """Settle the records of a pack, which the stream holds where KCL hands them out."""
        items, attempts = pack.items, joined(pack.attempts, (attempt,))
        confirmed = Confirmed(items, Delivery(stored.shard_id, stored.sequence_number, attempts))
        self._settled.append(confirmed)
        self._settle(len(items), pack.user_bytes)
        self._metrics.record_put(
            stored.shard_id,
            user_records=len(items),
            user_bytes=pack.user_bytes,
            wire_bytes=len(pack.seal().data),
        )
        sent_at = pack.first_sent_at
        if pack.has_history:
            for item in items:
                first = item.first_sent_at if item.history else sent_at
                self._count(stored.shard_id, item, first, confirmed.delivery_of(item).attempts)
            return
        self._metrics.settled(
            stored.shard_id,
            user_records=len(items),
            retries=len(attempts) - 1,
            buffered_mean=sent_at - sum(map(_accepted_at, items)) / len(items),
            buffered_min=sent_at - items[-1].accepted_at,
            buffered_max=sent_at - items[0].accepted_at,
        )

    def give_up(self, item: Item, failure: Failure) -> None:
        """Settle a record that cannot be confirmed."""
        error = item.error(failure.code, failure.message, retriable=failure.retriable)
        self._settled.append(GivenUp(item, error))
        self._settle(1, item.size)
        self._metrics.given_up(failure.code)
        if item.history:
            self._count(None, item, item.first_sent_at, error.attempts)

    def take_settled(self) -> list[Settled]:
        """Return what was settled since the last call."""
        settled, self._settled = self._settled, []
        return settled

    def _settle(self, records: int, size: int) -> None:
        self._settled_records += records
        self._settled_bytes += size

    def _count(
        self, shard_id: str | None, item: Item, sent_at: float, attempts: tuple[Attempt, ...]
    ) -> None:
        buffered = sent_at - item.accepted_at
        self._metrics.settled(
            shard_id,
            user_records=1,
            retries=len(attempts) - 1,
            buffered_mean=buffered,
            buffered_min=buffered,
            buffered_max=buffered,
        )
