"""What the devices and the bridge rely on, held against each broker that is there."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from infra.errors import ProcessError
from infra.stack import broker as brokers
from infra.stack.health import Broker, check_mqtt
from tests.support import eventually

QUEUED = 2_500
"""Well above the 1,000 that Mosquitto keeps by default."""


@pytest.fixture(scope="module", params=["aedes", "mosquitto", "stack"])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if request.param == "stack":
        yield request.getfixturevalue("mqtt_url")
        return
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "aedes":
            patch.setattr(brokers, "find_mosquitto", lambda: None)
        elif brokers.find_mosquitto() is None:
            pytest.skip("Mosquitto is not installed")
        process, address = brokers.start_broker(tmp_path_factory.mktemp(request.param))
    with process:
        assert request.param in process.name
        yield address


class Subscriber:
    """A client that notes what it gets, and acknowledges as paho does by itself."""

    def __init__(self, url: str, client_id: str, topic: str, *, clean: bool = False) -> None:
        self.payloads: list[bytes] = []
        self.subscribed = threading.Event()
        self.client = new_client(url, client_id, clean=clean)
        self.client.on_connect = lambda client, *_: client.subscribe(topic, qos=1)
        self.client.on_subscribe = lambda *_: self.subscribed.set()
        self.client.on_message = lambda _client, _data, m: self.payloads.append(m.payload)

    @contextmanager
    def connected(self, url: str) -> "Iterator[Subscriber]":
        connect(self.client, url)
        self.client.loop_start()
        try:
            assert self.subscribed.wait(30)
            yield self
        finally:
            self.client.disconnect()
            self.client.loop_stop()


def new_client(url: str, client_id: str, *, clean: bool = True) -> mqtt.Client:
    where = Broker.from_url(url)
    client = mqtt.Client(
        CallbackAPIVersion.VERSION2,
        client_id=client_id,
        clean_session=clean,
        reconnect_on_failure=False,
    )
    client.username_pw_set(where.username, where.password)
    return client


def connect(client: mqtt.Client, url: str) -> None:
    where = Broker.from_url(url)
    client.connect(where.host, where.port, keepalive=60)


@contextmanager
def publisher(url: str, client_id: str) -> Iterator[Callable[..., mqtt.MQTTMessageInfo]]:
    client = new_client(url, client_id)
    # paho writes to the socket from the caller's thread; wait for CONNACK as any device does.
    connack = threading.Event()
    client.on_connect = lambda *_: connack.set()
    connect(client, url)
    client.loop_start()
    assert connack.wait(30)
    try:
        yield client.publish
    finally:
        client.disconnect()
        client.loop_stop()


def numbers(count: int) -> list[bytes]:
    return [b"%d" % n for n in range(count)]


def test_a_message_goes_from_one_client_to_another(url: str, unique: Callable[[str], str]):
    topic = unique("t")
    with (
        Subscriber(url, unique("s"), f"dt/{topic}/+").connected(url) as subscriber,
        publisher(url, unique("p")) as publish,
    ):
        publish(f"dt/{topic}/a", b"hello", qos=1).wait_for_publish(30)
        eventually(lambda: subscriber.payloads == [b"hello"])


def test_reserved_topics_are_carried(url: str, unique: Callable[[str], str]):
    topic = f"$aws/things/{unique('lamp')}/shadow/update"
    with (
        Subscriber(url, unique("s"), "$aws/things/+/shadow/update").connected(url) as subscriber,
        publisher(url, unique("p")) as publish,
    ):
        publish(topic, b"{}", qos=1).wait_for_publish(30)
        eventually(lambda: subscriber.payloads == [b"{}"])


@pytest.mark.parametrize(
    ("username", "password"), [(None, None), ("toolkit", None), ("toolkit", "x"), ("root", None)]
)
def test_a_client_without_the_credentials_is_refused(
    url: str, username: str | None, password: str | None
):
    where = Broker.from_url(url)
    codes: list[str] = []
    client = mqtt.Client(CallbackAPIVersion.VERSION2, reconnect_on_failure=False)
    if username is not None:
        client.username_pw_set(username, password)
    client.on_connect = lambda _c, _u, _f, code, _p: codes.append(str(code))
    client.connect(where.host, where.port)
    client.loop_start()
    try:
        eventually(lambda: codes)
    finally:
        client.loop_stop()
    assert codes[0] in ("Not authorized", "Bad user name or password")


def test_a_session_keeps_everything_and_its_order_while_its_client_is_away(
    url: str, unique: Callable[[str], str]
):
    session, topic = unique("session"), unique("t")
    with Subscriber(url, session, topic).connected(url):
        pass
    with publisher(url, unique("p")) as publish:
        for payload in numbers(QUEUED):
            last = publish(topic, payload, qos=1)
        last.wait_for_publish(60)
        with Subscriber(url, session, topic).connected(url) as back:
            eventually(lambda: len(back.payloads) >= QUEUED, timeout=60)
            assert back.payloads == numbers(QUEUED)


def test_new_messages_do_not_overtake_those_that_were_queued(
    url: str, unique: Callable[[str], str]
):
    session, topic, total = unique("session"), unique("t"), 3 * QUEUED
    with Subscriber(url, session, topic).connected(url):
        pass
    with publisher(url, unique("p")) as publish:
        for payload in numbers(total)[:QUEUED]:
            publish(topic, payload, qos=1)
        # The client comes back while the publisher goes on.
        with Subscriber(url, session, topic).connected(url) as back:
            for payload in numbers(total)[QUEUED:]:
                last = publish(topic, payload, qos=1)
            last.wait_for_publish(60)
            eventually(lambda: len(set(back.payloads)) == total, timeout=60)
            # A message may come twice (QoS 1), but never before its predecessor has come.
            firsts = list(dict.fromkeys(back.payloads))
            assert firsts == numbers(total)


def test_a_qos_0_message_does_not_push_a_qos_1_message_out(url: str, unique: Callable[[str], str]):
    topic = unique("t")
    with (
        Subscriber(url, unique("s"), f"{topic}/#", clean=True).connected(url) as subscriber,
        publisher(url, unique("p1")) as first,
        publisher(url, unique("p2")) as second,
    ):
        for payload in numbers(500):
            last = first(f"{topic}/kept", payload, qos=1)
            second(f"{topic}/fleeting", b"x", qos=0)
        last.wait_for_publish(60)
        wanted = set(numbers(500))
        eventually(lambda: wanted <= set(subscriber.payloads), timeout=30)


def test_a_client_that_does_not_read_does_not_hold_up_the_others(
    url: str, unique: Callable[[str], str]
):
    topic = unique("t")
    deaf = Subscriber(url, unique("deaf"), topic)
    gate = threading.Event()
    heard: list[bytes] = []

    def wait_then_hear(_client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        gate.wait(120)
        heard.append(message.payload)

    deaf.client.on_message = wait_then_hear
    # More than what fits into the buffers of a connection.
    payloads = [b"%06d" % n * 4_000 for n in range(600)]
    with deaf.connected(url), publisher(url, unique("p")) as publish:
        with Subscriber(url, unique("s"), topic).connected(url) as subscriber:
            for payload in payloads:
                last = publish(topic, payload, qos=1)
            last.wait_for_publish(30)
            assert last.is_published()
            eventually(lambda: len(subscriber.payloads) == len(payloads), timeout=30)
        assert not heard
        gate.set()
        eventually(lambda: heard == payloads, timeout=30, message="the deaf one hears it all")


def test_the_health_check_knows_the_right_password_from_a_wrong_one(url: str):
    assert check_mqtt(url) is None
    where = Broker.from_url(url)
    problem = check_mqtt(f"mqtt://{where.username}:wrong@{where.host}:{where.port}")
    assert problem is not None
    assert "refuses" in problem


def test_a_taken_port_is_tried_again_with_another():
    ports: list[int] = []

    def start_on(port: int) -> int:
        ports.append(port)
        if len(ports) < 3:
            raise ProcessError("mosquitto ended: Error: Address already in use")
        return port

    assert brokers.on_free_port(start_on) == ports[-1]
    assert len(ports) == 3


def test_another_failure_is_not_tried_again():
    def start_on(port: int) -> None:
        raise ProcessError(f"mosquitto ended on {port}: out of memory")

    with pytest.raises(ProcessError, match="out of memory"):
        brokers.on_free_port(start_on)


def test_mosquitto_is_found_outside_the_search_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    program = tmp_path / "mosquitto"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr(brokers, "_MOSQUITTO_FOLDERS", (str(tmp_path),))
    assert brokers.find_mosquitto() == str(program)
