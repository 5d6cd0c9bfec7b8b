"""What to do about a failure: send again, find the culprit, or give up at once."""

from enum import Enum
from typing import Final

from producers.put_records import Failure


class Remedy(Enum):
    """What may help against a failure."""

    RETRY = "send again after a while"
    SPLIT = "one record may spoil the request for all: send them in smaller ones"
    NONE = "nothing: it would fail again"


# The shard, or the account, takes no more at the moment.
THROTTLES: Final = frozenset(
    {
        "ProvisionedThroughputExceededException",
        "LimitExceededException",
        "ThrottlingException",
        "KMSThrottlingException",
    }
)
# Kinesis refuses a whole request for one record that it does not like, and does not say which; so
# does the SDK, for one that it cannot write.
_MAY_BE_ONE_RECORD: Final = frozenset(
    {
        "InvalidArgumentException",
        "ValidationException",
        "SerializationException",
        "RequestEntityTooLargeException",
        "ParamValidationError",
        "UnicodeEncodeError",
    }
)
NO_SUCH_STREAM: Final = "ResourceNotFoundException"
WRONG_SHARD: Final = Failure(
    "WrongShard", "it was stored on a shard that does not cover all of it", retriable=True
)


def remedy_of_request(failure: Failure) -> Remedy:
    """Return what may help after a whole request has failed."""
    if failure.code in _MAY_BE_ONE_RECORD:
        return Remedy.SPLIT
    return Remedy.RETRY if failure.retriable else Remedy.NONE
