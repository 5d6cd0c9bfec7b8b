"""ListShards: the filter and the pages worked out here, and closed shards with the right end."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from infra.proxy.corrections import lineage, tokens
from infra.proxy.corrections.cbor_types import epoch_seconds
from infra.proxy.corrections.lineage import FilterType, Shard, ShardFilter
from infra.proxy.corrections.names import ENDING_SEQUENCE_NUMBER, LIST_SHARDS_FILTER
from infra.proxy.desk import Desk
from infra.proxy.exchange import Answer
from infra.proxy.messages import Call, Refusal, answer_to, decode, refusal_to, with_body
from infra.proxy.streams import list_all_shards
from infra.proxy.upstream import UpstreamError
from records.limits import DEFAULT_SHARDS_PER_LIST, LIST_TOKEN_LIFE_SECONDS, MAX_SHARDS_PER_LIST

_OF_STREAM: Final = ("StreamName", "StreamARN", "StreamId")
_TIMED: Final = frozenset({FilterType.AT_TIMESTAMP, FilterType.FROM_TIMESTAMP})


async def treat(call: Call, desk: Desk) -> Answer:
    """Answer a ListShards.

    A filtered call is answered from the upstream's whole list, which says who descends from whom.
    What is out of the ordinary (a filter that AWS does not know, a missing member) is left to the
    upstream, and so is a stream of whose shards the times cannot be read.

    Raises:
        MalformedBodyError: The call cannot be read.
        UpstreamError: The upstream gave no answer.
    """
    query = None
    if LIST_SHARDS_FILTER in desk.corrections:
        query = _query_of(call.parameters, desk.clock())
    if isinstance(query, Refusal):
        return refusal_to(call, query)
    if query is not None:
        try:
            return await _answered(call, desk, query)
        except UpstreamError as error:
            if error.status >= 500:
                raise
            return refusal_to(call, Refusal(error.code, error.message, error.status))
    answer = await desk.forward(call)
    if answer.status != 200 or ENDING_SEQUENCE_NUMBER not in desk.corrections:
        return answer
    value = decode(answer.body, cbor=call.cbor)
    shards = value.get("Shards") or []
    ended = await with_right_ends(call, desk, _stream_of(call.parameters), shards)
    return (
        answer if ended is shards else with_body(answer, {**value, "Shards": ended}, cbor=call.cbor)
    )


async def with_right_ends(
    call: Call, desk: Desk, stream: Mapping[str, Any], shards: list[Shard], *, whole: bool = False
) -> list[Shard]:
    """Return shards with the ends of closed ones put right; the very same list if all are right.

    Args:
        call: The call whose answer they are for.
        desk: The desk.
        stream: The parameters that name the stream; empty if the call does not say.
        shards: The shards.
        whole: Whether they are all that the stream has.

    Raises:
        UpstreamError: The upstream refused to say more about the stream, or gave no answer.
    """
    wrong = [shard for shard in shards if lineage.is_wrongly_ended(shard)]
    if not wrong:
        return shards
    desk.tally.corrected[ENDING_SEQUENCE_NUMBER] += 1
    known = whole or not stream
    everything = shards if known else await list_all_shards(desk.ask, call, stream)
    first_records = {
        shard["ShardId"]: await _first_record(call, desk, stream, shard["ShardId"])
        for shard in wrong
        if stream and lineage.opened_second(shard) is None
    }
    return [
        lineage.with_right_end(shard, everything, first_records)
        if lineage.is_wrongly_ended(shard)
        else shard
        for shard in shards
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Query:
    """What one page of a filtered list is to hold.

    Attributes:
        stream: The parameters that name the stream.
        shard_filter: The filter.
        after: The page starts after this shard; empty for the first.
        last: The last shard that the stream had when the list began; empty on the first page.
        limit: The most shards on the page.
    """

    stream: Mapping[str, Any]
    shard_filter: ShardFilter
    after: str
    last: str
    limit: int


async def _answered(call: Call, desk: Desk, query: _Query) -> Answer:
    everything = await list_all_shards(desk.ask, call, query.stream)
    if ENDING_SEQUENCE_NUMBER in desk.corrections:
        everything = await with_right_ends(call, desk, query.stream, everything, whole=True)
    # A reshard between two pages must not make the list overlap.
    last = query.last or max((shard["ShardId"] for shard in everything), default="")
    shards = lineage.as_of(everything, last)
    selected = lineage.select(shards, query.shard_filter)
    if selected is None:
        selected = await _as_upstream_selects(call, desk, query, shards)
    desk.tally.corrected[LIST_SHARDS_FILTER] += 1
    rest = [shard for shard in selected if shard["ShardId"] > query.after]
    page = rest[: query.limit]
    value: dict[str, Any] = {"Shards": page}
    if len(rest) > len(page):
        value["NextToken"] = _token(query, page[-1]["ShardId"], last, desk.clock())
    return answer_to(call, value)


async def _as_upstream_selects(
    call: Call, desk: Desk, query: _Query, shards: list[Shard]
) -> list[Shard]:
    """Believe the upstream where the sequence numbers do not tell the time of a reshard.

    It lists parents and children of the second of a reshard together; AT_TIMESTAMP takes the
    parents, as it does where the times are known.
    """
    shard_filter = _as_parameter(query.shard_filter)
    listed = await list_all_shards(desk.ask, call, query.stream, shard_filter)
    chosen = {shard["ShardId"] for shard in listed}
    if query.shard_filter.kind is not FilterType.AT_TIMESTAMP:
        return [shard for shard in shards if shard["ShardId"] in chosen]
    # Where there is no earlier shard, an earlier time is the trim horizon, and no upstream says so.
    chosen |= {
        shard["ShardId"]
        for shard in lineage.without_descendants(shards)
        if query.shard_filter.at < (lineage.opened_second(shard) or 0)
    }
    return lineage.without_descendants(s for s in shards if s["ShardId"] in chosen)


async def _first_record(
    call: Call, desk: Desk, stream: Mapping[str, Any], shard_id: str
) -> str | None:
    """Return the number of a shard's first record, or None if it has none."""
    iterator = await desk.ask(
        call,
        "GetShardIterator",
        {**stream, "ShardId": shard_id, "ShardIteratorType": "TRIM_HORIZON"},
    )
    answer = await desk.ask(
        call, "GetRecords", {"ShardIterator": iterator["ShardIterator"], "Limit": 1}
    )
    records = answer.get("Records")
    return str(records[0]["SequenceNumber"]) if records else None


def _query_of(parameters: Mapping[str, Any], now: float) -> _Query | Refusal | None:
    """Return what a filtered call asks for; None if it has no filter or AWS would refuse it."""
    limit = parameters.get("MaxResults")
    if limit is None:
        limit = DEFAULT_SHARDS_PER_LIST
    if not isinstance(limit, int) or not 1 <= limit <= MAX_SHARDS_PER_LIST:
        return None
    limit = min(limit, DEFAULT_SHARDS_PER_LIST)
    token = parameters.get("NextToken")
    if (state := tokens.unwrap(token)) is not None:
        others = {"ShardFilter", "ExclusiveStartShardId", "StreamCreationTimestamp", "StreamName"}
        return None if others & parameters.keys() else _continued(state, limit, now)
    shard_filter = _filter_of(parameters.get("ShardFilter"))
    after = parameters.get("ExclusiveStartShardId") or ""
    stream = _stream_of(parameters)
    if token or shard_filter is None or not isinstance(after, str) or not stream:
        return None
    if parameters.get("StreamCreationTimestamp") is not None:
        return None
    return _Query(stream=stream, shard_filter=shard_filter, after=after, last="", limit=limit)


def _filter_of(value: object) -> ShardFilter | None:
    if not isinstance(value, dict):
        return None
    try:
        kind = FilterType(str(value.get("Type")))
    except ValueError:
        return None
    shard_id, at = value.get("ShardId"), epoch_seconds(value.get("Timestamp"))
    if kind is FilterType.AFTER_SHARD_ID and not (isinstance(shard_id, str) and shard_id):
        return None
    if kind in _TIMED and at is None:
        return None
    return ShardFilter(kind=kind, shard_id=str(shard_id or ""), at=at or 0.0)


def _as_parameter(shard_filter: ShardFilter) -> dict[str, Any]:
    value: dict[str, Any] = {"Type": shard_filter.kind.value}
    if shard_filter.kind is FilterType.AFTER_SHARD_ID:
        value["ShardId"] = shard_filter.shard_id
    elif shard_filter.kind in _TIMED:
        value["Timestamp"] = shard_filter.at
    return value


def _stream_of(parameters: Mapping[str, Any]) -> dict[str, Any]:
    named = {name: parameters.get(name) for name in _OF_STREAM}
    return {name: value for name, value in named.items() if isinstance(value, str) and value}


def _token(query: _Query, after: str, last: str, now: float) -> str:
    state = [dict(query.stream), _as_parameter(query.shard_filter), after, last, float(now)]
    return tokens.wrap(state)


def _continued(state: object, limit: int, now: float) -> _Query | Refusal | None:
    """Return the query that a token's state stands for; None if it stands for none."""
    match state:
        case [dict(stream), chosen, str(after), str(last), float(made_at)]:
            shard_filter = _filter_of(chosen)
        case _:
            return None
    if shard_filter is None:
        return None
    if not 0 <= now - made_at <= LIST_TOKEN_LIFE_SECONDS:
        text = "The pagination token that is passed to the operation has expired."
        return Refusal("ExpiredNextTokenException", text)
    return _Query(stream=stream, shard_filter=shard_filter, after=after, last=last, limit=limit)
