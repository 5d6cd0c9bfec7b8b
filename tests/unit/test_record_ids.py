import itertools
import json
import multiprocessing
import os
import random
import string
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from records import record_ids
from records.envelope import new_record_id, open_envelope, seal
from records.errors import EnvelopeError
from records.record_ids import RecordIds, record_id_text

NOW = 1_700_000_000.25

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
names = st.one_of(st.text(), st.sampled_from(["record_id", "id", "\\u0072ecord_id"]))
identities = st.one_of(values, st.text(string.ascii_letters, min_size=1), st.uuids().map(str))


@st.composite
def json_objects(draw: st.DrawFn) -> bytes:
    """Objects as people write them, some with an ID of their own, some not quite JSON."""
    fields = draw(st.dictionaries(names, values, max_size=4))
    if draw(st.booleans()):
        fields["record_id"] = draw(identities)
    text = json.dumps(
        fields, ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from([None, 1]))
    )
    if draw(st.booleans()):
        text = text.replace(
            "record_id", draw(st.sampled_from(["\\u0072ecord_id", "record\\u005fid"]))
        )
    spaces = st.text(" \t\r\n", max_size=2)
    text = draw(spaces) + text + draw(spaces) + draw(st.sampled_from(["", "", "", "}", "x", "\0"]))
    return text.encode("utf-8", "surrogatepass")


payloads = st.one_of(
    st.binary(),
    json_objects(),
    st.binary().map(lambda rest: b"{" + rest),
    st.binary().map(lambda rest: b"\xf7RI\xc4" + rest),
    st.builds(seal, st.binary(), st.uuids().map(str)),
    st.builds(seal, st.binary(), st.text(string.ascii_letters, min_size=1)),
)


@pytest.fixture(autouse=True)
def _no_series_before() -> None:
    record_ids._latest.forget()


def sealer(now: float = NOW) -> RecordIds:
    return RecordIds(lambda: now)


@settings(deadline=None)
@given(payloads)
@example(b"")
@example(b'{"\\u0072ecord_id":"x"}')
@example(b'{"a":{"record_id":"x"}}')
@example(b"{}")
@example(b"{ }")
@example(b'{"a":1}')
@example(b'{"a":1}\0')
@example(b'{"a":NaN}')
@example(b'{"a":' + b"9" * 5000 + b"}")
@example(b'{"a":"\\u0072"}')
@example(b'{"a":"record_id"}')
@example(b'{"a":"\xff"}')
@example(b'\xef\xbb\xbf{"a":1}')
@example(b'{"record_id":1}')
@example(b'{"record_id":"x","record_id":"y"}')
@example(b'{"record_id":"x","record_id":"x"}')
def test_a_payload_is_sealed_as_the_envelope_would(payload: bytes):
    try:
        sealed, identity = sealer().seal(payload)
    except EnvelopeError:
        with pytest.raises(EnvelopeError):
            seal(payload, new_record_id())
        return
    text = record_id_text(identity)
    carried = open_envelope(payload).record_id
    assert open_envelope(sealed).record_id == text
    if carried is None:
        assert isinstance(identity, bytes)
        assert sealed == seal(payload, text)
    else:
        assert identity == carried
        assert sealed == payload


def test_what_is_no_json_goes_into_a_frame_and_what_is_gets_a_field():
    ids = sealer()
    sealed, identity = ids.seal(b"\x00\x01")
    assert open_envelope(sealed).form == "frame"
    assert open_envelope(sealed).payload == b"\x00\x01"
    sealed, identity = ids.seal(b'{"t":21.5}')
    assert sealed == b'{"record_id":"%b","t":21.5}' % record_id_text(identity).encode()


@settings(deadline=None)
@given(st.integers(0, 2**48 - 1))
def test_an_id_is_a_uuid_of_version_7_with_the_millisecond_it_was_made(milliseconds: int):
    record_ids._latest.forget()
    _, identity = sealer((milliseconds + 0.5) / 1000).seal(b"")
    assert isinstance(identity, bytes)
    made = uuid.UUID(bytes=identity)
    assert made.version == 7
    assert made.variant == uuid.RFC_4122
    assert made.int >> 80 == milliseconds
    assert record_id_text(identity) == str(made)
    assert record_id_text(str(made)) == str(made)


def test_the_first_id_of_a_millisecond_is_random_in_all_bits_but_the_one_that_stops_a_carry():
    ids = RecordIds((NOW + number / 1000 for number in itertools.count()).__next__)
    free = [int.from_bytes(ids._mint(), "big") & (2**80 - 1) for _ in range(200)]
    ones = zeros = 0
    for number in free:
        ones |= number
        zeros |= ~number & (2**80 - 1)
    # What was always 1 and what was always 0: version 7, variant 2, and that one bit.
    assert ones & ~zeros == 7 << 76 | 2 << 62
    assert zeros & ~ones == 1 << 79 | 1 << 62 | 1 << 61


def test_ids_of_one_millisecond_sort_in_the_order_in_which_they_were_made():
    ids = sealer()
    made = [record_id_text(ids.seal(b"x")[1]) for _ in range(5000)]
    assert made == sorted(made)
    assert len(set(made)) == 5000


def test_a_million_ids_are_all_different_and_sort_though_the_clock_jumps():
    rng = random.Random(1)
    ids = RecordIds(lambda: rng.choice([NOW, NOW + 0.001, NOW - 0.001]))
    made = [ids._mint() for _ in range(1_000_000)]
    assert len(set(made)) == 1_000_000
    assert made == sorted(made)


@settings(deadline=None)
@given(st.lists(st.integers(0, 10_000), min_size=2))
def test_ids_sort_in_the_order_in_which_they_were_made_while_the_clock_is_10_seconds_off(
    offsets: list[int],
):
    record_ids._latest.forget()
    start = 1_700_000_000_000
    ids = RecordIds((((start + offset) + 0.5) / 1000 for offset in offsets).__next__)
    made = [ids._mint() for _ in offsets]
    assert made == sorted(made)
    latest = list(itertools.accumulate(offsets, max))
    assert [int.from_bytes(each[:6], "big") - start for each in made] == latest


def test_after_a_longer_step_back_ids_go_by_the_clock_again():
    times = [NOW, NOW - 10.001, NOW - 10.001, NOW - 10.0]
    ids = RecordIds(iter(times).__next__)
    first, *later = [ids._mint() for _ in times]
    assert [uuid.UUID(bytes=each).int >> 80 for each in (first, *later)] == [
        int(time * 1000) for time in times
    ]
    assert later == sorted(later)


def test_ids_of_threads_that_begin_a_millisecond_at_once_sort(monkeypatch: pytest.MonkeyPatch):
    ids = sealer()
    made: list[bytes] = []

    def random_bits(size: int) -> bytes:
        monkeypatch.setattr(os, "urandom", lambda size: b"\xff" * size)
        made.append(ids._mint())  # Another thread comes while this one waits for the system.
        return bytes(size)

    monkeypatch.setattr(os, "urandom", random_bits)
    made += [ids._mint() for _ in range(3)]
    assert len(set(made)) == 4
    assert made == sorted(made)


def test_ids_of_threads_and_of_producers_are_all_different():
    sealers = [sealer(), sealer(), RecordIds(lambda: NOW + random.choice([0.0, 0.001]))]
    start = threading.Barrier(6)

    def mint(number: int) -> list[bytes]:
        start.wait()
        return [sealers[number % 3]._mint() for _ in range(20_000)]

    with ThreadPoolExecutor(6) as pool:
        made = list(itertools.chain.from_iterable(pool.map(mint, range(6))))
    assert len(set(made)) == len(made) == 120_000


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_does_not_go_on_with_the_ids_of_its_parent():
    ids = sealer()
    ids.seal(b"x")  # The parent is in the midst of this millisecond.
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    child = context.Process(target=lambda: answers.put(ids.seal(b"x")[1]))
    child.start()
    theirs = answers.get()
    child.join(30)
    _, ours = ids.seal(b"x")
    assert theirs != ours
    assert theirs[:6] == ours[:6]  # the same millisecond, so that they could have been the same
