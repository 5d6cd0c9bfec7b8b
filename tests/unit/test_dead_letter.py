import io
import os
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from records.dead_letter import DeadLetter, read_dead_letters, write_dead_letter
from records.errors import DeadLetterCorrupt
from records.limits import MAX_HASH_KEY, MAX_LARGE_RECORD_BYTES

letters = st.builds(
    DeadLetter,
    stream=st.text(max_size=20),
    partition_key=st.text(max_size=20),
    data=st.binary(max_size=200) | st.just(b"KDL\x01" * 5),
    explicit_hash_key=st.none() | st.integers(0, MAX_HASH_KEY),
    error_code=st.text(max_size=20),
    error_message=st.text(max_size=50),
    attempts=st.integers(0, 100),
    failed_at=st.floats(0, 1e11),
)


def letter(data: Any = b"data", message: str = "slow down"):
    return DeadLetter("s", "k", data, None, "InternalFailure", message, 3, 1_800_000_000.25)


def written(some: list[DeadLetter]):
    file = io.BytesIO()
    sizes = [write_dead_letter(file, each) for each in some]
    assert sum(sizes) == len(file.getvalue())
    return file.getvalue(), sizes


def read_all(content: bytes) -> tuple[list[DeadLetter], DeadLetterCorrupt | None]:
    """Return what can be read, and the damage where it ends, if any."""
    reader = read_dead_letters(io.BytesIO(content))
    read: list[DeadLetter] = []
    try:
        read.extend(reader)  # keeps what came before the error
    except DeadLetterCorrupt as damage:
        return read, damage
    return read, None


@given(st.lists(letters, max_size=5))
@settings(max_examples=100)
def test_what_is_written_is_read(some: list[DeadLetter]):
    content, _ = written(some)
    assert list(read_dead_letters(io.BytesIO(content))) == some


@given(st.lists(letters, min_size=1, max_size=4), st.data())
@settings(max_examples=150)
def test_a_torn_tail_gives_everything_before_it_and_says_where(some: list[DeadLetter], data: Any):
    content, sizes = written(some)
    cut = data.draw(st.integers(0, len(content)))
    whole = 0
    while sum(sizes[: whole + 1]) <= cut and whole < len(sizes):
        whole += 1
    read, damage = read_all(content[:cut])
    assert read == some[:whole]
    if cut == sum(sizes[:whole]):
        assert damage is None
    else:
        assert damage is not None
        assert damage.torn
        assert damage.offset == sum(sizes[:whole])


@given(st.lists(letters, min_size=1, max_size=4), st.data())
@settings(max_examples=200)
def test_a_changed_byte_is_found_and_nothing_wrong_is_given_out(some: list[DeadLetter], data: Any):
    content, sizes = written(some)
    place = data.draw(st.integers(0, len(content) - 1))
    changed = bytearray(content)
    changed[place] ^= data.draw(st.integers(1, 255))
    whole = 0
    while sum(sizes[: whole + 1]) <= place:
        whole += 1
    read, damage = read_all(bytes(changed))
    assert read == some[:whole]
    assert damage is not None
    assert damage.offset == sum(sizes[:whole])


def test_reading_goes_on_behind_a_torn_frame_if_asked():
    before, after = letter(b"before"), letter(b"after" + b"KDL\x01" * 3)
    first, _ = written([before])
    torn = written([letter(bytes(100_000))])[0][:70_000]
    last, _ = written([after])
    damages = []
    file = io.BytesIO(first + torn + last)
    assert list(read_dead_letters(file, on_corrupt=damages.append)) == [before, after]
    assert [(damage.offset, damage.torn) for damage in damages] == [(len(first), True)]
    file = io.BytesIO(first + torn)
    damages.clear()
    assert list(read_dead_letters(file, on_corrupt=damages.append)) == [before]
    assert [(damage.offset, damage.torn) for damage in damages] == [(len(first), True)]


@pytest.mark.parametrize(
    "decoy",
    [
        b"x" * 1000 + b"KDL\x01" + bytes(200_000) + b"KDL",
        *(b"x" * size for size in range(65_532, 65_542)),  # the magic lies across two reads
    ],
)
def test_reading_goes_on_behind_what_is_no_frame(decoy: bytes):
    last, _ = written([letter(b"after")])
    damages: list[DeadLetterCorrupt] = []
    file = io.BytesIO(decoy + last)
    assert list(read_dead_letters(file, on_corrupt=damages.append)) == [letter(b"after")]
    assert [damage.offset for damage in damages] == [0]


@pytest.mark.parametrize("content", [b"hello, world, this is text", b"K", b"KDX", bytes(100)])
def test_a_file_of_something_else(content: bytes):
    with pytest.raises(DeadLetterCorrupt) as damage:
        list(read_dead_letters(io.BytesIO(content)))
    assert damage.value.offset == 0
    assert not damage.value.retriable


def test_a_damaged_length_allocates_nothing():
    frame = b"KDL\x01" + bytes(4) + b"\xff" * 8
    with pytest.raises(DeadLetterCorrupt, match="size"):
        list(read_dead_letters(io.BytesIO(frame)))


def test_the_largest_record_fits_and_one_more_byte_does_not():
    largest = letter(bytes(MAX_LARGE_RECORD_BYTES))
    content, _ = written([largest])
    assert list(read_dead_letters(io.BytesIO(content))) == [largest]
    file = io.BytesIO()
    with pytest.raises(ValueError, match="too large"):
        write_dead_letter(file, letter(bytes(MAX_LARGE_RECORD_BYTES + 1)))
    assert file.getvalue() == b""


def test_an_endless_message_is_cut():
    content, _ = written([letter(message="x" * 100_000)])
    (read,) = read_dead_letters(io.BytesIO(content))
    assert read.error_message == "x" * 4096


def test_a_pipe_gives_its_letters_in_pieces():
    content, _ = written([letter(b"x" * 3000), letter(b"y")])
    reading, writing = os.pipe()
    os.write(writing, content)
    os.close(writing)
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        assert [each.data for each in read_dead_letters(pipe)] == [b"x" * 3000, b"y"]


def test_an_unbuffered_file_that_takes_a_part_only_gets_it_all():
    class Sluggish(io.BytesIO):
        def write(self, data: Any) -> int:
            return super().write(bytes(data)[:7])

    file = Sluggish()
    size = write_dead_letter(file, letter())
    assert len(file.getvalue()) == size
    assert list(read_dead_letters(io.BytesIO(file.getvalue()))) == [letter()]
