"""Checks of the life of a stream: making, finding, listing and deleting it."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from infra.conformance.check import (
    INVALID,
    check,
    code_of,
    describe,
    equal,
    expect,
    is_unsupported,
    refused,
)
from infra.conformance.ground import Deviation, Ground
from infra.conformance.records import gaps, iterator, put, read, shards, texts
from infra.conformance.subscribing import consumer

if TYPE_CHECKING:
    from types_boto3_kinesis.type_defs import ConsumerTypeDef

AREA = "streams"
MAX_PAGES = 2_000


@check("create-stream-shards", source="CreateStream: ShardCount", area=AREA)
def create_stream_shards(ground: Ground) -> None:
    """A stream of three shards has three, and their hash ranges make the whole key space."""
    found = shards(ground, ground.shared_stream(3))
    equal(len(found), 3, "shards")
    equal(gaps(found), "", "gaps")


@check("create-stream-shard-ids", source="CreateStream; Shard: ShardId", area=AREA)
def create_stream_shard_ids(ground: Ground) -> None:
    """The shards of a new stream are numbered from shardId-000000000000."""
    found = sorted(shard["ShardId"] for shard in shards(ground, ground.shared_stream(3)))
    equal(found, [f"shardId-{number:012}" for number in range(3)])


@check("create-stream-in-use", source="CreateStream: ResourceInUseException", area=AREA)
def create_stream_in_use(ground: Ground) -> None:
    """The name of a stream that exists is in use."""
    name = ground.shared_stream()
    refused(
        "ResourceInUseException",
        lambda: ground.kinesis.create_stream(StreamName=name, ShardCount=1),
    )


@check("create-stream-name-128", source="CreateStream: StreamName, 1..128", area=AREA)
def create_stream_name_128(ground: Ground) -> None:
    """A name of 128 letters, digits, underscores, dots and hyphens is a name."""
    name = ground.stream_name("Az09_.-".ljust(128 - 13, "x"))
    ground.kinesis.create_stream(StreamName=name, ShardCount=1)
    equal(ground.active(name)["StreamName"], name)


@check("create-stream-name-129", source="CreateStream: StreamName, 1..128", area=AREA)
def create_stream_name_129(ground: Ground) -> None:
    """A name of 129 characters is refused."""
    name = ground.stream_name("x" * (129 - 13))
    refused(INVALID, lambda: ground.kinesis.create_stream(StreamName=name, ShardCount=1))


@check("create-stream-name-pattern", source="CreateStream: StreamName, pattern", area=AREA)
def create_stream_name_pattern(ground: Ground) -> None:
    """A name with a slash is refused."""
    name = ground.stream_name("a/b")
    refused(INVALID, lambda: ground.kinesis.create_stream(StreamName=name, ShardCount=1))


@check("create-stream-no-shards", source="CreateStream: ShardCount, at least 1", area=AREA)
def create_stream_no_shards(ground: Ground) -> None:
    """A stream of no shards is refused."""
    name = ground.stream_name()
    refused(INVALID, lambda: ground.kinesis.create_stream(StreamName=name, ShardCount=0))


@check("create-stream-mode-unknown", source="CreateStream: StreamMode, enum", area=AREA)
def create_stream_mode_unknown(ground: Ground) -> None:
    """A stream mode that does not exist is refused."""
    details = {"StreamMode": "SOMETIMES"}
    refused(
        INVALID,
        lambda: ground.kinesis.create_stream(
            StreamName=ground.stream_name(),
            ShardCount=1,
            StreamModeDetails=details,  # type: ignore[arg-type] # wrong on purpose
        ),
    )


@check("create-stream-tags", source="CreateStream: Tags", area=AREA)
def create_stream_tags(ground: Ground) -> None:
    """A stream can be made with tags."""
    name = ground.stream_name()
    ground.kinesis.create_stream(StreamName=name, ShardCount=1, Tags={"team": "river"})
    ground.active(name)
    found = ground.kinesis.list_tags_for_stream(StreamName=name)["Tags"]
    equal(found, [{"Key": "team", "Value": "river"}], "tags")


@check("create-stream-again", source="DeleteStream; CreateStream", area=AREA)
def create_stream_again(ground: Ground) -> None:
    """A stream made again under the name of a deleted one is empty."""
    name = ground.stream()
    put(ground, name, "of the first")
    _delete(ground, name)
    ground.kinesis.create_stream(StreamName=name, ShardCount=1)
    ground.active(name)
    start = iterator(ground, name, "shardId-000000000000", "TRIM_HORIZON")
    put(ground, name, "of the second")
    equal(texts(read(ground, start, 1)), ["of the second"])


@check("delete-stream-gone", source="DeleteStream", area=AREA)
def delete_stream_gone(ground: Ground) -> None:
    """A deleted stream is at first DELETING, then not found."""
    _delete(ground, ground.stream())


@check(
    "delete-stream-with-consumers",
    source="DeleteStream: EnforceConsumerDeletion, ResourceInUseException",
    area=AREA,
)
def delete_stream_with_consumers(ground: Ground) -> None:
    """A stream with a registered consumer is only deleted with EnforceConsumerDeletion."""
    name = ground.stream()
    arn, reader = ground.arn(name), consumer(ground, name)
    refused("ResourceInUseException", lambda: ground.kinesis.delete_stream(StreamName=name))
    left = [each["ConsumerARN"] for each in _consumers(ground, arn)]
    equal(left, [reader], "consumers after the refusal:")
    ground.kinesis.delete_stream(StreamName=name, EnforceConsumerDeletion=True)


@check("missing-stream-not-found", source="ResourceNotFoundException", area=AREA)
def missing_stream_not_found(ground: Ground) -> None:
    """Every operation on a stream that does not exist says ResourceNotFoundException."""
    kinesis = ground.kinesis
    stream: Any = {"StreamName": ground.unique()}
    shard = "shardId-000000000000"
    calls: dict[str, Callable[[], object]] = {
        "DescribeStream": lambda: kinesis.describe_stream(**stream),
        "DescribeStreamSummary": lambda: kinesis.describe_stream_summary(**stream),
        "ListShards": lambda: kinesis.list_shards(**stream),
        "PutRecord": lambda: kinesis.put_record(**stream, Data=b"x", PartitionKey="k"),
        "PutRecords": lambda: kinesis.put_records(
            **stream, Records=[{"Data": b"x", "PartitionKey": "k"}]
        ),
        "GetShardIterator": lambda: kinesis.get_shard_iterator(
            **stream, ShardId=shard, ShardIteratorType="LATEST"
        ),
        "SplitShard": lambda: kinesis.split_shard(
            **stream, ShardToSplit=shard, NewStartingHashKey=str(2**127)
        ),
        "UpdateShardCount": lambda: kinesis.update_shard_count(
            **stream, TargetShardCount=2, ScalingType="UNIFORM_SCALING"
        ),
        "AddTagsToStream": lambda: kinesis.add_tags_to_stream(**stream, Tags={"a": "b"}),
        "IncreaseStreamRetentionPeriod": lambda: kinesis.increase_stream_retention_period(
            **stream, RetentionPeriodHours=48
        ),
        "DeleteStream": lambda: kinesis.delete_stream(**stream),
    }
    found: list[str] = []
    for operation, call in calls.items():
        try:
            refused("ResourceNotFoundException", call)
        except Deviation as deviation:
            found.append(f"{operation}: {deviation.found}")
        except ClientError as error:
            if not is_unsupported(error):
                raise
            found.append(f"{operation}: {describe(error)}")
    expect(not found, "ResourceNotFoundException from each", "; ".join(found))


@check("stream-arn-form", source="StreamDescriptionSummary: StreamARN, pattern", area=AREA)
def stream_arn_form(ground: Ground) -> None:
    """The ARN names the service, the region, an account of twelve digits and the stream."""
    name = ground.shared_stream()
    arn = ground.arn(name)
    start, _, resource = arn.rpartition(":")
    parts = start.split(":")
    well_formed = (
        len(parts) == 5
        and parts[0] == "arn"
        and parts[2:4] == ["kinesis", ground.kinesis.meta.region_name]
        and len(parts[4]) == 12
        and parts[4].isdecimal()
        and resource == f"stream/{name}"
    )
    expect(well_formed, f"arn:aws:kinesis:REGION:ACCOUNT:stream/{name}", arn)


@check("stream-by-arn", source="PutRecord, GetShardIterator, GetRecords: StreamARN", area=AREA)
def stream_by_arn(ground: Ground) -> None:
    """A stream can be written, listed and read by its ARN alone."""
    kinesis = ground.kinesis
    stream: Any = {"StreamARN": ground.arn(ground.stream())}
    placed = kinesis.put_record(**stream, Data=b"by arn", PartitionKey="k")
    listed = kinesis.list_shards(**stream)["Shards"]
    equal([shard["ShardId"] for shard in listed], [placed["ShardId"]], "shards")
    start = kinesis.get_shard_iterator(
        **stream, ShardId=placed["ShardId"], ShardIteratorType="TRIM_HORIZON"
    )["ShardIterator"]
    equal(texts(read(ground, start, 1, **stream)), ["by arn"])


@check("stream-by-nothing", source="DescribeStreamSummary: StreamName or StreamARN", area=AREA)
def stream_by_nothing(ground: Ground) -> None:
    """A request that names no stream is refused."""
    refused(INVALID, ground.kinesis.describe_stream_summary)


@check("list-streams-paging", source="ListStreams: Limit, HasMoreStreams", area=AREA)
def list_streams_paging(ground: Ground) -> None:
    """Pages by ExclusiveStartStreamName hold every stream once, none more than its Limit."""
    mine = sorted(ground.stream() for _ in range(3))
    seen: list[str] = []

    def list_all() -> bool:
        # Other checks delete their streams meanwhile, and then a page may start from one that is
        # gone; so only those of this check count, and one quiet walk is enough.
        seen.clear()
        seen.extend(name for name in _all_names(ground) if name in mine)
        return sorted(seen) == mine

    ground.eventually(list_all, expected=f"{mine} once each", within=10)


@check("list-streams-token", source="ListStreams: NextToken", area=AREA)
def list_streams_token(ground: Ground) -> None:
    """A page that is not the last has a NextToken, and the next page follows on it."""
    for _ in range(2):
        ground.stream()
    first = ground.kinesis.list_streams(Limit=1)
    expect(first["HasMoreStreams"], "HasMoreStreams true", first["HasMoreStreams"])
    expect(first.get("NextToken"), "a NextToken", first.get("NextToken"))
    second = ground.kinesis.list_streams(Limit=1, NextToken=first["NextToken"])
    expect(
        second["StreamNames"] and second["StreamNames"] != first["StreamNames"],
        f"another stream than {first['StreamNames']}",
        second["StreamNames"],
    )


@check("list-streams-summaries", source="ListStreams: StreamSummaries", area=AREA)
def list_streams_summaries(ground: Ground) -> None:
    """The list has a summary of each stream, with ARN, status, mode and time of creation."""
    ground.shared_stream()
    summaries = ground.kinesis.list_streams(Limit=1).get("StreamSummaries")
    wanted = {
        "StreamName",
        "StreamARN",
        "StreamStatus",
        "StreamModeDetails",
        "StreamCreationTimestamp",
    }
    found = set(summaries[0]) if summaries else set[str]()
    expect(wanted <= found, f"StreamSummaries with {sorted(wanted)}", sorted(found))


@check("list-streams-limit-0", source="ListStreams: Limit, 1..10000", area=AREA)
def list_streams_limit_0(ground: Ground) -> None:
    """A Limit of 0 is refused."""
    refused(INVALID, lambda: ground.kinesis.list_streams(Limit=0))


def _all_names(ground: Ground) -> list[str]:
    names: list[str] = []
    for _ in range(MAX_PAGES):
        start: Any = {"ExclusiveStartStreamName": names[-1]} if names else {}
        answer = ground.kinesis.list_streams(Limit=2, **start)
        page = answer["StreamNames"]
        expect(len(page) <= 2, "at most 2 names", page)
        names += page
        if not answer["HasMoreStreams"]:
            return names
        expect(page, "HasMoreStreams false with an empty page", "true")
    raise Deviation(f"the last page within {MAX_PAGES}", "HasMoreStreams true")


def _consumers(ground: Ground, arn: str) -> "list[ConsumerTypeDef]":
    try:
        return ground.kinesis.list_stream_consumers(StreamARN=arn)["Consumers"]
    except ClientError as error:
        if code_of(error) == "ResourceNotFoundException":
            return []
        raise


def _delete(ground: Ground, name: str) -> None:
    """Delete a stream and wait until it is gone."""
    ground.kinesis.delete_stream(StreamName=name)

    def gone() -> bool:
        try:
            found = ground.kinesis.describe_stream_summary(StreamName=name)
        except ClientError as error:
            if code_of(error) == "ResourceNotFoundException":
                return True
            raise
        equal(found["StreamDescriptionSummary"]["StreamStatus"], "DELETING", "status")
        return False

    ground.eventually(gone, expected="ResourceNotFoundException")
