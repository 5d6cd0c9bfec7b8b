"""The quotas of AWS that this toolkit works to: each one a constant, with the page that says so.

Two record-size regimes exist side by side. The API takes records up to 10 MiB, but a stream
refuses more than 1 MiB until someone raises its own maximum with `UpdateMaxRecordSize`. Code that
does not know the stream keeps to the smaller one.
"""

from typing import Final

from records.errors import InvalidPartitionKey, RecordTooLarge

KIB: Final = 1024
MIB: Final = 1024 * KIB

# AWS: Kinesis Data Streams API Reference, PutRecords.
# https://docs.aws.amazon.com/kinesis/latest/APIReference/API_PutRecords.html
MAX_RECORDS_PER_PUT: Final = 500
# The request limit counts the data before base64 and the partition keys. It was 5 MiB until
# October 2025, which is what older emulators still enforce.
MAX_PUT_REQUEST_BYTES: Final = 10 * MIB
MAX_PARTITION_KEY_CHARS: Final = 256  # Unicode characters, not bytes
MAX_HASH_KEY: Final = 2**128 - 1

# AWS: Kinesis Data Streams Developer Guide, Quotas and limits.
# https://docs.aws.amazon.com/streams/latest/dev/service-sizes-and-limits.html
MAX_RECORD_BYTES: Final = 1 * MIB  # every stream's maximum until it is raised
SHARD_WRITE_RECORDS_PER_SECOND: Final = 1_000
SHARD_WRITE_BYTES_PER_SECOND: Final = 1 * MIB
SHARD_READ_BYTES_PER_SECOND: Final = 2 * MIB  # shared by all polling consumers of the shard
SHARD_READ_CALLS_PER_SECOND: Final = 5  # GetRecords, and apart from it GetShardIterator
DEFAULT_RETENTION_HOURS: Final = 24
MAX_RETENTION_HOURS: Final = 8_760
LIST_SHARDS_CALLS_PER_SECOND: Final = 1_000  # per stream
DESCRIBE_STREAM_CALLS_PER_SECOND: Final = 10  # per account
DESCRIBE_STREAM_SUMMARY_CALLS_PER_SECOND: Final = 20  # per account

# AWS: Kinesis Data Streams API Reference, each operation's own page.
# https://docs.aws.amazon.com/kinesis/latest/APIReference/API_Operations.html
CONTROL_CALLS_PER_SECOND: Final = 5  # of most operations on streams, consumers and tags
DESCRIBE_CONSUMER_CALLS_PER_SECOND: Final = 20  # per stream
DESCRIBE_LIMITS_CALLS_PER_SECOND: Final = 1  # per account
UPDATE_SHARD_COUNT_CALLS_PER_SECOND: Final = 10

# AWS: Kinesis Data Streams Developer Guide, Large records; API Reference, UpdateMaxRecordSize.
# https://docs.aws.amazon.com/streams/latest/dev/large-records.html
MAX_LARGE_RECORD_BYTES: Final = 10 * MIB
# "Bursts up to 10 MiBs, while averaging out to 1 MiB per second", once the maximum is raised.
LARGE_RECORD_BURST_BYTES: Final = 10 * MIB

# AWS: Kinesis Data Streams API Reference, GetRecords.
# https://docs.aws.amazon.com/kinesis/latest/APIReference/API_GetRecords.html
MAX_RECORDS_PER_GET: Final = 10_000
MAX_GET_BYTES: Final = 10 * MIB
GET_PENALTY_SECONDS: Final = 5  # after an answer of 10 MiB the shard throttles this long
ITERATOR_LIFE_SECONDS: Final = 300

# AWS: Kinesis Data Streams API Reference, ListShards.
# https://docs.aws.amazon.com/kinesis/latest/APIReference/API_ListShards.html
MAX_SHARDS_PER_LIST: Final = 10_000
DEFAULT_SHARDS_PER_LIST: Final = 1_000
LIST_TOKEN_LIFE_SECONDS: Final = 300

# AWS: Kinesis Data Streams API Reference, SubscribeToShard.
# https://docs.aws.amazon.com/kinesis/latest/APIReference/API_SubscribeToShard.html
SUBSCRIPTION_LIFE_SECONDS: Final = 300
SUBSCRIPTION_TAKEOVER_SECONDS: Final = (
    5  # an earlier second call is refused, a later one takes over
)
CONSUMER_READ_BYTES_PER_SECOND: Final = 2 * MIB  # per shard, for each registered consumer
MAX_CONSUMERS_PER_STREAM: Final = 20

# AWS: Kinesis Data Streams pricing, "PUT Payload Unit (25 KB)".
# https://aws.amazon.com/kinesis/data-streams/pricing/
PUT_PAYLOAD_UNIT_BYTES: Final = 25 * KIB

# AWS: Kinesis Producer Library, KinesisProducerConfiguration, AggregationMaxSize: two payload
# units, so that no paid byte is left empty.
# https://github.com/awslabs/amazon-kinesis-producer
KPL_AGGREGATE_BYTES: Final = 51_200

# AWS: Amazon Data Firehose API Reference, PutRecordBatch.
# https://docs.aws.amazon.com/firehose/latest/APIReference/API_PutRecordBatch.html
FIREHOSE_MAX_RECORDS_PER_PUT: Final = 500
FIREHOSE_MAX_PUT_REQUEST_BYTES: Final = 4 * MIB
FIREHOSE_MAX_RECORD_BYTES: Final = 1_000 * KIB  # before base64

# AWS: Amazon SQS API Reference, SendMessageBatch.
# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatch.html
SQS_MAX_MESSAGES_PER_BATCH: Final = 10

# AWS: AWS IoT Core, AWS General Reference, endpoints and quotas.
# https://docs.aws.amazon.com/general/latest/gr/iot-core.html
IOT_MAX_PAYLOAD_BYTES: Final = 128 * KIB
IOT_PUBLISHES_PER_SECOND: Final = 100  # per connection, in and out
IOT_BYTES_PER_SECOND: Final = 512 * KIB  # per connection
IOT_MAX_IN_FLIGHT: Final = 100  # unacknowledged QoS 1 messages, each way
IOT_MAX_FILTERS_PER_SUBSCRIBE: Final = 8
IOT_MAX_SUBSCRIPTIONS_PER_CONNECTION: Final = 50
IOT_MAX_SHADOW_BYTES: Final = 8 * KIB
IOT_SHADOW_REQUESTS_PER_SECOND: Final = 20  # per shadow


def record_bytes(partition_key: str, data: bytes) -> int:
    """Return what a record counts against every size limit: its data and its key in UTF-8.

    AWS: Kinesis Data Streams API Reference, PutRecords.

    Raises:
        InvalidPartitionKey: the key cannot be written in UTF-8.
    """
    if partition_key.isascii():
        return len(partition_key) + len(data)
    try:
        return len(partition_key.encode()) + len(data)
    except UnicodeEncodeError as error:
        raise InvalidPartitionKey(f"a partition key must be Unicode text: {error}") from None


def check_record(
    partition_key: str,
    data: bytes,
    explicit_hash_key: int | None = None,
    *,
    max_record_bytes: int = MAX_RECORD_BYTES,
) -> int:
    """Raise if Kinesis would refuse this record, whatever the stream's load.

    Args:
        partition_key: 1 to 256 Unicode characters.
        data: The record's data, before base64.
        explicit_hash_key: 0 to 2**128 - 1, if the caller chooses the shard itself.
        max_record_bytes: The stream's own maximum, in bytes: 1 MiB, unless raised up to 10 MiB.

    Returns:
        Its `record_bytes`.

    Raises:
        InvalidPartitionKey: the key or the explicit hash key is none that Kinesis takes.
        RecordTooLarge: data and key exceed `max_record_bytes`.

    AWS: Kinesis Data Streams API Reference, PutRecordsRequestEntry.
    """
    if not 1 <= len(partition_key) <= MAX_PARTITION_KEY_CHARS:
        raise InvalidPartitionKey(
            f"a partition key has 1 to {MAX_PARTITION_KEY_CHARS} characters,"
            f" not {len(partition_key)}"
        )
    if explicit_hash_key is not None and not 0 <= explicit_hash_key <= MAX_HASH_KEY:
        raise InvalidPartitionKey(
            f"an explicit hash key lies in 0..2**128-1, not at {explicit_hash_key}"
        )
    size = record_bytes(partition_key, data)
    if size > max_record_bytes:
        raise RecordTooLarge(size, max_record_bytes)
    return size
