"""Which shard a record goes to: partition key → 128-bit hash → the open shard that covers it."""

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from records.limits import MAX_HASH_KEY

try:  # CPython's own takes half the time of OpenSSL's for so little text.
    from _md5 import md5 as _md5  # type: ignore[import-not-found]
except ImportError:
    from hashlib import md5 as _md5


def hash_key(partition_key: str) -> int:
    """Return the place of a partition key in the hash space, 0 to 2**128 - 1.

    AWS: Kinesis Data Streams API Reference, PutRecord ("an MD5 hash function is used to map
    partition keys to 128-bit integer values").
    """
    digest = _md5(partition_key.encode(), usedforsecurity=False).digest()
    return int.from_bytes(digest, "big")


@dataclass(frozen=True, slots=True)
class Shard:
    """One shard of a stream, as ListShards tells of it.

    Attributes:
        shard_id: Such as `shardId-000000000000`.
        starting_hash_key: The first hash key it covers.
        ending_hash_key: The last hash key it covers.
        parent_shard_id: The shard it was split or merged from, if any. It may have expired.
        adjacent_parent_shard_id: The other parent, if two were merged.
        closed: True if it takes no more records; what it holds is readable until retention ends.
    """

    shard_id: str
    starting_hash_key: int
    ending_hash_key: int
    parent_shard_id: str | None = None
    adjacent_parent_shard_id: str | None = None
    closed: bool = False

    def covers(self, hash_key: int) -> bool:
        """Return True if records with this hash key belong to this shard while it is open."""
        return self.starting_hash_key <= hash_key <= self.ending_hash_key

    @classmethod
    def from_list_shards(cls, shard: Mapping[str, Any]) -> Self:
        """Build a shard from one element of `Shards` in an answer of ListShards."""
        hash_range = shard["HashKeyRange"]
        return cls(
            shard_id=shard["ShardId"],
            starting_hash_key=int(hash_range["StartingHashKey"]),
            ending_hash_key=int(hash_range["EndingHashKey"]),
            parent_shard_id=shard.get("ParentShardId") or None,
            adjacent_parent_shard_id=shard.get("AdjacentParentShardId") or None,
            # The number itself says nothing: kinesis-mock ends every closed shard at 2**63 - 1.
            closed=shard["SequenceNumberRange"].get("EndingSequenceNumber") is not None,
        )


class ShardMap:
    """The shards of a stream at one moment. It never changes; after a reshard, make a new one."""

    __slots__ = ("_by_id", "_ends", "_open")

    def __init__(self, shards: Iterable[Shard]) -> None:
        """Take the shards of all pages of ListShards, open and closed, in any order."""
        self._by_id: Final = {shard.shard_id: shard for shard in shards}
        # A list taken amid a reshard may show a parent still open beside its children.
        listed = self._by_id.values()
        parents = {shard.parent_shard_id for shard in listed}
        parents |= {shard.adjacent_parent_shard_id for shard in listed}
        taking = [each for each in listed if not each.closed and each.shard_id not in parents]
        self._open: Final = tuple(sorted(taking, key=lambda shard: shard.ending_hash_key))
        self._ends: Final = [shard.ending_hash_key for shard in self._open]

    @classmethod
    def from_list_shards(cls, shards: Iterable[Mapping[str, Any]]) -> Self:
        """Build the map from the `Shards` of all pages of ListShards, one after the other.

        AWS: Kinesis Data Streams API Reference, ListShards.
        """
        return cls(Shard.from_list_shards(shard) for shard in shards)

    @property
    def open_shards(self) -> tuple[Shard, ...]:
        """The shards that take records, in the order of their hash keys: open, and no parent."""
        return self._open

    def shard_for(self, hash_key: int) -> Shard:
        """Return the open shard that a record with this hash key goes to.

        Raises:
            ValueError: the hash key is outside 0..2**128-1.
            LookupError: no open shard covers it, as in a list that was taken amid a reshard or
                is not whole. List the shards again.
        """
        if not 0 <= hash_key <= MAX_HASH_KEY:
            raise ValueError(f"a hash key lies in 0..2**128-1, not at {hash_key}")
        place = bisect_left(self._ends, hash_key)
        if place < len(self._open) and self._open[place].starting_hash_key <= hash_key:
            return self._open[place]
        raise LookupError(f"no open shard covers hash key {hash_key}; list the shards again")

    def shard(self, shard_id: str) -> Shard | None:
        """Return the shard of this ID, open or closed, or None if the list had none."""
        return self._by_id.get(shard_id)

    def __len__(self) -> int:
        """Return the number of shards, open and closed."""
        return len(self._by_id)

    def __repr__(self) -> str:
        return f"ShardMap({len(self._open)} open of {len(self._by_id)} shards)"
