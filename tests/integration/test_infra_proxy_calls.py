"""Calls in all the forms they come in: CBOR, JSON, other services, and what is no call at all."""

import json
import urllib.request
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError

import boto3
import cbor2
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from infra.proxy.corrections import names
from infra.proxy.proxy import RunningProxy
from infra.stack.endpoints import Endpoints
from records.limits import KIB
from tests.proxy_in_thread import kinesis_at, proxied

if TYPE_CHECKING:
    from types_boto3_kinesis import KinesisClient

CBOR = "application/x-amz-cbor-1.1"
JSON = "application/x-amz-json-1.1"
SCOPE = (
    "AWS4-HMAC-SHA256 Credential=test/20261125/us-east-1/kinesis/aws4_request,"
    " SignedHeaders=host;x-amz-date;x-amz-target, Signature=0"
)


@pytest.fixture
def proxy(local_kinesis: str) -> Iterator[RunningProxy]:
    with proxied(local_kinesis, quotas=True, corrections=frozenset(names.ALL)) as running:
        yield running


def post(url: str, target: str, body: bytes, content_type: str) -> tuple[int, bytes]:
    headers = {"X-Amz-Target": target, "Content-Type": content_type, "Authorization": SCOPE}
    headers["X-Amz-Date"] = "20261125T000000Z"
    request = urllib.request.Request(url, body, headers, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read()
    except HTTPError as error:
        with error:
            return error.code, error.read()


def cbor_call(url: str, operation: str, **parameters: Any) -> tuple[int, Any]:
    status, body = post(url, f"Kinesis_20131202.{operation}", cbor2.dumps(parameters), CBOR)
    keep = {1: lambda value, _immutable: cbor2.CBORTag(1, value)}
    return status, cbor2.loads(body, semantic_decoders=keep)


def test_cbor_is_held_against_the_quotas_and_read_back_as_bytes(
    proxy: RunningProxy, stream: Callable[..., str]
):
    name = stream()
    records = [{"Data": b"%0*d" % (64 * KIB, n), "PartitionKey": "k"} for n in range(30)]
    status, answer = cbor_call(proxy.url, "PutRecords", StreamName=name, Records=records)
    assert (status, answer["FailedRecordCount"]) == (200, 15)
    assert [n for n, r in enumerate(answer["Records"]) if r.get("ErrorCode")] == [*range(15, 30)]
    _, begun = cbor_call(
        proxy.url,
        "GetShardIterator",
        StreamName=name,
        ShardId="shardId-000000000000",
        ShardIteratorType="TRIM_HORIZON",
    )
    status, read = cbor_call(proxy.url, "GetRecords", ShardIterator=begun["ShardIterator"])
    assert status == 200
    assert [record["Data"] for record in read["Records"]] == [r["Data"] for r in records[:15]]
    arrival = read["Records"][0]["ApproximateArrivalTimestamp"]
    assert isinstance(arrival, cbor2.CBORTag)
    assert arrival.value > 1_700_000_000_000


def test_a_refusal_of_a_cbor_call_is_cbor(proxy: RunningProxy, stream: Callable[..., str]):
    status, answer = cbor_call(proxy.url, "PutRecords", StreamName=stream(), Records=[])
    assert (status, answer["__type"]) == (400, "ValidationException")
    assert "Member must have length greater than or equal to 1" in answer["message"]


@pytest.mark.parametrize("operation", ["PutRecords", "GetRecords", "ListShards", "DescribeStream"])
@pytest.mark.parametrize(
    ("content_type", "body"), [(JSON, b"{"), (JSON, b"[]"), (CBOR, b"\xff"), (JSON, b"\xff\xfe")]
)
def test_a_malformed_body_is_aws_error_and_no_traceback(
    proxy: RunningProxy,
    caplog: pytest.LogCaptureFixture,
    operation: str,
    content_type: str,
    body: bytes,
):
    status, answer = post(proxy.url, f"Kinesis_20131202.{operation}", body, content_type)
    read = json.loads(answer) if content_type == JSON else cbor2.loads(answer)
    assert (status, read["__type"]) == (400, "SerializationException")
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize(
    "entry", [None, 3, "x", {"Data": 3}, {"Data": "a", "PartitionKey": "k"}, {"PartitionKey": 4}]
)
def test_entries_of_nonsense_are_aws_errors(
    proxy: RunningProxy, stream: Callable[..., str], entry: object
):
    body = json.dumps({"StreamName": stream(), "Records": [entry]}).encode()
    status, answer = post(proxy.url, "Kinesis_20131202.PutRecords", body, JSON)
    assert status == 400
    assert json.loads(answer)["__type"] in ("SerializationException", "ValidationException")


def test_other_services_pass(stack: Endpoints, unique: Callable[[str], str]):
    if stack.aws is None:
        pytest.skip("the proxy refuses AWS")
    with proxied(stack.aws, quotas=True, corrections=frozenset(names.ALL)) as proxy:
        s3 = boto3.session.Session().client(
            "s3", endpoint_url=proxy.url, config=Config(s3={"addressing_style": "path"})
        )
        bucket, data = unique("bucket"), bytes(range(256)) * 8_000
        s3.create_bucket(Bucket=bucket)
        s3.put_object(Bucket=bucket, Key="a/b c", Body=data)
        assert s3.get_object(Bucket=bucket, Key="a/b c")["Body"].read() == data
        s3.close()
        # Not by their paths, of which there are as many as objects.
        assert proxy.status()["operations"].keys() == {"PUT", "GET"}


def test_the_proxy_itself_says_which_operations_it_saw(
    proxy: RunningProxy, stream: Callable[..., str]
):
    name = stream()
    client: KinesisClient = kinesis_at(proxy.url)
    client.list_shards(StreamName=name)
    with pytest.raises(ClientError):
        client.put_records(StreamName=name, Records=[{"Data": b"x", "PartitionKey": "k"}] * 501)
    client.close()
    operations = proxy.status()["operations"]
    assert operations["ListShards"] == {"requests": 1, "refused": 0}
    assert operations["PutRecords"] == {"requests": 1, "refused": 1}
