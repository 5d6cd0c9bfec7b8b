"""The lines of a file on their way to a producer, and what a person is told of them."""

import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from producers import lines
from producers.dead_letters import DeadLetterFile
from producers.lines import MAX_LINE_BYTES, Feed
from producers.programs import Tally
from records.dead_letter import DeadLetter, read_dead_letters


@pytest.fixture
def feed(tmp_path: Path) -> Iterator[Callable[..., Feed]]:
    made: list[Feed] = []

    def make(content: bytes, letters: DeadLetterFile | None = None, **options: Any) -> Feed:
        path = tmp_path / "lines"
        path.write_bytes(content)
        given = {"stream": "s", "partition_key": None, "key_field": None} | options
        client: Any = None
        made.append(
            Feed(
                "test",
                Namespace(**given),
                client=client,
                source=path.open("rb"),
                letters=letters,
                progress=None,
            )
        )
        return made[-1]

    yield make
    for each in made:
        each._source.close()


def test_lines_lose_their_ends_and_nothing_else(feed: Callable[..., Feed]) -> None:
    running = feed(b" a \r\n\n\xff\x00b\nlast")
    assert [line for _, line in running] == [b" a ", b"\xff\x00b", b"last"]
    assert running.bytes_read == running.total_bytes


def test_each_line_has_a_random_key_unless_told(feed: Callable[..., Feed]) -> None:
    assert len({key for key, _ in feed(b"a\nb\nc\n")}) == 3
    assert {key for key, _ in feed(b"a\nb\n", partition_key="k")} == {"k"}


def test_the_key_field_is_read_and_a_line_without_it_is_named(
    feed: Callable[..., Feed], capsys: pytest.CaptureFixture[str]
) -> None:
    content = b'{"id": "x"}\n{"id": 7}\nnot json\n[1]\n{"id": true}\n{"id": ""}\n{"other": 1}\n'
    running = feed(content, key_field="id")
    assert [key for key, _ in running] == ["x", "7", "", "", "", "", ""]
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 5
    assert "line 3 is no JSON object with a field 'id'" in said[0]


def test_lines_without_a_key_are_told_ten_times_and_counted(
    feed: Callable[..., Feed], capsys: pytest.CaptureFixture[str]
) -> None:
    running = feed(b"not json\n" * 2_000, key_field="id")
    for key, line in running:
        running.failed(key, line, "InvalidPartitionKey", "no key", 0)
    running.end()
    told = capsys.readouterr().err.splitlines()
    assert told[9].startswith("test: line 10 is no JSON object")
    assert told[10:] == [
        "test: 2000 not delivered, InvalidPartitionKey: no key",
        "test: 1990 more of the like about the input",
    ]
    assert running.exit_code == 1


def test_a_line_longer_than_any_record_fails_alone(
    feed: Callable[..., Feed], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    letters = DeadLetterFile(tmp_path / "dlq")
    running = feed(b"a\n" + b"x" * (MAX_LINE_BYTES + 200_000) + b"\nafter\n", letters)
    assert [line for _, line in running] == [b"a", b"after"]
    assert running.bytes_read == running.total_bytes
    assert (running.exit_code, running.failed_records) == (1, 1)
    running.end()
    said = capsys.readouterr()
    assert said.out == "delivered 0 of 1 records to s\n"
    assert "test: line 2 is longer than 10485760 bytes: skipped, not kept\n" in said.err
    assert "test: 1 not delivered, RecordTooLarge: " in said.err
    assert not (tmp_path / "dlq").exists()
    longest = feed(b"x" * MAX_LINE_BYTES + b"\nafter\n")
    assert [len(line) for _, line in longest] == [MAX_LINE_BYTES, 5]
    assert longest.exit_code == 0


def test_stop_ends_the_input_without_cutting_a_line(
    feed: Callable[..., Feed], capsys: pytest.CaptureFixture[str]
) -> None:
    given = [b"%06d" % n + b"x" * 60 for n in range(20_000)]
    running = feed(b"\n".join(given))
    taken = []
    for _, line in running:
        taken.append(line)
        if len(taken) == 10:
            running.stop()
    assert 10 <= len(taken) < len(given)
    assert taken == given[: len(taken)]
    running.end()
    told = f"stopped by a signal after line {len(taken)}, and the rest of the file was not put\n"
    assert capsys.readouterr().out == f"delivered 0 of 0 records to s, {told}"
    assert running.exit_code == 1


def test_a_signal_after_the_last_byte_left_nothing_out(
    feed: Callable[..., Feed], capsys: pytest.CaptureFixture[str]
) -> None:
    running = feed(b"one\nlast")
    taken = []
    for _, line in running:
        taken.append(line)
        running.stop()  # Both lines are in the file's buffer by now.
    running.end()
    assert taken == [b"one", b"last"]
    assert capsys.readouterr().out.endswith(" stopped by a signal after line 2\n")
    assert running.exit_code == 0


def test_of_a_pipe_nobody_knows_what_a_signal_left_out(feed: Callable[..., Feed]) -> None:
    running = feed(b"")
    running.total_bytes = None
    running.stop()
    assert [*running] == []
    assert running.exit_code == 0


def test_what_failed_is_kept_and_summed_up(
    feed: Callable[..., Feed], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "dlq"
    running = feed(b"", DeadLetterFile(path))
    running.delivered()
    running.failed("k", b"one", "Code", "first\nmessage", 3)
    running.failed("k", b"two", "Code", "second", 0)
    running.end()
    said = capsys.readouterr()
    assert said.out == f"delivered 1 of 3 records to s; 2 kept in {path}\n"
    assert said.err == "test: 2 not delivered, Code: first message\n"
    assert running.exit_code == 1
    with path.open("rb") as file:
        kept = list(read_dead_letters(file))
    assert [(each.data, each.attempts) for each in kept] == [(b"one", 3), (b"two", 0)]


@pytest.mark.skipif(sys.platform != "linux", reason="needs a device that is always full")
def test_a_full_disk_is_said_once_and_the_rest_goes_on(
    feed: Callable[..., Feed], capsys: pytest.CaptureFixture[str]
) -> None:
    running = feed(b"", DeadLetterFile("/dev/full"))
    running.failed("k", b"one", "Code", "why", 1)
    running.failed("k", b"two", "Code", "why", 1)
    running.end()
    said = capsys.readouterr()
    assert said.err.count("No space left") == 1
    assert said.out == "delivered 0 of 2 records to s; 2 could not be kept\n"
    assert running.exit_code == 1
    assert not running.all_kept


@pytest.mark.parametrize("broken", [False, True])
def test_what_failed_is_kept_once_it_is_on_the_disk(
    feed: Callable[..., Feed],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    broken: bool,  # noqa: FBT001 - parametrized
) -> None:
    def sync(_descriptor: int) -> None:
        if broken:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", sync)
    running = feed(b"", DeadLetterFile(tmp_path / "dlq"))
    running.failed("k", b"one", "Code", "why", 1)
    running.end()
    assert running.all_kept is not broken


# The arguments.


@pytest.mark.parametrize(
    "order",
    [
        "s FILE --key-field=id",
        "s --key-field=id FILE",
        "s --key-field id FILE",
        "--key-field id s FILE",
        "--key-field=id s -- FILE",
        "--key-field=id -- s -FILE",
    ],
)
def test_options_come_before_or_behind_the_file(
    order: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.chdir(tmp_path)
    for name in ("FILE", "-FILE"):
        Path(name).write_bytes(b'{"id": "a"}\n')
    with lines.feed(ArgumentParser(), order.split(), read_timeout=1) as running:
        assert [key for key, _ in running] == ["a"]
    assert running.stream == "s"


@pytest.mark.parametrize("argv", ["s a b", "", "s --partition-key=a --key-field=b", "s --linger=1"])
def test_what_makes_no_sense_is_bad_usage(argv: str, capsys: pytest.CaptureFixture[str]) -> None:
    with (
        pytest.raises(SystemExit) as ended,
        lines.feed(ArgumentParser("prog"), argv.split(), read_timeout=1),
    ):
        pytest.fail("it was taken")
    assert ended.value.code == 2
    assert "usage: prog [-h] [--partition-key KEY | --key-field" in capsys.readouterr().err


def test_a_dead_letter_file_without_a_name_is_bad_usage(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with (
        pytest.raises(SystemExit) as ended,
        lines.feed(ArgumentParser("kit put"), ["s", "--dead-letter="], read_timeout=1),
    ):
        pytest.fail("it was taken")
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "usage: kit put --help\nkit put: error: argument --dead-letter: a file has a name\n"
    )


# The tally.


def letter(stream: str, code: str = "Code") -> DeadLetter:
    return DeadLetter(stream, "k", b"data", None, code, "why", 1, 0.0)


def test_failures_at_several_streams_are_told_apart_and_are_not_without_end(
    capsys: pytest.CaptureFixture[str],
) -> None:
    tally = Tally("test", letters=None, progress=None)
    for number in range(1000):
        tally.give_up(letter(f"s{number % 100}"))
    tally.sum_up(f"s{number}" for number in range(100))
    said = capsys.readouterr()
    assert said.out == "delivered 0 of 1000 records to s0, s1, s2 and 97 more streams\n"
    told = said.err.splitlines()
    assert told[0] == "test: 10 not delivered to s0, Code: why"
    assert told[-1] == "test: 800 not delivered, other errors: why"
    assert len(told) == 21


def test_what_is_wrong_with_the_input_is_said_ten_times_and_counted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    tally = Tally("test", letters=None, progress=None)
    for number in range(35):
        tally.bad_input(f"damage {number}")
    tally.sum_up(["s"])
    told = capsys.readouterr().err.splitlines()
    assert told[:10] == [f"test: damage {number}" for number in range(10)]
    assert told[10:] == ["test: 25 more of the like about the input"]
    assert tally.exit_code == 2


def test_progress_is_told_at_the_end_with_everything_in_it() -> None:
    seen: list[tuple[int, int, bool]] = []

    def note(tally: Tally) -> None:
        seen.append((tally.delivered_records, tally.failed_records, tally.finished))

    tally = Tally("test", letters=None, progress=note)
    for _ in range(1000):
        tally.delivered()
    tally.give_up(letter("s"))
    tally.sum_up(["s"])
    assert seen[0] == (1, 0, False)
    assert seen[-1] == (1000, 1, True)
