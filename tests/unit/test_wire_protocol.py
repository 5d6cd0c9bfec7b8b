"""The CBOR protocol without I/O: what goes out, what boto3 would have made of what comes in."""

import io
import json
import time
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import boto3
import cbor2
import pytest
from botocore.exceptions import HTTPClientError, ParamValidationError
from botocore.parsers import create_parser
from botocore.utils import parse_timestamp
from cbor2 import CBORTag
from hypothesis import example, given, settings
from hypothesis import strategies as st

from wire.body import PIECE_BYTES
from wire.client import OPERATIONS
from wire.protocol import Operation, _minute

MODEL = boto3.session.Session().client("kinesis", region_name="us-east-1").meta.service_model
PUT, GET, ITERATOR, SUMMARY = (
    Operation(MODEL.operation_model(name))
    for name in ("PutRecords", "GetRecords", "GetShardIterator", "DescribeStreamSummary")
)
MOMENT = datetime(2026, 11, 24, 12, 34, 56, 789000, tzinfo=UTC)
MILLISECONDS = 1_795_523_696_789


def sent(operation: Operation, parameters: dict[str, Any]) -> Any:
    body = bytes(operation.encode(parameters))
    return cbor2.loads(body, semantic_decoders={1: lambda value, _: CBORTag(1, value)})


def json_answer(operation: Operation, status: int, headers: dict[str, str], body: bytes) -> Any:
    response = {"status_code": status, "headers": headers, "body": body, "context": {}}
    parsed = create_parser("json").parse(response, operation.model.output_shape)
    parsed["ResponseMetadata"]["RetryAttempts"] = 0
    return parsed


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
ENTRIES = st.fixed_dictionaries(
    {"Data": st.one_of(st.binary(), st.binary().map(bytearray), TEXTS)},
    optional={"PartitionKey": TEXTS, "ExplicitHashKey": st.integers(0, 2**128 - 1).map(str)},
)


@given(st.lists(ENTRIES, min_size=1, max_size=8), TEXTS)
def test_records_travel_as_they_are(entries: list[dict[str, Any]], stream: str):
    told = sent(PUT, {"StreamName": stream, "Records": entries})
    expected = [
        entry | {"Data": data.encode() if isinstance(data := entry["Data"], str) else bytes(data)}
        for entry in entries
    ]
    assert told == {"StreamName": stream, "Records": expected}


@given(st.lists(ENTRIES, min_size=1, max_size=4))
def test_the_callers_parameters_stay_as_they_are(entries: list[dict[str, Any]]):
    parameters = {"StreamName": "s", "Records": entries}
    before = [dict(entry) for entry in entries]
    PUT.encode(parameters)
    assert parameters == {"StreamName": "s", "Records": before}
    assert all(type(a["Data"]) is type(b["Data"]) for a, b in zip(entries, before, strict=True))


@pytest.mark.parametrize("names", [("StreamName", "Records"), ("Records", "StreamARN")])
@given(
    st.lists(st.sampled_from([0, 1, 100, PIECE_BYTES - 1, PIECE_BYTES, 150_000]), min_size=1),
    st.integers(0, 70_000),
)
@example([1], 23)
@example([1], 255)
@example([1], 65_535)
@settings(max_examples=25)
def test_many_records_travel_in_pieces_of_a_bounded_size(
    names: tuple[str, ...], sizes: list[int], more: int
):
    entries = [{"Data": bytes(size), "PartitionKey": f"k-{n}"} for n, size in enumerate(sizes)]
    entries += [{"Data": b"", "PartitionKey": "k", "ExplicitHashKey": "1"}] * more
    told = {name: entries if name == "Records" else "s" for name in names}
    body = PUT.encode(told)
    assert cbor2.loads(bytes(body)) == told
    assert len(body) == len(bytes(body))
    head, *pieces = body.pieces
    assert len(head) < 100
    largest = max(sizes) + 60 * len(entries)  # With what is around each of them.
    assert all(len(piece) < PIECE_BYTES + largest for piece in pieces)
    assert [*iter(body.read, b"")] == [head, *pieces]
    assert body.read() == b""
    body.seek(0)
    assert body.read() == head
    assert body.tell() == 1


PLAIN = {"Data": b"x", "PartitionKey": "k"}


@pytest.mark.parametrize(
    "last",
    [
        {"Data": b"x", "PartitionKey": ""},
        {"Data": b"x", "PartitionKey": 1},
        {"Data": 1, "PartitionKey": "k"},
        {"PartitionKey": "k"},
        {"PartitionKey": "k", "ExplicitHashKey": "1"},
        {"Data": b"x", "PartitionKey": "k", "ExplicitHashKey": 1},
        {"Data": b"x", "PartitionKey": "k", "Other": "1"},
        {"Data": b"x", "PartitionKey": "k", "ExplicitHashKey": "1", "Other": "1"},
        {"Data": memoryview(b"x"), "PartitionKey": "k"},
        "record",
        None,
    ],
)
def test_a_bad_record_is_found_behind_good_ones(last: Any):
    with pytest.raises(ParamValidationError) as caught:
        PUT.encode({"StreamName": "s", "Records": [PLAIN, PLAIN, last]})
    assert "Records[2]" in str(caught.value)
    assert "Records[1]" not in str(caught.value)


@pytest.mark.parametrize("name", ["Data", "PartitionKey"])
@pytest.mark.parametrize("validate", [False, True])
def test_half_a_surrogate_pair_is_no_text(name: str, validate: bool):  # noqa: FBT001
    operation = Operation(MODEL.operation_model("PutRecords"), validate=validate)
    with pytest.raises(ParamValidationError, match="Not Unicode text"):
        operation.encode({"StreamName": "s", "Records": [PLAIN | {name: "\ud800"}]})


def test_parameters_that_are_not_checked_travel_as_they_are():
    operation = Operation(MODEL.operation_model("GetRecords"), validate=False)
    assert sent(operation, {"Limit": 0}) == {"Limit": 0}


def test_a_file_is_refused_as_boto3_refuses_it():
    with pytest.raises(TypeError, match="a bytes-like object is required"):
        PUT.encode({"StreamName": "s", "Records": [{"Data": io.BytesIO(b"x")}]})


@pytest.mark.parametrize(
    "moment",
    [
        MOMENT,
        MOMENT.astimezone(timezone(timedelta(hours=-7))),
        MOMENT + timedelta(microseconds=999),
        MOMENT.timestamp(),
        MOMENT.isoformat(),
    ],
)
def test_a_timestamp_travels_as_tagged_milliseconds(moment: Any):
    parameters = {"ShardId": "s", "ShardIteratorType": "AT_TIMESTAMP", "Timestamp": moment}
    assert sent(ITERATOR, parameters)["Timestamp"] == CBORTag(1, MILLISECONDS)


def test_a_timestamp_before_1970_and_inside_a_filter():
    past = datetime(1969, 12, 31, 23, 59, 59, 500_000, tzinfo=UTC)
    shards = Operation(MODEL.operation_model("ListShards"))
    told = sent(shards, {"ShardFilter": {"Type": "AT_TIMESTAMP", "Timestamp": past}})
    assert told == {"ShardFilter": {"Type": "AT_TIMESTAMP", "Timestamp": CBORTag(1, -500)}}


@pytest.mark.parametrize(
    "stamp",
    [
        CBORTag(1, MILLISECONDS),
        CBORTag(1, MILLISECONDS / 1000),
        MILLISECONDS,
        MILLISECONDS / 1000,
        CBORTag(1, float(MILLISECONDS)),
        float(MILLISECONDS),
    ],
)
@pytest.mark.parametrize("data", [b"\x00\xff", "AP8="])
def test_every_form_of_a_record_is_read(stamp: Any, data: Any):
    record = {"SequenceNumber": "1", "PartitionKey": "k", "EncryptionType": None, "New": 1}
    record |= {"Data": data, "ApproximateArrivalTimestamp": stamp}
    answer = {"Records": [record], "NextShardIterator": None, "MillisBehindLatest": 0}
    got = GET.decode(200, {}, cbor2.dumps(answer))
    read = {k: v for k, v in got.items() if k != "ResponseMetadata"}
    expected = {"SequenceNumber": "1", "PartitionKey": "k", "Data": b"\x00\xff"}
    expected |= {"ApproximateArrivalTimestamp": MOMENT}
    assert read == {"Records": [expected], "MillisBehindLatest": 0}
    assert read["Records"][0]["ApproximateArrivalTimestamp"].tzinfo is not None


def test_a_bare_whole_number_of_seconds():
    answer = {"StreamDescriptionSummary": {"StreamCreationTimestamp": 1_795_523_696}}
    summary = SUMMARY.decode(200, {}, cbor2.dumps(answer))["StreamDescriptionSummary"]
    assert summary["StreamCreationTimestamp"] == MOMENT.replace(microsecond=0)


@pytest.mark.parametrize(
    "zone", ["UTC", "Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe"]
)
@given(seconds=st.integers(1_384_000_000, 2_100_000_000), millis=st.integers(0, 999))
# The hours in which Berlin's clocks are set back and forward in 2026.
@example(seconds=1_792_886_400 + 1_800, millis=1)
@example(seconds=1_792_890_000 + 1_800, millis=1)
@example(seconds=1_774_746_000, millis=0)
def test_a_moment_is_the_one_that_boto3_reads(zone: str, seconds: int, millis: int):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", zone)
        time.tzset()
        _minute.cache_clear()
        stamp = CBORTag(1, seconds * 1000 + millis)
        answer = {"StreamDescriptionSummary": {"StreamCreationTimestamp": stamp}}
        summary = SUMMARY.decode(200, {}, cbor2.dumps(answer))["StreamDescriptionSummary"]
        got, expected = summary["StreamCreationTimestamp"], parse_timestamp(seconds + millis / 1000)
        # In an hour that comes twice no two moments of local time are equal to Python.
        assert got.timestamp() == expected.timestamp()
        assert (str(got), got.fold, type(got.tzinfo)) == (
            str(expected),
            expected.fold,
            type(expected.tzinfo),
        )
    time.tzset()
    _minute.cache_clear()


RESULTS = st.fixed_dictionaries(
    {},
    optional={
        name: st.one_of(st.none(), TEXTS)
        for name in ("SequenceNumber", "ShardId", "ErrorCode", "ErrorMessage", "EncryptionType")
    },
)
HEADERS = {"x-amzn-requestid": "r-1", "content-type": "x"}


@given(
    st.lists(RESULTS, max_size=6),
    st.one_of(st.none(), st.integers(0, 500)),
    st.sampled_from([{}, HEADERS]),
)
def test_results_are_read_as_boto3_reads_them(
    results: list[dict[str, Any]], failed: int | None, headers: dict[str, str]
):
    answer = {"Records": results, "FailedRecordCount": failed}
    plain = json_answer(PUT, 200, headers, json.dumps(answer).encode())
    assert PUT.decode(200, headers, cbor2.dumps(answer)) == plain
    # A server that does not know CBOR answers in JSON.
    assert PUT.decode(200, headers, json.dumps(answer).encode()) == plain


def test_what_boto3_does_not_know_of_a_result_is_left_out():
    results = [{"ShardId": "s"}, {"SequenceNumber": "1", "New": 1}]
    got = PUT.decode(200, {}, cbor2.dumps({"Records": results}))
    assert got["Records"] == [{"ShardId": "s"}, {"SequenceNumber": "1"}]


@pytest.mark.parametrize("result", [1, "", "text", [], None])
def test_a_result_that_is_no_structure_is_no_answer(result: Any):
    with pytest.raises(HTTPClientError):
        PUT.decode(200, {}, cbor2.dumps({"Records": [{"ShardId": "s"}, result]}))


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, {"__type": "ResourceNotFoundException", "message": "no ✓"}),
        (400, {"__type": "com.amazonaws#LimitExceededException", "Message": "m"}),
        (400, {"__type": "Unheard", "message": None, "more": [1]}),
        (500, {"__type": "InternalFailure"}),
        (400, {}),
        (503, b""),
        (413, b""),
        (503, b"<html><body>busy</body></html>"),
        (403, b"<html><body>forbidden</body></html>"),
        (502, b"bad gateway"),
        (301, b""),
    ],
)
def test_an_error_is_read_as_boto3_reads_it(status: int, body: Any):
    as_json = body if isinstance(body, bytes) else json.dumps(body).encode()
    plain = json_answer(PUT, status, HEADERS, as_json)
    for form in (as_json, body if isinstance(body, bytes) else cbor2.dumps(body)):
        got = PUT.decode(status, HEADERS, form)
        modelled = got.pop("message", None)
        assert got == plain
        assert modelled == (body["message"] if "Resource" in str(body) else None)


@pytest.mark.parametrize("body", [b"[1]", b"\xff\xfe", b"\xa1", b"\x01", b'"text"'])
def test_an_error_that_nobody_can_read_is_an_error_all_the_same(body: bytes):
    assert PUT.decode(400, {}, body)["Error"]["Code"] == "400"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html></html>",
        b"\xa1",
        b"\x01",
        b"{",
        b"[]",
        cbor2.dumps({"Records": 1}),
        cbor2.dumps({"Records": [1]}),
        cbor2.dumps({"Records": [{"Data": 1}]}),
        cbor2.dumps({"Records": [{"Data": "not base64"}]}),
        cbor2.dumps({"Records": [{"ApproximateArrivalTimestamp": "soon"}]}),
        cbor2.dumps({"Records": [{"ApproximateArrivalTimestamp": 1e300}]}),
        cbor2.dumps({"Records": [{"ApproximateArrivalTimestamp": float("nan")}]}),
    ],
)
def test_what_is_no_answer_is_an_exception(body: bytes):
    with pytest.raises(HTTPClientError):
        GET.decode(200, {}, body)


@given(
    st.binary(max_size=64), st.sampled_from([200, 400, 500]), st.sampled_from([PUT, GET, SUMMARY])
)
def test_garbage_is_an_answer_or_an_error_and_nothing_else(
    body: bytes, status: int, operation: Operation
):
    try:
        got = operation.decode(status, {}, body)
    except HTTPClientError:
        assert status == 200
    else:
        assert got["ResponseMetadata"]["HTTPStatusCode"] == status


DEEP: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.integers(), st.floats(), st.text(), st.binary(), st.datetimes()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["Records", "Data", "__type", "message", "x"]), inner),
        st.tuples(st.integers(0, 40), inner).map(lambda pair: CBORTag(*pair)),
    ),
)


@given(DEEP, st.sampled_from([200, 400]))
def test_any_cbor_is_an_answer_or_an_error_and_nothing_else(value: Any, status: int):
    body = cbor2.dumps(value, timezone=UTC)
    try:
        GET.decode(status, {}, body)
    except HTTPClientError:
        assert status == 200


@pytest.mark.parametrize("name", OPERATIONS.values())
def test_each_operation_names_itself(name: str):
    operation = Operation(MODEL.operation_model(name))
    assert operation.headers["X-Amz-Target"] == f"Kinesis_20131202.{name}"
    assert operation.headers["Content-Type"] == "application/x-amz-cbor-1.1"
