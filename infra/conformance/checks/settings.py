"""Checks of what can be seen of a stream and changed: retention, tags, encryption, mode."""

from typing import Any

from infra.conformance.check import INVALID, about_now, check, equal, expect, refused
from infra.conformance.ground import Ground
from infra.conformance.records import gaps, iterator, open_shards, put, read

AREA = "settings"


@check("summary-defaults", source="DescribeStreamSummary", area=AREA)
def summary_defaults(ground: Ground) -> None:
    """A new stream keeps records for 24 hours, without encryption, consumers or shard metrics."""
    summary = ground.active(ground.shared_stream(3))
    wanted = {
        "RetentionPeriodHours": 24,
        "OpenShardCount": 3,
        "ConsumerCount": 0,
        "EncryptionType": "NONE",
        "StreamModeDetails": {"StreamMode": "PROVISIONED"},
        "EnhancedMonitoring": [{"ShardLevelMetrics": []}],
    }
    equal({name: summary.get(name) for name in wanted}, wanted)


@check("summary-created", source="StreamDescriptionSummary: StreamCreationTimestamp", area=AREA)
def summary_created(ground: Ground) -> None:
    """The summary has the time at which the stream was made."""
    about_now(ground.active(ground.stream())["StreamCreationTimestamp"])


@check("describe-stream-fields", source="DescribeStream: StreamDescription", area=AREA)
def describe_stream_fields(ground: Ground) -> None:
    """A description has every field that the API calls required."""
    found = ground.kinesis.describe_stream(StreamName=ground.shared_stream())["StreamDescription"]
    wanted = {
        "StreamName",
        "StreamARN",
        "StreamStatus",
        "Shards",
        "HasMoreShards",
        "RetentionPeriodHours",
        "StreamCreationTimestamp",
        "EnhancedMonitoring",
    }
    equal(sorted(wanted - set(found)), [], "missing:")


@check("describe-stream-paging", source="DescribeStream: Limit, ExclusiveStartShardId", area=AREA)
def describe_stream_paging(ground: Ground) -> None:
    """A description with a Limit of 2 has two shards of three, and the third follows on them."""
    kinesis, name = ground.kinesis, ground.shared_stream(3)
    first = kinesis.describe_stream(StreamName=name, Limit=2)["StreamDescription"]
    equal((len(first["Shards"]), first["HasMoreShards"]), (2, True), "shards and HasMoreShards")
    last = first["Shards"][-1]["ShardId"]
    second = kinesis.describe_stream(StreamName=name, ExclusiveStartShardId=last)
    rest = second["StreamDescription"]
    equal((len(rest["Shards"]), rest["HasMoreShards"]), (1, False), "shards and HasMoreShards")
    ids = {shard["ShardId"] for shard in first["Shards"] + rest["Shards"]}
    equal(len(ids), 3, "different shards")


@check("describe-limits", source="DescribeLimits", area=AREA)
def describe_limits(ground: Ground) -> None:
    """The limits of the account count the open shards of its provisioned streams."""
    ground.shared_stream(3)
    found = ground.kinesis.describe_limits()
    expect(found["OpenShardCount"] >= 3, "OpenShardCount at least 3", found["OpenShardCount"])
    expect(found["ShardLimit"] > 0, "a ShardLimit", found["ShardLimit"])
    wanted = {"OnDemandStreamCount", "OnDemandStreamCountLimit"}
    equal(sorted(wanted - set(found)), [], "missing:")


@check("retention-increase", source="IncreaseStreamRetentionPeriod", area=AREA)
def retention_increase(ground: Ground) -> None:
    """The retention period can be raised to 8760 hours and lowered to 24."""
    name = ground.stream()
    ground.kinesis.increase_stream_retention_period(StreamName=name, RetentionPeriodHours=8760)
    equal(ground.active(name)["RetentionPeriodHours"], 8760)
    ground.kinesis.decrease_stream_retention_period(StreamName=name, RetentionPeriodHours=24)
    equal(ground.active(name)["RetentionPeriodHours"], 24)


@check("retention-8761", source="IncreaseStreamRetentionPeriod: up to 8760 hours", area=AREA)
def retention_8761(ground: Ground) -> None:
    """A retention period of more than 8760 hours is refused."""
    name = ground.shared_stream()
    refused(
        INVALID,
        lambda: ground.kinesis.increase_stream_retention_period(
            StreamName=name, RetentionPeriodHours=8761
        ),
    )


@check("retention-23", source="DecreaseStreamRetentionPeriod: at least 24 hours", area=AREA)
def retention_23(ground: Ground) -> None:
    """A retention period of less than 24 hours is refused."""
    name = ground.shared_stream()
    refused(
        INVALID,
        lambda: ground.kinesis.decrease_stream_retention_period(
            StreamName=name, RetentionPeriodHours=23
        ),
    )


@check("retention-wrong-way", source="IncreaseStreamRetentionPeriod: must be more", area=AREA)
def retention_wrong_way(ground: Ground) -> None:
    """Neither does the increase lower the retention period, nor the decrease raise it."""
    kinesis, name = ground.kinesis, ground.stream()
    kinesis.increase_stream_retention_period(StreamName=name, RetentionPeriodHours=72)
    ground.active(name)
    refused(
        INVALID,
        lambda: kinesis.increase_stream_retention_period(StreamName=name, RetentionPeriodHours=48),
    )
    refused(
        INVALID,
        lambda: kinesis.decrease_stream_retention_period(StreamName=name, RetentionPeriodHours=96),
    )
    equal(ground.active(name)["RetentionPeriodHours"], 72)


@check("tags-round", source="AddTagsToStream; RemoveTagsFromStream", area=AREA)
def tags_round(ground: Ground) -> None:
    """Tags are added, replaced under the same key, and removed."""
    kinesis, name = ground.kinesis, ground.stream()
    kinesis.add_tags_to_stream(StreamName=name, Tags={"a": "1", "b": "2"})
    kinesis.add_tags_to_stream(StreamName=name, Tags={"b": "3", "c": ""})
    equal(_tags(ground, name), {"a": "1", "b": "3", "c": ""}, "tags")
    kinesis.remove_tags_from_stream(StreamName=name, TagKeys=["a", "never there"])
    equal(_tags(ground, name), {"b": "3", "c": ""}, "tags")


@check("tags-paging", source="ListTagsForStream: Limit, HasMoreTags", area=AREA)
def tags_paging(ground: Ground) -> None:
    """Tags come in pages of the Limit, the next page after ExclusiveStartTagKey."""
    kinesis, name = ground.kinesis, ground.stream()
    kinesis.add_tags_to_stream(StreamName=name, Tags={"a": "1", "b": "2", "c": "3"})
    first = kinesis.list_tags_for_stream(StreamName=name, Limit=2)
    equal((len(first["Tags"]), first["HasMoreTags"]), (2, True), "tags and HasMoreTags")
    last = first["Tags"][-1]["Key"]
    second = kinesis.list_tags_for_stream(StreamName=name, ExclusiveStartTagKey=last)
    equal((len(second["Tags"]), second["HasMoreTags"]), (1, False), "tags and HasMoreTags")
    keys = sorted(tag["Key"] for tag in first["Tags"] + second["Tags"])
    equal(keys, ["a", "b", "c"], "keys")


@check("tags-key-129", source="AddTagsToStream: TagKey, 1..128", area=AREA)
def tags_key_129(ground: Ground) -> None:
    """A tag key of 129 characters is refused."""
    name = ground.shared_stream()
    refused(
        INVALID,
        lambda: ground.kinesis.add_tags_to_stream(StreamName=name, Tags={"k" * 129: "value"}),
    )


@check("tags-value-257", source="AddTagsToStream: TagValue, 0..256", area=AREA)
def tags_value_257(ground: Ground) -> None:
    """A tag value of 257 characters is refused."""
    name = ground.shared_stream()
    refused(
        INVALID,
        lambda: ground.kinesis.add_tags_to_stream(StreamName=name, Tags={"key": "v" * 257}),
    )


@check("tags-51", source="AddTagsToStream: a stream has at most 50 tags", area=AREA)
def tags_51(ground: Ground) -> None:
    """A stream with 50 tags takes no further one."""
    kinesis, name = ground.kinesis, ground.stream()
    for start in range(0, 50, 10):
        tags = {f"tag-{number}": "" for number in range(start, start + 10)}
        kinesis.add_tags_to_stream(StreamName=name, Tags=tags)
    refused(
        (*INVALID, "LimitExceededException"),
        lambda: kinesis.add_tags_to_stream(StreamName=name, Tags={"one more": ""}),
    )


@check("tag-resource", source="TagResource; UntagResource; ListTagsForResource", area=AREA)
def tag_resource(ground: Ground) -> None:
    """Tags are added, listed and removed by the ARN of the stream."""
    kinesis = ground.kinesis
    arn = ground.arn(ground.stream())
    kinesis.tag_resource(ResourceARN=arn, Tags={"a": "1", "b": "2"})
    kinesis.untag_resource(ResourceARN=arn, TagKeys=["a"])
    found = kinesis.list_tags_for_resource(ResourceARN=arn)["Tags"]
    equal(found, [{"Key": "b", "Value": "2"}], "tags")


@check("encryption-on-off", source="StartStreamEncryption; StopStreamEncryption", area=AREA)
def encryption_on_off(ground: Ground) -> None:
    """Encryption with the key of the service is started and stopped, and the summary says so."""
    name = ground.stream()
    key: Any = {"EncryptionType": "KMS", "KeyId": "alias/aws/kinesis"}
    ground.kinesis.start_stream_encryption(StreamName=name, **key)
    summary = ground.active(name)
    equal((summary.get("EncryptionType"), summary.get("KeyId")), ("KMS", key["KeyId"]), "summary")
    ground.kinesis.stop_stream_encryption(StreamName=name, **key)
    equal(ground.active(name).get("EncryptionType"), "NONE", "EncryptionType")


@check("encryption-of-records", source="PutRecord, PutRecords, Record: EncryptionType", area=AREA)
def encryption_of_records(ground: Ground) -> None:
    """A record that is put while encryption is on says KMS, when it is put and when it is read."""
    name = ground.stream()
    key: Any = {"EncryptionType": "KMS", "KeyId": "alias/aws/kinesis"}
    ground.kinesis.start_stream_encryption(StreamName=name, **key)
    ground.active(name)
    start = iterator(ground, name, "shardId-000000000000", "TRIM_HORIZON")
    answer = ground.kinesis.put_record(StreamName=name, Data=b"secret", PartitionKey="k")
    equal(answer.get("EncryptionType"), "KMS", "EncryptionType of PutRecord")
    entries: Any = [{"Data": b"secret", "PartitionKey": "k"}]
    answers = ground.kinesis.put_records(StreamName=name, Records=entries)
    equal(answers.get("EncryptionType"), "KMS", "EncryptionType of PutRecords")
    kinds = [record.get("EncryptionType") for record in read(ground, start, 2)]
    equal(kinds, ["KMS", "KMS"], "EncryptionType of the records")


@check("monitoring-on-off", source="EnableEnhancedMonitoring; DisableEnhancedMonitoring", area=AREA)
def monitoring_on_off(ground: Ground) -> None:
    """Shard metrics are switched on and off, and both answers say what was and what will be."""
    name = ground.stream()
    change: Any = {"StreamName": name, "ShardLevelMetrics": ["IncomingBytes"]}
    on = ground.kinesis.enable_enhanced_monitoring(**change)
    equal(on.get("CurrentShardLevelMetrics", []), [], "current metrics")
    equal(on.get("DesiredShardLevelMetrics", []), ["IncomingBytes"], "desired metrics")
    ground.active(name)
    off = ground.kinesis.disable_enhanced_monitoring(**change)
    equal(off.get("CurrentShardLevelMetrics", []), ["IncomingBytes"], "current metrics")
    equal(off.get("DesiredShardLevelMetrics", []), [], "desired metrics")


@check("on-demand-stream", source="Quotas: an on-demand stream starts with 4 MB/s", area=AREA)
def on_demand_stream(ground: Ground) -> None:
    """A new on-demand stream has four shards, which make the whole key space, and takes records."""
    name = ground.stream(None)
    mode = ground.active(name).get("StreamModeDetails")
    equal(mode, {"StreamMode": "ON_DEMAND"}, "StreamModeDetails")
    found = open_shards(ground, name)
    equal((len(found), gaps(found)), (4, ""), "shards and gaps")
    put(ground, name, "a record")


@check("on-demand-no-reshard", source="UpdateShardCount: ValidationException", area=AREA)
def on_demand_no_reshard(ground: Ground) -> None:
    """The number of shards of an on-demand stream cannot be set."""
    name = ground.stream(None)
    refused(
        INVALID,
        lambda: ground.kinesis.update_shard_count(
            StreamName=name, TargetShardCount=8, ScalingType="UNIFORM_SCALING"
        ),
    )


@check("update-stream-mode", source="UpdateStreamMode", area=AREA)
def update_stream_mode(ground: Ground) -> None:
    """A provisioned stream becomes an on-demand stream."""
    name = ground.stream()
    ground.kinesis.update_stream_mode(
        StreamARN=ground.arn(name), StreamModeDetails={"StreamMode": "ON_DEMAND"}
    )
    found = ground.active(name).get("StreamModeDetails")
    equal(found, {"StreamMode": "ON_DEMAND"}, "StreamModeDetails")


@check("max-record-size", source="UpdateMaxRecordSize; MaxRecordSizeInKiB", area=AREA)
def max_record_size(ground: Ground) -> None:
    """The maximum size of a record can be raised to 10240 KiB, and the summary says so."""
    name = ground.stream()
    ground.kinesis.update_max_record_size(StreamARN=ground.arn(name), MaxRecordSizeInKiB=10240)
    equal(ground.active(name).get("MaxRecordSizeInKiB"), 10240, "MaxRecordSizeInKiB")


@check("max-record-size-default", source="CreateStream: MaxRecordSizeInKiB", area=AREA)
def max_record_size_default(ground: Ground) -> None:
    """The summary says that the maximum size of a record is 1024 KiB until it is raised."""
    equal(ground.active(ground.shared_stream()).get("MaxRecordSizeInKiB"), 1024)


@check("max-record-size-range", source="UpdateMaxRecordSize: 1024..10240", area=AREA)
def max_record_size_range(ground: Ground) -> None:
    """A maximum of 1023 or of 10241 KiB is refused."""
    name = ground.stream()
    arn = ground.arn(name)

    def update(size: int) -> None:
        ground.kinesis.update_max_record_size(StreamARN=arn, MaxRecordSizeInKiB=size)

    update(2048)  # so that a refusal is about the size
    ground.active(name)
    refused(INVALID, lambda: update(1023))
    refused(INVALID, lambda: update(10241))


def _tags(ground: Ground, name: str) -> dict[str, str]:
    found = ground.kinesis.list_tags_for_stream(StreamName=name)["Tags"]
    return {tag["Key"]: tag.get("Value", "") for tag in found}
