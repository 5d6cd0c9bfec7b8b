"""SplitShard, MergeShards and UpdateShardCount: only of a provisioned stream, into whole shards."""

import re
from typing import Any, Final

from infra.proxy.corrections.names import RESHARD_ARGUMENTS
from infra.proxy.desk import Desk
from infra.proxy.exchange import Answer
from infra.proxy.messages import ACCOUNT, Call, Refusal, refusal_to
from infra.proxy.operations.summary import summary_of
from infra.proxy.streams import list_all_shards
from infra.proxy.wording import invalid_argument

_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,38}")


async def reshard(call: Call, desk: Desk) -> Answer:
    """Answer a SplitShard, a MergeShards or an UpdateShardCount.

    AWS: Kinesis Data Streams API Reference, SplitShard, NewStartingHashKey; each operation,
    ValidationException.
    https://docs.aws.amazon.com/kinesis/latest/APIReference/API_SplitShard.html

    Raises:
        MalformedBodyError: The body is not what AWS takes.
        UpstreamError: There was no answer.
    """
    refusal = None
    if RESHARD_ARGUMENTS in desk.corrections:
        refusal = await _fault(call, desk)
    if refusal is None:
        return await desk.forward(call)
    desk.tally.corrected[RESHARD_ARGUMENTS] += 1
    return refusal_to(call, refusal)


async def _fault(call: Call, desk: Desk) -> Refusal | None:
    summary = await summary_of(call, desk)
    if summary is None:
        return None
    name = str(summary["StreamName"])
    if (summary.get("StreamModeDetails") or {}).get("StreamMode") == "ON_DEMAND":
        return Refusal(
            "ValidationException",
            f"{call.operation} is only supported for data streams with the provisioned capacity"
            f" mode; stream {name} under account {ACCOUNT} has the on-demand capacity mode.",
        )
    if call.operation != "SplitShard":
        return None
    shards = await list_all_shards(desk.ask, call, {"StreamName": name})
    return _split_fault(call.parameters, name, shards)


def _split_fault(
    parameters: dict[str, Any], stream: str, shards: list[dict[str, Any]]
) -> Refusal | None:
    """Return why a shard cannot be split there; a shard that is not there is the engine's to say.

    The key begins the upper child, so the lower one must have a key below it.
    """
    shard_id, key = parameters.get("ShardToSplit"), parameters.get("NewStartingHashKey")
    found = [shard["HashKeyRange"] for shard in shards if shard["ShardId"] == shard_id]
    if not found or not isinstance(key, str) or not _NUMBER.fullmatch(key):
        return None
    low, high = (int(found[0][end]) for end in ("StartingHashKey", "EndingHashKey"))
    if low < int(key) <= high:
        return None
    return invalid_argument(
        f"NewStartingHashKey {key} used in SplitShard() on shard {shard_id} in stream {stream}"
        f" under account {ACCOUNT} is not both greater than the shard's StartingHashKey {low} and"
        f" at most the shard's EndingHashKey {high}."
    )
