"""Calls and answers as they travel: read, written, measured."""

import base64
import json
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from infra.proxy.exchange import Answer, Incoming
from infra.proxy.messages import (
    ACCOUNT,
    Call,
    Identity,
    MalformedBodyError,
    Refusal,
    Service,
    answer_to,
    call_of,
    data_bytes,
    decode,
    encode,
    identity_of,
    plain_error,
    refusal_to,
    with_body,
)

JSON, CBOR = "application/x-amz-json-1.1", "application/x-amz-cbor-1.1"


def incoming(body: bytes = b"{}", **headers: str) -> Incoming:
    named = CIMultiDict({name.replace("_", "-"): value for name, value in headers.items()})
    return Incoming("POST", "/", named, body, "127.0.0.1")


def call(content_type: str = JSON, body: bytes = b"{}") -> Call:
    target = "Kinesis_20131202.PutRecords"
    made = call_of(incoming(body, X_Amz_Target=target, Content_Type=content_type))
    assert made is not None
    return made


def signed(access_key: str, region: str = "eu-west-1") -> dict[str, str]:
    scope = f"Credential={access_key}/20261125/{region}/kinesis/aws4_request"
    return {"Authorization": f"AWS4-HMAC-SHA256 {scope}, SignedHeaders=host, Signature=0"}


@pytest.mark.parametrize(
    ("target", "content_type", "expected"),
    [
        ("Kinesis_20131202.PutRecords", JSON, (Service.KINESIS, "PutRecords", False)),
        ("Kinesis_20131202.GetRecords", CBOR, (Service.KINESIS, "GetRecords", True)),
        (
            "DynamoDB_20120810.PutItem",
            "Application/X-Amz-Json-1.0; charset=utf-8",
            (Service.DYNAMODB, "PutItem", False),
        ),
    ],
)
def test_a_call_is_known_by_its_headers(target: str, content_type: str, expected: object):
    made = call_of(incoming(b"\xff", X_Amz_Target=target, Content_Type=content_type))
    assert made is not None
    assert (made.service, made.operation, made.cbor) == expected


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content_Type": JSON},
        {"X_Amz_Target": "PutRecords", "Content_Type": JSON},
        {"X_Amz_Target": "Kinesis_20131202", "Content_Type": JSON},
        {"X_Amz_Target": "Firehose_20150804.PutRecord", "Content_Type": JSON},
        {"X_Amz_Target": "Kinesis_20131202.PutRecords"},
        {"X_Amz_Target": "Kinesis_20131202.PutRecords", "Content_Type": "text/plain"},
    ],
)
def test_what_is_no_call_of_ours(headers: dict[str, str]):
    assert call_of(incoming(**headers)) is None


def test_whose_call_it_is_stands_in_the_signature():
    assert identity_of(signed("111122223333")) == Identity("111122223333", "eu-west-1")
    assert identity_of({}) == Identity(ACCOUNT, "")
    assert identity_of({"Authorization": "Bearer Credential"}) == Identity(ACCOUNT, "")


@pytest.mark.parametrize("key", ["test", "AKIAIOSFODNN7EXAMPLE", "11112222333", "1111222233334"])
def test_keys_that_name_no_account_are_of_one_account(key: str):
    """As they are to the engines: their users share streams, and so what a shard takes."""
    assert identity_of(signed(key)) == Identity(ACCOUNT, "eu-west-1")


def test_parameters_are_read_when_they_are_wanted():
    unread = call(body=b"{")
    with pytest.raises(MalformedBodyError):
        _ = unread.parameters
    read = call(body=b'{"a":1}')
    assert read.parameters == {"a": 1}
    assert read.parameters is read.parameters


TEXT = st.text(st.characters(codec="utf-8"))
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), TEXT)


def maps(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(TEXT, st.recursive(leaves, lambda inner: st.lists(inner, max_size=3)))


@given(maps(LEAVES))
def test_what_is_written_in_json_is_read_back(value: dict[str, Any]):
    assert decode(encode(value, cbor=False), cbor=False) == value


@given(maps(st.one_of(LEAVES, st.binary())))
def test_what_is_written_in_cbor_is_read_back(value: dict[str, Any]):
    assert decode(encode(value, cbor=True), cbor=True) == value


def test_json_is_written_short_and_also_when_it_is_no_unicode():
    assert encode({"a": ["é", 1]}, cbor=False) == '{"a":["é",1]}'.encode()
    assert json.loads(encode({"a": "\ud800"}, cbor=False)) == {"a": "\ud800"}


def test_times_in_cbor_stay_as_they_came():
    body = cbor2.dumps({"at": cbor2.CBORTag(1, 1_583_284_230_123)})
    assert encode(decode(body, cbor=True), cbor=True) == body


def test_nothing_is_an_empty_map():
    assert decode(b"", cbor=False) == decode(b"", cbor=True) == {}


@pytest.mark.parametrize(
    ("body", "cbor"),
    [
        (b"{", False),
        (b"[]", False),
        (b"null", False),
        (b'{"a":1} 2', False),
        (b"\xff\xfe", False),
        (b"[" * 100_000, False),
        (b'{"a":' + b"9" * 5_000 + b"}", False),
        (b"\xff", True),
        (b"\x80", True),
        (b"\xa1\x61a", True),
        (b"\xa1\x61a" + b"\x81" * 100_000 + b"\0", True),
        (b"\xa1\x61a\x9b\x10" + bytes(7), True),  # a list of 2**60 elements that are not there
        (b"\xa1\x61a\xc0\x61x", True),
    ],
)
def test_what_is_no_map_is_malformed(body: bytes, cbor: bool):  # noqa: FBT001 - a parameter
    with pytest.raises(MalformedBodyError, match=r"."):
        decode(body, cbor=cbor)


@given(st.binary(max_size=40), st.booleans())
def test_any_bytes_are_read_or_malformed(body: bytes, cbor: bool):  # noqa: FBT001 - a parameter
    try:
        decode(body, cbor=cbor)
    except MalformedBodyError:
        return


@pytest.mark.parametrize("content_type", [JSON, CBOR])
def test_an_answer_of_our_own_is_in_the_call_s_protocol(content_type: str):
    asked = call(content_type, b"")
    answer = answer_to(asked, {"a": 1}, status=201)
    assert (answer.status, answer.refused) == (201, False)
    assert answer.headers["Content-Type"] == content_type
    assert len(answer.headers["x-amzn-RequestId"]) == 36
    assert decode(answer.body, cbor=asked.cbor) == {"a": 1}
    refusal = refusal_to(asked, Refusal("Code", "Words", 503))
    assert (refusal.status, refusal.refused) == (503, True)
    assert decode(refusal.body, cbor=asked.cbor) == {"__type": "Code", "message": "Words"}


def test_an_error_without_a_call_is_json():
    error = plain_error(Refusal("Code", "Words"))
    assert (error.status, error.refused, error.headers["Content-Type"]) == (400, True, JSON)
    assert json.loads(error.body) == {"__type": "Code", "message": "Words"}


def test_another_body_has_no_longer_the_checksum_and_length_of_the_first():
    headers = CIMultiDict({"X-Amz-Crc32": "1", "content-length": "2", "x-amzn-RequestId": "7"})
    answer = Answer(200, headers, b"{}", "Fine")
    changed = with_body(answer, {"a": 1}, cbor=False)
    assert (changed.status, changed.reason, changed.body) == (200, "Fine", b'{"a":1}')
    assert dict(changed.headers) == {"x-amzn-RequestId": "7"}
    assert (len(headers), answer.body) == (3, b"{}"), "the first is as it was"


@given(st.binary(max_size=100))
def test_a_blob_weighs_the_same_in_either_protocol(blob: bytes):
    assert data_bytes(blob) == data_bytes(base64.b64encode(blob).decode()) == len(blob)


@pytest.mark.parametrize("data", ["a", "abcde", None, 7, ["QQ=="], {"B": ""}])
def test_what_is_no_blob(data: Any):
    with pytest.raises(MalformedBodyError):
        data_bytes(data)
