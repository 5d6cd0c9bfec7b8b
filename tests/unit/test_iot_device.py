"""A device and its session, without a broker."""

import json
import math
from collections import deque
from collections.abc import Iterator
from typing import Any

import pytest

from iot import device as device_module
from iot import fleet, shadow_client
from iot.connection import Connection
from iot.device import Device
from iot.endpoint import Endpoint
from iot.errors import ConnectionUnready

NOWHERE = Endpoint("127.0.0.1", 1)


@pytest.fixture
def connection() -> Connection:
    """Never started: what is published waits in it."""
    return Connection(NOWHERE, client_id="lamp")


def waiting(connection: Connection) -> list[Any]:
    return [json.loads(each.payload) for each in connection._client._out_messages.values()]


def test_an_event_carries_the_identity_that_the_device_minted(connection: Connection):
    device = Device(connection, "lamp", new_id=lambda: "id-1", clock=lambda: 1.5)
    event = device.publish({"temperature": 20.5})
    assert event is not None
    assert (event.record_id, event.thing, event.sequence) == ("id-1", "lamp", 1)
    identity = {"record_id": "id-1", "thing": "lamp", "sequence": 1, "sent_at": 1500}
    assert waiting(connection) == [identity | {"temperature": 20.5}]


@pytest.mark.parametrize(
    "readings",
    [{"record_id": "x"}, {"sequence": 9}, {"thing": "other"}, {"sent_at": 0}, {"t": math.nan}],
)
def test_readings_cannot_pass_for_the_identity_and_have_to_be_json(
    connection: Connection, readings: dict[str, Any]
):
    device = Device(connection, "lamp")
    with pytest.raises(ValueError, match=r"record_id|sequence|thing|sent_at|JSON"):
        device.publish(readings)
    # Nothing was queued, no number was used.
    assert device.unacknowledged == 0
    event = device.publish({"temperature": 20})
    assert event is not None
    assert event.sequence == 1


def test_each_run_counts_from_1_with_ids_of_its_own(connection: Connection):
    runs = [Device(connection, "lamp").publish({}) for _ in range(2)]
    assert [event.sequence for event in runs if event] == [1, 1]
    assert len({event.record_id for event in runs if event}) == 2


def test_a_session_that_is_full_says_so(connection: Connection):
    connection._client._max_queued_messages = 1
    connection.publish("t", b"1")
    with pytest.raises(ConnectionUnready, match="wait"):
        connection.publish("t", b"2")
    assert len(connection._client._out_messages) == 1


class Walked(deque[Any]):
    """A queue of packets into which another thread publishes while paho walks over it."""

    def __iter__(self) -> Iterator[Any]:
        for index, packet in enumerate(super().__iter__()):
            if not index:
                self.append(packet)
            yield packet


def test_publishing_while_paho_prepares_to_reconnect_is_a_failed_attempt(connection: Connection):
    """Anything but an OSError would end the network thread, and nobody would ever hear of it."""
    packet = {"command": 0, "qos": 1, "info": None}
    connection._client._out_packet = Walked([packet, packet])
    with pytest.raises(OSError, match="deque mutated"):
        connection._client.reconnect()


@pytest.mark.parametrize("thing", ["", "a+b", "#", "a/b", "x" * 129, "a b", "é"])
@pytest.mark.parametrize("program", ["device", "shadow_client", "fleet"])
def test_names_that_aws_does_not_allow_are_bad_usage(
    program: str, thing: str, capsys: pytest.CaptureFixture[str]
):
    url = ["--mqtt-url", "mqtt://127.0.0.1:1", "--connect-timeout", "0"]
    main, arguments = {
        "device": (device_module.main, [thing]),
        "shadow_client": (shadow_client.main, [thing, "get"]),
        "fleet": (
            fleet.main,
            ["--prefix", thing or "+", "--devices", "1", "--events", "1", "--ledger", "/dev/null"],
        ),
    }[program]
    with pytest.raises(SystemExit) as usage:
        main([*url, *arguments])
    assert usage.value.code == 2
    assert "128 characters" in capsys.readouterr().err


@pytest.mark.parametrize("seconds", ["-1", "nan", "inf", "soon"])
@pytest.mark.parametrize("option", ["--connect-timeout", "--timeout"])
def test_times_that_are_none_are_bad_usage(
    option: str, seconds: str, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit) as usage:
        shadow_client.main([f"{option}={seconds}", "lamp", "get"])
    assert usage.value.code == 2
    assert option in capsys.readouterr().err
