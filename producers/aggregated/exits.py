"""At the interpreter's exit: producers that nobody closed are closed."""

import atexit
import time
import weakref
from typing import Final, Protocol

# For how long all of them may deliver at the exit; what is not sent by then is dead-lettered.
EXIT_SECONDS: Final = 5.0


class Closable(Protocol):
    """What is closed at the end."""

    def close(self, deadline: float) -> None:
        """Come to an end within `deadline` seconds."""


_open: "weakref.WeakSet[Closable]" = weakref.WeakSet()


def close_at_exit(producer: Closable) -> None:
    """Have a producer closed at the interpreter's exit, unless it is gone by then.

    Its threads are daemons, so they live until after that. A process that is killed, or ends with
    `os._exit`, closes nothing.
    """
    _open.add(producer)


def forget(producer: Closable) -> None:
    """Leave a producer alone at the exit, since it is closed."""
    _open.discard(producer)


def _close_all() -> None:
    until = time.monotonic() + EXIT_SECONDS
    raised: BaseException | None = None
    for producer in [*_open]:
        try:
            producer.close(max(0.0, until - time.monotonic()))
        except BaseException as error:  # noqa: BLE001 - raised again when all are closed
            raised = raised or error
    if raised is not None:
        raise raised


atexit.register(_close_all)
