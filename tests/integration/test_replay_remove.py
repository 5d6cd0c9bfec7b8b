"""What `python -m producers.replay --remove` takes out of a file, and what stays in it."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from infra.stack.endpoints import Endpoints
from tests.integration.aggregated_support import Answer, Forward, endpoint_of, tampering
from tests.integration.program_support import Start
from tests.integration.replay_support import (
    ended,
    letter,
    letters_file,
    numbers,
    read,
    start_replay,
    write,
)

if TYPE_CHECKING:
    from types_boto3_kinesis import KinesisClient

Streams = Callable[..., str]
__all__ = ["letters_file", "start_replay"]
WHY = "that came meanwhile or cannot be read"


def test_a_damaged_file_gives_what_can_be_read_and_says_where(
    kinesis: "KinesisClient", stream: Streams, start: Start, file: Path
) -> None:
    name = stream()
    ends = [write(file, [letter(name, n)]).stat().st_size for n in range(5)]
    content = bytearray(file.read_bytes())
    content[ends[1] + 40] ^= 0xFF
    file.write_bytes(content[:-2])
    before, torn_end = file.read_bytes(), file.read_bytes()[ends[3] :]
    code, out, said = ended(start(file, "--remove"))
    assert (code, out) == (2, f"delivered 3 of 3 records to {name}\n")
    assert numbers(kinesis, name) == [0, 1, 3]
    damaged = f"producers.replay: {file} is damaged"
    torn = f"the file ends inside a dead letter at byte {ends[3]}"
    assert said == [
        f"{damaged}: a dead letter with a wrong checksum at byte {ends[1]}",
        f"{damaged}, or somebody is writing it: {torn}",
        f"producers.replay: what is damaged, and all that was around it, is in {file}.damaged",
        f"producers.replay: {file} keeps {len(torn_end)} bytes {WHY}",
    ]
    assert Path(f"{file}.damaged").read_bytes() == before
    assert file.read_bytes() == torn_end

    # Nothing is put again; and once letters follow the torn one, they leave the file.
    code, out, _ = ended(start(file, "--remove"))
    assert (code, out, file.read_bytes()) == (2, "delivered 0 of 0 records\n", torn_end)
    write(file, [letter(name, 5)])
    code, out, _ = ended(start(file, "--remove"))
    assert (code, out) == (2, f"delivered 1 of 1 records to {name}\n")
    assert numbers(kinesis, name) == [0, 1, 3, 5]
    names = {f"{file.name}.damaged", f"{file.name}.damaged.1"}
    assert {each.name for each in file.parent.iterdir()} == names


def test_with_remove_each_letter_is_put_by_one_run_though_some_cannot_be_delivered(
    kinesis: "KinesisClient",
    stream: Streams,
    unique: Callable[[str], str],
    start: Start,
    file: Path,
) -> None:
    name, gone, failed = stream(), unique("gone"), Path(f"{file}.failed")
    for run in range(3):
        write(file, [letter((name, gone)[n % 2], n) for n in range(run * 4, run * 4 + 4)])
        code, out, said = ended(start(file, "--remove"))
        told = f"delivered 2 of 4 records to {name}, {gone}; 2 kept in {failed}\n"
        assert (code, out, len(said)) == (1, told, 1)
        assert [*file.parent.iterdir()] == [failed]
    assert numbers(kinesis, name) == [*range(0, 12, 2)]
    assert [json.loads(each.data)["n"] for each in read(failed)] == [*range(1, 12, 2)]


@pytest.mark.skipif(sys.platform != "linux", reason="needs a device that is always full")
def test_what_could_not_be_kept_elsewhere_stays(
    unique: Callable[[str], str], start: Start, file: Path
) -> None:
    before = write(file, [letter(unique("gone"), n) for n in range(3)]).read_bytes()
    code, _, said = ended(start(file, "--remove", "--dead-letter=/dev/full"))
    assert code == 1
    told = f"producers.replay: {file} stays as it is: not all that failed is kept elsewhere"
    assert said[-1] == told
    assert file.read_bytes() == before


def test_a_file_is_removed_once_all_of_it_is_delivered(
    stack: Endpoints, stream: Streams, start: Start, file: Path
) -> None:
    name = stream()
    count, late = 400, letter(name, 400)  # More than are read ahead.
    size = write(file, [letter(name, n) for n in range(count)]).stat().st_size

    def one_more_comes(operation: str, body: bytes, forward: Forward) -> Answer:
        if operation == "PutRecords" and file.stat().st_size == size:
            write(file, [late])
        return forward(body)

    with tampering(endpoint_of(stack), one_more_comes) as url:
        code, out, said = ended(start(file, "--remove", url=url))
    assert (code, out) == (0, f"delivered {count} of {count} records to {name}\n")
    assert said == [f"producers.replay: {file} keeps {file.stat().st_size} bytes {WHY}"]
    assert read(file) == [late]
    code, out, said = ended(start(file, "--remove", "--aggregate"))
    assert (code, out, said) == (0, f"delivered 1 of 1 records to {name}\n", [])
    assert [*file.parent.iterdir()] == []
