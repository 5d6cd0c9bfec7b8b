"""Which operation gets which treatment. What is in no table here passes through untouched."""

from typing import Final

from infra.proxy.corrections import cbor_types, names
from infra.proxy.desk import Desk
from infra.proxy.exchange import Answer, Incoming
from infra.proxy.messages import Call, Service, decode, refusal_to, with_body
from infra.proxy.operations import (
    describe,
    dynamodb,
    get_records,
    list_shards,
    put_records,
)
from infra.proxy.streams import stream_of
from infra.proxy.strikes import Strikes

SUBSCRIBE: Final = "SubscribeToShard"
"""Its answer is a stream of events; `infra.proxy.operations.subscribe` relays it."""

_RESHARDS: Final = frozenset(
    {"SplitShard", "MergeShards", "UpdateShardCount", "UpdateStreamMode", "UpdateMaxRecordSize"}
)
_REPLACES: Final = frozenset({"CreateStream", "DeleteStream"})


def is_treated(call: Call, desk: Desk) -> bool:
    """Say whether a call's answer has to be seen whole; else it is streamed through as it comes."""
    if call.service is Service.DYNAMODB:
        return desk.dynamo is not None
    if call.operation in _RESHARDS or call.operation in _REPLACES:
        return True
    return desk.quotas is not None or desk.faults.loaded or bool(desk.corrections)


async def treat(call: Call, desk: Desk, strikes: Strikes | None) -> Answer:
    """Answer a call whole.

    Args:
        call: Any call but a subscription.
        desk: What to work with.
        strikes: What strikes the request, if anything does.

    Raises:
        MalformedBodyError: The body is not what AWS takes.
        UpstreamError: There was no answer.
    """
    if call.service is Service.DYNAMODB:
        return await dynamodb.treat(call, desk)
    if desk.quotas is not None:
        stream = stream_of(call.parameters)
        refusal = desk.quotas.control_plane(call.operation, call.identity, stream)
        if refusal is not None:
            return refusal_to(call, refusal)
    answer = await _treat_kinesis(call, desk, strikes)
    if answer.status == 200:
        _take_note(call, desk)
    return answer


async def _treat_kinesis(call: Call, desk: Desk, strikes: Strikes | None) -> Answer:
    match call.operation:
        case "PutRecords":
            return await put_records.put_records(call, desk, strikes)
        case "PutRecord":
            return await put_records.put_record(call, desk)
        case "GetShardIterator":
            return await get_records.get_shard_iterator(call, desk)
        case "GetRecords":
            answer = await get_records.get_records(call, desk)
        case "ListShards":
            answer = await list_shards.treat(call, desk)
        case "DescribeStream":
            answer = await describe.treat(call, desk)
        case _:
            answer = await desk.forward(call)
    return _with_right_types(call, desk, answer)


def _with_right_types(call: Call, desk: Desk, answer: Answer) -> Answer:
    if not call.cbor or answer.status != 200 or names.CBOR_TYPES not in desk.corrections:
        return answer
    value = decode(answer.body, cbor=True)
    fixed = cbor_types.fix(call.operation, value)
    if fixed == value:
        return answer
    desk.tally.corrected[names.CBOR_TYPES] += 1
    return with_body(answer, fixed, cbor=True)


def _take_note(call: Call, desk: Desk) -> None:
    """Remember what a call that succeeded has changed."""
    name = stream_of(call.parameters)
    if name is None:
        return
    if call.operation in _RESHARDS:
        desk.streams.changed(call.identity, name)
    elif call.operation in _REPLACES:
        desk.streams.changed(call.identity, name)
        if desk.quotas is not None:
            desk.quotas.forget((call.identity, name))


def operation_of(incoming: Incoming) -> str:
    """Return what a request counts as: its API operation, or else its method.

    Paths are not counted: an object store has as many as it has objects.
    """
    target = incoming.headers.get("X-Amz-Target", "")
    if target:  # AWS JSON, and the CBOR of the Java SDK
        return target.rpartition(".")[2]
    service, separator, operation = incoming.path.rpartition("/operation/")
    if separator and service.startswith("/service/"):  # Smithy RPC v2
        return operation
    return incoming.method
