"""Putting and reading records for checks, with the patience that AWS asks for."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from infra.conformance.ground import Deviation, Ground
from records.limits import MAX_HASH_KEY

if TYPE_CHECKING:
    from types_boto3_kinesis.type_defs import GetRecordsOutputTypeDef, RecordTypeDef, ShardTypeDef

READ_PAUSE_SECONDS = 0.25
"""Between two empty answers; a shard takes five GetRecords a second."""

READ_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Placed:
    """Where Kinesis says it has put a record."""

    shard_id: str
    sequence_number: int


def put(ground: Ground, stream: str, data: str, *, key: str = "key", **more: Any) -> Placed:
    """Put one record; `more` are further arguments of `PutRecord`."""
    answer = ground.kinesis.put_record(
        StreamName=stream, Data=data.encode(), PartitionKey=key, **more
    )
    return Placed(answer["ShardId"], int(answer["SequenceNumber"]))


def put_at(ground: Ground, stream: str, data: str, hash_key: int) -> Placed:
    """Put one record at a place of the hash key space."""
    return put(ground, stream, data, ExplicitHashKey=str(hash_key))


def iterator(ground: Ground, stream: str, shard_id: str, kind: str, **more: Any) -> str:
    """Return a shard iterator; `more` are further arguments of `GetShardIterator`."""
    answer = ground.kinesis.get_shard_iterator(
        StreamName=stream,
        ShardId=shard_id,
        ShardIteratorType=kind,  # type: ignore[arg-type] # also kinds that do not exist
        **more,
    )
    return answer["ShardIterator"]


def beginning(ground: Ground, stream: str, shard_id: str | None = None) -> str:
    """Return an iterator at the beginning of a shard; of the stream's first one when None."""
    return iterator(ground, stream, shard_id or first_shard(ground, stream), "TRIM_HORIZON")


def read(ground: Ground, start: str, count: int, **more: Any) -> "list[RecordTypeDef]":
    """Read until there are this many records; an empty answer does not mean that there are none.

    Raises:
        Deviation: They do not come, the shard ends before, or an answer has more than asked for.
    """
    found: list[RecordTypeDef] = []
    at: str | None = start
    end = time.monotonic() + READ_SECONDS
    while len(found) < count:
        if at is None:
            raise Deviation(f"{count} records", f"the end of the shard after {len(found)}")
        if time.monotonic() > end:
            raise Deviation(f"{count} records within {READ_SECONDS:g} s", f"{len(found)} records")
        answer = ground.kinesis.get_records(ShardIterator=at, **more)
        found += answer["Records"]
        at = answer.get("NextShardIterator")
        if not answer["Records"]:
            ground.pause(READ_PAUSE_SECONDS)
    return found


def read_to_the_end(
    ground: Ground, start: str
) -> "tuple[list[RecordTypeDef], GetRecordsOutputTypeDef]":
    """Read a closed shard; return its records and the last answer, which has no next iterator.

    Raises:
        Deviation: The end does not come.
    """
    found: list[RecordTypeDef] = []
    at = start
    end = time.monotonic() + READ_SECONDS
    while time.monotonic() < end:
        answer = ground.kinesis.get_records(ShardIterator=at)
        found += answer["Records"]
        following = answer.get("NextShardIterator")
        if following is None:
            return found, answer
        at = following
        ground.pause(READ_PAUSE_SECONDS)
    raise Deviation(
        f"NextShardIterator null within {READ_SECONDS:g} s at the end of a closed shard",
        f"a next iterator after {len(found)} records",
    )


def texts(records: "Sequence[RecordTypeDef]") -> list[str]:
    """Return the data of records."""
    return [record["Data"].decode() for record in records]


def first_shard(ground: Ground, stream: str) -> str:
    """Return the ID of a stream's first shard."""
    return ground.kinesis.list_shards(StreamName=stream)["Shards"][0]["ShardId"]


def shards(ground: Ground, stream: str) -> "list[ShardTypeDef]":
    """Return all shards of a stream, open and closed, in the order of their hash ranges and IDs."""
    found = ground.kinesis.list_shards(StreamName=stream)["Shards"]
    return sorted(found, key=lambda shard: (hash_range(shard)[0], shard["ShardId"]))


def open_shards(ground: Ground, stream: str) -> "list[ShardTypeDef]":
    """Return the open shards of a stream in the order of their hash ranges."""
    return [shard for shard in shards(ground, stream) if ending(shard) is None]


def only(found: "Sequence[ShardTypeDef]", what: str) -> "ShardTypeDef":
    """Return the one shard there is; `what` says what kind of shard it is.

    Raises:
        Deviation: There are more, or none.
    """
    if len(found) != 1:
        raise Deviation(f"one {what}", f"{len(found)}: {[shard['ShardId'] for shard in found]}")
    return found[0]


def pair(found: "Sequence[ShardTypeDef]", what: str) -> "tuple[ShardTypeDef, ShardTypeDef]":
    """Return the two shards there are; `what` says what kind of shards they are.

    Raises:
        Deviation: There are not two.
    """
    if len(found) != 2:
        raise Deviation(f"two {what}", f"{len(found)}: {[shard['ShardId'] for shard in found]}")
    return found[0], found[1]


def hash_range(shard: "ShardTypeDef") -> tuple[int, int]:
    """Return the first and the last hash key of a shard."""
    found = shard["HashKeyRange"]
    return int(found["StartingHashKey"]), int(found["EndingHashKey"])


def starting(shard: "ShardTypeDef") -> int:
    """Return the lowest sequence number of a shard."""
    return int(shard["SequenceNumberRange"]["StartingSequenceNumber"])


def ending(shard: "ShardTypeDef") -> int | None:
    """Return the highest sequence number of a closed shard, and None for an open one."""
    found = shard["SequenceNumberRange"].get("EndingSequenceNumber")
    return None if found is None else int(found)


def gaps(found: "Sequence[ShardTypeDef]", first: int = 0, last: int = MAX_HASH_KEY) -> str:
    """Say where the hash ranges of shards leave a gap or overlap; empty if they make one whole."""
    at = first
    for low, high in sorted(hash_range(shard) for shard in found):
        if low != at:
            return f"a shard from {low}, where {at} was next"
        at = high + 1
    return "" if at == last + 1 else f"the last shard ends at {at - 1}, not at {last}"
