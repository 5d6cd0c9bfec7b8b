"""HTTP/1.1 on a socket that takes and gives as much at a time as a test says."""

import ssl
from collections.abc import Iterable
from http.client import HTTPException
from itertools import accumulate, pairwise
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire.body import Body
from wire.exchange import Answer, exchange

URL = urlsplit("http://kinesis.example/")
ANSWER = b"HTTP/1.1 200 OK\r\nx-amzn-RequestId: r-1\r\nContent-Length: 4\r\n\r\nbody"
HEADERS = {"x-amzn-requestid": "r-1", "content-length": "4"}


class Wire:
    """A socket whose other side takes a number of bytes at a time, and gives what it is told."""

    def __init__(self, gives: Iterable[bytes], *, takes: int = 1 << 30) -> None:
        self._gives = list(gives)
        self._takes = takes
        self.sent: list[bytes] = []

    def send(self, data: memoryview) -> int:
        assert len(data) <= 1 << 17  # to which one time-out applies
        self.sent.append(bytes(data[: self._takes]))
        return len(self.sent[-1])

    def recv(self, most: int) -> bytes:
        if not self._gives:
            return b""
        data = self._gives.pop(0)
        if rest := data[most:]:
            self._gives.insert(0, rest)
        return data[:most]


def ask(wire: Any, body: bytes = b"x", *, url: str = URL.geturl(), **headers: str) -> Any:
    return exchange(wire, urlsplit(url), headers, Body([body]))


@pytest.mark.parametrize("status", [100, 102, 103, 199])
@pytest.mark.parametrize("together", [True, False])
def test_an_interim_answer_is_not_the_answer(status: int, together: bool):  # noqa: FBT001
    interim = b"HTTP/1.1 %d Early\r\nLink: </x>\r\n\r\n" % status
    gives = [interim + interim + ANSWER] if together else [interim, interim, ANSWER]
    assert ask(Wire(gives)) == (Answer(200, HEADERS, b"body"), True)


def test_an_interim_answer_without_the_answer_is_none():
    with pytest.raises(HTTPException):
        ask(Wire([b"HTTP/1.1 103 Early Hints\r\n\r\n"]))


@pytest.mark.parametrize(
    "sizes", [[], [0], [1], [1_000_000], [1, 2, 999_997], [20, 65_000, 65_000, 1], [150_000] * 3]
)
@pytest.mark.parametrize("takes", [7_001, 300_000, 1 << 30])
def test_an_upload_goes_on_from_what_the_other_side_took(sizes: list[int], takes: int):
    size = sum(sizes)
    body = bytes(n % 251 for n in range(size))
    wire = Wire([ANSWER], takes=takes)
    pieces = [memoryview(body)[a:b] for a, b in pairwise(accumulate(sizes, initial=0))]
    assert exchange(wire, URL, {}, Body(pieces)) == (Answer(200, HEADERS, b"body"), True)  # type: ignore[arg-type]
    head, _, sent = b"".join(wire.sent).partition(b"\r\n\r\n")
    assert sent == body
    assert f"\r\nContent-Length: {size}\r\n".encode() in head + b"\r\n"
    assert b"transfer-encoding" not in head.lower()


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n"
CHUNKED += b"2;name=value\r\nbo\r\n02\r\ndy\r\n0\r\nTrailer: 1\r\n\r\n"


@given(st.sampled_from([ANSWER, CHUNKED]), st.lists(st.integers(1, 150), max_size=12))
def test_an_answer_is_read_however_it_is_cut(content: bytes, cuts: list[int]):
    edges = [0, *sorted(set(cuts)), len(content)]
    pieces = [content[a:b] for a, b in pairwise(edges) if content[a:b]]
    answer, keep = ask(Wire(pieces))
    assert (answer.status, answer.body, keep) == (200, b"body", True)


@given(st.sampled_from([ANSWER, CHUNKED]), st.data())
def test_an_answer_that_breaks_off_anywhere_is_none(content: bytes, data: st.DataObject):
    end = data.draw(st.integers(0, len(content) - 1))
    with pytest.raises(HTTPException):
        ask(Wire([content[:end]] if end else []))


@pytest.mark.parametrize(
    "content",
    [
        ANSWER.replace(b"HTTP/1.1", b"HTTP/1.0"),
        ANSWER.replace(b"\r\nx-amzn", b"\r\nConnection: Close\r\nx-amzn"),
        ANSWER.replace(b"Content-Length: 4", b"To: the-end"),
        ANSWER + b"HTTP/1.1 200 OK\r\n",
    ],
)
def test_a_connection_that_ends_or_says_more_is_not_kept(content: bytes):
    answer, keep = ask(Wire([content]))
    assert (answer.body, keep) == (b"body", False)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"HTTP/1.1 204 \r\n\r\n", Answer(204, {}, b"")),
        (b"HTTP/1.1 500\r\nContent-Length: 0\r\n\r\n", Answer(500, {"content-length": "0"}, b"")),
        (ANSWER.replace(b"\r\n", b"\n"), Answer(200, HEADERS, b"body")),
        (
            b"HTTP/1.1 200 \xe9\r\nA:\xe9\r\na:  2 \r\nContent-Length:0\r\n\r\n",
            Answer(200, {"a": "é, 2", "content-length": "0"}, b""),
        ),
    ],
)
def test_forms_of_an_answer(content: bytes, expected: Answer):
    assert ask(Wire([content])) == (expected, True)


@pytest.mark.parametrize(
    "content",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 0200 OK\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n" + ANSWER,
        ANSWER.replace(b"4\r\n", b"-4\r\n"),
        ANSWER.replace(b"4\r\n", "٤\r\n".encode()),
        ANSWER.replace(b"4\r\n", b"4\r\nContent-Length: 3\r\n"),
        ANSWER.replace(b"4\r\n", b"4\r\nTransfer-Encoding: gzip, chunked\r\n"),
        CHUNKED.replace(b"02\r\n", b"0x2\r\n"),
        CHUNKED.replace(b"02\r\n", b"-2\r\n"),
        CHUNKED.replace(b"02\r\n", b"01\r\n"),
        b"HTTP/1.1 200 OK\r\nA: " + b"a" * 200_000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"0" * 200_000,
    ],
)
def test_what_is_no_answer(content: bytes):
    with pytest.raises(HTTPException):
        ask(Wire([content]))


def test_headers_go_out_in_utf_8_as_they_do_from_boto3():
    wire = Wire([ANSWER])
    ask(wire, agent="naïve-✓")
    assert "\r\nagent: naïve-✓\r\n".encode() in wire.sent[0]


@pytest.mark.parametrize("value", ["a\r\nb: c", "a\nb", "a\rb", "\ud800"])
def test_a_header_that_cannot_be_sent_is_refused_before_anything_is(value: str):
    wire = Wire([ANSWER])
    with pytest.raises(ValueError):  # noqa: PT011 - a codec says it for one of them
        ask(wire, agent=value)
    assert wire.sent == []


@pytest.mark.parametrize("path", ["/a b", "/é", "/a\x7f"])
def test_a_path_that_cannot_be_sent_is_refused_before_anything_is(path: str):
    wire = Wire([ANSWER])
    with pytest.raises(ValueError, match="path"):
        ask(wire, url=f"http://kinesis.example{path}")
    assert wire.sent == []


@pytest.mark.parametrize(
    ("url", "request_line", "host"),
    [
        ("http://Kinesis.example", "POST / HTTP/1.1", "kinesis.example"),
        ("http://kinesis.example:80/a?b=c", "POST /a?b=c HTTP/1.1", "kinesis.example"),
        ("https://kinesis.example:443/", "POST / HTTP/1.1", "kinesis.example"),
        ("https://kinesis.example:80/", "POST / HTTP/1.1", "kinesis.example:80"),
        ("http://[::1]:4566/", "POST / HTTP/1.1", "[::1]:4566"),
        ("http://exämple.invalid/", "POST / HTTP/1.1", "xn--exmple-cua.invalid"),
    ],
)
def test_where_a_request_says_that_it_goes(url: str, request_line: str, host: str):
    wire = Wire([ANSWER])
    ask(wire, url=url)
    assert wire.sent[0].startswith(f"{request_line}\r\nHost: {host}\r\n".encode())


@pytest.mark.parametrize("error", [BrokenPipeError, ConnectionResetError, ssl.SSLEOFError])
def test_an_answer_counts_that_came_before_all_was_sent(error: type[OSError]):
    class Closed(Wire):
        def send(self, data: memoryview) -> int:
            if self.sent:
                raise error
            return super().send(data)

    assert ask(Closed([ANSWER]), bytes(300_000)) == (Answer(200, HEADERS, b"body"), False)
