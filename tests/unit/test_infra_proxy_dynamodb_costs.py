"""What items weigh and calls cost, against figures counted by hand from AWS's rules."""

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.proxy.messages import MalformedBodyError
from infra.proxy.quotas.dynamodb_costs import (
    Write,
    corrected_writes,
    reads_of,
    shows_its_cost,
    table_name,
    tables_read,
    total,
    writes_of,
)
from infra.proxy.quotas.item_size import item_bytes, read_units, value_bytes, write_units

KEY = {"id": {"S": "a"}}  # 3 bytes
ARN = "arn:aws:dynamodb:us-east-1:000000000000:table/orders"


def text(size: int) -> dict[str, str]:
    return {"S": "x" * size}


def item(size: int) -> dict[str, Any]:
    return {**KEY, "body": text(size - 3 - 4)}


@pytest.mark.parametrize(
    ("value", "size"),
    [
        ({"S": "æøå"}, 6),
        ({"S": ""}, 0),
        ({"N": "0"}, 1),
        ({"N": "7"}, 2),
        ({"N": "-7"}, 3),
        ({"N": "12"}, 2),
        ({"N": "123"}, 3),
        ({"N": "1200000"}, 2),
        ({"N": "0.00012"}, 2),
        ({"N": "1.2E+100"}, 2),
        ({"N": "-" + "9" * 38}, 21),
        ({"B": base64.b64encode(bytes(10)).decode()}, 10),
        ({"BOOL": False}, 1),
        ({"NULL": True}, 1),
        ({"SS": ["a", "bcd"]}, 4),
        ({"NS": ["1", "-1"]}, 5),
        ({"BS": ["AA==", "AAA="]}, 3),
        ({"L": []}, 3),
        ({"M": {}}, 3),
        ({"L": [{"S": "ab"}, {"N": "1"}]}, 3 + 2 + 2 + 2),
        ({"M": {"key": {"S": "ab"}}}, 3 + 1 + 3 + 2),
        ({"L": [{"L": []}, {"M": {"k": {"BOOL": True}}}]}, 3 + (1 + 3) + (1 + 3 + 1 + 1 + 1)),
    ],
)
def test_a_value_weighs_what_aws_documents(value: dict[str, Any], size: int):
    assert value_bytes(value) == size
    assert item_bytes({"näme": value}) == 5 + size


@pytest.mark.parametrize(
    "value",
    [
        None,
        "text",
        {},
        {"X": "a"},
        {"S": 1},
        {"N": "one"},
        {"N": "NaN"},
        {"N": None},
        {"B": "abc"},
        {"SS": "ab"},
        {"SS": ["a"], "NS": ["1"]},
        {"BS": ["AA=="], "X": 1},
        {"L": {}},
        {"L": [1]},
        {"M": []},
    ],
)
def test_what_is_no_attribute_value_is_refused(value: object):
    with pytest.raises(MalformedBodyError):
        value_bytes(value)


def test_nesting_has_an_end():
    value: dict[str, Any] = {"S": ""}
    for _ in range(32):
        value = {"L": [value]}
    assert value_bytes(value) == 32 * 4
    with pytest.raises(MalformedBodyError):
        value_bytes({"L": [value]})


SCALARS = st.one_of(
    st.text().map(lambda s: {"S": s}),
    st.integers(-(10**37), 10**37).map(lambda n: {"N": str(n)}),
    st.binary().map(lambda b: {"B": base64.b64encode(b).decode()}),
    st.booleans().map(lambda b: {"BOOL": b}),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map(lambda v: {"L": v}),
        st.dictionaries(st.text(max_size=5), inner, max_size=4).map(lambda v: {"M": v}),
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), VALUES, max_size=4), st.text(), VALUES)
def test_an_attribute_more_makes_an_item_larger_by_itself(
    attributes: dict[str, Any], name: str, value: dict[str, Any]
):
    attributes.pop(name, None)
    alone = item_bytes({name: value})
    assert alone >= len(name.encode())
    assert item_bytes({**attributes, name: value}) == item_bytes(attributes) + alone


@pytest.mark.parametrize(
    ("size", "write", "consistent"),
    [(0, 1, 1), (1, 1, 1), (1024, 1, 1), (1025, 2, 1), (4096, 4, 1), (4097, 5, 2), (8192, 8, 2)],
)
def test_units_are_rounded_up(size: int, write: int, consistent: int):
    assert write_units(size) == write
    assert read_units(size, consistent=True) == consistent
    assert read_units(size, consistent=False) == consistent / 2


@pytest.mark.parametrize(
    ("operation", "parameters", "units"),
    [
        ("PutItem", {"Item": item(1024)}, 1),
        ("PutItem", {"Item": item(1025)}, 2),
        ("DeleteItem", {"Key": KEY}, 1),
        ("UpdateItem", {"Key": KEY}, 1),
        ("UpdateItem", {"Key": KEY, "ExpressionAttributeValues": {":v": text(1021)}}, 1),
        ("UpdateItem", {"Key": KEY, "ExpressionAttributeValues": {":v": text(1022)}}, 2),
        ("UpdateItem", {"Key": KEY, "AttributeUpdates": {"n": {"Value": text(1020)}}}, 1),
        ("UpdateItem", {"Key": KEY, "AttributeUpdates": {"n": {"Value": text(1021)}}}, 2),
        ("UpdateItem", {"Key": KEY, "AttributeUpdates": {"n": {"Action": "DELETE"}}}, 1),
    ],
)
@pytest.mark.parametrize("table", ["orders", ARN])
def test_a_write_costs_what_its_request_shows(
    operation: str, parameters: dict[str, Any], units: int, table: str
):
    assert writes_of(operation, {"TableName": table, **parameters}) == [Write("orders", units)]


def test_a_batch_is_rounded_up_item_by_item():
    requests = {
        "orders": [{"PutRequest": {"Item": item(10)}}, {"PutRequest": {"Item": item(3000)}}],
        "other": [{"DeleteRequest": {"Key": KEY}}],
    }
    writes = writes_of("BatchWriteItem", {"RequestItems": requests})
    assert writes == [Write("orders", 1), Write("orders", 3), Write("other", 1)]
    assert total(writes) == {"orders": 4, "other": 1}


def test_a_transaction_costs_double():
    items = [
        {"Put": {"TableName": "orders", "Item": item(1025)}},
        {"Update": {"TableName": ARN, "Key": KEY}},
        {"Delete": {"TableName": "other", "Key": KEY}},
        {"ConditionCheck": {"TableName": "other", "Key": KEY}},
    ]
    writes = writes_of("TransactWriteItems", {"TransactItems": items})
    tables = ["orders", "orders", "other", "other"]
    assert writes == [Write(t, n) for t, n in zip(tables, [4, 2, 2, 2], strict=True)]


@pytest.mark.parametrize(
    ("operation", "parameters"),
    [
        ("PutItem", {}),
        ("PutItem", {"TableName": "orders"}),
        ("PutItem", {"TableName": 7, "Item": KEY}),
        ("PutItem", {"TableName": "orders", "Item": {"id": "a"}}),
        ("UpdateItem", {"TableName": "orders", "Key": KEY, "AttributeUpdates": {"n": 1}}),
        ("UpdateItem", {"TableName": "orders", "Key": KEY, "ExpressionAttributeValues": [1]}),
        ("BatchWriteItem", {"RequestItems": []}),
        ("BatchWriteItem", {"RequestItems": {"orders": {}}}),
        ("BatchWriteItem", {"RequestItems": {"orders": [{"PutRequest": KEY}]}}),
        ("TransactWriteItems", {"TransactItems": [{}]}),
        ("TransactWriteItems", {"TransactItems": ["Put"]}),
        ("TransactWriteItems", {"TransactItems": [{"Put": {"Item": KEY}}]}),
    ],
)
def test_a_write_of_another_form_is_refused(operation: str, parameters: dict[str, Any]):
    with pytest.raises(MalformedBodyError):
        writes_of(operation, parameters)


def test_the_answer_to_a_write_corrects_its_cost():
    shown = {"Attributes": item(2049)}
    assert shows_its_cost({"ReturnValues": "ALL_OLD"})
    assert corrected_writes({"ReturnValues": "ALL_OLD"}, shown, {"orders": 1}) == {"orders": 3}
    # The old item may be the smaller one.
    assert corrected_writes({"ReturnValues": "ALL_OLD"}, shown, {"orders": 5}) == {"orders": 5}
    # A part of an item says nothing of the whole.
    assert not shows_its_cost({"ReturnValues": "UPDATED_NEW"})
    assert corrected_writes({"ReturnValues": "UPDATED_NEW"}, shown, {"orders": 1}) == {}


def test_consumed_capacity_goes_before_our_own_figure():
    asked = {"ReturnConsumedCapacity": "TOTAL", "ReturnValues": "ALL_OLD"}
    said = {"ConsumedCapacity": {"TableName": ARN, "CapacityUnits": 2.0}, "Attributes": item(9000)}
    assert shows_its_cost(asked)
    assert corrected_writes(asked, said, {"orders": 5}) == {"orders": 2.0}
    assert not shows_its_cost({"ReturnConsumedCapacity": "NONE"})
    many = {
        "ConsumedCapacity": [
            {
                "TableName": "orders",
                "CapacityUnits": 3.0,
                "GlobalSecondaryIndexes": {"by-owner": {"CapacityUnits": 1.0}},
            },
            {"TableName": "other", "CapacityUnits": 9.0},
        ]
    }
    assert corrected_writes(asked, many, {"orders": 5}) == {"orders": 2.0}


@pytest.mark.parametrize("units", ["2", None, True])
def test_capacity_that_is_no_number_is_not_believed(units: object):
    entry = {"TableName": "orders", "CapacityUnits": units}
    assert corrected_writes({}, {"ConsumedCapacity": entry}, {"orders": 5}) == {}
    index = {"GlobalSecondaryIndexes": {"by-owner": {"CapacityUnits": units}}}
    with_index = {"ConsumedCapacity": {**entry, "CapacityUnits": 3, **index}}
    assert corrected_writes({}, with_index, {"orders": 5}) == {"orders": 3.0}


def test_a_read_costs_what_its_answer_shows():
    get = {"TableName": "orders", "Key": KEY}
    assert reads_of("GetItem", get, {"Item": item(4097)}) == {"orders": 1.0}
    consistent = {**get, "ConsistentRead": True}
    assert reads_of("GetItem", consistent, {"Item": item(4097)}) == {"orders": 2.0}
    assert reads_of("GetItem", get, {}) == {"orders": 0.5}


@pytest.mark.parametrize("operation", ["Query", "Scan"])
def test_a_page_is_rounded_up_as_a_whole(operation: str):
    parameters = {"TableName": ARN}
    page = {"Items": [item(1000)] * 5, "Count": 5, "ScannedCount": 5}
    assert reads_of(operation, parameters, page) == {"orders": 1.0}
    # Three of four items were hidden by a filter.
    filtered = {"Items": [item(4096)] * 5, "Count": 5, "ScannedCount": 20}
    assert reads_of(operation, parameters, filtered) == {"orders": 10.0}
    counted = {"Count": 0, "ScannedCount": 500}
    assert reads_of(operation, parameters, counted) == {"orders": 0.5}
    more = {**counted, "ConsumedCapacity": {"TableName": "orders", "CapacityUnits": 60.0}}
    assert reads_of(operation, parameters, more) == {"orders": 60.0}
    flat = {**filtered, "ConsumedCapacity": {"TableName": "orders", "CapacityUnits": 0.5}}
    assert reads_of(operation, parameters, flat) == {"orders": 10.0}


def test_a_batch_of_reads_counts_what_was_not_found_and_not_what_was_not_read():
    keys = [{"id": {"S": str(n)}} for n in range(6)]
    parameters = {"RequestItems": {"orders": {"Keys": keys}, "other": {"Keys": keys[:1]}}}
    answer = {
        "Responses": {"orders": [item(10), item(4097)]},
        "UnprocessedKeys": {"orders": {"Keys": keys[:3]}},
    }
    assert reads_of("BatchGetItem", parameters, answer) == {"orders": 0.5 + 1 + 0.5, "other": 0.5}
    parameters["RequestItems"]["orders"]["ConsistentRead"] = True
    assert reads_of("BatchGetItem", parameters, answer)["orders"] == 4


def test_a_transaction_of_reads_costs_double():
    items = [{"Get": {"TableName": name, "Key": KEY}} for name in ("orders", "other", ARN)]
    answer = {"Responses": [{"Item": item(4097)}, {}, {"Item": item(10)}]}
    parameters = {"TransactItems": items}
    assert tables_read("TransactGetItems", parameters) == ["orders", "other", "orders"]
    assert reads_of("TransactGetItems", parameters, answer) == {"orders": 6.0, "other": 2.0}


@pytest.mark.parametrize(
    ("operation", "parameters"),
    [
        ("GetItem", {}),
        ("Scan", {"TableName": None}),
        ("BatchGetItem", {"RequestItems": ["orders"]}),
        ("TransactGetItems", {"TransactItems": [{"Put": {}}]}),
    ],
)
def test_a_read_of_another_form_is_refused(operation: str, parameters: dict[str, Any]):
    with pytest.raises(MalformedBodyError):
        tables_read(operation, parameters)


def test_an_arn_is_a_name_too():
    assert table_name(ARN) == table_name("orders") == "orders"
