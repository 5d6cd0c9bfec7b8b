"""The producers on a LocalStack that fails requests at random, as its own setting makes it.

With `KINESIS_ERROR_PROBABILITY` it answers PutRecords with FailedRecordCount 1 while every record
of the request failed. Whoever believes the count loses the others.
"""

import json
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from infra.processes import start
from infra.stack.endpoints import Endpoints
from producers.aggregated import AggregatingProducer, PutResult
from producers.put_records import Record, put_records
from records.dead_letter import read_dead_letters
from records.envelope import open_envelope
from tests.integration.aggregated_support import client_of, environment_of, read_back

if TYPE_CHECKING:
    from types_boto3_kinesis import KinesisClient

pytestmark = pytest.mark.containers

ROOT = Path(__file__).resolve().parents[2]
PROBABILITY = 0.5
LINES = [json.dumps({"n": n}).encode() for n in range(40)]
PROGRAMS = pytest.mark.parametrize("program", ["producers.put_records", "producers.aggregated"])


@pytest.fixture(scope="module", params=[PROBABILITY, 1.0], ids=["half", "all"])
def failing(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[float, Endpoints]]:
    """A LocalStack of its own for each probability, and that probability."""
    from infra.stack import containers  # noqa: PLC0415 - only where there is an engine

    log_dir = tmp_path_factory.mktemp("failing")
    label = uuid.uuid4().hex
    container = containers._localstack(label)
    container.with_envs(KINESIS_ERROR_PROBABILITY=str(request.param), SERVICES="kinesis")
    reaper = [sys.executable, "-m", "infra.stack.reaper", "--label", f"{containers._LABEL}={label}"]
    with start(reaper, name="reaper", log_dir=log_dir, ready="^ready", grace=60.0):
        container.start()
        try:
            url = containers._url(container)
            assert containers.check_kinesis(url, timeout=120) is None
            yield request.param, Endpoints(aws=url, kinesis=url, mqtt_url=None)
        finally:
            containers._stop(container, log_dir / "localstack.log")


@pytest.fixture
def client(failing: tuple[float, Endpoints]) -> "Iterator[KinesisClient]":
    made = client_of(str(failing[1].kinesis))
    yield made
    made.close()


@pytest.fixture
def name(client: "KinesisClient") -> str:
    name = f"stream-{uuid.uuid4().hex[:12]}"
    client.create_stream(StreamName=name, ShardCount=2)
    client.get_waiter("stream_exists").wait(
        StreamName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 60}
    )
    return name


def stored(client: "KinesisClient", name: str) -> "Counter[bytes]":
    """How often each payload is in the stream, as KCL would hand it out."""
    users = [user for held in read_back(client, name) for user in held.users()]
    return Counter(_payload(user.data) for user in users)


def _payload(data: bytes) -> bytes:
    """The line as it was before the record ID came in."""
    payload = open_envelope(data).payload
    fields: dict[str, Any] = json.loads(payload)
    fields.pop("record_id", None)
    return json.dumps(fields).encode()


def test_the_count_is_wrong_here_or_these_tests_show_nothing(
    client: "KinesisClient", name: str
) -> None:
    entries: Any = [{"PartitionKey": f"{n}", "Data": line} for n, line in enumerate(LINES)]
    for _ in range(40):
        answer = client.put_records(StreamName=name, Records=entries)
        if answer["FailedRecordCount"]:
            assert answer["FailedRecordCount"] == 1
            assert sum("ErrorCode" in each for each in answer["Records"]) == len(LINES)
            return
    pytest.fail("no request failed")


def test_each_record_is_there_exactly_if_its_outcome_says_so(
    client: "KinesisClient", name: str, failing: tuple[float, Endpoints]
) -> None:
    probability, _ = failing
    delivered, failed = Counter[bytes](), Counter[bytes]()
    for batch in range(40):
        records = [Record(f"{n}", json.dumps({"batch": batch, "n": n}).encode()) for n in range(5)]
        outcomes = put_records(client, name, records, max_attempts=2, sleep=lambda _: None)
        assert [outcome.record for outcome in outcomes] == records
        for outcome in outcomes:
            (delivered if outcome.delivered else failed)[outcome.record.data] += 1
            if not outcome.delivered:
                assert outcome.error_code == "ProvisionedThroughputExceededException"
                assert outcome.attempts == 2
    assert delivered.total() + failed.total() == 200
    assert failed
    assert bool(delivered) == (probability < 1)
    assert stored(client, name) == delivered


def test_an_aggregate_fails_and_is_confirmed_as_a_whole(
    client: "KinesisClient", name: str, failing: tuple[float, Endpoints]
) -> None:
    probability, _ = failing
    max_record_age = 60.0 if probability < 1 else 1.0
    futures: dict[bytes, Future[PutResult]] = {}
    with AggregatingProducer(
        client, name, max_aggregate_bytes=100, max_record_age=max_record_age
    ) as producer:
        for batch in range(40):  # Few requests hold a batch, and half of them succeed at once.
            lines = [json.dumps({"batch": batch, "n": n}).encode() for n in range(40)]
            futures |= {line: producer.put(f"{n}", line) for n, line in enumerate(lines)}
            assert producer.flush(90)
            if probability == 1 or any(len(futures[each].result(0).attempts) > 1 for each in lines):
                break
        else:
            pytest.fail("no request failed")
    delivered = [line for line, future in futures.items() if future.exception(0) is None]
    assert delivered == (list(futures) if probability < 1 else [])
    assert stored(client, name) == Counter(delivered)


@PROGRAMS
def test_every_line_is_in_the_stream_or_in_the_dead_letters_and_the_exit_code_says_which(
    client: "KinesisClient",
    name: str,
    failing: tuple[float, Endpoints],
    program: str,
    tmp_path: Path,
) -> None:
    probability, endpoints = failing
    letters = tmp_path / "failed.dlq"
    patience = [] if program == "producers.put_records" or probability < 1 else ["--max-age=2"]
    done = subprocess.run(
        [sys.executable, "-m", program, name, "-", f"--dead-letter={letters}", *patience],
        input=b"\n".join(LINES),
        capture_output=True,
        cwd=ROOT,
        env=environment_of(endpoints),
        timeout=120,
        check=False,
    )
    kept = Counter[bytes]()
    if letters.exists():  # An empty one is not left behind.
        with letters.open("rb") as file:
            kept.update(_payload(each.data) for each in read_dead_letters(file))
    held = stored(client, name)
    assert held + kept == Counter(LINES)  # each once, and in one of the two places only
    assert done.returncode == (1 if kept else 0)
    assert done.stdout.startswith(f"delivered {held.total()} of 40 records to {name}".encode())
    assert not (held and probability == 1)
    assert (b"ProvisionedThroughputExceededException" in done.stderr) == bool(kept)
