import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.proxy.messages import Identity, Refusal
from infra.proxy.quotas.kinesis import THROTTLED, KinesisQuotas, throttled_message
from infra.proxy.quotas.recent import CAPACITY, IDLE_SECONDS, Recent
from records.limits import MIB

ME = Identity("key", "eu-west-1")
STREAM = (ME, "orders")
SHARD = "shardId-000000000000"
OTHER = "shardId-000000000001"


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def quotas(clock: Clock) -> KinesisQuotas:
    return KinesisQuotas(clock)


def put_all(
    quotas: KinesisQuotas, records: list[tuple[str, int]], maximum: int = MIB
) -> list[bool]:
    return quotas.put_all(STREAM, records, max_record_bytes=maximum)


def admitted(quotas: KinesisQuotas, count: int, size: int, maximum: int = MIB) -> int:
    return sum(put_all(quotas, [(SHARD, size)] * count, maximum))


def reads(quotas: KinesisQuotas, count: int) -> int:
    return sum(quotas.get_records(STREAM, SHARD) is None for _ in range(count))


# Writing.


def test_a_shard_takes_a_thousand_records_a_second(quotas: KinesisQuotas, clock: Clock):
    assert admitted(quotas, 1_200, 1) == 1_000
    clock.now += 0.25
    assert admitted(quotas, 500, 1) == 250


def test_a_shard_takes_a_mebibyte_a_second(quotas: KinesisQuotas, clock: Clock):
    assert admitted(quotas, 20, MIB // 8) == 8
    clock.now += 0.25
    assert admitted(quotas, 20, MIB // 8) == 2


def test_a_record_too_large_for_what_is_left_leaves_it_to_smaller_ones(quotas: KinesisQuotas):
    sizes = [MIB - 10, 20, 10, 1]
    assert put_all(quotas, [(SHARD, size) for size in sizes]) == [True, False, True, False]


def test_a_record_refused_for_its_bytes_costs_no_record(quotas: KinesisQuotas, clock: Clock):
    assert admitted(quotas, 1, MIB) == 1
    assert admitted(quotas, 5_000, MIB) == 0
    clock.now += 2**-10  # refills a KiB, and the record that the first one took
    assert admitted(quotas, 1_200, 1) == 999


def test_a_record_refused_for_the_records_costs_no_bytes(quotas: KinesisQuotas, clock: Clock):
    assert admitted(quotas, 1_000, 1) == 1_000
    assert admitted(quotas, 5_000, 200) == 0
    clock.now += 2**-9  # refills 2 KiB, which is more than was written, and one record
    assert admitted(quotas, 2, MIB) == 1


def test_shards_streams_and_accounts_do_not_share(quotas: KinesisQuotas):
    records = [(SHARD, 1)] * 1_001 + [(OTHER, 1)] * 1_001
    taken = put_all(quotas, records)
    assert [taken[:1_001].count(True), taken[1_001:].count(True)] == [1_000, 1_000]
    for stream in ((ME, "others"), (Identity("other", ME.region), "orders")):
        assert quotas.put(stream, SHARD, 1, max_record_bytes=MIB)
    assert not quotas.put(STREAM, SHARD, 1, max_record_bytes=MIB)


@given(st.lists(st.tuples(st.sampled_from([SHARD, OTHER]), st.integers(1, MIB)), max_size=30))
def test_a_batch_is_judged_as_its_records_one_by_one(records: list[tuple[str, int]]):
    together, singly = KinesisQuotas(lambda: 0.0), KinesisQuotas(lambda: 0.0)
    expected = [singly.put(STREAM, shard, n, max_record_bytes=MIB) for shard, n in records]
    assert put_all(together, records) == expected


def test_a_stream_of_large_records_bursts_to_ten_mebibytes_and_averages_one(
    quotas: KinesisQuotas, clock: Clock
):
    large = 2 * MIB
    assert admitted(quotas, 20, MIB, large) == 10
    clock.now += 3
    assert admitted(quotas, 20, MIB, large) == 3
    clock.now += 100
    assert admitted(quotas, 20, MIB, large) == 10
    assert admitted(quotas, 20, 10 * MIB, large) == 0


def test_a_maximum_that_is_raised_or_lowered_forgets_nothing(quotas: KinesisQuotas, clock: Clock):
    assert admitted(quotas, 1, MIB) == 1
    assert admitted(quotas, 1, 10 * MIB, 10 * MIB) == 0
    assert admitted(quotas, 20, MIB, 10 * MIB) == 9
    assert admitted(quotas, 1, 1) == 0
    clock.now += 1  # no debt is left of the larger burst
    assert admitted(quotas, 2, MIB) == 1


# Reading.


def test_a_shard_is_read_five_times_a_second_by_all_together(quotas: KinesisQuotas, clock: Clock):
    assert reads(quotas, 8) == 5
    clock.now += 0.5
    assert reads(quotas, 8) == 2
    assert quotas.get_records(STREAM, OTHER) is None


def test_the_refusal_is_worded_as_by_aws(quotas: KinesisQuotas):
    reads(quotas, 5)
    assert quotas.get_records(STREAM, OTHER) is None
    assert quotas.get_records(STREAM, SHARD) == Refusal(
        THROTTLED,
        "Rate exceeded for shard shardId-000000000000 in stream orders under account 000000000000.",
    )
    assert THROTTLED == "ProvisionedThroughputExceededException"
    assert throttled_message("a", "b").startswith("Rate exceeded for shard b in stream a under")


def test_what_was_read_is_paid_for_before_more_is_read(quotas: KinesisQuotas, clock: Clock):
    quotas.got_records(STREAM, SHARD, 2 * MIB)
    assert reads(quotas, 1) == 1  # the second's worth is spent, and there is no debt
    quotas.got_records(STREAM, SHARD, 3 * MIB)
    assert reads(quotas, 1) == 0
    clock.now += 1.49
    assert reads(quotas, 1) == 0
    clock.now += 0.01
    assert reads(quotas, 1) == 1


def test_a_read_that_is_refused_for_debt_costs_no_call(quotas: KinesisQuotas, clock: Clock):
    quotas.got_records(STREAM, SHARD, 3 * MIB)
    assert reads(quotas, 100) == 0
    clock.now += 0.5
    assert reads(quotas, 8) == 5


@pytest.mark.parametrize(("scale", "pause"), [(1.0, 5.0), (2.5, 5.0)])
def test_a_full_answer_keeps_the_shard_from_being_read_for_five_seconds(scale: float, pause: float):
    clock = Clock()
    quotas = KinesisQuotas(clock, time_scale=scale)
    # Bytes alone are paid after (10 MiB - 2 MiB) / 2 MiB/s = 4 s.
    quotas.got_records(STREAM, SHARD, 10 * MIB)
    for step, expected in ((max(pause / scale, 4.0) - 0.01, 0), (0.01, 1)):
        clock.now += step
        assert reads(quotas, 1) == expected


def test_almost_full_is_not_full(quotas: KinesisQuotas, clock: Clock):
    quotas.got_records(STREAM, SHARD, 10 * MIB - 1)
    clock.now += 4
    assert reads(quotas, 1) == 1


def test_iterators_are_given_out_five_times_a_second_whoever_reads(
    quotas: KinesisQuotas, clock: Clock
):
    assert reads(quotas, 5) == 5
    given_out = [quotas.get_shard_iterator(STREAM, SHARD) for _ in range(6)]
    assert given_out[:5] == [None] * 5
    assert given_out[5] == Refusal(THROTTLED, throttled_message("orders", SHARD))
    clock.now += 0.25
    assert quotas.get_shard_iterator(STREAM, SHARD) is None


# Streams that go, and the table.


def test_a_stream_made_anew_starts_anew(quotas: KinesisQuotas):
    other = (ME, "others")
    for stream in (STREAM, other):
        assert quotas.put(stream, SHARD, MIB, max_record_bytes=MIB)
    quotas.forget(STREAM)
    assert quotas.put(STREAM, SHARD, MIB, max_record_bytes=MIB)
    assert not quotas.put(other, SHARD, MIB, max_record_bytes=MIB)


def test_the_table_shows_the_last_seconds_and_the_totals(quotas: KinesisQuotas, clock: Clock):
    for _ in range(3):
        admitted(quotas, 3, MIB // 3)
        admitted(quotas, 2, MIB)
        reads(quotas, 6)
        quotas.got_records(STREAM, SHARD, 300)
        clock.now += 1
    (row,) = quotas.rows()
    assert (row.stream, row.shard_id) == (STREAM, SHARD)
    assert (row.records_per_second, row.bytes_per_second) == (3, 3 * (MIB // 3))
    assert (row.reads_per_second, row.read_bytes_per_second) == (5, 300)
    assert (row.admitted, row.throttled) == (9, 3 * (2 + 1))
    clock.now += 1
    assert quotas.rows()[0].records_per_second == 2
    clock.now += 10
    (row,) = quotas.rows()
    assert (row.records_per_second, row.reads_per_second, row.admitted) == (0, 0, 9)


def test_a_second_that_is_not_over_is_not_shown_yet(quotas: KinesisQuotas, clock: Clock):
    admitted(quotas, 3, 10)
    assert quotas.rows()[0].records_per_second == 0
    clock.now += 1
    assert quotas.rows()[0].records_per_second == 1


# Bounds.


def test_a_hundred_thousand_shards_at_once_do_not_grow_it_without_bound(quotas: KinesisQuotas):
    for number in range(100_000):
        quotas.get_shard_iterator(STREAM, f"shardId-{number:012}")
    assert len(quotas._shards) == CAPACITY
    assert len(quotas.rows()) == CAPACITY
    assert quotas.rows()[-1].shard_id == "shardId-000000099999"


def test_what_is_not_used_for_ten_minutes_goes(quotas: KinesisQuotas, clock: Clock):
    admitted(quotas, 1, 1)
    clock.now += IDLE_SECONDS
    assert len(quotas.rows()) == 1
    clock.now += 0.1
    assert quotas.rows() == []
    assert len(quotas._shards) == 0


def test_the_calls_per_stream_are_bounded_too(quotas: KinesisQuotas):
    for number in range(CAPACITY + 10):
        quotas.control_plane("ListShards", ME, f"stream-{number}")
    assert len(quotas._calls["ListShards"]) == CAPACITY


def test_the_longest_unused_goes_first():
    made: list[float] = []
    recent: Recent[str, int] = Recent(lambda now: made.append(now) or len(made), capacity=2)
    assert [recent.get(key, 1.0) for key in "abab"] == [1, 2, 1, 2]
    recent.get("a", 2.0)
    recent.get("c", 2.0)
    assert [key for key, _ in recent.items(2.0)] == ["a", "c"]
    assert recent.get("b", 3.0) == 4


def test_what_was_throttled_is_counted_for_good():
    now = [0.0]
    quotas = KinesisQuotas(lambda: now[0])
    assert quotas.put_all(STREAM, [("s", MIB)] * 3, max_record_bytes=MIB) == [True, False, False]
    for _ in range(6):
        refused = quotas.get_shard_iterator(STREAM, "s")
    assert refused is not None
    assert quotas.throttled == 3
    now[0] = 10_000.0
    assert quotas.rows() == []
    assert quotas.throttled == 3
