import itertools
import struct
import uuid
import zlib

import pytest
from botocore.eventstream import EventStreamBuffer
from hypothesis import given
from hypothesis import strategies as st

from infra.proxy.corrections.event_stream import BrokenFrameError, Frames, encode

names = st.text(st.characters(codec="ascii", min_codepoint=33), min_size=1, max_size=40)
headers = st.dictionaries(names, st.text(max_size=60), max_size=6)
contents = st.lists(st.tuples(headers, st.binary(max_size=300)), max_size=6)


@given(contents, st.data())
def test_frames_cut_anywhere_are_read_whole(
    written: list[tuple[dict[str, str], bytes]], data: st.DataObject
) -> None:
    raw = [encode(*content) for content in written]
    stream = b"".join(raw)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    frames = Frames()
    read = [
        frame
        for low, high in itertools.pairwise([0, *cuts, len(stream)])
        for frame in frames.feed(stream[low:high])
    ]
    assert [(frame.headers, frame.payload) for frame in read] == written
    assert [frame.raw for frame in read] == raw
    assert frames.take_rest() == b""


@given(contents)
def test_botocore_reads_what_is_written(written: list[tuple[dict[str, str], bytes]]) -> None:
    buffer = EventStreamBuffer()
    buffer.add_data(b"".join(encode(*content) for content in written))
    assert [(message.headers, message.payload) for message in buffer] == written


def header(name: bytes, kind: int, value: bytes) -> bytes:
    return bytes((len(name),)) + name + bytes((kind,)) + value


def frame_of(written: bytes, payload: bytes = b"") -> bytes:
    prelude = struct.pack(">II", 16 + len(written) + len(payload), len(written))
    body = prelude + struct.pack(">I", zlib.crc32(prelude)) + written + payload
    return body + struct.pack(">I", zlib.crc32(body))


def test_headers_of_every_type_are_read_past() -> None:
    values = [b"", b"", b"\1", b"\0\1", b"\0" * 4, b"\0" * 8, b"\0\3abc", b"\0\2hi", b"\0" * 8]
    values.append(uuid.uuid4().bytes)
    written = b"".join(header(b"h%d" % n, n, value) for n, value in enumerate(values))
    raw = frame_of(written, b"payload")
    buffer = EventStreamBuffer()
    buffer.add_data(raw)
    assert len(next(buffer).headers) == 10  # the example itself is right
    (frame,) = Frames().feed(raw)
    assert frame.headers == {"h7": "hi"}
    assert (frame.payload, frame.raw) == (b"payload", raw)


WHOLE = encode({":event-type": "x"}, b"{}")


@pytest.mark.parametrize(
    "raw",
    [
        *(WHOLE[:n] + bytes((WHOLE[n] ^ 1,)) + WHOLE[n + 1 :] for n in range(len(WHOLE))),
        b"<html>an error page</html>",
        frame_of(header(b"h", 99, b"")),  # a type that there is not
        frame_of(header(b"h", 7, b"\0\x09short")),
        frame_of(header(b"h", 7, b"\0\1\xff")),  # no UTF-8
        frame_of(b"\x05h"),
    ],
)
def test_what_is_no_frame_is_found_out_and_kept(raw: bytes) -> None:
    frames = Frames()
    read = frames.feed(WHOLE + raw + WHOLE)
    assert next(read).raw == WHOLE
    with pytest.raises(BrokenFrameError):
        next(read)
    assert frames.take_rest() == raw + WHOLE
    assert frames.take_rest() == b""


def test_a_frame_that_claims_a_gigabyte_is_not_waited_for() -> None:
    prelude = struct.pack(">II", 2**30, 0)
    with pytest.raises(BrokenFrameError):
        list(Frames().feed(prelude + struct.pack(">I", zlib.crc32(prelude))))


@pytest.mark.parametrize(
    ("name", "value", "payload"),
    [("n" * 256, "", b""), ("", "", b""), ("n", "v" * 2**15, b""), ("n", "", bytes(25 * 2**20))],
)
def test_what_has_no_place_in_a_frame_is_refused(name: str, value: str, payload: bytes) -> None:
    with pytest.raises(ValueError, match=r"no place|too long"):
        encode({name: value}, payload)
