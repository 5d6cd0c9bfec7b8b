"""Groups and transactions against DynamoDB's limits, without DynamoDB."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumers.errors import SinkError
from consumers.record import StreamRecord
from consumers.sinks.base import Identified
from consumers.sinks.dynamodb_items import (
    MAX_ITEM_BYTES,
    MAX_TRANSACT_BYTES,
    MAX_TRANSACT_ITEMS,
    Known,
    Split,
    groups,
    read_keys,
    split,
    transaction,
)


def item(number: int, *, key: str = "k", record_id: str | None = None, size: int = 1) -> Identified:
    record = StreamRecord("shardId-0", str(number), 0, key, b"", None)
    return Identified(record_id or f"id-{number}", b"x" * size, record)


batches = st.lists(
    st.builds(
        item,
        st.integers(0, 10**6),
        key=st.text(min_size=1, max_size=3),
        record_id=st.none() | st.sampled_from(["a", "b"]),
        size=st.sampled_from([1, 100, 50_000, 390_000]),
    ),
    max_size=130,
)


def written(write: dict[str, Any]) -> tuple[str, str]:
    (body,) = write.values()
    place = body.get("Item") or body["Key"]
    return place["pk"]["S"], place["sk"]["S"]


@settings(max_examples=100, deadline=None)
@given(batch=batches, seen=st.sets(st.sampled_from(["a", "b", "id-1"])), head=st.integers(0, 5))
def test_whatever_the_table_says_a_group_fits_one_transaction(
    batch: list[Identified], seen: set[str], head: int
) -> None:
    cut = list(groups(batch))
    assert [one for group in cut for one in group] == batch
    for group in cut:
        assert group
        keys = {one.record.partition_key for one in group}
        known = Known(dict.fromkeys(seen, "w"), dict.fromkeys(keys, head) if head else {})
        parts = split(group, known)
        writes = transaction("t", parts, known.heads, token="w2", now=1.0, horizon=9.0)
        assert len(read_keys(group)) <= MAX_TRANSACT_ITEMS  # which is also BatchGetItem's limit
        assert 0 < len(writes) <= MAX_TRANSACT_ITEMS
        places = [written(write) for write in writes]
        assert len(set(places)) == len(places)  # DynamoDB takes each item once
        payload = sum(len(one.payload) for one in group)
        assert payload <= MAX_TRANSACT_BYTES


@settings(max_examples=100, deadline=None)
@given(batch=batches)
def test_positions_of_a_key_continue_without_a_gap_in_the_order_of_the_batch(
    batch: list[Identified],
) -> None:
    for group in groups(batch):
        parts = split(group, Known({}, {}))
        heads = {"k": 41}
        effects: dict[str, list[tuple[int, str]]] = {}
        for write in transaction("t", parts, heads, token="w", now=1.0, horizon=9.0):
            if "record_id" in write.get("Put", {}).get("Item", {}):
                put = write["Put"]["Item"]
                key = put["pk"]["S"].partition("#")[2]
                place = (int(put["sk"]["S"]), put["record_id"]["S"])
                effects.setdefault(key, []).append(place)
        for key, found in effects.items():
            start = heads.get(key, 0) + 1
            fresh = [one.record_id for one in parts.fresh if one.record.partition_key == key]
            assert found == list(enumerate(fresh, start))


def test_what_our_own_lost_transaction_stored_is_fresh() -> None:
    group = [item(1, record_id="a"), item(2, record_id="a"), item(3, record_id="b")]
    known = Known({"a": "ours", "b": "theirs"}, {})
    assert split(group, known, {"ours"}) == Split((group[0],), (group[1], group[2]))
    assert split(group, known) == Split((), tuple(group))


def test_a_record_too_large_for_an_item_stops_behind_those_before_it() -> None:
    batch = [item(1), item(2), item(3, size=MAX_ITEM_BYTES), item(4)]
    cut = groups(batch)
    assert next(cut) == batch[:2]
    with pytest.raises(SinkError, match="keep the payload in S3"):
        next(cut)


def test_a_payload_just_under_the_limit_passes() -> None:
    assert len(list(groups([item(1, size=MAX_ITEM_BYTES - 600)]))) == 1
