"""The dead-letter file: many writers, a disk that fails, a file that is removed beneath them."""

import multiprocessing
import os
import sys
import threading
from pathlib import Path

import pytest

from producers.dead_letters import DeadLetterFile, drop_read
from records.dead_letter import DeadLetter, read_dead_letters, write_dead_letter


def letter(data: bytes = b"data") -> DeadLetter:
    return DeadLetter("s", "k", data, None, "Code", "why", 3, 1_800_000_000.25)


def datas(path: Path) -> list[bytes]:
    with path.open("rb") as file:
        return [each.data for each in read_dead_letters(file)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "failed.dlq"


def test_a_letter_is_in_the_file_when_append_returns(path: Path) -> None:
    letters = DeadLetterFile(path)
    letters.append(letter(b"one"))
    assert datas(path) == [b"one"]
    letters.close()


def test_what_is_there_stays(path: Path) -> None:
    for data in (b"one", b"two"):
        with DeadLetterFile(str(path)) as letters:
            letters.append(letter(data))
    assert datas(path) == [b"one", b"two"]


def test_a_file_that_got_nothing_is_not_left_behind(path: Path) -> None:
    DeadLetterFile(path).close()
    assert not path.exists()
    path.touch()
    DeadLetterFile(path).close()
    assert path.exists(), "it was somebody else's"


def test_a_place_that_is_not_there_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        DeadLetterFile(tmp_path / "missing" / "failed.dlq")
    with pytest.raises(IsADirectoryError):
        DeadLetterFile(tmp_path)


def test_it_is_closed_once_and_takes_nothing_more(path: Path) -> None:
    letters = DeadLetterFile(path)
    letters.append(letter())
    letters.close()
    letters.close()
    with pytest.raises(ValueError, match="closed"):
        letters.append(letter())
    assert len(datas(path)) == 1


def test_it_grows_to_its_bound_and_says_so(path: Path) -> None:
    with DeadLetterFile(path, max_bytes=1000) as letters:
        while path.stat().st_size < 1000:
            letters.append(letter(b"x" * 100))
        kept = datas(path)
        assert 1000 <= path.stat().st_size < 1000 + 300
        with pytest.raises(OSError, match="has reached its 1000 bytes"):
            letters.append(letter(b""))
    assert datas(path) == kept


@pytest.mark.skipif(sys.platform != "linux", reason="needs a device that is always full")
def test_a_full_disk_is_an_error_each_time() -> None:
    with DeadLetterFile("/dev/full") as letters:
        for _ in range(2):
            with pytest.raises(OSError, match=r"No space left on device: '/dev/full'"):
                letters.append(letter())


def test_a_letter_that_no_reader_takes_is_refused_and_harms_no_other(path: Path) -> None:
    with DeadLetterFile(path) as letters:
        with pytest.raises(ValueError, match="too large"):
            letters.append(letter(bytes(10 * 2**20 + 1)))
        letters.append(letter(b"after"))
    assert datas(path) == [b"after"]


@pytest.mark.parametrize("each", [True, False])
def test_letters_are_brought_to_the_disk_one_by_one_or_in_the_end(
    path: Path,
    each: bool,  # noqa: FBT001 - parametrized
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    with DeadLetterFile(path, fsync=each) as letters:
        letters.append(letter())
        letters.append(letter())
        assert len(synced) == (2 if each else 0)
    assert len(synced) == (2 if each else 1)


def test_a_disk_that_fails_in_the_end_is_told_and_the_file_is_closed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    letters = DeadLetterFile(path)
    letters.append(letter())
    with pytest.raises(OSError, match="Input/output error"):
        letters.close()
    letters.close()
    assert letters._file.closed


def test_threads_do_not_cut_each_others_letters_in_two(path: Path) -> None:
    given = {b"%d-%d" % (n, m) * 5_000 for n in range(8) for m in range(20)}
    work = iter(sorted(given))
    lock = threading.Lock()

    def write(letters: DeadLetterFile) -> None:
        while True:
            with lock:
                data = next(work, None)
            if data is None:
                return
            letters.append(letter(data))

    with DeadLetterFile(path) as letters:
        threads = [threading.Thread(target=write, args=(letters,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(datas(path)) == sorted(given)


def _write_many(path: Path, number: int) -> None:
    with DeadLetterFile(path) as letters:
        for count in range(200):
            letters.append(letter(b"%d-%d" % (number, count)))


def test_processes_share_a_file_that_is_being_removed_and_lose_nothing(path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_many, args=(path, number)) for number in range(3)]
    read: list[bytes] = []
    removed = 0

    def take() -> bool:
        """Read the file, and drop what was read; return whether the file went."""
        try:
            file = path.open("rb")
        except FileNotFoundError:
            return False
        with file:
            found = [each.data for each in read_dead_letters(file)]
            left = drop_read(file, path, size=file.tell())
        assert left is not None, "nobody else drops anything"
        read.extend(found)
        return not left

    for writer in writers:
        writer.start()
    try:
        while any(writer.is_alive() for writer in writers):
            removed += take()
    finally:
        for writer in writers:
            writer.join(30)
            writer.kill()
    take()
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    assert removed > 0
    assert sorted(read) == sorted(b"%d-%d" % (n, m) for n in range(3) for m in range(200))


def test_what_was_read_is_dropped_and_what_came_since_stays(path: Path) -> None:
    path.touch()
    path.chmod(0o640)
    with DeadLetterFile(path) as letters, path.open("rb") as file:
        letters.append(letter(b"one"))
        size = path.stat().st_size
        letters.append(letter(b"two"))
        assert drop_read(file, path, size=0) == path.stat().st_size, "nothing was read"
        assert datas(path) == [b"one", b"two"]
        assert drop_read(file, path, size=size) == path.stat().st_size
        assert datas(path) == [b"two"]
        assert path.stat().st_mode & 0o777 == 0o640
        assert drop_read(file, path, size=size) is None, "it is another file now"
        letters.append(letter(b"three"))
        assert datas(path) == [b"two", b"three"]
    with path.open("rb") as file:
        assert drop_read(file, path, size=path.stat().st_size) == 0
    assert [*path.parent.iterdir()] == []


def test_a_file_can_be_kept_as_it_is_under_another_name(path: Path) -> None:
    with DeadLetterFile(path) as letters:
        letters.append(letter(b"one"))
        size, before = path.stat().st_size, path.read_bytes()
        kept = path.with_name("kept")
        with path.open("rb") as file:
            kept.touch()
            with pytest.raises(FileExistsError):
                drop_read(file, path, size=size, keep_as=kept)
            assert path.read_bytes() == before
            kept.unlink()
            assert drop_read(file, path, size=size, keep_as=kept) == 0
        letters.append(letter(b"two"))
    assert kept.read_bytes() == before
    assert datas(path) == [b"two"]


@pytest.mark.parametrize("call", ["fsync", "fchown"])
def test_what_cannot_be_written_anew_is_not_dropped(
    path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with DeadLetterFile(path) as letters:
        letters.append(letter(b"one"))
        size = path.stat().st_size
        letters.append(letter(b"two"))
        with path.open("rb") as file, monkeypatch.context() as patch:
            patch.setattr(os, call, fail)
            with pytest.raises(OSError, match="No space left"):
                drop_read(file, path, size=size, keep_as=path.with_name("kept"))
        letters.append(letter(b"three"))
    assert datas(path) == [b"one", b"two", b"three"]
    assert [*path.parent.iterdir()] == [path]


def test_one_that_was_moved_away_is_begun_anew(path: Path, tmp_path: Path) -> None:
    with DeadLetterFile(path) as letters:
        letters.append(letter(b"one"))
        path.rename(tmp_path / "rotated")
        letters.append(letter(b"two"))
    assert (datas(tmp_path / "rotated"), datas(path)) == ([b"one"], [b"two"])


def test_what_is_in_one_that_was_moved_away_is_brought_to_the_disk(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(os.fstat(fd).st_ino), fsync(fd)))
    with DeadLetterFile(path) as letters:
        letters.append(letter(b"one"))
        path.rename(tmp_path / "rotated")
        letters.append(letter(b"two"))
    assert synced == [(tmp_path / "rotated").stat().st_ino, path.stat().st_ino]


def test_a_torn_letter_in_the_middle_hides_no_other(path: Path) -> None:
    with DeadLetterFile(path) as letters:
        letters.append(letter(b"one"))
        with path.open("ab") as torn:
            write_dead_letter(torn, letter(b"torn"))
            torn.truncate(path.stat().st_size - 3)
        letters.append(letter(b"two"))
    damages: list[object] = []
    with path.open("rb") as file:
        found = [each.data for each in read_dead_letters(file, on_corrupt=damages.append)]
    assert (found, len(damages)) == ([b"one", b"two"], 1)
