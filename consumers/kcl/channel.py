"""The pipe between the daemon and the child of one shard.

kclpy talks over `sys.stdin` and `sys.stdout`, which user code shares: a JSON line that a
handler prints is taken for an answer, a subprocess can eat a request, and a handler that hangs
outlives a daemon that was killed. Here the two descriptors are moved out of everybody's reach
first, and a thread watches the pipe while the handler works.
"""

import logging
import os
import queue
import sys
import threading
from collections.abc import Callable
from typing import BinaryIO, Final

from consumers.errors import ProtocolError

EXIT_ORPHANED: Final = 70
"""Exit status of a child whose daemon died while a request was open."""

GRACE_S: Final = 1.0
"""How long the child may go on after the pipe closed.

An orderly daemon closes the pipe right after the last status, while the child is still on its way
back to the next read; a second is ample for that. A handler that is cut off in the middle loses
nothing: its transaction is rolled back and its records were not checkpointed.
"""

_log = logging.getLogger(__name__)


class Channel:
    """Lines from and to the daemon.

    Args:
        source: What the daemon writes, binary and unshared.
        target: File descriptor that the daemon reads.
        abandon: Ends the process at once when the daemon is gone and the child does not stop.
    """

    def __init__(
        self,
        source: BinaryIO,
        target: int,
        *,
        abandon: Callable[[int], None] = os._exit,
    ) -> None:
        self._source = source
        self._target = target
        self._abandon = abandon
        # The daemon sends one line and waits, so two are never queued unless it is broken.
        self._lines: queue.Queue[bytes | None] = queue.Queue(maxsize=8)
        self._reading = threading.Event()
        self._closed = False
        threading.Thread(target=self._read, name="daemon-pipe", daemon=True).start()

    @classmethod
    def take_over(cls) -> "Channel":
        """Move standard input and output to descriptors of our own.

        Afterwards file descriptor 0 is empty and 1 leads where 2 leads, for this process and for
        all that it starts; the two descriptors of the channel are not inherited.
        """
        source = os.fdopen(private_copy(0), "rb")
        target = private_copy(1)
        _replace_by_nothing(0)
        os.dup2(2, 1)
        sys.stdout.flush()  # after it: what was printed so far must not reach the daemon either
        return cls(source, target)

    def receive(self) -> bytes | None:
        """Wait for a line; None when the daemon has closed the pipe."""
        self._reading.set()
        line = None if self._closed else self._lines.get()
        if line is None or self._closed:
            self._closed = True
            return None
        self._reading.clear()
        return line

    def send(self, line: bytes) -> None:
        """Write a line that ends in a newline.

        Raises:
            ProtocolError: The daemon is gone.
        """
        view = memoryview(line)
        try:
            while view:
                view = view[os.write(self._target, view) :]
        except OSError as error:
            raise ProtocolError(f"the daemon does not read any more: {error}") from error

    def _read(self) -> None:
        try:
            for line in self._source:
                if line.strip():
                    self._lines.put(line)
        except Exception:  # noqa: BLE001 - else the main thread would wait for ever
            _log.exception("the daemon cannot be read any more, which is as if it were gone")
        self._closed = True
        self._lines.put(None)
        if not self._reading.wait(GRACE_S):
            _log.error("the daemon is gone while a request is open: this process ends now")
            self._abandon(EXIT_ORPHANED)


def private_copy(descriptor: int) -> int:
    """Return a copy of a file descriptor that no other process ever holds.

    The daemon waits for the end of what its child writes, which comes when the last copy is closed.
    Python lets no program inherit it, but a fork, such as multiprocessing's, copies everything.
    """
    copy = os.dup(descriptor)
    os.register_at_fork(after_in_child=lambda: _replace_by_nothing(copy))
    return copy


def _replace_by_nothing(descriptor: int) -> None:
    empty = os.open(os.devnull, os.O_RDWR)
    os.dup2(empty, descriptor, inheritable=os.get_inheritable(descriptor))
    os.close(empty)
