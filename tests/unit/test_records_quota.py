import random
from fractions import Fraction
from math import floor, inf, nan

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from records.quota import TokenBucket

TICKS = 2**30

rates = st.one_of(st.integers(1, 2_000_000), st.floats(2**-20, 1e7))
bursts = st.one_of(st.integers(1, 10_000_000), st.floats(2**-8, 1e7))
starts = st.floats(0, 1e8)
pauses = st.one_of(st.just(0.0), st.floats(0, 10), st.floats(0, 1e-6))
# Amounts as shares of the burst, so that buckets of any size are emptied again and again.
shares = st.one_of(st.sampled_from([0.0, 0.5, 1.0, 1.5]), st.floats(0, 2))


def exact_tick(now: float) -> Fraction:
    """The time as the bucket reads it."""
    return Fraction(floor(Fraction(now) * TICKS), TICKS)


def full(rate: float = 10, burst: float = 10, now: float = 0.0) -> TokenBucket:
    return TokenBucket(rate=rate, burst=burst, now=now)


def test_it_starts_full_and_grants_all_or_nothing():
    bucket = full(rate=4, burst=10)
    assert [bucket.take(4, 0.0) for _ in range(3)] == [True, True, False]
    assert bucket.available(0.0) == 2
    assert bucket.take(2, 0.0)
    assert not bucket.take(1, 0.249)
    assert bucket.take(1, 0.25)


def test_it_is_never_more_than_full():
    bucket = full(rate=5, burst=10)
    assert bucket.available(1_000.0) == 10
    assert (bucket.take(10, 1_000.0), bucket.take(1, 1_000.0)) == (True, False)


def test_what_is_above_the_burst_is_never_granted():
    bucket = full(burst=10)
    assert not bucket.take(10.000001, 1e9)
    assert not bucket.take(inf, 1e9)
    assert bucket.wait(10.000001, 1e9) == bucket.wait(inf, 1e9) == inf
    assert bucket.take(10, 1e9)


def test_an_amount_of_nothing_is_granted_unless_there_is_debt():
    bucket = full(burst=1)
    assert bucket.take(1, 0.0)
    assert bucket.take(0, 0.0)
    bucket.charge(1, 0.0)
    assert not bucket.take(0, 0.0)


def test_the_least_amount_costs_something():
    bucket = full(burst=1)
    assert bucket.take(2**-100, 0.0)
    assert not bucket.take(1, 0.0)


def test_debt_is_paid_off_at_the_rate():
    bucket = full(rate=2, burst=2)
    bucket.charge(10, 0.0)
    assert bucket.available(0.0) == -8
    assert bucket.available(3.0) == -2
    assert not bucket.take(1, 4.0)
    assert bucket.take(1, 4.5)


def test_another_rate_counts_from_when_it_is_set():
    bucket = full(rate=1, burst=100)
    bucket.charge(100, 0.0)
    bucket.set_rate(10, 4.0)
    assert (bucket.rate, bucket.available(4.0)) == (10, 4)
    assert bucket.available(5.0) == 14


def test_a_rate_that_is_refused_changes_nothing():
    bucket = full(rate=1, burst=100)
    bucket.charge(100, 0.0)
    with pytest.raises(ValueError, match="rate"):
        bucket.set_rate(0, 4.0)
    assert (bucket.rate, bucket.available(5.0)) == (1, 5)


@pytest.mark.parametrize("rate", [0, -1, inf, nan, 2**-31])
def test_what_is_no_rate(rate: float):
    with pytest.raises(ValueError, match="rate"):
        full(rate=rate)


@pytest.mark.parametrize("burst", [0, -1, inf, nan, 0.0039])
def test_what_is_no_burst(burst: float):
    with pytest.raises(ValueError, match="burst"):
        full(burst=burst)


def test_what_is_no_amount():
    for method in (full().take, full().charge, full().give_back, full().wait):
        with pytest.raises(ValueError, match="amount"):
            method(-1, 0.0)


@given(rates, bursts, starts, st.lists(st.tuples(pauses, shares), max_size=40))
def test_no_window_ever_admits_more_than_the_burst_and_what_the_rate_yields(
    rate: float, burst: float, start: float, steps: list[tuple[float, float]]
):
    bucket = full(rate, burst, start)
    now = start
    taken: list[tuple[Fraction, Fraction]] = []
    for pause, share in steps:
        now += pause
        if bucket.take(share * burst, now):
            taken.append((exact_tick(now), Fraction(share * burst)))
    for first, (begin, _) in enumerate(taken):
        admitted = Fraction(0)
        for end, amount in taken[first:]:
            admitted += amount
            assert admitted <= Fraction(burst) + Fraction(rate) * (end - begin)


@given(rates, bursts, st.one_of(starts, st.floats(-1e8, 0)), pauses, st.tuples(shares, shares))
def test_nobody_starves_and_nobody_waits_too_long(
    rate: float, burst: float, start: float, pause: float, used_and_share: tuple[float, float]
):
    used, share = used_and_share
    bucket = full(rate, burst, start)
    bucket.charge(used * burst, start)
    now = start + pause
    amount = min(share, 1.0) * burst
    wait = bucket.wait(amount, now)
    assert 0 <= wait < inf
    if wait:
        # A tick, and what the caller's own addition of floats may lose, before it is too early.
        early = now + wait - 2 / TICKS - 4 * (abs(now) + wait) * 2**-52
        assert not bucket.take(amount, early)
    assert bucket.take(amount, now + wait)


@given(rates, bursts, starts, shares, shares)
def test_what_is_given_back_can_be_taken_again(
    rate: float, burst: float, now: float, used: float, share: float
):
    bucket = full(rate, burst, now)
    bucket.charge(used * burst, now)
    before = bucket.available(now)
    if bucket.take(share * burst, now):
        bucket.give_back(share * burst, now)
    assert bucket.available(now) == before
    bucket.give_back(1e9, now)
    assert bucket.available(now) == burst


@given(bursts, starts, st.lists(shares, max_size=5))
def test_charges_add_up(burst: float, now: float, amounts: list[float]):
    bucket = full(2**-20, burst, now)
    for share in amounts:
        bucket.charge(share * burst, now)
    spent = sum((Fraction(share * burst) for share in amounts), Fraction(0))
    assert (
        abs(Fraction(bucket.available(now)) - (Fraction(burst) - spent)) <= Fraction(burst) / 2**48
    )


@given(rates, bursts, st.floats(1, 1e6), st.floats(0, 1), shares)
def test_a_clock_that_runs_backwards_refills_nothing_and_loses_nothing(
    rate: float, burst: float, start: float, back: float, used: float
):
    bucket = full(rate, burst, start)
    bucket.charge(used * burst, start)
    before = bucket.available(start)
    earlier = start * back
    assume(earlier < start)
    assert bucket.available(earlier) == before
    # Time that has been paid out is not paid out again.
    assert bucket.available(start) == before
    wait = bucket.wait(burst, earlier)
    assert bucket.take(burst, earlier + wait)


def test_a_long_run_drifts_by_nothing():
    rng = random.Random(7)
    rate, burst, now = 1_000 / 3, 1_048_576.1, 86_400.1
    bucket = full(rate, burst, now)
    parts = 2**60
    per_tick, capacity = floor(Fraction(rate) * TICKS), floor(Fraction(burst) * parts)
    level, tick = capacity, floor(Fraction(now) * TICKS)
    for _ in range(50_000):
        now += rng.choice([0.0, 0.1, 0.001, 1e-9, 3.3])
        amount = rng.choice([1, 25_000, 0.5, 1 / 3, 100])
        cost = -floor(-Fraction(amount) * parts)
        elapsed = floor(Fraction(now) * TICKS) - tick
        level, tick = min(capacity, level + elapsed * per_tick), tick + elapsed
        granted = cost <= level
        level -= cost if granted else 0
        assert bucket.take(amount, now) is granted
    assert bucket.available(now) == float(Fraction(level, parts))
    assert bucket._level == level
