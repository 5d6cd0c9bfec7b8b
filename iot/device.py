"""One device: publishes telemetry and follows its shadow.

What it shows: events that get their identity where they are born (a record ID and a sequence
number, so that everything behind the device can drop duplicates and check order), published with
QoS 1 in order across reconnects; and a shadow followed the way AWS asks for: subscribe, get,
apply, report.

How to run it, with the broker's address in MQTT_URL and, where the broker is not AWS IoT Core,
``python -m iot.shadows --store shadows.sqlite`` running::

    python -m iot.device lamp-1 --interval-ms 1000
    python -m iot.shadow_client lamp-1 set '{"interval_ms": 200, "mode": "eco"}'

What you will see: ``ready``, then one JSON line for each acknowledged event, and one for each
setting that the shadow changed. With ``--count`` it ends after so many events.

What is guaranteed: an event on stdout is with the broker (at least once: it may be there twice,
with the same record ID), in the order of its sequence numbers. Events that were not acknowledged
are lost with the process: the outbox is in memory and holds 1,000. The sequence starts at 1 in
each run.

What to change for production: keep the outbox and the last sequence number in a file, use a
certificate, and take your readings from a sensor.
"""

import argparse
import json
import logging
import random
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from iot.connection import Connection, Message
from iot.endpoint import Endpoint
from iot.follower import ShadowFollower, ShadowRequest
from iot.lifecycle import (
    command_parser,
    integer_between,
    run_command,
    stop_on_signals,
    thing_name,
)
from iot.outbox import Outbox
from iot.shadows.document import JsonObject
from records.envelope import new_record_id

_log = logging.getLogger(__name__)

TELEMETRY_TOPIC: Final = "dt/fleet/{thing}/telemetry"
OUTBOX_EVENTS: Final = 1000
DRAIN_SECONDS: Final = 8.0
"""Less than the 10 s that container engines give after SIGTERM."""
LONGEST_INTERVAL_MS: Final = 24 * 3600 * 1000
"""A day. A shadow holds any number, and one that no float holds must not end the device."""
DEFAULT_SETTINGS: Final[Mapping[str, Any]] = {"interval_ms": 1000, "mode": "normal"}


@dataclass(frozen=True, slots=True)
class Event:
    """The identity of one event, minted by the device that saw it."""

    record_id: str
    thing: str
    sequence: int


class Device:
    """A thing on a connection of its own.

    Args:
        connection: Not yet started.
        thing: Its name.
        settings: What it starts with; the shadow may change ``interval_ms`` and ``mode``.
        on_acknowledged: Called in the network thread for each event that the broker has.
        on_settings: Called in the network thread when the shadow changed the settings.
        new_id: Mints record IDs.
        clock: Returns epoch seconds.
    """

    def __init__(
        self,
        connection: Connection,
        thing: str,
        *,
        settings: Mapping[str, Any] = DEFAULT_SETTINGS,
        on_acknowledged: Callable[[Event], None] | None = None,
        on_settings: Callable[[JsonObject], None] | None = None,
        new_id: Callable[[], str] = new_record_id,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.thing = thing
        self.connection = connection
        self._on_acknowledged = on_acknowledged
        self._on_settings = on_settings
        self._new_id = new_id
        self._clock = clock
        self._sequence = 0
        self._outbox = Outbox(connection, capacity=OUTBOX_EVENTS)
        self._prefix = f"$aws/things/{thing}/shadow"
        self._lock = threading.Lock()
        self._follower = ShadowFollower(
            dict(settings),
            apply=acceptable_settings,
            clock=time.monotonic,
            new_token=lambda: secrets.token_hex(8),
        )
        for answer in (
            "get/accepted",
            "get/rejected",
            "update/accepted",
            "update/rejected",
            "update/delta",
            "delete/accepted",
        ):
            connection.subscribe(f"{self._prefix}/{answer}", self._shadow_message)
        connection.on_ready(self._connected)

    @property
    def settings(self) -> JsonObject:
        """What the device has now."""
        return self._follower.settings

    @property
    def unacknowledged(self) -> int:
        """Events that the broker has not acknowledged yet."""
        return len(self._outbox)

    def publish(self, readings: Mapping[str, Any], *, timeout: float = 0.0) -> Event | None:
        """Queue one event of telemetry; call it from one thread.

        Args:
            readings: Fields of the event.
            timeout: Seconds to wait for room in the outbox.

        Returns:
            The event, or None if the outbox stayed full: nothing was queued, no number was used.

        Raises:
            ValueError: A reading has the name of a field of the event, or is not JSON (NaN).
        """
        event = Event(self._new_id(), self.thing, self._sequence + 1)
        body = asdict(event) | {"sent_at": int(self._clock() * 1000)}
        if taken := body.keys() & readings.keys():
            raise ValueError(f"no reading can be called {', '.join(sorted(taken))}")
        body |= readings

        def acknowledged() -> None:
            if self._on_acknowledged:
                self._on_acknowledged(event)

        topic = TELEMETRY_TOPIC.format(thing=self.thing)
        payload = json.dumps(body, separators=(",", ":"), allow_nan=False).encode()
        if not self._outbox.put(topic, payload, acknowledged, timeout=timeout):
            return None
        self._sequence = event.sequence
        return event

    def drain(self, timeout: float) -> bool:
        """Wait until the broker has every event; False if not after ``timeout`` seconds."""
        return self._outbox.drain(timeout)

    def tick(self) -> None:
        """Look after overdue answers; call it about every second."""
        if self.connection.ready:
            with self._lock:
                requests = self._follower.tick()
            self._publish(requests)

    def _connected(self) -> None:
        with self._lock:
            requests = self._follower.connected()
        self._publish(requests)

    def _shadow_message(self, message: Message) -> None:
        answer = message.topic.removeprefix(self._prefix + "/")
        with self._lock:
            before = self._follower.settings
            requests = self._follower.handle(answer, json.loads(message.payload))
            after = self._follower.settings
        self._publish(requests)
        if after != before and self._on_settings:
            self._on_settings(after)

    def _publish(self, requests: Sequence[ShadowRequest]) -> None:
        for request in requests:
            self.connection.publish(
                f"{self._prefix}/{request.operation}", json.dumps(request.body).encode()
            )


def acceptable_settings(desired: JsonObject) -> JsonObject:
    """Return what this kind of device can do of what is desired: ``interval_ms`` and ``mode``."""
    accepted: JsonObject = {}
    for key, value in desired.items():
        if (key == "interval_ms" and type(value) is int and 1 <= value <= LONGEST_INTERVAL_MS) or (
            key == "mode" and isinstance(value, str)
        ):
            accepted[key] = value
        else:
            _log.warning("cannot have %s = %r", key, value)
    return accepted


def simulated_readings(rng: random.Random) -> Iterator[dict[str, float]]:
    """Yield readings that drift like those of a sensor, for ever."""
    temperature, humidity = rng.uniform(15, 25), rng.uniform(30, 60)
    while True:
        temperature += rng.gauss(0, 0.1)
        humidity = min(100.0, max(0.0, humidity + rng.gauss(0, 0.3)))
        yield {"temperature": round(temperature, 2), "humidity": round(humidity, 1)}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one device until it has sent ``--count`` events, or SIGINT or SIGTERM."""
    parser = command_parser(__doc__, __spec__)
    parser.add_argument("thing", type=thing_name, help="the thing's name, and the client's")
    parser.add_argument(
        "--interval-ms",
        type=integer_between(1, LONGEST_INTERVAL_MS),
        default=1000,
        metavar="MS",
        help="milliseconds between two events, until the shadow changes it (default: %(default)s)",
    )
    parser.add_argument(
        "--mode",
        default="normal",
        help="a setting without effect, for the shadow to change (default: %(default)s)",
    )
    parser.add_argument("--count", type=integer_between(1), metavar="N", help="end after N events")
    return run_command(_run, parser.parse_args(argv))


def _run(arguments: argparse.Namespace) -> int:
    connection = Connection(Endpoint.parse(arguments.mqtt_url), client_id=arguments.thing)
    device = Device(
        connection,
        arguments.thing,
        settings={"interval_ms": arguments.interval_ms, "mode": arguments.mode},
        on_acknowledged=lambda event: print(json.dumps(asdict(event)), flush=True),
        on_settings=lambda settings: print(json.dumps({"settings": settings}), flush=True),
    )
    with stop_on_signals() as stop, connection:
        if connection.wait_ready(arguments.connect_timeout, stop=stop):
            print(f"ready: {arguments.thing} on {connection.endpoint}", flush=True)
        _publish_until(stop, device, arguments.count)
        if not device.drain(DRAIN_SECONDS):
            print(f"error: {device.unacknowledged} events not acknowledged", file=sys.stderr)
            return 1
    return 0


def _publish_until(stop: threading.Event, device: Device, count: int | None) -> None:
    readings = simulated_readings(random.Random())
    sent = 0
    while not stop.is_set():
        if device.connection.failure:
            raise device.connection.failure
        if device.publish(next(readings)):
            sent += 1
        else:
            _log.warning("outbox full, one reading not taken")
        if sent == count:
            return
        last = time.monotonic()
        # In steps, so that a new interval counts at once and not after the old one.
        while (due := last + device.settings["interval_ms"] / 1000 - time.monotonic()) > 0:
            device.tick()
            if stop.wait(min(due, 0.5)):
                return


if __name__ == "__main__":
    sys.exit(main())
