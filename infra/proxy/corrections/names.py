"""The corrections by name: what is wrong where, and what AWS does instead."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

LIST_SHARDS_FILTER: Final = "list-shards-filter"
ENDING_SEQUENCE_NUMBER: Final = "ending-sequence-number"
SUBSCRIBE_INITIAL_RESPONSE: Final = "subscribe-initial-response"
SUBSCRIBE_CHILD_SHARDS: Final = "subscribe-child-shards"
CBOR_TYPES: Final = "cbor-types"
REQUEST_CONSTRAINTS: Final = "request-constraints"
BAD_ITERATOR: Final = "bad-iterator"
DELETE_WITH_CONSUMERS: Final = "delete-with-consumers"
RESHARD_ARGUMENTS: Final = "reshard-arguments"
MAX_RECORD_SIZE: Final = "max-record-size"
UNKNOWN_SHARD: Final = "unknown-shard"
UNKNOWN_CONSUMER: Final = "unknown-consumer"
CREATE_STREAM_TAGS: Final = "create-stream-tags"
ERROR_TYPE: Final = "error-type"
LIST_STREAMS: Final = "list-streams"
LIST_CONSUMERS: Final = "list-consumers"

# AWS: Kinesis Data Streams API Reference, ShardFilter, SequenceNumberRange, SubscribeToShard,
# SubscribeToShardEvent and Record, and each operation that a sentence names. The CBOR is in no
# public page: it is what the Java SDK reads and writes.
# https://docs.aws.amazon.com/kinesis/latest/APIReference/API_Operations.html
# https://docs.aws.amazon.com/kinesis/latest/APIReference/API_ShardFilter.html
# https://docs.aws.amazon.com/kinesis/latest/APIReference/API_SequenceNumberRange.html
# https://docs.aws.amazon.com/kinesis/latest/APIReference/API_SubscribeToShard.html
# https://docs.aws.amazon.com/kinesis/latest/APIReference/API_SubscribeToShardEvent.html
# https://docs.aws.amazon.com/kinesis/latest/APIReference/API_Record.html
ALL: Final[Mapping[str, str]] = MappingProxyType(
    {
        LIST_SHARDS_FILTER: (
            "ListShards: kinesis-mock 0.5 and 0.6 (and LocalStack 4 over it) answer AT_TRIM_HORIZON"
            " with the children as well as their parents and forget the filter from the second page"
            " on; AWS answers the shards that were open then, so that KCL can start after a reshard"
        ),
        ENDING_SEQUENCE_NUMBER: (
            "ListShards and DescribeStream: kinesis-mock and LocalStack end every closed shard at"
            " 9223372036854775807, below its own start; AWS ends it at or above its last record"
        ),
        SUBSCRIBE_INITIAL_RESPONSE: (
            "SubscribeToShard: kinesis-mock leaves out the initial-response event, without which"
            " boto3 reads no other; AWS sends it first"
        ),
        SUBSCRIBE_CHILD_SHARDS: (
            "SubscribeToShard: kinesis-mock and LocalStack never say that a shard has ended; AWS"
            " sends a last event with ChildShards and ends the stream"
        ),
        CBOR_TYPES: (
            "CBOR answers: kinesis-mock writes blobs as base64 text, timestamps as bare integers,"
            " absent members as null and events in JSON, MiniStack writes timestamps as bare"
            " seconds; AWS writes bytes, tagged milliseconds, nothing and CBOR"
        ),
        REQUEST_CONSTRAINTS: (
            "every operation: kinesis-mock takes some requests that AWS' model forbids, and answers"
            " others with 500 or SerializationException; AWS answers ValidationException"
        ),
        BAD_ITERATOR: (
            "GetRecords: kinesis-mock answers 500 for a shard iterator that was never given out,"
            " which an SDK tries again; AWS answers InvalidArgumentException"
        ),
        DELETE_WITH_CONSUMERS: (
            "DeleteStream: kinesis-mock refuses to delete a stream with registered consumers and"
            " deletes it all the same; AWS keeps it, unless EnforceConsumerDeletion is set"
        ),
        RESHARD_ARGUMENTS: (
            "SplitShard, MergeShards and UpdateShardCount: kinesis-mock splits at a shard's first"
            " hash key, into a shard of no keys, and reshards on-demand streams; AWS refuses both"
        ),
        MAX_RECORD_SIZE: (
            "DescribeStreamSummary: kinesis-mock leaves out MaxRecordSizeInKiB until it is set; AWS"
            " says 1024"
        ),
        UNKNOWN_SHARD: (
            "SubscribeToShard: kinesis-mock takes a shard that the stream does not have and sends"
            " nothing; AWS answers ResourceNotFoundException"
        ),
        UNKNOWN_CONSUMER: (
            "SubscribeToShard: LocalStack takes a consumer that was never registered; AWS answers"
            " ResourceNotFoundException"
        ),
        CREATE_STREAM_TAGS: (
            "CreateStream: LocalStack forgets the tags that a stream is made with; AWS keeps them"
        ),
        ERROR_TYPE: (
            "errors: LocalStack answers application/json to a call in application/x-amz-json-1.1;"
            " AWS answers in the type of the call"
        ),
        LIST_STREAMS: (
            "ListStreams: kinesis-mock gives no NextToken, ignores one, and has no StreamSummaries;"
            " AWS has both"
        ),
        LIST_CONSUMERS: (
            "ListStreamConsumers: kinesis-mock gives a NextToken on the last page instead of on the"
            " others; AWS gives one on each page that is not the last"
        ),
    }
)
"""Each correction, with the sentence that `--help` and the status show."""


def parse(text: str) -> frozenset[str]:
    """Return the corrections that a list switches on.

    Args:
        text: `all`, names with commas between them, or names with a `-` before those that are
            taken out again: `all,-cbor-types`. The empty text switches none on.

    Raises:
        ValueError: A name is not known; the message has those that are.
    """
    chosen: set[str] = set()
    for word in filter(None, (part.strip() for part in text.split(","))):
        name = word.removeprefix("-")
        if name != "all" and name not in ALL:
            raise ValueError(f"no correction is called {name!r}; there are all, {', '.join(ALL)}")
        named = set(ALL) if name == "all" else {name}
        chosen = chosen - named if word.startswith("-") else chosen | named
    return frozenset(chosen)
