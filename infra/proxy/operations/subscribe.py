"""SubscribeToShard: who may subscribe when, the five minutes, and the repair of the events."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Final

from infra.proxy.corrections.names import SUBSCRIBE_INITIAL_RESPONSE
from infra.proxy.corrections.subscription import corrected
from infra.proxy.desk import Desk
from infra.proxy.exchange import Answer, Reply
from infra.proxy.messages import Call, Refusal, refusal_to
from infra.proxy.relay import relay
from infra.proxy.upstream import UpstreamAnswer

_EVENT_STREAM: Final = "application/vnd.amazon.eventstream"
_IN_USE: Final = b"ResourceInUse"
_HAND_OVER_TRIES: Final = 40
_HAND_OVER_SECONDS: Final = 0.1
"""An engine that allows one subscription at a time needs a moment to see that the older one has
been closed: it is asked again for four seconds."""


async def subscribe(call: Call, desk: Desk, reply: Reply) -> Answer | None:
    """Relay a subscription's events until it ends; return an answer instead if it was refused.

    Raises:
        MalformedBodyError: The body is not what AWS takes.
        UpstreamError: There was no answer.
        ConnectionError: The client has gone.
    """
    over = asyncio.Event()
    if desk.quotas is None:
        async with _opened(call, desk, tries=1) as opened:
            return await _relay(call, desk, reply, opened, over)
    consumer, shard = (str(call.parameters.get(name, "")) for name in ("ConsumerARN", "ShardId"))
    admitted = desk.subscriptions.subscribe(consumer, shard)
    if isinstance(admitted, Refusal):
        return refusal_to(call, admitted)
    if (older := desk.running.get((consumer, shard))) is not None:
        older.set()
    desk.running[consumer, shard] = over
    timer = asyncio.get_running_loop().call_later(admitted.lasts_seconds, over.set)
    began = False
    try:
        async with _opened(call, desk, _HAND_OVER_TRIES if older else 1) as opened:
            began = opened[0].status == 200
            return await _relay(call, desk, reply, opened, over)
    finally:
        timer.cancel()
        if not began:
            desk.subscriptions.failed(admitted)
        if desk.running.get((consumer, shard)) is over:
            del desk.running[consumer, shard]


@asynccontextmanager
async def _opened(
    call: Call, desk: Desk, tries: int
) -> AsyncIterator[tuple[UpstreamAnswer, AsyncIterator[bytes]]]:
    """Ask the upstream for the subscription, again while it still sees the older one.

    kinesis-mock accepts the call, and says so in the first event.
    """
    incoming = call.incoming
    for left in reversed(range(tries)):
        async with desk.upstream.send(
            incoming.method, incoming.target, incoming.headers, incoming.body
        ) as answer:
            pieces = answer.chunks()
            if left == 0:
                yield answer, pieces
                return
            first = await anext(pieces, b"")
            if _IN_USE not in first:
                yield answer, _with(first, pieces)
                return
        await asyncio.sleep(_HAND_OVER_SECONDS)


async def _with(first: bytes, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for piece in pieces:
        yield piece


async def _relay(
    call: Call,
    desk: Desk,
    reply: Reply,
    opened: tuple[UpstreamAnswer, AsyncIterator[bytes]],
    over: asyncio.Event,
) -> Answer | None:
    answer, chunks = opened
    if answer.status != 200:
        body = b"".join([chunk async for chunk in chunks])
        return Answer(answer.status, answer.headers, body, answer.reason)
    if SUBSCRIBE_INITIAL_RESPONSE in desk.corrections:
        answer.headers["Content-Type"] = _EVENT_STREAM  # LocalStack says text/plain
    async with (
        aclosing(corrected(chunks, call=call, desk=desk)) as events,
        aclosing(_until(over, events)) as pieces,
    ):
        await relay(answer, reply, desk.tally, pieces=pieces)
    return None


async def _until(over: asyncio.Event, pieces: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    """Pass pieces on until there are no more, or it is over."""
    ending = asyncio.ensure_future(over.wait())
    coming: asyncio.Future[bytes | None] | None = None
    try:
        while not over.is_set():
            coming = asyncio.ensure_future(anext(pieces, None))
            await asyncio.wait({coming, ending}, return_when=asyncio.FIRST_COMPLETED)
            if not coming.done():
                return
            piece = coming.result()
            if piece is None:
                return
            yield piece
    finally:
        ending.cancel()
        if coming is not None and not coming.done():
            coming.cancel()
            with suppress(asyncio.CancelledError):
                await coming
