"""Shadows on a real broker: an application, a device and the service between them."""

import json
import os
import queue
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from infra.processes import start
from iot.connection import Connection, Message
from iot.device import Device
from iot.endpoint import Endpoint
from iot.errors import ShadowRequestError
from iot.shadow_client import ShadowClient, main
from iot.shadows.__main__ import answer_requests
from iot.shadows.service import ShadowService
from iot.shadows.store import open_store
from tests.mqtt_line import Line
from tests.support import eventually

Unique = Callable[[str], str]


@pytest.fixture
def endpoint(mqtt_url: str) -> Endpoint:
    return Endpoint.parse(mqtt_url)


@contextmanager
def connected(endpoint: Endpoint, name: str, **options: Any) -> Iterator[Connection]:
    connection = Connection(endpoint, client_id=name, **options)
    with connection:
        connection.wait_ready(30)
        yield connection


@pytest.fixture
def shadows(endpoint: Endpoint, tmp_path: Path) -> Iterator[None]:
    """The service, in this process."""
    with open_store(tmp_path / "shadows.sqlite") as store:
        connection = Connection(endpoint, client_id="shadow-service", clean_session=False)
        answer_requests(ShadowService(store, clock=time.time), connection)
        with connection:
            connection.wait_ready(30)
            yield


@pytest.fixture
def client(
    endpoint: Endpoint,
    unique: Unique,
    shadows: None,  # noqa: ARG001 - answers the client
) -> Iterator[ShadowClient]:
    connection = Connection(endpoint, client_id=unique("app"))
    made = ShadowClient(connection, unique("thing"))
    with connection:
        connection.wait_ready(30)
        yield made


class TestClient:
    def test_a_conversation(self, client: ShadowClient):
        with pytest.raises(ShadowRequestError) as missing:
            client.get()
        assert missing.value.code == 404

        assert client.set(desired={"mode": "eco", "limits": {"high": 5}})["version"] == 1
        assert client.set(reported={"mode": "eco"})["version"] == 2
        shadow = client.get()
        assert shadow["version"] == 2
        assert shadow["state"]["delta"] == {"limits": {"high": 5}}

        client.set(desired={"limits": None})
        assert "delta" not in client.get()["state"]
        assert client.delete()["version"] == 3
        assert client.set(desired={"mode": "new"})["version"] == 4

    def test_the_optimistic_lock(self, client: ShadowClient):
        client.set(desired={"a": 1})
        client.set(desired={"a": 2}, version=1)
        with pytest.raises(ShadowRequestError) as conflict:
            client.set(desired={"a": 3}, version=1)
        assert (conflict.value.code, conflict.value.retriable) == (409, False)
        assert client.get()["state"]["desired"] == {"a": 2}

    def test_null_state_clears(self, client: ShadowClient):
        client.set(desired={"a": 1}, reported={"b": 1})
        client.set(desired={"a": None}, reported={"b": None})
        assert client.get()["state"] == {}

    def test_watching(self, client: ShadowClient):
        changes: queue.Queue[dict[str, Any]] = queue.Queue()
        client.watch(changes.put)
        client.set(desired={"a": 1})
        client.set(desired={"a": 2})
        seen = [changes.get(timeout=30) for _ in range(2)]
        assert [change["current"]["version"] for change in seen] == [1, 2]
        assert seen[1]["previous"]["state"] == {"desired": {"a": 1}}


def test_without_a_service_a_request_times_out(endpoint: Endpoint, unique: Unique):
    connection = Connection(endpoint, client_id=unique("app"))
    client = ShadowClient(connection, unique("thing"))
    with connection:
        connection.wait_ready(30)
        with pytest.raises(ShadowRequestError) as silence:
            client.get(timeout=0.2)
    assert (silence.value.code, silence.value.retriable) == (None, True)


@pytest.mark.usefixtures("shadows")
def test_malformed_json_is_rejected_and_the_service_goes_on(endpoint: Endpoint, unique: Unique):
    prefix = f"$aws/things/{unique('thing')}/shadow"
    answers: queue.Queue[Message] = queue.Queue()
    connection = Connection(endpoint, client_id=unique("raw"))
    connection.subscribe(f"{prefix}/update/+", answers.put)
    with connection:
        connection.wait_ready(30)
        connection.publish(f"{prefix}/update", b'{"state": ')
        answer = answers.get(timeout=30)
        assert answer.topic == f"{prefix}/update/rejected"
        assert json.loads(answer.payload)["code"] == 400
        connection.publish(f"{prefix}/update", b'{"state": {"reported": {"a": 1}}}')
        topics = {answers.get(timeout=30).topic for _ in range(2)}
    assert topics == {f"{prefix}/update/accepted", f"{prefix}/update/documents"}


class TestDevice:
    @pytest.fixture
    def line(self, endpoint: Endpoint) -> Iterator[Line]:
        with Line(endpoint) as made:
            yield made

    @pytest.fixture
    def device(self, line: Line, client: ShadowClient) -> Iterator[Device]:
        connection = Connection(line.endpoint, client_id=client.thing)
        made = Device(connection, client.thing)
        with connection:
            connection.wait_ready(30)
            eventually(lambda: self.reported(client) == made.settings)
            yield made

    @staticmethod
    def reported(client: ShadowClient) -> Any:
        try:
            return client.get()["state"].get("reported")
        except ShadowRequestError as error:
            if error.code != 404:
                raise
            return None

    def test_it_reports_what_it_has_and_applies_what_is_desired(
        self, client: ShadowClient, device: Device
    ):
        assert device.settings == {"interval_ms": 1000, "mode": "normal"}
        client.set(desired={"mode": "eco", "interval_ms": 50})
        eventually(lambda: device.settings == {"interval_ms": 50, "mode": "eco"})
        eventually(lambda: "delta" not in client.get()["state"])
        assert client.get()["state"]["reported"] == device.settings

    def test_what_it_missed_while_offline_is_applied_on_return(
        self, client: ShadowClient, device: Device, line: Line
    ):
        line.up = False
        line.cut()
        eventually(lambda: not device.connection.ready)
        client.set(desired={"mode": "eco"})
        client.set(desired={"mode": "off"})
        assert device.settings["mode"] == "normal"
        line.up = True
        eventually(lambda: device.settings["mode"] == "off", timeout=60)
        eventually(lambda: "delta" not in client.get()["state"])

    @pytest.mark.usefixtures("device")
    def test_what_it_cannot_do_stays_in_the_delta(self, client: ShadowClient):
        client.set(desired={"interval_ms": -1, "mode": "eco"})
        eventually(lambda: self.reported(client) == {"interval_ms": 1000, "mode": "eco"})
        version = client.get()["version"]
        assert client.get()["state"]["delta"] == {"interval_ms": -1}
        # Each update brings the delta back; reporting each time would never end.
        client.set(desired={"unknown": 1})
        client.set(desired={"mode": "off"})
        eventually(lambda: self.reported(client) == {"interval_ms": 1000, "mode": "off"})
        assert client.get()["version"] == version + 3

    def test_a_lost_answer_is_made_up_for(self, client: ShadowClient, device: Device, line: Line):
        line.deaf = True
        client.set(desired={"mode": "eco"})
        assert device.settings["mode"] == "normal"
        line.cut()
        line.deaf = False
        eventually(lambda: device.settings["mode"] == "eco", timeout=60)
        eventually(lambda: self.reported(client) == device.settings)


def test_requests_wait_while_the_service_is_away(
    mqtt_url: str, endpoint: Endpoint, unique: Unique, tmp_path: Path
):
    thing, name = unique("thing"), unique("shadow-service")
    prefix = f"$aws/things/{thing}/shadow"
    argv = [sys.executable, "-m", "iot.shadows", "--store", tmp_path / "s", "--client-id", name]
    environment = dict(os.environ) | {"MQTT_URL": mqtt_url}

    def service() -> Any:
        return start(argv, name=name, log_dir=tmp_path, env=environment, ready=r"^ready")

    answers: queue.Queue[dict[str, Any]] = queue.Queue()
    connection = Connection(endpoint, client_id=unique("raw"))
    connection.subscribe(
        f"{prefix}/update/accepted", lambda message: answers.put(json.loads(message.payload))
    )
    with connection:
        connection.wait_ready(30)
        with service() as first:
            connection.publish(f"{prefix}/update", b'{"state": {"reported": {"a": 1}}}')
            assert answers.get(timeout=30)["version"] == 1
            first.kill()
        connection.publish(f"{prefix}/update", b'{"state": {"reported": {"a": 2}}}')
        connection.publish(f"{prefix}/update", b'{"state": {"reported": {"a": 3}}}')
        with service() as second:
            assert [answers.get(timeout=30)["version"] for _ in range(2)] == [2, 3]
            assert second.terminate() == 0


@pytest.mark.usefixtures("shadows")
class TestCommandLine:
    @pytest.fixture(autouse=True)
    def _url(self, mqtt_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MQTT_URL", mqtt_url)

    def test_set_get_delete(self, unique: Unique, capsys: pytest.CaptureFixture[str]):
        thing = unique("thing")
        assert main([thing, "set", '{"mode": "eco"}']) == 0
        assert main([thing, "set", '{"mode": "eco"}', "--section", "reported"]) == 0
        assert main([thing, "get"]) == 0
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert lines[2]["state"] == {"desired": {"mode": "eco"}, "reported": {"mode": "eco"}}
        assert main([thing, "set", "{}", "--version", "9"]) == 1
        assert capsys.readouterr().err == "error: 409 Version conflict\n"
        assert main([thing, "delete"]) == 0
        assert main([thing, "get"]) == 1
        assert capsys.readouterr().err == f"error: 404 No shadow exists with name: {thing}\n"

    def test_bad_input(self, capsys: pytest.CaptureFixture[str]):
        with pytest.raises(SystemExit) as usage:
            main(["thing", "set", "[1]"])
        assert usage.value.code == 2
        assert "not a JSON object" in capsys.readouterr().err
        assert main(["--mqtt-url", "http://x", "thing", "get"]) == 2
        assert capsys.readouterr().err.startswith("error: expected mqtt://")
