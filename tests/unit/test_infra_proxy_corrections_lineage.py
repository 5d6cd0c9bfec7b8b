import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.proxy.corrections import lineage
from infra.proxy.corrections.lineage import FilterType, ShardFilter, select
from infra.proxy.corrections.sequence_numbers import MAX_PLACE
from tests.unit.proxy_corrections_support import (
    MOCKS_END,
    START,
    History,
    TrueShard,
    histories,
    ids,
    is_whole,
)


def at(time: float) -> ShardFilter:
    return ShardFilter(kind=FilterType.AT_TIMESTAMP, at=time)


def kind(name: str) -> ShardFilter:
    return ShardFilter(kind=FilterType(name))


def split(index: int, parent: int, opened: float, closed: float | None = None) -> TrueShard:
    return TrueShard(
        index=index, parents=(parent,), low=index, high=index, opened=opened, closed=closed
    )


SPLIT = History(
    (
        TrueShard(index=0, parents=(), low=0, high=9, opened=START + 0.5, closed=START + 10.7),
        split(1, 0, START + 10.7),
        split(2, 0, START + 10.7),
    )
)
FIRST, SECOND, THIRD = (shard.id for shard in SPLIT.shards)


@given(histories(), st.data())
def test_at_trim_horizon_is_what_was_open_at_the_trim_horizon(
    history: History, data: st.DataObject
) -> None:
    times = [shard.opened for shard in history.shards]
    horizon = data.draw(st.sampled_from(times) | st.floats(min(times), max(times) + 5))
    listed = history.listed(horizon=horizon, like_mock=data.draw(st.booleans()))
    selected = select(listed, kind("AT_TRIM_HORIZON"))
    assert selected is not None
    assert set(ids(selected)) == history.open_at(horizon)
    assert is_whole(selected)


@given(history=histories(), like_mock=st.booleans())
def test_at_latest_is_what_is_open_and_from_trim_horizon_is_all(
    *, history: History, like_mock: bool
) -> None:
    listed = history.listed(like_mock=like_mock)
    latest = select(listed, kind("AT_LATEST"))
    assert latest is not None
    assert set(ids(latest)) == {shard.id for shard in history.shards if shard.closed is None}
    assert select(listed, kind("FROM_TRIM_HORIZON")) == listed


@given(histories(), st.floats(START - 5, START + 25), st.floats(0, 20))
def test_at_timestamp_covers_every_hash_key_once(
    history: History, time: float, expired: float
) -> None:
    selected = select(history.listed(horizon=START + expired), at(max(time, START + expired)))
    assert selected is not None
    assert is_whole(selected)


@given(histories(least_pause=1.0), st.integers(-5, 25))
def test_at_timestamp_is_exact_outside_of_the_second_of_a_reshard(
    history: History, second: int
) -> None:
    time = START + second + 0.5
    selected = select(history.listed(), at(time))
    assert selected is not None
    resharded = {math.floor(s.opened) for s in history.shards if s.parents}
    if START + second in resharded:
        # The parents: what was open when that second began.
        assert set(ids(selected)) == history.open_at(START + second - 1e-6)
    else:
        assert set(ids(selected)) == history.open_at(time)


@given(histories(), st.floats(START - 5, START + 25))
def test_from_timestamp_leaves_out_what_was_closed_before(history: History, time: float) -> None:
    selected = select(history.listed(), ShardFilter(kind=FilterType.FROM_TIMESTAMP, at=time))
    assert selected is not None
    assert set(ids(selected)) == {
        shard.id
        for shard in history.shards
        if shard.closed is None or math.floor(shard.closed) >= math.floor(time)
    }


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        (START - 3600.0, [FIRST]),  # before the stream was: the trim horizon
        (START + 10.0, [FIRST]),
        (START + 10.999, [FIRST]),
        (START + 11.0, [SECOND, THIRD]),
    ],
)
def test_the_second_of_a_reshard_belongs_to_the_parents(time: float, expected: list[str]) -> None:
    selected = select(SPLIT.listed(), at(time))
    assert selected is not None
    assert ids(selected) == expected


def test_after_shard_id_starts_behind_it_even_when_it_has_expired() -> None:
    shard_filter = ShardFilter(kind=FilterType.AFTER_SHARD_ID, shard_id=FIRST)
    for listed in (SPLIT.listed(), SPLIT.listed(horizon=START + 11)):
        selected = select(listed, shard_filter)
        assert selected is not None
        assert ids(selected) == [SECOND, THIRD]


@pytest.mark.parametrize("start", ["1", "", None, "shard", MOCKS_END])
def test_times_that_cannot_be_read_are_not_guessed(start: str | None) -> None:
    listed = SPLIT.listed()
    listed[1]["SequenceNumberRange"]["StartingSequenceNumber"] = start
    assert select(listed, at(START + 20)) is None
    assert select(listed, ShardFilter(kind=FilterType.FROM_TIMESTAMP, at=START)) is None
    assert select(listed, kind("AT_TRIM_HORIZON")) is not None


def test_a_merge_on_kinesis_mock_tells_no_time() -> None:
    merged = History(
        (
            TrueShard(index=0, parents=(), low=0, high=4, opened=START, closed=START + 5),
            TrueShard(index=1, parents=(), low=5, high=9, opened=START, closed=START + 5),
            TrueShard(index=2, parents=(0, 1), low=0, high=9, opened=START + 5),
        )
    )
    assert select(merged.listed(like_mock=True), at(START + 20)) is None
    assert select(merged.listed(), at(START + 20)) == merged.listed()[2:]


def test_a_closed_shard_whose_children_are_not_listed_tells_no_time() -> None:
    assert select(SPLIT.listed()[:1], at(START + 20)) is None


@given(histories(), st.data())
def test_later_reshards_are_undone(history: History, data: st.DataObject) -> None:
    # A time at which the stream had its last reshard but no later one.
    times = sorted({shard.opened for shard in history.shards})
    time = data.draw(st.sampled_from(times))
    last = max(shard.id for shard in history.shards if shard.opened <= time)
    before = lineage.as_of(history.listed(), last)
    assert set(ids(before)) == {shard.id for shard in history.shards if shard.opened <= time}
    latest = select(before, kind("AT_LATEST"))
    assert latest is not None
    assert set(ids(latest)) == history.open_at(time)


@given(
    history=histories(least_pause=1.0),
    place=st.integers(1, MAX_PLACE - 1),
    like_mock=st.booleans(),
)
def test_an_end_is_above_the_shards_records_and_below_its_childrens(
    *, history: History, place: int, like_mock: bool
) -> None:
    listed = history.listed(like_mock=like_mock)
    first_records = {shard.id: shard.number(1, shard.opened) for shard in history.shards}
    for shard, summary in zip(history.shards, listed, strict=True):
        assert lineage.is_wrongly_ended(summary) == (shard.closed is not None)
        if shard.closed is None:
            continue
        ended = lineage.with_right_end(summary, listed, first_records)
        end = int(ended["SequenceNumberRange"]["EndingSequenceNumber"])
        assert end > int(shard.number(place, shard.closed))
        assert end > int(ended["SequenceNumberRange"]["StartingSequenceNumber"])
        assert not lineage.is_wrongly_ended(ended)
        for child in history.shards:
            if shard.index in child.parents:
                assert end < int(child.number(0, child.opened))
        # Nothing else has changed, and not the original.
        assert {**ended, "SequenceNumberRange": summary["SequenceNumberRange"]} == summary
        assert summary["SequenceNumberRange"]["EndingSequenceNumber"] == MOCKS_END


def test_an_end_holds_the_second_in_which_the_children_were_opened() -> None:
    listed = SPLIT.listed()
    ended = lineage.with_right_end(listed[0], listed, {})
    expected = SPLIT.shards[0].number(MAX_PLACE, START + 10)
    assert ended["SequenceNumberRange"]["EndingSequenceNumber"] == expected


@pytest.mark.parametrize(
    "numbers",
    [
        {"StartingSequenceNumber": "7", "EndingSequenceNumber": "3"},  # of another layout
        {"StartingSequenceNumber": SPLIT.shards[0].number(0, START)},  # open
        {"StartingSequenceNumber": SPLIT.shards[0].number(0, START), "EndingSequenceNumber": None},
        {
            "StartingSequenceNumber": SPLIT.shards[0].number(0, START),
            "EndingSequenceNumber": SPLIT.shards[0].number(5, START),
        },
        {},
    ],
)
def test_an_end_that_is_right_or_cannot_be_read_is_left_alone(numbers: dict[str, str]) -> None:
    assert not lineage.is_wrongly_ended({"ShardId": FIRST, "SequenceNumberRange": numbers})
