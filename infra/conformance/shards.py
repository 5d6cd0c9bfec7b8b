"""The first shard of a stream, read from its beginning, as several checks have to."""

from typing import TYPE_CHECKING

from infra.conformance import records
from infra.conformance.ground import Ground

if TYPE_CHECKING:
    from types_boto3_kinesis.type_defs import RecordTypeDef


def first_shard(ground: Ground, stream: str) -> str:
    """Return the ID of a stream's first shard."""
    return ground.kinesis.list_shards(StreamName=stream)["Shards"][0]["ShardId"]


def iterator(ground: Ground, stream: str, shard: str | None = None) -> str:
    """Return an iterator at the beginning of a shard; of the stream's first one when None."""
    shard = shard or first_shard(ground, stream)
    return records.iterator(ground, stream, shard, "TRIM_HORIZON")


def read(
    ground: Ground, stream: str, count: int, shard: str | None = None
) -> "list[RecordTypeDef]":
    """Read a shard from its beginning until there are so many records.

    Raises:
        Deviation: They do not come.
    """
    return records.read(ground, iterator(ground, stream, shard), count)
