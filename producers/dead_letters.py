"""The file that keeps what a producer gave up, so that `producers.replay` can put it again.

Several threads and processes may write to one file at once, also while it is being replayed and
when what was read is dropped after that: each letter is written under a lock on the file, and if
the file is no longer at its path, it goes to the one that is there now, or a new one.
"""

import errno
import fcntl
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from io import FileIO
from pathlib import Path
from stat import S_IMODE
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
            OSError: the file, which it names, cannot be written or has reached `max_bytes`. Later
                calls try again; a reader passes over the torn letter that may be left.
            ValueError: the letter is larger than a reader would accept, or the file is closed.
        """
        with self._lock:
            try:
                self._lock_file()
                self._refuse_if_full()
                self._unsynced = True
                self._empty = False
                write_dead_letter(self._file, letter)
                if self._fsync:
                    self._sync()
            except OSError as error:
                error.filename = error.filename or str(self.path)
                raise
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
                        drop_read(self._file, self.path, size=0)
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

    def _refuse_if_full(self) -> None:
        size = os.fstat(self._file.fileno()).st_size
        if self._max_bytes is not None and size >= self._max_bytes:
            full = f"the dead-letter file has reached its {self._max_bytes} bytes"
            raise OSError(errno.EFBIG, full, str(self.path))

    def _lock_file(self) -> None:
        """Lock the file at the path, which is another one after somebody removed ours."""
        for _ in range(_MAX_ROUNDS):
            _flock(self._file, fcntl.LOCK_EX)
            if _is_at(self._file, self.path):
                return
            replacement = self._open()  # If it fails, the old one stays, for another try.
            if self._unsynced:
                self._sync()
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


def drop_read(file: BinaryIO, path: Path, *, size: int, keep_as: Path | None = None) -> int | None:
    """Drop what was read of a dead-letter file, and remove the file if nothing else is in it.

    A `DeadLetterFile` that is open on it elsewhere goes on with what is at the path then.

    Args:
        file: The file, open.
        path: Where it is.
        size: How many bytes of it were read; what is behind them stays.
        keep_as: If given, another name under which the file stays as it is.

    Returns:
        How many bytes stay, or None if it is another file that is at the path by now.

    Raises:
        OSError: it could not be done; then nothing is dropped.
    """
    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        if not _is_at(file, path):
            return None
        left = max(0, os.fstat(file.fileno()).st_size - size)
        if left and not size:
            return left
        with _rest_of(file, path, size) if left else nullcontext() as rest:
            if keep_as is not None:
                os.link(path, keep_as)
            if rest is not None:
                rest.replace(path)
            else:
                path.unlink()
        return left
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)


@contextmanager
def _rest_of(file: BinaryIO, path: Path, start: int) -> Iterator[Path]:
    """Give a copy of what is in the file from `start` on, which those who write to it may write."""
    status = os.fstat(file.fileno())
    descriptor, name = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as rest:
            os.fchown(descriptor, status.st_uid, status.st_gid)
            os.fchmod(descriptor, S_IMODE(status.st_mode))
            file.seek(start)
            shutil.copyfileobj(file, rest)
            rest.flush()
            os.fsync(descriptor)
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


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
