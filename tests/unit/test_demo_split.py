from hypothesis import given
from hypothesis import strategies as st

from kit.demo.split import choose_split
from records.limits import MAX_HASH_KEY
from records.partition import ShardMap, hash_key


def shard_map(count: int) -> ShardMap:
    width = (MAX_HASH_KEY + 1) // count
    return ShardMap.from_list_shards(
        {
            "ShardId": f"shardId-{n:012d}",
            "HashKeyRange": {
                "StartingHashKey": str(n * width),
                "EndingHashKey": str(MAX_HASH_KEY if n == count - 1 else (n + 1) * width - 1),
            },
            "SequenceNumberRange": {"StartingSequenceNumber": "1"},
        }
        for n in range(count)
    )


@given(
    shards=st.integers(1, 4),
    things=st.lists(st.text("abcdefgh", min_size=1, max_size=8), min_size=1, unique=True),
)
def test_the_boundary_is_one_that_kinesis_takes_and_parts_the_devices(
    shards: int, things: list[str]
) -> None:
    split = choose_split(shard_map(shards), things)
    assert split.shard.starting_hash_key < split.new_starting_hash_key
    assert split.new_starting_hash_key <= split.shard.ending_hash_key
    assert all(hash_key(thing) < split.new_starting_hash_key for thing in split.lower_things)
    assert all(hash_key(thing) >= split.new_starting_hash_key for thing in split.upper_things)
    if len(things) > shards:  # then some shard has two of them
        assert split.lower_things
        assert split.upper_things
