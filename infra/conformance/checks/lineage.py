"""Checks of resharding: which shards come of it, and how readers get from parents to children."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from infra.conformance.check import INVALID, check, equal, expect, refused
from infra.conformance.ground import Ground
from infra.conformance.records import (
    ending,
    gaps,
    hash_range,
    iterator,
    only,
    open_shards,
    pair,
    put,
    read,
    read_to_the_end,
    shards,
    starting,
    texts,
)
from records.limits import MAX_HASH_KEY

if TYPE_CHECKING:
    from types_boto3_kinesis.type_defs import ChildShardTypeDef, ShardTypeDef

AREA = "lineage"
MIDDLE = 2**127
LOW_KEY, HIGH_KEY = "a", "b"
"""Their MD5 begins with 0c and with 92: one lies below the middle of the key space, one above."""

NOT_FOUND_OR_INVALID = (*INVALID, "ResourceNotFoundException", "ResourceInUseException")


@dataclass(frozen=True, slots=True)
class Split:
    """A stream whose only shard was split in the middle, with records before and after.

    Attributes:
        name: The stream.
        parent: The closed shard, with the records `low 0` to `low 2` and `high 0` to `high 2`.
        low: The child with the lower hash keys, with the record `low after`.
        high: The child with the higher ones, with the record `high after`.
        before: The highest sequence number put before the split.
        after: The sequence numbers of the two records put after it.
        first: The sequence number of the first record.
    """

    name: str
    parent: "ShardTypeDef"
    low: "ShardTypeDef"
    high: "ShardTypeDef"
    first: int
    before: int
    after: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Merged:
    """A stream of two shards that were merged, with a record before and one after.

    Attributes:
        name: The stream.
        kept: The closed shard that was given as ShardToMerge, with the record `low`.
        adjacent: The one given as AdjacentShardToMerge, with the record `high`.
        child: The shard that came of them, with the record `after`.
    """

    name: str
    kept: "ShardTypeDef"
    adjacent: "ShardTypeDef"
    child: "ShardTypeDef"


def _split(ground: Ground) -> Split:
    def make() -> Split:
        name = ground.stream()
        placed = [
            put(ground, name, f"{part} {number}", key=key)
            for number in range(3)
            for part, key in (("low", LOW_KEY), ("high", HIGH_KEY))
        ]
        _split_first(ground, name, MIDDLE)
        after = [
            put(ground, name, f"{part} after", key=key)
            for part, key in (("low", LOW_KEY), ("high", HIGH_KEY))
        ]
        parent = _closed(ground, name, "closed shard after a split")
        low, high = pair(open_shards(ground, name), "open shards after a split")
        numbers = [each.sequence_number for each in placed]
        low_after, high_after = (each.sequence_number for each in after)
        return Split(name, parent, low, high, min(numbers), max(numbers), (low_after, high_after))

    return ground.once("split", make)


def _merged(ground: Ground) -> Merged:
    def make() -> Merged:
        name = ground.stream(2)
        low, high = pair(open_shards(ground, name), "open shards of a new stream")
        put(ground, name, "low", key=LOW_KEY)
        put(ground, name, "high", key=HIGH_KEY)
        _merge(ground, name, low, high)
        put(ground, name, "after")
        found = shards(ground, name)
        kept = only([s for s in found if s["ShardId"] == low["ShardId"]], "ShardToMerge listed")
        other = [s for s in found if s["ShardId"] == high["ShardId"]]
        adjacent = only(other, "AdjacentShardToMerge listed")
        return Merged(name, kept, adjacent, only(open_shards(ground, name), "open shard"))

    return ground.once("merged", make)


@check("split-open", source="SplitShard", area=AREA)
def split_open(ground: Ground) -> None:
    """After a split the parent is closed, and two shards are open."""
    split = _split(ground)
    found = shards(ground, split.name)
    equal(sum(ending(shard) is None for shard in found), 2, "open shards")
    equal(sum(ending(shard) is not None for shard in found), 1, "closed shards")
    equal(ground.active(split.name)["OpenShardCount"], 2, "OpenShardCount")


@check("split-ranges", source="SplitShard: NewStartingHashKey", area=AREA)
def split_ranges(ground: Ground) -> None:
    """The children share the hash range of the parent; the new starting hash key begins one."""
    split = _split(ground)
    low, high = hash_range(split.parent)
    equal(gaps([split.low, split.high], low, high), "", "gaps")
    equal(hash_range(split.high)[0], MIDDLE, "start of the upper child")


@check("split-parents", source="Shard: ParentShardId, AdjacentParentShardId", area=AREA)
def split_parents(ground: Ground) -> None:
    """Both children name the parent, and no adjacent parent."""
    split = _split(ground)
    for child in (split.low, split.high):
        equal(child.get("ParentShardId"), split.parent["ShardId"], "ParentShardId")
        equal(child.get("AdjacentParentShardId"), None, "AdjacentParentShardId")


@check("split-range-kept", source="Shard: HashKeyRange", area=AREA)
def split_range_kept(ground: Ground) -> None:
    """A closed shard keeps its hash range."""
    equal(hash_range(_split(ground).parent), (0, MAX_HASH_KEY), "hash range of the parent")


@check("split-ending", source="SequenceNumberRange: EndingSequenceNumber", area=AREA)
def split_ending(ground: Ground) -> None:
    """The parent ends at or after its last record, and before its children start."""
    split = _split(ground)
    end = ending(split.parent) or 0
    expect(end >= split.before, f"an ending of at least {split.before}", end)
    for child in (split.low, split.high):
        expect(starting(child) > end, f"a child that starts after {end}", starting(child))


@check("split-sequence", source="PutRecord: SequenceNumber, increases over time", area=AREA)
def split_sequence(ground: Ground) -> None:
    """Records put after a split have greater sequence numbers than those put before it."""
    split = _split(ground)
    expect(min(split.after) > split.before, f"more than {split.before}", split.after)


@check("split-new-records", source="Resharding: records go to the children", area=AREA)
def split_new_records(ground: Ground) -> None:
    """Records put after a split are in the children, each in the one whose hash range it has."""
    split = _split(ground)
    for shard, text in ((split.low, "low after"), (split.high, "high after")):
        start = iterator(ground, split.name, shard["ShardId"], "TRIM_HORIZON")
        equal(texts(read(ground, start, 1)), [text], shard["ShardId"])


@check("split-parent-readable", source="Resharding: the parent stays readable", area=AREA)
def split_parent_readable(ground: Ground) -> None:
    """The parent gives all of its records, in order, and none that was put after the split."""
    split = _split(ground)
    start = iterator(ground, split.name, split.parent["ShardId"], "TRIM_HORIZON")
    found, _ = read_to_the_end(ground, start)
    wanted = [f"{part} {number}" for number in range(3) for part in ("low", "high")]
    equal(texts(found), wanted)


@check("split-child-shards", source="GetRecords: ChildShards", area=AREA)
def split_child_shards(ground: Ground) -> None:
    """The last answer of the parent names both children, with their parent and hash ranges."""
    split = _split(ground)
    start = iterator(ground, split.name, split.parent["ShardId"], "TRIM_HORIZON")
    _, last = read_to_the_end(ground, start)
    wanted = [_child(split.low, [split.parent]), _child(split.high, [split.parent])]
    equal(_children(last.get("ChildShards")), _children(wanted), "ChildShards")


@check("split-iterator-kept", source="GetRecords: ShardIterator", area=AREA)
def split_iterator_kept(ground: Ground) -> None:
    """An iterator given before a split reads the parent to its end after it."""
    name = ground.stream()
    parent = only(open_shards(ground, name), "shard of a new stream")
    start = iterator(ground, name, parent["ShardId"], "LATEST")
    put(ground, name, "last")
    _split_first(ground, name, MIDDLE)
    found, _ = read_to_the_end(ground, start)
    equal(texts(found), ["last"])


@check("closed-latest", source="GetShardIterator: LATEST", area=AREA)
def closed_latest(ground: Ground) -> None:
    """LATEST on a closed shard has no records and comes to the end."""
    split = _split(ground)
    start = iterator(ground, split.name, split.parent["ShardId"], "LATEST")
    equal(texts(read_to_the_end(ground, start)[0]), [])


@check("closed-sequence", source="GetShardIterator: AT_, AFTER_SEQUENCE_NUMBER", area=AREA)
def closed_sequence(ground: Ground) -> None:
    """A closed shard is read from its first record, from after it, and from after its last."""
    split = _split(ground)
    for kind, number, count in (
        ("AT_SEQUENCE_NUMBER", split.first, 6),
        ("AFTER_SEQUENCE_NUMBER", split.first, 5),
        ("AFTER_SEQUENCE_NUMBER", split.before, 0),
    ):
        start = iterator(
            ground,
            split.name,
            split.parent["ShardId"],
            kind,
            StartingSequenceNumber=str(number),
        )
        equal(len(read_to_the_end(ground, start)[0]), count, f"records {kind} {number}:")


@check("split-outside", source="SplitShard: NewStartingHashKey, in the range", area=AREA)
def split_outside(ground: Ground) -> None:
    """A split at a hash key that the shard does not hold is refused."""
    name = ground.stream(2)
    low, high = pair(open_shards(ground, name), "shards of a new stream")
    refused(INVALID, lambda: _begin_split(ground, name, low, hash_range(high)[0] + 1))
    equal(len(shards(ground, name)), 2, "shards")


@check("split-at-start", source="SplitShard: NewStartingHashKey, lower keys to a child", area=AREA)
def split_at_start(ground: Ground) -> None:
    """A split at the first hash key of the shard, which leaves nothing below it, is refused."""
    name = ground.stream()
    shard = only(open_shards(ground, name), "shard of a new stream")
    refused(INVALID, lambda: _begin_split(ground, name, shard, 0))


@check("split-closed", source="SplitShard", area=AREA)
def split_closed(ground: Ground) -> None:
    """A closed shard cannot be split again."""
    split = _split(ground)
    refused(
        NOT_FOUND_OR_INVALID,
        lambda: _begin_split(ground, split.name, split.parent, MIDDLE),
    )


@check("split-missing", source="SplitShard: ResourceNotFoundException", area=AREA)
def split_missing(ground: Ground) -> None:
    """A shard that does not exist is not found by a split."""
    shard: Any = {"ShardId": "shardId-000000000999"}
    name = ground.shared_stream()
    refused("ResourceNotFoundException", lambda: _begin_split(ground, name, shard, MIDDLE))


@check("merge-open", source="MergeShards", area=AREA)
def merge_open(ground: Ground) -> None:
    """After a merge one shard is open, with the hash ranges of both that were merged."""
    merged = _merged(ground)
    equal(len(shards(ground, merged.name)), 3, "shards")
    equal(len(open_shards(ground, merged.name)), 1, "open shards")
    equal(hash_range(merged.child), (0, MAX_HASH_KEY), "hash range")


@check("merge-parents", source="Shard: ParentShardId, AdjacentParentShardId", area=AREA)
def merge_parents(ground: Ground) -> None:
    """The child names the shard that was merged as its parent, the other as the adjacent one."""
    merged = _merged(ground)
    equal(merged.child.get("ParentShardId"), merged.kept["ShardId"], "ParentShardId")
    found = merged.child.get("AdjacentParentShardId")
    equal(found, merged.adjacent["ShardId"], "AdjacentParentShardId")


@check("merge-ending", source="SequenceNumberRange: EndingSequenceNumber", area=AREA)
def merge_ending(ground: Ground) -> None:
    """Both parents are closed, and the child starts after the end of both."""
    merged = _merged(ground)
    for parent in (merged.kept, merged.adjacent):
        end = ending(parent)
        expect(end is not None, f"{parent['ShardId']} closed", "open")
        expect(starting(merged.child) > (end or 0), f"more than {end}", starting(merged.child))


@check("merge-read", source="GetRecords: ChildShards", area=AREA)
def merge_read(ground: Ground) -> None:
    """Both parents are readable to their end, where each names the one child with both parents."""
    merged = _merged(ground)
    wanted = _children([_child(merged.child, [merged.kept, merged.adjacent])])
    for parent, text in ((merged.kept, "low"), (merged.adjacent, "high")):
        start = iterator(ground, merged.name, parent["ShardId"], "TRIM_HORIZON")
        found, last = read_to_the_end(ground, start)
        equal(texts(found), [text], parent["ShardId"])
        equal(_children(last.get("ChildShards")), wanted, "ChildShards")
    start = iterator(ground, merged.name, merged.child["ShardId"], "TRIM_HORIZON")
    equal(texts(read(ground, start, 1)), ["after"], "child")


@check("merge-not-adjacent", source="MergeShards: InvalidArgumentException", area=AREA)
def merge_not_adjacent(ground: Ground) -> None:
    """Two shards whose hash ranges do not meet cannot be merged."""
    name = ground.stream(3)
    first, _, third = open_shards(ground, name)
    refused(INVALID, lambda: _begin_merge(ground, name, first, third))


def _split_first(ground: Ground, name: str, place: int) -> None:
    """Split the only shard of a stream and wait until the stream can be used again."""
    shard = only(open_shards(ground, name), "shard of a new stream")
    _begin_split(ground, name, shard, place)
    ground.active(name)


def _closed(ground: Ground, name: str, what: str) -> "ShardTypeDef":
    return only([shard for shard in shards(ground, name) if ending(shard) is not None], what)


def _begin_split(ground: Ground, name: str, shard: "ShardTypeDef", place: int) -> None:
    ground.kinesis.split_shard(
        StreamName=name, ShardToSplit=shard["ShardId"], NewStartingHashKey=str(place)
    )


def _merge(ground: Ground, name: str, shard: "ShardTypeDef", adjacent: "ShardTypeDef") -> None:
    """Merge two shards and wait until the stream can be used again."""
    _begin_merge(ground, name, shard, adjacent)
    ground.active(name)


def _begin_merge(
    ground: Ground, name: str, shard: "ShardTypeDef", adjacent: "ShardTypeDef"
) -> None:
    ground.kinesis.merge_shards(
        StreamName=name,
        ShardToMerge=shard["ShardId"],
        AdjacentShardToMerge=adjacent["ShardId"],
    )


def _child(shard: "ShardTypeDef", parents: "list[ShardTypeDef]") -> "ChildShardTypeDef":
    """Return what `ChildShards` says of a shard."""
    return {
        "ShardId": shard["ShardId"],
        "ParentShards": [parent["ShardId"] for parent in parents],
        "HashKeyRange": shard["HashKeyRange"],
    }


def _children(found: "list[ChildShardTypeDef] | None") -> list[tuple[str, list[str], object]]:
    """Return child shards in a form in which neither their order nor that of parents counts."""
    return sorted(
        (each["ShardId"], sorted(each["ParentShards"]), each["HashKeyRange"])
        for each in found or []
    )
