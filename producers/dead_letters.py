"""The file that keeps what a producer gave up, so that `producers.replay` can put it again.

Several threads and processes may write to one file at once, also while it is being replayed and
when it is removed after that: each letter is written under a lock on the file, and if the file is
no longer at its path, a new one is begun there.
"""

import errno
import fcntl
import os
import threading
from contextlib import suppress
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self

from records.dead_letter import DeadLetter, write_dead_letter
from records.limits import MIB

# Each round means that somebody removed the file right then.
_MAX_ROUNDS: Final = 100
# What a pipe, a terminal or a device answers: there is nothing to bring to a disk.
_NO_DISK: Final = {errno.EINVAL, errno.ENOTSUP, errno.EROFS}


class DeadLetterFile:
    """Appends dead letters to a file; `append` fits `on_dead_letter` of a producer.

    A letter is in the file when `append` returns, and outlives the process. Whether it outlives a
    crash of the machine at once is what `fsync` says; without it, `close` sees to that.

    Args:
        path: Made if it is not there; what is in it stays.
        max_bytes: How large the file may become; None: as large as the disk allows.
        fsync: Whether each letter is brought to the disk by itself, which takes milliseconds.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(
        self, path: str | Path, *, max_bytes: int | None = 1024 * MIB, fsync: bool = False
    ) -> None:
        self.path = Path(path)
        self._max_bytes = max_bytes
        self._fsync = fsync
        self._lock = threading.Lock()
        self._unsynced = False
        self._empty = not self.path.exists()
        self._file = self._open()

    def append(self, letter: DeadLetter) -> None:
        """Write one letter behind those that are there. Any thread may call it.

        Raises:
            OSError: the file cannot be written, or has reached `max_bytes`. Later calls try again;
                a reader passes over the torn letter that may be left.
            ValueError: the letter is larger than a reader would accept, or the file is closed.
        """
        with self._lock:
            try:
                self._lock_file()
                size = os.fstat(self._file.fileno()).st_size
                if self._max_bytes is not None and size >= self._max_bytes:
                    full = f"the dead-letter file has reached its {self._max_bytes} bytes"
                    raise OSError(errno.EFBIG, full, str(self.path))
                self._unsynced = True
                self._empty = False
                write_dead_letter(self._file, letter)
                if self._fsync:
                    self._sync()
            finally:
                _flock(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        """Bring all letters to the disk and close the file. Calling it again is harmless.

        A file that this object made and that nobody has written to is removed.

        Raises:
            OSError: the disk took something that was written, and now fails; the file is closed.
        """
        with self._lock:
            try:
                if self._unsynced:
                    self._sync()
                if self._empty and not self._file.closed:
                    with suppress(OSError):
                        remove_if_unchanged(self._file, self.path, size=0)
            finally:
                self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _open(self) -> FileIO:
        # Unbuffered: what a failed write leaves over must not be written later, behind others.
        return self.path.open("ab", buffering=0)

    def _lock_file(self) -> None:
        """Lock the file at the path, which is another one after somebody removed ours."""
        for _ in range(_MAX_ROUNDS):
            _flock(self._file, fcntl.LOCK_EX)
            if _is_at(self._file, self.path):
                return
            replacement = self._open()  # If it fails, the old one stays, for another try.
            self._file.close()
            self._file = replacement
        raise OSError(errno.EBUSY, "somebody keeps removing the dead-letter file", str(self.path))

    def _sync(self) -> None:
        self._unsynced = False
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            if error.errno not in _NO_DISK:
                raise


def remove_if_unchanged(file: BinaryIO, path: Path, *, size: int) -> bool:
    """Remove a dead-letter file, unless a letter was appended since it was read.

    A `DeadLetterFile` that is open on it elsewhere goes on in a new file.

    Args:
        file: The file, open.
        path: Where it is.
        size: How many bytes of it were read.

    Returns:
        Whether it was removed.

    Raises:
        OSError: it could not be removed.
    """
    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        unchanged = _is_at(file, path) and os.fstat(file.fileno()).st_size == size
        if unchanged:
            path.unlink()
        return unchanged
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)


def _flock(file: FileIO, operation: int) -> None:
    # Where there are no locks, as on some network drives, nothing can be removed either.
    with suppress(OSError):
        fcntl.flock(file, operation)


def _is_at(file: FileIO | BinaryIO, path: Path) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    return os.path.samestat(there, os.fstat(file.fileno()))
