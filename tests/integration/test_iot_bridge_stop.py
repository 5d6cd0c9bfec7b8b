"""The bridge is told to stop while its network thread is at work."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from iot.bridge import Bridge
from iot.connection import Connection
from iot.endpoint import Endpoint
from producers.dead_letters import DeadLetterFile
from records.dead_letter import DeadLetter
from tests.integration.bridge_support import Publisher, Reader
from tests.support import eventually

if TYPE_CHECKING:
    from types_boto3_kinesis import KinesisClient


class SlowDisk(DeadLetterFile):
    """The letter is there to be read, but its writer has not heard so yet."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, fsync=True)
        self.begun, self.go_on = threading.Event(), threading.Event()

    def append(self, letter: DeadLetter) -> None:
        super().append(letter)
        self.begun.set()
        assert self.go_on.wait(60)


During = Callable[[threading.Thread, threading.Event], object]
Run = Callable[[DeadLetterFile, During], str]


@pytest.fixture
def publisher(mqtt_url: str, unique: Callable[[str], str]) -> Iterator[Publisher]:
    made = Publisher(Endpoint.parse(mqtt_url), unique("publisher"), unique("fleet"))
    with made.connection:
        made.connection.wait_ready(30)
        yield made


@pytest.fixture
def to(stream: Callable[..., str]) -> str:
    return stream(1)


@pytest.fixture
def run(
    kinesis: "KinesisClient",
    to: str,
    publisher: Publisher,
    mqtt_url: str,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """Run a bridge of one session until it is stopped; return the last line it prints."""

    def run_bridge(letters: DeadLetterFile, during: During) -> str:
        stop = threading.Event()
        connection = Connection(
            Endpoint.parse(mqtt_url), client_id=f"of-{to}", clean_session=False, manual_ack=True
        )
        bridge = Bridge(
            kinesis,
            to,
            connection,
            topic_filter=f"dt/{publisher.prefix}/+/telemetry",
            key_level=3,
            dead_letters=letters,
            linger=0.02,
        )
        running = threading.Thread(
            target=bridge.run,
            args=(stop,),
            kwargs={"connect_timeout": 60, "status_seconds": None},
        )
        running.start()
        try:
            eventually(lambda: connection.ready)
            during(running, stop)
        finally:
            stop.set()
            running.join(30)
        assert not running.is_alive()
        return capsys.readouterr().out.splitlines()[-1]

    return run_bridge


def test_it_acknowledges_what_it_is_just_refusing(
    kinesis: "KinesisClient", to: str, publisher: Publisher, run: Run, tmp_path: Path
):
    """Otherwise the next run, with another idea of what is rubbish, might relay it."""
    reader = Reader(kinesis, to)

    def stopped_while_it_writes(running: threading.Thread, stop: threading.Event) -> None:
        publisher.raw("a", b"no record ID")
        assert slow.begun.wait(60)
        stop.set()
        running.join(0.5)
        waited = running.is_alive()
        slow.go_on.set()
        assert waited, "it left before it could acknowledge"

    def another_is_relayed(*_: object) -> None:
        publisher.publish("a")
        eventually(lambda: reader.distinct() == 1)

    with SlowDisk(tmp_path / "letters") as slow:
        said = run(slow, stopped_while_it_writes)
        assert said == "done: 0 relayed, 1 refused, 0 unacknowledged"
        # Nothing comes again.
        said = run(slow, another_is_relayed)
        assert said == "done: 1 relayed, 0 refused, 0 unacknowledged"
