"""What the tests of `producers.replay` share: dead letters, and what is read back of them."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from infra.stack.endpoints import Endpoints
from producers.dead_letters import DeadLetterFile
from records.dead_letter import DeadLetter, read_dead_letters
from records.envelope import derived_record_id, seal
from tests.integration.aggregated_support import read_back
from tests.integration.program_support import Start, starting

if TYPE_CHECKING:
    from types_boto3_kinesis import KinesisClient


@pytest.fixture(name="file")
def letters_file(tmp_path: Path) -> Path:
    return tmp_path / "failed.dlq"


@pytest.fixture(name="start")
def start_replay(stack: Endpoints) -> Iterator[Start]:
    with starting("producers.replay", stack) as run:
        yield run


def letter(stream: str, number: int, key: str = "k", place: int | None = None) -> DeadLetter:
    data = seal(json.dumps({"n": number}).encode(), derived_record_id("test", str(number)))
    return DeadLetter(stream, key, data, place, "InternalFailure", "no", 3, 1_800_000_000.25)


def write(path: Path, letters: list[DeadLetter]) -> Path:
    with DeadLetterFile(path) as file:
        for each in letters:
            file.append(each)
    return path


def read(path: Path) -> list[DeadLetter]:
    with path.open("rb") as file:
        return list(read_dead_letters(file))


def arn_of(kinesis: "KinesisClient", stream: str) -> str:
    summary = kinesis.describe_stream_summary(StreamName=stream)
    return summary["StreamDescriptionSummary"]["StreamARN"]


def numbers(kinesis: "KinesisClient", stream: str) -> list[int]:
    """The numbers in a stream of one shard, in the order of reading; each travels alone."""
    return [json.loads(held.data)["n"] for held in read_back(kinesis, stream)]


def ended(process: "subprocess.Popen[bytes]") -> tuple[int, str, list[str]]:
    out, error = process.communicate(timeout=120)
    assert b"Traceback" not in error
    return process.returncode, out.decode(), error.decode().splitlines()
