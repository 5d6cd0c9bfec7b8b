"""What a call of DynamoDB costs: writes by their request, reads by their answer.

Some of it cannot be seen from outside, and is estimated:

- A write costs the larger one of the old and the new item. PutItem is counted by the new one,
  UpdateItem by its key and every value that it brings, DeleteItem by its key alone. Where the
  answer shows a whole item (`ReturnValues` of ALL_OLD or ALL_NEW), the larger figure counts.
- A read costs the items as they are stored. A projection shows less and is counted by that. Items
  that a filter hid are taken to be as large as those it let through; if it let none through, the
  smallest read counts.
- `ConsumedCapacity` in an answer counts instead: for a write as it is, for a read if it is more
  than the figure found here, since some engines answer with the smallest read whatever the size.

A transaction costs double. PartiQL is not counted.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from infra.proxy.messages import MalformedBodyError
from infra.proxy.quotas.item_size import item_bytes, read_units, value_bytes, write_units

# AWS: DynamoDB Developer Guide, DynamoDB Transactions, "Capacity management for transactions".
# https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/transaction-apis.html
_TRANSACTION_FACTOR: Final = 2

WRITES: Final = frozenset(
    {"PutItem", "UpdateItem", "DeleteItem", "BatchWriteItem", "TransactWriteItems"}
)
READS: Final = frozenset({"GetItem", "Query", "Scan", "BatchGetItem", "TransactGetItems"})


@dataclass(frozen=True, slots=True)
class Write:
    """A write of one item: the table's name and what it costs, in write units."""

    table: str
    units: int


def writes_of(operation: str, parameters: Mapping[str, Any]) -> list[Write]:
    """Return what a call writes, in the order of its parameters.

    Args:
        operation: One of `WRITES`.
        parameters: The call's.

    Raises:
        MalformedBodyError: They are not such a call's.
    """
    match operation, parameters:
        case "BatchWriteItem", {"RequestItems": {**tables}}:
            return [
                Write(table_name(table), write_units(_batched_bytes(request)))
                for table, requests in tables.items()
                for request in _list(requests)
            ]
        case "TransactWriteItems", {"TransactItems": [*items]}:
            return [_transacted(item) for item in items]
        case "PutItem" | "UpdateItem" | "DeleteItem", {"TableName": table}:
            return [Write(table_name(table), write_units(_written_bytes(parameters)))]
        case _:
            raise MalformedBodyError(f"these are not the parameters of {operation}")


def total(writes: Iterable[Write]) -> dict[str, int]:
    """Return the write units of each table."""
    units: dict[str, int] = defaultdict(int)
    for write in writes:
        units[write.table] += write.units
    return units


def shows_its_cost(parameters: Mapping[str, Any]) -> bool:
    """Whether the answer to a write may say more of its cost than the request does."""
    return _shows_an_item(parameters) or parameters.get("ReturnConsumedCapacity", "NONE") != "NONE"


def corrected_writes(
    parameters: Mapping[str, Any], answer: Mapping[str, Any], paid: Mapping[str, int]
) -> dict[str, float]:
    """Return what a write has cost each table, as far as its answer says so.

    Args:
        parameters: The call's.
        answer: The answer to it.
        paid: The write units that each table has been charged.

    Raises:
        MalformedBodyError: The answer has another form.
    """
    if consumed := _consumed(answer):
        return {table: consumed[table] for table in paid if table in consumed}
    if _shows_an_item(parameters) and "Attributes" in answer:
        units = write_units(item_bytes(answer["Attributes"]))
        return {table: max(units, paid[table]) for table in paid}
    return {}


def tables_read(operation: str, parameters: Mapping[str, Any]) -> list[str]:
    """Return the name of each table that a call reads; for a transaction that of each item's.

    Args:
        operation: One of `READS`.
        parameters: The call's.

    Raises:
        MalformedBodyError: They are not such a call's.
    """
    match operation, parameters:
        case "BatchGetItem", {"RequestItems": {**tables}}:
            return [table_name(table) for table in tables]
        case "TransactGetItems", {"TransactItems": [*items]}:
            return [table_name(_map(_map(item).get("Get")).get("TableName")) for item in items]
        case "GetItem" | "Query" | "Scan", {"TableName": table}:
            return [table_name(table)]
        case _:
            raise MalformedBodyError(f"these are not the parameters of {operation}")


def reads_of(
    operation: str, parameters: Mapping[str, Any], answer: Mapping[str, Any]
) -> dict[str, float]:
    """Return the read units that a call has cost each table.

    Args:
        operation: One of `READS`.
        parameters: The call's.
        answer: The answer to it.

    Raises:
        MalformedBodyError: One of them has another form.
    """
    consistent = bool(parameters.get("ConsistentRead"))
    tables = tables_read(operation, parameters)
    match operation:
        case "GetItem":
            units = {tables[0]: _item_units(answer.get("Item"), consistent=consistent)}
        case "BatchGetItem":
            units = _batch_units(parameters, answer)
        case "TransactGetItems":
            units = _transaction_units(tables, answer)
        case _:
            units = {tables[0]: read_units(_page_bytes(answer), consistent=consistent)}
    consumed = _consumed(answer)
    return {table: max(own, consumed.get(table, 0)) for table, own in units.items()}


def table_name(table: Any) -> str:
    """Return a table's name, from the name or the ARN.

    Raises:
        MalformedBodyError: It is neither.
    """
    if not isinstance(table, str):
        raise MalformedBodyError("a table's name is a string")
    return table.rpartition(":table/")[2]


def _shows_an_item(parameters: Mapping[str, Any]) -> bool:
    return parameters.get("ReturnValues") in ("ALL_OLD", "ALL_NEW")


def _written_bytes(write: Mapping[str, Any]) -> int:
    """Size what a Put, an Update, a Delete or a condition's check says of its item."""
    if "Item" in write:
        return item_bytes(write["Item"])
    values = _map(write.get("ExpressionAttributeValues") or {})
    updates = _map(write.get("AttributeUpdates") or {})
    return (
        item_bytes(write.get("Key"))
        + sum(map(value_bytes, values.values()))
        + item_bytes({name: u["Value"] for name, u in updates.items() if "Value" in _map(u)})
    )


def _batched_bytes(request: Any) -> int:
    match request:
        case {"PutRequest": {"Item": item}}:
            return item_bytes(item)
        case {"DeleteRequest": {"Key": key}}:
            return item_bytes(key)
        case _:
            raise MalformedBodyError("PutRequest or DeleteRequest is expected")


def _transacted(item: Any) -> Write:
    for action in ("Put", "Update", "Delete", "ConditionCheck"):
        if action in _map(item):
            write = _map(item[action])
            units = _TRANSACTION_FACTOR * write_units(_written_bytes(write))
            return Write(table_name(write.get("TableName")), units)
    raise MalformedBodyError("Put, Update, Delete or ConditionCheck is expected")


def _item_units(item: Any, *, consistent: bool) -> float:
    """An item that is not there costs the smallest read."""
    return read_units(item_bytes(item) if item else 0, consistent=consistent)


def _batch_units(parameters: Mapping[str, Any], answer: Mapping[str, Any]) -> dict[str, float]:
    units: dict[str, float] = {}
    responses = _map(answer.get("Responses") or {})
    unread = _map(answer.get("UnprocessedKeys") or {})
    for table, request in parameters["RequestItems"].items():
        consistent = bool(_map(request).get("ConsistentRead"))
        found = _list(responses.get(table) or [])
        read = len(_list(request.get("Keys"))) - len(_keys(unread.get(table)))
        items = found + [None] * (read - len(found))
        units[table_name(table)] = sum(_item_units(i, consistent=consistent) for i in items)
    return units


def _keys(request: Any) -> list[Any]:
    return _list(_map(request or {}).get("Keys") or [])


def _transaction_units(tables: list[str], answer: Mapping[str, Any]) -> dict[str, float]:
    units: dict[str, float] = defaultdict(float)
    for table, response in zip(tables, _list(answer.get("Responses")), strict=False):
        item = _map(response or {}).get("Item")
        units[table] += _TRANSACTION_FACTOR * _item_units(item, consistent=True)
    return units


def _page_bytes(answer: Mapping[str, Any]) -> int:
    items = _list(answer.get("Items") or [])
    size = sum(map(item_bytes, items))
    scanned = answer.get("ScannedCount")
    if items and isinstance(scanned, int) and scanned > len(items):
        return size * scanned // len(items)
    return size


def _consumed(answer: Mapping[str, Any]) -> dict[str, float]:
    """Return what an answer says of each table, less what it says of its global indexes."""
    said = answer.get("ConsumedCapacity") or []
    units: dict[str, float] = {}
    for entry in [said] if isinstance(said, Mapping) else _list(said):
        match entry:
            case {"TableName": name} if (amount := _number(entry.get("CapacityUnits"))) is not None:
                indexes = _map(entry.get("GlobalSecondaryIndexes") or {})
                others = (_number(_map(index).get("CapacityUnits")) for index in indexes.values())
                units[table_name(name)] = max(0.0, amount - sum(filter(None, others)))
    return units


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _map(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise MalformedBodyError(f"a map is expected, not {type(value).__name__}")
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise MalformedBodyError(f"a list is expected, not {type(value).__name__}")
    return value
