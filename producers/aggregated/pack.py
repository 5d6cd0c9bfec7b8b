"""User records that travel as one Kinesis record: they arrive together or not at all."""

from math import inf
from typing import Final

from producers.aggregated.values import Item, Settings, joined
from producers.errors import Attempt
from producers.put_records import Record
from records.aggregation import AggregateBuilder, is_aggregate
from records.limits import MAX_LARGE_RECORD_BYTES, record_bytes
from records.partition import hash_key

# As the KPL does. It says nothing of the keys inside; the explicit hash key does the routing.
OUTER_PARTITION_KEY: Final = "a"


class Pack:
    """User records in the order of put. Once sealed, neither they nor their bytes change.

    Attributes:
        items: The records, at least one.
        due_at: When it must leave, if nothing stands in its way.
        full: Whether it takes no more records.
        user_bytes: The data and keys of its records.
        attempts: Each time it was sent and failed.
        first_sent_at: When it was first sent, by the machine's clock; infinity: not yet.
        has_history: Whether some of its records were sent with an earlier pack; `recount` finds it.
        group: It travels only with packs of this group, after a request with it was refused.
        wire: The Kinesis record, once sealed.
    """

    __slots__ = (
        "_builder",
        "_max_records",
        "attempts",
        "due_at",
        "first_sent_at",
        "full",
        "group",
        "has_history",
        "items",
        "user_bytes",
        "wire",
    )

    def __init__(self, first: Item, settings: Settings, *, due_at: float, alone: bool) -> None:
        """Begin a pack; `alone`: it takes no second record."""
        self.items = [first]
        self.due_at = due_at
        self.user_bytes = first.size
        self.attempts: tuple[Attempt, ...] = ()
        self.first_sent_at = inf
        self.has_history = False
        self.group = 0
        self.wire: Record | None = None
        self._max_records: Final = settings.max_aggregate_records
        self._builder: AggregateBuilder | None = None
        if not alone:
            room = settings.max_aggregate_bytes - len(OUTER_PARTITION_KEY)
            builder = AggregateBuilder(max_bytes=room)
            if builder.try_add(first.partition_key, first.data, first.explicit_hash_key):
                self._builder = builder
        self.full = self._builder is None or self._max_records == 1

    @property
    def oldest(self) -> float:
        """When its first record was accepted."""
        return self.items[0].accepted_at

    @property
    def is_plain(self) -> bool:
        """Whether it travels as it was put, so that no reader looks at where it belongs."""
        return len(self.items) == 1 and not is_aggregate(self.items[0].data)

    @property
    def size(self) -> int:
        """What the Kinesis record counts, in bytes: its data and its partition key."""
        if self.wire is None and len(self.items) == 1:
            wire = self._lone()  # Not sealed yet: others may join it.
        elif self.wire is None and self._builder is not None:
            return self._builder.size + len(OUTER_PARTITION_KEY)
        else:
            wire = self.seal()
        return record_bytes(wire.partition_key, wire.data)

    def try_add(self, item: Item) -> bool:
        """Add a record if there is room; if there is not, the pack is full from now on."""
        builder, self._builder = self._builder, None
        if builder is None or self.full:
            return False
        # Away for the moment: if Ctrl-C strikes in here, nobody will build what is half in it.
        if builder.try_add(item.partition_key, item.data, item.explicit_hash_key):
            self.items.append(item)
            self.user_bytes += item.size
            self.full = len(self.items) == self._max_records
            self._builder = builder
            return True
        self._builder = builder
        self.full = True
        return False

    def seal(self) -> Record:
        """Return the Kinesis record, the same at each call.

        It always names its hash key, so that it goes where it was meant to: the hash of the outer
        key would take every aggregate to the same shard.
        """
        if self.wire is None:
            if len(self.items) == 1:
                self.wire = self._lone()
            else:
                builder = self._builder or self._built_anew()
                self.wire = Record(OUTER_PARTITION_KEY, builder.build(), self.items[0].hash_key)
            self._builder = None
            self.full = True
        return self.wire

    def failed(self, attempt: Attempt) -> None:
        """Remember an attempt that came to nothing."""
        self.attempts = joined(self.attempts, (attempt,))

    def recount(self) -> None:
        """Make what is kept of its records agree with them."""
        self.user_bytes = sum(item.size for item in self.items)
        self.full = self.full or len(self.items) >= self._max_records
        self.has_history = any(item.history for item in self.items)

    def dissolve(self) -> list[Item]:
        """Return its records, each with the attempts so far, to be packed anew."""
        if self.attempts:
            for item in self.items:
                if not item.history:
                    item.first_sent_at = self.first_sent_at
                item.history = joined(item.history, self.attempts)
        return self.items

    def _lone(self) -> Record:
        first = self.items[0]
        return lone_record(first.partition_key, first.data, first.explicit_hash_key, first.hash_key)

    def _built_anew(self) -> AggregateBuilder:
        builder = AggregateBuilder(max_bytes=MAX_LARGE_RECORD_BYTES)  # They have fitted before.
        for item in self.items:
            builder.try_add(item.partition_key, item.data, item.explicit_hash_key)
        return builder


def lone_record(
    partition_key: str, data: bytes, explicit_hash_key: int | None, place: int | None = None
) -> Record:
    """Return the Kinesis record of a user record that travels alone: as it is, under its own key.

    Data that is a valid aggregate itself would be taken apart by every consumer, so it is wrapped.
    """
    if place is None:
        place = hash_key(partition_key) if explicit_hash_key is None else explicit_hash_key
    if not is_aggregate(data):
        return Record(partition_key, data, place)
    builder = AggregateBuilder(max_bytes=2 * MAX_LARGE_RECORD_BYTES)  # Checked where it was put.
    builder.try_add(partition_key, data, explicit_hash_key)
    return Record(OUTER_PARTITION_KEY, builder.build(), place)
