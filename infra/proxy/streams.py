"""What the proxy knows of the streams behind it: their open shards and their largest record.

Asked of the upstream and kept for a while. What passes through the proxy and changes a stream is
seen (`changed`); a reshard that took another way is noticed when a record lands on a shard that was
not expected (`forget`), and within five seconds in any case.
"""

import asyncio
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from infra.proxy.messages import Call, Identity
from infra.proxy.quotas.keys import StreamKey
from infra.proxy.upstream import UpstreamError
from records.limits import KIB, MAX_RECORD_BYTES
from records.partition import Shard, ShardMap

_FRESH_SECONDS: Final = 5.0
_RESHARD_SECONDS: Final = 10.0
"""How long after a reshard began its shards are asked for at almost every call: it is accepted
first and carried out later, and nothing says when."""
_FRESH_SECONDS_SOON: Final = 0.05
_KEPT_STREAMS: Final = 1_000
_STREAM_OF_ARN: Final = re.compile(r":stream/([^/]+)")

Ask = Callable[[Call, str, dict[str, Any]], Awaitable[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class StreamView:
    """A stream as it was a moment ago.

    Attributes:
        shards: All that the upstream lists, the closed ones too.
        max_record_bytes: The largest record it takes, partition key included.
    """

    shards: ShardMap
    max_record_bytes: int


@dataclass(slots=True)
class _Known:
    view: StreamView | None = None
    seen_at: float = float("-inf")
    resharding_until: float = float("-inf")
    changes: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Streams:
    """Views of the streams, each fetched by one call at a time.

    Args:
        clock: Monotonic seconds.
        ask: Makes a call upstream (`Desk.ask`).
    """

    def __init__(self, clock: Callable[[], float], ask: Ask) -> None:
        self._clock = clock
        self._ask = ask
        self._known: OrderedDict[StreamKey, _Known] = OrderedDict()

    async def view(self, call: Call, name: str) -> StreamView | None:
        """Return a stream's view, or None if the upstream does not know the stream.

        Raises:
            UpstreamError: The upstream gave no answer.
        """
        known = self._known_of(call.identity, name)
        if self._fresh(known):
            return known.view
        came_at = self._clock()
        async with known.lock:
            # What was asked after this call had come is new enough, however long it took.
            if known.seen_at < came_at and not self._fresh(known):
                asked_at, changes = self._clock(), known.changes
                known.view = await self._fetch(call, name)
                # If it has changed meanwhile, the answer may be from before.
                if changes == known.changes:
                    known.seen_at = asked_at
            return known.view

    def changed(self, identity: Identity, name: str) -> None:
        """Say that a call has passed that will change the stream's shards."""
        self._known_of(identity, name).resharding_until = self._clock() + _RESHARD_SECONDS
        self.forget(identity, name)

    def forget(self, identity: Identity, name: str) -> None:
        """Ask anew at the next call."""
        known = self._known.get((identity, name))
        if known is not None:
            known.seen_at = float("-inf")
            known.changes += 1

    def _known_of(self, identity: Identity, name: str) -> _Known:
        key = (identity, name)
        known = self._known.setdefault(key, _Known())
        self._known.move_to_end(key)
        while len(self._known) > _KEPT_STREAMS:
            self._known.popitem(last=False)
        return known

    def _fresh(self, known: _Known) -> bool:
        now = self._clock()
        # A stream that is missing may be made at any moment, and has no quotas until it is seen.
        soon = now < known.resharding_until or known.view is None
        return now - known.seen_at < (_FRESH_SECONDS_SOON if soon else _FRESH_SECONDS)

    async def _fetch(self, call: Call, name: str) -> StreamView | None:
        try:
            summary = await self._ask(call, "DescribeStreamSummary", {"StreamName": name})
            shards = await list_all_shards(self._ask, call, {"StreamName": name})
            kib = summary["StreamDescriptionSummary"].get("MaxRecordSizeInKiB")
            size = int(kib) * KIB if kib else MAX_RECORD_BYTES
            return StreamView(ShardMap(Shard.from_list_shards(shard) for shard in shards), size)
        except UpstreamError as error:
            if error.code == "ResourceNotFoundException":
                return None
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            text = f"the upstream describes {name} in a way that nobody understands: {error!r}"
            raise UpstreamError("ServiceUnavailable", text, 502) from error


async def list_all_shards(
    ask: Ask,
    call: Call,
    stream: Mapping[str, Any],
    shard_filter: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Return the shards that the upstream lists of a stream, over all pages, ordered by ID.

    Args:
        ask: Makes a call upstream.
        call: Under whose identity.
        stream: The parameter that names the stream.
        shard_filter: As ListShards takes it; None for every shard, closed ones too.

    Raises:
        UpstreamError: It gave no answer, or an error.
    """
    shards: dict[str, dict[str, Any]] = {}
    parameters = dict(stream) if shard_filter is None else {**stream, "ShardFilter": shard_filter}
    while True:
        answer = await ask(call, "ListShards", parameters)
        new = {shard["ShardId"]: shard for shard in answer["Shards"]}
        turns_in_a_circle = new.keys() <= shards.keys()
        shards |= new
        token = answer.get("NextToken")
        if not token or turns_in_a_circle:
            return [shards[shard_id] for shard_id in sorted(shards)]
        if shard_filter is None:
            parameters = {"NextToken": token}
        else:  # kinesis-mock forgets the filter with a token
            parameters = {**parameters, "ExclusiveStartShardId": max(new)}


def stream_of(parameters: Mapping[str, Any]) -> str | None:
    """Return the name of the stream that a call is about, from whichever parameter says it."""
    name = parameters.get("StreamName")
    if isinstance(name, str) and name:
        return name
    for member in ("StreamARN", "ConsumerARN"):
        arn = parameters.get(member)
        if isinstance(arn, str) and (found := _STREAM_OF_ARN.search(arn)):
            return found[1]
    return None
