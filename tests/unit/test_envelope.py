import json
import os
import random
import uuid
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from records.aggregation import AggregateBuilder, needs_wrapping
from records.envelope import (
    FRAME_OVERHEAD,
    Envelope,
    derived_record_id,
    new_record_id,
    open_envelope,
    seal,
)
from records.errors import EnvelopeError

uuids = st.uuids().map(str)
record_ids = uuids | st.from_regex(r"[!-~]{1,128}", fullmatch=True)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
json_objects = st.dictionaries(
    st.text(max_size=8).filter(lambda name: name != "record_id"), json_values, max_size=4
)
ID = "01a20f5c-f766-7c8a-8ea7-c818562c3349"
OTHER = "01a20f5c-f766-7c8a-8ea7-c818562c3340"


@given(st.binary(max_size=200), record_ids)
@settings(max_examples=200)
def test_any_bytes_come_back(payload: bytes, record_id: str):
    opened = open_envelope(seal(payload, record_id))
    assert opened.record_id == record_id
    if opened.form == "frame":
        assert opened.payload == payload
    else:
        assert json.loads(opened.payload) == {**json.loads(payload), "record_id": record_id}


@given(json_objects, record_ids, st.sampled_from([None, 2]), st.sampled_from(["", " ", "\r\n\t"]))
@settings(max_examples=200)
def test_a_json_object_stays_one_and_gains_the_field(
    fields: dict[str, Any], record_id: str, indent: int | None, around: str
):
    payload = f"{around}{json.dumps(fields, indent=indent)}{around}".encode()
    sealed = seal(payload, record_id)
    assert json.loads(sealed) == {**fields, "record_id": record_id}
    assert open_envelope(sealed) == Envelope(record_id, sealed, "json")
    assert seal(sealed, record_id) == sealed


def test_all_but_the_field_is_kept_to_the_letter():
    payload = b'{ "b":1.50e3, "a" : [1,  2], "b":12345678901234567890123 }\n'
    assert seal(payload, ID) == b'{"record_id":"' + ID.encode() + b'",' + payload[1:]
    assert seal(b" { } ", ID) == b' {"record_id":"' + ID.encode() + b'" } '


def test_quotes_in_an_id_are_escaped():
    assert open_envelope(seal(b"{}", 'a"\\b')).record_id == 'a"\\b'


@pytest.mark.parametrize(
    "value", [f'"{OTHER}"', "7", "null", "[]", f'"{ID}","record_id":"{OTHER}"']
)
def test_another_id_is_a_conflict(value: Any):
    with pytest.raises(EnvelopeError) as refused:
        seal(b'{"record_id":' + value.encode() + b"}", ID)
    assert not refused.value.retriable


@pytest.mark.parametrize("record_id", ["", "a b", "é", "x" * 129, "a\n", "\x00"])
def test_an_id_that_cannot_travel(record_id: str):
    for payload in (b"{}", b"\x00"):
        with pytest.raises(EnvelopeError):
            seal(payload, record_id)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[1]",
        b'"text"',
        b"{",
        b'{"a":1}{"b":2}',
        b'{"a":NaN}',
        b"\xef\xbb\xbf{}",
        "{}".encode("utf-16"),
        b'{"a":"\xff"}',
        b'{"a":' * 100_000,
        b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
)
def test_what_is_no_json_object_is_framed(payload: bytes):
    sealed = seal(payload, ID)
    assert len(sealed) == len(payload) + FRAME_OVERHEAD
    assert open_envelope(sealed) == Envelope(ID, payload, "frame")


def test_a_number_of_any_length_is_still_json():
    payload = b'{"a":' + b"7" * 10_000 + b"}"
    assert open_envelope(seal(payload, ID)).form == "json"


@given(st.binary(max_size=50), record_ids, record_ids)
@settings(max_examples=100)
def test_frames_nest(payload: bytes, inner: str, outer: str):
    once = seal(b"\x00" + payload, inner)
    twice = seal(once, outer)
    assert open_envelope(twice) == Envelope(outer, once, "frame")
    assert open_envelope(open_envelope(twice).payload).record_id == inner


@given(st.binary(max_size=60), uuids, st.data())
@settings(max_examples=200)
def test_a_frame_with_one_bit_wrong_is_bare(payload: bytes, record_id: str, data: Any):
    sealed = bytearray(seal(b"\x00" + payload, record_id))
    sealed[data.draw(st.integers(0, len(sealed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    assert open_envelope(bytes(sealed)) == Envelope(None, bytes(sealed), "bare")


@given(st.binary(max_size=40), st.data())
@settings(max_examples=100)
def test_a_cut_frame_is_bare(payload: bytes, data: Any):
    sealed = seal(b"\x00" + payload, ID)
    cut = sealed[: data.draw(st.integers(0, len(sealed) - 1))]
    assert open_envelope(cut).form == "bare"


def test_a_frame_has_one_form_only():
    """A UUID spelled out says the same as its 16 bytes: only the latter is a frame."""
    for record_id, form in ((ID, "bare"), (ID[:-1], "frame")):
        rest = bytes([1, len(record_id)]) + record_id.encode() + b"payload"
        data = b"\xf7RI\xc4" + rest[:2] + zlib.crc32(rest).to_bytes(4, "big") + rest[2:]
        assert open_envelope(data).form == form


def test_random_bytes_behind_the_magic_are_not_a_frame():
    rng = random.Random(7)
    for _ in range(2000):
        data = b"\xf7RI\xc4\x01" + bytes([rng.randrange(40)]) + rng.randbytes(60)
        assert open_envelope(data) == Envelope(None, data, "bare")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"plain",
        b"{}",
        b'{"record_id":7}',
        b'{"record_id":""}',
        b'{"record_id":"a b"}',
        b'{"a":{"record_id":"inner"}}',
        b'[["record_id","x"]]',
        b'{"record_id":"x","record_id":"y"}',
        b'{"record_id":"x"',
    ],
)
def test_what_has_no_id_is_bare(data: Any):
    assert open_envelope(data) == Envelope(None, data, "bare")


def test_an_escaped_field_name_is_the_same_field():
    assert open_envelope(b'{"\\u0072ecord_id":"x"}').record_id == "x"


def test_what_is_sealed_is_never_taken_for_an_aggregate():
    builder = AggregateBuilder(max_bytes=1000)
    builder.try_add("k", b"v")
    assert needs_wrapping(builder.build())
    assert not needs_wrapping(seal(builder.build(), ID))


def test_a_new_id_is_a_uuid_of_version_7_that_sorts_by_time():
    made = [new_record_id(clock=lambda now=now: now, rng=random.Random(1)) for now in (5.0, 5.002)]
    assert made == sorted(made)
    parsed = uuid.UUID(made[1])
    assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
    assert parsed.int >> 80 == 5002
    assert str(parsed) == made[1]


def test_the_random_bits_fill_their_places():
    class Ones:
        def getrandbits(self, count: int) -> int:
            return 2**count - 1

    assert new_record_id(clock=lambda: 0.0, rng=Ones()) == "00000000-0000-7fff-bfff-ffffffffffff"


def test_ids_of_one_moment_differ():
    assert len({new_record_id(clock=lambda: 1.0) for _ in range(1000)}) == 1000


def test_a_derived_id_is_the_same_again():
    assert derived_record_id("file.jsonl", "0") == "1c1dd974-30f5-52ff-8030-205f2f97ff71"


@given(st.text(st.characters(exclude_categories=["Cs"])), st.text(max_size=5))
@settings(max_examples=100)
def test_a_derived_id_is_a_uuid_of_version_5_of_both(source: str, position: str):
    namespace = uuid.UUID("7f1d3a52-90c4-5d0e-8b6a-52494b494e53")
    wanted = uuid.uuid5(namespace, f"{len(source)}:{source}{position}")
    assert derived_record_id(source, position) == str(wanted)


def test_a_file_name_that_is_not_utf_8_has_a_derived_id_of_its_own():
    names = [os.fsdecode(name) for name in (b"caf\xe9", b"caf\xc3\xa9", b"caf\xe8")]
    # What no file name decodes to: escapes that together would be the second of them.
    names += ["caf\udcc3\udca9", "\ud800"]
    made = [derived_record_id(name, "0") for name in names]
    assert len(set(made)) == len(names)
    assert made == [derived_record_id(name, "0") for name in names]


def test_derived_ids_of_different_places_differ():
    places = [("a", "bc"), ("ab", "c"), ("", "abc"), ("abc", ""), ("1:a", "b"), ("1", ":ab")]
    assert len({derived_record_id(*place) for place in places}) == len(places)
