"""DeleteStream: not while consumers are registered, unless they are meant too."""

from infra.proxy.corrections.names import DELETE_WITH_CONSUMERS
from infra.proxy.desk import Desk
from infra.proxy.exchange import Answer
from infra.proxy.messages import ACCOUNT, Call, Refusal, refusal_to
from infra.proxy.operations.summary import summary_of
from infra.proxy.upstream import UpstreamError


async def delete_stream(call: Call, desk: Desk) -> Answer:
    """Answer a DeleteStream.

    AWS: Kinesis Data Streams API Reference, DeleteStream, EnforceConsumerDeletion.
    https://docs.aws.amazon.com/kinesis/latest/APIReference/API_DeleteStream.html

    Raises:
        MalformedBodyError: The body is not what AWS takes.
        UpstreamError: There was no answer.
    """
    enforced = call.parameters.get("EnforceConsumerDeletion") is True
    if enforced or DELETE_WITH_CONSUMERS not in desk.corrections:
        return await desk.forward(call)
    summary = await summary_of(call, desk)
    if summary is None or not await _has_consumers(call, desk, str(summary["StreamARN"])):
        return await desk.forward(call)
    desk.tally.corrected[DELETE_WITH_CONSUMERS] += 1
    text = (
        f"Stream {summary['StreamName']} under account {ACCOUNT} has registered consumers;"
        " deregister them first, or set EnforceConsumerDeletion."
    )
    return refusal_to(call, Refusal("ResourceInUseException", text))


async def _has_consumers(call: Call, desk: Desk, arn: str) -> bool:
    try:
        answer = await desk.ask(call, "ListStreamConsumers", {"StreamARN": arn})
    except UpstreamError as error:
        if error.status >= 500:
            raise
        return False  # an engine that has no consumers
    return bool(answer.get("Consumers"))
