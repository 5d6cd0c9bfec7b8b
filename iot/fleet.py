"""A fleet: many devices in one process, each with its own connection, shadow and sequence.

What it shows: load for what stands behind the broker, and a ledger of what was really sent,
against which what was stored can be checked.

How to run it::

    python -m iot.fleet --devices 20 --events 2000 --seconds 60 --ledger sent.jsonl

What you will see: ``ready`` once every device is connected and subscribed; then the events, spread
evenly over the devices and the seconds; then a line that begins with ``sent``. The devices go on
following their shadows until SIGTERM (or end at once with ``--exit-when-done``), and a last line
begins with ``done``. Things are named ``PREFIX-0001`` and so on; a desired ``interval_ms`` or
``mode`` is applied and reported.

What is guaranteed: each line of the ledger is an event whose publish the broker acknowledged,
written after the acknowledgement: nothing that was lost on the way to the broker is in it. Exit
code 1 if an event was given to a device and could not be acknowledged. The events of one device
reach the broker in the order of its sequence, possibly twice. Each run counts from 1 and appends to
the ledger: give it a file or a prefix of its own. ``interval_ms`` is followed but does not change
the pace of the load.

What to change for production: nothing, this is a simulation. One process holds up to 300 devices
(paho waits with select, which ends at 1,023 file descriptors); start more processes with other
prefixes.
"""

import argparse
import json
import random
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Final

from iot.connection import Connection
from iot.device import DRAIN_SECONDS, Device, Event, simulated_readings
from iot.endpoint import Endpoint
from iot.lifecycle import (
    command_parser,
    integer_between,
    run_command,
    seconds,
    stop_on_signals,
    thing_name,
)

MAX_DEVICES: Final = 300
"""paho holds three file descriptors per client and cannot use one above 1,023."""


class Ledger:
    """Writes one JSON line per acknowledged event, and counts them.

    Args:
        path: The file; appended to.

    A line is with the operating system before :meth:`write` returns, so it survives a kill.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")
        self._lock = threading.Lock()
        self.count = 0

    def write(self, event: Event) -> None:
        """Add an event; from any thread."""
        line = json.dumps(asdict(event)) + "\n"
        with self._lock:
            self._file.write(line)
            self._file.flush()
            self.count += 1

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def main(argv: Sequence[str] | None = None) -> int:
    """Run a fleet; return 0 when every event was acknowledged, 1 when one was not."""
    parser = command_parser(__doc__, __spec__)
    parser.add_argument(
        "--devices",
        type=integer_between(1, MAX_DEVICES),
        required=True,
        metavar="N",
        help=f"how many devices, at most {MAX_DEVICES} in one process",
    )
    parser.add_argument(
        "--events",
        type=integer_between(0),
        required=True,
        metavar="M",
        help="of all devices together",
    )
    parser.add_argument(
        "--seconds",
        type=seconds,
        default=0.0,
        metavar="S",
        help="how long to spread them (0: no wait)",
    )
    parser.add_argument(
        "--ledger",
        type=Path,
        required=True,
        metavar="PATH",
        help="gets one JSON line for each acknowledged event",
    )
    parser.add_argument(
        "--drain-seconds",
        type=seconds,
        default=DRAIN_SECONDS,
        metavar="S",
        help="wait so long for the last acknowledgements (default: %(default)s)",
    )
    parser.add_argument(
        "--prefix", type=thing_name, default="thing", help="of thing names (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, help="makes the readings repeatable")
    parser.add_argument(
        "--exit-when-done", action="store_true", help="do not stay to follow the shadows"
    )
    return run_command(_run, parser.parse_args(argv))


def thing_names(prefix: str, count: int) -> list[str]:
    """Return the names that a fleet of ``count`` devices uses."""
    return [f"{prefix}-{number:04d}" for number in range(1, count + 1)]


def due_times(events: int, duration: float) -> Iterator[float]:
    """Yield when each event is due, in seconds after the start, evenly over ``duration`` s."""
    for index in range(events):
        yield duration * index / events


def _run(arguments: argparse.Namespace) -> int:
    endpoint = Endpoint.parse(arguments.mqtt_url)
    ledger = Ledger(arguments.ledger)
    names = thing_names(arguments.prefix, arguments.devices)
    devices = [
        Device(Connection(endpoint, client_id=name), name, on_acknowledged=ledger.write)
        for name in names
    ]
    with stop_on_signals() as stop, ExitStack() as connections:
        for device in devices:
            connections.enter_context(device.connection)
        if _all_ready(devices, arguments.connect_timeout, stop):
            print(f"ready: {len(devices)} devices on {endpoint}", flush=True)
        given = _publish(devices, arguments, stop)
        missing = given - _drain(devices, arguments.drain_seconds, ledger)
        print(f"sent {given} events, {ledger.count} acknowledged", flush=True)
        while not (stop.is_set() or arguments.exit_when_done or missing):
            _look_after(devices)
            stop.wait(1.0)
    ledger.close()
    print(f"done: {len(devices)} devices, {given} events, {ledger.count} acknowledged", flush=True)
    if missing:
        print(f"error: {missing} events were not acknowledged", file=sys.stderr)
    return 1 if missing else 0


def _all_ready(devices: Iterable[Device], timeout: float, stop: threading.Event) -> bool:
    deadline = time.monotonic() + timeout
    return all(
        device.connection.wait_ready(max(0.0, deadline - time.monotonic()), stop=stop)
        for device in devices
    )


def _publish(
    devices: Sequence[Device], arguments: argparse.Namespace, stop: threading.Event
) -> int:
    """Give every event to its device when it is due; return how many were given."""
    readings = simulated_readings(random.Random(arguments.seed))
    start = looked = time.monotonic()
    given = 0
    for index, due in enumerate(due_times(arguments.events, arguments.seconds)):
        if (wait := start + due - time.monotonic()) > 0:
            stop.wait(wait)
        if time.monotonic() - looked > 1.0:
            looked = time.monotonic()
            _look_after(devices)
        device = devices[index % len(devices)]
        while not stop.is_set() and not device.publish(next(readings), timeout=0.5):
            # The outbox is full: the broker is away. Waiting slows the fleet, and loses nothing.
            _look_after(devices)
        if stop.is_set():
            break
        given += 1
    return given


def _look_after(devices: Iterable[Device]) -> None:
    for device in devices:
        if device.connection.failure:
            raise device.connection.failure
        device.tick()


def _drain(devices: Iterable[Device], timeout: float, ledger: Ledger) -> int:
    deadline = time.monotonic() + timeout
    for device in devices:
        device.drain(max(0.0, deadline - time.monotonic()))
    return ledger.count


if __name__ == "__main__":
    sys.exit(main())
