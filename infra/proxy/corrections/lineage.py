"""Which shards were open when, and where closed ones end: worked out from a stream's whole list.

Shards are dictionaries as ListShards answers them. Pure.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from infra.proxy.corrections.sequence_numbers import MAX_PLACE, SequenceNumber, parse

Shard = dict[str, Any]

_SECOND: Final = 1.0  # how fine the times in sequence numbers are


class FilterType(StrEnum):
    """Each `Type` that a filter may have."""

    AFTER_SHARD_ID = "AFTER_SHARD_ID"
    AT_LATEST = "AT_LATEST"
    AT_TIMESTAMP = "AT_TIMESTAMP"
    AT_TRIM_HORIZON = "AT_TRIM_HORIZON"
    FROM_TIMESTAMP = "FROM_TIMESTAMP"
    FROM_TRIM_HORIZON = "FROM_TRIM_HORIZON"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardFilter:
    """The filter of a ListShards call.

    Attributes:
        kind: Its `Type`.
        shard_id: The shard after which AFTER_SHARD_ID starts.
        at: The time of AT_TIMESTAMP and FROM_TIMESTAMP, in seconds since the epoch.
    """

    kind: FilterType
    shard_id: str = ""
    at: float = 0.0


def select(shards: Sequence[Shard], shard_filter: ShardFilter) -> list[Shard] | None:
    """Return the shards that a filter lets through, in the order of the list.

    Args:
        shards: All shards within the retention period, the closed ones too.
        shard_filter: What is asked for.

    Returns:
        None if the filter needs a time that the sequence numbers do not tell.
    """
    # AWS: Kinesis Data Streams API Reference, ShardFilter.
    # https://docs.aws.amazon.com/kinesis/latest/APIReference/API_ShardFilter.html
    match shard_filter.kind:
        case FilterType.FROM_TRIM_HORIZON:
            return list(shards)
        case FilterType.AFTER_SHARD_ID:
            return [shard for shard in shards if shard["ShardId"] > shard_filter.shard_id]
        case FilterType.AT_LATEST:
            return [shard for shard in shards if _end(shard) is None]
        case FilterType.AT_TRIM_HORIZON:
            return without_descendants(shards)
        case FilterType.AT_TIMESTAMP:
            return _open_at(shards, shard_filter.at)
        case FilterType.FROM_TIMESTAMP:
            return _open_from(shards, shard_filter.at)


def without_descendants(shards: Iterable[Shard]) -> list[Shard]:
    """Return the shards whose parents are not in the list.

    At the trim horizon exactly these were open: a parent that is listed was closed after it, and so
    its child was opened after it; a parent that has expired was closed before it.
    """
    kept = list(shards)
    listed = {shard["ShardId"] for shard in kept}
    return [shard for shard in kept if listed.isdisjoint(parents(shard))]


def parents(shard: Shard) -> tuple[str, ...]:
    """Return the IDs of the shards it was split or merged from: none, one or two."""
    named = (shard.get("ParentShardId"), shard.get("AdjacentParentShardId"))
    return tuple(parent for parent in named if parent)


def as_of(shards: Iterable[Shard], last: str) -> list[Shard]:
    """Return a stream as it was when it had no shard after `last`: later reshards undone."""
    seen = list(shards)
    before = [shard for shard in seen if shard["ShardId"] <= last]
    children = _children(seen)
    return [
        _with_end(shard, None)
        if (born := children[shard["ShardId"]]) and all(c["ShardId"] > last for c in born)
        else shard
        for shard in before
    ]


def is_wrongly_ended(shard: Shard) -> bool:
    """Say whether a closed shard ends before it starts, and its number can be put right."""
    end = _end(shard)
    start = shard.get("SequenceNumberRange", {}).get("StartingSequenceNumber")
    return (
        isinstance(end, str)
        and end.isascii()
        and end.isdigit()
        and parse(start) is not None
        and int(end) < int(start)
    )


def opened_second(shard: Shard) -> int | None:
    """Return the second in which a shard was opened, or None if its start does not tell.

    kinesis-mock starts the child of a merge with the number of one of its parents; such a number
    has another shard's index, and says nothing about the child.
    """
    number = parse(shard.get("SequenceNumberRange", {}).get("StartingSequenceNumber"))
    return number.opened if number and number.shard == _index(shard["ShardId"]) else None


def with_right_end(
    shard: Shard, everything: Iterable[Shard], first_records: Mapping[str, object]
) -> Shard:
    """Return a shard that `is_wrongly_ended` with an end above its records.

    The end has the shard's own opening second and the last place in it, which no record has; so it
    is below the numbers of every child too, which was opened later.

    Args:
        shard: The shard.
        everything: All shards of the stream, from which its closing time is learnt.
        first_records: For shards whose opening second is not known: the number of their first
            record, where there is one, by shard ID.
    """
    start = parse(shard["SequenceNumberRange"]["StartingSequenceNumber"])
    if start is None:
        return shard
    opened = opened_second(shard)
    if opened is None:
        # Without a record, the start it borrowed from a parent is a lower bound, and enough: there
        # is nothing in the shard that the end could come before.
        record = parse(first_records.get(shard["ShardId"]))
        opened = record.opened if record else start.opened
    closed = max(
        (
            second
            for c in everything
            if shard["ShardId"] in parents(c) and (second := opened_second(c))
        ),
        default=opened,
    )
    end = SequenceNumber(
        opened=opened, shard=_index(shard["ShardId"]), place=MAX_PLACE, at=max(opened, closed)
    )
    return _with_end(shard, str(end))


def _open_at(shards: Sequence[Shard], at: float) -> list[Shard] | None:
    """Return the shards that were open at a time.

    The times are whole seconds. In the second of a reshard the parents count as open and the
    children do not: by the letter of AWS' page both are (start <= time <= end), but KCL does not
    start on shards that overlap, and a reader of the parents comes to the children by itself.
    """
    closed = _closed_seconds(shards)
    if closed is None:
        return None
    listed = {shard["ShardId"] for shard in shards}
    # A shard whose parents have expired was open at the trim horizon, where earlier times end up.
    return [
        shard
        for shard in shards
        if all(at >= closed[parent] + _SECOND for parent in parents(shard) if parent in listed)
        and (shard["ShardId"] not in closed or at < closed[shard["ShardId"]] + _SECOND)
    ]


def _open_from(shards: Sequence[Shard], at: float) -> list[Shard] | None:
    """Return the shards that were open at a time or later."""
    closed = _closed_seconds(shards)
    if closed is None:
        return None
    return [
        shard
        for shard in shards
        if shard["ShardId"] not in closed or at < closed[shard["ShardId"]] + _SECOND
    ]


def _closed_seconds(shards: Sequence[Shard]) -> dict[str, int] | None:
    """Return the second in which each closed shard was closed; None if one is not known.

    A shard is closed in the moment in which its children are opened.
    """
    children = _children(shards)
    closed: dict[str, int] = {}
    for shard in shards:
        born = children[shard["ShardId"]]
        if not born and _end(shard) is None:
            continue
        seconds = [second for child in born if (second := opened_second(child)) is not None]
        if not seconds or len(seconds) < len(born):
            return None
        closed[shard["ShardId"]] = max(seconds)
    return closed


def _children(shards: Iterable[Shard]) -> defaultdict[str, list[Shard]]:
    children: defaultdict[str, list[Shard]] = defaultdict(list)
    for shard in shards:
        for parent in parents(shard):
            children[parent].append(shard)
    return children


def _end(shard: Shard) -> Any:
    return shard.get("SequenceNumberRange", {}).get("EndingSequenceNumber")


def _with_end(shard: Shard, end: str | None) -> Shard:
    numbers = {**shard["SequenceNumberRange"], "EndingSequenceNumber": end}
    if end is None:
        del numbers["EndingSequenceNumber"]
    return {**shard, "SequenceNumberRange": numbers}


def _index(shard_id: str) -> int:
    """Return the number in a shard's ID; -1, which is no shard's, if there is none."""
    digits = shard_id.rpartition("-")[2]
    return int(digits) if digits.isascii() and digits.isdigit() else -1
