"""Which operation gets which treatment. What is in no table here passes through untouched."""

from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Final

from infra.proxy.corrections import cbor_types, names
from infra.proxy.desk import Desk
from infra.proxy.exchange import Answer, Incoming
from infra.proxy.messages import Call, Service, decode, refusal_to, with_body
from infra.proxy.operations import (
    create_stream,
    delete_stream,
    describe,
    dynamodb,
    get_records,
    list_shards,
    lists,
    put_records,
    reshard,
    summary,
)
from infra.proxy.operations.constraints import broken_constraint
from infra.proxy.streams import stream_of
from infra.proxy.strikes import Strikes

SUBSCRIBE: Final = "SubscribeToShard"
"""Its answer is a stream of events; `infra.proxy.operations.subscribe` relays it."""

_RESHARDS: Final = frozenset(
    {"SplitShard", "MergeShards", "UpdateShardCount", "UpdateStreamMode", "UpdateMaxRecordSize"}
)
_REPLACES: Final = frozenset({"CreateStream", "DeleteStream"})
_PLAIN: Final = frozenset({"PutRecords", "PutRecord", "GetShardIterator"})
"""Their answers have neither blobs nor times."""

_TREATMENTS: Final[Mapping[str, Callable[[Call, Desk], Awaitable[Answer]]]] = MappingProxyType(
    {
        "PutRecord": put_records.put_record,
        "GetShardIterator": get_records.get_shard_iterator,
        "GetRecords": get_records.get_records,
        "ListShards": list_shards.treat,
        "ListStreams": lists.list_streams,
        "ListStreamConsumers": lists.list_stream_consumers,
        "DescribeStream": describe.treat,
        "DescribeStreamSummary": summary.describe_stream_summary,
        "CreateStream": create_stream.create_stream,
        "DeleteStream": delete_stream.delete_stream,
        "SplitShard": reshard.reshard,
        "MergeShards": reshard.reshard,
        "UpdateShardCount": reshard.reshard,
    }
)
_READS: Final = frozenset({"GetShardIterator", "GetRecords"})
"""Followed always: a fault that is added later is to know which shard an iterator is of."""
_SEEN_WHOLE: Final = _RESHARDS | _REPLACES | _READS


def is_treated(call: Call, desk: Desk) -> bool:
    """Say whether a call's answer has to be seen whole; else it is streamed through as it comes."""
    if call.service is Service.DYNAMODB:
        return desk.dynamo is not None
    if call.operation in _SEEN_WHOLE:
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
    broken = broken_constraint(call, desk)
    if broken is not None:
        return refusal_to(call, broken)
    answer = await _treat_kinesis(call, desk, strikes)
    if answer.status == 200:
        _take_note(call, desk)
    return _with_right_error_type(call, desk, answer)


async def _treat_kinesis(call: Call, desk: Desk, strikes: Strikes | None) -> Answer:
    if call.operation == "PutRecords":
        answer = await put_records.put_records(call, desk, strikes)
    elif call.operation in _TREATMENTS:
        answer = await _TREATMENTS[call.operation](call, desk)
    else:
        answer = await desk.forward(call)
    return answer if call.operation in _PLAIN else _with_right_types(call, desk, answer)


def _with_right_types(call: Call, desk: Desk, answer: Answer) -> Answer:
    if not call.cbor or answer.status != 200 or names.CBOR_TYPES not in desk.corrections:
        return answer
    value = decode(answer.body, cbor=True)
    fixed = cbor_types.fix(call.operation, value)
    if fixed == value:
        return answer
    desk.tally.corrected[names.CBOR_TYPES] += 1
    return with_body(answer, fixed, cbor=True)


def _with_right_error_type(call: Call, desk: Desk, answer: Answer) -> Answer:
    said = answer.headers.get("Content-Type")
    if said != "application/json" or answer.status < 400 or call.cbor:
        return answer
    if names.ERROR_TYPE in desk.corrections:
        desk.tally.corrected[names.ERROR_TYPE] += 1
        answer.headers["Content-Type"] = call.content_type
    return answer


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
