"""The events of SubscribeToShard as AWS sends them: the first, the last, and their types."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import suppress
from typing import Any, Final

from infra.proxy.corrections import cbor_types, lineage
from infra.proxy.corrections.event_stream import BrokenFrameError, Frame, Frames
from infra.proxy.corrections.event_stream import encode as encode_frame
from infra.proxy.corrections.names import (
    CBOR_TYPES,
    SUBSCRIBE_CHILD_SHARDS,
    SUBSCRIBE_INITIAL_RESPONSE,
)
from infra.proxy.desk import Desk
from infra.proxy.messages import Call, MalformedBodyError, decode, encode
from infra.proxy.streams import list_all_shards, stream_of
from infra.proxy.upstream import UpstreamError

_log = logging.getLogger(__name__)

_OPERATION: Final = "SubscribeToShard"
_EVENT: Final = "SubscribeToShardEvent"
_INITIAL: Final = "initial-response"
_LOOK_SECONDS: Final = 1.0


async def corrected(
    chunks: AsyncIterator[bytes], *, call: Call, desk: Desk
) -> AsyncGenerator[bytes]:
    """Yield the bytes of a subscription with the desk's corrections applied.

    `subscribe-initial-response` sends the initial event at once and leaves the upstream's own out.
    `subscribe-child-shards` asks the upstream, at every event without records and every silent
    second, whether the shard has been read to its end; then it sends the last event and ends.
    `cbor-types` mends the events of CBOR calls. Frames of other kinds, and bytes that are no
    frames, pass untouched.

    Args:
        chunks: The body of the upstream's answer, cut anywhere; closed when this generator is.
        call: The SubscribeToShard.
        desk: Says which corrections are on, and asks the upstream.

    Raises:
        Exception: Whatever `chunks` raises, unless the shard has been read to its end.
    """
    events = _Events(call, desk)
    # Always one chunk ahead: what has arrived unread is lost when the upstream breaks off.
    coming = asyncio.ensure_future(_next(chunks))
    try:
        if SUBSCRIBE_INITIAL_RESPONSE in desk.corrections:
            yield events.initial()
        end = await _End.of(call, desk) if SUBSCRIBE_CHILD_SHARDS in desk.corrections else None
        over = False
        while not over:
            await asyncio.wait({coming}, timeout=_LOOK_SECONDS if end else None)
            arrived, over = coming.done(), _is_last(coming)
            if arrived and not over:
                data, coming = coming.result(), asyncio.ensure_future(_next(chunks))
                for piece in events.of(data or b""):
                    yield piece
            if end and not events.ended and (over or not arrived or events.quiet):
                children = await end.reached(events.last_number)
                if children is not None:
                    yield events.last(children)
                    return
        yield events.rest()
        coming.result()
    finally:
        await _close(chunks, coming)


class _Events:
    """Takes the frames of one subscription, and gives them back corrected.

    Attributes:
        last_number: The sequence number of the last record that has passed.
        quiet: Whether the last whole event had no record.
        ended: Whether the upstream has itself said that the shard has ended.
    """

    def __init__(self, call: Call, desk: Desk) -> None:
        self._call = call
        self._desk = desk
        self._frames = Frames()
        self._broken = False
        self._typed = call.cbor and CBOR_TYPES in desk.corrections
        self._own_initial = SUBSCRIBE_INITIAL_RESPONSE in desk.corrections
        self.last_number: str | None = None
        self.quiet = False
        self.ended = False

    def of(self, data: bytes) -> Iterator[bytes]:
        """Return what is to be sent for these bytes of the upstream's."""
        self.quiet = False
        if self._broken:
            yield data
            return
        try:
            for frame in self._frames.feed(data):
                yield self._corrected(frame)
        except BrokenFrameError as error:
            _log.warning("a subscription passes uncorrected from here on: %s", error)
            self._broken = True
            self.ended = True  # what passes from here on is not seen, so no end may be told
            yield self._frames.take_rest()

    def rest(self) -> bytes:
        """The beginning of a frame that did not come."""
        return self._frames.take_rest()

    def initial(self) -> bytes:
        """Return the event that comes first."""
        self._desk.tally.corrected[SUBSCRIBE_INITIAL_RESPONSE] += 1
        return self._written(_INITIAL, {})

    def last(self, children: list[dict[str, Any]]) -> bytes:
        """Return the event that says that the shard has ended."""
        # AWS: Kinesis Data Streams API Reference, SubscribeToShardEvent. At the end there is no
        # sequence number to continue from.
        # https://docs.aws.amazon.com/kinesis/latest/APIReference/API_SubscribeToShardEvent.html
        self._desk.tally.corrected[SUBSCRIBE_CHILD_SHARDS] += 1
        return self._written(
            _EVENT, {"Records": [], "MillisBehindLatest": 0, "ChildShards": children}
        )

    def _written(self, event_type: str, value: dict[str, Any]) -> bytes:
        headers = {
            ":event-type": event_type,
            ":content-type": self._call.content_type,
            ":message-type": "event",
        }
        return encode_frame(headers, encode(value, cbor=self._call.cbor))

    def _corrected(self, frame: Frame) -> bytes:
        kind = frame.headers.get(":event-type")
        if kind == _INITIAL and self._own_initial:
            return b""
        if kind != _EVENT:
            return frame.raw
        # kinesis-mock's events are JSON whatever the call is; no CBOR map begins with a brace.
        in_json = frame.payload.startswith(b"{")
        try:
            value = decode(frame.payload, cbor=not in_json)
        except MalformedBodyError as error:
            _log.warning("an event of a subscription cannot be read: %s", error)
            return frame.raw
        self._note(value)
        if not self._typed:
            return frame.raw
        fixed = cbor_types.fix(_OPERATION, value)
        if fixed == value and not in_json:
            return frame.raw
        self._desk.tally.corrected[CBOR_TYPES] += 1
        headers = {**frame.headers, ":content-type": self._call.content_type}
        return encode_frame(headers, encode(fixed, cbor=True))

    def _note(self, value: dict[str, Any]) -> None:
        records = value.get("Records") or []
        self.quiet = not records
        if records:
            self.last_number = str(records[-1]["SequenceNumber"])
        self.ended = self.ended or bool(value.get("ChildShards"))


class _End:
    """Asks the upstream whether a subscription has come to the end of its shard."""

    def __init__(self, call: Call, desk: Desk) -> None:
        self._call = call
        self._desk = desk
        self._stream = stream_of(call.parameters) or ""
        self._shard = str(call.parameters.get("ShardId", ""))
        self._position = _as_iterator_position(call.parameters.get("StartingPosition") or {})
        self._iterator: str | None = None

    @classmethod
    async def of(cls, call: Call, desk: Desk) -> "_End":
        """Return one that stands where the subscription starts: LATEST is now, and not later."""
        end = cls(call, desk)
        with suppress(UpstreamError):
            await end._ask_iterator()
        return end

    async def reached(self, last_number: str | None) -> list[dict[str, Any]] | None:
        """Return the shard's children if it is closed and has no record after the last one.

        Args:
            last_number: Of the last record that the client has been sent, if there is one.
        """
        after = {
            "ShardIteratorType": "AFTER_SEQUENCE_NUMBER",
            "StartingSequenceNumber": last_number,
        }
        if last_number is not None and self._position != after:
            self._position, self._iterator = after, None
        try:
            if self._iterator is None:
                await self._ask_iterator()
            answer = await self._desk.ask(
                self._call, "GetRecords", {"ShardIterator": self._iterator, "Limit": 1}
            )
            if answer.get("Records"):
                return None
            following = answer.get("NextShardIterator")
            if following:
                self._iterator = str(following)
                return None
            return answer.get("ChildShards") or await self._children()
        except UpstreamError as error:
            _log.debug("whether %s has ended cannot be said: %s", self._shard, error)
            self._iterator = None
            return None

    async def _ask_iterator(self) -> None:
        parameters = {"StreamName": self._stream, "ShardId": self._shard, **self._position}
        answer = await self._desk.ask(self._call, "GetShardIterator", parameters)
        self._iterator = str(answer["ShardIterator"])

    async def _children(self) -> list[dict[str, Any]] | None:
        """Return the shard's children from the list of shards; None if it has none there."""
        return [
            {
                "ShardId": shard["ShardId"],
                "ParentShards": list(lineage.parents(shard)),
                "HashKeyRange": shard["HashKeyRange"],
            }
            for shard in await list_all_shards(
                self._desk.ask, self._call, {"StreamName": self._stream}
            )
            if self._shard in lineage.parents(shard)
        ] or None


def _as_iterator_position(start: dict[str, Any]) -> dict[str, Any]:
    position: dict[str, Any] = {"ShardIteratorType": start.get("Type")}
    if start.get("SequenceNumber"):
        position["StartingSequenceNumber"] = start["SequenceNumber"]
    if (at := cbor_types.epoch_seconds(start.get("Timestamp"))) is not None:
        position["Timestamp"] = at
    return position


async def _next(chunks: AsyncIterator[bytes]) -> bytes | None:
    return await anext(chunks, None)


def _is_last(coming: asyncio.Task[bytes | None]) -> bool:
    """Say whether the upstream has ended its answer, or broken it off."""
    return coming.done() and (coming.exception() is not None or coming.result() is None)


async def _close(chunks: AsyncIterator[bytes], coming: asyncio.Task[bytes | None]) -> None:
    coming.cancel()
    await asyncio.wait({coming})
    if not coming.cancelled():
        coming.exception()  # seen, or asyncio would complain of it
    if isinstance(chunks, AsyncGenerator):
        await chunks.aclose()
