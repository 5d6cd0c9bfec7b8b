"""An upstream that says just what it is told to, and keeps just what it was sent."""

import http.client
import re
import socket
import threading
from urllib.parse import urlsplit

MIB = 1024 * 1024
TARGET = "Kinesis_20131202.PutRecords"


class Upstream:
    """A server that keeps what it received, byte for byte, and sends a scripted answer."""

    def __init__(self, answer: bytes, *, pieces: bool = False, hang_up: bool = False) -> None:
        self.answer = answer
        self.hang_up = hang_up
        self.pieces = pieces
        self.next_piece = threading.Semaphore(0)
        self.received: list[bytes] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        with connection:
            while (request := self._read_request(connection)) is not None:
                self.received.append(request)
                try:
                    if self.pieces:
                        for piece in self.answer.split(b"|"):
                            self.next_piece.acquire()
                            connection.sendall(piece)
                    else:
                        connection.sendall(self.answer)
                except OSError:
                    break
                if self.hang_up:
                    break

    def _read_request(self, connection: socket.socket) -> bytes | None:
        data = b""
        while b"\r\n\r\n" not in data:
            chunk = connection.recv(65536)
            if not chunk:
                return None
            data += chunk
        head, _, _ = data.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        total = len(head) + 4 + (int(length[1]) if length else 0)
        while len(data) < total:
            data += connection.recv(min(MIB, total - len(data)))
        return data


def ok(body: bytes = b"{}", *headers: bytes) -> bytes:
    head = b"\r\n".join([b"HTTP/1.1 200 OK", b"Content-Length: %d" % len(body), *headers])
    return head + b"\r\n\r\n" + body


def connection_to(url: str) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    return http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)


def raw_exchange(url: str, request: bytes) -> bytes:
    """Send bytes and return all that comes back until the connection is closed."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname or "", parts.port), timeout=30) as connection:
        connection.sendall(request)
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
        return answer


def put(url: str, body: bytes = b"{}") -> tuple[int, bytes]:
    connection = connection_to(url)
    try:
        connection.request("POST", "/", body, {"X-Amz-Target": TARGET})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()
