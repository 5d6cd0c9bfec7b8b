"""A line to a broker that can be cut, and that can lose what the broker says."""

import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self

from iot.endpoint import Endpoint


class Line:
    """Forwards TCP connections from a port of its own to a broker.

    Attributes:
        up: While False, connections are closed as soon as they are made.
        deaf: While True, nothing that the broker sends gets through.
        calls: Connections so far.
    """

    def __init__(self, upstream: Endpoint) -> None:
        self.upstream = upstream
        self.up = True
        self.deaf = False
        self.calls = 0
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._start(self._accept)

    @property
    def endpoint(self) -> Endpoint:
        port = self._listener.getsockname()[1]
        return Endpoint("127.0.0.1", port, self.upstream.username, self.upstream.password)

    @property
    def url(self) -> str:
        here = self.endpoint
        return f"mqtt://{here.username}:{here.password}@{here.host}:{here.port}"

    def cut(self) -> None:
        """End all connections without a word."""
        with self._lock:
            for each in self._sockets:
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(10)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _start(self, target: object, *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            self.calls += 1
            far = None
            if self.up:
                with suppress(OSError):
                    far = socket.create_connection((self.upstream.host, self.upstream.port), 5)
            if far is None:
                near.close()
                continue
            far.settimeout(None)
            for each in (near, far):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._sockets |= {near, far}
            closing = threading.Barrier(2)
            self._start(self._upwards, near, far, closing)
            self._start(self._downwards, near, far, closing)

    def _upwards(self, near: socket.socket, far: socket.socket, closing: threading.Barrier) -> None:
        with suppress(OSError):
            while data := near.recv(65536):
                far.sendall(data)
        self._end(near, far, closing)

    def _downwards(
        self, near: socket.socket, far: socket.socket, closing: threading.Barrier
    ) -> None:
        with suppress(OSError):
            while data := far.recv(65536):
                if not self.deaf:
                    near.sendall(data)
        self._end(far, near, closing)

    def _end(
        self, source: socket.socket, target: socket.socket, closing: threading.Barrier
    ) -> None:
        for each in (source, target):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        # Each closes its own source, once neither uses the other's any more.
        with suppress(threading.BrokenBarrierError):
            closing.wait(10)
        with self._lock:
            self._sockets.discard(source)
        source.close()
