"""Checks of ListShards, its filters and pages, and of UpdateShardCount."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from infra.conformance.check import INVALID, check, equal, expect, refused
from infra.conformance.ground import Ground
from infra.conformance.records import ending, gaps, hash_range, only, open_shards, pair, shards

if TYPE_CHECKING:
    from types_boto3_kinesis.type_defs import UpdateShardCountOutputTypeDef

AREA = "shard-lists"
PAUSE_SECONDS = 1.5
"""Between a reshard and the point in time that is noted, in case only seconds are kept."""

REFUSED_COUNT = (*INVALID, "LimitExceededException")
"""How a target beyond the double or below the half is refused is not documented."""


@dataclass(frozen=True, slots=True)
class History:
    """A stream whose first shard was split, and whose children were merged again.

    Attributes:
        name: The stream.
        first: The ID of the first shard, closed.
        middle: The IDs of its children, closed.
        last: The ID of the shard they were merged into, open.
        times: Points in time at which the first, the middle ones and the last were open.
    """

    name: str
    first: str
    middle: tuple[str, str]
    last: str
    times: tuple[datetime, datetime, datetime]

    def all(self) -> list[str]:
        """Return the IDs of all shards."""
        return sorted([self.first, *self.middle, self.last])


def _history(ground: Ground) -> History:
    def now() -> datetime:
        ground.pause(PAUSE_SECONDS)
        at = datetime.now(UTC)
        ground.pause(PAUSE_SECONDS)
        return at

    def make() -> History:
        kinesis, name = ground.kinesis, ground.stream()
        first = only(open_shards(ground, name), "shard of a new stream")["ShardId"]
        times = [now()]
        kinesis.split_shard(StreamName=name, ShardToSplit=first, NewStartingHashKey=str(2**127))
        ground.active(name)
        children = pair(open_shards(ground, name), "open shards after a split")
        low, high = (shard["ShardId"] for shard in children)
        times.append(now())
        kinesis.merge_shards(StreamName=name, ShardToMerge=low, AdjacentShardToMerge=high)
        ground.active(name)
        last = only(open_shards(ground, name), "open shard after a merge")["ShardId"]
        return History(name, first, (low, high), last, (times[0], times[1], now()))

    return ground.once("history", make)


@check("list-shards-all", source="ListShards", area=AREA)
def list_shards_all(ground: Ground) -> None:
    """Without a filter the list has every shard, open and closed, once."""
    history = _history(ground)
    equal(_ids(ground, history), history.all())


@check("list-at-latest", source="ListShards: ShardFilter AT_LATEST", area=AREA)
def list_at_latest(ground: Ground) -> None:
    """AT_LATEST lists the shards that are open."""
    history = _history(ground)
    equal(_ids(ground, history, Type="AT_LATEST"), [history.last])


@check("list-at-trim-horizon", source="ListShards: ShardFilter AT_TRIM_HORIZON", area=AREA)
def list_at_trim_horizon(ground: Ground) -> None:
    """AT_TRIM_HORIZON lists the shards that were open at the beginning of the retention."""
    history = _history(ground)
    equal(_ids(ground, history, Type="AT_TRIM_HORIZON"), [history.first])


@check("list-from-trim-horizon", source="ListShards: ShardFilter FROM_TRIM_HORIZON", area=AREA)
def list_from_trim_horizon(ground: Ground) -> None:
    """FROM_TRIM_HORIZON lists every shard that still has a place within the retention."""
    history = _history(ground)
    equal(_ids(ground, history, Type="FROM_TRIM_HORIZON"), history.all())


@check("list-after-shard", source="ListShards: ShardFilter AFTER_SHARD_ID", area=AREA)
def list_after_shard(ground: Ground) -> None:
    """AFTER_SHARD_ID lists the shards whose ID comes after that one."""
    history = _history(ground)
    found = _ids(ground, history, Type="AFTER_SHARD_ID", ShardId=history.first)
    equal(found, sorted([*history.middle, history.last]), "after the first:")
    equal(_ids(ground, history, Type="AFTER_SHARD_ID", ShardId=history.last), [], "after the last:")


@check("list-at-timestamp", source="ListShards: ShardFilter AT_TIMESTAMP", area=AREA)
def list_at_timestamp(ground: Ground) -> None:
    """AT_TIMESTAMP lists the shards that were open at that time."""
    history = _history(ground)
    for at, wanted in zip(
        history.times, ([history.first], sorted(history.middle), [history.last]), strict=True
    ):
        equal(_ids(ground, history, Type="AT_TIMESTAMP", Timestamp=at), wanted, f"at {at}:")


@check("list-from-timestamp", source="ListShards: ShardFilter FROM_TIMESTAMP", area=AREA)
def list_from_timestamp(ground: Ground) -> None:
    """FROM_TIMESTAMP lists the shards that were open at that time or later."""
    history = _history(ground)
    later = sorted([*history.middle, history.last])
    for at, wanted in zip(history.times, (history.all(), later, [history.last]), strict=True):
        equal(_ids(ground, history, Type="FROM_TIMESTAMP", Timestamp=at), wanted, f"from {at}:")


@check("list-filter-unknown", source="ListShards: ShardFilterType, enum", area=AREA)
def list_filter_unknown(ground: Ground) -> None:
    """A type of filter that does not exist is refused."""
    history = _history(ground)
    refused(INVALID, lambda: _ids(ground, history, Type="SOMETIMES"))


@check("list-filter-incomplete", source="ListShards: ShardFilter: ShardId, Timestamp", area=AREA)
def list_filter_incomplete(ground: Ground) -> None:
    """A filter without the shard or the time that its type needs is refused."""
    history = _history(ground)
    for kind in ("AFTER_SHARD_ID", "AT_TIMESTAMP", "FROM_TIMESTAMP"):
        refused(INVALID, lambda kind=kind: _ids(ground, history, Type=kind))  # type: ignore[misc] # its default binds it


@check("list-exclusive-start", source="ListShards: ExclusiveStartShardId", area=AREA)
def list_exclusive_start(ground: Ground) -> None:
    """The list starts after ExclusiveStartShardId."""
    history = _history(ground)
    answer = ground.kinesis.list_shards(
        StreamName=history.name, ExclusiveStartShardId=history.first
    )
    found = sorted(shard["ShardId"] for shard in answer["Shards"])
    equal(found, sorted([*history.middle, history.last]))


@check("list-pages", source="ListShards: MaxResults, NextToken", area=AREA)
def list_pages(ground: Ground) -> None:
    """Pages of MaxResults follow each other by NextToken, and the last one has none."""
    history = _history(ground)
    answer = ground.kinesis.list_shards(StreamName=history.name, MaxResults=1)
    pages = [[shard["ShardId"] for shard in answer["Shards"]]]
    while (token := answer.get("NextToken")) is not None and len(pages) < 6:
        answer = ground.kinesis.list_shards(NextToken=token, MaxResults=1)
        pages.append([shard["ShardId"] for shard in answer["Shards"]])
    expect(all(len(page) <= 1 for page in pages), "at most one shard a page", pages)
    equal(sorted(shard for page in pages for shard in page), history.all())
    equal(answer.get("NextToken"), None, "NextToken of the last page")


@check("list-pages-filtered", source="ListShards: NextToken, ShardFilter", area=AREA)
def list_pages_filtered(ground: Ground) -> None:
    """The filter of the first page holds for those that follow by NextToken."""
    history = _history(ground)
    answer = ground.kinesis.list_shards(
        StreamName=history.name,
        MaxResults=1,
        ShardFilter={"Type": "AT_TIMESTAMP", "Timestamp": history.times[1]},
    )
    found = [shard["ShardId"] for shard in answer["Shards"]]
    for _ in range(4):
        if (token := answer.get("NextToken")) is None:
            break
        answer = ground.kinesis.list_shards(NextToken=token, MaxResults=1)
        found += [shard["ShardId"] for shard in answer["Shards"]]
    equal(sorted(found), sorted(history.middle))


@check("list-token-with-name", source="ListShards: NextToken without StreamName", area=AREA)
def list_token_with_name(ground: Ground) -> None:
    """A NextToken together with a StreamName is refused."""
    name = ground.shared_stream(3)
    token = ground.kinesis.list_shards(StreamName=name, MaxResults=1).get("NextToken", "")
    expect(token, "a NextToken", token)
    refused(
        "InvalidArgumentException",
        lambda: ground.kinesis.list_shards(StreamName=name, NextToken=token),
    )


@check("list-token-wrong", source="ListShards: NextToken", area=AREA)
def list_token_wrong(ground: Ground) -> None:
    """A NextToken that AWS never gave is refused."""
    refused(
        (*INVALID, "ExpiredNextTokenException"),
        lambda: ground.kinesis.list_shards(NextToken="AAAAAAAAAAE="),
    )


@check("list-max-results-0", source="ListShards: MaxResults, 1..10000", area=AREA)
def list_max_results_0(ground: Ground) -> None:
    """MaxResults of 0 is refused."""
    name = ground.shared_stream()
    refused(INVALID, lambda: ground.kinesis.list_shards(StreamName=name, MaxResults=0))


@check("list-nothing", source="ListShards: StreamName, StreamARN or NextToken", area=AREA)
def list_nothing(ground: Ground) -> None:
    """A list of no stream and no token is refused."""
    refused(INVALID, ground.kinesis.list_shards)


@check("count-up", source="UpdateShardCount: UNIFORM_SCALING", area=AREA)
def count_up(ground: Ground) -> None:
    """From two shards to four: four equal ones are open, which come from the two."""
    name = ground.stream(2)
    before = {shard["ShardId"] for shard in shards(ground, name)}
    answer = _update(ground, name, 4)
    equal((answer["CurrentShardCount"], answer["TargetShardCount"]), (2, 4), "counts")
    ground.active(name)
    found = open_shards(ground, name)
    equal((len(found), gaps(found)), (4, ""), "open shards and gaps")
    widths = [high - low + 1 for low, high in map(hash_range, found)]
    expect(max(widths) - min(widths) < 2**118, "shards of the same size", widths)
    equal(_ancestors(ground, name), before, "first ancestors of the open shards")


@check("count-down", source="UpdateShardCount: UNIFORM_SCALING", area=AREA)
def count_down(ground: Ground) -> None:
    """From two shards to one: one is open over the whole key space, which comes from both."""
    name = ground.stream(2)
    before = {shard["ShardId"] for shard in shards(ground, name)}
    _update(ground, name, 1)
    ground.active(name)
    found = open_shards(ground, name)
    equal((len(found), gaps(found)), (1, ""), "open shards and gaps")
    equal(_ancestors(ground, name), before, "first ancestors of the open shard")


@check("count-more-than-double", source="UpdateShardCount: at most the double", area=AREA)
def count_more_than_double(ground: Ground) -> None:
    """More than the double of the open shards is refused."""
    name = ground.stream(2)
    refused(REFUSED_COUNT, lambda: _update(ground, name, 5))


@check("count-less-than-half", source="UpdateShardCount: at least the half", area=AREA)
def count_less_than_half(ground: Ground) -> None:
    """Less than the half of the open shards is refused."""
    name = ground.stream(4)
    refused(REFUSED_COUNT, lambda: _update(ground, name, 1))


@check("count-0", source="UpdateShardCount: TargetShardCount, at least 1", area=AREA)
def count_0(ground: Ground) -> None:
    """A target of no shards is refused."""
    name = ground.stream()
    refused(REFUSED_COUNT, lambda: _update(ground, name, 0))


@check("count-scaling-type", source="UpdateShardCount: ScalingType, enum", area=AREA)
def count_scaling_type(ground: Ground) -> None:
    """A scaling type that does not exist is refused."""
    name = ground.stream()
    refused(INVALID, lambda: _update(ground, name, 2, scaling_type="SOMEHOW"))


def _ids(ground: Ground, history: History, **shard_filter: Any) -> list[str]:
    """Return the IDs that ListShards lists, sorted; the keywords are the filter."""
    more: Any = {"ShardFilter": shard_filter} if shard_filter else {}
    answer = ground.kinesis.list_shards(StreamName=history.name, **more)
    return sorted(shard["ShardId"] for shard in answer["Shards"])


def _ancestors(ground: Ground, name: str) -> set[str]:
    """Return the shards without parents that the open ones come from.

    UpdateShardCount may make short-lived shards on the way, so these need not be their parents.
    """
    by_id = {shard["ShardId"]: shard for shard in shards(ground, name)}
    level = {shard["ShardId"] for shard in by_id.values() if ending(shard) is None}
    first: set[str] = set()
    for _ in by_id:
        parents = {
            shard: {by_id[shard].get("ParentShardId"), by_id[shard].get("AdjacentParentShardId")}
            for shard in level
        }
        first |= {shard for shard in level if parents[shard] == {None}}
        level = {each for found in parents.values() for each in found if each in by_id}
    return first


def _update(
    ground: Ground, name: str, count: int, *, scaling_type: Any = "UNIFORM_SCALING"
) -> "UpdateShardCountOutputTypeDef":
    return ground.kinesis.update_shard_count(
        StreamName=name, TargetShardCount=count, ScalingType=scaling_type
    )
