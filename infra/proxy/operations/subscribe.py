"""SubscribeToShard: who may subscribe when, the five minutes, and the repair of the events."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any, Final

from infra.proxy.corrections.names import (
    SUBSCRIBE_INITIAL_RESPONSE,
    UNKNOWN_CONSUMER,
    UNKNOWN_SHARD,
)
from infra.proxy.corrections.subscription import corrected
from infra.proxy.desk import Desk
from infra.proxy.exchange import Answer, Reply
from infra.proxy.messages import ACCOUNT, Call, Refusal, refusal_to
from infra.proxy.operations.constraints import broken_constraint
from infra.proxy.relay import relay
from infra.proxy.streams import stream_of
from infra.proxy.upstream import UpstreamAnswer, UpstreamError

_EVENT_STREAM: Final = "application/vnd.amazon.eventstream"
_IN_USE: Final = b"ResourceInUse"
_LAST_WORDS_SECONDS: Final = 1.0
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
    refusal = (
        broken_constraint(call, desk)
        or await _unknown_consumer(call, desk)
        or await _unknown_shard(call, desk)
    )
    if refusal is not None:
        return refusal_to(call, refusal)
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


async def _unknown_consumer(call: Call, desk: Desk) -> Refusal | None:
    """Return the refusal of a consumer that the upstream does not know."""
    if UNKNOWN_CONSUMER not in desk.corrections:
        return None
    try:
        consumer = {"ConsumerARN": call.parameters.get("ConsumerARN")}
        await desk.ask(call, "DescribeStreamConsumer", consumer)
    except UpstreamError as error:
        if error.code == "ResourceNotFoundException":
            desk.tally.corrected[UNKNOWN_CONSUMER] += 1
            return Refusal(error.code, error.message)
    return None  # whatever else is wrong is the upstream's to say


async def _unknown_shard(call: Call, desk: Desk) -> Refusal | None:
    """Return the refusal of a shard that the stream does not have, also on a second look."""
    name, shard = stream_of(call.parameters), str(call.parameters.get("ShardId", ""))
    if UNKNOWN_SHARD not in desk.corrections or name is None:
        return None
    for _ in range(2):
        view = await desk.streams.view(call, name)
        if view is None or view.shards.shard(shard) is not None:
            return None  # what is wrong with the stream or the consumer is the engine's to say
        desk.streams.forget(call.identity, name)
    desk.tally.corrected[UNKNOWN_SHARD] += 1
    text = f"Shard {shard} in stream {name} under account {ACCOUNT} does not exist"
    return Refusal("ResourceNotFoundException", text)


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
        await _sent(relay(answer, reply, desk.tally, pieces=pieces), reply, over)
    return None


async def _sent(sending: Coroutine[Any, Any, None], reply: Reply, over: asyncio.Event) -> None:
    """Send to the end; once it is over, a client that does not read is not waited for."""
    task, ending = asyncio.ensure_future(sending), asyncio.ensure_future(over.wait())
    try:
        await asyncio.wait({task, ending}, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait({task}, timeout=_LAST_WORDS_SECONDS)
        if task.done():
            task.result()
        else:
            reply.cut(reset=False)
    finally:
        ending.cancel()
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # seen, or asyncio would complain of it


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
