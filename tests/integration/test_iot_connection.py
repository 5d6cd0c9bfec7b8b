"""A session that stays up, and devices that lose nothing, over a line that does not stay up."""

import gc
import json
import os
import queue
import random
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.processes import GuardedProcess, start
from infra.stack.broker import new_credentials
from infra.stack.nodejs import NODE_DIR, find_node
from iot.connection import Connection, Message
from iot.device import Device, Event
from iot.endpoint import Endpoint
from iot.errors import ConnectionRefused, ConnectionUnready
from tests.mqtt_line import Line
from tests.support import eventually

Unique = Callable[[str], str]


@pytest.fixture
def endpoint(mqtt_url: str) -> Endpoint:
    return Endpoint.parse(mqtt_url)


@pytest.fixture
def line(endpoint: Endpoint) -> Iterator[Line]:
    with Line(endpoint) as made:
        yield made


class Inbox:
    """A subscriber on a good line."""

    def __init__(self, endpoint: Endpoint, name: str, topic_filter: str) -> None:
        self.messages: queue.Queue[Message] = queue.Queue()
        self.connection = Connection(endpoint, client_id=name)
        self.connection.subscribe(topic_filter, self.messages.put)

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(message.payload) for message in self.messages.queue]


@pytest.fixture
def inbox(endpoint: Endpoint, unique: Unique) -> Iterator[Callable[[str], Inbox]]:
    opened: list[Inbox] = []

    def open_inbox(topic_filter: str) -> Inbox:
        made = Inbox(endpoint, unique("inbox"), topic_filter)
        opened.append(made)
        made.connection.start()
        made.connection.wait_ready(30)
        return made

    yield open_inbox
    for each in opened:
        each.connection.stop()


class Disturbed(deque[Any]):
    """A queue of packets to which somebody adds one while it is walked over for the first time."""

    disturbed = False

    def __iter__(self) -> Iterator[Any]:
        if not self.disturbed:
            self.disturbed = True
            raise RuntimeError("deque mutated during iteration")
        return super().__iter__()


class TestConnection:
    def test_wrong_credentials_are_final(self, line: Line, unique: Unique):
        here = line.endpoint
        wrong = Endpoint(here.host, here.port, here.username, "wrong")
        connection = Connection(wrong, client_id=unique("client"))
        with connection:
            with pytest.raises(ConnectionRefused, match=r"refused client-.*"):
                connection.wait_ready(30)
            eventually(lambda: connection._client._thread is None)
        assert line.calls == 1
        assert isinstance(connection.failure, ConnectionRefused)

    def test_no_anonymous_client(self, endpoint: Endpoint, unique: Unique):
        anonymous = Endpoint(endpoint.host, endpoint.port)
        with (
            Connection(anonymous, client_id=unique("client")) as connection,
            pytest.raises(ConnectionRefused),
        ):
            connection.wait_ready(30)

    def test_nobody_there(self, unique: Unique):
        with (
            Connection(Endpoint("127.0.0.1", 1), client_id=unique("client")) as connection,
            pytest.raises(ConnectionUnready, match=r"127\.0\.0\.1:1 has not answered"),
        ):
            connection.wait_ready(0.3)

    def test_it_waits_for_a_broker_that_comes_later(self, line: Line, unique: Unique):
        line.up = False
        with Connection(line.endpoint, client_id=unique("client")) as connection:
            eventually(lambda: line.calls > 1)
            line.up = True
            connection.wait_ready(60)

    def test_a_failing_handler_does_not_end_the_session(
        self, endpoint: Endpoint, unique: Unique, caplog: pytest.LogCaptureFixture
    ):
        topic = unique("t")
        seen: queue.Queue[bytes] = queue.Queue()

        def handler(message: Message) -> None:
            seen.put(message.payload)
            raise RuntimeError("a defect in a handler")

        connection = Connection(endpoint, client_id=unique("client"))
        connection.subscribe(topic, handler)
        with connection:
            connection.wait_ready(30)
            for number in range(3):
                connection.publish(topic, b"%d" % number)
                assert seen.get(timeout=30) == b"%d" % number
            assert connection.ready
        assert "a defect in a handler" in caplog.text

    def test_it_subscribes_again_after_a_cut(self, line: Line, unique: Unique, inbox: Any):
        topic = unique("t")
        seen: queue.Queue[bytes] = queue.Queue()
        connection = Connection(line.endpoint, client_id=unique("client"))
        connection.subscribe(topic, lambda message: seen.put(message.payload))
        readies: list[int] = []
        connection.on_ready(lambda: readies.append(1))
        publisher = inbox(unique("unused")).connection
        with connection:
            connection.wait_ready(30)
            line.cut()
            eventually(lambda: len(readies) == 2, timeout=60)
            publisher.publish(topic, b"after")
            assert seen.get(timeout=30) == b"after"

    def test_a_publish_while_it_prepares_to_reconnect_does_not_end_it(
        self, line: Line, unique: Unique
    ):
        """paho walks over its packets without a lock; another thread may add one just then."""
        connection = Connection(line.endpoint, client_id=unique("client"))
        with connection:
            connection.wait_ready(30)
            connection._client._out_packet = packets = Disturbed()
            line.cut()
            eventually(lambda: packets.disturbed)
            eventually(lambda: connection.ready, timeout=60)
            acknowledged: queue.Queue[int] = queue.Queue()
            connection.publish(unique("t"), b"", on_acknowledged=lambda: acknowledged.put(1))
            acknowledged.get(timeout=30)

    def test_what_was_not_acknowledged_comes_again_and_old_acknowledgements_are_void(
        self, line: Line, unique: Unique, inbox: Any
    ):
        topic = unique("t")
        seen: queue.Queue[Message] = queue.Queue()
        connection = Connection(
            line.endpoint, client_id=unique("client"), clean_session=False, manual_ack=True
        )
        connection.subscribe(topic, seen.put)
        publisher = inbox(unique("unused")).connection
        with connection:
            connection.wait_ready(30)
            for payload in (b"1", b"2"):
                publisher.publish(topic, payload)
            first = [seen.get(timeout=30) for _ in range(2)]
            assert connection.acknowledge(first[0])
            line.cut()
            eventually(lambda: not connection.ready)
            eventually(lambda: connection.ready, timeout=60)
            again = seen.get(timeout=30)
            # The first may come again too, if its acknowledgement was cut off.
            while again.payload == b"1":
                again = seen.get(timeout=30)
            assert again.payload == b"2"
            assert not connection.acknowledge(first[1])
            assert connection.acknowledge(again)

    def test_a_second_client_of_the_same_name_takes_over(self, endpoint: Endpoint, unique: Unique):
        name = unique("client")
        with Connection(endpoint, client_id=name) as first:
            first.wait_ready(30)
            lost: list[int] = []
            first.on_lost(lambda: lost.append(1))
            with Connection(endpoint, client_id=name) as second:
                second.wait_ready(30)
                eventually(lambda: lost)


class TestDeviceOnABadLine:
    def test_every_event_arrives_and_the_first_of_each_in_order(
        self, line: Line, unique: Unique, inbox: Any
    ):
        thing = unique("thing")
        subscriber = inbox(f"dt/fleet/{thing}/telemetry")
        acknowledged: list[Event] = []
        connection = Connection(line.endpoint, client_id=thing)
        device = Device(connection, thing, on_acknowledged=acknowledged.append)
        rng = random.Random(3)
        with connection:
            connection.wait_ready(30)
            for number in range(1, 241):
                assert device.publish({"reading": number}, timeout=30)
                if number % 60 == 0:
                    # Nothing of what the broker says arrives, then the line is cut: what it has
                    # taken is published again.
                    line.deaf = rng.random() < 0.7
                    eventually(lambda: line.deaf or not device.unacknowledged)
                    line.cut()
                    line.deaf = False
            assert device.drain(90)
        eventually(lambda: len({event["record_id"] for event in subscriber.events()}) == 240)
        events = subscriber.events()
        first = {event["record_id"]: event for event in reversed(events)}
        in_order = sorted(first.values(), key=events.index)
        assert [event["sequence"] for event in in_order] == list(range(1, 241))
        assert [event.sequence for event in acknowledged] == list(range(1, 241))
        assert {event.record_id for event in acknowledged} == first.keys()

    def test_events_wait_in_the_outbox_while_there_is_no_line(
        self, line: Line, unique: Unique, inbox: Any
    ):
        thing = unique("thing")
        subscriber = inbox(f"dt/fleet/{thing}/telemetry")
        connection = Connection(line.endpoint, client_id=thing)
        device = Device(connection, thing)
        with connection:
            connection.wait_ready(30)
            line.up = False
            line.cut()
            eventually(lambda: not connection.ready)
            for number in range(10):
                assert device.publish({"reading": number})
            assert not device.drain(0.1)
            line.up = True
            assert device.drain(60)
        eventually(lambda: [e["sequence"] for e in subscriber.events()] == list(range(1, 11)))


def test_a_device_outlives_its_broker(unique: Unique, tmp_path: Path):
    """The broker is killed and another takes its place, without any memory of sessions."""
    credentials = new_credentials()

    def broker(name: str) -> tuple[GuardedProcess, Endpoint]:
        environment = {
            "MQTT_USERNAME": credentials.username,
            "MQTT_PASSWORD": credentials.password,
        }
        process = start(
            [find_node(), NODE_DIR / "broker.mjs"],
            name=name,
            log_dir=tmp_path,
            env=dict(os.environ) | environment,
        )
        address = process.wait_for_line(r"^ready (\S+)$", timeout=30)[1]
        return process, Endpoint.parse(credentials.url(address))

    first, endpoint = broker("first")
    with first, Line(endpoint) as line:
        thing = unique("thing")
        connection = Connection(line.endpoint, client_id=thing)
        device = Device(connection, thing)
        with connection:
            connection.wait_ready(30)
            assert device.publish({"reading": 1})
            assert device.drain(30)
            first.kill()
            eventually(lambda: not connection.ready)
            assert device.publish({"reading": 2})
            second, line.upstream = broker("second")
            with second:
                assert device.drain(60)
                eventually(lambda: connection.ready)


class TestRunnables:
    @pytest.fixture
    def run(self, mqtt_url: str, tmp_path: Path) -> Callable[..., GuardedProcess]:
        def launch(module: str, *arguments: object, url: str | None = mqtt_url) -> GuardedProcess:
            environment = {name: value for name, value in os.environ.items() if name != "MQTT_URL"}
            if url:
                environment["MQTT_URL"] = url
            argv = [sys.executable, "-m", module, *map(str, arguments)]
            return start(argv, name=module, log_dir=tmp_path, env=environment)

        return launch

    def test_a_device_ends_after_its_count(self, run: Any, unique: Unique):
        thing = unique("thing")
        with run("iot.device", thing, "--interval-ms", 1, "--count", 5) as process:
            assert process.wait(60) == 0
            lines = process.lines()
        assert lines[0].startswith(f"ready: {thing}")
        assert [json.loads(line)["sequence"] for line in lines[1:]] == [1, 2, 3, 4, 5]

    @pytest.mark.parametrize("module", ["iot.device", "iot.fleet", "iot.shadow_client"])
    def test_refused_unreachable_and_bad_addresses_are_one_line(
        self, run: Any, unique: Unique, mqtt_url: str, tmp_path: Path, module: str
    ):
        arguments: list[object] = {
            "iot.device": [unique("thing")],
            "iot.fleet": ["--devices", 2, "--events", 2, "--ledger", tmp_path / "ledger"],
            "iot.shadow_client": [unique("thing"), "get"],
        }[module]
        good = Endpoint.parse(mqtt_url)
        for url, patience, code, message in (
            (f"mqtt://x:y@{good.host}:{good.port}", 30, 1, "refused"),
            ("mqtt://127.0.0.1:1", 0.5, 1, "has not answered within 0.5 s"),
            ("nonsense", 30, 2, "expected mqtt://"),
            (None, 30, 2, "MQTT_URL"),
        ):
            with run(module, "--connect-timeout", patience, *arguments, url=url) as process:
                assert process.wait(60) == code
                said = process.lines()
            assert len(said) == 1, said
            assert said[0].startswith("error: ")
            assert message in said[0]

    def test_a_fleet_writes_what_was_acknowledged(
        self, run: Any, unique: Unique, inbox: Any, tmp_path: Path
    ):
        prefix, path = unique("fleet"), tmp_path / "ledger"
        subscriber = inbox("dt/fleet/+/telemetry")
        with run(
            "iot.fleet", "--devices", 5, "--events", 103, "--seconds", 0.2, "--ledger", path,
            "--prefix", prefix,
        ) as process:  # fmt: skip
            process.wait_for_line(r"^ready: 5 devices", timeout=60)
            process.wait_for_line(r"^sent 103 events, 103 acknowledged$", timeout=60)
            assert process.returncode is None, "it stays to follow the shadows"
            assert process.terminate() == 0
            assert process.lines()[-1].startswith("done: 5 devices, 103 events, 103")
        ledger = [json.loads(line) for line in path.read_text().splitlines()]
        mine = [event for event in subscriber.events() if event["thing"].startswith(prefix)]
        assert {row["record_id"] for row in ledger} == {event["record_id"] for event in mine}
        assert len(ledger) == 103
        for thing in {row["thing"] for row in ledger}:
            sequences = [row["sequence"] for row in ledger if row["thing"] == thing]
            assert sequences == list(range(1, len(sequences) + 1))
            arrived = [event["sequence"] for event in mine if event["thing"] == thing]
            assert arrived == sequences

    def test_a_fleet_that_cannot_deliver_says_so(
        self, run: Any, unique: Unique, line: Line, tmp_path: Path
    ):
        with run(
            "iot.fleet", "--devices", 2, "--events", 1000, "--seconds", 100, "--ledger",
            tmp_path / "ledger", "--prefix", unique("fleet"), "--drain-seconds", 1,
            url=line.url,
        ) as process:  # fmt: skip
            process.wait_for_line(r"^ready", timeout=60)
            line.up = False
            line.cut()
            written = len((tmp_path / "ledger").read_text().splitlines())
            eventually(lambda: line.calls > 3)
            assert process.terminate(grace=60) == 1
            assert "were not acknowledged" in process.lines()[-1]
            assert len((tmp_path / "ledger").read_text().splitlines()) <= written + 1

    @pytest.mark.parametrize(
        "arguments", [["--devices", "0"], ["--devices", "301"], ["--devices", "x"]]
    )
    def test_bad_numbers(self, arguments: list[str], capsys: pytest.CaptureFixture[str]):
        from iot.fleet import main  # noqa: PLC0415

        with pytest.raises(SystemExit) as usage:
            main([*arguments, "--events", "1", "--ledger", "x"])
        assert usage.value.code == 2
        assert "--devices" in capsys.readouterr().err


def test_nothing_is_left_open_for_the_garbage_collector(endpoint: Endpoint, unique: Unique):
    """It would close the sockets of paho's client by itself, with a warning for each."""
    connection = Connection(endpoint, client_id=unique("gone"))
    gc.collect(0)  # What comes next is collected before it.
    with connection:
        connection.wait_ready(30)
    del connection
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        gc.collect()
    assert not [each.message for each in caught]
