"""One lane for each shard: the records bound for it, packed in order, one pack on the road."""

from collections import deque
from collections.abc import Iterator
from typing import Final

from producers.aggregated.values import Item
from producers.put_records import Failure, Record, Stored
from records.aggregation import AggregateBuilder, is_aggregate
from records.limits import MAX_LARGE_RECORD_BYTES
from records.partition import Shard, hash_key

# As the KPL does. It says nothing of the keys inside; the explicit hash key does the routing.
OUTER_PARTITION_KEY: Final = "a"


class Pack:
    """User records that travel as one Kinesis record. Once sealed, its bytes never change."""

    __slots__ = ("_builder", "items", "wire")

    def __init__(self, first: Item, *, max_bytes: int) -> None:
        """Begin a pack; `max_bytes` bounds an aggregate with its outer key, never a lone record."""
        self.items = [first]
        self.wire: Record | None = None
        builder = AggregateBuilder(max_bytes=max_bytes - len(OUTER_PARTITION_KEY))
        fits = builder.try_add(first.partition_key, first.data, first.explicit_hash_key)
        self._builder: AggregateBuilder | None = builder if fits else None

    def try_add(self, item: Item) -> bool:
        """Add an item if the pack is not sealed and has room; say whether it was added."""
        builder, self._builder = self._builder, None
        if self.wire is not None or builder is None:
            return False
        # Away for the moment: if Ctrl-C strikes in here, nobody will build what is half in it.
        added = builder.try_add(item.partition_key, item.data, item.explicit_hash_key)
        if added:
            self.items.append(item)
        self._builder = builder
        return added

    def seal(self) -> Record:
        """Return the Kinesis record, the same at each call.

        It always names its hash key, so that it goes where it was meant to: the hash of the outer
        key would take every aggregate to the same shard.
        """
        if self.wire is None:
            first = self.items[0]
            if len(self.items) == 1:
                self.wire = lone_record(first.partition_key, first.data, first.explicit_hash_key)
            else:
                builder = self._built_anew() if self._builder is None else self._builder
                self.wire = Record(OUTER_PARTITION_KEY, builder.build(), first.hash_key)
            self._builder = None
        return self.wire

    def _built_anew(self) -> AggregateBuilder:
        builder = AggregateBuilder(max_bytes=MAX_LARGE_RECORD_BYTES)  # They have fitted before.
        for item in self.items:
            builder.try_add(item.partition_key, item.data, item.explicit_hash_key)
        return builder


def lone_record(partition_key: str, data: bytes, explicit_hash_key: int | None) -> Record:
    """Return the Kinesis record of a user record that travels alone: as it is, under its own key.

    Data that is a valid aggregate itself would be taken apart by every consumer, so it is wrapped.
    """
    place = hash_key(partition_key) if explicit_hash_key is None else explicit_hash_key
    if not is_aggregate(data):
        return Record(partition_key, data, place)
    builder = AggregateBuilder(max_bytes=2 * MAX_LARGE_RECORD_BYTES)  # Checked where it was put.
    builder.try_add(partition_key, data, explicit_hash_key)
    return Record(OUTER_PARTITION_KEY, builder.build(), place)


class Lane:
    """The packs bound for one shard. Only the first may be on the road, so order survives retries.

    Attributes:
        shard: The shard that all items here were predicted to go to.
        packs: What is not settled, in the order of put.
        in_flight: The first pack was sent and is not answered.
        landed: Where the first pack is, if that shard is not known to cover all of it.
        failures: How often in a row the first pack failed.
        not_before: When the first pack may be sent, at the earliest.
        last_failure: What went wrong last.
        alone: The first pack goes in a request of its own, for it may spoil one for others.
    """

    __slots__ = (
        "_max_bytes",
        "alone",
        "failures",
        "in_flight",
        "landed",
        "last_failure",
        "not_before",
        "packs",
        "shard",
    )

    def __init__(self, shard: Shard, *, max_bytes: int) -> None:
        self.shard: Final = shard
        self.packs: deque[Pack] = deque()
        self.in_flight = False
        self.landed: Stored | None = None
        self.failures = 0
        self.not_before = 0.0
        self.last_failure: Failure | None = None
        self.alone = False
        self._max_bytes: Final = max_bytes

    def add(self, item: Item) -> bool:
        """Append an item; say whether it began a new pack."""
        if self.packs and self.packs[-1].try_add(item):
            return False
        self.packs.append(Pack(item, max_bytes=self._max_bytes))
        return True

    def items(self) -> Iterator[Item]:
        """Yield everything that is not settled, in order."""
        for pack in self.packs:
            yield from pack.items

    def due_at(self, *, linger: float, flushed: int) -> float | None:
        """Return when the first pack may be sent; None if there is none or it is on the road."""
        if not self.packs or self.in_flight or self.landed is not None:
            return None
        head = self.packs[0]
        oldest = head.items[0]
        # A second pack exists because the first was full.
        if head.wire is not None or len(self.packs) > 1 or oldest.number <= flushed:
            return self.not_before
        return max(self.not_before, oldest.accepted_at + linger)

    def depart(self) -> Record:
        """Put the first pack on the road and return its Kinesis record."""
        head = self.packs[0]
        for item in head.items:
            item.attempts += 1
        self.in_flight = True
        return head.seal()

    def settle_head(self) -> list[Item]:
        """Remove the first pack, whose fate is known, and return its items; the lane is free."""
        self.in_flight = False
        self.landed = None
        self.alone = False
        self.failures = 0
        self.not_before = 0.0
        return self.packs.popleft().items

    def land(self, stored: Stored) -> None:
        """Keep the first pack, which is stored where perhaps it should not be."""
        self.in_flight = False
        self.landed = stored
        told = f"it was stored on {stored.shard_id}, which is not known to cover all of it"
        self.last_failure = Failure("WrongShard", told, retriable=True)

    def hold(self, failure: Failure, until: float) -> None:
        """Keep the first pack, which failed, and do not send it again before `until`."""
        self.in_flight = False
        self.landed = None
        self.not_before = until
        self.last_failure = failure

    def oldest_accepted_at(self) -> float | None:
        """Return when the oldest item was accepted that may expire now; none while on the road."""
        return None if self.in_flight or not self.packs else self.packs[0].items[0].accepted_at

    def take_expired(self, now: float, max_age: float) -> list[Item]:
        """Remove and return the items at the front that were accepted `max_age` ago or earlier.

        What is left of a pack is packed anew, and sent again even if the old pack has landed.
        """
        expired: list[Item] = []
        while (oldest := self.oldest_accepted_at()) is not None and oldest + max_age <= now:
            self.landed = None
            pack = self.packs.popleft().items
            expired += [item for item in pack if item.accepted_at + max_age <= now]
            rest = [item for item in pack if item.accepted_at + max_age > now]
            if rest:
                fresh = Pack(rest[0], max_bytes=self._max_bytes)
                for item in rest[1:]:
                    fresh.try_add(item)  # Fewer than before, so they fit.
                self.packs.appendleft(fresh)
        return expired
