"""`producers.put_records` on a real engine, and as a person runs it."""

import json
import os
import pty
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from infra.stack.endpoints import Endpoints
from producers.put_records import Record, put_records
from records.dead_letter import read_dead_letters
from records.limits import MAX_RECORD_BYTES
from tests.integration.aggregated_support import (
    Answer,
    Forward,
    all_failed,
    client_of,
    closed_port,
    endpoint_of,
    environment_of,
    every_other_fails,
    read_back,
    tampering,
)
from tests.support import eventually

if TYPE_CHECKING:
    from types_boto3_kinesis import KinesisClient

ROOT = Path(__file__).resolve().parents[2]
Streams = Callable[..., str]


def numbered(how_many: int) -> list[Record]:
    return [Record(f"key-{n}", b"%d" % n) for n in range(how_many)]


def no_sleep(_seconds: float) -> None:
    pass


def test_501_records_are_stored_where_their_outcomes_say(
    kinesis: "KinesisClient", stream: Streams
) -> None:
    name = stream(shards=2)
    outcomes = put_records(kinesis, name, numbered(501))
    assert all(o.delivered and o.attempts == 1 for o in outcomes)
    held = {(h.shard.shard_id, h.sequence_number): h.data for h in read_back(kinesis, name)}
    assert len(held) == 501
    for outcome in outcomes:
        assert outcome.shard_id
        assert outcome.sequence_number
        assert held[outcome.shard_id, outcome.sequence_number] == outcome.record.data


def test_a_record_at_the_limit_is_stored_and_one_byte_more_harms_no_other(
    kinesis: "KinesisClient", stream: Streams
) -> None:
    name = stream()
    largest = Record("k", b"x" * (MAX_RECORD_BYTES - 1))
    records = [Record("k", b"a"), Record("k", largest.data + b"x"), largest, Record("", b"b")]
    outcomes = put_records(kinesis, name, records)
    codes = [o.error_code for o in outcomes]
    assert codes == [None, "RecordTooLarge", None, "InvalidPartitionKey"]
    assert [h.data for h in read_back(kinesis, name)] == [b"a", largest.data]


def test_an_explicit_hash_key_picks_the_shard(kinesis: "KinesisClient", stream: Streams) -> None:
    name = stream(shards=2)
    records = [Record("same", b"low", 0), Record("same", b"high", 2**128 - 1)]
    low, high = put_records(kinesis, name, records)
    assert low.shard_id
    assert high.shard_id
    assert low.shard_id < high.shard_id


def test_an_unknown_stream_is_fatal_at_once(
    kinesis: "KinesisClient", unique: Callable[[str], str]
) -> None:
    outcomes = put_records(kinesis, unique("missing"), numbered(501))
    assert {o.error_code for o in outcomes} == {"ResourceNotFoundException"}
    assert [o.attempts for o in outcomes] == [1] * 500 + [0]


def test_an_endpoint_that_is_not_there_is_tried_and_reported() -> None:
    waits: list[float] = []
    outcomes = put_records(client_of(closed_port()), "any", numbered(3), sleep=waits.append)
    assert {o.error_code for o in outcomes} == {"EndpointConnectionError"}
    assert {o.attempts for o in outcomes} == {8}
    assert len(waits) == 7


def test_a_stream_deleted_on_the_way_loses_no_outcome(
    kinesis: "KinesisClient", stream: Streams
) -> None:
    name = stream()

    def records() -> Iterator[Record]:
        yield from numbered(501)  # Whoever asks for more has put the first 500.
        kinesis.delete_stream(StreamName=name, EnforceConsumerDeletion=True)
        kinesis.get_waiter("stream_not_exists").wait(
            StreamName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 60}
        )
        yield from numbered(600)

    outcomes = put_records(kinesis, name, records())
    assert len(outcomes) == 1101
    assert [o.delivered for o in outcomes] == [True] * 500 + [False] * 601
    assert {o.error_code for o in outcomes[500:]} == {"ResourceNotFoundException"}


def test_a_wrong_count_of_failures_confuses_nobody(
    kinesis: "KinesisClient", stack: Endpoints, stream: Streams
) -> None:
    name = stream()
    requests = Counter[str]()

    def tamper(operation: str, body: bytes, forward: Forward) -> Answer:
        requests[operation] += 1
        if requests["PutRecords"] < 3:
            return all_failed(body)
        return forward(body)

    with tampering(endpoint_of(stack), tamper) as url:
        outcomes = put_records(client_of(url), name, numbered(20), sleep=no_sleep)
    assert all(o.delivered and o.attempts == 3 for o in outcomes)
    assert sorted(int(h.data) for h in read_back(kinesis, name)) == list(range(20))


def test_only_the_failed_half_is_sent_again(
    kinesis: "KinesisClient", stack: Endpoints, stream: Streams
) -> None:
    name = stream(shards=2)

    def tamper(_operation: str, body: bytes, forward: Forward) -> Answer:
        return every_other_fails(body, forward)

    with tampering(endpoint_of(stack), tamper) as url:
        outcomes = put_records(client_of(url), name, numbered(64), sleep=no_sleep)
    assert all(o.delivered for o in outcomes)
    assert Counter(o.attempts for o in outcomes) == {1: 32, 2: 16, 3: 8, 4: 4, 5: 2, 6: 1, 7: 1}
    assert sorted(int(h.data) for h in read_back(kinesis, name)) == list(range(64))


def test_an_answer_lost_after_the_commit_makes_duplicates_and_loses_nothing(
    kinesis: "KinesisClient", stack: Endpoints, stream: Streams
) -> None:
    name = stream()
    lost: list[bytes] = []

    def tamper(_operation: str, body: bytes, forward: Forward) -> Answer | None:
        answer = forward(body)
        if not lost:
            lost.append(answer[1])
            return None
        return answer

    with tampering(endpoint_of(stack), tamper) as url:
        outcomes = put_records(client_of(url), name, numbered(5), sleep=no_sleep)
    assert all(o.delivered and o.attempts == 2 for o in outcomes)
    assert Counter(int(h.data) for h in read_back(kinesis, name)) == dict.fromkeys(range(5), 2)


@pytest.mark.parametrize(
    "garbage",
    [(200, b"<html>"), (200, b'{"Records": [{'), (200, b""), (200, b"{}"), (502, b"<html>")],
    ids=["html", "torn", "empty", "bare", "gateway"],
)
def test_an_answer_nobody_can_read_is_no_answer(
    kinesis: "KinesisClient", stack: Endpoints, stream: Streams, garbage: Answer
) -> None:
    name = stream()
    requests = Counter[str]()

    def tamper(operation: str, body: bytes, forward: Forward) -> Answer:
        requests[operation] += 1
        return garbage if requests[operation] == 1 else forward(body)

    with tampering(endpoint_of(stack), tamper) as url:
        outcomes = put_records(client_of(url), name, numbered(5), sleep=no_sleep)
    assert all(o.delivered and o.attempts == 2 for o in outcomes)
    assert len(read_back(kinesis, name)) == 5


# As a person runs it.


def run(
    stack: Endpoints, *arguments: str, given: bytes = b"", url: str | None = None
) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        [sys.executable, "-m", "producers.put_records", *arguments],
        input=given,
        capture_output=True,
        cwd=ROOT,
        env=environment_of(stack, url),
        timeout=120,
        check=False,
    )


def test_lines_of_a_file_and_of_a_pipe(
    kinesis: "KinesisClient", stack: Endpoints, stream: Streams, tmp_path: Path
) -> None:
    name = stream(shards=2)
    lines = [json.dumps({"id": n % 7, "n": n}).encode() for n in range(501)]
    path = tmp_path / "lines"
    path.write_bytes(b"\n".join(lines))
    from_file = run(stack, name, str(path), "--key-field", "id")
    assert (from_file.returncode, from_file.stderr) == (0, b"")
    assert from_file.stdout == f"delivered 501 of 501 records to {name}\n".encode()
    from_pipe = run(stack, name, "--partition-key", "x", given=b"one\ntwo\n")
    assert from_pipe.stdout == f"delivered 2 of 2 records to {name}\n".encode()
    held = read_back(kinesis, name)
    assert sorted(h.data for h in held) == sorted([*lines, b"one", b"two"])
    assert {h.partition_key for h in held} == {*"0123456x"}


def test_bad_lines_are_named_kept_and_harm_no_other(
    kinesis: "KinesisClient", stack: Endpoints, stream: Streams, tmp_path: Path
) -> None:
    name = stream()
    letters = tmp_path / "failed.dlq"
    large = json.dumps({"id": "x", "fill": "x" * MAX_RECORD_BYTES}).encode()
    given = b'{"id": "a"}\nnot json\n' + large + b'\n{"id": "b"}\n'
    done = run(stack, name, "-", "--key-field=id", f"--dead-letter={letters}", given=given)
    assert done.returncode == 1
    assert b"delivered 2 of 4" in done.stdout
    told = done.stderr.decode().splitlines()
    assert any("line 2 is no JSON object" in line for line in told)
    assert any("1 not delivered, RecordTooLarge" in line for line in told)
    assert "Traceback" not in done.stderr.decode()
    with letters.open("rb") as file:
        assert [each.data for each in read_dead_letters(file)] == [b"not json", large]
    assert [h.data for h in read_back(kinesis, name)] == [b'{"id": "a"}', b'{"id": "b"}']


@pytest.mark.parametrize("reachable", [True, False], ids=["no stream", "no endpoint"])
def test_nothing_there_is_one_clear_line_and_every_line_is_kept(
    stack: Endpoints, unique: Callable[[str], str], tmp_path: Path, *, reachable: bool
) -> None:
    lines = [b"%d" % n for n in range(1200)]
    letters = tmp_path / "failed.dlq"
    url = None if reachable else closed_port()
    name = unique("missing")
    done = run(stack, name, "-", f"--dead-letter={letters}", given=b"\n".join(lines), url=url)
    assert done.returncode == 1
    code = "ResourceNotFoundException" if reachable else "EndpointConnectionError"
    (told,) = done.stderr.decode().splitlines()
    assert told.startswith(f"producers.put_records: 1200 not delivered, {code}: ")
    with letters.open("rb") as file:
        assert [each.data for each in read_dead_letters(file)] == lines


@pytest.mark.parametrize(
    "arguments",
    [
        ["s", "no-such-file"],
        ["s", "-", "--partition-key=a", "--key-field=b"],
        [],
        ["s", "-", "--dead-letter=/no/such/folder/x"],
    ],
)
def test_bad_usage_is_told_in_words(stack: Endpoints, arguments: list[str]) -> None:
    done = run(stack, *arguments)
    assert done.returncode == 2
    assert b"usage: producers.put_records" in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_input_and_loses_no_line(
    kinesis: "KinesisClient", stack: Endpoints, stream: Streams, number: signal.Signals
) -> None:
    name = stream()
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "producers.put_records", name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env=environment_of(stack),
    ) as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        try:
            # The first batch goes out when it is full, so the program is past its start.
            process.stdin.write(b"".join(b"%d\n" % n for n in range(503)))
            process.stdin.write(b"half a li")
            process.stdin.flush()
            eventually(lambda: len(read_back(kinesis, name)) >= 500, timeout=60)
            process.send_signal(number)
            out = process.stdout.read()
            error = process.stderr.read()
            assert process.wait(60) == 0
        finally:
            process.kill()
            process.stdin.close()
    assert error == b""
    assert (
        out
        == f"delivered 503 of 503 records to {name}, stopped by a signal after line 503\n".encode()
    )
    assert sorted(int(h.data) for h in read_back(kinesis, name)) == list(range(503))


def test_kit_put_draws_a_bar_on_a_terminal_and_only_there(
    kinesis: "KinesisClient", stack: Endpoints, stream: Streams, tmp_path: Path
) -> None:
    name = stream()
    path = tmp_path / "lines"
    path.write_bytes(b"".join(b"%d\n" % n for n in range(1000)))
    call = f"import sys; from kit.put import put; sys.exit(put({name!r}, {str(path)!r}, {{}}))"
    summary = f"delivered 1000 of 1000 records to {name}"
    command = [sys.executable, "-c", call]
    surroundings = environment_of(stack) | {"TERM": "xterm-256color"}
    plain = subprocess.run(
        command, capture_output=True, cwd=ROOT, env=surroundings, timeout=60, check=True
    )
    assert (plain.stdout.decode(), plain.stderr) == (summary + "\n", b"")
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as screen:
        drawn = subprocess.Popen(command, stdout=theirs, stderr=theirs, cwd=ROOT, env=surroundings)
        os.close(theirs)
        seen = b""
        try:
            while chunk := screen.read(65536):
                seen += chunk
        except OSError:
            pass  # How Linux says that the other end is closed.
        assert drawn.wait(60) == 0
    assert "━".encode() in seen
    assert seen.rstrip().endswith(summary.encode())
    assert len(read_back(kinesis, name)) == 2000
