"""CreateStream: with the tags that it was given."""

import asyncio
import logging
from typing import Final

from infra.proxy.corrections.names import CREATE_STREAM_TAGS
from infra.proxy.desk import Desk
from infra.proxy.exchange import Answer
from infra.proxy.messages import Call
from infra.proxy.upstream import UpstreamError

_log = logging.getLogger(__name__)

_TRIES: Final = 50
_WAIT_SECONDS: Final = 0.1
"""A stream that is still being made may refuse tags: it is asked again for five seconds."""


async def create_stream(call: Call, desk: Desk) -> Answer:
    """Answer a CreateStream.

    Raises:
        MalformedBodyError: The call cannot be read.
        UpstreamError: The upstream gave no answer.
    """
    answer = await desk.forward(call)
    tags, name = call.parameters.get("Tags"), call.parameters.get("StreamName")
    if answer.status != 200 or CREATE_STREAM_TAGS not in desk.corrections or not (tags and name):
        return answer
    for _ in range(_TRIES):
        try:
            kept = await desk.ask(call, "ListTagsForStream", {"StreamName": name})
            if not kept.get("Tags"):
                await desk.ask(call, "AddTagsToStream", {"StreamName": name, "Tags": tags})
                desk.tally.corrected[CREATE_STREAM_TAGS] += 1
        except UpstreamError:
            await asyncio.sleep(_WAIT_SECONDS)
        else:
            return answer
    _log.warning("the tags of the new stream %s could not be set", name)
    return answer
