"""Effect and checkpoint in one step: transactions, and what they say when they are cancelled."""

from typing import TYPE_CHECKING, Any

from infra.conformance.check import check, equal, refused
from infra.conformance.ground import Ground
from infra.conformance.leases import item_of, lease, table_of_one

if TYPE_CHECKING:
    from types_boto3_dynamodb import DynamoDBClient

_CANCELED = "TransactionCanceledException"
_TRANSACT = "TransactWriteItems"


@check("transaction-all-or-nothing", source=_TRANSACT, area="dynamodb")
def transaction_all_or_nothing(ground: Ground) -> None:
    """One failed condition undoes the whole transaction."""
    db, table = ground.dynamodb, table_of_one(ground)
    refused(_CANCELED, lambda: _effect_and_checkpoint(db, table, counter=7))
    equal(item_of(db, table, "effect"), {}, "effect")
    _effect_and_checkpoint(db, table, counter=1)
    equal(item_of(db, table, "effect"), {"leaseKey": {"S": "effect"}}, "effect")
    equal(item_of(db, table, "a").get("leaseCounter"), {"N": "2"}, "leaseCounter")


@check("transaction-reasons-in-order", source="CancellationReasons", area="dynamodb")
def transaction_reasons_in_order(ground: Ground) -> None:
    """A cancelled transaction says for each action, in their order, why or `None`."""
    db, table = ground.dynamodb, table_of_one(ground)
    error = refused(_CANCELED, lambda: _effect_and_checkpoint(db, table, counter=7))
    found: dict[str, Any] = {**error.response}
    reasons = [reason.get("Code") for reason in found.get("CancellationReasons", [])]
    equal(reasons, ["None", "ConditionalCheckFailed"], "codes")


@check("transaction-reason-has-item", source="CancellationReason: Item", area="dynamodb")
def transaction_reason_has_item(ground: Ground) -> None:
    """The reason of a failed condition has the item, when asked for `ALL_OLD`."""
    db, table = ground.dynamodb, table_of_one(ground)
    error = refused(_CANCELED, lambda: _effect_and_checkpoint(db, table, counter=7))
    found: dict[str, Any] = {**error.response}
    equal(found["CancellationReasons"][-1].get("Item"), lease("a", 1), "Item")


@check("transaction-token", source=f"{_TRANSACT}: ClientRequestToken", area="dynamodb")
def transaction_token(ground: Ground) -> None:
    """The same transaction with the same ClientRequestToken is applied once."""
    db, table, token = ground.dynamodb, table_of_one(ground), ground.unique("t")
    for _ in range(2):
        _effect_and_checkpoint(db, table, counter=1, ClientRequestToken=token)
    equal(item_of(db, table, "a").get("leaseCounter"), {"N": "2"}, "leaseCounter")


@check("transaction-token-of-another", source="IdempotentParameterMismatch", area="dynamodb")
def transaction_token_of_another(ground: Ground) -> None:
    """The same ClientRequestToken with another transaction is refused."""
    db, table, token = ground.dynamodb, table_of_one(ground), ground.unique("t")
    _effect_and_checkpoint(db, table, counter=1, ClientRequestToken=token)
    refused(
        "IdempotentParameterMismatchException",
        lambda: _effect_and_checkpoint(db, table, counter=2, ClientRequestToken=token),
    )


def _effect_and_checkpoint(
    db: "DynamoDBClient", table: str, *, counter: int, **more: Any
) -> object:
    """Write an effect and count the lease up, in one transaction fenced by the counter."""
    return db.transact_write_items(
        TransactItems=[
            {"Put": {"TableName": table, "Item": {"leaseKey": {"S": "effect"}}}},
            {
                "Update": {
                    "TableName": table,
                    "Key": {"leaseKey": {"S": "a"}},
                    "UpdateExpression": "SET leaseCounter = leaseCounter + :one",
                    "ConditionExpression": "leaseCounter = :n",
                    "ExpressionAttributeValues": {":one": {"N": "1"}, ":n": {"N": str(counter)}},
                    "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
                }
            },
        ],
        **more,
    )
