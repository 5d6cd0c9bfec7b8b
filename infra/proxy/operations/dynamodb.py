"""DynamoDB: reads and writes are held against the provisioned capacity of their tables.

What is not counted, and what is estimated, is said in `infra.proxy.quotas.dynamodb` and
`infra.proxy.quotas.dynamodb_costs`. Nothing is given back for a write that the engine refuses: to
AWS a condition that fails costs a write too.

A table is described once, when it is first used. What changes it through the proxy is seen; what
changes it in another way is not.
"""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

from infra.proxy.desk import Desk
from infra.proxy.exchange import Answer
from infra.proxy.messages import (
    Call,
    MalformedBodyError,
    Refusal,
    answer_to,
    decode,
    refusal_to,
    with_body,
)
from infra.proxy.quotas.dynamodb import DynamoQuotas, TableKey
from infra.proxy.quotas.dynamodb_costs import (
    READS,
    WRITES,
    Write,
    corrected_writes,
    reads_of,
    shows_its_cost,
    table_name,
    tables_read,
    total,
    writes_of,
)
from infra.proxy.upstream import UpstreamError

_CHANGES: Final = frozenset({"CreateTable", "UpdateTable", "DeleteTable"})

# AWS: DynamoDB API Reference, BatchWriteItem.
# https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_BatchWriteItem.html
_MAX_BATCH: Final = 25

_PREFIX: Final = "com.amazonaws.dynamodb.v20120810#"
_EXCEEDED: Final = Refusal(
    f"{_PREFIX}ProvisionedThroughputExceededException",
    "The level of configured provisioned throughput for the table was exceeded."
    " Consider increasing your provisioning level with the UpdateTable API.",
)


async def treat(call: Call, desk: Desk) -> Answer:
    """Answer a call of any operation of DynamoDB.

    Raises:
        UpstreamError: There was no answer.
    """
    quotas = desk.dynamo
    if quotas is None:
        return await desk.forward(call)
    try:
        writes, tables = _needs(call)
    except MalformedBodyError:
        writes, tables = [], []  # the engine has its own words for it
    await _learn(call, desk, quotas, tables)
    if not any(quotas.limited((call.identity, table)) for table in tables):
        change = call.operation in _CHANGES
        return await (_change(call, desk, quotas) if change else desk.forward(call))
    match call.operation:
        case "BatchWriteItem":
            return await _write_batch(call, desk, quotas, writes)
        case "BatchGetItem":
            return await _read_batch(call, desk, quotas, tables)
        case _ if writes:
            return await _write(call, desk, quotas, writes)
        case _:
            return await _read(call, desk, quotas, tables)


def _needs(call: Call) -> tuple[list[Write], list[str]]:
    """Return what a call writes, and the tables that it writes or reads.

    Raises:
        MalformedBodyError: It has not the form of its operation.
    """
    if call.operation in READS:
        return [], tables_read(call.operation, call.parameters)
    if call.operation not in WRITES:
        return [], []
    writes = writes_of(call.operation, call.parameters)
    return writes, [write.table for write in writes]


async def _change(call: Call, desk: Desk, quotas: DynamoQuotas) -> Answer:
    """Forget a table that is made, changed or deleted, unless the engine says that it is not."""
    refused = False
    try:
        answer = await desk.forward(call)
        refused = 400 <= answer.status < 500
        return answer
    finally:  # also when there is no answer: nobody knows what came of it
        if not refused:
            with suppress(MalformedBodyError):  # the engine changed nothing then
                quotas.forget((call.identity, table_name(call.parameters.get("TableName"))))


async def _learn(call: Call, desk: Desk, quotas: DynamoQuotas, tables: Iterable[str]) -> None:
    for table in sorted(set(tables)):
        key = (call.identity, table)
        if quotas.knows(key):
            continue
        changes = quotas.changes
        try:
            answer = await desk.ask(call, "DescribeTable", {"TableName": table})
        except UpstreamError:
            continue  # the call itself will get the error
        if changes == quotas.changes:
            quotas.learn(key, answer.get("Table") or {})


async def _write(call: Call, desk: Desk, quotas: DynamoQuotas, writes: list[Write]) -> Answer:
    """Write one item, or a transaction's."""
    units = total(writes)
    lacking = quotas.write({(call.identity, table): cost for table, cost in units.items()})
    if lacking:
        return _refused(call, [write.table for write in writes], lacking)
    answer = await desk.forward(call)
    _correct(call, quotas, units, answer)
    return answer


async def _write_batch(call: Call, desk: Desk, quotas: DynamoQuotas, writes: list[Write]) -> Answer:
    """Write what there is capacity for; the rest goes into `UnprocessedItems`, for a later try."""
    if len(writes) > _MAX_BATCH:
        return await desk.forward(call)  # to be refused, which a part of it would not be
    admitted: dict[str, list[Any]] = {}
    rest: dict[str, list[Any]] = {}
    paid: list[Write] = []
    following = iter(writes)
    for table, requests in call.parameters["RequestItems"].items():
        for request in requests:
            write = next(following)
            if quotas.write({(call.identity, write.table): write.units}):
                rest.setdefault(table, []).append(request)
            else:
                admitted.setdefault(table, []).append(request)
                paid.append(write)
    if not admitted:
        return refusal_to(call, _EXCEEDED)
    changed = {**call.parameters, "RequestItems": admitted} if rest else None
    answer = await desk.forward(call, changed)
    _correct(call, quotas, total(paid), answer)
    return _with_unprocessed(answer, "UnprocessedItems", rest)


async def _read(call: Call, desk: Desk, quotas: DynamoQuotas, tables: list[str]) -> Answer:
    """Read one item, a page of a query or scan, or a transaction's items."""
    index = call.parameters.get("IndexName")
    if index is not None and index in quotas.global_indexes((call.identity, tables[0])):
        return await desk.forward(call)
    keys = {(call.identity, table) for table in tables}
    in_debt = frozenset(key for key in keys if not quotas.may_read(key))
    if in_debt:
        return _refused(call, tables, in_debt)
    answer = await desk.forward(call)
    _charge_reads(call, quotas, call.parameters, answer)
    return answer


async def _read_batch(call: Call, desk: Desk, quotas: DynamoQuotas, tables: list[str]) -> Answer:
    """Read from the tables that have capacity; the keys of others go into `UnprocessedKeys`."""
    admitted: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    for name, (table, request) in zip(tables, call.parameters["RequestItems"].items(), strict=True):
        into = admitted if quotas.may_read((call.identity, name)) else rest
        into[table] = request
    if not admitted:
        return refusal_to(call, _EXCEEDED)
    parameters = {**call.parameters, "RequestItems": admitted}
    answer = await desk.forward(call, parameters if rest else None)
    _charge_reads(call, quotas, parameters, answer)
    return _with_unprocessed(answer, "UnprocessedKeys", rest)


def _refused(call: Call, tables: list[str], lacking: frozenset[TableKey]) -> Answer:
    if not call.operation.startswith("Transact"):
        return refusal_to(call, _EXCEEDED)
    # AWS: DynamoDB API Reference, TransactWriteItems, Errors, TransactionCanceledException.
    # https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_TransactWriteItems.html
    exceeded = {"Code": "ProvisionedThroughputExceeded", "Message": _EXCEEDED.message}
    reasons = [
        exceeded if (call.identity, table) in lacking else {"Code": "None"} for table in tables
    ]
    codes = ", ".join(reason["Code"] for reason in reasons)
    body = {
        "__type": f"{_PREFIX}TransactionCanceledException",
        "Message": "Transaction cancelled, please refer cancellation reasons for specific reasons"
        f" [{codes}]",
        "CancellationReasons": reasons,
    }
    return replace(answer_to(call, body, status=400), refused=True)


def _correct(call: Call, quotas: DynamoQuotas, paid: Mapping[str, int], answer: Answer) -> None:
    if answer.status != 200 or not shows_its_cost(call.parameters):
        return
    with suppress(MalformedBodyError):  # the client's to judge
        costs = corrected_writes(call.parameters, decode(answer.body, cbor=False), paid)
        for table, cost in costs.items():
            quotas.correct_write((call.identity, table), paid=paid[table], cost=cost)


def _charge_reads(
    call: Call, quotas: DynamoQuotas, parameters: Mapping[str, Any], answer: Answer
) -> None:
    if answer.status != 200:
        return
    with suppress(MalformedBodyError):  # the client's to judge
        units = reads_of(call.operation, parameters, decode(answer.body, cbor=False))
        for table, cost in units.items():
            quotas.read((call.identity, table), cost)


def _with_unprocessed(answer: Answer, member: str, rest: Mapping[str, Any]) -> Answer:
    """Add what was held back to what the engine itself left.

    Raises:
        MalformedBodyError: The answer has another form.
    """
    if not rest or answer.status != 200:
        return answer
    value = decode(answer.body, cbor=False)
    left: dict[str, Any] = dict(value.get(member) or {})
    for table, requests in rest.items():
        left[table] = [*left.get(table, ()), *requests] if isinstance(requests, list) else requests
    return with_body(answer, {**value, member: left}, cbor=False)
