"""What the comparison with boto3 sees: a test that cannot fail says nothing."""

import copy
from typing import Any

import pytest

from tests.integration.wire_support import assert_alike

ANSWER: dict[str, Any] = {
    "Records": [{"SequenceNumber": "1", "ShardId": "s"}],
    "NextShardIterator": "i",
    "NextToken": "t",
    "ResponseMetadata": {
        "RequestId": "r",
        "HTTPHeaders": {"x-amzn-requestid": "r", "content-length": "1"},
    },
}


def test_what_changes_from_call_to_call_is_alike():
    other = copy.deepcopy(ANSWER)
    other |= {"NextShardIterator": "j", "NextToken": "u"}
    other["Records"][0]["SequenceNumber"] = "2"
    other["ResponseMetadata"] |= {"RequestId": "s", "HTTPHeaders": {"x-amzn-requestid": "s"}}
    assert_alike(ANSWER, other)


@pytest.mark.parametrize(
    "path",
    [
        ("Records", 0, "SequenceNumber"),
        ("Records", 0, "ShardId"),
        ("NextShardIterator",),
        ("NextToken",),
        ("ResponseMetadata", "RequestId"),
        ("ResponseMetadata", "HTTPHeaders", "x-amzn-requestid"),
    ],
)
def test_what_one_of_them_does_not_say_is_not_alike(path: tuple[Any, ...]):
    other = copy.deepcopy(ANSWER)
    inner: Any = other
    for name in path[:-1]:
        inner = inner[name]
    del inner[path[-1]]
    for pair in ((ANSWER, other), (other, ANSWER)):
        with pytest.raises(AssertionError, match=path[-1]):
            assert_alike(*pair)
