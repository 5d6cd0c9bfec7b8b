"""DynamoDB behind the proxy: boto3 against a real engine, with a clock that the test moves."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from infra.proxy.quotas.dynamodb import DynamoQuotas
from infra.stack.endpoints import Endpoints
from tests.proxy_in_thread import proxied

if TYPE_CHECKING:
    from types_boto3_dynamodb import DynamoDBClient

EXCEEDED = "ProvisionedThroughputExceededException"


@dataclass
class Clock:
    """Time passes by hand, and by a step whenever someone looks."""

    now: float = 1_000.0
    step: float = 0.0

    def __call__(self) -> float:
        self.now += self.step
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limited(stack: Endpoints, clock: Clock) -> Iterator["DynamoDBClient"]:
    """A client that goes through the proxy, and does not retry."""
    assert stack.aws
    with proxied(stack.aws, quotas=True) as proxy:
        proxy.desk.dynamo = DynamoQuotas(clock)
        client = client_at(proxy.url, attempts=1)
        yield client
        client.close()


def client_at(url: str, *, attempts: int) -> "DynamoDBClient":
    config = Config(retries={"total_max_attempts": attempts}, read_timeout=30)
    return boto3.session.Session().client("dynamodb", endpoint_url=url, config=config)


@pytest.fixture
def table(dynamodb: "DynamoDBClient", unique: Callable[[str], str]) -> Iterator[Callable[..., str]]:
    """Return a function that makes a table, behind the proxy's back."""
    made: list[str] = []

    def make(write: int = 5, read: int = 5, **settings: Any) -> str:
        name = unique("table")
        if "BillingMode" not in settings:
            settings["ProvisionedThroughput"] = throughput(write, read)
        attributes = [{"AttributeName": n, "AttributeType": "S"} for n in ("id", "owner")]
        dynamodb.create_table(
            TableName=name,
            AttributeDefinitions=attributes[: 2 if "GlobalSecondaryIndexes" in settings else 1],
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
            **settings,
        )
        made.append(name)
        dynamodb.get_waiter("table_exists").wait(TableName=name, WaiterConfig={"Delay": 1})
        return name

    yield make
    for name in made:
        dynamodb.delete_table(TableName=name)


def throughput(write: int, read: int) -> dict[str, int]:
    return {"WriteCapacityUnits": write, "ReadCapacityUnits": read}


def item(key: object, size: int = 1_024) -> dict[str, Any]:
    """Make an item of exactly so many bytes."""
    id_ = str(key)
    return {"id": {"S": id_}, "b": {"B": bytes(size - 3 - len(id_.encode()))}}


def admitted(write: Callable[[], object], most: int) -> int:
    """Call until DynamoDB has enough of it, and return how often it had not."""
    for count in range(most):
        try:
            write()
        except ClientError as error:
            if error.response["Error"]["Code"] != EXCEEDED:
                raise
            return count
    return most


def spend(client: "DynamoDBClient", name: str, kib: int) -> None:
    """Use up write units, by one large item."""
    client.put_item(TableName=name, Item=item("large", kib * 1_024))


def test_a_table_takes_its_burst_and_then_its_rate(
    limited: "DynamoDBClient",
    dynamodb: "DynamoDBClient",
    table: Callable[..., str],
    clock: Clock,
):
    name = table(write=5)
    for _ in range(5):
        spend(limited, name, kib=298)

    def put() -> None:
        limited.put_item(TableName=name, Item=item(0))

    assert admitted(put, 50) == 10  # 5 x 298 of 1,500 units are gone
    clock.now += 1
    assert admitted(put, 50) == 5
    clock.now += 2
    assert admitted(put, 50) == 10
    with pytest.raises(ClientError) as refused:
        limited.put_item(TableName=name, Item=item("refused"))
    assert refused.value.response["Error"]["Message"] == (
        "The level of configured provisioned throughput for the table was exceeded."
        " Consider increasing your provisioning level with the UpdateTable API."
    )
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400
    assert "Item" not in dynamodb.get_item(TableName=name, Key={"id": {"S": "refused"}})


def test_a_batch_is_written_as_far_as_there_is_capacity(
    limited: "DynamoDBClient", dynamodb: "DynamoDBClient", table: Callable[..., str], clock: Clock
):
    name, free = table(write=1), table(BillingMode="PAY_PER_REQUEST")
    spend(limited, name, kib=297)
    requests = {
        name: [{"PutRequest": {"Item": item(n)}} for n in range(5)],
        free: [{"PutRequest": {"Item": item(n)}} for n in range(5)],
    }
    answer = limited.batch_write_item(RequestItems=requests)
    assert answer["UnprocessedItems"] == {name: requests[name][3:]}
    assert keys_in(dynamodb, free) == {"0", "1", "2", "3", "4"}
    assert keys_in(dynamodb, name) == {"large", "0", "1", "2"}
    with pytest.raises(ClientError, match=EXCEEDED):
        limited.batch_write_item(RequestItems=answer["UnprocessedItems"])
    clock.now += 1
    answer = limited.batch_write_item(RequestItems=answer["UnprocessedItems"])
    assert answer["UnprocessedItems"] == {name: requests[name][4:]}
    clock.now += 1
    answer = limited.batch_write_item(RequestItems=answer["UnprocessedItems"])
    assert answer["UnprocessedItems"] == {}
    assert keys_in(dynamodb, name) == {"large", "0", "1", "2", "3", "4"}


def test_a_batch_that_aws_refuses_is_not_made_smaller(
    limited: "DynamoDBClient", dynamodb: "DynamoDBClient", table: Callable[..., str]
):
    name = table(write=1)
    spend(limited, name, kib=290)
    requests = {name: [{"PutRequest": {"Item": item(n)}} for n in range(26)]}
    with pytest.raises(ClientError, match="ValidationException"):
        limited.batch_write_item(RequestItems=requests)
    assert keys_in(dynamodb, name) == {"large"}


def test_the_batch_writer_of_boto3_gets_everything_written(
    stack: Endpoints, dynamodb: "DynamoDBClient", table: Callable[..., str]
):
    assert stack.aws
    name = table(write=1)
    # Each look at the clock, one for each item of a batch, lasts a fifth of a second.
    clock = Clock(step=0.2)
    with proxied(stack.aws, quotas=True) as proxy:
        quotas = proxy.desk.dynamo = DynamoQuotas(clock)
        resource = boto3.resource("dynamodb", endpoint_url=proxy.url)
        with resource.Table(name).batch_writer() as batch:
            for n in range(450):
                batch.put_item(Item={"id": str(n), "body": "x" * 100})
        resource.meta.client.close()
        assert quotas.rows()[0]["throttled"] > 0
    assert keys_in(dynamodb, name) == {str(n) for n in range(450)}


def keys_in(client: "DynamoDBClient", name: str) -> set[str]:
    pages = client.get_paginator("scan").paginate(TableName=name, ConsistentRead=True)
    return {found["id"]["S"] for page in pages for found in page["Items"]}


def test_a_transaction_is_written_wholly_or_refused_wholly(
    limited: "DynamoDBClient", dynamodb: "DynamoDBClient", table: Callable[..., str], clock: Clock
):
    name, free = table(write=1), table(BillingMode="PAY_PER_REQUEST")
    spend(limited, name, kib=299)

    def put_both() -> None:
        limited.transact_write_items(
            TransactItems=[
                {"Put": {"TableName": free, "Item": item("t")}},
                {"Put": {"TableName": name, "Item": item("t")}},
            ]
        )

    with pytest.raises(limited.exceptions.TransactionCanceledException) as refused:
        put_both()
    reasons = refused.value.response["CancellationReasons"]
    assert [reason["Code"] for reason in reasons] == ["None", "ProvisionedThroughputExceeded"]
    assert refused.value.response["Error"]["Message"].endswith(
        "[None, ProvisionedThroughputExceeded]"
    )
    assert keys_in(dynamodb, free) == set()
    clock.now += 1  # one unit left and one more: the two that a transaction costs
    put_both()
    assert keys_in(dynamodb, free) == {"t"}
    assert keys_in(dynamodb, name) == {"large", "t"}


def test_a_failed_condition_costs_a_write(
    limited: "DynamoDBClient", table: Callable[..., str], clock: Clock
):
    name = table(write=1)
    spend(limited, name, kib=299)
    conditional = {"TableName": name, "ConditionExpression": "attribute_not_exists(id)"}
    with pytest.raises(limited.exceptions.ConditionalCheckFailedException):
        limited.put_item(Item=item("large"), **conditional)
    with pytest.raises(ClientError, match=EXCEEDED):
        limited.put_item(Item=item("small"), **conditional)
    clock.now += 1
    limited.put_item(Item=item("small"), **conditional)


@pytest.mark.parametrize(
    "shown", [{"ReturnValues": "ALL_OLD"}, {"ReturnConsumedCapacity": "TOTAL"}]
)
def test_an_answer_that_shows_the_item_corrects_the_cost(
    limited: "DynamoDBClient", table: Callable[..., str], clock: Clock, shown: dict[str, Any]
):
    name = table(write=1)
    spend(limited, name, kib=299)
    limited.delete_item(TableName=name, Key={"id": {"S": "large"}}, **shown)
    clock.now += 298  # of the 299 units that it has really cost, one was there
    with pytest.raises(ClientError, match=EXCEEDED):
        limited.put_item(TableName=name, Item=item(0))
    clock.now += 1
    limited.put_item(TableName=name, Item=item(0))


@pytest.mark.parametrize("how", ["get", "query", "scan", "batch", "transaction"])
def test_reads_are_refused_while_in_debt(
    limited: "DynamoDBClient",
    dynamodb: "DynamoDBClient",
    table: Callable[..., str],
    clock: Clock,
    how: str,
):
    name = table(read=1)
    dynamodb.put_item(TableName=name, Item=item("large", 400 * 1_024))
    factor = 2 if how == "transaction" else 1

    def read() -> None:
        assert size_read(limited, name, how) == 400 * 1_024 - 8

    cost = 100 * factor
    for _ in range(-(-300 // cost)):
        read()
    with pytest.raises(ClientError) as refused:
        read()
    code = "TransactionCanceledException" if how == "transaction" else EXCEEDED
    assert refused.value.response["Error"]["Code"] == code
    debt = -300 % cost
    clock.now += debt + 0.5
    read()
    with pytest.raises(ClientError):
        read()


def size_read(client: "DynamoDBClient", name: str, how: str) -> int:
    """Read an item strongly consistently, in one of the ways that there are."""
    key = {"id": {"S": "large"}}
    match how:
        case "get":
            found = client.get_item(TableName=name, Key=key, ConsistentRead=True)["Item"]
        case "query":
            (found,) = client.query(
                TableName=name,
                KeyConditionExpression="id = :id",
                ExpressionAttributeValues={":id": key["id"]},
                ConsistentRead=True,
            )["Items"]
        case "scan":
            (found,) = client.scan(TableName=name, ConsistentRead=True)["Items"]
        case "batch":
            wanted = {name: {"Keys": [key], "ConsistentRead": True}}
            (found,) = client.batch_get_item(RequestItems=wanted)["Responses"][name]
        case _:
            get = {"Get": {"TableName": name, "Key": key}}
            found = client.transact_get_items(TransactItems=[get])["Responses"][0]["Item"]
    return len(found["b"]["B"])


def test_keys_of_a_table_in_debt_stay_unread(
    limited: "DynamoDBClient", dynamodb: "DynamoDBClient", table: Callable[..., str], clock: Clock
):
    poor, rich = table(read=1), table(read=100)
    for name in (poor, rich):
        dynamodb.put_item(TableName=name, Item=item("large", 400 * 1_024))
    for _ in range(3):
        size_read(limited, poor, "get")
    wanted = {name: {"Keys": [{"id": {"S": "large"}}]} for name in (poor, rich)}
    answer = limited.batch_get_item(RequestItems=wanted)
    assert answer["UnprocessedKeys"] == {poor: wanted[poor]}
    assert list(answer["Responses"]) == [rich]
    with pytest.raises(ClientError, match=EXCEEDED):
        limited.batch_get_item(RequestItems=answer["UnprocessedKeys"])
    clock.now += 1
    answer = limited.batch_get_item(RequestItems=answer["UnprocessedKeys"])
    assert answer["UnprocessedKeys"] == {}
    assert list(answer["Responses"]) == [poor]


def test_what_changes_a_table_through_the_proxy_is_noticed(
    limited: "DynamoDBClient", table: Callable[..., str]
):
    name = table(write=1)
    spend(limited, name, kib=300)

    def put() -> None:
        limited.put_item(TableName=name, Item=item(0))

    assert admitted(put, 1) == 0
    limited.update_table(TableName=name, BillingMode="PAY_PER_REQUEST")
    assert admitted(put, 5) == 5
    limited.update_table(
        TableName=name, BillingMode="PROVISIONED", ProvisionedThroughput=throughput(1, 1)
    )
    spend(limited, name, kib=300)
    assert admitted(put, 1) == 0


def test_a_read_of_a_global_index_is_not_charged_to_the_table(
    limited: "DynamoDBClient", dynamodb: "DynamoDBClient", table: Callable[..., str]
):
    index = {
        "IndexName": "by-owner",
        "KeySchema": [{"AttributeName": "owner", "KeyType": "HASH"}],
        "Projection": {"ProjectionType": "ALL"},
        "ProvisionedThroughput": throughput(1, 1),
    }
    name = table(read=1, GlobalSecondaryIndexes=[index])
    dynamodb.put_item(TableName=name, Item={**item("large", 399 * 1_024), "owner": {"S": "me"}})
    for _ in range(3):
        found = limited.scan(TableName=name, IndexName="by-owner")
        assert found["Count"] == 1
    for _ in range(2):
        size_read(limited, name, "get")
    for _ in range(3):
        limited.scan(TableName=name, IndexName="by-owner")
    size_read(limited, name, "get")
    with pytest.raises(ClientError, match=EXCEEDED):
        size_read(limited, name, "get")
    assert limited.scan(TableName=name, IndexName="by-owner")["Count"] == 1


def test_the_engine_has_its_own_words_for_what_is_wrong(
    limited: "DynamoDBClient", dynamodb: "DynamoDBClient", table: Callable[..., str]
):
    missing = {"TableName": "there-is-none", "Item": item(0)}
    with pytest.raises(limited.exceptions.ResourceNotFoundException) as through:
        limited.put_item(**missing)
    with pytest.raises(dynamodb.exceptions.ResourceNotFoundException) as direct:
        dynamodb.put_item(**missing)
    assert through.value.response["Error"] == direct.value.response["Error"]
    name = table(write=1)
    spend(limited, name, kib=300)
    with pytest.raises(ClientError, match="ValidationException"):
        limited.put_item(TableName=name, Item={"id": {"N": "no number"}})
    assert limited.describe_table(TableName=name)["Table"]["TableName"] == name
