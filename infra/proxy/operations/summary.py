"""DescribeStreamSummary: with the largest record of a stream that never had it set."""

from collections.abc import Mapping
from typing import Any, Final

from infra.proxy.corrections.names import MAX_RECORD_SIZE
from infra.proxy.desk import Desk
from infra.proxy.exchange import Answer
from infra.proxy.messages import Call, decode, with_body
from infra.proxy.upstream import UpstreamError
from records.limits import KIB, MAX_RECORD_BYTES

_MEMBER: Final = "MaxRecordSizeInKiB"
_SUMMARY: Final = "StreamDescriptionSummary"
_OF_STREAM: Final = ("StreamName", "StreamARN", "StreamId")


async def describe_stream_summary(call: Call, desk: Desk) -> Answer:
    """Answer a DescribeStreamSummary.

    Raises:
        MalformedBodyError: The upstream's answer cannot be read.
        UpstreamError: The upstream gave no answer.
    """
    answer = await desk.forward(call)
    if answer.status != 200 or MAX_RECORD_SIZE not in desk.corrections:
        return answer
    value = decode(answer.body, cbor=call.cbor)
    summary = value.get(_SUMMARY)
    if not isinstance(summary, dict) or summary.get(_MEMBER) is not None:
        return answer
    desk.tally.corrected[MAX_RECORD_SIZE] += 1
    fixed = {**summary, _MEMBER: MAX_RECORD_BYTES // KIB}
    return with_body(answer, {**value, _SUMMARY: fixed}, cbor=call.cbor)


async def summary_of(call: Call, desk: Desk) -> Mapping[str, Any] | None:
    """Return the upstream's summary of the stream that a call names; None if it refuses one.

    Raises:
        MalformedBodyError: The call cannot be read.
        UpstreamError: The upstream gave no answer.
    """
    stream = {name: value for name in _OF_STREAM if (value := call.parameters.get(name))}
    try:
        answer = await desk.ask(call, "DescribeStreamSummary", stream)
    except UpstreamError as error:
        if error.status >= 500:
            raise
        return None
    summary = answer.get(_SUMMARY)
    return summary if isinstance(summary, dict) else None
