"""Messages of one publisher that reach the broker in order, whatever happens to the connection."""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from iot.connection import Connection


@dataclass(frozen=True, slots=True)
class _Entry:
    topic: str
    payload: bytes
    on_acknowledged: Callable[[], None]


class Outbox:
    """Publishes one message at a time: the next when the broker has acknowledged the last.

    Args:
        connection: What it publishes on.
        capacity: Messages that may wait, the one on its way included.

    One at a time because paho keeps messages that were published while there was no connection and
    sends them when there is one, but a message published in between goes ahead of them; and after
    a reconnect it repeats what was not acknowledged behind what was published meanwhile. With one
    message on its way a repetition can only repeat the last one: order holds, duplicates happen.
    """

    def __init__(self, connection: Connection, *, capacity: int) -> None:
        self._connection = connection
        self._capacity = capacity
        self._waiting: deque[_Entry] = deque()
        self._changed = threading.Condition()

    def put(
        self, topic: str, payload: bytes, on_acknowledged: Callable[[], None], *, timeout: float
    ) -> bool:
        """Queue a message.

        Args:
            topic: Where to.
            payload: What.
            on_acknowledged: Called in the network thread, once the broker has it.
            timeout: Seconds to wait for room.

        Returns:
            False if there was no room in time; the message was not taken.
        """
        entry = _Entry(topic, payload, on_acknowledged)
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._waiting) < self._capacity, timeout):
                return False
            self._waiting.append(entry)
            idle = len(self._waiting) == 1
        if idle:
            self._send(entry)
        return True

    def drain(self, timeout: float) -> bool:
        """Wait until everything is acknowledged; False if it is not after ``timeout`` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting, timeout)

    def __len__(self) -> int:
        return len(self._waiting)

    def _send(self, entry: _Entry) -> None:
        # Not under the lock, which the acknowledgement takes in the network thread.
        self._connection.publish(entry.topic, entry.payload, on_acknowledged=self._acknowledged)

    def _acknowledged(self) -> None:
        try:
            self._waiting[0].on_acknowledged()
        finally:
            with self._changed:
                self._waiting.popleft()
                following = self._waiting[0] if self._waiting else None
                self._changed.notify_all()
            if following:
                self._send(following)
