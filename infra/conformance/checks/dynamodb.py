"""What lease tables rely on: conditions, fenced updates, paging, indexes, types."""

from typing import Any

from infra.conformance.check import check, equal, expect, refused
from infra.conformance.ground import Ground
from infra.conformance.leases import item_of, lease, renew, table_of_one

_FAILED = "ConditionalCheckFailedException"
_CONDITION = "PutItem: ConditionExpression"
_LEGACY = "Legacy conditional parameters: Expected, AttributeUpdates"
_RETURN = "UpdateItem: ReturnValues"
_BATCH = "BatchWriteItem: 25 operations"
_NUMBER = "Data types: numbers have 38 digits of precision"


@check("put-if-absent", source=_CONDITION, area="dynamodb")
def put_if_absent(ground: Ground) -> None:
    """`attribute_not_exists` lets one PutItem through, and no second one."""
    db, table = ground.dynamodb, ground.table("leaseKey")
    item, only = lease("a", 1), "attribute_not_exists(leaseKey)"
    db.put_item(TableName=table, Item=item, ConditionExpression=only)
    other = lease("a", 9)
    refused(_FAILED, lambda: db.put_item(TableName=table, Item=other, ConditionExpression=only))
    equal(item_of(db, table, "a"), item, "item")


@check("update-if-counter", source="UpdateItem: ConditionExpression", area="dynamodb")
def update_if_counter(ground: Ground) -> None:
    """An update on the condition of a counter is applied for the right one alone."""
    db, table = ground.dynamodb, table_of_one(ground)
    renew(db, table, counter=1)
    refused(_FAILED, lambda: renew(db, table, counter=1))
    equal(item_of(db, table, "a").get("leaseCounter"), {"N": "2"}, "leaseCounter")


@check("update-legacy-expected", source=_LEGACY, area="dynamodb")
def update_legacy_expected(ground: Ground) -> None:
    """`Expected` with `AttributeUpdates`, which KCL sends, is a condition as well."""
    db, table = ground.dynamodb, table_of_one(ground)
    update: dict[str, Any] = {
        "TableName": table,
        "Key": {"leaseKey": {"S": "a"}},
        "AttributeUpdates": {"leaseCounter": {"Action": "PUT", "Value": {"N": "2"}}},
        "Expected": {"leaseCounter": {"Value": {"N": "1"}}, "gone": {"Exists": False}},
    }
    db.update_item(**update)
    refused(_FAILED, lambda: db.update_item(**update))
    equal(item_of(db, table, "a").get("leaseCounter"), {"N": "2"}, "leaseCounter")


@check("update-legacy-add-and-delete", source=_LEGACY, area="dynamodb")
def update_legacy_add_and_delete(ground: Ground) -> None:
    """The actions ADD and DELETE of `AttributeUpdates` count up and take away."""
    db, table = ground.dynamodb, table_of_one(ground)
    db.update_item(
        TableName=table,
        Key={"leaseKey": {"S": "a"}},
        AttributeUpdates={
            "leaseCounter": {"Action": "ADD", "Value": {"N": "4"}},
            "leaseOwner": {"Action": "DELETE"},
        },
    )
    equal(item_of(db, table, "a"), {"leaseKey": {"S": "a"}, "leaseCounter": {"N": "5"}}, "item")


@check("delete-if-owner", source="DeleteItem: ConditionExpression", area="dynamodb")
def delete_if_owner(ground: Ground) -> None:
    """A conditional DeleteItem leaves the item to another owner."""
    db, table = ground.dynamodb, table_of_one(ground)
    delete: dict[str, Any] = {
        "TableName": table,
        "Key": {"leaseKey": {"S": "a"}},
        "ConditionExpression": "leaseOwner = :me",
    }
    refused(
        _FAILED,
        lambda: db.delete_item(**delete, ExpressionAttributeValues={":me": {"S": "thief"}}),
    )
    equal(item_of(db, table, "a"), lease("a", 1), "item")
    db.delete_item(**delete, ExpressionAttributeValues={":me": {"S": "worker"}})
    equal(item_of(db, table, "a"), {}, "item after the owner's delete")


@check(
    "failed-condition-returns-item", source="ReturnValuesOnConditionCheckFailure", area="dynamodb"
)
def failed_condition_returns_item(ground: Ground) -> None:
    """A failed condition gives the item as it is, when asked for `ALL_OLD`."""
    db, table = ground.dynamodb, table_of_one(ground)
    error = refused(
        _FAILED, lambda: renew(db, table, counter=7, ReturnValuesOnConditionCheckFailure="ALL_OLD")
    )
    found: dict[str, Any] = {**error.response}
    equal(found.get("Item"), lease("a", 1), "Item")


@check("return-all-old", source=_RETURN, area="dynamodb")
def return_all_old(ground: Ground) -> None:
    """`ALL_OLD` returns the item as it was."""
    db, table = ground.dynamodb, table_of_one(ground)
    equal(renew(db, table, counter=1, ReturnValues="ALL_OLD"), lease("a", 1), "Attributes")


@check("return-all-new", source=_RETURN, area="dynamodb")
def return_all_new(ground: Ground) -> None:
    """`ALL_NEW` returns the whole item as it is now."""
    db, table = ground.dynamodb, table_of_one(ground)
    equal(renew(db, table, counter=1, ReturnValues="ALL_NEW"), lease("a", 2), "Attributes")


@check("return-updated-new", source=_RETURN, area="dynamodb")
def return_updated_new(ground: Ground) -> None:
    """`UPDATED_NEW` returns only what the update touched, as it is now."""
    db, table = ground.dynamodb, table_of_one(ground)
    found = renew(db, table, counter=1, ReturnValues="UPDATED_NEW")
    equal(found, {"leaseCounter": {"N": "2"}}, "Attributes")


@check("return-updated-old", source=_RETURN, area="dynamodb")
def return_updated_old(ground: Ground) -> None:
    """`UPDATED_OLD` returns only what the update touched, as it was."""
    db, table = ground.dynamodb, table_of_one(ground)
    found = renew(db, table, counter=1, ReturnValues="UPDATED_OLD")
    equal(found, {"leaseCounter": {"N": "1"}}, "Attributes")


@check("scan-pages", source="Scan: Limit, LastEvaluatedKey", area="dynamodb")
def scan_pages(ground: Ground) -> None:
    """A consistent Scan in pages gives each item once."""
    db, table = ground.dynamodb, ground.table("leaseKey")
    for number in range(7):
        db.put_item(TableName=table, Item=lease(f"k{number}", number))
    seen: list[str] = []
    start: dict[str, Any] = {}
    for _ in range(8):  # at the most
        page = db.scan(TableName=table, Limit=3, ConsistentRead=True, **start)
        expect(len(page["Items"]) <= 3, "at most 3 items in a page", len(page["Items"]))
        seen += [item["leaseKey"]["S"] for item in page["Items"]]
        if "LastEvaluatedKey" not in page:
            break
        start = {"ExclusiveStartKey": page["LastEvaluatedKey"]}
    equal(sorted(seen), [f"k{number}" for number in range(7)], "keys")


@check("query-pages", source="Query: KeyConditionExpression", area="dynamodb")
def query_pages(ground: Ground) -> None:
    """A consistent Query gives its items in the order of the sort key, in pages and backwards."""
    db, table = ground.dynamodb, ground.table("origin", "part")
    for part in ("c", "a", "d", "b"):
        db.put_item(TableName=table, Item={"origin": {"S": "s"}, "part": {"S": part}})
    query: dict[str, Any] = {
        "TableName": table,
        "KeyConditionExpression": "origin = :s AND part > :a",
        "ExpressionAttributeValues": {":s": {"S": "s"}, ":a": {"S": "a"}},
        "ConsistentRead": True,
    }
    first = db.query(**query, Limit=2)
    equal([item["part"]["S"] for item in first["Items"]], ["b", "c"], "first page")
    second = db.query(**query, Limit=2, ExclusiveStartKey=first["LastEvaluatedKey"])
    equal([item["part"]["S"] for item in second["Items"]], ["d"], "second page")
    last = db.query(**query, ScanIndexForward=False)
    equal([item["part"]["S"] for item in last["Items"]], ["d", "c", "b"], "backwards")


@check("index-of-keys", source="CreateTable: GlobalSecondaryIndexes, KEYS_ONLY", area="dynamodb")
def index_of_keys(ground: Ground) -> None:
    """A KEYS_ONLY index finds leases by their owner, gives keys alone, and omits the ownerless."""
    db, table = ground.dynamodb, _table_with_index(ground)
    db.put_item(TableName=table, Item=lease("a", 1) | {"checkpoint": {"S": "1"}})
    db.put_item(TableName=table, Item={"leaseKey": {"S": "free"}})

    def found() -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = db.query(
            TableName=table,
            IndexName="owners",
            KeyConditionExpression="leaseOwner = :me",
            ExpressionAttributeValues={":me": {"S": "worker"}},
        )["Items"]
        return items

    keys = {"leaseKey": {"S": "a"}, "leaseOwner": {"S": "worker"}}
    equal(ground.eventually(found, expected="an item in the index"), [keys], "items")
    scanned = db.scan(TableName=table, IndexName="owners")["Items"]
    equal(scanned, [keys], "items of a scan")


@check("index-not-consistent", source="Query: ConsistentRead", area="dynamodb")
def index_not_consistent(ground: Ground) -> None:
    """A consistent read of a global index is refused."""
    db, table = ground.dynamodb, _table_with_index(ground)
    refused(
        "ValidationException",
        lambda: db.query(
            TableName=table,
            IndexName="owners",
            KeyConditionExpression="leaseOwner = :me",
            ExpressionAttributeValues={":me": {"S": "worker"}},
            ConsistentRead=True,
        ),
    )


@check("time-to-live", source="UpdateTimeToLive; DescribeTimeToLive", area="dynamodb")
def time_to_live(ground: Ground) -> None:
    """A table says by which attribute its items expire."""
    db, table = ground.dynamodb, ground.table("leaseKey")
    db.update_time_to_live(
        TableName=table, TimeToLiveSpecification={"Enabled": True, "AttributeName": "expires"}
    )

    def described() -> bool:
        found = db.describe_time_to_live(TableName=table)["TimeToLiveDescription"]
        equal(found.get("AttributeName"), "expires", "AttributeName")
        return found["TimeToLiveStatus"] in ("ENABLING", "ENABLED")

    ground.eventually(described, expected="ENABLING or ENABLED")


@check("batch-write-25", source=_BATCH, area="dynamodb")
def batch_write_25(ground: Ground) -> None:
    """BatchWriteItem takes 25 puts and leaves none unprocessed."""
    db, table = ground.dynamodb, ground.table("leaseKey")
    answer = db.batch_write_item(RequestItems={table: _puts(25)})
    equal(answer.get("UnprocessedItems"), {}, "UnprocessedItems")
    equal(db.scan(TableName=table, Select="COUNT", ConsistentRead=True)["Count"], 25, "items")


@check("batch-write-26", source=_BATCH, area="dynamodb")
def batch_write_26(ground: Ground) -> None:
    """BatchWriteItem refuses 26 puts."""
    db, table = ground.dynamodb, ground.table("leaseKey")
    refused("ValidationException", lambda: db.batch_write_item(RequestItems={table: _puts(26)}))


@check("table-name-2", source="CreateTable: TableName, 3..255", area="dynamodb")
def table_name_2(ground: Ground) -> None:
    """A table's name of two characters is refused."""
    db = ground.dynamodb

    def create() -> None:
        db.create_table(
            TableName="ab",
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        )
        db.delete_table(TableName="ab")  # only an engine that took it comes here

    refused("ValidationException", create)


@check("table-unknown", source="GetItem: errors", area="dynamodb")
def table_unknown(ground: Ground) -> None:
    """Reading from a table that does not exist is a ResourceNotFoundException."""
    name = ground.unique()
    refused("ResourceNotFoundException", lambda: item_of(ground.dynamodb, name, "a"))


@check("number-precision", source=_NUMBER, area="dynamodb")
def number_precision(ground: Ground) -> None:
    """A number of 38 digits comes back exactly."""
    db, table = ground.dynamodb, ground.table("leaseKey")
    digits = "12345678901234567890123456789012345678"
    db.put_item(TableName=table, Item={"leaseKey": {"S": "a"}, "n": {"N": digits}})
    equal(item_of(db, table, "a").get("n"), {"N": digits}, "n")


@check("number-too-precise", source=_NUMBER, area="dynamodb")
def number_too_precise(ground: Ground) -> None:
    """A number of 39 digits is refused."""
    db, table = ground.dynamodb, ground.table("leaseKey")
    item = {"leaseKey": {"S": "a"}, "n": {"N": "123456789012345678901234567890123456789"}}
    refused("ValidationException", lambda: db.put_item(TableName=table, Item=item))


@check("string-set", source="Data types: sets", area="dynamodb")
def string_set(ground: Ground) -> None:
    """A set of strings keeps each once, grows by ADD, shrinks by DELETE, and is never empty."""
    db, table = ground.dynamodb, ground.table("leaseKey")
    key = {"leaseKey": {"S": "a"}}
    for expression, members in (("ADD parents :p", ["p", "q"]), ("ADD parents :p", ["q", "r"])):
        db.update_item(
            TableName=table,
            Key=key,
            UpdateExpression=expression,
            ExpressionAttributeValues={":p": {"SS": members}},
        )
    equal(sorted(item_of(db, table, "a")["parents"]["SS"]), ["p", "q", "r"], "set")
    db.update_item(
        TableName=table,
        Key=key,
        UpdateExpression="DELETE parents :p",
        ExpressionAttributeValues={":p": {"SS": ["p", "q", "r"]}},
    )
    equal(item_of(db, table, "a"), key, "item without its set")


def _table_with_index(ground: Ground) -> str:
    return ground.table(
        "leaseKey",
        AttributeDefinitions=[
            {"AttributeName": "leaseKey", "AttributeType": "S"},
            {"AttributeName": "leaseOwner", "AttributeType": "S"},
        ],
        GlobalSecondaryIndexes=[
            {
                "IndexName": "owners",
                "KeySchema": [
                    {"AttributeName": "leaseOwner", "KeyType": "HASH"},
                    {"AttributeName": "leaseKey", "KeyType": "RANGE"},
                ],
                "Projection": {"ProjectionType": "KEYS_ONLY"},
            }
        ],
    )


def _puts(count: int) -> list[Any]:
    return [{"PutRequest": {"Item": {"leaseKey": {"S": str(n)}}}} for n in range(count)]
