"""GetShardIterator and GetRecords: calls and bytes per shard, and iterators that expire."""

import time
from collections.abc import Mapping
from typing import Any

from infra.proxy.corrections.names import BAD_ITERATOR
from infra.proxy.desk import Desk
from infra.proxy.exchange import Answer
from infra.proxy.messages import Call, Refusal, data_bytes, decode, refusal_to
from infra.proxy.quotas.iterators import Issued, expired_refusal
from infra.proxy.quotas.kinesis import THROTTLED, throttled_message
from infra.proxy.quotas.requests import check
from infra.proxy.streams import stream_of
from infra.proxy.wording import invalid_argument


async def get_shard_iterator(call: Call, desk: Desk) -> Answer:
    """Answer GetShardIterator, and remember which shard the iterator is of.

    Raises:
        MalformedBodyError: The body is not what AWS takes.
        UpstreamError: There was no answer.
    """
    name, shard = stream_of(call.parameters), call.parameters.get("ShardId")
    if name is None or not isinstance(shard, str):
        return await desk.forward(call)
    if desk.quotas is not None:
        refusal = desk.quotas.get_shard_iterator((call.identity, name), shard)
        if refusal is not None:
            return refusal_to(call, refusal)
    answer = await desk.forward(call)
    if answer.status == 200:
        iterator = decode(answer.body, cbor=call.cbor).get("ShardIterator")
        if iterator:
            desk.iterators.remember(iterator, (call.identity, name), shard)
    return answer


async def get_records(call: Call, desk: Desk) -> Answer:
    """Answer GetRecords. An iterator that did not come through here is nobody's: it passes.

    Raises:
        MalformedBodyError: The body is not what AWS takes.
        UpstreamError: There was no answer.
    """
    issued = desk.iterators.look_up(str(call.parameters.get("ShardIterator", "")))
    refusal = _refused(call, desk, issued)
    if refusal is not None:
        return refusal_to(call, refusal)
    answer = await desk.forward(call)
    if issued is None and answer.status == 500 and BAD_ITERATOR in desk.corrections:
        return await _judge_iterator(call, desk)
    if answer.status != 200:
        return answer
    if issued is not None:
        _keep_account(desk, issued, decode(answer.body, cbor=call.cbor))
    return answer


async def _judge_iterator(call: Call, desk: Desk) -> Answer:
    """Answer for an iterator that nobody knows here and that the engine fails at.

    Only if it fails at it again is it the iterator's fault, and not an accident of the engine's.
    """
    answer = await desk.forward(call)
    if answer.status != 500:
        return answer
    desk.tally.corrected[BAD_ITERATOR] += 1
    return refusal_to(call, invalid_argument("Invalid ShardIterator."))


def _refused(call: Call, desk: Desk, issued: Issued | None) -> Refusal | None:
    # Without quotas only a fault lets one expire.
    if issued is not None and issued.expired and (desk.quotas is not None or issued.made_to_expire):
        return expired_refusal(issued, time.time())
    if issued is not None and desk.faults.active:
        name = issued.stream[1]
        if reason := desk.faults.throttled(call.operation, name, issued.shard_id):
            return Refusal(THROTTLED, f"{throttled_message(name, issued.shard_id)} ({reason})")
    if desk.quotas is None:
        return None
    refusal = check(call.operation, call.parameters, max_record_bytes=None)
    if refusal is None and issued is not None:
        refusal = desk.quotas.get_records(issued.stream, issued.shard_id)
    return refusal


def _keep_account(desk: Desk, issued: Issued, value: Mapping[str, Any]) -> None:
    records = value.get("Records") or ()
    if desk.quotas is not None and records:
        size = sum(data_bytes(r["Data"]) + len(r["PartitionKey"].encode()) for r in records)
        desk.quotas.got_records(issued.stream, issued.shard_id, size)
    if following := value.get("NextShardIterator"):
        desk.iterators.remember(following, issued.stream, issued.shard_id)
