import base64
import copy
from typing import Any

import pytest
from cbor2 import CBORTag
from hypothesis import given
from hypothesis import strategies as st

from infra.proxy.corrections.cbor_types import epoch_seconds, fix
from infra.proxy.messages import decode, encode

MILLISECONDS = 1_795_566_752_287
TAGGED = CBORTag(1, MILLISECONDS)


@pytest.mark.parametrize(
    "timestamp",
    [
        MILLISECONDS,  # kinesis-mock
        MILLISECONDS / 1000,  # MiniStack, and every emulator's JSON
        float(MILLISECONDS),
        TAGGED,  # AWS, LocalStack
        CBORTag(1, MILLISECONDS / 1000),
    ],
)
def test_a_timestamp_in_any_form_becomes_tagged_milliseconds(timestamp: Any) -> None:
    answer = {"Records": [{"ApproximateArrivalTimestamp": timestamp, "Data": b"x"}]}
    fixed = fix("GetRecords", answer)
    assert fixed == {"Records": [{"ApproximateArrivalTimestamp": TAGGED, "Data": b"x"}]}
    assert type(fixed["Records"][0]["ApproximateArrivalTimestamp"].value) is int
    assert epoch_seconds(timestamp) == MILLISECONDS / 1000


@pytest.mark.parametrize(
    ("operation", "answer", "expected"),
    [
        (
            "DescribeStream",
            {"StreamDescription": {"StreamCreationTimestamp": MILLISECONDS, "KeyId": None}},
            {"StreamDescription": {"StreamCreationTimestamp": TAGGED}},
        ),
        (
            "DescribeStreamSummary",
            {"StreamDescriptionSummary": {"StreamCreationTimestamp": MILLISECONDS / 1000}},
            {"StreamDescriptionSummary": {"StreamCreationTimestamp": TAGGED}},
        ),
        (
            "ListStreams",
            {"StreamSummaries": [{"StreamCreationTimestamp": MILLISECONDS}], "NextToken": None},
            {"StreamSummaries": [{"StreamCreationTimestamp": TAGGED}]},
        ),
        (
            "ListStreamConsumers",
            {"Consumers": [{"ConsumerCreationTimestamp": MILLISECONDS}]},
            {"Consumers": [{"ConsumerCreationTimestamp": TAGGED}]},
        ),
        (
            "RegisterStreamConsumer",
            {"Consumer": {"ConsumerCreationTimestamp": MILLISECONDS}},
            {"Consumer": {"ConsumerCreationTimestamp": TAGGED}},
        ),
        (
            "ListShards",
            {"Shards": [{"ParentShardId": None, "ShardId": "s"}], "NextToken": None},
            {"Shards": [{"ShardId": "s"}]},
        ),
        ("SubscribeToShard", {"Records": [{"Data": "aGk="}]}, {"Records": [{"Data": b"hi"}]}),
    ],
)
def test_answers_of_other_operations(
    operation: str, answer: dict[str, Any], expected: dict[str, Any]
) -> None:
    original = copy.deepcopy(answer)
    assert fix(operation, answer) == expected
    assert answer == original


@given(st.binary())
def test_data_in_base64_becomes_bytes(data: bytes) -> None:
    text = decode(encode({"Records": [{"Data": _base64(data)}]}, cbor=True), cbor=True)
    assert fix("GetRecords", text) == {"Records": [{"Data": data}]}


@given(st.binary())
def test_bytes_stay_even_when_they_look_like_base64(data: bytes) -> None:
    answer = {"Records": [{"Data": data}, {"Data": _base64(data).encode()}]}
    assert fix("GetRecords", answer) == answer


def test_what_the_streams_owner_wrote_is_left_alone() -> None:
    answer = {"Tags": {"Data": "aGk=", "StreamCreationTimestamp": "5", "note": "x"}}
    assert fix("DescribeStreamConsumer", answer) == answer
    records = {"Records": [{"PartitionKey": "aGk=", "Data": b""}]}
    assert fix("GetRecords", records) == records


@pytest.mark.parametrize(
    "value",
    [True, "1795566752", float("nan"), float("inf"), pytest.param(10**400, id="huge"), b"", []],
)
def test_what_is_no_timestamp_is_left_alone(value: Any) -> None:
    answer = {"StreamCreationTimestamp": value, "Data": "aGk=", "Records": [{"Data": "no base64"}]}
    assert fix("DescribeStream", answer) == answer
    assert fix("GetRecords", {"Records": [{"Data": "a"}]}) == {"Records": [{"Data": "a"}]}
    assert epoch_seconds(value) is None


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
