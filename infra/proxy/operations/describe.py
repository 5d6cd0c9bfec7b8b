"""DescribeStream: closed shards with the right end."""

from infra.proxy.corrections.names import ENDING_SEQUENCE_NUMBER
from infra.proxy.desk import Desk
from infra.proxy.exchange import Answer
from infra.proxy.messages import Call, decode, with_body
from infra.proxy.operations.list_shards import with_right_ends


async def treat(call: Call, desk: Desk) -> Answer:
    """Answer a DescribeStream.

    Raises:
        MalformedBodyError: The upstream's answer cannot be read.
        UpstreamError: The upstream gave no answer.
    """
    answer = await desk.forward(call)
    if answer.status != 200 or ENDING_SEQUENCE_NUMBER not in desk.corrections:
        return answer
    value = decode(answer.body, cbor=call.cbor)
    description = value.get("StreamDescription")
    if not isinstance(description, dict) or not description.get("StreamName"):
        return answer
    shards = description.get("Shards") or []
    stream = {"StreamName": description["StreamName"]}
    ended = await with_right_ends(call, desk, stream, shards)
    if ended is shards:
        return answer
    fixed = {**value, "StreamDescription": {**description, "Shards": ended}}
    return with_body(answer, fixed, cbor=call.cbor)
