"""Streams with a history of reshards, as AWS lists them and as kinesis-mock does."""

import itertools
import math
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import strategies as st

from infra.proxy.corrections.sequence_numbers import SequenceNumber
from records.limits import MAX_HASH_KEY

START = 1_765_000_000
MOCKS_END = "9223372036854775807"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrueShard:
    """A shard as it really is, with its times."""

    index: int
    parents: tuple[int, ...]
    low: int
    high: int
    opened: float
    closed: float | None = None

    @property
    def id(self) -> str:
        return f"shardId-{self.index:012d}"

    def number(self, place: int, at: float) -> str:
        opened = math.floor(self.opened)
        return str(SequenceNumber(opened=opened, shard=self.index, place=place, at=math.floor(at)))


@dataclass(frozen=True, slots=True)
class History:
    """A stream's shards, in the order of their IDs."""

    shards: tuple[TrueShard, ...]

    def open_at(self, at: float) -> set[str]:
        return {
            shard.id
            for shard in self.shards
            if (shard.opened <= at or not shard.parents)
            and (shard.closed is None or at < shard.closed)
        }

    def listed(self, *, horizon: float = 0.0, like_mock: bool = False) -> list[dict[str, Any]]:
        """Return what ListShards answers, without the shards that were closed by a time."""
        return [
            self._summary(shard, like_mock=like_mock)
            for shard in self.shards
            if shard.closed is None or shard.closed > horizon
        ]

    def _summary(self, shard: TrueShard, *, like_mock: bool) -> dict[str, Any]:
        numbers = {"StartingSequenceNumber": self._start(shard, like_mock=like_mock)}
        if shard.closed is not None:
            numbers["EndingSequenceNumber"] = MOCKS_END
        summary: dict[str, Any] = {
            "ShardId": shard.id,
            "HashKeyRange": {
                "StartingHashKey": str(shard.low),
                "EndingHashKey": str(shard.high),
            },
            "SequenceNumberRange": numbers,
        }
        names = ("ParentShardId", "AdjacentParentShardId")
        return summary | {
            name: self.shards[parent].id for name, parent in zip(names, shard.parents, strict=False)
        }

    def _start(self, shard: TrueShard, *, like_mock: bool) -> str:
        if not like_mock or len(shard.parents) < 2:
            return shard.number(0, shard.opened)
        parents = [self.shards[parent] for parent in shard.parents]
        return min((self._start(p, like_mock=True) for p in parents), key=int)


@st.composite
def histories(draw: st.DrawFn, *, least_pause: float = 0.0) -> History:
    """Draw a history of up to eight splits and merges.

    Args:
        draw: Hypothesis'.
        least_pause: Seconds between two reshards.
    """
    count = draw(st.integers(1, 4))
    bounds = [MAX_HASH_KEY * n // count for n in range(count)] + [MAX_HASH_KEY + 1]
    now = START + draw(st.floats(0, 1, exclude_max=True))
    shards = [
        TrueShard(index=n, parents=(), low=low, high=high - 1, opened=now)
        for n, (low, high) in enumerate(itertools.pairwise(bounds))
    ]
    for _ in range(draw(st.integers(0, 8))):
        now += draw(st.floats(least_pause, least_pause + 2))
        living = sorted((s for s in shards if s.closed is None), key=lambda s: s.low)
        chosen = draw(st.integers(0, len(living) - 1))
        if chosen + 1 < len(living) and draw(st.booleans()):
            parents = living[chosen : chosen + 2]
            ranges = [(parents[0].low, parents[1].high)]
            if draw(st.booleans()):
                parents.reverse()
        else:
            parents = living[chosen : chosen + 1]
            middle = (parents[0].low + parents[0].high) // 2
            ranges = [(parents[0].low, middle), (middle + 1, parents[0].high)]
        for parent in parents:
            shards[parent.index] = replace(parent, closed=now)
        origin = tuple(parent.index for parent in parents)
        for low, high in ranges:
            shards.append(
                TrueShard(index=len(shards), parents=origin, low=low, high=high, opened=now)
            )
    return History(tuple(shards))


def is_whole(shards: list[dict[str, Any]]) -> bool:
    """Say whether shards cover every hash key once."""
    ranges = sorted(
        (int(s["HashKeyRange"]["StartingHashKey"]), int(s["HashKeyRange"]["EndingHashKey"]))
        for s in shards
    )
    starts = [low for low, _ in ranges]
    ends = [high + 1 for _, high in ranges]
    return bool(ranges) and starts == [0, *ends[:-1]] and ends[-1] == MAX_HASH_KEY + 1


def ids(shards: list[dict[str, Any]]) -> list[str]:
    return [shard["ShardId"] for shard in shards]
