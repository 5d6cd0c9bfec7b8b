"""How often each operation of Kinesis' control plane may be called: the rates its pages name.

Left out are `UpdateShardCount`'s ten calls and the encryption's 25 in a rolling day, which nobody
wants to wait for, and every operation whose page names no rate.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from records.limits import (
    CONTROL_CALLS_PER_SECOND,
    DESCRIBE_CONSUMER_CALLS_PER_SECOND,
    DESCRIBE_LIMITS_CALLS_PER_SECOND,
    DESCRIBE_STREAM_CALLS_PER_SECOND,
    DESCRIBE_STREAM_SUMMARY_CALLS_PER_SECOND,
    LIST_SHARDS_CALLS_PER_SECOND,
    UPDATE_SHARD_COUNT_CALLS_PER_SECOND,
)

LIMIT_EXCEEDED: Final = "LimitExceededException"
"""What AWS answers to a call of the control plane that comes too soon."""


class Scope(Enum):
    """Among whose calls an operation's are counted."""

    ACCOUNT = auto()
    STREAM = auto()


@dataclass(frozen=True, slots=True)
class Rate:
    """How often an operation may be called.

    Attributes:
        calls: Per second.
        scope: In all of an account and region, or for each stream.
    """

    calls: int
    scope: Scope


_ACCOUNT: Final = Rate(CONTROL_CALLS_PER_SECOND, Scope.ACCOUNT)
_STREAM: Final = Rate(CONTROL_CALLS_PER_SECOND, Scope.STREAM)

# AWS: Kinesis Data Streams API Reference, each operation's own page.
# https://docs.aws.amazon.com/kinesis/latest/APIReference/API_Operations.html
RATES: Final[Mapping[str, Rate]] = {
    "AddTagsToStream": _ACCOUNT,
    "CreateChannel": _ACCOUNT,
    "CreateStream": _ACCOUNT,
    "DeleteChannel": _ACCOUNT,
    "DeleteStream": _ACCOUNT,
    "DeregisterStreamConsumer": _STREAM,
    "DescribeAccountSettings": _ACCOUNT,
    "DescribeChannel": _ACCOUNT,
    "DescribeLimits": Rate(DESCRIBE_LIMITS_CALLS_PER_SECOND, Scope.ACCOUNT),
    "DescribeStream": Rate(DESCRIBE_STREAM_CALLS_PER_SECOND, Scope.ACCOUNT),
    "DescribeStreamConsumer": Rate(DESCRIBE_CONSUMER_CALLS_PER_SECOND, Scope.STREAM),
    "DescribeStreamSummary": Rate(DESCRIBE_STREAM_SUMMARY_CALLS_PER_SECOND, Scope.ACCOUNT),
    "ListChannels": _ACCOUNT,
    "ListShards": Rate(LIST_SHARDS_CALLS_PER_SECOND, Scope.STREAM),
    "ListStreamConsumers": _STREAM,
    "ListStreams": _ACCOUNT,
    "ListTagsForStream": _ACCOUNT,
    "MergeShards": _ACCOUNT,
    "RegisterStreamConsumer": _ACCOUNT,
    "RemoveTagsFromStream": _ACCOUNT,
    "SplitShard": _ACCOUNT,
    "UpdateAccountSettings": _ACCOUNT,
    "UpdateChannel": _ACCOUNT,
    # Its page says "over 10 TPS" without saying of whom.
    "UpdateShardCount": Rate(UPDATE_SHARD_COUNT_CALLS_PER_SECOND, Scope.ACCOUNT),
    "UpdateStreamWarmThroughput": _ACCOUNT,
}
