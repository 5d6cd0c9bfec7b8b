"""The whole story, as `kit demo` tells it, and what becomes of it when it is stopped."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from consumers.record import StreamRecord
from consumers.sinks.sqlite import SqliteSink
from iot.connection import Connection
from iot.endpoint import Endpoint
from kit.demo.cast import BRIDGE_SESSION, forget_sessions
from kit.demo.observe import SinkLook
from kit.demo.sabotage import Sabotage, break_a_promise
from kit.demo.verdict import Circumstances, Sent, judge
from tests.support import eventually

ROOT = Path(__file__).resolve().parents[2]
PROMISED = {
    *("sent", "stored", "lost", "doubled", "out_of_order", "duplicates_refused"),
    *("shards_before", "shards_after", "worker_kills", "shadows", "shadows_converged"),
}


def demo(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "kit", "demo", *arguments]


@pytest.mark.timeout(400)
def test_every_promise_is_kept_through_a_reshard_lost_answers_and_a_kill(
    tmp_path: Path, stack_name: str
) -> None:
    if stack_name not in {"embedded", "containers"}:
        pytest.skip("the demo starts its own local stack")
    size = ["--events", "600", "--devices", "5", "--seconds", "45"]
    folder = ["--folder", str(tmp_path / "demo")]
    ran = subprocess.run(
        demo("--json", "--stack", stack_name, *size, *folder),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=380,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    verdict = json.loads(ran.stdout.splitlines()[-1])
    assert verdict.keys() >= PROMISED
    assert verdict["sent"] == verdict["stored"] == 600
    assert (verdict["lost"], verdict["doubled"], verdict["out_of_order"]) == (0, 0, 0)
    assert (verdict["shards_before"], verdict["shards_after"]) == (2, 3)
    assert verdict["worker_kills"] == 1
    assert verdict["answers_lost"] >= 2
    assert verdict["throttled"] > 0
    assert verdict["duplicates_refused"] > 0, "a lost answer makes duplicates: where are they?"
    assert verdict["shadows"] == verdict["shadows_converged"] == 5


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 128 + signal.SIGTERM)]
)
def test_a_demo_that_is_stopped_leaves_nothing_behind(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    folder = tmp_path / "demo"
    # In a session of its own, as a terminal's foreground job is: what it starts can be told.
    process = subprocess.Popen(
        demo("--folder", str(folder)),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if "KCL are started" in line:
                break
        marked = processes_that_mention(str(folder))
        assert marked, "the demo had started nothing that could be left behind"
        process.send_signal(number)
        process.stdout.read()
        assert process.wait(timeout=60) == code
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    eventually(lambda: not processes_that_mention(str(folder)), timeout=15)


def processes_that_mention(text: str) -> list[str]:
    """The command lines of all processes that have `text` in them, but for the demo's own."""
    listing = subprocess.run(
        ["ps", "-axww", "-o", "pid=,command="], capture_output=True, text=True, check=True
    ).stdout
    return [
        line
        for line in listing.splitlines()
        if text in line and "kit demo" not in line and int(line.split()[0]) != os.getpid()
    ]


def test_telemetry_of_a_killed_run_does_not_reach_the_next_one(
    mqtt_url: str, unique: Callable[[str], str]
) -> None:
    endpoint = Endpoint.parse(mqtt_url)
    topic = f"dt/fleet/{unique('thing')}/telemetry"

    def bridge_session() -> tuple[Connection, list[bytes]]:
        seen: list[bytes] = []
        bridge = Connection(endpoint, client_id=BRIDGE_SESSION, clean_session=False)
        bridge.subscribe(topic, lambda message: seen.append(message.payload))
        return bridge, seen

    killed, _ = bridge_session()
    with killed:
        killed.wait_ready(20)
    with Connection(endpoint, client_id=unique("device")) as device:
        acknowledged = threading.Event()
        device.publish(topic, b"of a run that is over", on_acknowledged=acknowledged.set)
        assert acknowledged.wait(20)

        forget_sessions(endpoint)

        fresh, seen = bridge_session()
        with fresh:
            fresh.wait_ready(20)
            device.publish(topic, b"of this run")
            eventually(lambda: seen, timeout=20)
            assert seen == [b"of this run"]
    forget_sessions(endpoint)


@pytest.mark.parametrize(
    ("act", "complaint"),
    [
        (Sabotage.LOSE, "not in the sink"),
        (Sabotage.DOUBLE, "applied more than once"),
        (Sabotage.REORDER, "against their device's order"),
    ],
)
def test_the_verdict_sees_a_sink_that_was_tampered_with(
    tmp_path: Path, act: Sabotage, complaint: str
) -> None:
    path = tmp_path / "sink.sqlite"
    sent = [Sent(f"id-{n}", "device-1", n) for n in range(1, 6)]
    sink = SqliteSink(path)
    sink.apply(
        [
            StreamRecord(
                shard_id="shardId-000000000000",
                sequence_number=str(event.sequence),
                sub_sequence_number=0,
                partition_key=event.thing,
                data=json.dumps(
                    {"record_id": event.record_id, "thing": event.thing, "sequence": event.sequence}
                ).encode(),
                arrival_ms=None,
            )
            for event in sent
        ]
    )
    sink.close()
    circumstances = Circumstances(
        duplicates_refused=0,
        shards_before=1,
        shards_after=2,
        worker_kills=1,
        answers_lost=1,
        throttled=1,
        shadows=1,
        shadows_converged=1,
    )
    assert judge(sent, SinkLook(path).effects(), circumstances).broken(expected=5) == []
    break_a_promise(path, act)
    findings = judge(sent, SinkLook(path).effects(), circumstances).broken(expected=5)
    assert len(findings) == 1
    assert complaint in findings[0]
