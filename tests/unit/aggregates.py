"""Aggregates for tests: packed by our builder, written field by field, or made of chance."""

import hashlib
import importlib
from typing import Any

from hypothesis import strategies as st

from records.aggregation import MAGIC, AggregateBuilder
from records.limits import MAX_HASH_KEY, MIB
from records.protobuf import encode_varint

deaggregator = importlib.import_module("aws_kinesis_agg.deaggregator")  # puts the next two on path
aggregator = importlib.import_module("aws_kinesis_agg.aggregator")
messages_pb2 = importlib.import_module("aws_kinesis_agg.messages_pb2")

keys = st.sampled_from(["a", "device-1", "device-2"]) | st.text(
    st.characters(exclude_categories=["Cs"]), max_size=300
)
sizes = st.sampled_from([0, 1, 100, 119, 120, 123, 124, 127, 128, 16_378, 16_379, 16_384])
datas = st.binary(max_size=40) | sizes.map(lambda size: b"d" * size)
hash_keys = st.none() | st.sampled_from([0, 7, MAX_HASH_KEY]) | st.integers(0, MAX_HASH_KEY)
some_records = st.lists(st.tuples(keys, datas, hash_keys), max_size=12)


def built(records: list[tuple[str, bytes, int | None]], max_bytes: int = 10 * MIB) -> bytes:
    """Pack records of key, data and explicit hash key."""
    builder = AggregateBuilder(max_bytes=max_bytes)
    for record in records:
        assert builder.try_add(*record)
    return builder.build()


def sealed(body: bytes) -> bytes:
    """Put magic and checksum around a message."""
    return MAGIC + body + hashlib.md5(body).digest()


def field(number: int, value: Any) -> bytes:
    """One protobuf field: bytes as length-delimited, a number as varint."""
    if isinstance(value, int):
        return encode_varint(number << 3) + encode_varint(value)
    return encode_varint(number << 3 | 2) + encode_varint(len(value)) + value


def record(*fields: tuple[int, bytes | int]) -> bytes:
    """One Record of an AggregatedRecord, of these fields."""
    return field(3, b"".join(field(*each) for each in fields))


TWO_KEYS = field(1, b"first") + field(1, b"second")
