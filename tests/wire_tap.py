"""A wire between a client and a server that lets a test see what was spoken on it."""

import contextlib
import re
import socket
import threading
from collections import Counter
from urllib.parse import urlsplit

HTTP2 = b"PRI * HTTP/2.0"


class WireTap:
    """Passes bytes both ways, and notes how each connection began and what HTTP/1.1 asked for.

    Attributes:
        url: Where clients connect.
        connections: How many connections began with each first word: `PRI` is HTTP/2.
        calls: How often each (operation, content type) was asked for over HTTP/1.1.
    """

    def __init__(self, server_url: str) -> None:
        parts = urlsplit(server_url)
        self._server = (parts.hostname or "", parts.port or 80)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.connections: Counter[str] = Counter()
        self.calls: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def types_of(self, operation: str) -> set[str]:
        with self._lock:
            return {kind for name, kind in self.calls if name == operation}

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server, timeout=30)
            except OSError:
                return
            server.settimeout(None)
            pairs = ((client, server, True), (server, client, False))
            for source, target, asks in pairs:
                thread = threading.Thread(target=self._pump, args=(source, target, asks))
                thread.daemon = True
                thread.start()

    def _pump(self, source: socket.socket, target: socket.socket, asks: bool) -> None:  # noqa: FBT001 - a thread's argument
        head = b""
        first = asks
        try:
            while data := source.recv(65536):
                if first:
                    first = False
                    with self._lock:
                        self.connections[data.split(b" ", 1)[0].decode("latin-1")] += 1
                if asks:
                    head = self._note(head + data)
                target.sendall(data)
        except OSError:
            pass
        for each in (source, target):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        source.close()

    def _note(self, data: bytes) -> bytes:
        """Count the heads in `data`; return what may be the beginning of another."""
        for match in re.finditer(rb"(?s)POST / HTTP/1\.1\r\n(.+?)\r\n\r\n", data):
            found = re.search(rb"(?i)x-amz-target: *\S+?\.(\w+)", match[1])
            kind = re.search(rb"(?i)content-type: *(\S+)", match[1])
            if found and kind:
                with self._lock:
                    self.calls[found[1].decode(), kind[1].decode()] += 1
        begun = data.rfind(b"POST / HTTP/1.1\r\n")
        if begun >= 0 and b"\r\n\r\n" not in data[begun:]:
            return data[begun:]
        return data[-16:] if b"\r\n\r\n" not in data[-16:] else b""
