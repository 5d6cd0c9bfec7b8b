"""What a real engine does not do on demand: leave items of a batch, answer late, answer oddly."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from multidict import CIMultiDict

from infra.proxy.exchange import Answer, Incoming
from infra.proxy.messages import Call, Identity, Service
from infra.proxy.operations.dynamodb import treat
from infra.proxy.quotas.dynamodb import DynamoQuotas
from infra.proxy.upstream import UpstreamError

ME = Identity("key", "us-east-1")
BIG = {"id": {"S": "x" * 1_022}}  # 1 KiB with its name
PROVISIONED = {"ProvisionedThroughput": {"WriteCapacityUnits": 1, "ReadCapacityUnits": 1}}

Engine = Callable[[Call, dict[str, Any] | None], Awaitable[dict[str, Any]]]


async def nothing(_call: Call, _parameters: dict[str, Any] | None) -> dict[str, Any]:
    return {}


@dataclass
class Desk:
    """As much of the proxy's desk as a treatment of DynamoDB uses."""

    engine: Engine = nothing
    describe: Callable[[], Awaitable[dict[str, Any]]] | None = None
    dynamo: DynamoQuotas | None = field(default_factory=lambda: DynamoQuotas(lambda: 0.0))
    forwarded: list[dict[str, Any] | None] = field(default_factory=list)
    asked: int = 0
    status: int = 200

    async def forward(self, call: Call, parameters: dict[str, Any] | None = None) -> Answer:
        self.forwarded.append(parameters)
        value = await self.engine(call, parameters)
        headers = CIMultiDict({"x-amz-crc32": "1", "x-amzn-RequestId": "7"})
        return Answer(self.status, headers, json.dumps(value).encode())

    async def ask(self, _call: Call, operation: str, _parameters: dict[str, Any]) -> dict[str, Any]:
        assert operation == "DescribeTable"
        self.asked += 1
        return await self.describe() if self.describe else {"Table": PROVISIONED}

    async def call(self, operation: str, parameters: Any) -> Answer:
        body = json.dumps(parameters).encode()
        incoming = Incoming("POST", "/", CIMultiDict(), body, "127.0.0.1")
        call = Call(Service.DYNAMODB, operation, "application/x-amz-json-1.0", ME, incoming)
        return await treat(call, self)  # type: ignore[arg-type]

    async def put(self, table: str = "orders") -> int:
        return (await self.call("PutItem", {"TableName": table, "Item": BIG})).status


def spend(desk: Desk, units: int) -> None:
    assert desk.dynamo is not None
    desk.dynamo.learn((ME, "orders"), PROVISIONED)
    assert not desk.dynamo.write({(ME, "orders"): units})


def test_what_the_engine_left_and_what_we_held_back_both_stay_unprocessed():
    async def leaves_the_first(_: Call, parameters: dict[str, Any] | None) -> dict[str, Any]:
        assert parameters
        return {"UnprocessedItems": {"orders": parameters["RequestItems"]["orders"][:1]}}

    desk = Desk(engine=leaves_the_first)
    spend(desk, 298)
    requests = [{"PutRequest": {"Item": {"id": {"S": str(n)}}}} for n in range(4)]
    answer = asyncio.run(
        desk.call("BatchWriteItem", {"RequestItems": {"orders": requests}, "Other": "kept"})
    )
    assert desk.forwarded == [{"RequestItems": {"orders": requests[:2]}, "Other": "kept"}]
    left = json.loads(answer.body)["UnprocessedItems"]
    assert left == {"orders": [requests[0], requests[2], requests[3]]}
    # The checksum was the other body's.
    assert dict(answer.headers) == {"x-amzn-RequestId": "7"}


def test_what_fits_is_sent_byte_for_byte():
    desk = Desk()
    requests = [{"PutRequest": {"Item": BIG}}]
    asyncio.run(desk.call("BatchWriteItem", {"RequestItems": {"orders": requests}}))
    asyncio.run(desk.put())
    assert desk.forwarded == [None, None]


def test_a_table_is_asked_for_once():
    desk = Desk()
    for _ in range(3):
        asyncio.run(desk.put())
    assert desk.asked == 1


def test_a_description_from_before_a_change_is_not_kept():
    async def scenario() -> None:
        asked, answered = asyncio.Event(), asyncio.Event()

        async def late() -> dict[str, Any]:
            asked.set()
            await answered.wait()
            return {"Table": PROVISIONED}

        desk = Desk(describe=late)
        writing = asyncio.create_task(desk.put())
        await asked.wait()
        await desk.call("UpdateTable", {"TableName": "orders"})
        answered.set()
        assert await writing == 200
        assert desk.dynamo is not None
        assert not desk.dynamo.knows((ME, "orders"))

    asyncio.run(scenario())


@pytest.mark.parametrize("operation", ["CreateTable", "UpdateTable", "DeleteTable"])
@pytest.mark.parametrize(("status", "fills"), [(200, True), (400, False), (500, True)])
def test_only_a_change_that_may_have_happened_fills_the_buckets(
    operation: str,
    status: int,
    fills: bool,  # noqa: FBT001 - a parameter
):
    desk = Desk(status=status)
    spend(desk, 300)
    answer = asyncio.run(desk.call(operation, {"TableName": "orders"}))
    assert answer.status == status
    desk.status = 200
    assert asyncio.run(desk.put()) == (200 if fills else 400)


@pytest.mark.parametrize("end", ["no answer", "the client leaves"])
def test_a_change_of_which_nobody_knows_the_end_is_taken_as_made(end: str):
    async def scenario() -> None:
        begun = asyncio.Event()

        async def never(_call: Call, _parameters: dict[str, Any] | None) -> dict[str, Any]:
            begun.set()
            if end == "no answer":
                raise UpstreamError("ServiceUnavailable", "it broke off", 502)
            await asyncio.Event().wait()
            return {}

        desk = Desk(engine=never)
        spend(desk, 300)
        changing = asyncio.create_task(desk.call("UpdateTable", {"TableName": "orders"}))
        await begun.wait()
        changing.cancel()
        with pytest.raises((UpstreamError, asyncio.CancelledError)):
            await changing
        assert desk.dynamo is not None
        assert not desk.dynamo.knows((ME, "orders"))

    asyncio.run(scenario())


@pytest.mark.parametrize("operation", ["PutItem", "TransactWriteItems"])
def test_every_refusal_is_counted_as_one(operation: str):
    desk = Desk()
    spend(desk, 300)
    put = {"TableName": "orders", "Item": BIG}
    parameters = put if operation == "PutItem" else {"TransactItems": [{"Put": put}]}
    answer = asyncio.run(desk.call(operation, parameters))
    assert (answer.status, answer.refused) == (400, True)
    assert desk.forwarded == []


def test_two_who_ask_at_once_share_one_burst():
    async def scenario() -> None:
        both = asyncio.Event()

        async def late() -> dict[str, Any]:
            if desk.asked == 2:
                both.set()
            await both.wait()
            return {"Table": PROVISIONED}

        desk = Desk(describe=late)
        assert await asyncio.gather(desk.put(), desk.put()) == [200, 200]
        assert desk.dynamo is not None
        assert desk.dynamo.rows()[0]["write_units_left"] == 298

    asyncio.run(scenario())


def test_a_table_that_cannot_be_described_is_left_to_the_engine():
    async def missing() -> dict[str, Any]:
        raise UpstreamError("ResourceNotFoundException", "there is none", 400)

    desk = Desk(describe=missing)
    assert asyncio.run(desk.put()) == 200
    assert asyncio.run(desk.put()) == 200
    assert desk.asked == 2
    assert desk.forwarded == [None, None]


@pytest.mark.parametrize(
    ("operation", "parameters"),
    [
        ("PutItem", {"TableName": "orders", "Item": {"id": "no value"}}),
        ("BatchWriteItem", {"RequestItems": None}),
        ("GetItem", ["no map"]),
        ("UpdateTable", ["no map"]),
        ("ExecuteStatement", ["no map"]),
        ("ListTables", {}),
    ],
)
def test_what_is_not_ours_to_judge_is_forwarded_once(operation: str, parameters: object):
    desk = Desk()
    assert asyncio.run(desk.call(operation, parameters)).status == 200
    assert desk.forwarded == [None]
    assert desk.asked == 0


def test_an_odd_answer_to_a_read_is_passed_on():
    async def odd(_call: Call, _parameters: dict[str, Any] | None) -> dict[str, Any]:
        return {"Item": ["no map"]}

    desk = Desk(engine=odd)
    answer = asyncio.run(desk.call("GetItem", {"TableName": "orders", "Key": BIG}))
    assert json.loads(answer.body) == {"Item": ["no map"]}


def test_without_quotas_nothing_is_asked():
    desk = Desk(dynamo=None)
    assert asyncio.run(desk.put()) == 200
    assert desk.asked == 0
