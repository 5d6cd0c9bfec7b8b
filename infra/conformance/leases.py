"""A small lease table, as several checks need it."""

from typing import TYPE_CHECKING, Any

from infra.conformance.ground import Ground

if TYPE_CHECKING:
    from types_boto3_dynamodb import DynamoDBClient


def table_of_one(ground: Ground) -> str:
    """Make a table with the lease `a`, whose counter is 1."""
    table = ground.table("leaseKey")
    ground.dynamodb.put_item(TableName=table, Item=lease("a", 1))
    return table


def lease(key: str, counter: int) -> dict[str, Any]:
    """Return a lease as it is stored."""
    return {
        "leaseKey": {"S": key},
        "leaseOwner": {"S": "worker"},
        "leaseCounter": {"N": str(counter)},
    }


def renew(db: "DynamoDBClient", table: str, *, counter: int, **more: Any) -> dict[str, Any]:
    """Count a lease up if its counter is as expected, and return the `Attributes` answered."""
    answer = db.update_item(
        TableName=table,
        Key={"leaseKey": {"S": "a"}},
        UpdateExpression="SET leaseCounter = leaseCounter + :one",
        ConditionExpression="leaseCounter = :n",
        ExpressionAttributeValues={":one": {"N": "1"}, ":n": {"N": str(counter)}},
        **more,
    )
    return {**answer.get("Attributes", {})}


def item_of(db: "DynamoDBClient", table: str, key: str) -> dict[str, Any]:
    """Return an item as it is stored now; empty when there is none."""
    answer = db.get_item(TableName=table, Key={"leaseKey": {"S": key}}, ConsistentRead=True)
    return {**answer.get("Item", {})}
