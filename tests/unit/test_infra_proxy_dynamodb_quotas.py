"""A table's two buckets: five minutes of burst, then exactly what is provisioned."""

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.proxy.messages import Identity
from infra.proxy.quotas.dynamodb import _KEPT_TABLES, DynamoQuotas, TableKey

ME = Identity("key", "us-east-1")
ORDERS: TableKey = (ME, "orders")
OTHER: TableKey = (ME, "other")


@dataclass
class Clock:
    now: float = 1_000.0

    def __call__(self) -> float:
        return self.now


def provisioned(*, write: int, read: int = 5, indexes: tuple[str, ...] = ()) -> dict[str, Any]:
    return {
        "ProvisionedThroughput": {"WriteCapacityUnits": write, "ReadCapacityUnits": read},
        "GlobalSecondaryIndexes": [{"IndexName": name} for name in indexes],
    }


ON_DEMAND = {
    "BillingModeSummary": {"BillingMode": "PAY_PER_REQUEST"},
    "ProvisionedThroughput": {"WriteCapacityUnits": 0, "ReadCapacityUnits": 0},
}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def quotas(clock: Clock) -> DynamoQuotas:
    quotas = DynamoQuotas(clock)
    quotas.learn(ORDERS, provisioned(write=5))
    return quotas


def written(quotas: DynamoQuotas, table: TableKey, units: float = 1, most: int = 5_000) -> int:
    """Write until it is refused, and return how often it was not."""
    count = 0
    while count < most and not quotas.write({table: units}):
        count += 1
    return count


def test_five_minutes_at_once_then_the_rate(quotas: DynamoQuotas, clock: Clock):
    assert written(quotas, ORDERS) == 1_500
    clock.now += 1
    assert written(quotas, ORDERS) == 5
    clock.now += 0.1
    assert written(quotas, ORDERS) == 0
    clock.now += 3_600
    assert written(quotas, ORDERS) == 1_500


@given(
    st.integers(1, 50),
    st.lists(st.tuples(st.floats(0, 400), st.integers(1, 400)), max_size=60),
)
def test_no_more_is_admitted_than_burst_and_rate_yield(rate: int, steps: list[tuple[float, int]]):
    clock = Clock()
    quotas = DynamoQuotas(clock)
    quotas.learn(ORDERS, provisioned(write=rate))
    started, admitted = clock.now, 0
    for seconds, units in steps:
        clock.now += seconds
        if quotas.write({ORDERS: units}):
            continue
        allowed = rate * (300 + clock.now - started) + 1e-3
        if units <= rate * 300:
            assert admitted + units <= allowed
        else:  # let in on a full bucket, or it could never be written
            assert admitted + rate * 300 <= allowed
        admitted += units


def test_a_write_above_the_burst_needs_a_full_bucket_and_leaves_a_debt(clock: Clock):
    quotas = DynamoQuotas(clock)
    quotas.learn(ORDERS, provisioned(write=1))
    assert not quotas.write({ORDERS: 400})
    clock.now += 100
    assert quotas.write({ORDERS: 1}) == {ORDERS}  # the debt of 100 has just been paid
    clock.now += 1
    assert not quotas.write({ORDERS: 1})
    clock.now += 299
    assert quotas.write({ORDERS: 400}) == {ORDERS}
    clock.now += 1
    assert not quotas.write({ORDERS: 400})


def test_a_write_to_two_tables_is_paid_wholly_or_not_at_all(quotas: DynamoQuotas):
    quotas.learn(OTHER, provisioned(write=1))
    assert quotas.write({ORDERS: 1_000, OTHER: 300}) == frozenset()
    assert quotas.write({ORDERS: 500, OTHER: 1}) == {OTHER}
    assert quotas.write({ORDERS: 501, OTHER: 1}) == {ORDERS, OTHER}
    assert not quotas.write({ORDERS: 500})


def test_a_write_is_corrected_either_way(quotas: DynamoQuotas):
    assert not quotas.write({ORDERS: 1_500})
    quotas.correct_write(ORDERS, paid=1_500, cost=1_498)
    assert written(quotas, ORDERS) == 2
    quotas.correct_write(ORDERS, paid=1, cost=1)
    assert written(quotas, ORDERS) == 0


def test_a_correction_may_leave_a_debt(quotas: DynamoQuotas, clock: Clock):
    assert written(quotas, ORDERS) == 1_500
    quotas.correct_write(ORDERS, paid=1, cost=11)
    clock.now += 2
    assert written(quotas, ORDERS) == 0
    clock.now += 1
    assert written(quotas, ORDERS) == 5


def test_reads_are_paid_afterwards(quotas: DynamoQuotas, clock: Clock):
    quotas.read(ORDERS, 1_499.5)
    assert quotas.may_read(ORDERS)
    quotas.read(ORDERS, 10.5)  # a debt of 10
    assert not quotas.may_read(ORDERS)
    clock.now += 1.9
    assert not quotas.may_read(ORDERS)
    clock.now += 0.2
    assert quotas.may_read(ORDERS)
    assert not quotas.write({ORDERS: 1_500})  # the other bucket was never touched


def test_reads_and_writes_have_a_bucket_each(clock: Clock):
    quotas = DynamoQuotas(clock)
    quotas.learn(ORDERS, provisioned(write=1, read=2))
    assert written(quotas, ORDERS) == 300
    quotas.read(ORDERS, 599)
    assert quotas.may_read(ORDERS)
    quotas.read(ORDERS, 1)
    assert not quotas.may_read(ORDERS)


def test_tables_on_demand_and_unknown_ones_are_not_limited(quotas: DynamoQuotas):
    quotas.learn(OTHER, ON_DEMAND)
    unknown: TableKey = (ME, "unknown")
    for table in (OTHER, unknown):
        assert not quotas.limited(table)
        assert written(quotas, table, units=1_000_000, most=100) == 100
        quotas.read(table, 1_000_000)
        quotas.correct_write(table, paid=1, cost=1_000_000)
        assert quotas.may_read(table)
    assert quotas.limited(ORDERS)
    assert quotas.knows(OTHER)
    assert not quotas.knows(unknown)


def test_a_table_on_demand_is_known_by_its_mode_too(quotas: DynamoQuotas):
    # Some engines go on describing the capacity that the table once had.
    quotas.learn(
        OTHER, {**provisioned(write=1), "BillingModeSummary": ON_DEMAND["BillingModeSummary"]}
    )
    assert not quotas.limited(OTHER)
    quotas.read(OTHER, 1_000_000)
    assert quotas.may_read(OTHER)


def test_each_identity_has_tables_of_its_own(quotas: DynamoQuotas):
    elsewhere: TableKey = (Identity("key", "eu-west-1"), "orders")
    quotas.learn(elsewhere, provisioned(write=1))
    assert written(quotas, ORDERS) == 1_500
    assert written(quotas, elsewhere) == 300


def test_to_learn_a_table_again_gives_no_second_burst(quotas: DynamoQuotas):
    assert written(quotas, ORDERS) == 1_500
    quotas.learn(ORDERS, provisioned(write=100))
    assert written(quotas, ORDERS) == 0


def test_a_table_that_was_forgotten_is_learnt_anew(quotas: DynamoQuotas):
    assert written(quotas, ORDERS) == 1_500
    changes = quotas.changes
    quotas.forget(ORDERS)
    assert quotas.changes > changes
    assert not quotas.knows(ORDERS)
    quotas.learn(ORDERS, provisioned(write=10))
    assert written(quotas, ORDERS) == 3_000


def test_the_global_indexes_of_a_table_are_known(quotas: DynamoQuotas):
    quotas.learn(OTHER, provisioned(write=1, indexes=("by-owner", "by-day")))
    assert quotas.global_indexes(OTHER) == {"by-owner", "by-day"}
    assert quotas.global_indexes(ORDERS) == frozenset()


def test_the_rows_say_what_is_left_and_what_was_refused(quotas: DynamoQuotas, clock: Clock):
    quotas.learn(OTHER, ON_DEMAND)
    assert written(quotas, ORDERS) == 1_500  # and one that was refused
    quotas.read(ORDERS, 1_501)
    assert not quotas.may_read(ORDERS)
    clock.now += 0.5
    assert quotas.rows() == [
        {
            "table": "orders",
            "write_units_per_second": 5,
            "write_units_left": 2.5,
            "read_units_per_second": 5,
            "read_units_left": 1.5,
            "throttled": 2,
        }
    ]


def test_what_is_kept_is_bounded(quotas: DynamoQuotas):
    for n in range(_KEPT_TABLES):
        quotas.learn((ME, f"table-{n}"), ON_DEMAND)
    assert not quotas.knows(ORDERS)
    assert quotas.knows((ME, "table-0"))
