"""The demo: a fleet of devices, a stream that is resharded, a consumer that is killed, a verdict.

What it shows
    Devices publish telemetry over MQTT and follow their shadows. A bridge puts every event into a
    Kinesis stream, many to an aggregate. A KCL worker stores each event once, in its device's
    order. Both reach the engine through a proxy with AWS's quotas. Meanwhile the first records are
    throttled, the stream is split under load, answers of PutRecords are lost after the commit, and
    the worker is killed with SIGKILL and restarted.

How to run it
    `make demo`, or `kit demo [--events N] [--devices N] [--stack embedded|containers] [--json]`.

What you will see
    The steps as they happen, the counts while you wait, and a verdict that is counted from the
    devices' own ledgers and the sink's effects. The exit code is 0 only if every promise was kept.

What is guaranteed, and what is not
    At least once from the device's PUBACK to the sink, and effectively once in the sink, which
    applies each record ID once; per-device order. Not: exactly once on the wire. The duplicates
    that a lost answer or a killed worker makes are there, counted, and refused by the sink.

What to change for production
    Everything here runs on one machine, before an emulator that only a proxy makes throttle and
    fail. `docs/` says what a green run does not prove.
"""

import json
import os
import shutil
import signal
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import boto3
from botocore.exceptions import BotoCoreError, ClientError
from rich.console import Console

from infra.errors import InfraError, StackError
from infra.provision import ensure_stream
from infra.stack.open import open_stack
from iot.connection import Connection
from iot.endpoint import Endpoint
from iot.errors import IotError
from iot.fleet import thing_names
from kit.demo.cast import THING_PREFIX, Cast, forget_sessions
from kit.demo.fleet_shadows import FleetShadows
from kit.demo.sabotage import Sabotage, break_a_promise
from kit.demo.story import Story, StoryError
from kit.demo.verdict import Verdict
from kit.demo.view import Narrator, narrator_for
from kit.demo.watch import Watch
from kit.environment import adopt

if TYPE_CHECKING:
    from types_boto3_kinesis import KinesisClient

SHARDS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to run.

    Args:
        events: events in all, at least one for each device.
        devices: number of devices.
        seconds: over how long the devices send; long enough for a reshard under load.
        stack: `embedded`, `containers` or `environment`.
        stream: an empty stream to use, or None for one of the run's own.
        as_json: end with one JSON object on standard output, the story on standard error.
        sabotage: a promise to break before the verdict, to see that the verdict objects.
        folder: a new or empty folder for the logs and files of the run, which then stay; by
            default one of the run's own, which goes when every promise was kept.
    """

    events: int
    devices: int
    seconds: float
    stack: str
    stream: str | None
    as_json: bool
    sabotage: Sabotage | None
    folder: Path | None


def run(plan: Plan) -> int:
    """Run the demo and return its exit code: 0 when every promise was kept, 1 when not.

    2 means that nothing was run because the plan makes no sense, 130 and 143 that it was stopped
    by Ctrl-C or SIGTERM.
    """
    console = Console(stderr=plan.as_json)
    if problem := problem_with(plan):
        Console(stderr=True).print(f"kit demo: {problem}", markup=False)
        return 2
    folder = plan.folder or Path(".stack") / f"demo-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with sigterm_unwinds():
            verdict, findings = perform(plan, folder.resolve(), console)
    except KeyboardInterrupt:
        console.print("stopped; everything that was started has been stopped too")
        return 130
    except (InfraError, IotError, BotoCoreError, ClientError, OSError) as error:
        Console(stderr=True).print(f"kit demo: {error}", markup=False)
        return 1
    print_verdict(console, verdict, findings, folder)
    if plan.as_json:
        sys.stdout.write(json.dumps(verdict.as_dict()) + "\n")
        sys.stdout.flush()
    if not findings and plan.folder is None:
        shutil.rmtree(folder)
    return 1 if findings else 0


def problem_with(plan: Plan) -> str | None:
    """Say what is wrong with a plan, or None."""
    if plan.devices < 1:
        return "--devices must be at least 1"
    if plan.events < plan.devices:
        return "--events must be at least --devices: every device sends something"
    if plan.folder is not None and plan.folder.exists() and any(plan.folder.iterdir()):
        return f"{plan.folder} is not empty"
    if plan.stack == "aws":
        return "the demo kills workers and loses answers; it runs on local stacks only"
    return None


def perform(plan: Plan, folder: Path, console: Console) -> tuple[Verdict, list[str]]:
    """Set the stage, tell the story, and return the verdict with the promises it found broken."""
    with ExitStack() as stack:
        narrator = stack.enter_context(narrator_for(console))
        story = set_the_stage(plan, folder, narrator, stack)
        try:
            story.tell()
            broke = []
        except (StoryError, InfraError, IotError, BotoCoreError, ClientError, OSError) as error:
            broke = [str(error)]
        if plan.sabotage is not None:
            break_a_promise(story.cast.sink, plan.sabotage)
            narrator.step(f"sabotage: {plan.sabotage}")
        verdict = story.watch.verdict()
    return verdict, [*broke, *verdict.broken(expected=plan.events)]


def set_the_stage(plan: Plan, folder: Path, narrator: Narrator, stack: ExitStack) -> Story:
    """Start the engines, make the stream, and return a story ready to be told.

    Raises:
        InfraError: the stack does not come up, or the stream exists in another shape.
    """
    narrator.step(f"starting the {plan.stack} stack")
    endpoints = stack.enter_context(open_stack(plan.stack, log_dir=folder / "logs"))
    kinesis_url = endpoints.kinesis or endpoints.aws
    if kinesis_url is None or endpoints.mqtt_url is None:
        raise StackError("the demo needs AWS_ENDPOINT_URL and MQTT_URL: Kinesis and a broker")
    adopt(endpoints)
    kinesis: KinesisClient = boto3.client("kinesis")
    run_id = uuid.uuid4().hex[:8]
    stream = plan.stream or f"telemetry-{run_id}"
    ensure_stream(kinesis, stream, shards=SHARDS)
    cast = Cast(
        stack=stack,
        folder=folder,
        environment=dict(os.environ),
        stream=stream,
        application=f"demo-{run_id}",
    )
    broker = Endpoint.parse(endpoints.mqtt_url)
    forget_sessions(broker)
    connection = Connection(broker, client_id=f"demo-{run_id}")
    stack.callback(connection.stop)
    watch = Watch(
        cast=cast,
        kinesis=kinesis,
        shadows=FleetShadows(connection, thing_names(THING_PREFIX, plan.devices)),
        events=plan.events,
    )
    return Story(
        cast=cast, watch=watch, narrator=narrator, kinesis_url=kinesis_url, seconds=plan.seconds
    )


def print_verdict(console: Console, verdict: Verdict, findings: list[str], folder: Path) -> None:
    """Print the numbers and what they mean."""
    counts = "  ".join(f"{name} {number}" for name, number in verdict.as_dict().items())
    console.print(counts, markup=False, highlight=False, soft_wrap=True)
    for finding in findings:
        console.print(f"BROKEN: {finding}", markup=False, style="bold red")
    if findings:
        console.print(f"The logs are in {folder}", markup=False)
    else:
        console.print(
            "Every promise was kept: nothing lost, nothing doubled, every device in order.",
            style="bold green",
        )


@contextmanager
def sigterm_unwinds() -> Iterator[None]:
    """Let SIGTERM unwind the stack as Ctrl-C does, so that everything started is stopped."""

    def terminate(_number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    previous = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
