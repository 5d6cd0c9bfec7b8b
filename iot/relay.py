"""The bridge without its two networks: messages in, puts out, acknowledgements in order."""

import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from iot.connection import Message
from records.envelope import open_envelope
from records.errors import RecordsError

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Refused:
    """A message that can never be put.

    Args:
        message: As it came.
        partition_key: What it would have been put under; empty if that is what is missing.
        code: What is wrong, in one word.
        detail: The same in a sentence.
    """

    message: Message
    partition_key: str
    code: str
    detail: str


@dataclass(slots=True, eq=False)
class _Entry:
    message: Message
    done: bool = False


class Relay:
    """Puts each message, and acknowledges it once the stream has it.

    Args:
        put: Given partition key, data and record ID, starts a put and returns its future.
            It must not block.
        acknowledge: Acknowledges a message; called in the order in which the messages came,
            which MQTT demands (MQTT 3.1.1, 4.6).
        refuse: Keeps a message that can never be put; it is acknowledged when this returns.
        key_level: Which level of the topic is the partition key, counted from 1.
        max_messages: Unacknowledged messages held at most.
        max_bytes: Their payloads at most.

    Three ways for a message to end. The stream has it: acknowledged. It can never be put (not
    JSON, no record ID): refused, acknowledged, and the others go on. The stream will not have it
    (gone, or access denied): nothing is acknowledged from there on and :attr:`failure` is set,
    because the broker keeps what is not acknowledged, in order, and a dead-letter file would not.

    When there is no room, all further messages of that connection are left to the broker: they are
    not acknowledged, so it sends them again on the next connection, which :meth:`needs_redelivery`
    asks for. That bounds memory without ever blocking the network thread, which must go on to send
    acknowledgements and keep-alives.
    """

    def __init__(
        self,
        *,
        put: Callable[[str, bytes, str], Future[Any]],
        acknowledge: Callable[[Message], object],
        refuse: Callable[[Refused], None],
        key_level: int,
        max_messages: int,
        max_bytes: int,
    ) -> None:
        self._put = put
        self._acknowledge = acknowledge
        self._refuse = refuse
        self._key_level = key_level
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._settled_all = threading.Condition(self._lock)
        self._entries: deque[_Entry] = deque()
        self._bytes = 0
        self._closed = False
        self._full_connection = 0
        self._left_out = False
        self.failure: Exception | None = None
        self.relayed = 0
        self.refused = 0

    @property
    def in_flight(self) -> int:
        """Messages that were taken and not yet acknowledged."""
        return len(self._entries)

    def close_intake(self) -> None:
        """Leave all further messages to the broker."""
        with self._lock:
            self._closed = True

    def wait_settled(self, timeout: float) -> bool:
        """Wait until nothing that was taken is unacknowledged, or the stream has refused for good.

        Returns:
            Whether nothing is; what is left after `timeout` seconds comes again from the broker.
        """
        with self._settled_all:
            self._settled_all.wait_for(lambda: not self._entries or self.failure, timeout)
            return not self._entries

    def needs_redelivery(self) -> bool:
        """Return True once after messages were left out and all that was taken is settled.

        The owner then has to renew the connection.
        """
        with self._lock:
            if self._left_out and not self._entries:
                self._left_out = False
                return True
            return False

    def accept(self, message: Message) -> None:
        """Take a message; called by one thread, in the order of arrival."""
        with self._lock:
            if self._closed or message.connection_number == self._full_connection:
                return
            if not self._has_room(message):
                # None of this connection any more: what comes later must not overtake.
                self._full_connection = message.connection_number
                self._left_out = True
                return
            entry = _Entry(message)
            self._entries.append(entry)
            self._bytes += len(message.payload)
        try:
            self._start(entry)
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not count as delivered
            self._fail(error)

    def _start(self, entry: _Entry) -> None:
        message = entry.message
        levels = message.topic.split("/")
        key = levels[self._key_level - 1] if len(levels) >= self._key_level else ""
        envelope = open_envelope(message.payload)
        if envelope.record_id is None:
            self._refused(entry, key, "NoRecordId", "no JSON object with a record_id")
            return
        try:
            future = self._put(key, message.payload, envelope.record_id)
        except RecordsError as error:
            self._refused(entry, key, type(error).__name__, str(error))
            return
        future.add_done_callback(lambda settled: self._settled(entry, settled))

    def _settled(self, entry: _Entry, future: Future[Any]) -> None:
        error = future.exception()
        if error is None:
            self._finish(entry)
        else:
            self._fail(error if isinstance(error, Exception) else RuntimeError(repr(error)))

    def _refused(self, entry: _Entry, key: str, code: str, detail: str) -> None:
        self._refuse(Refused(entry.message, key, code, detail))
        self.refused += 1
        self._finish(entry)

    def _finish(self, entry: _Entry) -> None:
        with self._lock:
            entry.done = True
            # Under the lock, so that two threads cannot acknowledge in the wrong order.
            while self._entries and self._entries[0].done:
                message = self._entries.popleft().message
                self._bytes -= len(message.payload)
                self._acknowledge(message)
                self.relayed += 1
            if not self._entries:
                self._settled_all.notify_all()

    def _fail(self, error: Exception) -> None:
        with self._lock:
            self._closed = True
            if self.failure is None:
                self.failure = error
            self._settled_all.notify_all()

    def _has_room(self, message: Message) -> bool:
        if not self._entries:
            return True
        return (
            len(self._entries) < self._max_messages
            and self._bytes + len(message.payload) <= self._max_bytes
        )
