"""Checks of where a record goes, and of the order that its sequence number promises."""

from hashlib import md5

from infra.conformance.check import INVALID, check, equal, expect, refused
from infra.conformance.ground import Ground
from infra.conformance.records import (
    Placed,
    hash_range,
    iterator,
    only,
    open_shards,
    pair,
    put,
    put_at,
    read,
    starting,
    texts,
)
from records.limits import MAX_HASH_KEY

AREA = "routing"


@check("route-by-md5", source="PutRecord: PartitionKey, MD5 to a 128-bit integer", area=AREA)
def route_by_md5(ground: Ground) -> None:
    """A record goes to the shard whose hash range holds the MD5 of its partition key."""
    name = ground.stream(4)
    shards = [(shard["ShardId"], hash_range(shard)) for shard in open_shards(ground, name)]
    # One of two bytes a character as well: what counts is the key in UTF-8.
    for key in [*(f"key-{number}" for number in range(24)), "Grüße", "\N{SNOWMAN}"]:
        place = int.from_bytes(md5(key.encode(), usedforsecurity=False).digest(), "big")
        (wanted,) = [shard for shard, (low, high) in shards if low <= place <= high]
        equal(put(ground, name, "x", key=key).shard_id, wanted, f"shard of {key!r}:")


@check("route-explicit-edges", source="PutRecord: ExplicitHashKey", area=AREA)
def route_explicit_edges(ground: Ground) -> None:
    """An explicit hash key at either end of a hash range leads to that shard, for every shard."""
    name = ground.stream(3)
    for shard in open_shards(ground, name):
        for place in hash_range(shard):
            found = put_at(ground, name, "x", place).shard_id
            equal(found, shard["ShardId"], f"shard of {place}:")


@check("route-explicit-over-key", source="PutRecord: ExplicitHashKey overrides", area=AREA)
def route_explicit_over_key(ground: Ground) -> None:
    """The explicit hash key decides against the partition key, which stays what it was."""
    name = ground.stream(2)
    _, upper = pair(open_shards(ground, name), "shards of a new stream")
    start = iterator(ground, name, upper["ShardId"], "TRIM_HORIZON")
    # The MD5 of "a" lies in the lower half.
    placed = put(ground, name, "x", key="a", ExplicitHashKey=str(MAX_HASH_KEY))
    equal(placed.shard_id, upper["ShardId"], "shard:")
    equal(read(ground, start, 1)[0]["PartitionKey"], "a", "partition key")


@check("route-put-records", source="PutRecords: ExplicitHashKey, ShardId", area=AREA)
def route_put_records(ground: Ground) -> None:
    """Each record of a PutRecords goes its own way; the answer says which, in the order sent."""
    name = ground.stream(3)
    found = open_shards(ground, name)
    wanted = [found[number % 3]["ShardId"] for number in range(12)]
    answer = ground.kinesis.put_records(
        StreamName=name,
        Records=[
            {
                "Data": b"x",
                "PartitionKey": "k",
                "ExplicitHashKey": str(hash_range(found[number % 3])[0]),
            }
            for number in range(12)
        ],
    )
    equal([each.get("ShardId") for each in answer["Records"]], wanted, "shards")


@check("route-same-key", source="PutRecord: the same partition key, the same shard", area=AREA)
def route_same_key(ground: Ground) -> None:
    """All records of a partition key go to one shard."""
    name = ground.stream(4)
    for key in ("red", "green", "blue"):
        found = {put(ground, name, "x", key=key).shard_id for _ in range(4)}
        equal(len(found), 1, f"shards of {key!r}:")


@check("sequence-increases", source="PutRecord: SequenceNumber", area=AREA)
def sequence_increases(ground: Ground) -> None:
    """The sequence numbers of records put one after the other in a shard increase."""
    name = ground.stream()
    found = [put(ground, name, str(number)).sequence_number for number in range(20)]
    expect(found == sorted(set(found)), "increasing sequence numbers", found)


@check("sequence-of-put-records", source="PutRecords; Record: SequenceNumber", area=AREA)
def sequence_of_put_records(ground: Ground) -> None:
    """A shard is read in the order of its sequence numbers, which are those of the answers."""
    name = ground.stream()
    start = iterator(ground, name, "shardId-000000000000", "TRIM_HORIZON")
    numbers: list[str] = []
    for _ in range(2):
        answer = ground.kinesis.put_records(
            StreamName=name,
            Records=[{"Data": b"x", "PartitionKey": f"k{each}"} for each in range(10)],
        )
        numbers += [each["SequenceNumber"] for each in answer["Records"]]
    found = [record["SequenceNumber"] for record in read(ground, start, 20)]
    equal(found, sorted(set(numbers), key=int), "sequence numbers")


@check("sequence-above-start", source="Shard: SequenceNumberRange", area=AREA)
def sequence_above_start(ground: Ground) -> None:
    """No record of a shard has a lower number than the shard's StartingSequenceNumber."""
    name = ground.stream()
    shard = only(open_shards(ground, name), "shard of a new stream")
    placed = put(ground, name, "x")
    expect(
        placed.sequence_number >= starting(shard),
        f"at least {starting(shard)}",
        placed.sequence_number,
    )


@check("sequence-decimal", source="SequenceNumber: pattern 0|([1-9]\\d{0,128})", area=AREA)
def sequence_decimal(ground: Ground) -> None:
    """A sequence number is a decimal number of at most 129 digits without leading zeros."""
    name = ground.stream()
    answer = ground.kinesis.put_record(StreamName=name, Data=b"x", PartitionKey="k")
    found = answer["SequenceNumber"]
    good = found.isdecimal() and str(int(found)) == found and len(found) <= 129
    expect(good, "a decimal number", found)


@check("sequence-for-ordering", source="PutRecord: SequenceNumberForOrdering", area=AREA)
def sequence_for_ordering(ground: Ground) -> None:
    """With the number of the record before it, a record of the same key gets a greater one."""
    name = ground.stream()
    before = put(ground, name, "0")
    placed = [before]
    for number in range(1, 6):
        before = _after(ground, name, before, str(number))
        placed.append(before)
    found = [each.sequence_number for each in placed]
    expect(found == sorted(set(found)), "increasing sequence numbers", found)
    start = iterator(ground, name, before.shard_id, "TRIM_HORIZON")
    equal(texts(read(ground, start, 6)), [str(number) for number in range(6)], "records")


@check("sequence-for-ordering-wrong", source="SequenceNumber: pattern", area=AREA)
def sequence_for_ordering_wrong(ground: Ground) -> None:
    """A SequenceNumberForOrdering that is no number is refused."""
    name = ground.stream()
    refused(INVALID, lambda: put(ground, name, "x", SequenceNumberForOrdering="soon"))


def _after(ground: Ground, stream: str, before: Placed, data: str) -> Placed:
    return put(ground, stream, data, SequenceNumberForOrdering=str(before.sequence_number))
