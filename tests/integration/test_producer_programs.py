"""The producers as a person runs them: where input or output fails, and where patience ends."""

import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import pytest

from infra.stack.endpoints import Endpoints
from producers import programs
from producers.aggregated import AggregatingProducer
from producers.aggregated.__main__ import main as aggregate
from producers.put_records import Failure, Record, put_once, put_records
from producers.put_records import main as put_lines
from records.dead_letter import read_dead_letters
from records.limits import MAX_PUT_REQUEST_BYTES, MAX_RECORD_BYTES
from tests.integration.aggregated_support import (
    Answer,
    Forward,
    all_failed,
    endpoint_of,
    environment_of,
    read_back,
    tampering,
)
from tests.support import eventually

if TYPE_CHECKING:
    from types_boto3_kinesis import KinesisClient

ROOT = Path(__file__).resolve().parents[2]
Streams = Callable[..., str]
PROGRAMS = pytest.mark.parametrize("program", ["producers.put_records", "producers.aggregated"])


def shell(
    command: str, stack: Endpoints, *arguments: str, given: bytes = b"", url: str | None = None
) -> "subprocess.CompletedProcess[bytes]":
    """Run a line of shell in which `$0` is Python and `$@` are the arguments."""
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command, sys.executable, *arguments],
        input=given,
        capture_output=True,
        cwd=ROOT,
        env=environment_of(stack, url),
        timeout=120,
        check=False,
    )


def lines_in(kinesis: "KinesisClient", name: str) -> list[str]:
    users = [user for held in read_back(kinesis, name) for user in held.users()]
    return sorted(json.loads(user.data)["id"] for user in users)


# Input and output.


@PROGRAMS
def test_without_standard_input_there_is_one_clear_line(stack: Endpoints, program: str) -> None:
    done = shell(f'"$0" -m {program} any <&-', stack)
    assert done.returncode == 2
    assert b"standard input is closed" in done.stderr
    assert b"Traceback" not in done.stderr


@PROGRAMS
def test_an_endpoint_that_is_no_url_is_bad_usage(stack: Endpoints, program: str) -> None:
    done = shell(f'"$0" -m {program} any', stack, given=b"x\n", url="nonsense")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith(b"Invalid endpoint: nonsense")
    assert b"Traceback" not in done.stderr


@PROGRAMS
@pytest.mark.parametrize("bad", ["two words", "arn:aws:sqs:us-east-1:000000000000:queue", ""])
def test_what_can_be_no_stream_is_bad_usage(stack: Endpoints, program: str, bad: str) -> None:
    done = shell(f'"$0" -m {program} "$@"', stack, bad, given=b"x\n")
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"STREAM: '%b' is neither the name of a stream" % bad.encode() in done.stderr


@PROGRAMS
def test_a_stream_may_be_named_by_its_arn(
    kinesis: "KinesisClient", stack: Endpoints, stream: Streams, program: str
) -> None:
    name = stream()
    arn = kinesis.describe_stream_summary(StreamName=name)["StreamDescriptionSummary"]["StreamARN"]
    done = shell(f'"$0" -m {program} "$@"', stack, arn, given=b'{"id": "a"}\n')
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == f"delivered 1 of 1 records to {arn}\n".encode()
    assert lines_in(kinesis, name) == ["a"]


@PROGRAMS
def test_the_input_cannot_be_its_own_dead_letter_file(
    stack: Endpoints, program: str, tmp_path: Path
) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b"x\n")
    for source in (f'<"{path}"', f'"{path}"'):
        call = f'"$0" -m {program} any {source} "--dead-letter={path}"'
        done = shell(call, stack)
        assert (done.returncode, done.stdout) == (2, b"")
        assert f"{path} is the input".encode() in done.stderr
        assert path.read_bytes() == b"x\n"


@PROGRAMS
@pytest.mark.skipif(sys.platform != "linux", reason="needs a file that opens but cannot be read")
def test_an_input_that_cannot_be_read_is_told(stack: Endpoints, program: str) -> None:
    done = shell(f'"$0" -m {program} any /proc/self/mem', stack)
    assert done.returncode == 2
    assert done.stdout == b"delivered 0 of 0 records to any\n"
    (told,) = done.stderr.splitlines()
    assert b"the input cannot be read after line 0: " in told


@PROGRAMS
def test_nobody_reads_the_summary(
    kinesis: "KinesisClient", stack: Endpoints, stream: Streams, program: str
) -> None:
    name = stream()
    given = b'{"id": "a"}\n'
    done = shell(f'"$0" -m {program} "$@" | exec true', stack, name, given=given)
    assert (done.returncode, done.stderr) == (0, b"")
    full = shell(f'"$0" -m {program} "$@" >/dev/full', stack, name, given=given)
    assert full.returncode == 0
    assert b"No space left on device" in full.stderr
    assert b"Traceback" not in full.stderr
    assert lines_in(kinesis, name) == ["a", "a"]


@PROGRAMS
def test_nobody_reads_the_complaints_and_every_line_is_delivered_or_kept_all_the_same(
    kinesis: "KinesisClient", stack: Endpoints, stream: Streams, program: str, tmp_path: Path
) -> None:
    name = stream()
    letters = tmp_path / "failed.dlq"
    # The complaints go to a pipe that nobody has open for reading.
    call = f'"$0" -m {program} "$@" 2>&1 >"{tmp_path}/out" | exec true'
    given = b'{"id": "a"}\nnot json\n{"id": "b"}\n'
    done = shell(call, stack, name, "--key-field=id", f"--dead-letter={letters}", given=given)
    assert done.returncode == 1
    assert (tmp_path / "out").read_text().startswith(f"delivered 2 of 3 records to {name}")
    assert lines_in(kinesis, name) == ["a", "b"]
    with letters.open("rb") as file:
        assert [each.data for each in read_dead_letters(file)] == [b"not json"]


@PROGRAMS
def test_a_key_too_long_for_kinesis_fails_its_line_alone(
    kinesis: "KinesisClient", stack: Endpoints, stream: Streams, program: str, tmp_path: Path
) -> None:
    name = stream()
    letters = tmp_path / "failed.dlq"
    bad = json.dumps({"id": "x" * 70_000}).encode()
    given = b'{"id": "a"}\n' + bad + b'\n{"id": "b"}\n'
    call = f'"$0" -m {program} "$@"'
    done = shell(call, stack, name, "--key-field=id", f"--dead-letter={letters}", given=given)
    assert done.returncode == 1
    assert b"delivered 2 of 3" in done.stdout
    assert b"1 not delivered, InvalidPartitionKey" in done.stderr
    assert b"Traceback" not in done.stderr
    assert lines_in(kinesis, name) == ["a", "b"]
    with letters.open("rb") as file:
        assert [each.data for each in read_dead_letters(file)] == [bad]


@PROGRAMS
@pytest.mark.parametrize("key", ["", "x" * 257])
def test_a_partition_key_that_kinesis_refuses_is_bad_usage(
    stack: Endpoints, program: str, key: str
) -> None:
    call = f'"$0" -m {program} any - "--partition-key=$1"'
    done = shell(call, stack, key, given=b"x\n")
    assert done.returncode == 2
    assert b"--partition-key: a partition key has 1 to 256 characters, not" in done.stderr


def test_no_credentials_is_one_clear_line(stack: Endpoints, tmp_path: Path) -> None:
    call = (
        "unset AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN;"
        f' HOME={tmp_path} "$0" -m producers.aggregated any'
    )
    done = shell(call, stack, given=b"x\ny\n")
    assert done.returncode == 1
    (told,) = done.stderr.splitlines()
    assert b": 2 not delivered, NoCredentialsError: " in told


def test_a_full_request_of_ten_mebibytes_is_what_the_engine_takes(
    kinesis: "KinesisClient", stream: Streams
) -> None:
    name = stream(shards=2)
    one = MAX_PUT_REQUEST_BYTES // 10 - len("key-0")
    records = [Record(f"key-{n}", bytes([n]) * one, n % 2 * (2**128 - 1)) for n in range(10)]
    assert all(outcome.delivered for outcome in put_records(kinesis, name, records))
    held = read_back(kinesis, name)
    assert sorted(h.data[0] for h in held) == list(range(10))
    assert {len(h.partition_key) + len(h.data) for h in held} == {MAX_RECORD_BYTES}


# The end of the input, and of patience.


def test_the_sdk_tries_once_and_the_producer_decides(
    stack: Endpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = Counter[str]()

    def tamper(operation: str, _body: bytes, _forward: Forward) -> Answer:
        requests[operation] += 1
        return 500, b'{"__type": "InternalFailure"}'

    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "4")  # It is the producer's number that counts.
    with tampering(endpoint_of(stack), tamper) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL_KINESIS", url)
        client = programs.make_client(5)
        try:
            reply = put_once(client, "any", [Record("k", b"x")])
        finally:
            client.close()
    assert isinstance(reply, Failure)
    assert reply.retriable
    assert requests == {"PutRecords": 1}


@pytest.mark.parametrize(
    "answer",
    [
        (503, b"null"),
        (503, b"\xff\xfe"),
        (200, b"null"),
        (200, b'{"Records": 5}'),
        (200, b'{"Records": [5, 5]}'),
    ],
)
def test_an_answer_that_nobody_can_read_loses_no_line(
    answer: Answer,
    stack: Endpoints,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, letters = tmp_path / "lines", tmp_path / "failed.dlq"
    path.write_bytes(b"a\nb\n")
    requests = Counter[str]()

    def tamper(operation: str, _body: bytes, _forward: Forward) -> Answer:
        requests[operation] += 1
        return answer

    monkeypatch.setattr("producers.put_records.BACKOFF_CAP_SECONDS", 0.0)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    with tampering(endpoint_of(stack), tamper) as url:
        for variable, value in environment_of(stack, url).items():
            monkeypatch.setenv(variable, value)
        assert put_lines(["any", str(path), f"--dead-letter={letters}"]) == 1
    said = capsys.readouterr()
    assert said.out == f"delivered 0 of 2 records to any; 2 kept in {letters}\n"
    with letters.open("rb") as file:
        kept = list(read_dead_letters(file))
    assert [(each.data, each.attempts) for each in kept] == [(b"a", 8), (b"b", 8)]
    (told,) = said.err.splitlines()
    for each in kept:
        assert told.startswith(f"producers.put_records: 2 not delivered, {each.error_code}: ")
    assert requests == {"PutRecords": 8}


def test_the_end_of_the_input_waits_for_as_long_as_a_line_may_take(
    kinesis: "KinesisClient",
    stack: Endpoints,
    stream: Streams,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = stream()
    path = tmp_path / "lines"
    path.write_bytes(b'{"id": "a"}\n{"id": "b"}\n')
    requests = Counter[str]()

    def tamper(operation: str, body: bytes, forward: Forward) -> Answer:
        requests[operation] += 1
        if operation == "PutRecords" and requests[operation] <= 4:
            return all_failed(body)
        return forward(body)

    # A deadline of close() that is far shorter than the age a line may reach, as 30 s and 60 s are.
    monkeypatch.setattr(AggregatingProducer.close, "__defaults__", (0.01,))
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    for variable, value in environment_of(stack).items():
        monkeypatch.setenv(variable, value)
    with tampering(endpoint_of(stack), tamper) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL_KINESIS", url)
        assert aggregate([name, str(path)]) == 0
    assert lines_in(kinesis, name) == ["a", "b"]
    assert requests["PutRecords"] == 5


@PROGRAMS
def test_a_second_ctrl_c_gives_up_at_once(stack: Endpoints, program: str) -> None:
    requests = Counter[str]()

    def tamper(operation: str, body: bytes, _forward: Forward) -> Answer:
        requests[operation] += 1
        if operation == "PutRecords":
            return all_failed(body)
        return 400, b'{"__type": "LimitExceededException"}'

    with (
        tampering(endpoint_of(stack), tamper) as url,
        subprocess.Popen(
            [sys.executable, "-m", program, "any"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            env=environment_of(stack, url),
        ) as process,
    ):
        assert process.stdin
        assert process.stderr
        try:
            # Enough for a batch, which is retried in vain for longer than this test may take.
            process.stdin.write(b"x\n" * 501)
            process.stdin.flush()

            eventually(lambda: requests.total() > 0, timeout=60)  # It is past its start.

            def interrupted() -> bool:
                process.send_signal(signal.SIGINT)
                return process.poll() is not None

            eventually(interrupted, timeout=6, every=1.5)
            error = process.stderr.read()
        finally:
            process.kill()
            process.stdin.close()
    assert process.returncode == -signal.SIGINT
    assert error == b""
