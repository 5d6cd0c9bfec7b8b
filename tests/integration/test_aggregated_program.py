"""`python -m producers.aggregated` as a person runs it, on a real engine."""

import json
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from infra.stack.endpoints import Endpoints
from records.dead_letter import read_dead_letters
from records.envelope import open_envelope
from records.limits import MAX_RECORD_BYTES
from tests.integration.aggregated_support import (
    Answer,
    Forward,
    all_failed,
    closed_port,
    endpoint_of,
    every_other_fails,
    payloads,
    read_back,
    refused,
    tampering,
)
from tests.integration.program_support import starting
from tests.support import eventually

if TYPE_CHECKING:
    from types_boto3_kinesis import KinesisClient


ROOT = Path(__file__).resolve().parents[2]
Streams = Callable[..., str]


@pytest.fixture
def program(stack: Endpoints) -> Iterator[Callable[..., "subprocess.Popen[bytes]"]]:
    with starting("producers.aggregated", stack) as start:
        yield start


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_live_feed_travels_at_once_and_a_signal_ends_it_cleanly(
    kinesis: "KinesisClient",
    stream: Streams,
    program: Callable[..., "subprocess.Popen[bytes]"],
    number: signal.Signals,
) -> None:
    name = stream()
    process = program(name, "--key-field=id")
    assert process.stdin
    process.stdin.write(b'{"id": 1}\n{"id": 2}\n')
    process.stdin.flush()
    eventually(lambda: sum(len(h.users()) for h in read_back(kinesis, name)) == 2, timeout=60)
    process.send_signal(number)
    assert process.stdout
    out = process.stdout.read().decode()
    assert process.wait(60) == 0
    assert out == f"delivered 2 of 2 records to {name}, stopped by a signal after line 2\n"


@pytest.mark.parametrize("options", [("--key-field=key",), ("--partition-key=one",)])
def test_lines_of_a_key_stay_in_order_and_one_that_is_given_up_stops_no_other(
    kinesis: "KinesisClient",
    stack: Endpoints,
    stream: Streams,
    program: Callable[..., "subprocess.Popen[bytes]"],
    options: tuple[str, ...],
) -> None:
    name = stream()
    filler = b"x" * 5_000  # Ten lines fill an aggregate.
    lines = [b'{"key": "k%d", "n": %d, "fill": "%b"}' % (n % 2, n, filler) for n in range(120)]
    requests = Counter[str]()

    def tamper(operation: str, body: bytes, forward: Forward) -> Answer:
        requests[operation] += 1
        if operation != "PutRecords":
            return forward(body)
        if any(b'"n": 40,' in payload for payload in payloads(body)):
            return refused("InvalidArgumentException")
        return (
            all_failed(body) if requests[operation] % 3 == 0 else every_other_fails(body, forward)
        )

    with tampering(endpoint_of(stack), tamper) as url:
        process = program(name, "-", *options, url=url)
        out, error = process.communicate(b"\n".join(lines), timeout=100)
    assert out.decode() == f"delivered 119 of 120 records to {name}\n"
    assert b"1 not delivered, InvalidArgumentException" in error
    assert process.returncode == 1
    found = [json.loads(u.data)["n"] for h in read_back(kinesis, name) for u in h.users()]
    for each in range(2):
        mine = [n for n in found if n % 2 == each or options == ("--partition-key=one",)]
        assert mine == sorted(mine)
    assert {*found} == {*range(120)} - {40}


def test_a_feed_that_is_put_nowhere_ends_when_told_and_keeps_every_line(
    program: Callable[..., "subprocess.Popen[bytes]"], tmp_path: Path
) -> None:
    letters = tmp_path / "failed.dlq"
    arguments = ("any", "-", "--max-age=2", f"--dead-letter={letters}")
    process = program(*arguments, url=closed_port())
    assert process.stdin
    process.stdin.write(b"one\ntwo\n")
    process.stdin.flush()
    eventually(lambda: letters.exists() and letters.stat().st_size > 0, timeout=60)
    process.send_signal(signal.SIGTERM)
    assert process.stdout
    out = process.stdout.read().decode()
    assert process.wait(60) == 1
    kept = f"stopped by a signal after line 2; 2 kept in {letters}"
    assert out == f"delivered 0 of 2 records to any, {kept}\n"


def test_nothing_there_is_one_clear_line_and_every_line_is_kept(
    program: Callable[..., "subprocess.Popen[bytes]"], unique: Callable[[str], str], tmp_path: Path
) -> None:
    letters = tmp_path / "failed.dlq"
    lines = [b"%d" % n for n in range(300)]
    cases = {"ResourceNotFoundException": None, "RecordExpired": closed_port()}
    for code, url in cases.items():
        name = unique("missing")
        # One key, so that the order counts.
        options = ("--max-age=1", "--partition-key=k", f"--dead-letter={letters}")
        process = program(name, "-", *options, url=url)
        out, error = process.communicate(b"\n".join(lines), timeout=60)
        assert process.returncode == 1
        assert out.decode().startswith(f"delivered 0 of 300 records to {name}; 300 kept in")
        (told,) = error.decode().splitlines()
        assert told.startswith(f"producers.aggregated: 300 not delivered, {code}: ")
    with letters.open("rb") as file:
        kept = [open_envelope(each.data).payload for each in read_dead_letters(file)]
    assert kept == lines * 2


def test_bad_lines_harm_no_other(
    kinesis: "KinesisClient", stream: Streams, program: Callable[..., "subprocess.Popen[bytes]"]
) -> None:
    name = stream()
    process = program(name, "--key-field=id")
    large = json.dumps({"id": "x", "fill": "x" * MAX_RECORD_BYTES}).encode()
    given = b'{"id": "a"}\nnot json\n' + large + b'\n{"id": "b", "record_id": 5}\n{"id": "c"}\n'
    out, error = process.communicate(given, timeout=60)
    assert process.returncode == 1
    assert b"delivered 2 of 5" in out
    assert b"Traceback" not in error
    for code in (b"InvalidPartitionKey", b"RecordTooLarge", b"EnvelopeError"):
        assert b"1 not delivered, " + code in error
    users = [json.loads(u.data)["id"] for h in read_back(kinesis, name) for u in h.users()]
    assert users == ["a", "c"]
