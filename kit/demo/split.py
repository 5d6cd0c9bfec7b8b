"""Chooses where to split the stream so that the split can be seen to matter. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from records.partition import Shard, ShardMap, hash_key


@dataclass(frozen=True, slots=True)
class Split:
    """A shard to split, the first hash key of its second child, and who lives on either side."""

    shard: Shard
    new_starting_hash_key: int
    lower_things: tuple[str, ...]
    upper_things: tuple[str, ...]

    @property
    def resident_hashes(self) -> list[int]:
        """The hash keys of the devices that lived on the split shard."""
        return [hash_key(thing) for thing in (*self.lower_things, *self.upper_things)]


def choose_split(shards: ShardMap, things: Sequence[str]) -> Split:
    """Return the split of the busiest open shard that gives both children devices.

    With fewer than two devices on that shard it is split in the middle: a child may then stay
    empty, which is a reshard all the same.
    """
    hashes = {thing: hash_key(thing) for thing in things}
    homes: dict[str, list[str]] = {shard.shard_id: [] for shard in shards.open_shards}
    for thing in sorted(things, key=hashes.__getitem__):
        homes[shards.shard_for(hashes[thing]).shard_id].append(thing)
    busiest = max(shards.open_shards, key=lambda shard: len(homes[shard.shard_id]))
    residents = homes[busiest.shard_id]
    if len(residents) >= 2:
        # The middle resident's own hash: it and those above it move to the upper child.
        boundary = hashes[residents[len(residents) // 2]]
    else:
        boundary = (busiest.starting_hash_key + busiest.ending_hash_key) // 2 + 1
    return Split(
        shard=busiest,
        new_starting_hash_key=boundary,
        lower_things=tuple(thing for thing in residents if hashes[thing] < boundary),
        upper_things=tuple(thing for thing in residents if hashes[thing] >= boundary),
    )
