"""HTTP/2 on the h2 library: one task for each stream, and flow control both ways.

Memory is bounded so: a stream may send 64 KiB before its body has a place in the budget, and the
rest of its window is opened when it has. The window of the whole connection is opened again as
data comes in, so that a stream that waits for its place holds up no other.
"""

import asyncio
import logging
from typing import Final, cast

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    RemoteSettingsChanged,
    RequestReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.exceptions import H2Error
from h2.settings import SettingCodes, Settings
from hyperframe.frame import Frame, GoAwayFrame

from infra.proxy.serve.service import Service, abort
from infra.proxy.serve.stream import INITIAL_WINDOW, Stream

logger = logging.getLogger(__name__)

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

_CONNECTION_WINDOW: Final = 1024 * 1024

_FRAME_BYTES: Final = 64 * 1024

_UNSENT_BYTES: Final = 1024 * 1024
"""With more than this unsent, nothing is read: a client that only asks (PING) gets no more room."""

_SETTINGS: Final = {
    SettingCodes.MAX_CONCURRENT_STREAMS: 250,
    SettingCodes.INITIAL_WINDOW_SIZE: INITIAL_WINDOW,
    SettingCodes.MAX_FRAME_SIZE: _FRAME_BYTES,
    SettingCodes.MAX_HEADER_LIST_SIZE: 64 * 1024,
}


class _PatientH2(H2Connection):
    """Goes on answering after a GOAWAY without an error, with which h2 itself falls silent.

    It only says that the client will ask no more (RFC 9113, section 6.8), and the client ends the
    connection when it has its answers. Node's `close()` of a session sends one, which the SDK for
    JavaScript calls as soon as it has the head of an answer.
    """

    def _receive_goaway_frame(self, frame: GoAwayFrame) -> tuple[list[Frame], list[Event]]:
        if frame.error_code == ErrorCodes.NO_ERROR:
            return [], []
        return super()._receive_goaway_frame(frame)


class Http2Connection(asyncio.Protocol):
    """One HTTP/2 connection.

    Args:
        service: What answers the requests.
        open_connections: Where the connection is found while it lasts.
    """

    def __init__(self, service: Service, open_connections: set["Http2Connection"]) -> None:
        self.service = service
        self.lost = False
        self.peer = ""
        self.h2: H2Connection = _PatientH2(H2Configuration(client_side=False, header_encoding=None))
        self._open_connections = open_connections
        self._streams: dict[int, Stream] = {}
        self._received = 0
        self._paused: asyncio.Future[None] | None = None
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet the client."""
        self.transport = cast("asyncio.Transport", transport)
        self.peer = str((transport.get_extra_info("peername") or ("",))[0])
        self._open_connections.add(self)
        self.h2.local_settings = Settings(client=False, initial_values=_SETTINGS)
        self.h2.max_inbound_frame_size = _FRAME_BYTES
        self.h2.initiate_connection()
        self.h2.increment_flow_control_window(
            _CONNECTION_WINDOW - self.h2.inbound_flow_control_window
        )
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Cancel whatever was being answered."""
        self.lost = True
        self._open_connections.discard(self)
        for stream in list(self._streams.values()):
            stream.client_left()
        self.resume_writing()

    def data_received(self, data: bytes) -> None:
        """Take frames in."""
        try:
            for event in self.h2.receive_data(data):
                self._on_event(event)
        except H2Error as error:
            logger.info("%s broke the rules of HTTP/2: %s", self.peer, repr(error))
            self.close()
            return
        # h2 looks at the size of a frame when it has all of it, which may be 16 MiB.
        if len(self.h2.incoming_buffer._data) > _FRAME_BYTES + 9:  # noqa: SLF001 - see above
            logger.info("%s sends a frame that is too large", self.peer)
            self.close()
            return
        self.flush()
        if self.transport.get_write_buffer_size() > _UNSENT_BYTES:
            self.transport.pause_reading()

    def pause_writing(self) -> None:
        """Let whoever writes wait."""
        self._paused = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        """Let them go on."""
        if self._paused is not None:
            self._paused.set_result(None)
            self._paused = None
        if not (self.lost or self.transport.is_closing()):
            self.transport.resume_reading()

    async def writable(self) -> None:
        """Wait while the client is slower than we are."""
        while self._paused is not None:
            await asyncio.shield(self._paused)

    def flush(self) -> None:
        """Send what h2 has ready."""
        if not (self.lost or self.transport.is_closing()):
            data = self.h2.data_to_send()
            if data:
                self.transport.write(data)

    def close(self) -> None:
        """Say goodbye (GOAWAY) and end the connection once that has been sent."""
        for stream in list(self._streams.values()):
            stream.client_left()
        # asyncio's TLS forgets its connection when it is closed twice.
        if not (self.lost or self.transport.is_closing()):
            self.h2.close_connection()
            self.flush()
            self.transport.close()

    def abort(self, *, reset: bool) -> None:
        """End the connection without another byte."""
        if not self.lost:
            abort(self.transport, reset=reset)

    def forget(self, stream_id: int) -> None:
        """The stream has been answered."""
        self._streams.pop(stream_id, None)

    def _on_event(self, event: Event) -> None:
        match event:
            case DataReceived():
                self._on_data(event)
            case RequestReceived():
                self._on_request(event)
            case StreamEnded():
                if (stream := self._streams.get(event.stream_id)) is not None:
                    stream.body_ended()
            case StreamReset():
                if (stream := self._streams.get(event.stream_id)) is not None:
                    stream.client_left()
            case WindowUpdated() | RemoteSettingsChanged():
                self._on_window(getattr(event, "stream_id", None) or 0)
            case ConnectionTerminated():
                self.close()

    def _on_request(self, event: RequestReceived) -> None:
        if self.service.closing:
            self.h2.reset_stream(event.stream_id, ErrorCodes.REFUSED_STREAM)
            return
        stream = Stream(self, event.stream_id, event.headers)
        self._streams[event.stream_id] = stream
        stream.begin()

    def _on_data(self, event: DataReceived) -> None:
        self._received += event.flow_controlled_length
        if self._received >= _CONNECTION_WINDOW // 2:
            self.h2.increment_flow_control_window(self._received)
            self._received = 0
        if (stream := self._streams.get(event.stream_id)) is not None:
            stream.body_came(event.data, event.flow_controlled_length)

    def _on_window(self, stream_id: int) -> None:
        """Room to send: for one stream, or for all when the ID is 0."""
        if stream_id:
            streams = [self._streams[stream_id]] if stream_id in self._streams else []
        else:
            streams = list(self._streams.values())
        for stream in streams:
            stream.window_opened()
