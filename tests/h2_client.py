"""A client for HTTP/2 on the h2 library that does one thing at a time, and only when told."""

import socket
import ssl
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    InformationalResponseReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
)
from h2.settings import SettingCodes, Settings


@dataclass
class H2Answer:
    """What has come of an answer so far."""

    headers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    ended: bool = False
    reset: int | None = None
    informed: bool = False


class H2Client:
    def __init__(
        self,
        host: str,
        port: int,
        *,
        tls: ssl.SSLContext | None = None,
        window: int | None = None,
        take: bool = True,
    ) -> None:
        """Connect.

        Args:
            host: Where to.
            port: Where to.
            tls: Over TLS with this.
            window: The initial window of streams, in bytes.
            take: Open the windows again as data comes in.
        """
        self.socket = socket.create_connection((host, port), timeout=30)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_hostname=host)
        self.answers: dict[int, H2Answer] = {}
        self.terminated: ConnectionTerminated | None = None
        self.closed = False
        self._take = take
        self.h2 = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        if window is not None:
            values = {SettingCodes.INITIAL_WINDOW_SIZE: window}
            self.h2.local_settings = Settings(client=True, initial_values=values)
        self.h2.initiate_connection()
        self.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.socket.close()

    def flush(self) -> None:
        self.socket.sendall(self.h2.data_to_send())

    def ask(
        self, path: str, body: bytes | None = None, *, method: str = "POST", **more: str
    ) -> int:
        """Send a request without waiting; a body of None is left open."""
        number = self.h2.get_next_available_stream_id()
        self.answers[number] = H2Answer()
        self.h2.send_headers(
            number,
            [
                (":method", method),
                (":path", path),
                (":scheme", "http"),
                (":authority", "kinesis.example:1"),
                *((name.replace("_", "-"), value) for name, value in more.items()),
            ],
            end_stream=body == b"",
        )
        self.flush()
        if body:
            self.send(number, body)
        return number

    def send(self, number: int, data: bytes, *, end: bool = True) -> None:
        """Send a body as far and as soon as the windows allow."""
        while data:
            room = min(self.h2.local_flow_control_window(number), self.h2.max_outbound_frame_size)
            if room == 0:
                self.receive()
                continue
            self.h2.send_data(number, data[:room], end_stream=end and len(data) <= room)
            data = data[room:]
            self.flush()

    def receive(self) -> list[Event]:
        """Wait for whatever comes next."""
        data = self.socket.recv(65536)
        if not data:
            self.closed = True
            return []
        events = self.h2.receive_data(data)
        for event in events:
            self._note(event)
        self.flush()
        return events

    def answer(self, number: int) -> H2Answer:
        """Wait until an answer has ended, one way or the other."""
        answer = self.answers[number]
        while not (answer.ended or answer.reset is not None or self.closed or self.terminated):
            self.receive()
        return answer

    def _note(self, event: Event) -> None:
        match event:
            case ResponseReceived():
                self.answers[event.stream_id].headers = dict(event.headers)
            case InformationalResponseReceived():
                self.answers[event.stream_id].informed = True
            case DataReceived():
                self.answers[event.stream_id].body += event.data
                if self._take:
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case StreamEnded():
                self.answers[event.stream_id].ended = True
            case StreamReset():
                self.answers[event.stream_id].reset = int(event.error_code)
            case ConnectionTerminated():
                self.terminated = event
