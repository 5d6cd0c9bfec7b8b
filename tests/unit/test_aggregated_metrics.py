import math
from bisect import bisect_left
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from producers.aggregated.metrics import (
    COUNT_BOUNDS,
    MAX_CODES,
    MAX_SHARDS,
    OTHER,
    SECONDS_BOUNDS,
    Distribution,
    Metrics,
    MetricsSnapshot,
)

THROTTLED = "ProvisionedThroughputExceededException"
BUFFERED = ("buffered_mean", "buffered_min", "buffered_max")


def put(metrics: Metrics, shard_id: str = "s0", **changes: Any) -> None:
    told = {
        "user_records": 10,
        "user_bytes": 1_000,
        "wire_bytes": 1_200,
        "retries": 0,
        "buffered_mean": 0.05,
        "buffered_min": 0.01,
        "buffered_max": 0.1,
    } | changes
    sizes = {name: told.pop(name) for name in ("user_bytes", "wire_bytes")}
    metrics.record_put(shard_id, user_records=told["user_records"], **sizes)
    metrics.settled(shard_id, **told)


def snapshot(metrics: Metrics, at: float = 0.0, **changes: Any) -> MetricsSnapshot:
    known: dict[str, Any] = {
        "received": 0,
        "received_bytes": 0,
        "pending": 0,
        "pending_bytes": 0,
        "shares": {},
    }
    return metrics.snapshot(now_wall=at, **known | changes)


def filled(values: Distribution) -> dict[float, int]:
    """The buckets with something in them, by their upper bound."""
    bounds = (*values.bounds, math.inf)
    return {bound: count for bound, count in zip(bounds, values.counts, strict=True) if count}


def test_what_is_told_of_a_record_is_counted_for_its_shard_and_for_all():
    metrics = Metrics()
    put(metrics, "s0", retries=2)
    put(metrics, "s1", user_records=1, user_bytes=7, wire_bytes=9)
    put(metrics, "s1", user_records=1, user_bytes=7, wire_bytes=9)
    metrics.record_failed("s0", THROTTLED, 2)
    metrics.record_failed("s1", "WrongShard")
    metrics.record_failed("s1", THROTTLED)
    now = snapshot(metrics)
    one, two, total = now.shards["s0"], now.shards["s1"], now.total
    assert [one.user_records_put, two.user_records_put, total.user_records_put] == [10, 2, 12]
    assert [one.user_bytes_put, two.user_bytes_put, total.user_bytes_put] == [1_000, 14, 1_014]
    assert [one.kinesis_records_put, two.kinesis_records_put] == [1, 2]
    assert total.kinesis_records_put == 3
    assert [one.kinesis_bytes_put, two.kinesis_bytes_put] == [1_200, 18]
    assert total.kinesis_bytes_put == 1_218
    assert one.errors == {THROTTLED: 2}
    assert two.errors == {THROTTLED: 1, "WrongShard": 1}
    assert total.errors == {THROTTLED: 3, "WrongShard": 1}
    assert [one.all_errors, two.all_errors, total.all_errors] == [2, 2, 4]
    # These are of user records, but for the last.
    assert filled(one.retries_per_record) == {2: 10}
    assert filled(total.retries_per_record) == {0: 2, 2: 10}
    assert total.buffering_time.count == 12
    assert total.buffering_time.sum == pytest.approx(12 * 0.05)
    assert filled(total.user_records_per_kinesis_record) == {1: 2, 12: 1}


def test_what_was_given_up_counts_for_all_shards_and_for_none_of_them():
    metrics = Metrics()
    put(metrics, "s0")
    metrics.settled(None, retries=4, **dict.fromkeys(BUFFERED, 0.2))
    now = snapshot(metrics)
    assert list(now.shards) == ["s0"]
    assert filled(now.shards["s0"].retries_per_record) == {0: 10}
    assert filled(now.total.retries_per_record) == {0: 10, 4: 1}
    assert now.total.buffering_time.sum == pytest.approx(10 * 0.05 + 0.2)
    assert now.total.user_records_put == 10


def test_requests_and_what_was_given_up_and_what_the_caller_knows():
    metrics = Metrics()
    metrics.request_answered(kinesis_records=3, user_records=400, seconds=0.0125)
    metrics.request_answered(kinesis_records=500, user_records=500, seconds=2.0)
    metrics.given_up("RecordExpired", 5)
    metrics.given_up("ProducerClosed")
    now = snapshot(
        metrics,
        at=17.5,
        received=9,
        received_bytes=90,
        pending=4,
        pending_bytes=40,
        shares={"s0": 0.5},
    )
    assert filled(now.request_time) == {0.016: 1, 2.048: 1}
    assert now.request_time.sum == pytest.approx(2.0125)
    assert (now.request_time.min, now.request_time.max) == (0.0125, 2.0)
    assert filled(now.kinesis_records_per_request) == {3: 1, 512: 1}
    assert filled(now.user_records_per_request) == {512: 2}
    assert now.user_records_given_up == {"RecordExpired": 5, "ProducerClosed": 1}
    assert now.user_records_expired == 5
    assert (now.at, now.user_records_received, now.user_bytes_received) == (17.5, 9, 90)
    assert (now.user_records_pending, now.user_bytes_pending) == (4, 40)
    assert now.shares == {"s0": 0.5}


def test_a_snapshot_stays_as_it_was_and_cannot_be_changed():
    metrics, shares = Metrics(), {"s0": 1.0}
    put(metrics)
    metrics.record_failed("s0", THROTTLED)
    before = snapshot(metrics, shares=shares)
    put(metrics)
    put(metrics, "s1")
    metrics.record_failed("s0", THROTTLED)
    metrics.given_up("RecordExpired")
    shares["s0"] = 0.1
    assert before.total.user_records_put == before.shards["s0"].user_records_put == 10
    assert before.total.retries_per_record.count == 10
    assert list(before.shards) == ["s0"]
    assert before.total.errors == before.shards["s0"].errors == {THROTTLED: 1}
    assert before.user_records_given_up == {}
    assert before.shares == {"s0": 1.0}
    with pytest.raises(TypeError):
        before.shards["s1"] = before.total  # type: ignore[index]


records = st.fixed_dictionaries(
    {
        "user_records": st.integers(1, 1000),
        "user_bytes": st.integers(0, 100_000),
        "wire_bytes": st.integers(0, 100_000),
        "retries": st.integers(0, 20),
        "buffered_mean": st.just(0.25),
        "buffered_min": st.floats(0, 0.25),
        "buffered_max": st.floats(0.25, 0.3),
    }
)
events = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from(["s0", "s1", "s2"]), records),
        st.tuples(st.just("failed"), st.sampled_from(["s0", "s1"]), st.sampled_from("ABC")),
        st.tuples(st.just("request"), st.integers(1, 500), st.floats(0, 200)),
        st.tuples(st.just("given up"), st.sampled_from("ABC"), st.integers(1, 50)),
        st.tuples(st.just("lost"), st.floats(0, 200), st.integers(0, 20)),
    ),
    max_size=30,
)


def tell(metrics: Metrics, happened: list[Any]) -> None:
    for kind, what, more in happened:
        match kind:
            case "put":
                put(metrics, what, **more)
            case "lost":
                metrics.settled(None, retries=more, **dict.fromkeys(BUFFERED, what))
            case "failed":
                metrics.record_failed(what, more)
            case "request":
                metrics.request_answered(kinesis_records=what, user_records=what, seconds=more)
            case _:
                metrics.given_up(what, more)


def close_to(sums: tuple[float, ...]) -> Any:
    return pytest.approx(sums, rel=1e-6, abs=1e-6)


def numbers(value: Any, sums: Callable[[tuple[float, ...]], Any]) -> Any:
    """A snapshot as plain values, without what a difference does not know exactly."""
    if isinstance(value, Distribution):
        return (value.counts, sums(value.sums))
    if hasattr(value, "items"):
        return {key: numbers(inner, sums) for key, inner in value.items()}
    if hasattr(value, "__slots__"):
        return {name: numbers(getattr(value, name), sums) for name in value.__slots__}
    return value


@settings(deadline=None)
@given(events, events)
def test_a_difference_is_what_happened_in_between(early: list[Any], late: list[Any]):
    both, alone = Metrics(), Metrics()
    tell(both, early)
    before = snapshot(both, at=1.0, received=3)
    tell(both, late)
    tell(alone, late)
    between = snapshot(both, at=2.0, received=10, pending=4, shares={"s0": 0.3}) - before
    expected = snapshot(alone, at=2.0, received=7, pending=4, shares={"s0": 0.3})
    assert between.at == 2.0
    # A shard of which nothing is new is there all the same, with zeros.
    quiet = {shard_id for shard_id in between.shards if shard_id not in expected.shards}
    assert all(not between.shards[shard_id].kinesis_records_put for shard_id in quiet)
    ours, theirs = numbers(between, tuple), numbers(expected, close_to)
    for shard_id in quiet:
        del ours["shards"][shard_id]
    assert ours == theirs


@settings(deadline=None)
@given(events, events)
def test_the_extremes_of_a_difference_enclose_those_that_were(early: list[Any], late: list[Any]):
    both, alone = Metrics(), Metrics()
    tell(both, early)
    before = snapshot(both)
    tell(both, late)
    tell(alone, late)
    between, exact = snapshot(both) - before, snapshot(alone)
    assert between.request_time.min <= exact.request_time.min
    assert between.request_time.max >= exact.request_time.max
    assert between.total.retries_per_record.max >= exact.total.retries_per_record.max


def test_the_extremes_of_a_difference_are_those_of_its_own_buckets():
    metrics = Metrics()
    for seconds in (0.0005, 50.0):
        metrics.request_answered(kinesis_records=1, user_records=1, seconds=seconds)
    before = snapshot(metrics)
    metrics.request_answered(kinesis_records=1, user_records=1, seconds=0.01)
    between = (snapshot(metrics) - before).request_time
    assert (between.min, between.max) == (0.008, 0.012)


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1000), st.integers(1, 500)), min_size=1))
def test_each_value_is_in_the_bucket_that_encloses_it(values: list[tuple[float, int]]):
    metrics = Metrics()
    for seconds, requests in values:
        for _ in range(min(requests, 3)):
            metrics.request_answered(kinesis_records=1, user_records=1, seconds=seconds)
    now = snapshot(metrics).request_time
    assert now.count == sum(min(requests, 3) for _, requests in values)
    assert now.min == min(seconds for seconds, _ in values)
    assert now.max == max(seconds for seconds, _ in values)
    edges = (0.0, *now.bounds, math.inf)
    for place, (lower, upper) in enumerate(pairwise(edges)):
        expected = [s for s, _ in values if lower < s <= upper or (place == 0 and s == 0)]
        assert bool(expected) == bool(now.counts[place])
        if expected:
            mean = now.sums[place] / now.counts[place]
            assert lower * 0.999999 <= mean <= upper * 1.000001


@settings(deadline=None)
@given(st.integers(1, 1000), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_the_buffering_of_an_aggregate_keeps_its_count_mean_and_ends(
    count: int, least: float, middle: float, greatest: float
):
    least, middle, greatest = sorted((least, middle, greatest))
    mean = middle if count == 1 else ((count - 2) * middle + least + greatest) / count
    metrics = Metrics()
    put(
        metrics,
        user_records=count,
        buffered_mean=mean,
        buffered_min=mean if count == 1 else least,
        buffered_max=mean if count == 1 else greatest,
    )
    now = snapshot(metrics).total.buffering_time
    assert now.count == count
    assert now.sum == pytest.approx(mean * count)
    if count >= 3:
        assert (now.min, now.max) == pytest.approx((least, greatest))
        assert now.counts[bisect_left(now.bounds, least)]
        assert now.counts[bisect_left(now.bounds, greatest)]


def test_the_bounds_are_close_enough_for_a_percentile_and_few_enough_for_a_page():
    for bounds in (SECONDS_BOUNDS, COUNT_BOUNDS):
        assert len(bounds) < 40
        assert all(
            upper <= lower * 1.5 + 1e-9 for lower, upper in pairwise(bounds) if lower not in {0, 1}
        )
    assert COUNT_BOUNDS[:6] == (0, 1, 2, 3, 4, 6)
    assert SECONDS_BOUNDS[:4] == (0.001, 0.0015, 0.002, 0.003)
    assert SECONDS_BOUNDS[-1] > 60


def test_shards_without_end_are_counted_together():
    metrics = Metrics()
    for number in range(MAX_SHARDS + 50):
        put(metrics, f"s{number}")
        metrics.record_failed(f"s{number}", THROTTLED)
    now = snapshot(metrics)
    assert len(now.shards) == MAX_SHARDS + 1
    assert now.shards[OTHER].kinesis_records_put == 50
    assert now.shards[OTHER].errors == {THROTTLED: 50}
    assert now.total.kinesis_records_put == MAX_SHARDS + 50
    assert now.total.errors == {THROTTLED: MAX_SHARDS + 50}


def test_codes_without_end_are_counted_together():
    metrics = Metrics()
    for number in range(MAX_CODES + 7):
        metrics.given_up(f"Code{number}")
        metrics.record_failed("s0", f"Code{number}")
    metrics.given_up("Code0")
    now = snapshot(metrics)
    assert len(now.user_records_given_up) == len(now.total.errors) == MAX_CODES + 1
    assert now.user_records_given_up[OTHER] == now.total.errors[OTHER] == 7
    assert now.user_records_given_up["Code0"] == 2


def test_of_nothing_there_are_no_extremes():
    now = snapshot(Metrics())
    assert (now.request_time.count, now.request_time.min, now.request_time.max) == (0, 0, 0)
    assert (now - now).request_time == now.request_time
