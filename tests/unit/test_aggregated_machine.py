import itertools
import math
import random
from dataclasses import replace
from typing import Any

import pytest
from botocore.exceptions import ClientError
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from producers.aggregated.lanes import OUTER_PARTITION_KEY, Pack
from producers.aggregated.machine import ListRequest, Machine, PutRequest
from producers.aggregated.values import Item, PutResult, Settings
from producers.errors import DeliveryError
from producers.put_records import Failure, Record, Stored, failure_of
from records.aggregation import AggregateBuilder, UserRecord, decode, is_aggregate
from records.limits import KPL_AGGREGATE_BYTES, MAX_HASH_KEY, MAX_RECORD_BYTES, record_bytes
from records.partition import Shard, ShardMap, hash_key

SLOW = Failure("ProvisionedThroughputExceededException", "slow down", retriable=True)
DENIED = Failure("AccessDeniedException", "no", retriable=False)


def shard_map(shards: int, *, first_id: int = 0, closed: tuple[Shard, ...] = ()) -> ShardMap:
    step = (MAX_HASH_KEY + 1) // shards
    last = [step * at - 1 for at in range(1, shards)] + [MAX_HASH_KEY]
    made = [Shard(f"shard-{first_id + at}", step * at, end) for at, end in enumerate(last)]
    return ShardMap([*closed, *made])


def machine_with(shards: int = 1, **options: Any) -> Machine:
    machine = Machine(Settings(**options), rng=random.Random(1))
    machine.accept("first", b"x", 0, None, now=0.0)
    assert machine.step(0.0) == ListRequest()
    machine.shards_listed(shard_map(shards), now=0.0)
    machine.flush()
    answer(machine, sent(machine, 0.0), 0.0)
    machine.take_settled()
    assert machine.buffered_records == machine.buffered_bytes == 0
    return machine


def sent(machine: Machine, now: float) -> PutRequest:
    request = machine.step(now)
    assert isinstance(request, PutRequest)
    return request


def answer(machine: Machine, request: PutRequest, now: float) -> None:
    stored = [Stored(lane.shard.shard_id, f"{now}") for lane in request.lanes]
    machine.put_answered(request, [*stored], now=now)


def accept(machine: Machine, data: bytes, now: float, key: str = "k") -> None:
    machine.accept(key, data, None, None, now=now)


users = st.lists(
    st.tuples(
        st.text(alphabet="abé", min_size=1, max_size=4),
        st.binary(max_size=300),
        st.none() | st.integers(0, MAX_HASH_KEY),
    ),
    min_size=1,
    max_size=40,
)


@given(users=users, most=st.integers(64, 400), shards=st.integers(1, 4))
@settings(max_examples=200)
def test_whatever_is_put_arrives_once_in_order_and_within_the_sizes(
    users: list[tuple[str, bytes, int | None]], most: int, shards: int
) -> None:
    machine = machine_with(shards, max_aggregate_bytes=most)
    for key, data, explicit in users:
        machine.accept(key, data, explicit, None, now=1.0)
    machine.flush()
    arrived: dict[str, list[UserRecord]] = {}
    while (request := machine.step(1.0)) is not None:
        assert isinstance(request, PutRequest)
        assert len({lane.shard.shard_id for lane in request.lanes}) == len(request.records)
        for record, lane in zip(request.records, request.lanes, strict=True):
            assert record.explicit_hash_key is not None
            assert lane.shard.covers(record.explicit_hash_key)
            inside = decode(record.data)
            if inside is None:
                place = record.explicit_hash_key
                inside = [UserRecord(record.partition_key, record.data, place)]
            else:
                assert record.partition_key == OUTER_PARTITION_KEY
                assert record_bytes(record.partition_key, record.data) <= most
            arrived.setdefault(lane.shard.shard_id, []).extend(inside)
        answer(machine, request, 1.0)
    shards_known = shard_map(shards)
    for shard_id, found in arrived.items():
        put = [
            (key, data)
            for key, data, explicit in users
            if shards_known.shard_for(hash_key(key) if explicit is None else explicit).shard_id
            == shard_id
        ]
        assert [(user.partition_key, user.data) for user in found] == put
    results = [each.result for each in machine.take_settled()]
    assert len(results) == len(users) == sum(map(len, arrived.values()))
    assert machine.buffered_records == machine.buffered_bytes == 0


@given(sizes=st.lists(st.integers(0, 200), min_size=2, max_size=40), most=st.integers(64, 600))
@settings(max_examples=200)
def test_a_pack_is_as_full_as_the_next_record_allows(sizes: list[int], most: int) -> None:
    machine = machine_with(max_aggregate_bytes=most)
    for size in sizes:
        accept(machine, b"x" * size, 1.0)
    (lane,) = machine._lanes.values()
    packs = [[len(item.data) for item in pack.items] for pack in lane.packs]
    assert [size for pack in packs for size in pack] == sizes
    for pack, following in itertools.pairwise(packs):
        builder = AggregateBuilder(max_bytes=most - len(OUTER_PARTITION_KEY))
        held = [builder.try_add("k", b"x" * size) for size in [*pack, following[0]]]
        assert not all(held)


def item(data: bytes, *, key: str = "mine", explicit: int | None = None) -> Item:
    return Item(1, key, data, explicit, None, 0.0)


def test_a_record_alone_travels_as_it_is_with_its_hash_key() -> None:
    wire = Pack(item(b"data"), max_bytes=KPL_AGGREGATE_BYTES).seal()
    assert wire == Record("mine", b"data", hash_key("mine"))
    wire = Pack(item(b"data", explicit=7), max_bytes=KPL_AGGREGATE_BYTES).seal()
    assert wire == Record("mine", b"data", 7)


@pytest.mark.parametrize("explicit", [None, 7])
def test_a_record_alone_that_looks_like_an_aggregate_is_wrapped(explicit: int | None) -> None:
    builder = AggregateBuilder(max_bytes=100_000)
    builder.try_add("inner", b"x" * 60_000)
    blob = builder.build()
    wire = Pack(item(blob, explicit=explicit), max_bytes=KPL_AGGREGATE_BYTES).seal()
    assert wire.explicit_hash_key == (hash_key("mine") if explicit is None else explicit)
    assert is_aggregate(wire.data)
    assert decode(wire.data) == [UserRecord("mine", blob, explicit)]


def test_a_record_too_large_for_an_aggregate_travels_alone_and_in_its_place() -> None:
    machine = machine_with()
    large = b"L" * (MAX_RECORD_BYTES - 1)
    for data in (b"before", large, b"after"):
        accept(machine, data, 1.0)
    machine.flush()
    order = []
    for _ in range(3):
        request = sent(machine, 1.0)
        order.append(request.records[0].data)
        answer(machine, request, 1.0)
    assert order == [b"before", large, b"after"]


def test_a_record_lingers_no_longer_than_it_should() -> None:
    machine = machine_with(linger=0.5)
    accept(machine, b"1", 10.0)
    accept(machine, b"2", 10.4)
    assert machine.step(10.49) is None
    assert machine.wake_at() == 10.5
    assert len(decode(sent(machine, 10.5).records[0].data) or ()) == 2


def test_a_full_pack_and_a_flushed_one_do_not_linger() -> None:
    machine = machine_with(linger=5.0, max_aggregate_bytes=100)
    accept(machine, b"x" * 40, 10.0)
    assert machine.step(10.0) is None
    accept(machine, b"x" * 40, 10.0)
    request = sent(machine, 10.0)
    answer(machine, request, 10.0)
    assert machine.step(10.0) is None
    machine.flush()
    assert sent(machine, 10.0).records
    accept(machine, b"later", 10.0)
    assert machine.step(10.0) is None


def test_one_pack_of_a_shard_is_on_the_road_whatever_waits() -> None:
    machine = machine_with(max_aggregate_bytes=64)
    for n in range(9):
        accept(machine, b"%d" % n * 30, 10.0)
    machine.flush()
    request = sent(machine, 10.0)
    assert len(request.records) == 1
    assert machine.step(10.0) is None
    machine.put_answered(request, [SLOW], now=10.0)
    assert machine.step(10.0) is None
    again_at = machine.wake_at()
    assert again_at is not None
    assert 10.0 < again_at <= 10.1
    assert sent(machine, again_at).records[0] is request.records[0]


def test_the_shards_share_requests_of_500_records_and_ten_mebibytes() -> None:
    machine = machine_with(1200)
    step = (MAX_HASH_KEY + 1) // 1200
    for at in range(1200):
        machine.accept("k", b"x", at * step, None, now=1.0)
    machine.flush()
    counts = []
    seen = set[str]()
    while (request := machine.step(1.0)) is not None:
        assert isinstance(request, PutRequest)
        counts.append(len(request.records))
        seen.update(lane.shard.shard_id for lane in request.lanes)
    assert counts == [500, 500, 200]
    assert len(seen) == 1200
    machine.abandon("Test", "enough")
    for at in range(12):
        machine.accept("k", b"x" * (MAX_RECORD_BYTES - 1), at * step, None, now=2.0)
    machine.flush()
    counts = []
    while (request := machine.step(2.0)) is not None:
        assert isinstance(request, PutRequest)
        assert sum(record_bytes(r.partition_key, r.data) for r in request.records) <= 10 * 2**20
        counts.append(len(request.records))
    assert counts == [10, 2]


def test_no_shard_starves_when_a_request_cannot_carry_all() -> None:
    machine = machine_with(20)
    step = (MAX_HASH_KEY + 1) // 20
    for _ in range(3):
        for at in range(20):
            machine.accept("k", b"x" * 900_000, at * step, None, now=1.0)
    machine.flush()
    served: list[str] = []
    for _ in range(2):
        request = sent(machine, 1.0)
        served += [lane.shard.shard_id for lane in request.lanes]
        answer(machine, request, 1.0)
    assert len(set(served)) == 20


def test_a_fatal_error_fails_the_record_with_all_about_it_and_not_the_next() -> None:
    machine = machine_with(max_aggregate_bytes=64)
    machine.accept("k", b"one" * 20, 5, "id-1", now=1.0)
    machine.accept("k", b"two", 5, "id-2", now=1.0)
    machine.flush()
    request = sent(machine, 1.0)
    machine.put_answered(request, [SLOW], now=1.0)
    request = sent(machine, 2.0)
    machine.put_answered(request, DENIED, now=2.0)
    answer(machine, sent(machine, 2.0), 2.0)
    first, second = machine.take_settled()
    assert isinstance(first.result, DeliveryError)
    assert (first.result.error_code, first.result.attempts) == ("AccessDeniedException", 2)
    assert not first.result.retriable
    lost = first.result.record
    assert (lost.partition_key, lost.data, lost.explicit_hash_key, lost.record_id) == (
        ("k", b"one" * 20, 5, "id-1")
    )
    assert second.result == PutResult("shard-0", "2.0", 0, 1, "id-2")


def test_a_record_that_spoils_a_request_fails_alone() -> None:
    machine = machine_with(3)
    step = (MAX_HASH_KEY + 1) // 3
    for at in range(3):
        machine.accept("k", b"poison" if at == 1 else b"good", at * step, None, now=1.0)
    machine.flush()
    refused = Failure("InvalidArgumentException", "one of them is bad", retriable=False)
    requests = 0
    while (request := machine.step(1.0)) is not None:
        assert isinstance(request, PutRequest)
        requests += 1
        if any(record.data == b"poison" for record in request.records):
            machine.put_answered(request, refused, now=1.0)
        else:
            answer(machine, request, 1.0)
    fates = {each.item.data: type(each.result) for each in machine.take_settled()}
    assert fates == {b"good": PutResult, b"poison": DeliveryError}
    assert requests == 4
    for at in range(3):
        machine.accept("k", b"after", at * step, None, now=2.0)
    machine.flush()
    assert len(sent(machine, 2.0).records) == 3


def test_what_cannot_be_routed_fails_with_the_reason_and_is_not_asked_for_in_a_hot_loop() -> None:
    machine = Machine(Settings(), rng=random.Random(1))
    accept(machine, b"1", 0.0)
    missing = Failure("ResourceNotFoundException", "no stream", retriable=False)
    assert machine.step(0.0) == ListRequest()
    machine.shards_listed(missing, now=0.0)
    (settled,) = machine.take_settled()
    assert isinstance(settled.result, DeliveryError)
    assert settled.result.error_code == "ResourceNotFoundException"
    assert settled.result.attempts == 0
    assert machine.wake_at() is None
    asked = 0
    now = 0.0
    while now < 20.0:
        accept(machine, b"2", now)
        now += 0.01
        if machine.step(now) is not None:
            asked += 1
            machine.shards_listed(missing, now=now)
    assert 4 <= asked <= 60


def test_a_list_with_a_gap_is_not_believed() -> None:
    machine = Machine(Settings(), rng=random.Random(1))
    machine.accept("k", b"x", 10, None, now=0.0)
    machine.step(0.0)
    machine.shards_listed(ShardMap([Shard("shard-0", 100, MAX_HASH_KEY)]), now=0.0)
    retry_at = machine.wake_at()
    assert retry_at is not None
    assert machine.step(retry_at) == ListRequest()
    machine.shards_listed(shard_map(1), now=retry_at)
    machine.flush()
    assert sent(machine, retry_at).records[0].data == b"x"


def test_a_merge_confirms_at_once_what_the_new_shard_covers() -> None:
    machine = machine_with(2)
    machine.accept("k", b"x", 0, None, now=1.0)
    machine.accept("k", b"y", MAX_HASH_KEY, None, now=1.0)
    machine.flush()
    request = sent(machine, 1.0)
    machine.put_answered(request, [Stored("shard-9", "1"), Stored("shard-9", "2")], now=1.0)
    assert machine.take_settled() == []
    assert machine.step(1.0) == ListRequest()
    closed = (
        Shard("shard-0", 0, 2**127 - 1, closed=True),
        Shard("shard-1", 2**127, MAX_HASH_KEY, closed=True),
    )
    machine.shards_listed(shard_map(1, first_id=9, closed=closed), now=1.0)
    results = [each.result for each in machine.take_settled()]
    assert results == [
        PutResult("shard-9", "1", 0, 1, None),
        PutResult("shard-9", "2", 0, 1, None),
    ]
    assert machine.step(1.0) is None


def test_a_split_sends_a_straddler_again_in_two_and_in_order() -> None:
    machine = machine_with(1)
    places = [0, MAX_HASH_KEY, 0, MAX_HASH_KEY]
    for n, place in enumerate(places):
        machine.accept("k", b"%d" % n, place, None, now=1.0)
    machine.flush()
    request = sent(machine, 1.0)
    machine.put_answered(request, [Stored("shard-1", "1")], now=1.0)
    machine.accept("k", b"4", 0, None, now=1.0)  # while the pack's place is in doubt
    assert machine.step(1.0) == ListRequest()
    assert machine.take_settled() == []
    closed = (Shard("shard-0", 0, MAX_HASH_KEY, closed=True),)
    machine.shards_listed(shard_map(2, first_id=1, closed=closed), now=1.0)
    machine.flush()
    again = sent(machine, 1.0)
    inside = [[user.data for user in decode(r.data) or ()] for r in again.records]
    assert inside == [[b"0", b"2", b"4"], [b"1", b"3"]]
    answer(machine, again, 1.5)
    attempts = [each.result.attempts for each in machine.take_settled()]
    assert sorted(attempts) == [1, 2, 2, 2, 2]


def test_what_grows_too_old_is_given_up_with_the_last_error_and_the_rest_goes_on() -> None:
    machine = machine_with(max_record_age=10.0)
    accept(machine, b"old", 0.0)
    accept(machine, b"young", 5.0)
    request = sent(machine, 5.0)
    machine.put_answered(request, [SLOW], now=9.95)
    machine.step(10.0)
    settled = machine.take_settled()
    assert [each.item.data for each in settled] == [b"old"]
    error = settled[0].result
    assert isinstance(error, DeliveryError)
    assert error.error_code == "RecordExpired"
    assert "slow down" in error.error_message
    assert error.retriable
    assert machine.buffered_records == 1


@given(age=st.floats(0.001, 60), at=st.floats(0, 1e9))
@settings(max_examples=200)
def test_waking_when_told_always_finds_something_to_do(age: float, at: float) -> None:
    assume(at + age > at)
    machine = Machine(Settings(max_record_age=age), rng=random.Random(1))
    accept(machine, b"x", at)
    assert machine.step(at) == ListRequest()
    machine.shards_listed(SLOW, now=at)
    for _ in range(300):
        wake = machine.wake_at()
        if wake is None:
            break
        if machine.step(wake) is not None:
            machine.shards_listed(SLOW, now=wake)
        elif not machine.take_settled():
            raise AssertionError("woke for nothing")
    else:
        raise AssertionError("never idle, though nothing is left to deliver")
    assert machine.buffered_records == 0


def test_abandon_settles_everything_and_later_answers_change_nothing() -> None:
    machine = machine_with(max_aggregate_bytes=64)
    for n in range(5):
        accept(machine, b"%d" % n * 30, 1.0)
    machine.flush()
    request = sent(machine, 1.0)
    machine.abandon("ProducerClosed", "enough")
    settled = machine.take_settled()
    assert [each.result.attempts for each in settled] == [1, 0, 0, 0, 0]
    assert all(isinstance(each.result, DeliveryError) for each in settled)
    answer(machine, request, 2.0)
    machine.shards_listed(shard_map(3), now=2.0)
    assert machine.take_settled() == []
    assert machine.buffered_records == machine.buffered_bytes == 0
    assert machine.step(2.0) is None
    assert machine.wake_at() is None


@pytest.mark.parametrize(
    "options",
    [
        {"linger": -1},
        {"linger": math.nan},
        {"max_record_age": math.nan},
        {"max_record_age": 0},
        {"max_aggregate_bytes": 63},
        {"max_record_bytes": 64},
    ],
)
def test_settings_out_of_bounds_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must"):
        Settings(**options)


def test_the_lanes_of_shards_that_are_gone_are_not_kept() -> None:
    machine = machine_with(4)
    for at in range(4):
        machine.accept("k", b"x", at * (MAX_HASH_KEY // 4 + 1), None, now=1.0)
    machine.flush()
    answer(machine, sent(machine, 1.0), 1.0)
    gone = tuple(replace(shard, closed=True) for shard in shard_map(4).open_shards)
    for generation in range(5):
        new = shard_map(2, first_id=10 + 2 * generation, closed=gone)
        machine.accept("k", b"x", 0, None, now=2.0)
        machine.flush()
        request = sent(machine, 2.0)
        where = new.open_shards[0].shard_id
        machine.put_answered(request, [Stored(where, "1")], now=2.0)
        assert machine.step(2.0) == ListRequest()
        machine.shards_listed(new, now=2.0)
        gone = tuple(replace(shard, closed=True) for shard in new.open_shards)
    assert machine.buffered_records == 0
    assert len(machine._lanes) <= 2


def test_a_stream_made_anew_under_its_old_name_is_not_taken_for_the_old_one() -> None:
    """Its shards have the same IDs and cover less, so an aggregate for the old one may straddle."""
    machine = machine_with(1)
    for hash_key_of in (0, MAX_HASH_KEY):
        machine.accept("k", b"x", hash_key_of, None, now=1.0)
    machine.flush()
    gone = Failure("ResourceNotFoundException", "no such stream", retriable=False)
    machine.put_answered(sent(machine, 1.0), gone, now=1.0)
    assert all(isinstance(each.result, DeliveryError) for each in machine.take_settled())
    for hash_key_of in (0, MAX_HASH_KEY):
        machine.accept("k", b"y", hash_key_of, None, now=2.0)
    machine.flush()
    assert machine.step(2.0) == ListRequest()
    machine.shards_listed(shard_map(2), now=2.0)
    request = sent(machine, 2.0)
    assert [record.explicit_hash_key for record in request.records] == [0, MAX_HASH_KEY]
    answer(machine, request, 2.0)
    assert all(isinstance(each.result, PutResult) for each in machine.take_settled())


def test_a_stream_that_is_still_being_made_is_waited_for() -> None:
    machine = Machine(Settings(), rng=random.Random(1))
    machine.accept("k", b"x", None, None, now=0.0)
    assert machine.step(0.0) == ListRequest()
    told: Any = {"Error": {"Code": "ResourceInUseException", "Message": "it is being created"}}
    machine.shards_listed(failure_of(ClientError(told, "ListShards")), now=0.0)
    assert machine.buffered_records == 1
    at = machine.wake_at()
    assert at is not None
    assert machine.step(at) == ListRequest()
