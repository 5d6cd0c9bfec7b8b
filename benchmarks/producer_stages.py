"""Where the CPU time of a process goes: looks at every thread a thousand times a second.

What a thread has spent since the last look is put down to the file it is in: the innermost one of
this repository or of a library, since the standard library works for whoever calls it. It is a
signal that looks, not a thread, which would look whenever somebody gives up the interpreter's lock
and so see hardly anything else.
"""

import signal
import sys
import threading
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Final, Self

_ROOT: Final = f"{Path(__file__).resolve().parent.parent}/"
_LIBRARIES: Final = "site-packages/"
_EVERY_SECONDS: Final = 1e-3


class Stages:
    """Looks while its block runs, which is in the main thread.

    Attributes:
        seconds: CPU seconds by thread (`caller` is the main one) and file, such as
            `caller records/partition.py`.
    """

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._clocks: dict[int, int] = {}
        self._spent: dict[int, float] = {}

    def __enter__(self) -> Self:
        self._interval = sys.getswitchinterval()
        # A thread that computes gives way as often as it is to be looked at.
        sys.setswitchinterval(_EVERY_SECONDS)
        self._before = signal.signal(signal.SIGALRM, self._look)
        self._look(0, None)  # the first one counts nothing
        return self

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self._before)
        sys.setswitchinterval(self._interval)

    def _look(self, _: int, frame: FrameType | None) -> None:
        frames = sys._current_frames()  # noqa: SLF001 - there is no other way to see them
        caller = threading.main_thread().ident
        for number, seen in frames.items():
            with suppress(OSError):  # It has just ended.
                spent = self._cpu_seconds(number)
                if (more := spent - self._spent.get(number, spent)) > 0:
                    where = place(frame if number == caller else seen)
                    self.seconds[f"{'caller' if number == caller else 'thread'} {where}"] += more
                self._spent[number] = spent
        if caller is not None:  # Looking has cost it something.
            self._spent[caller] = self._cpu_seconds(caller)
        # Only now: a look that takes long is not looked at.
        signal.setitimer(signal.ITIMER_REAL, _EVERY_SECONDS)

    def _cpu_seconds(self, number: int) -> float:
        if number not in self._clocks:
            self._clocks[number] = time.pthread_getcpuclockid(number)
        return time.clock_gettime(self._clocks[number])


def place(frame: FrameType | None) -> str:
    """Return the file of the innermost frame of this repository or of a library."""
    while frame is not None:
        path = frame.f_code.co_filename
        if _LIBRARIES in path:
            return path.rpartition(_LIBRARIES)[2].partition("/")[0]
        if path.startswith(_ROOT):
            return path.removeprefix(_ROOT)
        if "concurrent/futures" in path:
            return "concurrent.futures"
        frame = frame.f_back
    return "the standard library"
