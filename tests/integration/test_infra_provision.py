import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from infra.errors import ProvisionError
from infra.provision import ensure_bucket, ensure_queue, ensure_stream, ensure_table, main
from infra.stack.endpoints import Endpoints

if TYPE_CHECKING:
    from types_boto3_dynamodb import DynamoDBClient
    from types_boto3_kinesis import KinesisClient
    from types_boto3_s3 import S3Client
    from types_boto3_sqs import SQSClient

Unique = Callable[[str], str]


@pytest.fixture
def environment(stack: Endpoints) -> dict[str, str]:
    return stack.applied_to(os.environ)


@pytest.fixture
def gone_afterwards(
    kinesis: "KinesisClient", dynamodb: "DynamoDBClient", unique: Unique
) -> Iterator[Unique]:
    """Like `unique`, and the streams and tables of those names are deleted after the test."""
    names: list[str] = []

    def make(prefix: str) -> str:
        names.append(unique(prefix))
        return names[-1]

    yield make
    for name in names:
        with contextlib.suppress(kinesis.exceptions.ResourceNotFoundException):
            kinesis.delete_stream(StreamName=name)
        with contextlib.suppress(dynamodb.exceptions.ResourceNotFoundException):
            dynamodb.delete_table(TableName=name)


def test_a_stream_is_created_once_and_found_then(kinesis: "KinesisClient", gone_afterwards: Unique):
    name = gone_afterwards("s")
    first = ensure_stream(kinesis, name, shards=2)
    assert str(first) == f"created stream {name} (2 shards)"
    assert str(ensure_stream(kinesis, name, shards=2)) == f"found stream {name} (2 shards)"
    summary = kinesis.describe_stream_summary(StreamName=name)["StreamDescriptionSummary"]
    assert summary["StreamStatus"] == "ACTIVE"
    assert summary["OpenShardCount"] == 2


def test_a_stream_of_another_size_is_refused_and_left_alone(
    kinesis: "KinesisClient", stream: Callable[..., str]
):
    name = stream(shards=1)
    with pytest.raises(ProvisionError, match=f"{name} exists with 1 shard, not with 3 shards"):
        ensure_stream(kinesis, name, shards=3)
    assert len(kinesis.list_shards(StreamName=name)["Shards"]) == 1


def test_the_mode_of_a_stream_counts(kinesis: "KinesisClient", gone_afterwards: Unique):
    name = gone_afterwards("s")
    assert ensure_stream(kinesis, name, shards=None).created
    assert not ensure_stream(kinesis, name, shards=None).created
    with pytest.raises(ProvisionError, match="exists with on demand, not with 4 shards"):
        ensure_stream(kinesis, name, shards=4)


def test_a_table_is_created_once_and_found_then(
    dynamodb: "DynamoDBClient", gone_afterwards: Unique
):
    name = gone_afterwards("t")
    assert ensure_table(dynamodb, name, key="application", sort="lease").created
    assert not ensure_table(dynamodb, name, key="application", sort="lease").created
    table = dynamodb.describe_table(TableName=name)["Table"]
    assert table["TableStatus"] == "ACTIVE"
    keys = {element["AttributeName"]: element["KeyType"] for element in table["KeySchema"]}
    assert keys == {"application": "HASH", "lease": "RANGE"}


@pytest.mark.parametrize(("key", "sort"), [("id", None), ("lease", "application"), ("lease", None)])
def test_a_table_with_another_key_is_refused(
    dynamodb: "DynamoDBClient", gone_afterwards: Unique, key: str, sort: str | None
):
    name = gone_afterwards("t")
    ensure_table(dynamodb, name, key="application", sort="lease")
    with pytest.raises(ProvisionError, match="exists with the key application S, lease S, not"):
        ensure_table(dynamodb, name, key=key, sort=sort)


def test_a_table_whose_key_is_a_number_is_refused(
    dynamodb: "DynamoDBClient", gone_afterwards: Unique
):
    name = gone_afterwards("t")
    dynamodb.create_table(
        TableName=name,
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "N"}],
        BillingMode="PAY_PER_REQUEST",
    )
    with pytest.raises(ProvisionError, match="key id N, not with the key id S"):
        ensure_table(dynamodb, name, key="id")


def test_a_bucket_is_created_once_and_found_then(s3: "S3Client", unique: Unique):
    name = unique("bucket")
    assert ensure_bucket(s3, name).created
    assert not ensure_bucket(s3, name).created
    s3.put_object(Bucket=name, Key="k", Body=b"v")
    assert not ensure_bucket(s3, name).created
    assert s3.get_object(Bucket=name, Key="k")["Body"].read() == b"v"
    s3.delete_object(Bucket=name, Key="k")
    s3.delete_bucket(Bucket=name)


@pytest.mark.parametrize("suffix", ["", ".fifo"])
def test_a_queue_is_created_once_and_found_then(sqs: "SQSClient", unique: Unique, suffix: str):
    name = unique("queue") + suffix
    assert ensure_queue(sqs, name).created
    assert not ensure_queue(sqs, name).created
    url = sqs.get_queue_url(QueueName=name)["QueueUrl"]
    attributes = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    assert (attributes.get("FifoQueue") == "true") is bool(suffix)
    sqs.delete_queue(QueueUrl=url)


def provision(*argv: str, environment: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "infra.provision", *argv],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=environment,
        cwd=Path(__file__).parents[2],
    )


def test_the_command_says_what_it_made_and_what_it_found(
    environment: dict[str, str], gone_afterwards: Unique, unique: Unique
):
    stream, table = gone_afterwards("s"), gone_afterwards("t")
    bucket, queue = unique("bucket"), unique("queue")
    argv = ["--stream", f"{stream}:1", "--table", f"{table}:id", "--bucket", bucket]
    argv += ["--queue", queue]
    first = provision(*argv, environment=environment)
    assert first.returncode == 0, first.stderr
    assert first.stdout.splitlines() == [
        f"created stream {stream} (1 shard)",
        f"created table {table} (key id S)",
        f"created bucket {bucket}",
        f"created queue {queue}",
    ]
    second = provision(*argv, environment=environment)
    assert second.returncode == 0
    assert second.stdout == first.stdout.replace("created", "found")


def test_the_command_refuses_another_shape_in_one_line(
    environment: dict[str, str], stream: Callable[..., str]
):
    name = stream(shards=1)
    ended = provision("--stream", f"{name}:2", environment=environment)
    assert ended.returncode == 1
    assert ended.stderr == f"stream {name} exists with 1 shard, not with 2 shards\n"


def test_an_endpoint_that_is_not_there_is_one_line(environment: dict[str, str]):
    nowhere = environment | {
        "AWS_ENDPOINT_URL_KINESIS": "http://127.0.0.1:9",
        "AWS_MAX_ATTEMPTS": "1",
    }
    ended = provision("--stream", "s:1", environment=nowhere)
    assert ended.returncode == 1
    assert "http://127.0.0.1:9" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "argv",
    [
        ["--stream", "s"],
        ["--stream", "s:0"],
        ["--stream", ":1"],
        ["--stream", "s:two"],
        ["--table", "t"],
        ["--table", "t:k:k"],
        ["--table", "t:k:s:x"],
    ],
)
def test_bad_arguments_are_a_usage_error(argv: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 2
    assert argv[1] in capsys.readouterr().err
