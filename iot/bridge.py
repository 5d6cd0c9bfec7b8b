"""Move telemetry from an MQTT broker into a Kinesis stream.

What it shows: an MQTT subscriber that acknowledges a message only after the stream has it. The
session is persistent, so whatever is not acknowledged comes again: after a crash, a kill, a lost
connection.

How to run it::

    python -m iot.bridge --mqtt-url mqtt://user:password@127.0.0.1:1883 --stream telemetry

What you will see: ``ready`` once it is subscribed and the stream answers; at the end one line with
the number of messages relayed and refused. With ``--status-seconds`` such a line now and then.

What is guaranteed: at least once for each message that the broker has acknowledged to its
publisher after the bridge was first ready, as long as the broker keeps the session. The record ID
in the payload is the one the device minted; the bridge mints none, so a message that is relayed
twice can be told. Per-key order: the events of one topic's thing (the partition key) enter the
stream in the order in which the broker sends them; after a redelivery some enter twice, and the
first of each is in order. A message without a record ID is written to the dead-letter file, and
acknowledged. When the stream refuses for good (deleted, access denied), when that file cannot be
written, or when the session brings what ``--topic`` no longer asks for, the bridge acknowledges
nothing more and ends with exit code 1: the broker keeps the rest for the next start, which may
then put an event behind a later one of its device that was accepted meanwhile. An outage it sits
out, for ever.

What to change for production: the broker's window of unacknowledged messages bounds the rate to
window / (linger + PutRecords' answer time): Mosquitto's default of 20 gives about 130 events/s, so
set ``max_inflight_messages`` to 1000, and ``max_queued_messages`` to 0 (it drops beyond 1,000
otherwise). One bridge holds one session (two of the same ``--client-id`` lose nothing, but throw
each other out): for more, use one per topic subtree. On AWS IoT a rule
with a Kinesis action does this job, but gives no order and no aggregates.
"""

import argparse
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from iot.connection import Connection
from iot.endpoint import Endpoint
from iot.lifecycle import (
    command_parser,
    integer_between,
    run_command,
    seconds,
    stop_on_signals,
)
from iot.relay import Refused, Relay
from producers.aggregated import AggregatingProducer
from producers.dead_letters import DeadLetterFile
from records.dead_letter import DeadLetter
from records.limits import MAX_RECORD_BYTES, MIB

if TYPE_CHECKING:
    from types_boto3_kinesis import KinesisClient

MAX_IN_FLIGHT_MESSAGES: Final = 20_000
"""Unacknowledged messages held. MQTT cannot number more than 65,535 of them in a session."""

MAX_IN_FLIGHT_BYTES: Final = 16 * MIB
DRAIN_SECONDS: Final = 8.0
"""Less than the 10 s that container engines give after SIGTERM."""


def main(argv: Sequence[str] | None = None) -> int:
    """Relay until SIGINT or SIGTERM; return the exit code."""
    parser = command_parser(__doc__, __spec__)
    parser.add_argument("--stream", required=True, help="name of the Kinesis stream")
    parser.add_argument(
        "--topic", default="dt/fleet/+/telemetry", help="filter to subscribe to (%(default)s)"
    )
    parser.add_argument(
        "--key-level",
        type=integer_between(1),
        default=3,
        metavar="N",
        help="topic level that is the partition key, from 1 (default: %(default)s)",
    )
    parser.add_argument(
        "--client-id", default="bridge", help="session name; keep it (default: %(default)s)"
    )
    parser.add_argument(
        "--dead-letter",
        type=Path,
        default=Path("bridge-dead-letters.bin"),
        metavar="PATH",
        help="what can never be put is appended here (default: %(default)s)",
    )
    parser.add_argument(
        "--linger",
        type=seconds,
        default=0.1,
        metavar="SECONDS",
        help="how long a message may wait for others (default: %(default)s)",
    )
    parser.add_argument(
        "--max-in-flight",
        type=integer_between(1),
        default=MAX_IN_FLIGHT_MESSAGES,
        metavar="N",
        help="messages held that the stream does not have yet (default: %(default)s)",
    )
    parser.add_argument(
        "--status-seconds",
        type=seconds,
        metavar="S",
        help="print how far it is every so often (default: only at the end)",
    )
    return run_command(_run, parser.parse_args(argv))


def _run(arguments: argparse.Namespace) -> int:
    endpoint = Endpoint.parse(arguments.mqtt_url)
    # The producer retries each record by itself; the SDK would retry whole requests below it.
    config = Config(retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=30)
    try:
        client = boto3.client("kinesis", config=config)
        client.describe_stream_summary(StreamName=arguments.stream)
    except (BotoCoreError, ClientError, ValueError) as error:  # ValueError: the endpoint's URL
        print(f"error: stream {arguments.stream}: {error}", file=sys.stderr)
        return 1
    # A letter must be on the disk: its message is acknowledged next, and nobody else has it then.
    letters = DeadLetterFile(arguments.dead_letter, fsync=True)
    with stop_on_signals() as stop, letters as dead_letters:
        bridge = Bridge(
            client,
            arguments.stream,
            Connection(
                endpoint, client_id=arguments.client_id, clean_session=False, manual_ack=True
            ),
            topic_filter=arguments.topic,
            key_level=arguments.key_level,
            dead_letters=dead_letters,
            linger=arguments.linger,
            max_in_flight=arguments.max_in_flight,
        )
        return bridge.run(
            stop,
            connect_timeout=arguments.connect_timeout,
            status_seconds=arguments.status_seconds,
        )


class Bridge:
    """An MQTT session, a producer, and the relay between them.

    Args:
        client: A Kinesis client whose own retries are off.
        stream: The stream's name.
        connection: Not yet started; persistent session, manual acknowledgement.
        topic_filter: What to subscribe to.
        key_level: Which level of the topic is the partition key, counted from 1.
        dead_letters: Gets what can never be put.
        linger: Seconds that a message may wait for others to travel with.
        max_in_flight: Messages held that the stream does not have yet.
    """

    def __init__(
        self,
        client: "KinesisClient",
        stream: str,
        connection: Connection,
        *,
        topic_filter: str,
        key_level: int,
        dead_letters: DeadLetterFile,
        linger: float,
        max_in_flight: int = MAX_IN_FLIGHT_MESSAGES,
    ) -> None:
        self._stream = stream
        self._connection = connection
        self._dead_letters = dead_letters
        self._producer = AggregatingProducer(
            client,
            stream,
            linger=linger,
            # Each device's telemetry reaches the stream in the order in which it came.
            ordered=True,
            # The broker keeps what is not acknowledged, so there is no reason to give up.
            max_record_age=None,
            # Larger than the relay's own bounds, so that a put never waits.
            max_buffered_records=max_in_flight + 1,
            max_buffered_bytes=4 * MAX_IN_FLIGHT_BYTES,
            # A put must not wait for what the stream says of it; AWS IoT has no larger messages.
            max_record_bytes=MAX_RECORD_BYTES,
            record_ids=False,
        )
        self._relay = Relay(
            put=lambda key, data, record_id: self._producer.put(
                key, data, record_id=record_id, timeout=0
            ),
            acknowledge=connection.acknowledge,
            refuse=self._refuse,
            key_level=key_level,
            max_messages=max_in_flight,
            max_bytes=MAX_IN_FLIGHT_BYTES,
        )
        connection.subscribe(topic_filter, self._relay.accept)
        self._topic_filter = topic_filter

    def run(
        self, stop: threading.Event, *, connect_timeout: float, status_seconds: float | None
    ) -> int:
        """Relay until ``stop`` is set or the stream refuses for good; return the exit code."""
        said_at = time.monotonic()
        with self._connection:
            try:
                if self._connection.wait_ready(connect_timeout, stop=stop):
                    print(f"ready: {self._topic_filter} to stream {self._stream}", flush=True)
                while not stop.wait(0.2) and not self._relay.failure:
                    if self._connection.failure:
                        raise self._connection.failure
                    if self._relay.needs_redelivery():
                        self._connection.drop()
                    if status_seconds and time.monotonic() - said_at >= status_seconds:
                        said_at = time.monotonic()
                        print(self._summary(), flush=True)
            finally:
                self._drain()
        print(f"done: {self._summary()}", flush=True)
        if self._relay.failure:
            print(f"error: {self._relay.failure}", file=sys.stderr)
            return 1
        return 0

    def _drain(self) -> None:
        """Take nothing more, and acknowledge what the stream still takes."""
        self._relay.close_intake()
        began = time.monotonic()
        # On a failure there is nothing to wait for but what is on its way.
        self._producer.close(deadline=2.0 if self._relay.failure else DRAIN_SECONDS)
        # The network thread may still be writing a dead letter, and acknowledges it after that.
        self._relay.wait_settled(began + DRAIN_SECONDS - time.monotonic())

    def _refuse(self, refused: Refused) -> None:
        message = refused.message
        self._dead_letters.append(
            DeadLetter(
                stream=self._stream,
                partition_key=refused.partition_key,
                data=message.payload,
                explicit_hash_key=None,
                error_code=refused.code,
                error_message=f"{refused.detail}; from topic {message.topic}",
                attempts=0,
                failed_at=time.time(),
            )
        )

    def _summary(self) -> str:
        relay = self._relay
        return (
            f"{relay.relayed - relay.refused} relayed, {relay.refused} refused,"
            f" {relay.in_flight} unacknowledged"
        )


if __name__ == "__main__":
    sys.exit(main())
