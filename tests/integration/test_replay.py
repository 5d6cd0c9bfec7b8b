"""Dead letters put back as a person does it: `python -m producers.replay` on a real engine."""

import json
import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from infra.stack.endpoints import Endpoints
from records.dead_letter import DeadLetter
from records.envelope import open_envelope
from records.limits import MAX_RECORD_BYTES
from tests.integration.aggregated_support import (
    Answer,
    Forward,
    all_failed,
    closed_port,
    endpoint_of,
    every_other_fails,
    read_back,
    refused,
    tampering,
)
from tests.integration.program_support import Start
from tests.integration.replay_support import (
    arn_of,
    ended,
    letter,
    letters_file,
    numbers,
    read,
    start_replay,
    write,
)
from tests.proxy_in_thread import proxied
from tests.support import eventually

if TYPE_CHECKING:
    from types_boto3_kinesis import KinesisClient

ROOT = Path(__file__).resolve().parents[2]
Streams = Callable[..., str]
__all__ = ["letters_file", "start_replay"]


def test_each_letter_goes_back_as_it_is_to_the_stream_it_names(
    kinesis: "KinesisClient", stream: Streams, start: Start, file: Path
) -> None:
    one, two = stream(shards=2), stream(shards=2)
    arn = arn_of(kinesis, two)
    letters = [letter((one, arn)[n % 2], n, f"key-{n % 7}") for n in range(60)]
    letters += [letter(one, 100, "ü", 2**128 - 1), letter(one, 101, "ü", 0)]
    before = write(file, letters).read_bytes()
    assert ended(start(file)) == (0, f"delivered 62 of 62 records to {one}, {arn}\n", [])
    for name in (one, two):
        expected = Counter(
            (each.partition_key, each.data) for each in letters if each.stream.endswith(name)
        )
        held = read_back(kinesis, name)
        assert Counter((each.partition_key, each.data) for each in held) == expected
    ends = {json.loads(each.data)["n"]: each.shard.shard_id for each in read_back(kinesis, one)}
    assert ends[101] < ends[100], "the explicit hash key chooses the shard"
    assert file.read_bytes() == before
    assert [*file.parent.iterdir()] == [file]


def test_twice_makes_doubles_that_carry_the_same_record_ids(
    kinesis: "KinesisClient", stream: Streams, start: Start, file: Path
) -> None:
    name = stream()
    letters = [letter(name, n) for n in range(10)]
    bare = DeadLetter(name, "k", b"no JSON, no ID", None, "Code", "why", 1, 0.0)
    write(file, [*letters, bare])
    for _ in range(2):
        code, out, said = ended(start(file, "--aggregate"))
        assert (code, out) == (0, f"delivered 11 of 11 records to {name}\n")
        assert said == ["producers.replay: 1 carry no record ID: doubles of them cannot be told"]
    users = [user.data for held in read_back(kinesis, name) for user in held.users()]
    expected = Counter([open_envelope(each.data).record_id for each in letters] * 2)
    assert Counter(open_envelope(data).record_id for data in users) == expected + Counter(
        [None] * 2
    )


def test_it_keeps_the_order_of_a_key_whose_stream_has_a_name_and_an_arn(
    kinesis: "KinesisClient", stream: Streams, start: Start, file: Path
) -> None:
    name, other = stream(), stream()
    arn = arn_of(kinesis, name)
    write(file, [letter((name, other, arn, name, arn)[n % 5], n) for n in range(100)])
    assert ended(start(file))[::2] == (0, [])
    assert numbers(kinesis, name) == [n for n in range(100) if n % 5 != 1]
    assert numbers(kinesis, other) == [*range(1, 100, 5)]


def test_it_keeps_the_order_of_a_key_while_requests_fail_in_part(
    kinesis: "KinesisClient", stack: Endpoints, stream: Streams, start: Start, file: Path
) -> None:
    name = stream()
    write(file, [letter(name, n, f"key-{n % 3}") for n in range(90)])
    requests = Counter[str]()

    def tamper(operation: str, body: bytes, forward: Forward) -> Answer:
        requests[operation] += 1
        if operation != "PutRecords":
            return forward(body)
        if requests[operation] % 3 == 0:
            return all_failed(body)
        return every_other_fails(body, forward)  # Of one record it stores that one.

    with tampering(endpoint_of(stack), tamper) as url:
        code, out, said = ended(start(file, url=url))
    assert (code, out, said) == (0, f"delivered 90 of 90 records to {name}\n", [])
    found = [*dict.fromkeys(numbers(kinesis, name))]
    assert sorted(found) == [*range(90)]
    for key in range(3):
        assert [n for n in found if n % 3 == key] == [*range(key, 90, 3)]


def test_behind_the_quotas_of_aws_everything_arrives(
    kinesis: "KinesisClient", local_kinesis: str, stream: Streams, start: Start, file: Path
) -> None:
    name = stream()
    write(file, [letter(name, n, f"key-{n}") for n in range(1_500)])
    with proxied(local_kinesis, quotas=True) as proxy:
        code, out, said = ended(start(file, "--unordered", "--max-age=110", url=proxy.url))
    assert (code, out, said) == (0, f"delivered 1500 of 1500 records to {name}\n", [])
    assert {*numbers(kinesis, name)} == {*range(1_500)}


def test_what_fails_once_more_is_kept_and_can_be_put_again(
    kinesis: "KinesisClient",
    stream: Streams,
    unique: Callable[[str], str],
    start: Start,
    file: Path,
) -> None:
    name, gone = stream(), unique("gone")
    large = DeadLetter(name, "k", bytes(MAX_RECORD_BYTES), None, "Code", "why", 1, 0.0)
    lost = [letter(gone, n) for n in range(0, 20, 2)]
    nowhere = letter("no stream has this name", 99)
    write(file, [letter((gone, name)[n % 2], n) for n in range(20)] + [large, nowhere])
    before = file.read_bytes()
    code, out, said = ended(start(file))
    again = Path(f"{file}.failed")
    streams = f"{gone}, {name}, no stream has this name"
    assert (code, out) == (1, f"delivered 10 of 22 records to {streams}; 12 kept in {again}\n")
    assert said[0].startswith("producers.replay: 1 carry no record ID")
    kinds = {line.split(":")[1].strip() for line in said[1:]}
    assert kinds == {
        f"10 not delivered to {gone}, ResourceNotFoundException",
        f"1 not delivered to {name}, RecordTooLarge",
        "1 not delivered to no stream has this name, InvalidStream",
    }
    assert [*numbers(kinesis, name)] == [*range(1, 20, 2)]
    assert file.read_bytes() == before
    kept = {each.data: each for each in read(again)}
    assert kept.keys() == {each.data for each in [*lost, large, nowhere]}
    assert kept[lost[0].data].error_code == "ResourceNotFoundException"
    assert kept[large.data].attempts == 0

    # All but the large one have a place with --stream; what FILE.failed held is not overwritten.
    code, out, _ = ended(start(again, "--stream", arn_of(kinesis, name), "--dead-letter", file))
    assert code == 1
    assert out.startswith("delivered 11 of 12 records to arn:aws:kinesis:")
    assert {*range(20), 99} == {*numbers(kinesis, name)}
    assert file.read_bytes().startswith(before)
    assert [each.data for each in read(file)[22:]] == [large.data]


def test_a_file_that_holds_no_letters_at_all(start: Start, file: Path) -> None:
    file.write_bytes(b'{"id": 1}\n' * 100)
    code, out, said = ended(start(file))
    assert (code, out) == (2, "delivered 0 of 0 records\n")
    assert said == [f"producers.replay: {file} is damaged: no dead letter begins at byte 0"]
    file.write_bytes(b"")
    assert ended(start(file)) == (0, "delivered 0 of 0 records\n", [])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_nothing_lost(  # noqa: PLR0917 - pytest names them
    kinesis: "KinesisClient",
    stack: Endpoints,
    stream: Streams,
    start: Start,
    file: Path,
    number: signal.Signals,
) -> None:
    name = stream()
    write(file, [letter(name, n) for n in range(1_000)])
    before = file.read_bytes()
    stored = Counter[str]()

    def tamper(operation: str, body: bytes, forward: Forward) -> Answer:
        stored[operation] += 1
        # After some have arrived the shard is full, until the signal has been sent.
        if operation == "PutRecords" and stored[operation] > 5 and not signalled:
            return all_failed(body)
        return forward(body)

    signalled = False
    with tampering(endpoint_of(stack), tamper) as url:
        process = start(file, "--remove", url=url)
        eventually(lambda: stored["PutRecords"] > 6, timeout=60)
        process.send_signal(number)
        signalled = True
        code, out, said = ended(process)
    arrived = numbers(kinesis, name)
    count = len(arrived)
    assert arrived == [*range(count)]
    assert 5 <= count < 1_000
    where = f", stopped by a signal after record {count}: all are still in {file}"
    assert (code, out) == (1, f"delivered {count} of {count} records to {name}{where}\n")
    assert said == [f"producers.replay: {file} stays as it is: not all of it was read"]
    assert file.read_bytes() == before
    assert ended(start(file, "--aggregate"))[:2] == (
        0,
        f"delivered 1000 of 1000 records to {name}\n",
    )


def test_a_dead_endpoint_is_given_up_and_everything_is_kept(
    unique: Callable[[str], str], start: Start, file: Path
) -> None:
    letters = [letter(unique("any"), n) for n in range(50)]
    write(file, letters[:1] * 50)
    again = file.with_name("again.dlq")
    code, out, said = ended(start(file, "--max-age=1", "--dead-letter", again, url=closed_port()))
    assert code == 1
    assert out.startswith("delivered 0 of 50 records to any-")
    assert out.endswith(f"; 50 kept in {again}\n")
    assert len(said) == 1
    assert len(read(again)) == 50


def test_many_streams_take_turns(
    stack: Endpoints, unique: Callable[[str], str], start: Start, file: Path
) -> None:
    names = [unique("gone") for _ in range(20)]  # More than there may be producers at once.
    write(file, [letter(names[n % 20], n, f"key-{n}") for n in range(60)])
    asked: list[str] = []

    def tamper(operation: str, body: bytes, forward: Forward) -> Answer:
        if operation == "ListShards":
            asked.append(json.loads(body)["StreamName"])
            if asked[-1] == names[0] and asked.count(names[0]) < 4:
                return refused("LimitExceededException")
        return forward(body)

    with tampering(endpoint_of(stack), tamper) as url:
        code, out, _ = ended(start(file, url=url))
    more = f"{', '.join(names[:3])} and 17 more streams; 60 kept in {file}.failed"
    assert (code, out) == (1, f"delivered 0 of 60 records to {more}\n")
    assert Counter(each.stream for each in read(Path(f"{file}.failed"))) == Counter(names * 3)
    turn = asked.index(names[16])
    assert asked[:turn].count(names[0]) == 4, "the seventeenth came before the first was done"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("{missing}",), "No such file or directory"),
        (("{folder}",), "is no file that can be read twice"),
        (("/dev/stdin",), "is no file that can be read twice"),
        (("{file}", "--stream", "two words"), "neither the name of a stream"),
        (("{file}", "--max-age", "0"), "0 is no positive number of seconds"),
        (("{file}", "--dead-letter", ""), "argument --dead-letter: a file has a name"),
        (("{file}", "--dead-letter", "{file}"), "is the input"),
        (("{file}", "--dead-letter", "{link}"), "is the input"),
        (("{file}", "--dead-letter", "{folder}"), "Is a directory"),
        ((), "required: FILE"),
    ],
)
def test_bad_usage_is_one_clear_line_and_touches_nothing(
    start: Start, file: Path, arguments: tuple[str, ...], problem: str
) -> None:
    write(file, [letter("any", 1)])
    before = file.read_bytes()
    link = file.with_name("link")
    os.link(file, link)
    places = {"file": file, "link": link, "folder": file.parent, "missing": file.with_name("no")}
    code, out, said = ended(start(*(each.format(**places) for each in arguments)))
    assert (code, out) == (2, "")
    assert problem in said[-1]
    assert file.read_bytes() == before
    assert {*file.parent.iterdir()} == {file, link}
