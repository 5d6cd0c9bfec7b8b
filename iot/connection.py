"""One session with an MQTT broker that stays up, says when it cannot, and survives its callbacks.

A thin layer over paho-mqtt 2.x which takes care of what every client would otherwise get wrong:

* an exception in a callback ends paho's network thread without a word; here it is logged;
* so does a publish while that thread prepares to reconnect; here it makes one more attempt;
* paho tries refused credentials again for ever; here a refusal is final and has a message;
* paho's back-off has no jitter, so a fleet comes back in step; here it is full jitter;
* subscriptions are made again at each connect, and "ready" means that all of them were granted;
* the identifier of a message is only valid on the connection that brought it: acknowledging it on
  the next one would acknowledge somebody else's message, so such an acknowledgement is dropped.
"""

import logging
import random
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self
from weakref import finalize

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.reasoncodes import ReasonCode

from iot.endpoint import Endpoint
from iot.errors import (
    ConnectionRefused,
    ConnectionUnready,
    IotError,
    UnexpectedMessage,
)

_log = logging.getLogger(__name__)

KEEPALIVE_SECONDS: Final = 30
"""The broker gives a silent client up after 1.5 times this. AWS IoT allows 30 to 1200 s."""

FIRST_BACKOFF_SECONDS: Final = 1.0
LAST_BACKOFF_SECONDS: Final = 30.0
SHORTEST_BACKOFF_SECONDS: Final = 0.1

STABLE_SECONDS: Final = 10.0
"""A connection that lasted this long starts the back-off anew. A shorter one does not, or two
clients that share an identifier, and so throw each other out, would do it at full speed."""

STOP_LATENCY_SECONDS: Final = 0.2
"""How soon a wait notices that it was told to stop."""

_TRY_AGAIN = frozenset({"Server unavailable", "Server busy", "Connection rate exceeded"})


@dataclass(frozen=True, slots=True)
class Message:
    """A message as it came in.

    Args:
        mid: The packet identifier, for :meth:`Connection.acknowledge`.
        connection_number: Which connection of the session brought it, counted from 1.
    """

    topic: str
    payload: bytes
    qos: int
    mid: int
    connection_number: int


class Connection:
    """A session with a broker, kept up by paho's network thread.

    Args:
        endpoint: Where the broker is.
        client_id: The name of the session; a second client of the same name takes it over.
        clean_session: False: the broker keeps subscriptions and unacknowledged messages while the
            client is away.
        manual_ack: True: a message is acknowledged by :meth:`acknowledge` and not by itself.
        keepalive: Seconds.
        rng: Source of the jitter.

    Use it as a context manager, or call :meth:`start` and :meth:`stop`. Handlers run in the network
    thread: they must not block, and may call :meth:`publish`. No lock of the caller's that a
    handler or an ``on_acknowledged`` takes may be held around a call of :meth:`publish`.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        client_id: str,
        clean_session: bool = True,
        manual_ack: bool = False,
        keepalive: int = KEEPALIVE_SECONDS,
        rng: random.Random | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.client_id = client_id
        self._rng = rng or random.Random()
        self._state = threading.Condition()
        self._failure: IotError | None = None
        self._ready = False
        self._number = 0
        self._connected_at = 0.0
        self._attempts = 0
        self._filters: list[tuple[str, int]] = []
        self._ungranted: dict[int, str] = {}
        self._on_ready: list[Callable[[], None]] = []
        self._on_lost: list[Callable[[], None]] = []
        self._unacknowledged: dict[int, Callable[[], None]] = {}
        self._acknowledged_early: set[int] = set()
        self._client = self._build(clean_session, manual_ack)
        self._client.connect_async(endpoint.host, endpoint.port, keepalive)

    def subscribe(
        self, topic_filter: str, handler: Callable[[Message], None], *, qos: int = 1
    ) -> None:
        """Have messages of a topic filter handed to ``handler``. Call it before :meth:`start`."""

        def guarded(_client: Client, _userdata: object, message: MQTTMessage) -> None:
            try:
                handler(
                    Message(
                        message.topic,
                        bytes(message.payload),
                        message.qos,
                        message.mid,
                        self._number,
                    )
                )
            except Exception:  # noqa: BLE001 - any would end paho's thread
                _log.exception("%s: a message on %s was not handled", self.client_id, message.topic)

        self._filters.append((topic_filter, qos))
        self._client.message_callback_add(topic_filter, guarded)

    def on_ready(self, callback: Callable[[], None]) -> None:
        """Call back after each connect, once every subscription has been granted."""
        self._on_ready.append(callback)

    def on_lost(self, callback: Callable[[], None]) -> None:
        """Call back each time an established connection has ended."""
        self._on_lost.append(callback)

    def start(self) -> None:
        """Start connecting, and keep the connection up until :meth:`stop`."""
        self._client.loop_start()

    def wait_ready(self, timeout: float, *, stop: threading.Event | None = None) -> bool:
        """Wait until the session is up and every subscription granted.

        Args:
            timeout: Seconds.
            stop: Ends the waiting when it is set.

        Returns:
            True when it is ready, False if ``stop`` came first.

        Raises:
            ConnectionRefused: The broker said no.
            ConnectionUnready: It did not happen within ``timeout`` seconds.
        """
        deadline = time.monotonic() + timeout
        with self._state:
            while not self._ready:
                if self._failure:
                    raise self._failure
                if stop and stop.is_set():
                    return False
                if (left := deadline - time.monotonic()) > 0:
                    self._state.wait(min(left, STOP_LATENCY_SECONDS))
                    continue
                raise ConnectionUnready(f"{self.endpoint} has not answered within {timeout:.1f} s")
        return True

    @property
    def ready(self) -> bool:
        """Whether the session is up and every subscription granted."""
        return self._ready

    @property
    def failure(self) -> IotError | None:
        """Why the session has ended for good; None while it has not."""
        return self._failure

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        on_acknowledged: Callable[[], None] | None = None,
    ) -> None:
        """Publish with QoS 1; when there is no connection, as soon as there is one.

        Args:
            topic: Where to.
            payload: At most 128 KiB on AWS IoT.
            on_acknowledged: Called in the network thread when the broker has the message.

        Raises:
            ConnectionUnready: So many wait already (65,535) that this one was not taken.
        """
        taken = self._client.publish(topic, payload, qos=1)
        if taken.rc == MQTTErrorCode.MQTT_ERR_QUEUE_SIZE:
            raise ConnectionUnready(f"too many messages wait for {self.endpoint}")
        mid = taken.mid
        callback = on_acknowledged or _nothing
        with self._state:
            # The acknowledgement may have been faster than this thread.
            if mid not in self._acknowledged_early:
                self._unacknowledged[mid] = callback
                return
            self._acknowledged_early.remove(mid)
        callback()

    def acknowledge(self, message: Message) -> bool:
        """Acknowledge a message by hand, from any thread.

        Returns:
            False if its connection has ended: the broker will send the message again.
        """
        with self._state:
            if message.connection_number != self._number:
                return False
            if message.qos > 0:
                self._client.ack(message.mid, message.qos)
            return True

    def drop(self) -> None:
        """Cut the connection. It comes back by itself, and with it what is unacknowledged."""
        self._attempts = 0  # It was our own wish.
        connected = self._client.socket()
        if isinstance(connected, socket.socket):  # TLS sockets too
            with suppress(OSError):
                connected.shutdown(socket.SHUT_RDWR)

    def stop(self) -> None:
        """End the session's connection and wait for the network thread."""
        self._client.disconnect()
        self._client.loop_stop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _build(self, clean_session: bool, manual_ack: bool) -> Client:  # noqa: FBT001 - one caller
        client = _PatientClient(
            CallbackAPIVersion.VERSION2,
            client_id=self.client_id,
            clean_session=clean_session,
            manual_ack=manual_ack,
        )
        client.username_pw_set(self.endpoint.username, self.endpoint.password)
        if self.endpoint.tls:
            client.tls_set()
        client.suppress_exceptions = True
        client.on_connect = self._connected
        client.on_connect_fail = self._connect_failed
        client.on_disconnect = self._disconnected
        client.on_subscribe = self._subscribed
        client.on_publish = self._published
        if manual_ack:
            client.on_message = self._unexpected
        return client

    # What follows runs in the network thread.

    def _connected(
        self, client: Client, _userdata: object, _flags: object, reason: ReasonCode, *_: object
    ) -> None:
        if reason.is_failure:
            if reason.getName() not in _TRY_AGAIN:
                self._fail(ConnectionRefused(f"{self.endpoint} refused {self.client_id}: {reason}"))
            return
        with self._state:
            self._number += 1
            self._connected_at = time.monotonic()
            self._ungranted.clear()
        if not self._filters:
            self._become_ready()
            return
        for topic_filter, qos in self._filters:
            mid = client.subscribe(topic_filter, qos)[1]
            if mid is not None:
                self._ungranted[mid] = topic_filter

    def _subscribed(
        self, _client: Client, _userdata: object, mid: int, reasons: list[ReasonCode], *_: object
    ) -> None:
        topic_filter = self._ungranted.pop(mid, None)
        if any(reason.is_failure for reason in reasons):
            self._fail(ConnectionRefused(f"{self.endpoint} refused to subscribe to {topic_filter}"))
        elif topic_filter is not None and not self._ungranted:
            self._become_ready()

    def _unexpected(self, _client: Client, _userdata: object, message: MQTTMessage) -> None:
        """Fail: nobody would acknowledge it, and soon the broker would send nothing more."""
        self._fail(
            UnexpectedMessage(
                f"the session {self.client_id} still brings {message.topic}, which nothing here"
                " subscribes to any more: subscribe to it, or take another --client-id"
            )
        )

    def _become_ready(self) -> None:
        with self._state:
            self._ready = True
            self._state.notify_all()
        self._call(self._on_ready)

    def _disconnected(
        self, _client: Client, _userdata: object, _flags: object, reason: ReasonCode, *_: object
    ) -> None:
        with self._state:
            # From here on no message of the ended connection can be acknowledged.
            was_connected, self._ready = self._connected_at > 0, False
            self._number += 1
            if was_connected and time.monotonic() - self._connected_at >= STABLE_SECONDS:
                self._attempts = 0
            self._connected_at = 0.0
        self._back_off()
        if was_connected:
            _log.info("%s: connection ended: %s", self.client_id, reason)
            self._call(self._on_lost)

    def _connect_failed(self, _client: Client, _userdata: object) -> None:
        if self._attempts == 0:
            _log.info("%s: cannot reach %s, trying again", self.client_id, self.endpoint)
        self._back_off()

    def _back_off(self) -> None:
        ceiling = min(LAST_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2 ** min(self._attempts, 10))
        self._attempts += 1
        delay = max(SHORTEST_BACKOFF_SECONDS, self._rng.uniform(0, ceiling))
        self._client.reconnect_delay_set(delay, delay)  # type: ignore[arg-type] # paho adds floats

    def _published(self, _client: Client, _userdata: object, mid: int, *_: object) -> None:
        with self._state:
            callback = self._unacknowledged.pop(mid, None)
            if callback is None:
                self._acknowledged_early.add(mid)
                return
        self._call([callback])

    def _fail(self, failure: IotError) -> None:
        with self._state:
            if self._failure:
                return
            self._failure = failure
            self._state.notify_all()
        self._client.disconnect()

    def _call(self, callbacks: Sequence[Callable[[], None]]) -> None:
        for callback in callbacks:
            try:
                callback()
            except Exception:  # noqa: BLE001 - any would end paho's thread
                _log.exception("%s: a callback failed", self.client_id)


class _PatientClient(Client):
    """paho's client, whose network thread outlives a publish at the wrong moment."""

    def loop_start(self) -> MQTTErrorCode:
        """Start the network thread."""
        begun = super().loop_start()
        # Nobody closes what wakes that thread but `__del__`; the garbage collector, which is what
        # ends a client with callbacks, may come upon the sockets before it, and warns.
        for waker in (self._sockpairR, self._sockpairW):
            if waker is not None:
                finalize(self, waker.close).atexit = False
        return begun

    def reconnect(self) -> MQTTErrorCode:
        """Open a connection."""
        try:
            return super().reconnect()
        except RuntimeError as error:
            # It walks its queue of packets without a lock, while other threads append to it. An
            # OSError has it try again. Messages with QoS 1 are kept elsewhere, so none is lost.
            raise OSError(f"a message was published meanwhile: {error}") from error


def _nothing() -> None:
    """Stand in for a callback that nobody asked for."""
