from typing import Any

import botocore.session
import pytest

from records import limits
from records.errors import InvalidPartitionKey, RecordError, RecordsError, RecordTooLarge
from records.limits import MAX_HASH_KEY, MIB, check_record, record_bytes


@pytest.mark.parametrize(
    ("limit", "regime"),
    [
        (limits.MAX_RECORD_BYTES, {}),
        (10 * MIB, {"max_record_bytes": limits.MAX_LARGE_RECORD_BYTES}),
    ],
)
def test_the_last_byte_that_fits_and_the_first_that_does_not(limit: int, regime: dict[str, int]):
    key = "déjà"  # six bytes
    check_record(key, bytes(limit - 6), **regime)
    with pytest.raises(RecordTooLarge) as refused:
        check_record(key, bytes(limit - 5), **regime)
    assert (refused.value.size, refused.value.limit) == (limit + 1, limit)
    assert not refused.value.retriable


def test_a_large_record_needs_a_stream_that_takes_it():
    with pytest.raises(RecordTooLarge):
        check_record("k", bytes(2 * MIB))
    check_record("k", bytes(2 * MIB), max_record_bytes=limits.MAX_LARGE_RECORD_BYTES)


def test_the_key_is_counted_in_bytes_but_limited_in_characters():
    key = "\N{SNOWMAN}" * 256
    assert record_bytes(key, b"12") == 770
    check_record(key, b"")
    with pytest.raises(InvalidPartitionKey):
        check_record(key + "x", b"")


@pytest.mark.parametrize("key", ["", "k" * 257, "\ud800"])
def test_a_key_that_kinesis_refuses(key: Any):
    with pytest.raises(InvalidPartitionKey) as refused:
        check_record(key, b"data")
    assert isinstance(refused.value, RecordError)
    assert isinstance(refused.value, RecordsError)
    assert isinstance(refused.value, ValueError)


def test_explicit_hash_keys_end_with_the_hash_space():
    check_record("k", b"", 0)
    check_record("k", b"", MAX_HASH_KEY)
    for outside in (-1, MAX_HASH_KEY + 1):
        with pytest.raises(InvalidPartitionKey):
            check_record("k", b"", outside)


def test_an_aggregate_of_the_kpl_is_two_payload_units():
    assert limits.KPL_AGGREGATE_BYTES == 2 * limits.PUT_PAYLOAD_UNIT_BYTES


def test_the_limits_are_those_of_the_service_model():
    """botocore carries the API's own description; where it states a limit, ours is the same."""
    model = botocore.session.get_session().get_service_model("kinesis")
    put = model.operation_model("PutRecords").input_shape.members["Records"]
    assert put.metadata["max"] == limits.MAX_RECORDS_PER_PUT
    entry = put.member.members
    assert entry["PartitionKey"].metadata["max"] == limits.MAX_PARTITION_KEY_CHARS
    assert entry["Data"].metadata["max"] == limits.MAX_LARGE_RECORD_BYTES
    get = model.operation_model("GetRecords").input_shape.members["Limit"]
    assert get.metadata["max"] == limits.MAX_RECORDS_PER_GET
    listed = model.operation_model("ListShards").input_shape.members["MaxResults"]
    assert listed.metadata["max"] == limits.MAX_SHARDS_PER_LIST
