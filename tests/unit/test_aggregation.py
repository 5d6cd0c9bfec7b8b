import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from records import aggregate_body
from records.aggregation import OVERHEAD_BYTES, AggregateBuilder, UserRecord, decode
from records.errors import InvalidPartitionKey
from records.limits import MAX_HASH_KEY, MIB
from records.partition import hash_key
from tests.unit.aggregates import aggregator, built, datas, deaggregator, messages_pb2, some_records


def theirs(blob: bytes, *, data_format: str = "Boto3"):
    raw = {
        "SequenceNumber": "1",
        "PartitionKey": "outer",
        "ApproximateArrivalTimestamp": 0,
        "Data": blob,
    }
    return [
        each["kinesis"]
        for each in deaggregator.iter_deaggregate_records([raw], data_format=data_format)
    ]


# What the KPL itself wrote, known by length and SHA-256.
KPL_VECTORS = [
    (
        [
            (
                "fc03dd88-3e79-448a-b01a-7cf1bd47b784",
                b"RECORD 22 peeobhczbzdmskboupgyq\n",
                38486495867508399078159723846051807020,
            ),
            (
                "cae41b1c-ea61-43f2-90be-b8755ebf88e2",
                b"RECORD 23 uswkxftxroeusscxsjhno\n",
                193787600037681706952143357071916352604,
            ),
            (
                "d490690c-e74d-4db2-a3c8-d8f2f184fd23",
                b"RECORD 24 casehdgivfaxeustlyszy\n",
                266880436964932424265466916734068684439,
            ),
            (
                "c924bc09-b85e-47f1-b32e-336522ee53c8",
                b"RECORD 25 nvffvpmuogdopjhamevrk\n",
                339606600942967391854603552402021847292,
            ),
        ],
        495,
        "63fa50b2eee27ca260bad2df68958a36ce2039ec2a19b1978526bf9e96647d2c",
    ),
    (
        [
            (
                "1562602074896",
                b"RECORD %d pjqrcfbxafzdndzmbgane" % number,
                339606600942967391854603552402021847292,
            )
            for number in range(2005, 2009)
        ],
        240,
        "085e3deaf00816034b7b12b3fd0967c876702beec92d11492fecab3c9fd554d3",
    ),
]


@pytest.mark.parametrize(("records", "size", "sha256"), KPL_VECTORS)
def test_the_bytes_are_those_of_the_kpl(
    records: list[tuple[str, bytes, int | None]], size: int, sha256: str
):
    blob = built(records)
    assert len(blob) == size
    assert hashlib.sha256(blob).hexdigest() == sha256
    assert decode(blob) == [UserRecord(*each, place) for place, each in enumerate(records)]


@given(some_records)
@settings(max_examples=200)
def test_what_is_packed_comes_out_and_both_readers_agree(
    records: list[tuple[str, bytes, int | None]],
):
    blob = built(records)
    wanted = [UserRecord(*each, place) for place, each in enumerate(records)]
    assert decode(blob) == (wanted if records else None)
    end = len(blob) - 16
    message = aggregate_body.read_any(blob, 4, end, 100)
    patient = [
        (message.keys[k], data, None if h is None else message.hash_keys[h])
        for k, h, data in message.records
    ]
    assert patient == records
    if not any(len(data) >= 16_300 for _, data, _ in records):
        fast = aggregate_body.read_canonical(blob, 4, end, 100)
        assert fast is not None, "the fast reader should have taken this"
        assert list(zip(*fast, strict=False)) == records


@given(
    st.lists(
        st.tuples(
            st.integers(1, 140),  # so many records in a row
            st.sampled_from([0, 1, 100, 124, 1024]),  # of so much data
            st.sampled_from([1, 16]),  # with keys of so many characters
            st.booleans(),  # each its own
        ),
        max_size=6,
    )
)
@settings(max_examples=60, deadline=None)
def test_rows_of_records_of_one_size(rows: list[tuple[int, int, int, bool]]):
    records = []
    for count, size, width, unique in rows:
        for i in range(count):
            name = chr(0x100 + i) if width == 1 else f"{i + len(records) if unique else i % 3:016}"
            records.append((name, bytes([i % 251]) * size, None))
    blob = built(records)
    assert [each[:3] for each in decode(blob) or []] == records
    assert [each.sub_sequence_number for each in decode(blob) or []] == list(range(len(records)))


@given(some_records, st.integers(20, 2000))
@settings(max_examples=200)
def test_the_size_is_exact_at_every_step_and_a_refusal_changes_nothing(
    records: list[tuple[str, bytes, int | None]], max_bytes: int
):
    builder = AggregateBuilder(max_bytes=max_bytes)
    unbounded = AggregateBuilder(max_bytes=10 * MIB)
    kept = []
    for each in records:
        before = builder.build()
        if builder.try_add(*each):
            kept.append(each)
            assert unbounded.try_add(*each)
        else:
            assert builder.build() == before
            probe = AggregateBuilder(max_bytes=10 * MIB)
            for other in (*kept, each):
                assert probe.try_add(*other)
            assert probe.size > max_bytes, "it would have fitted"
        assert builder.size == len(builder.build()) <= max_bytes
        assert len(builder) == len(kept)
        assert builder.build() == unbounded.build()
    builder.clear()
    assert (builder.size, len(builder)) == (OVERHEAD_BYTES, 0)


@pytest.mark.parametrize(
    ("size", "overhead"),
    [(0, 6), (123, 6), (124, 7), (127, 7), (128, 8), (16_378, 8), (16_379, 9), (16_383, 9),
     (16_384, 10), (51_200, 10)],
)  # fmt: skip
@pytest.mark.parametrize(("explicit", "more"), [(None, 0), (5, 2)])
def test_the_overhead_of_a_record(size: int, overhead: int, explicit: int | None, more: int):
    builder = AggregateBuilder(max_bytes=MIB)
    assert builder.try_add("k", b"", explicit)
    before = builder.size
    assert builder.try_add("k", bytes(size), explicit)
    grown = builder.size - before - size
    # The index of the explicit hash key may push a length over the edge of a varint as well.
    assert grown in ((overhead,) if explicit is None else (overhead + more, overhead + more + 1))
    assert builder.size == len(builder.build())


def test_a_record_fits_to_the_last_byte():
    exact = len(built([("key", bytes(1000), None)]))
    assert AggregateBuilder(max_bytes=exact).try_add("key", bytes(1000))
    assert not AggregateBuilder(max_bytes=exact - 1).try_add("key", bytes(1000))
    assert not AggregateBuilder(max_bytes=exact).try_add("key", bytes(1000), 7)


def test_more_keys_than_the_prepared_headers():
    records = [(f"{i}", b"x", None) for i in range(2100)]
    assert [each[:3] for each in decode(built(records)) or []] == records


def test_keys_that_cannot_be_packed():
    builder = AggregateBuilder(max_bytes=1000)
    for key, explicit in (("\ud800", None), ("k", -1), ("k", MAX_HASH_KEY + 1)):
        with pytest.raises(InvalidPartitionKey):
            builder.try_add(key, b"", explicit)
    assert (builder.size, len(builder)) == (OVERHEAD_BYTES, 0)


def test_a_user_record_hashes_to_its_explicit_key_or_its_md5():
    assert UserRecord("k", b"").hash_key == hash_key("k")
    assert UserRecord("k", b"", 0).hash_key == 0


# The library of AWS, where it has no defect of its own.

their_keys = st.text(st.characters(codec="ascii"), min_size=1, max_size=200)


@given(st.lists(st.tuples(their_keys, datas), min_size=1, max_size=12))
@settings(max_examples=100)
def test_aws_kinesis_agg_writes_and_reads_the_same(records: list[tuple[str, bytes, int | None]]):
    record = aggregator.AggRecord(MIB)
    for key, data in records:
        assert record.add_user_record(key, data)
    blob = built([(key, data, None) for key, data in records])
    assert record.get_contents()[2] == blob
    assert record.get_size_bytes() >= len(blob)  # it counts a key that is there already again
    decoded = theirs(blob)
    assert [each["partitionKey"] for each in decoded] == [key for key, _ in records]
    assert [deaggregator.base64.b64decode(each["data"]) for each in decoded] == [
        data for _, data in records
    ]
    assert [each["subSequenceNumber"] for each in decoded] == list(range(len(records)))


@given(st.lists(st.tuples(their_keys, datas, st.integers(0, MAX_HASH_KEY)), min_size=1, max_size=8))
@settings(max_examples=100)
def test_aws_kinesis_agg_agrees_on_explicit_hash_keys(records: list[tuple[str, bytes, int | None]]):
    record = aggregator.AggRecord(MIB)
    for key, data, explicit in records:
        assert record.add_user_record(key, data, str(explicit))
    blob = built(records)
    assert record.get_contents()[2] == blob
    assert [int(each["explicitHashKey"]) for each in theirs(blob)] == [h for _, _, h in records]


@given(some_records.filter(bool))
@settings(max_examples=100)
def test_the_protobuf_runtime_reads_and_writes_the_same(
    records: list[tuple[str, bytes, int | None]],
):
    blob = built(records)
    message = messages_pb2.AggregatedRecord()
    message.ParseFromString(blob[4:-16])
    assert message.SerializeToString() == blob[4:-16]
