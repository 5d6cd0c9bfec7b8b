import hashlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from records.limits import MAX_HASH_KEY
from records.partition import Shard, ShardMap, hash_key

hash_keys = st.integers(0, MAX_HASH_KEY)


def listed(
    number: int,
    start: int,
    end: int,
    *,
    parent: int | None = None,
    adjacent: int | None = None,
    ending: str | None = None,
):
    shard = {
        "ShardId": f"shardId-{number:012}",
        "HashKeyRange": {"StartingHashKey": str(start), "EndingHashKey": str(end)},
        "SequenceNumberRange": {"StartingSequenceNumber": "1"},
    }
    if parent is not None:
        shard["ParentShardId"] = f"shardId-{parent:012}"
    if adjacent is not None:
        shard["AdjacentParentShardId"] = f"shardId-{adjacent:012}"
    if ending is not None:
        shard["SequenceNumberRange"]["EndingSequenceNumber"] = ending
    return shard


@st.composite
def partitions(draw: Any):
    """The hash space cut at random places, as ListShards answers, shuffled."""
    cuts = sorted(draw(st.sets(st.integers(1, MAX_HASH_KEY), max_size=20)))
    starts = [0, *cuts]
    ends = [*(cut - 1 for cut in cuts), MAX_HASH_KEY]
    shards = [
        listed(i, start, end) for i, (start, end) in enumerate(zip(starts, ends, strict=True))
    ]
    return draw(st.permutations(shards))


@given(st.text(st.characters(exclude_categories=["Cs"])))
@settings(max_examples=100)
def test_a_partition_key_hashes_to_its_md5(key: Any):
    assert f"{hash_key(key):032x}" == hashlib.md5(key.encode()).hexdigest()


@given(partitions(), hash_keys)
@settings(max_examples=200)
def test_every_hash_key_has_one_open_shard_and_it_covers_it(shards: list[dict[str, Any]], key: Any):
    found = ShardMap.from_list_shards(shards).shard_for(key)
    assert found.covers(key)
    assert sum(Shard.from_list_shards(shard).covers(key) for shard in shards) == 1


@given(partitions())
@settings(max_examples=100)
def test_the_first_and_the_last_hash_key_of_each_shard_are_its_own(shards: list[dict[str, Any]]):
    found = ShardMap.from_list_shards(shards)
    assert [shard.starting_hash_key for shard in found.open_shards] == sorted(
        int(shard["HashKeyRange"]["StartingHashKey"]) for shard in shards
    )
    for shard in found.open_shards:
        assert found.shard_for(shard.starting_hash_key) is shard
        assert found.shard_for(shard.ending_hash_key) is shard
        assert not shard.covers(shard.starting_hash_key - 1)
        assert not shard.covers(shard.ending_hash_key + 1)


HALF = 2**127


def test_after_a_split_the_children_take_the_records_and_the_parent_is_still_known():
    found = ShardMap.from_list_shards(
        [
            # kinesis-mock ends each closed shard at 2**63 - 1: that it ends is what counts.
            listed(0, 0, MAX_HASH_KEY, ending="9223372036854775807"),
            listed(1, 0, HALF - 1, parent=0),
            listed(2, HALF, MAX_HASH_KEY, parent=0),
        ]
    )
    assert [shard.shard_id[-1] for shard in found.open_shards] == ["1", "2"]
    assert found.shard_for(HALF - 1).shard_id[-1] == "1"
    assert found.shard_for(HALF).shard_id[-1] == "2"
    parent = found.shard("shardId-000000000000")
    assert parent is not None
    assert parent.closed
    assert found.open_shards[0].parent_shard_id == parent.shard_id
    assert found.shard("shardId-000000000009") is None
    assert len(found) == 3


def test_after_a_merge_both_parents_are_named():
    found = ShardMap.from_list_shards(
        [
            listed(0, 0, HALF - 1, ending="5"),
            listed(1, HALF, MAX_HASH_KEY, ending="5"),
            listed(2, 0, MAX_HASH_KEY, parent=0, adjacent=1),
        ]
    )
    (child,) = found.open_shards
    assert child.parent_shard_id == "shardId-000000000000"
    assert child.adjacent_parent_shard_id == "shardId-000000000001"


def test_a_parent_that_still_looks_open_loses_to_its_children():
    found = ShardMap.from_list_shards(
        [
            listed(0, 0, MAX_HASH_KEY),
            listed(1, 0, HALF - 1, parent=0),
            listed(2, HALF, MAX_HASH_KEY, parent=0),
        ]
    )
    assert [found.shard_for(key).shard_id[-1] for key in (0, HALF - 1, HALF, MAX_HASH_KEY)] == [
        "1",
        "1",
        "2",
        "2",
    ]
    assert [shard.shard_id[-1] for shard in found.open_shards] == ["1", "2"]


@pytest.mark.parametrize("order", [1, -1])
def test_parents_of_a_merge_that_still_look_open_lose_to_their_child(order: int):
    shards = [
        listed(0, 0, HALF - 1),
        listed(1, HALF, MAX_HASH_KEY),
        listed(2, 0, MAX_HASH_KEY, parent=0, adjacent=1),
    ]
    found = ShardMap.from_list_shards(shards[::order])
    assert [shard.shard_id[-1] for shard in found.open_shards] == ["2"]
    for key in (0, HALF - 1, HALF, MAX_HASH_KEY):
        assert found.shard_for(key).shard_id[-1] == "2"
    assert found.shard("shardId-000000000000") is not None


def test_where_a_child_is_missing_its_parent_does_not_take_its_records():
    """The list shows half of a split: what belongs to the other half is not to be guessed."""
    found = ShardMap.from_list_shards(
        [listed(0, 0, MAX_HASH_KEY), listed(1, 0, HALF - 1, parent=0)]
    )
    assert found.shard_for(0).shard_id[-1] == "1"
    with pytest.raises(LookupError):
        found.shard_for(HALF)


@pytest.mark.parametrize(
    "shards",
    [
        [],
        [listed(0, 0, MAX_HASH_KEY, ending="5")],
        [listed(1, 0, 6), listed(2, 8, MAX_HASH_KEY)],
        [listed(1, 0, 6)],
    ],
)
def test_a_hole_in_the_map_is_no_neighbours(shards: list[dict[str, Any]]):
    with pytest.raises(LookupError):
        ShardMap.from_list_shards(shards).shard_for(7)


@pytest.mark.parametrize("outside", [-1, MAX_HASH_KEY + 1])
def test_a_hash_key_outside_the_space(outside: int):
    with pytest.raises(ValueError, match="hash key"):
        ShardMap.from_list_shards([listed(0, 0, MAX_HASH_KEY)]).shard_for(outside)
