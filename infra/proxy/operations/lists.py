"""ListStreams and ListStreamConsumers: pages that go on, and a summary of each stream."""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from infra.proxy.corrections import cbor_types, tokens
from infra.proxy.corrections.names import LIST_CONSUMERS, LIST_STREAMS
from infra.proxy.desk import Desk
from infra.proxy.exchange import Answer
from infra.proxy.messages import Call, decode, with_body
from infra.proxy.upstream import UpstreamError

_SUMMARIES_AT_ONCE: Final = 8
_SUMMARY_MEMBERS: Final = (
    "StreamName",
    "StreamARN",
    "StreamStatus",
    "StreamModeDetails",
    "StreamCreationTimestamp",
)

# AWS: Kinesis Data Streams API Reference, ListStreamConsumers, MaxResults.
# https://docs.aws.amazon.com/kinesis/latest/APIReference/API_ListStreamConsumers.html
_DEFAULT_PAGE: Final = 100
_LARGEST_PAGE: Final = 10_000


async def list_streams(call: Call, desk: Desk) -> Answer:
    """Answer a ListStreams. What the engine gives by itself stays as it is.

    Raises:
        MalformedBodyError: The call or the upstream's answer cannot be read.
        UpstreamError: The upstream gave no answer.
    """
    if LIST_STREAMS not in desk.corrections:
        return await desk.forward(call)
    changed = dict(call.parameters)
    after = _name_in(changed.pop("NextToken", None))
    if after is not None:
        changed["ExclusiveStartStreamName"] = after
    answer = await desk.forward(call, None if after is None else changed)
    if answer.status != 200:
        return answer
    value = decode(answer.body, cbor=call.cbor)
    names = value.get("StreamNames") or []
    missing: dict[str, Any] = {}
    if names and value.get("HasMoreStreams") and not value.get("NextToken"):
        missing["NextToken"] = tokens.wrap(names[-1])
    if names and not value.get("StreamSummaries"):
        missing["StreamSummaries"] = await _summaries(call, desk, names)
    if not missing:
        return answer
    desk.tally.corrected[LIST_STREAMS] += 1
    return with_body(answer, {**value, **missing}, cbor=call.cbor)


async def _summaries(call: Call, desk: Desk, names: Sequence[str]) -> list[dict[str, Any]]:
    """Return the summaries of those streams that are still there."""
    at_once = asyncio.Semaphore(_SUMMARIES_AT_ONCE)

    async def summary(name: str) -> dict[str, Any] | None:
        async with at_once:
            try:
                answer = await desk.ask(call, "DescribeStreamSummary", {"StreamName": name})
            except UpstreamError as error:
                if error.status >= 500:
                    raise
                return None
        described = answer["StreamDescriptionSummary"]
        found = {key: described[key] for key in _SUMMARY_MEMBERS if key in described}
        return cbor_types.fix(call.operation, found) if call.cbor else found

    return [found for found in await asyncio.gather(*map(summary, names)) if found is not None]


async def list_stream_consumers(call: Call, desk: Desk) -> Answer:
    """Answer a ListStreamConsumers.

    A stream has at most 20 consumers, so the engine is asked for all of them on one page, of which
    the pages are made here.

    Raises:
        MalformedBodyError: The call or the upstream's answer cannot be read.
        UpstreamError: The upstream gave no answer.
    """
    token, size = call.parameters.get("NextToken"), call.parameters.get("MaxResults")
    after = "" if token is None else _name_in(token)
    limit = _DEFAULT_PAGE if size is None else size
    if LIST_CONSUMERS not in desk.corrections or after is None or not _is_size(limit):
        return await desk.forward(call)
    changed = {**call.parameters, "MaxResults": _LARGEST_PAGE}
    changed.pop("NextToken", None)
    answer = await desk.forward(call, changed)
    if answer.status != 200:
        return answer
    value = decode(answer.body, cbor=call.cbor)
    everyone = sorted(value.get("Consumers") or (), key=lambda each: str(each["ConsumerName"]))
    rest = [each for each in everyone if each["ConsumerName"] > after]
    fixed: dict[str, Any] = {**value, "Consumers": rest[:limit]}
    fixed.pop("NextToken", None)
    if len(rest) > limit:
        fixed["NextToken"] = tokens.wrap(rest[limit - 1]["ConsumerName"])
    if fixed == value:
        return answer
    desk.tally.corrected[LIST_CONSUMERS] += 1
    return with_body(answer, fixed, cbor=call.cbor)


def _is_size(limit: object) -> bool:
    return type(limit) is int and 1 <= limit <= _LARGEST_PAGE


def _name_in(token: object) -> str | None:
    """Return the name that a token of ours holds; None if it holds none."""
    name = tokens.unwrap(token)
    return name if isinstance(name, str) else None
