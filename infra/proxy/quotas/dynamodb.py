"""What DynamoDB would admit of a table's provisioned capacity.

A table has two buckets, write units and read units. Each refills by what is provisioned a second
and holds five minutes of it, as AWS keeps unused capacity (and promises nothing of it). A write is
paid before it is done; a read after it, when its size is known, and reads are refused while there
is a debt.

Not limited: tables on demand (`PAY_PER_REQUEST`, which KCL creates unless told otherwise), and
tables that have not been learnt. Not modelled: the capacity of global secondary indexes, adaptive
capacity, and the limit of one partition (1,000 write and 3,000 read units a second).
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from infra.proxy.messages import Identity
from records.quota import TokenBucket

# AWS: DynamoDB Developer Guide, Burst and adaptive capacity.
# https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/burst-adaptive-capacity.html
BURST_SECONDS: Final = 300

# AWS: DynamoDB Developer Guide, Quotas: an account starts with this many tables in a region.
# https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/ServiceQuotas.html
_KEPT_TABLES: Final = 2_500

TableKey = tuple[Identity, str]
"""Whose, and the table's name."""


@dataclass(slots=True)
class _Table:
    """The buckets are None on demand."""

    writes: TokenBucket | None = None
    reads: TokenBucket | None = None
    global_indexes: frozenset[str] = frozenset()
    throttled: int = 0


class DynamoQuotas:
    """The capacity of the tables that have been learnt. Not safe between threads.

    Args:
        clock: Monotonic seconds.

    Attributes:
        changes: How often a table was forgotten; a description asked for before may be outdated.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.changes = 0
        self._clock = clock
        self._tables: OrderedDict[TableKey, _Table] = OrderedDict()

    def knows(self, table: TableKey) -> bool:
        """Whether the table has been learnt."""
        return table in self._tables

    def learn(self, table: TableKey, description: Mapping[str, Any]) -> None:
        """Take a table's capacity from DescribeTable's `Table`, unless it is known already."""
        if table in self._tables:
            return
        while len(self._tables) >= _KEPT_TABLES:
            self._tables.popitem(last=False)
        mode = (description.get("BillingModeSummary") or {}).get("BillingMode")
        # An engine may still describe the capacity that a table had before it went on demand.
        on_demand = mode == "PAY_PER_REQUEST"
        throughput = {} if on_demand else description.get("ProvisionedThroughput") or {}
        indexes = description.get("GlobalSecondaryIndexes") or ()
        self._tables[table] = _Table(
            self._bucket(throughput.get("WriteCapacityUnits")),
            self._bucket(throughput.get("ReadCapacityUnits")),
            frozenset(index["IndexName"] for index in indexes),
        )

    def forget(self, table: TableKey) -> None:
        """Say that the table was made, changed or deleted: its buckets will be new, and full."""
        self.changes += 1
        self._tables.pop(table, None)

    def limited(self, table: TableKey) -> bool:
        """Whether the table is known to have a provisioned capacity."""
        return self._table(table).writes is not None

    def global_indexes(self, table: TableKey) -> frozenset[str]:
        """The names of the table's global secondary indexes, which have a capacity of their own."""
        return self._table(table).global_indexes

    def write(self, costs: Mapping[TableKey, float]) -> frozenset[TableKey]:
        """Pay for a write to one or more tables, for all of it or for nothing.

        A write that costs more than its bucket holds is admitted when that is full, and leaves a
        debt.

        Args:
            costs: Write units for each table.

        Returns:
            The tables whose capacity does not suffice; none if the write has been paid.
        """
        now = self._clock()
        bills = [
            (table, bucket, costs[table]) for table in costs if (bucket := self._writes(table))
        ]
        lacking = frozenset(
            table
            for table, bucket, units in bills
            if bucket.available(now) < min(units, bucket.burst)
        )
        for table in lacking:
            self._tables[table].throttled += 1
        if not lacking:
            for _, bucket, units in bills:
                bucket.charge(units, now)
        return lacking

    def correct_write(self, table: TableKey, *, paid: float, cost: float) -> None:
        """Settle the difference once it is known what a write has cost.

        Args:
            table: The table.
            paid: Write units that `write` has taken.
            cost: Write units that it should have taken.
        """
        bucket = self._writes(table)
        if bucket is not None and cost > paid:
            bucket.charge(cost - paid, self._clock())
        elif bucket is not None and cost < paid:
            bucket.give_back(paid - cost, self._clock())

    def may_read(self, table: TableKey) -> bool:
        """Whether the table has read capacity left."""
        known = self._table(table)
        if known.reads is None or known.reads.available(self._clock()) > 0:
            return True
        known.throttled += 1
        return False

    def read(self, table: TableKey, units: float) -> None:
        """Pay for a read that has been done, in read units."""
        if (bucket := self._table(table).reads) is not None:
            bucket.charge(units, self._clock())

    def rows(self) -> list[dict[str, Any]]:
        """Return the capacity that each limited table has left, in units, and its refusals."""
        now = self._clock()
        return [
            {
                "table": key[1],
                "write_units_per_second": table.writes.rate,
                "write_units_left": round(table.writes.available(now), 1),
                "read_units_per_second": table.reads.rate,
                "read_units_left": round(table.reads.available(now), 1),
                "throttled": table.throttled,
            }
            for key, table in self._tables.items()
            if table.writes is not None and table.reads is not None
        ]

    def _table(self, table: TableKey) -> _Table:
        return self._tables.get(table) or _Table()

    def _writes(self, table: TableKey) -> TokenBucket | None:
        return self._table(table).writes

    def _bucket(self, rate: float | None) -> TokenBucket | None:
        """Return a full bucket; none for 0 units, which is how a table on demand is described."""
        if not rate:
            return None
        return TokenBucket(rate=rate, burst=rate * BURST_SECONDS, now=self._clock())
