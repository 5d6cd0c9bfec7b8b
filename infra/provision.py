r"""Create streams, tables, buckets and queues, or find them as they should be.

What it shows: idempotent set-up of what a program needs, the same on a local stack and on AWS: look
first, create what is missing, wait until it can be used, and refuse what exists in another shape
instead of using it.

How to run it::

    python -m infra.provision --stream telemetry:2 --stream audit:on-demand \
        --table effects:record_id --table leases:application:lease --bucket archive --queue jobs

What you will see: one line for each resource, `created stream telemetry (2 shards)` or `found …`.
The exit code is 1 when a resource exists in another shape or cannot be made, 2 for bad arguments.

What is guaranteed and what is not: when it exits with 0, every resource is usable and has the shape
asked for. It changes nothing that exists. Two runs at once are safe. Resources made before an error
stay.

What to change for production: declare them in your infrastructure code, with tags, encryption,
retention and alarms. Tables here are on demand (pay per request) and their keys are strings.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from infra.errors import ProvisionError

if TYPE_CHECKING:
    from types_boto3_dynamodb import DynamoDBClient
    from types_boto3_dynamodb.type_defs import TableDescriptionTypeDef
    from types_boto3_kinesis import KinesisClient
    from types_boto3_kinesis.type_defs import StreamDescriptionSummaryTypeDef
    from types_boto3_s3 import S3Client
    from types_boto3_sqs import SQSClient

_Seen = TypeVar("_Seen")

POLL_SECONDS = 0.25
POLL_ATTEMPTS = 480
"""Two minutes, which is long for a stream and for a table on AWS, and no time on a local stack."""


@dataclass(frozen=True, slots=True)
class Provisioned:
    """A resource that can be used now.

    Attributes:
        kind: What it is.
        name: Its name.
        created: Whether this call made it.
        shape: What is remarkable about it, such as `2 shards`.
    """

    kind: Literal["stream", "table", "bucket", "queue"]
    name: str
    created: bool
    shape: str = ""

    def __str__(self) -> str:
        shape = f" ({self.shape})" if self.shape else ""
        return f"{'created' if self.created else 'found'} {self.kind} {self.name}{shape}"


def ensure_stream(
    client: "KinesisClient",
    name: str,
    *,
    shards: int | None,
    sleep: Callable[[float], None] = time.sleep,
) -> Provisioned:
    """Create a stream, or find it, and wait until it is ACTIVE.

    Args:
        client: A Kinesis client.
        name: The stream's name.
        shards: The number of open shards it must have, or None for an on-demand stream.
        sleep: Called between two looks, with seconds.

    Raises:
        ProvisionError: It exists with another number of shards or in another mode, is being
            deleted, or does not become ACTIVE in time.
    """
    created = False
    if _stream_summary(client, name) is None:
        try:
            if shards is None:
                client.create_stream(StreamName=name, StreamModeDetails={"StreamMode": "ON_DEMAND"})
            else:
                client.create_stream(StreamName=name, ShardCount=shards)
            created = True
        except client.exceptions.ResourceInUseException:
            pass  # somebody else has just made it
    summary = _until(lambda: _active_stream(client, name), f"stream {name} is not ACTIVE", sleep)
    mode = summary.get("StreamModeDetails", {}).get("StreamMode", "PROVISIONED")
    found = "on demand" if mode == "ON_DEMAND" else _shards(summary["OpenShardCount"])
    wanted = "on demand" if shards is None else _shards(shards)
    if found != wanted:
        raise ProvisionError(f"stream {name} exists with {found}, not with {wanted}")
    return Provisioned("stream", name, created, found)


def ensure_table(
    client: "DynamoDBClient",
    name: str,
    *,
    key: str,
    sort: str | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Provisioned:
    """Create a DynamoDB table, or find it, and wait until it is ACTIVE.

    Args:
        client: A DynamoDB client.
        name: The table's name.
        key: The attribute that is the partition key, a string.
        sort: The attribute that is the sort key, a string, or None.
        sleep: Called between two looks, with seconds.

    Raises:
        ProvisionError: It exists with another key, is being deleted, or does not become ACTIVE.
    """
    attributes = [key] if sort is None else [key, sort]
    created = False
    if _table(client, name) is None:
        try:
            client.create_table(
                TableName=name,
                KeySchema=[
                    {"AttributeName": attribute, "KeyType": "RANGE" if place else "HASH"}
                    for place, attribute in enumerate(attributes)
                ],
                AttributeDefinitions=[
                    {"AttributeName": attribute, "AttributeType": "S"} for attribute in attributes
                ],
                BillingMode="PAY_PER_REQUEST",
            )
            created = True
        except client.exceptions.ResourceInUseException:
            pass
    table = _until(lambda: _active_table(client, name), f"table {name} is not ACTIVE", sleep)
    types = {a["AttributeName"]: a["AttributeType"] for a in table["AttributeDefinitions"]}
    schema = sorted(table["KeySchema"], key=lambda element: element["KeyType"])  # HASH, RANGE
    found = _key([f"{e['AttributeName']} {types[e['AttributeName']]}" for e in schema])
    wanted = _key([f"{attribute} S" for attribute in attributes])
    if found != wanted:
        raise ProvisionError(f"table {name} exists with the {found}, not with the {wanted}")
    return Provisioned("table", name, created, found)


def ensure_bucket(client: "S3Client", name: str) -> Provisioned:
    """Create an S3 bucket, or find it, in the client's region.

    Raises:
        ProvisionError: The name belongs to another account.
    """
    try:
        client.head_bucket(Bucket=name)
    except ClientError as error:
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        if status == 403:
            raise ProvisionError(f"bucket {name} belongs to another account") from error
        if status != 404:
            raise
    else:
        return Provisioned("bucket", name, created=False)
    region = client.meta.region_name
    try:
        if region == "us-east-1":  # which is no valid location constraint
            client.create_bucket(Bucket=name)
        else:
            client.create_bucket(
                Bucket=name,
                CreateBucketConfiguration={"LocationConstraint": region},  # type: ignore[typeddict-item] # any region
            )
    except client.exceptions.BucketAlreadyOwnedByYou:
        return Provisioned("bucket", name, created=False)
    except client.exceptions.BucketAlreadyExists as error:
        raise ProvisionError(f"bucket {name} belongs to another account") from error
    return Provisioned("bucket", name, created=True)


def ensure_queue(client: "SQSClient", name: str) -> Provisioned:
    """Create an SQS queue, or find it; one whose name ends with `.fifo` is a FIFO queue."""
    try:
        client.get_queue_url(QueueName=name)
    except client.exceptions.QueueDoesNotExist:
        fifo = name.endswith(".fifo")
        client.create_queue(QueueName=name, Attributes={"FifoQueue": "true"} if fifo else {})
        return Provisioned("queue", name, created=True)
    return Provisioned("queue", name, created=False)


def main(argv: Sequence[str] | None = None) -> int:
    """Create or find what the arguments name."""
    arguments = _parser().parse_args(argv)
    try:
        for provisioned in _provision(arguments):
            print(provisioned, flush=True)
    except (ProvisionError, BotoCoreError, ClientError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _provision(arguments: argparse.Namespace) -> Iterator[Provisioned]:
    """Make the clients that are needed, and the resources one after the other."""
    if arguments.stream:
        kinesis = boto3.client("kinesis")
        for name, shards in arguments.stream:
            yield ensure_stream(kinesis, name, shards=shards)
    if arguments.table:
        dynamodb = boto3.client("dynamodb")
        for name, key, sort in arguments.table:
            yield ensure_table(dynamodb, name, key=key, sort=sort)
    if arguments.bucket:
        s3 = boto3.client("s3")
        for name in arguments.bucket:
            yield ensure_bucket(s3, name)
    if arguments.queue:
        sqs = boto3.client("sqs")
        for name in arguments.queue:
            yield ensure_queue(sqs, name)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m infra.provision",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )

    def add(option: str, metavar: str, text: str, kind: Callable[[str], object] = str) -> None:
        parser.add_argument(
            option, action="append", default=[], metavar=metavar, type=kind, help=text
        )

    add("--stream", "NAME:SHARDS", "a stream; SHARDS is a number or `on-demand`", _stream)
    add("--table", "NAME:KEY[:SORT]", "a table; its keys are strings", _table_argument)
    add("--bucket", "NAME", "an S3 bucket")
    add("--queue", "NAME", "an SQS queue; FIFO when the name ends with `.fifo`")
    return parser


def _stream(text: str) -> tuple[str, int | None]:
    name, _, shards = text.partition(":")
    if name and shards == "on-demand":
        return name, None
    if not name or not shards.isdecimal() or int(shards) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME:SHARDS, such as telemetry:2")
    return name, int(shards)


def _table_argument(text: str) -> tuple[str, str, str | None]:
    match text.split(":"):
        case [name, key] if name and key:
            return name, key, None
        case [name, key, sort] if name and key and sort and key != sort:
            return name, key, sort
        case _:
            raise argparse.ArgumentTypeError(f"{text!r} is not NAME:KEY or NAME:KEY:SORT")


def _until(look: Callable[[], _Seen | None], problem: str, sleep: Callable[[float], None]) -> _Seen:
    for _ in range(POLL_ATTEMPTS):
        if (seen := look()) is not None:
            return seen
        sleep(POLL_SECONDS)
    raise ProvisionError(f"{problem} after {POLL_ATTEMPTS * POLL_SECONDS:g} s")


def _active_stream(client: "KinesisClient", name: str) -> "StreamDescriptionSummaryTypeDef | None":
    summary = _stream_summary(client, name)
    if summary is not None and summary["StreamStatus"] == "DELETING":
        raise ProvisionError(f"stream {name} is being deleted; run this again when it is gone")
    return summary if summary is not None and summary["StreamStatus"] == "ACTIVE" else None


def _stream_summary(client: "KinesisClient", name: str) -> "StreamDescriptionSummaryTypeDef | None":
    try:
        return client.describe_stream_summary(StreamName=name)["StreamDescriptionSummary"]
    except client.exceptions.ResourceNotFoundException:
        return None


def _active_table(client: "DynamoDBClient", name: str) -> "TableDescriptionTypeDef | None":
    table = _table(client, name)
    if table is not None and table["TableStatus"] == "DELETING":
        raise ProvisionError(f"table {name} is being deleted; run this again when it is gone")
    return table if table is not None and table["TableStatus"] == "ACTIVE" else None


def _table(client: "DynamoDBClient", name: str) -> "TableDescriptionTypeDef | None":
    try:
        return client.describe_table(TableName=name)["Table"]
    except client.exceptions.ResourceNotFoundException:
        return None


def _shards(count: int) -> str:
    return "1 shard" if count == 1 else f"{count} shards"


def _key(attributes: list[str]) -> str:
    return f"key {', '.join(attributes)}"


if __name__ == "__main__":
    sys.exit(main())
