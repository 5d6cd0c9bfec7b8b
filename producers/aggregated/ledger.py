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
        records: Items that are not settled.
        bytes: Their data and keys.
    """

    def __init__(self, metrics: Metrics) -> None:
        self.records = 0
        self.bytes = 0
        self._metrics = metrics
        self._settled: list[Settled] = []

    def correct(self, items: list[Item]) -> None:
        """Make the counts those of the items that there are."""
        self.records = len(items)
        self.bytes = sum(item.size for item in items)

    def confirm(self, pack: Pack, stored: Stored, attempt: Attempt, now: float) -> None:
        """Settle the records of a pack, which the stream holds where KCL hands them out."""
        shard_id, sequence_number = stored.shard_id, stored.sequence_number
        items, attempts = pack.items, joined(pack.attempts, (attempt,))
        self._settled.append(Confirmed(items, Delivery(shard_id, sequence_number, attempts)))
        self.records -= len(items)
        self.bytes -= pack.user_bytes
        sent_at = now if pack.first_sent_at is None else pack.first_sent_at
        self._metrics.record_put(
            shard_id,
            user_records=len(items),
            user_bytes=pack.user_bytes,
            wire_bytes=pack.size,
            retries=len(attempts) - 1,
            buffered_mean=sent_at - sum(map(_accepted_at, items)) / len(items),
            buffered_min=sent_at - items[-1].accepted_at,
            buffered_max=sent_at - items[0].accepted_at,
        )

    def give_up(self, item: Item, failure: Failure) -> None:
        """Settle a record that cannot be confirmed."""
        error = item.error(failure.code, failure.message, retriable=failure.retriable)
        self._settled.append(GivenUp(item, error))
        self.records -= 1
        self.bytes -= item.size
        self._metrics.given_up(failure.code)

    def take_settled(self) -> list[Settled]:
        """Return what was settled since the last call."""
        settled, self._settled = self._settled, []
        return settled
