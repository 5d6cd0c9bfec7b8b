"""What a reader must do with what others write."""

import hashlib
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from records import aggregate_body
from records.aggregation import (
    MAGIC,
    MAX_USER_RECORDS,
    AggregateBuilder,
    UserRecord,
    decode,
    is_aggregate,
    needs_wrapping,
)
from records.errors import AggregateError
from records.limits import MIB
from records.partition import hash_key
from records.protobuf import WireError
from tests.unit.aggregates import TWO_KEYS, built, field, messages_pb2, record, sealed, some_records


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        b"plain",
        MAGIC,
        MAGIC + b"looks like it, but is not by its checksum",
        MAGIC + hashlib.md5(b"").digest(),  # 20 bytes: nothing in it
        built([("k", b"v", None)])[:-1] + b"\0",
        b"\xf3\x89\x9a\xc3" + built([("k", b"v", None)])[4:],
    ],
)
def test_plain_records(blob: bytes):
    assert not is_aggregate(blob)
    assert not needs_wrapping(blob)
    assert decode(blob) is None


@pytest.mark.parametrize(
    "body",
    [
        b"\x0a",  # a field without a value
        b"\x0a\x05abc",  # longer than there is
        b"\x00\x00",  # field number 0
        b"\x0f",  # wire type 7
        b"\x0c",  # the end of a group that never began
        b"\x0b\x08\x01",  # a group without an end
        b"\x0b" * 200 + b"\x0c" * 200,  # groups without a bottom
        b"\x0b\x14",  # a group with another's end
        b"\xff" * 11,  # a varint without an end
        b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",  # of eleven bytes
        b"\xff\xff\xff\xff\x7f\x01",  # a tag of more than 32 bits
        field(1, b"\xff"),  # a key that is not UTF-8
        field(1, b"k") + field(3, b"\x08\x00"),  # no data
        field(1, b"k") + field(3, b"\x1a\x01d"),  # no index, as proto3 writes index 0
        field(1, b"k") + field(3, b""),
        field(1, b"k") + record((1, b"index as bytes"), (3, b"d")),
        field(1, b"k") + record((1, 0), (3, 7)),  # data as a number
        field(1, b"k") + field(3, b"\x08\x00\x1a\x05d"),  # data beyond its record
        field(1, b"k") + record((1, 0), (3, b"d")) + b"\x1a",
    ],
)
def test_a_genuine_checksum_over_something_else_is_a_plain_record(body: bytes):
    assert is_aggregate(sealed(body))
    assert decode(sealed(body)) is None
    assert decode(sealed(body), strict=False) is None


@pytest.mark.parametrize(
    "body",
    [
        record((1, 1), (3, b"d")) + TWO_KEYS,  # records before their table
        field(1, b"first") + record((1, 1), (3, b"d")) + field(1, b"second"),
        TWO_KEYS + record((3, b"d"), (1, 1)),  # data before the index
        TWO_KEYS + record((1, 0), (3, b"x"), (1, 1), (3, b"d")),  # the last one counts
        TWO_KEYS + record((1, 1), (3, b"d"), (4, field(1, b"tag") + field(2, b"value"))),
        TWO_KEYS + record((1, 1), (15, 3), (3, b"d"), (16, b"unknown")),
        field(9, b"unknown") + field(10, 300) + TWO_KEYS + record((1, 1), (3, b"d")),
        b"\x59" + bytes(8) + b"\x5d" + bytes(4) + TWO_KEYS + record((1, 1), (3, b"d")),
        b"\x5b\x08\x01\x63\x12\x01x\x64\x5c" + TWO_KEYS + record((1, 1), (3, b"d")),  # groups
        TWO_KEYS + record((1, 1), (3, b"d")) + field(4, 5),
        field(1, 5) + TWO_KEYS + record((1, 1), (3, b"d")),  # field 1 of another type
        TWO_KEYS + field(3, b"\x08\x81\x00\x1a\x81\x80\x00d"),  # numbers longer than they need be
        TWO_KEYS + b"\x1a\x85\x80\x00" + b"\x08\x01\x1a\x01d",
        TWO_KEYS + b"\x1a\x85\x00" + b"\x08\x01\x1a\x01d",
    ],
)
def test_whatever_protobuf_allows(body: bytes):
    assert decode(sealed(body)) == [UserRecord("second", b"d", None, 0)]
    message = messages_pb2.AggregatedRecord()
    message.ParseFromString(body)  # the protobuf runtime is of the same opinion
    (only,) = message.records
    assert message.partition_key_table[only.partition_key_index] == "second"
    assert only.data == b"d"


def test_no_records_is_not_a_plain_record():
    assert decode(sealed(TWO_KEYS)) == []
    assert decode(sealed(field(9, b"unknown"))) == []


def test_the_table_of_hash_keys_alone_gives_a_record_none():
    body = field(1, b"k") + field(2, b"5") + record((1, 0), (3, b"plain"))
    body += record((1, 0), (2, 0), (3, b"explicit"))
    assert decode(sealed(body)) == [
        UserRecord("k", b"plain", None, 0),
        UserRecord("k", b"explicit", 5, 1),
    ]


def test_the_detour_of_proto3_writers():
    """Some cannot write an index of 0, and so leave the first entry of the table unused."""
    body = field(1, b"a") + field(1, b"real") + record((1, 1), (3, b"d"))
    assert decode(sealed(body)) == [UserRecord("real", b"d", None, 0)]


@pytest.mark.parametrize(
    "entry",
    [
        b"undefined",
        b"",
        b"-1",
        b"+5",
        b"1.0",
        b" 5",
        "\N{ARABIC-INDIC DIGIT FIVE}".encode(),
        str(2**128).encode(),
        b"1" * 5000,
    ],
)
def test_an_explicit_hash_key_that_is_no_number_loses_no_record(entry: bytes):
    body = field(1, b"k") + field(2, entry) + record((1, 0), (2, 0), (3, b"d"))
    body += record((1, 0), (3, b"e"))
    decoded = decode(sealed(body))
    assert decoded == [UserRecord("k", b"d", None, 0), UserRecord("k", b"e", None, 1)]
    assert decoded[0].hash_key == hash_key("k")


@pytest.mark.parametrize(
    "fault",
    [
        record((1, 2), (3, b"x")),
        record((1, 0), (2, 1), (3, b"x")),
        record((1, 2**64 - 1), (3, b"")),
    ],
)
def test_an_index_outside_its_table(fault: bytes):
    good = record((1, 0), (3, b"1")) + record((1, 1), (2, 0), (3, b"2"))
    blob = sealed(TWO_KEYS + field(2, b"9") + good + fault + record((1, 0), (3, b"after")))
    before = [UserRecord("first", b"1", None, 0), UserRecord("second", b"2", 9, 1)]
    with pytest.raises(AggregateError, match="record 2 of 4") as refused:
        decode(blob)
    assert list(refused.value.decoded) == before
    assert refused.value.blob == blob
    assert not refused.value.too_many
    assert decode(blob, strict=False) == before


def test_an_aggregate_in_an_aggregate_stays_packed():
    inner = built([("inner", b"data", None)])
    assert needs_wrapping(inner)
    assert decode(built([("outer", inner, None)])) == [UserRecord("outer", inner, None, 0)]


MANY = record((1, 0), (3, b"")) * (MAX_USER_RECORDS + 1)


@pytest.mark.parametrize(
    "body", [field(1, b"k") + MANY, MANY + field(1, b"k")], ids=["usual", "odd"]
)
def test_amplification_is_bounded(body: bytes):
    blob = sealed(body)
    for strict in (True, False):
        with pytest.raises(AggregateError, match="more than") as refused:
            decode(blob, strict=strict)
        assert refused.value.too_many
        assert refused.value.decoded == ()
        assert refused.value.blob == blob
    assert len(decode(blob, max_records=MAX_USER_RECORDS + 1) or ()) == MAX_USER_RECORDS + 1


KEYS = b"".join(field(1, b"%04d" % number) for number in range(10_000))
HASH_KEYS = b"".join(field(2, b"%d" % number) for number in range(10_000))


@pytest.mark.parametrize(
    "body",
    [
        field(1, b"k") + record((1, 0), (3, b"12345678")) * 20_000,
        field(1, b"k") + (record((1, 0), (3, b"12345678")) + record((1, 0), (3, b"1"))) * 10_000,
        field(1, b"k") + record((1, 0), (3, b"12345678")) * 20_000 + field(9, b"unknown"),
        record((1, 0), (3, b"12345678")) * 20_000 + field(1, b"k"),
        KEYS + record((1, 0), (3, b"d")),
        KEYS + HASH_KEYS + record((1, 0), (2, 0), (3, b"d")),
        field(1, b"k") + HASH_KEYS,
        field(1, b"k") + record((1, 0), (3, b"d")) + KEYS,
    ],
)
def test_what_is_beyond_the_bound_is_not_even_read(body: bytes):
    blob = sealed(body)
    tracemalloc.start()
    try:
        with pytest.raises(AggregateError) as refused:
            decode(blob, max_records=10)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert refused.value.too_many
    assert peak < len(blob) / 4


@pytest.mark.parametrize("size", [0, 5])
@pytest.mark.parametrize("how_many", [0, 1, 2, 9, 300])
@pytest.mark.parametrize("alike", [True, False])
def test_the_bound_is_the_last_that_passes(how_many: int, size: int, alike: bool):  # noqa: FBT001
    records: list[tuple[str, bytes, int | None]] = [
        (f"{number:03}", b"d" * (size if alike else size + number % 2), number)
        for number in range(how_many)
    ]
    for each in (records, [(key, data, None) for key, data, _ in records]):
        blob = built(each) if each else sealed(field(9, b"unknown"))
        assert len(decode(blob, max_records=how_many) or ()) == how_many
        if each:
            with pytest.raises(AggregateError):
                decode(blob, max_records=how_many - 1)


def test_any_aggregate_of_one_mebibyte_passes_the_bound():
    builder = AggregateBuilder(max_bytes=MIB)
    while builder.try_add("k", b""):
        pass
    assert len(builder) <= MAX_USER_RECORDS
    assert len(decode(builder.build()) or ()) == len(builder)


@given(some_records.filter(bool), st.data())
@settings(max_examples=200)
def test_damage_under_a_genuine_checksum_never_surprises(
    records: list[tuple[str, bytes, int | None]], data: Any
):
    body = bytearray(built(records)[4:-16])
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, max(0, len(body) - 1)))
        kind = data.draw(st.sampled_from(["flip", "cut", "insert", "repeat"]))
        if kind == "flip" and body:
            body[place] ^= data.draw(st.integers(1, 255))
        elif kind == "cut":
            del body[place : place + data.draw(st.integers(1, 9))]
        elif kind == "insert":
            body[place:place] = data.draw(st.binary(min_size=1, max_size=9))
        else:
            body[place:place] = body[place : place + 20]
    compare_readers(bytes(body))


@given(st.lists(st.sampled_from([8, 16, 10, 18, 26, 0, 1, 2, 3, 4, 5, 6, 0x7F, 0x80, 0x85, 0xFF])))
@settings(max_examples=200)
def test_bytes_that_look_like_a_message(body: bytes):
    compare_readers(bytes(body) * 3)


def attempt(blob: bytes, *, strict: bool):
    """Decode; in place of an error give what it carries, and whether it was one too many."""
    try:
        return decode(blob, strict=strict, max_records=50), False
    except AggregateError as refused:
        return list(refused.decoded), refused.too_many


def compare_readers(body: bytes):
    """Hold the fast reader against the patient one, and the latter against the runtime."""
    blob = sealed(body)
    lenient, too_many = attempt(blob, strict=False)
    assert attempt(blob, strict=True) == (lenient, too_many)
    if too_many:
        assert lenient == []
        return
    if not body:
        assert lenient is None
        return
    try:
        message = aggregate_body.read_any(blob, 4, len(blob) - 16, 50)
    except WireError:
        assert lenient is None
        assert aggregate_body.read_canonical(blob, 4, len(blob) - 16, 50) is None
        return
    patient = []
    for key_index, hash_key_index, data in message.records:
        if key_index >= len(message.keys):
            break
        if hash_key_index is not None and hash_key_index >= len(message.hash_keys):
            break
        explicit = None if hash_key_index is None else message.hash_keys[hash_key_index]
        patient.append(UserRecord(message.keys[key_index], data, explicit, len(patient)))
    assert lenient == patient
    runtime = messages_pb2.AggregatedRecord()
    try:
        runtime.ParseFromString(body)
    except Exception:  # noqa: BLE001 - it reads tags as well, and may find fault with those
        return
    assert [each.data for each in runtime.records] == [data for _, _, data in message.records]
    assert list(runtime.partition_key_table) == message.keys


def test_headers_that_are_nearly_alike():
    """The fast reader takes rows of records at once; a row must end where a header differs."""
    rows = b"".join(record((1, i % 2), (3, b"%03d" % i)) for i in range(8))
    odd = [
        record((1, 0), (3, b"abc")),
        field(3, b"\x08\x00\x1a\x02ab\x20"),  # of the same length, and broken
        field(3, b"\x1a\x03abc\x08\x00"),  # of the same length, in another order
        field(3, b"\x08\x80\x00\x1a\x02ab"),  # of the same length, with a longer index
        field(3, b"\x08\x05\x1a\x03abc"),  # of the same length, outside the table
    ]
    for body in [TWO_KEYS + rows + each + rows for each in odd]:
        compare_readers(body)
        compare_readers(body[:-1])


@pytest.mark.parametrize(
    ("index", "odd"),
    [
        (5, b"\x1a\x06\x08\x00\x1a\x03ab" + b"c"),  # its length is another
        (5, b"\x1a\x07\x10\x00\x1a\x03abc"),  # another field in the place of the index
        (5, b"\x1a\x07\x08\x85\x1a\x03abc"),  # an index that goes on
        (135, b"\x1a\x08\x08\x05\x01\x1a\x03abc"),  # an index that ends too soon
        (135, b"\x1a\x08\x08\x80\x80\x1a\x03abc"),  # an index that goes on
    ],
)
@pytest.mark.parametrize("before", [0, 8])
def test_a_broken_header_among_good_ones(index: int, odd: bytes, before: int):
    """Each key the fast reader could pick by mistake is there."""
    table = b"".join(field(1, b"%d" % i) for i in range(16_500))
    good = record((1, index), (3, b"xyz"))
    assert len(odd) == len(good)
    blob = sealed(table + good * before + odd + good)
    assert decode(blob) is None


@pytest.mark.timeout(60)
def test_many_short_rows_are_read_in_time():
    """A reader that looked ahead to the end at each row would run into the timeout."""
    row = record((1, 0), (3, b"")) * 6 + record((1, 0), (3, b"1")) * 6
    blob = sealed(field(1, b"k") + row * (6 * MIB // len(row)))
    assert decode(blob, max_records=2 * MIB) is not None


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "entry", [record((1, 0), (3, b"")), field(1, b""), b"\x0b\x0c", b"\x58\x01"]
)
@pytest.mark.parametrize("odd", [b"", field(1, b"x"), record((1, 0), (3, b"longer"))])
def test_a_mebibyte_of_trifles_is_read_in_time(entry: bytes, odd: bytes):
    """A reader that were quadratic would run into the timeout."""
    body = field(1, b"k") + (entry * 5 + odd) * (MIB // (5 * len(entry) + len(odd)))
    decode(sealed(body[:MIB]), strict=False, max_records=MIB)
