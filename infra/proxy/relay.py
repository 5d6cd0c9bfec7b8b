"""Passes an answer on piece by piece, as it comes."""

import logging
from collections.abc import AsyncIterator

from infra.proxy.desk import Tally
from infra.proxy.exchange import Reply
from infra.proxy.upstream import UpstreamAnswer, UpstreamError

_log = logging.getLogger(__name__)


async def relay(
    answer: UpstreamAnswer,
    reply: Reply,
    tally: Tally,
    *,
    pieces: AsyncIterator[bytes] | None = None,
) -> None:
    """Send an answer that has begun to its end, at the pace of the slower of the two sides.

    An answer that the upstream breaks off is broken off to the client too: a clean end would make
    half of it look whole.

    Args:
        answer: Its head, and its body unless `pieces` are sent in its place.
        reply: Where it goes.
        tally: Where a broken answer is counted.
        pieces: Another body, of no known length.

    Raises:
        ConnectionError: The client has gone.
    """
    length = answer.length if pieces is None else None
    await reply.start(answer.status, answer.headers, reason=answer.reason, length=length)
    try:
        async for piece in answer.chunks() if pieces is None else pieces:
            await reply.write(piece)
    except UpstreamError as error:
        tally.upstream_errors += 1
        _log.error("the upstream broke off its answer: %s", error.message)
        reply.cut(reset=False)
        return
    await reply.finish()
