from typing import Any

import pytest
from botocore.loaders import create_loader
from botocore.model import ServiceModel
from botocore.validate import ParamValidator
from hypothesis import given
from hypothesis import strategies as st

from infra.proxy.corrections.request_constraints import find_fault

STREAM_ARN = "arn:aws:kinesis:us-east-1:000000000000:stream/orders"
MODEL = ServiceModel(create_loader().load_service_model("kinesis", "service-2"), "kinesis")
POSITION = {"ShardId": "shardId-000000000000", "StartingPosition": {"Type": "LATEST"}}
PUT = {"StreamName": "orders", "Data": "eA==", "PartitionKey": "k"}


@pytest.mark.parametrize(
    ("operation", "parameters", "value", "place", "constraint"),
    [
        (
            "CreateStream",
            {"StreamName": "orders", "ShardCount": 0},
            "Value '0'",
            "shardCount",
            "Member must have value greater than or equal to 1",
        ),
        (
            "CreateStream",
            {"StreamName": "orders", "StreamModeDetails": {"StreamMode": "SOMETIMES"}},
            "Value 'SOMETIMES'",
            "streamModeDetails.streamMode",
            "Member must satisfy enum value set: [PROVISIONED, ON_DEMAND]",
        ),
        ("CreateStream", {}, "Value null", "streamName", "Member must not be null"),
        (
            "CreateStream",
            {"StreamName": "o" * 400},
            f"Value '{'o' * 300}...'",
            "streamName",
            "Member must have length less than or equal to 128",
        ),
        (
            "CreateStream",
            {"StreamName": "orders\n"},
            "Value 'orders\n'",
            "streamName",
            "Member must satisfy regular expression pattern: [a-zA-Z0-9_.-]+",
        ),
        (
            "ListShards",
            {"StreamName": "orders", "ShardFilter": {"ShardId": "x"}},
            "Value null",
            "shardFilter.type",
            "Member must not be null",
        ),
        (
            "UpdateMaxRecordSize",
            {"MaxRecordSizeInKiB": 10_241},
            "Value '10241'",
            "maxRecordSizeInKiB",
            "Member must have value less than or equal to 10240",
        ),
        (
            "ListChannels",
            {"StreamFilter": []},
            "Value '[]'",
            "streamFilter",
            "Member must have length greater than or equal to 1",
        ),
        (
            "PutRecords",
            {"StreamName": "orders", "Records": [{}] * 501},
            "Value '[...]'",
            "records",
            "Member must have length less than or equal to 500",
        ),
        (
            "RemoveTagsFromStream",
            {"StreamName": "orders", "TagKeys": ["team", ""]},
            "Value '[team, ]'",
            "tagKeys",
            "Member must satisfy constraint: [Member must have length greater than or equal to 1]",
        ),
        (
            "AddTagsToStream",
            {"StreamName": "orders", "Tags": {"": "river"}},
            "Value '{=river}'",
            "tags",
            (
                "Map keys must satisfy constraint:"
                " [Member must have length greater than or equal to 1]"
            ),
        ),
        (
            "AddTagsToStream",
            {"StreamName": "orders", "Tags": {"team": "r" * 257}},
            f"Value '{('{team=' + 'r' * 257 + '}')[:300]}'",
            "tags",
            (
                "Map value must satisfy constraint:"
                " [Member must have length less than or equal to 256]"
            ),
        ),
        (
            "CreateChannel",
            {
                "ChannelName": "c",
                "ServiceExecutionRoleARN": "arn:aws:iam::000000000000:role/r",
                "StreamConfigurationList": [
                    {
                        "StreamARN": STREAM_ARN,
                        "RecordConfiguration": {"RecordFormatType": "XML"},
                    }
                ],
            },
            "Value 'XML'",
            "streamConfigurationList.1.member.recordConfiguration.recordFormatType",
            "Member must satisfy enum value set: [GSR_JSON, JSON, STRING, BYTE_ARRAY]",
        ),
        (
            "PutRecord",
            {**PUT, "SequenceNumberForOrdering": "٣"},  # a digit to Python, not to Java
            "Value '٣'",
            "sequenceNumberForOrdering",
            r"Member must satisfy regular expression pattern: ^(0|([1-9]\d{0,128}))$",
        ),
    ],
)
def test_the_first_constraint_that_is_broken_is_named_as_aws_does(
    operation: str, parameters: dict[str, Any], value: str, place: str, constraint: str
) -> None:
    refusal = find_fault(operation, parameters)
    assert refusal is not None
    assert (refusal.code, refusal.status) == ("ValidationException", 400)
    assert refusal.message == (
        f"1 validation error detected: {value} at '{place}' failed to satisfy constraint:"
        f" {constraint}"
    )


@pytest.mark.parametrize(
    ("operation", "parameters"),
    [
        ("CreateStream", {"StreamName": "orders", "ShardCount": 1}),
        ("CreateStream", {"StreamName": "orders", "ShardCount": None}),
        ("DescribeStream", {"StreamARN": STREAM_ARN, "Limit": 10_000}),
        ("DescribeStream", {}),  # that one of two members is there is in no model
        ("DescribeStreamConsumer", {"ConsumerARN": f"{STREAM_ARN}/consumer/reader:1795570787"}),
        ("SubscribeToShard", {"ConsumerARN": f"{STREAM_ARN}/consumer/reader:1"} | POSITION),
        ("GetShardIterator", {"ShardId": "s", "ShardIteratorType": "LATEST", "Timestamp": 1.5}),
        ("PutRecord", PUT),
        ("PutRecord", {**PUT, "Data": b"\x00" * 20_000_000}),  # the stream's maximum is elsewhere
        ("PutRecord", {**PUT, "PartitionKey": "\U0001f600" * 256}),
        ("PutRecords", {"StreamName": "orders", "Records": [{"PartitionKey": ""}]}),
        ("ListStreams", {"Limit": "soon"}),  # another type is for the engine to judge
        ("ListStreams", {"Limit": False}),
        ("ListShards", {"ShardFilter": "all"}),
        ("AddTagsToStream", {"Tags": ["team"]}),
        ("RemoveTagsFromStream", {"TagKeys": [1]}),
        ("UpdateMaxRecordSize", {"MaxRecordSizeInKiB": 1024, "Colour": "red"}),
        ("DescribeTheUnknown", {"StreamName": ""}),
    ],
)
def test_what_the_model_does_not_clearly_forbid_passes(
    operation: str, parameters: dict[str, Any]
) -> None:
    assert find_fault(operation, parameters) is None


texts = st.text(max_size=3) | st.sampled_from(["orders", STREAM_ARN, "LATEST", "KMS", "5"])
numbers = st.integers(-2, 11_000)
leaves = texts | numbers | st.none() | st.booleans() | st.binary(max_size=3)
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3)
)


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """Draw an operation and anything for some of its members."""
    operation = draw(st.sampled_from(MODEL.operation_names))
    shape = MODEL.operation_model(operation).input_shape
    members = [] if shape is None else list(shape.members)
    chosen = draw(st.sets(st.sampled_from(members))) if members else set()
    return operation, {name: draw(values) for name in sorted(chosen)}


@given(requests())
def test_any_request_gets_a_verdict_and_none_lacks_what_botocore_requires(
    request: tuple[str, dict[str, Any]],
) -> None:
    operation, parameters = request
    refusal = find_fault(operation, parameters)
    shape = MODEL.operation_model(operation).input_shape
    if refusal is None and shape is not None:
        given_ones = {name: value for name, value in parameters.items() if value is not None}
        report = ParamValidator().validate(given_ones, shape).generate_report()
        top_level = [line for line in report.splitlines() if 'in input: "' in line]
        assert not [line for line in top_level if line.startswith("Missing required")]
