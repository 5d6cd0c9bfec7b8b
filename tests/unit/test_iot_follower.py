"""What a device does with what it hears about its shadow, alone and against the real service."""

import itertools
import json
import random
from typing import Any

import pytest

from iot.device import acceptable_settings
from iot.follower import ANSWER_SECONDS, ShadowFollower, ShadowRequest
from iot.shadows.document import JsonObject
from iot.shadows.service import ShadowService
from iot.shadows.store import open_store

SETTINGS = {"interval_ms": 1000, "mode": "normal"}


class Device:
    def __init__(self) -> None:
        self.now = 0.0
        self.applied: list[JsonObject] = []
        tokens = (f"t{number}" for number in itertools.count(1))

        def apply(difference: JsonObject) -> JsonObject:
            self.applied.append(difference)
            return acceptable_settings(difference)

        self.follower = ShadowFollower(
            dict(SETTINGS), apply=apply, clock=lambda: self.now, new_token=lambda: next(tokens)
        )

    def hears(self, answer: str, **body: Any) -> list[tuple[str, JsonObject]]:
        return bare(self.follower.handle(answer, body))


def bare(requests: list[ShadowRequest]) -> list[tuple[str, JsonObject]]:
    """Without the tokens."""
    return [
        (request.operation, {k: v for k, v in request.body.items() if k != "clientToken"})
        for request in requests
    ]


@pytest.fixture
def device() -> Device:
    made = Device()
    assert bare(made.follower.connected()) == [("get", {})]
    made.hears("get/accepted", version=4, state={"reported": SETTINGS}, clientToken="t1")
    assert not made.applied[0]
    return made


def reported(**settings: Any) -> list[tuple[str, JsonObject]]:
    return [("update", {"state": {"reported": settings}})]


def test_a_delta_is_applied_and_reported(device: Device):
    assert device.hears("update/delta", version=5, state={"mode": "eco"}) == reported(mode="eco")
    assert device.follower.settings == {"interval_ms": 1000, "mode": "eco"}


def test_an_old_delta_is_discarded(device: Device):
    device.hears("update/delta", version=7, state={"mode": "eco"})
    assert device.hears("update/delta", version=6, state={"mode": "old"}) == []
    assert device.hears("update/delta", version=7, state={"mode": "again"}) == []
    assert device.follower.settings["mode"] == "eco"


def test_an_accepted_answer_does_not_hide_the_delta_of_its_version(device: Device):
    device.hears("update/accepted", version=5, state={"desired": {"mode": "eco"}})
    assert device.hears("update/delta", version=5, state={"mode": "eco"}) == reported(mode="eco")


def test_a_delta_older_than_what_was_read_is_discarded(device: Device):
    assert device.hears("update/delta", version=4, state={"mode": "old"}) == []


def test_reading_finds_what_was_missed_while_away(device: Device):
    state = {"reported": SETTINGS, "delta": {"mode": "eco"}}
    assert bare(device.follower.connected()) == [("get", {})]
    assert device.hears("get/accepted", version=9, state=state) == reported(mode="eco")


def test_what_was_read_before_a_newer_delta_is_discarded(device: Device):
    device.follower.connected()
    device.hears("update/delta", version=10, state={"mode": "eco"})
    assert device.hears("get/accepted", version=9, state={"delta": {"mode": "old"}}) == []
    assert device.follower.settings["mode"] == "eco"


def test_no_shadow_means_to_report_everything(device: Device):
    device.follower.connected()
    assert device.hears("get/rejected", code=404, message="no") == reported(**SETTINGS)


def test_what_the_shadow_has_wrong_is_reported(device: Device):
    device.follower.connected()
    state = {"reported": {"mode": "normal", "interval_ms": 5}}
    assert device.hears("get/accepted", version=9, state=state) == reported(interval_ms=1000)


def test_what_cannot_be_had_is_not_reported_for_ever(device: Device):
    for version in (5, 6, 7):
        assert device.hears("update/delta", version=version, state={"interval_ms": -1}) == []
    assert device.follower.settings == SETTINGS


def test_a_deleted_shadow_may_count_from_one_again(device: Device):
    device.hears("update/delta", version=50, state={"mode": "eco"})
    device.hears("delete/accepted", version=50)
    answer = device.hears("update/delta", version=1, state={"mode": "new"})
    assert answer == reported(mode="new", interval_ms=1000)


def test_a_shadow_made_again_while_away_may_count_from_one_too(device: Device):
    device.hears("update/delta", version=50, state={"mode": "eco"})
    device.follower.connected()
    state = {"desired": {"mode": "new"}, "delta": {"mode": "new"}}
    answer = device.hears("get/accepted", version=1, state=state)
    assert answer == reported(mode="new", interval_ms=1000)


def test_a_lost_answer_leads_to_reading_again(device: Device):
    device.hears("update/delta", version=5, state={"mode": "eco"})
    assert device.follower.tick() == []
    device.now += ANSWER_SECONDS
    assert bare(device.follower.tick()) == [("get", {})]
    state = {"reported": SETTINGS, "desired": {"mode": "eco"}, "delta": {"mode": "eco"}}
    assert device.hears("get/accepted", version=5, state=state) == reported(mode="eco")


def test_an_answer_in_time_is_the_end_of_it(device: Device):
    requests = device.follower.handle("update/delta", {"version": 5, "state": {"mode": "eco"}})
    token = requests[0].body["clientToken"]
    device.hears("update/accepted", version=6, state={}, clientToken=token)
    device.now += 10 * ANSWER_SECONDS
    assert device.follower.tick() == []


@pytest.mark.parametrize("code", [429, 500])
def test_a_rejection_that_may_pass_is_as_good_as_no_answer(device: Device, code: int):
    requests = device.follower.handle("update/delta", {"version": 5, "state": {"mode": "eco"}})
    token = requests[0].body["clientToken"]
    device.hears("update/rejected", code=code, message="", clientToken=token)
    device.now += ANSWER_SECONDS
    assert bare(device.follower.tick()) == [("get", {})]


class World:
    """A device and the real service, with messages to the device in between."""

    def __init__(self, service: ShadowService, device: Device) -> None:
        self.service = service
        self.device = device
        self.to_device: list[tuple[str, JsonObject]] = []

    def send(self, requests: list[ShadowRequest]) -> None:
        for request in requests:
            self.ask(request.operation, request.body)

    def ask(self, operation: str, body: JsonObject) -> None:
        for publication in self.service.handle(f"{PREFIX}/{operation}", json.dumps(body).encode()):
            answer = publication.topic.removeprefix(PREFIX + "/")
            self.to_device.append((answer, json.loads(publication.payload)))

    def desire(self, **settings: Any) -> None:
        self.ask("update", {"state": {"desired": settings}})

    def reconnect(self) -> None:
        self.to_device.clear()
        self.send(self.device.follower.connected())

    def deliver(self, index: int, *, again: bool = False) -> None:
        message = self.to_device[index] if again else self.to_device.pop(index)
        self.send(self.device.follower.handle(*message))

    def disturb(self, rng: random.Random) -> None:
        index = rng.randrange(len(self.to_device)) if self.to_device else None
        action = rng.randrange(6)
        if action == 0:
            self.desire(mode=f"m{rng.random()}")
        elif action == 1:
            self.desire(interval_ms=rng.choice([5, -5]))
        elif action == 2:
            self.reconnect()
        elif index is not None and action == 3:
            self.to_device.pop(index)
        elif index is not None:
            self.deliver(index, again=rng.random() < 0.2)


PREFIX = "$aws/things/lamp/shadow"


@pytest.mark.parametrize("seed", range(60))
def test_device_and_shadow_agree_in_the_end_whatever_is_lost(seed: int):
    """Messages are lost, doubled and overtake each other; then the line is good for a while."""
    rng = random.Random(seed)
    device = Device()
    with open_store(":memory:") as store:
        world = World(ShadowService(store, clock=lambda: device.now), device)
        world.reconnect()
        for _ in range(60):
            device.now += rng.uniform(0, 2)
            world.disturb(rng)
            world.send(device.follower.tick())
        world.desire(interval_ms=7)
        world.reconnect()
        for _ in range(50):
            if world.to_device:
                world.deliver(0)
        assert not world.to_device, "device and shadow never stop talking"
        answer = world.service.handle(f"{PREFIX}/get", b"")[0]
    state = json.loads(answer.payload)["state"]
    assert state["reported"] == device.follower.settings
    assert "delta" not in state
