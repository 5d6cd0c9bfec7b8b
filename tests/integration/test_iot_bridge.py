"""The bridge between a real broker and a real stream: killed, cut off, fed with rubbish."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from infra.processes import GuardedProcess, start
from infra.stack.endpoints import Endpoints
from iot.endpoint import Endpoint
from records.dead_letter import read_dead_letters
from records.envelope import new_record_id
from records.limits import MIB
from tests.integration.bridge_support import Publisher, Reader
from tests.mqtt_line import Line
from tests.support import eventually

if TYPE_CHECKING:
    from types_boto3_kinesis import KinesisClient

Unique = Callable[[str], str]
Launch = Callable[..., GuardedProcess]


@pytest.fixture
def launch(stack: Endpoints, mqtt_url: str, tmp_path: Path) -> Launch:
    def start_module(
        module: str, *arguments: object, url: str = mqtt_url, **more: str
    ) -> GuardedProcess:
        environment = dict(os.environ) | stack.environment() | {"MQTT_URL": url} | more
        argv = [sys.executable, "-m", module, *map(str, arguments)]
        return start(argv, name=module, log_dir=tmp_path, env=environment)

    return start_module


@pytest.fixture
def fleet_prefix(unique: Unique) -> str:
    return unique("fleet")


@pytest.fixture
def bridge(launch: Launch, unique: Unique, tmp_path: Path, fleet_prefix: str) -> Launch:
    """Start a bridge for this test's things only; each start is the same session."""
    name = unique("bridge")

    def start_bridge(stream: str, *more: object, **options: Any) -> GuardedProcess:
        process = launch(
            "iot.bridge", "--stream", stream, "--client-id", name, "--linger", 0.02,
            "--dead-letter", tmp_path / "dead-letters",
            "--topic", f"dt/{fleet_prefix}/+/telemetry", *more,
            **options,
        )  # fmt: skip
        try:
            process.wait_for_line(r"^ready", timeout=60)
        except BaseException:
            process.close()
            raise
        return process

    return start_bridge


@pytest.fixture
def publisher(mqtt_url: str, unique: Unique, fleet_prefix: str) -> Iterator[Publisher]:
    made = Publisher(Endpoint.parse(mqtt_url), unique("publisher"), fleet_prefix)
    with made.connection:
        made.connection.wait_ready(30)
        yield made


def test_events_reach_the_stream_and_sigterm_leaves_nothing_behind(
    kinesis: "KinesisClient", stream: Callable[..., str], bridge: Launch, publisher: Publisher
):
    name = stream(2)
    reader = Reader(kinesis, name)
    with bridge(name) as process:
        for thing in ("a", "b", "c"):
            publisher.publish(thing, 50)
        eventually(publisher.all_acknowledged)
        eventually(lambda: reader.distinct() == 150)
        assert process.terminate(grace=60) == 0
        assert "150 relayed, 0 refused, 0 unacknowledged" in process.lines()[-1]
    reader.check(publisher)
    assert len(reader.records) == 150
    with bridge(name) as again:
        publisher.publish("a", 1)
        eventually(lambda: reader.distinct() == 151)
        assert again.terminate(grace=60) == 0
        # What was acknowledged before does not come again.
        assert "1 relayed" in again.lines()[-1]


def test_kill_9_loses_nothing_and_keeps_order_and_ids(
    kinesis: "KinesisClient", stream: Callable[..., str], bridge: Launch, publisher: Publisher
):
    name = stream(2)
    reader = Reader(kinesis, name)
    things = [f"thing-{number}" for number in range(6)]

    def publish_to_all(count: int) -> None:
        for _ in range(count):
            for thing in things:
                publisher.publish(thing)

    for round_number in range(1, 4):
        with bridge(name) as process:
            publish_to_all(60)
            # Somewhere in the middle of it.
            before = (round_number - 1) * 480
            eventually(lambda floor=before: reader.distinct() > floor + 30)
            process.kill()
        publish_to_all(20)  # while nobody is there
        eventually(publisher.all_acknowledged)
    with bridge(name) as last:
        eventually(lambda: reader.distinct() == 3 * 480, timeout=60)
        assert last.terminate(grace=60) == 0
    reader.check(publisher)


def test_a_cut_line_loses_nothing(
    kinesis: "KinesisClient",
    stream: Callable[..., str],
    bridge: Launch,
    publisher: Publisher,
    mqtt_url: str,
):
    name = stream(1)
    reader = Reader(kinesis, name)
    with Line(Endpoint.parse(mqtt_url)) as line, bridge(name, url=line.url) as process:
        for number in range(1, 4):
            publisher.publish("a", 40)
            eventually(lambda floor=(number - 1) * 40: reader.distinct() > floor)
            line.cut()
        publisher.publish("a", 40)
        eventually(lambda: reader.distinct() == 160, timeout=90)
        assert process.terminate(grace=60) == 0
    reader.check(publisher)


def test_more_than_there_is_room_for_is_left_to_the_broker_and_comes_again(
    kinesis: "KinesisClient",
    stream: Callable[..., str],
    bridge: Launch,
    publisher: Publisher,
    mqtt_url: str,
):
    name = stream(1)
    reader = Reader(kinesis, name)
    with Line(Endpoint.parse(mqtt_url)) as line:
        with bridge(name, "--max-in-flight", 30, url=line.url) as process:
            publisher.publish("a", 100)
            publisher.publish("b", 50)
            eventually(lambda: reader.distinct() == 150, timeout=90)
            assert process.terminate(grace=60) == 0
        assert line.calls > 1, "it never ran out of room"
    reader.check(publisher)


def test_rubbish_goes_to_the_dead_letters_and_the_rest_goes_on(
    kinesis: "KinesisClient",
    stream: Callable[..., str],
    bridge: Launch,
    publisher: Publisher,
    tmp_path: Path,
):
    rubbish = [b"not json", b"", b"\xff\x00", b"[]", b'{"sequence": 1}', b'{"record_id": 7}']
    name = stream(1)
    reader = Reader(kinesis, name)
    with bridge(name) as process:
        for payload in rubbish:
            publisher.publish("a", 2)
            publisher.raw("a", payload)
        publisher.publish("a", 2)
        eventually(lambda: reader.distinct() == 14)
        process.kill()
    with (tmp_path / "dead-letters").open("rb") as file:
        letters = list(read_dead_letters(file))
    assert [letter.data for letter in letters] == rubbish
    assert {letter.error_code for letter in letters} == {"NoRecordId"}
    assert {letter.partition_key for letter in letters} == {"a"}
    assert publisher.prefix in letters[0].error_message
    reader.check(publisher)


def test_what_kinesis_would_refuse_goes_to_the_dead_letters_too(
    kinesis: "KinesisClient",
    stream: Callable[..., str],
    bridge: Launch,
    publisher: Publisher,
    tmp_path: Path,
):
    def event(size: int) -> bytes:
        return json.dumps({"record_id": new_record_id(), "x": "x" * size}).encode()

    def codes() -> list[str]:
        with (tmp_path / "dead-letters").open("rb") as file:
            return [letter.error_code for letter in read_dead_letters(file)]

    name = stream(1)
    reader = Reader(kinesis, name)
    with bridge(name, "--key-level", 9) as process:
        publisher.raw("a", event(1))  # the topic has no such level, so there is no partition key
        eventually(lambda: codes() == ["InvalidPartitionKey"])
        assert process.terminate(grace=60) == 0
    with bridge(name) as process:
        publisher.raw("k" * 257, event(1))
        publisher.raw("a", event(MIB))
        publisher.publish("a", 2)
        eventually(lambda: reader.distinct() == 2)
        assert process.terminate(grace=60) == 0
        assert "2 relayed, 2 refused, 0 unacknowledged" in process.lines()[-1]
    assert codes() == ["InvalidPartitionKey", "InvalidPartitionKey", "RecordTooLarge"]
    reader.check(publisher)


def test_a_stream_deleted_under_it_ends_the_bridge_and_the_broker_keeps_the_rest(
    kinesis: "KinesisClient",
    stream: Callable[..., str],
    bridge: Launch,
    publisher: Publisher,
    tmp_path: Path,
):
    gone, other = stream(1), stream(1)
    reader = Reader(kinesis, gone)
    with bridge(gone) as process:
        publisher.publish("a", 5)
        eventually(lambda: reader.distinct() == 5)
        kinesis.delete_stream(StreamName=gone)
        kinesis.get_waiter("stream_not_exists").wait(
            StreamName=gone, WaiterConfig={"Delay": 1, "MaxAttempts": 60}
        )
        publisher.publish("a", 5)
        assert process.wait(60) == 1
        assert process.lines()[-1].startswith("error: ")
        assert not any("Traceback" in line for line in process.lines())
    assert not (tmp_path / "dead-letters").exists()
    second = Reader(kinesis, other)
    with bridge(other) as process:
        eventually(lambda: {event["sequence"] for event in second.events()} >= {6, 7, 8, 9, 10})
        assert process.terminate(grace=60) == 0


@pytest.mark.parametrize(
    ("changed", "code", "message"),
    [
        ({}, 1, "error: stream no-such-stream: "),
        ({"MQTT_URL": "nonsense"}, 2, "error: expected mqtt://"),
        ({"AWS_ENDPOINT_URL_KINESIS": "http://127.0.0.1:1"}, 1, "error: stream no-such-stream: "),
        ({"AWS_ENDPOINT_URL_KINESIS": "nonsense"}, 1, "error: stream no-such-stream: Invalid end"),
    ],
)
def test_what_cannot_start_says_why(
    launch: Launch, tmp_path: Path, changed: dict[str, str], code: int, message: str
):
    letters = tmp_path / "dead"
    environment = {"MQTT_URL": "mqtt://127.0.0.1:1"} | changed
    with launch(
        "iot.bridge", "--stream", "no-such-stream", "--dead-letter", letters, **environment
    ) as bad:
        assert bad.wait(60) == code
        lines = bad.lines()
    assert len(lines) == 1
    assert lines[0].startswith(message)
    assert not letters.exists()


def test_wrong_credentials(
    launch: Launch, stream: Callable[..., str], mqtt_url: str, tmp_path: Path, unique: Unique
):
    good = Endpoint.parse(mqtt_url)
    with launch(
        "iot.bridge", "--stream", stream(1), "--client-id", unique("bridge"),
        "--dead-letter", tmp_path / "dead", url=f"mqtt://u:wrong@{good.host}:{good.port}",
    ) as bad:  # fmt: skip
        assert bad.wait(60) == 1
        assert [line for line in bad.lines() if line.startswith("error: ") and "refused" in line]
        assert "wrong" not in "".join(bad.lines())


def test_two_bridges_on_one_session_lose_nothing_and_keep_order(
    kinesis: "KinesisClient", stream: Callable[..., str], bridge: Launch, publisher: Publisher
):
    name = stream(2)
    reader = Reader(kinesis, name)
    with bridge(name) as one:
        publisher.publish("a", 20)
        with bridge(name) as other:
            # Now they throw each other out.
            publisher.publish("a", 20)
            publisher.publish("b", 20)
            eventually(lambda: reader.distinct() == 60, timeout=60)
            publisher.publish("a", 20)
            assert one.terminate(grace=60) == 0
            eventually(lambda: reader.distinct() == 80, timeout=60)
            assert other.terminate(grace=60) == 0
    reader.check(publisher)


def test_an_outage_of_kinesis_is_sat_out(
    kinesis: "KinesisClient",
    stream: Callable[..., str],
    bridge: Launch,
    publisher: Publisher,
    stack: Endpoints,
):
    name = stream(1)
    reader = Reader(kinesis, name)
    upstream = urlsplit(stack.kinesis or stack.aws or "")
    with Line(Endpoint(upstream.hostname or "", upstream.port or 80)) as line:
        here = f"http://127.0.0.1:{line.endpoint.port}"
        with bridge(name, AWS_ENDPOINT_URL_KINESIS=here) as process:
            publisher.publish("a", 5)
            eventually(lambda: reader.distinct() == 5)
            line.up = False
            line.cut()
            calls = line.calls
            publisher.publish("a", 5)
            eventually(lambda: line.calls > calls + 2)
            line.up = True
            eventually(lambda: reader.distinct() == 10, timeout=60)
            assert process.terminate(grace=60) == 0
    reader.check(publisher)


def test_what_an_earlier_topic_still_brings_ends_the_bridge_instead_of_blocking_it(
    stream: Callable[..., str], kinesis: "KinesisClient", bridge: Launch, publisher: Publisher
):
    """The broker keeps a session's subscriptions. Unacknowledged, they would fill its window."""
    name = stream(1)
    reader = Reader(kinesis, name)
    with bridge(name) as process:
        assert process.terminate(grace=60) == 0
    with bridge(name, "--topic", f"dt/{publisher.prefix}/+/other") as process:
        publisher.publish("a", 3)
        assert process.wait(60) == 1
        assert process.lines()[-1].startswith("error: the session ")
        assert f"dt/{publisher.prefix}/a/telemetry" in process.lines()[-1]
        assert "another --client-id" in process.lines()[-1]
    with bridge(name) as process:
        eventually(lambda: reader.distinct() == 3)
        assert process.terminate(grace=60) == 0
    reader.check(publisher)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux only")
def test_a_dead_letter_that_cannot_be_written_is_not_acknowledged(
    kinesis: "KinesisClient",
    stream: Callable[..., str],
    bridge: Launch,
    publisher: Publisher,
    tmp_path: Path,
):
    name = stream(1)
    reader = Reader(kinesis, name)
    with bridge(name, "--dead-letter", "/dev/full") as process:
        publisher.raw("a", b"not json")
        publisher.publish("a", 2)
        assert process.wait(60) == 1
        errors = [line for line in process.lines() if line.startswith("error: ")]
        assert len(errors) == 1
        assert "No space left" in errors[0]
        assert "/dev/full" in errors[0]
        assert not any("Traceback" in line for line in process.lines())
    with bridge(name) as process:
        eventually(lambda: reader.distinct() == 2)
        assert process.terminate(grace=60) == 0
    with (tmp_path / "dead-letters").open("rb") as file:
        assert [letter.data for letter in read_dead_letters(file)] == [b"not json"]
    reader.check(publisher)
