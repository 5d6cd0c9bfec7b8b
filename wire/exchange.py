"""One HTTP/1.1 exchange on a connected socket: a request goes out, and its answer comes in.

The standard library's client takes an interim answer for the answer, holds a whole upload to one
time-out, and takes more of the CPU for a call than the sockets do.
"""

import re
from collections.abc import Mapping
from http.client import HTTPException
from socket import socket
from ssl import SSLEOFError, SSLSocket
from typing import Final, NamedTuple
from urllib.parse import SplitResult

from wire.body import Body

_PIECE: Final = 1 << 17
_RECEIVE: Final = 1 << 16
_LONGEST_HEAD: Final = 1 << 16
_END_OF_HEAD: Final = re.compile(rb"\r?\n\r?\n")
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.([0-9]) ([1-9][0-9]{2})(?: [^\n]*)?")
_CHUNK_SIZE: Final = re.compile(rb"[0-9a-fA-F]{1,15}")
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


class Answer(NamedTuple):
    """An answer as it came; headers have names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


def exchange(
    sock: socket, url: SplitResult, headers: Mapping[str, str], body: Body
) -> tuple[Answer, bool]:
    """POST a body; return the answer, and whether the connection is fit for another request.

    The socket's time-out is how long the other side may be silent; of the body it has to have taken
    another 128 KiB by then.

    Raises:
        OSError: as the socket says, `TimeoutError` among them.
        HTTPException: what came is no answer, or not all of one.
        ValueError: the path or a header cannot be sent, and nothing was.
    """
    head = _head(url, headers, len(body))
    whole = True
    try:
        _send(sock, head, body)
    except (BrokenPipeError, ConnectionResetError, SSLEOFError):
        # A server may refuse a request before it has read all of it, and its answer counts.
        whole = False
    incoming = _Incoming(sock)
    answer, ends = _answer(incoming)
    return answer, whole and not ends and not incoming.has_more


def _head(url: SplitResult, headers: Mapping[str, str], length: int) -> bytes:
    path = (url.path or "/") + (f"?{url.query}" if url.query else "")
    if not path.isascii() or not path.isprintable() or " " in path:
        raise ValueError(f"a path cannot be {path!r}")
    host = url.hostname or ""
    if not host.isascii():
        host = host.encode("idna").decode()
    if ":" in host:
        host = f"[{host}]"
    if url.port not in (None, _DEFAULT_PORTS.get(url.scheme)):
        host = f"{host}:{url.port}"
    lines = [
        f"POST {path} HTTP/1.1",
        f"Host: {host}",
        "Accept-Encoding: identity",
        f"Content-Length: {length}",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    head = "\r\n".join(lines)
    if not head.count("\r") == head.count("\n") == len(lines) - 1:
        raise ValueError("a header's value cannot have a line break")
    return f"{head}\r\n\r\n".encode()


def _send(sock: socket, head: bytes, body: Body) -> None:
    # What follows the head goes out with it, in one packet if it fits.
    first, rest = bytearray(head), []
    for piece in body.pieces:
        room = max(0, _PIECE - len(first))
        first += piece[:room]
        rest.append(memoryview(piece)[room:])
    for part in (memoryview(first), *rest):
        left = part
        while left:
            # One time-out holds for all that is given to `sendall`, and with TLS to `send`.
            left = left[sock.send(left[:_PIECE]) :]


def _answer(incoming: "_Incoming") -> tuple[Answer, bool]:
    """Read an answer; also say whether the connection ends with it."""
    while True:
        minor, status, headers = incoming.head()
        if status >= 200:
            break
        if status == 101:
            raise HTTPException("the server changed to a protocol that nobody asked for")
        # The answer is still to come.
    ends = minor == 0 or "close" in headers.get("connection", "").lower()
    if status in (204, 304):
        return Answer(status, headers, b""), ends
    coding = headers.get("transfer-encoding")
    if coding is not None:
        if coding.lower() != "chunked":
            raise HTTPException(f"the answer's transfer coding is {coding!r}")
        return Answer(status, headers, incoming.chunks()), ends
    length = headers.get("content-length")
    if length is None:
        return Answer(status, headers, incoming.to_the_end()), True
    if not (length.isascii() and length.isdigit()):
        raise HTTPException(f"the answer's length is {length!r}")
    return Answer(status, headers, incoming.exactly(int(length))), ends


class _Incoming:
    """What a socket receives, by heads, lines and numbers of bytes.

    Attributes:
        rest: What was received and not asked for yet.
    """

    def __init__(self, sock: socket) -> None:
        self._sock = sock
        self.rest = b""

    @property
    def has_more(self) -> bool:
        """Whether more was received than was asked for."""
        return bool(self.rest) or (isinstance(self._sock, SSLSocket) and self._sock.pending() > 0)

    def head(self) -> tuple[int, int, dict[str, str]]:
        """Return the minor version, the status and the headers."""
        while not (end := _END_OF_HEAD.search(self.rest)):
            self._more()
        first, *lines = self.rest[: end.start()].split(b"\n")
        self.rest = self.rest[end.end() :]
        begins = _STATUS_LINE.fullmatch(first.rstrip(b"\r"))
        if not begins:
            raise HTTPException(f"no answer of HTTP/1 begins with {first[:64]!r}")
        headers: dict[str, str] = {}
        for line in lines:
            name, _, value = line.decode("latin-1").partition(":")
            name, value = name.lower(), value.strip()
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        return int(begins[1]), int(begins[2]), headers

    def exactly(self, count: int) -> bytes:
        """Return that many bytes."""
        parts = [self.rest[:count]]
        self.rest = self.rest[count:]
        missing = count - len(parts[0])
        while missing:
            parts.append(self._received(min(missing, _RECEIVE)))
            missing -= len(parts[-1])
        return b"".join(parts)

    def chunks(self) -> bytes:
        """Return a body that comes in chunks."""
        parts: list[bytes] = []
        while True:
            line = self._line()
            size = _CHUNK_SIZE.fullmatch(line.partition(b";")[0].strip())
            if not size:
                raise HTTPException(f"no chunk begins with {line[:64]!r}")
            if not (count := int(size[0], 16)):
                break
            parts.append(self.exactly(count))
            if self._line():
                raise HTTPException("a chunk is longer than it says")
        while self._line():  # trailers, of which Kinesis has none
            pass
        return b"".join(parts)

    def to_the_end(self) -> bytes:
        """Return all until the connection ends."""
        parts, self.rest = [self.rest], b""
        while data := self._sock.recv(_RECEIVE):
            parts.append(data)
        return b"".join(parts)

    def _line(self) -> bytes:
        while b"\n" not in self.rest:
            self._more()
        line, _, self.rest = self.rest.partition(b"\n")
        return line.rstrip(b"\r")

    def _more(self) -> None:
        if len(self.rest) >= _LONGEST_HEAD:
            raise HTTPException("a head or a line of the answer does not end")
        self.rest += self._received(_RECEIVE)

    def _received(self, most: int) -> bytes:
        data = self._sock.recv(most)
        if not data:
            raise HTTPException("the connection ended before the answer did")
        return data
