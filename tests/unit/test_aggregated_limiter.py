import heapq
import itertools
import math
import random

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from producers.aggregated.limiter import ShardLimiter
from records.limits import (
    MAX_LARGE_RECORD_BYTES,
    MAX_RECORD_BYTES,
    SHARD_WRITE_BYTES_PER_SECOND,
    SHARD_WRITE_RECORDS_PER_SECOND,
)
from records.quota import TokenBucket

AGGREGATE = 51_200
RECORD_RATE = 0.98 * SHARD_WRITE_RECORDS_PER_SECOND
BYTE_RATE = 0.98 * SHARD_WRITE_BYTES_PER_SECOND
sizes = st.integers(1, MAX_RECORD_BYTES)
pauses = st.one_of(st.just(0.0), st.floats(0, 3), st.floats(0, 0.001))


def limiter(share: float = 1.0, max_record_bytes: int = MAX_RECORD_BYTES) -> ShardLimiter:
    return ShardLimiter(share=share, max_record_bytes=max_record_bytes, now=0.0)


def sent(shard: ShardLimiter, size: int, start: float, seconds: float, most: int = 100_000) -> int:
    """How many records go out when there is always one more: each is sent as soon as it may be."""
    now = start
    for number in range(most):
        now += shard.wait(size, now)
        if now > start + seconds:
            return number
        shard.take(size, now)
    raise AssertionError("no end")


def squeezed(times: int) -> ShardLimiter:
    """A limiter whose shard refused something so often, each time news."""
    shard = limiter()
    for number in range(times):
        shard.throttled(number - times)
    return shard


@settings(deadline=None)
@given(st.lists(st.tuples(pauses, sizes), max_size=60))
def test_what_it_admits_fits_in_the_quota(steps: list[tuple[float, int]]):
    # A bucket with the shard's own quota grants each record, however they come.
    shard, now = limiter(), 0.0
    records = TokenBucket(rate=SHARD_WRITE_RECORDS_PER_SECOND, burst=1000, now=0.0)
    volume = TokenBucket(rate=SHARD_WRITE_BYTES_PER_SECOND, burst=MAX_RECORD_BYTES, now=0.0)
    for pause, size in steps:
        now += pause
        now += shard.wait(size, now)
        assert shard.wait(size, now) == 0
        shard.take(size, now)
        assert records.take(1, now)
        assert volume.take(size, now)


@settings(deadline=None)
@given(
    st.lists(st.tuples(pauses, sizes, st.sampled_from(["throttled", "confirmed", "none"]))),
    st.floats(0.001, 1000),
)
def test_no_record_waits_for_ever_and_the_share_stays_in_its_bounds(
    steps: list[tuple[float, int, str]], share: float
):
    shard, now = limiter(share), 0.0
    for pause, size, answer in steps:
        now += pause
        wait = shard.wait(size, now)
        full = max(size / BYTE_RATE, 1 / RECORD_RATE) / share
        assert 0 <= wait <= max(5.0, full) * 1.001
        now += wait
        assert shard.wait(size, now) < 1e-6
        shard.take(size, now)
        before = shard.share
        if answer == "throttled":
            shard.throttled(now)
            assert shard.share <= before
        if answer == "confirmed":
            shard.confirmed(now)
            assert shard.share >= before
        assert 0.01 <= shard.share <= 1.0


def test_alone_it_uses_the_quota_of_records_and_of_bytes_but_for_a_fiftieth():
    # A second's worth at once, and then the rate.
    assert sent(limiter(), 100, 0.0, 10.0) == pytest.approx(10_800, abs=2)
    assert sent(limiter(), AGGREGATE, 0.0, 100.0) == pytest.approx(99 * 2**20 / AGGREGATE, abs=2)
    assert sent(limiter(share=0.25), 100, 0.0, 10.0) == pytest.approx(2_700, abs=2)
    assert sent(limiter(share=3.0), 100, 0.0, 10.0) == pytest.approx(32_400, abs=2)


def test_a_record_as_large_as_may_be_goes_out_at_once_and_is_then_paid_for():
    shard = limiter(max_record_bytes=MAX_LARGE_RECORD_BYTES)
    assert shard.wait(MAX_LARGE_RECORD_BYTES, 0.0) == 0
    shard.take(MAX_LARGE_RECORD_BYTES, 0.0)
    assert shard.wait(MAX_LARGE_RECORD_BYTES, 0.0) == pytest.approx(10 / 0.98)
    assert shard.wait(SHARD_WRITE_BYTES_PER_SECOND, 0.0) == pytest.approx(1 / 0.98)


def test_a_record_above_the_burst_waits_for_a_full_bucket_and_not_for_ever():
    shard = limiter(share=0.001)
    shard.take(MAX_RECORD_BYTES, 0.0)
    full = MAX_RECORD_BYTES / (0.001 * BYTE_RATE)
    assert shard.wait(2 * MAX_RECORD_BYTES, 0.0) == pytest.approx(full)


def test_a_bad_answer_with_many_refusals_counts_once():
    shard = limiter()
    for late in (0.0, 0.0, 0.2, 0.49):
        shard.throttled(late)
    assert shard.share == 0.6
    shard.throttled(0.5)
    assert shard.share == pytest.approx(0.36)


def test_after_a_refusal_nothing_is_left_that_was_saved_up():
    shard = limiter()
    assert shard.wait(AGGREGATE, 0.0) == 0
    shard.throttled(0.0)
    # Never sent anything, it could go out on patience but for this:
    shard.take(AGGREGATE, 0.0)
    assert shard.wait(AGGREGATE, 0.0) == pytest.approx(AGGREGATE / (0.6 * BYTE_RATE))
    assert shard.wait(1, 0.0) == pytest.approx(1 / (0.6 * RECORD_RATE))


def test_thirty_seconds_of_refusals_lead_to_the_floor_and_twenty_without_back_again():
    shard, now = limiter(), 0.0
    attempts = 0
    while now < 30.0:
        shard.take(AGGREGATE, now)
        shard.throttled(now + 0.05)
        attempts += 1
        now += 0.05 + shard.wait(AGGREGATE, now + 0.05)
    assert shard.share == 0.01
    assert attempts < 40
    shard.throttled(now)
    shares = []
    for tenth in range(201):
        shard.confirmed(now + tenth / 10)
        shares.append(shard.share)
    assert shares == sorted(shares)
    assert 0.2 < shares[90] < 0.4  # so not at once
    assert shares[-1] == 1.0


def test_confirmations_alone_change_nothing_while_the_share_is_full():
    shard = limiter()
    shard.confirmed(5.0)
    assert shard.share == 1.0
    shard.throttled(10.0)
    shard.confirmed(10.0)  # The same answer: no time went by.
    assert shard.share == 0.6


def test_a_clock_that_stands_still_or_goes_back_gives_nothing():
    shard = limiter()
    shard.throttled(10.0)
    shard.confirmed(9.0)
    assert shard.share == 0.6
    assert math.isfinite(shard.wait(AGGREGATE, 9.0))


def test_at_the_floor_a_large_record_waits_for_seconds_and_leaves_no_debt():
    shard = squeezed(20)
    assert shard.share == 0.01
    shard.take(1, 0.0)
    assert shard.wait(MAX_RECORD_BYTES, 0.0) == pytest.approx(5.0)
    shard.take(MAX_RECORD_BYTES, 5.0)
    # The next aggregate waits for itself alone: 50 KiB at a hundredth of the rate.
    assert shard.wait(AGGREGATE, 5.0) == pytest.approx(100 * AGGREGATE / BYTE_RATE)


def test_at_the_floor_the_largest_record_goes_no_faster_than_at_the_full_share():
    shard = limiter(max_record_bytes=MAX_LARGE_RECORD_BYTES)
    for number in range(20):
        shard.throttled(number - 20.0)
    shard.take(MAX_LARGE_RECORD_BYTES, 0.0)
    assert shard.wait(MAX_LARGE_RECORD_BYTES, 0.0) == pytest.approx(10 / 0.98)


@pytest.mark.parametrize("share", [0.0, -1.0, math.inf, math.nan])
def test_a_share_that_is_none_is_refused(share: float):
    with pytest.raises(ValueError, match="share"):
        limiter(share)


class Shard:
    """A shard with AWS's quota, and producers before it that always have one more record."""

    def __init__(self, starts: list[float], size: int, rng: random.Random) -> None:
        self.records = TokenBucket(rate=SHARD_WRITE_RECORDS_PER_SECOND, burst=1000, now=0.0)
        self.volume = TokenBucket(rate=SHARD_WRITE_BYTES_PER_SECOND, burst=2**20, now=0.0)
        self.starts, self.size, self.rng = starts, size, rng
        self.limiters = [limiter() for _ in starts]
        self.taken = [0] * len(starts)
        self.refused = [0] * len(starts)
        self.number = itertools.count()
        self.road: list[tuple[float, int, int, bool]] = []

    def run(self, start: float, seconds: float, step: float = 0.02) -> None:
        for now in (start + step * number for number in range(round(seconds / step))):
            while self.road and self.road[0][0] <= now:
                _, _, producer, taken = heapq.heappop(self.road)
                answered = self.limiters[producer]
                (answered.confirmed if taken else answered.throttled)(now)
            running = [place for place, begin in enumerate(self.starts) if begin <= now]
            for producer in self.rng.sample(running, len(running)):
                self._send(producer, now)

    def _send(self, producer: int, now: float) -> None:
        shard = self.limiters[producer]
        for _ in range(500):
            if shard.wait(self.size, now) > 0:
                return
            shard.take(self.size, now)
            taken = self.volume.available(now) >= self.size and self.records.take(1, now)
            if taken:
                self.volume.take(self.size, now)
            (self.taken if taken else self.refused)[producer] += 1
            answer = now + self.rng.uniform(0.02, 0.08)
            heapq.heappush(self.road, (answer, next(self.number), producer, taken))

    def forget(self) -> None:
        self.taken = [0] * len(self.starts)
        self.refused = [0] * len(self.starts)

    @property
    def refused_part(self) -> float:
        return sum(self.refused) / (sum(self.refused) + sum(self.taken))

    def used(self, seconds: float) -> float:
        most = min(SHARD_WRITE_RECORDS_PER_SECOND, SHARD_WRITE_BYTES_PER_SECOND / self.size)
        return sum(self.taken) / (most * seconds)


# The same seeds each time: now and then chance alone favours one of the two for most of a minute.
@settings(max_examples=20, deadline=None, derandomize=True, phases=[Phase.generate])
@given(st.sampled_from([1_000, AGGREGATE]), st.floats(0, 20), st.integers(0, 2**32))
def test_two_producers_come_to_about_equal_shares_with_few_refusals(
    size: int, late: float, seed: int
):
    shard = Shard([0.0, late], size, random.Random(seed))
    shard.run(0.0, 40.0)
    shard.forget()
    shard.run(40.0, 40.0)
    assert min(shard.taken) > 0.3 * max(shard.taken)
    assert shard.used(40.0) > 0.95
    assert shard.refused_part < 0.05


@settings(max_examples=20, deadline=None, derandomize=True, phases=[Phase.generate])
@given(st.integers(0, 2**32))
def test_a_producer_of_large_records_is_not_shut_out_by_another(seed: int):
    # The first one alone would use the shard so evenly that the second never got a record in.
    shard = Shard([0.0, 5.0], 400_000, random.Random(seed))
    shard.run(0.0, 20.0)
    shard.forget()
    shard.run(20.0, 60.0)
    assert min(shard.taken) > 0.05 * max(shard.taken)


def test_fifty_producers_of_one_shard_use_it_and_none_starves():
    shard = Shard([number / 10 for number in range(50)], 100, random.Random(1))
    shard.run(0.0, 20.0)
    shard.forget()
    shard.run(20.0, 20.0)
    assert min(shard.taken) > 0.5 * max(shard.taken)
    assert shard.used(20.0) > 0.95
    assert shard.refused_part < 0.25


def test_one_producer_alone_is_never_refused():
    shard = Shard([0.0], AGGREGATE, random.Random(1))
    shard.run(0.0, 30.0)
    assert shard.refused == [0]
    assert shard.used(30.0) > 0.98
