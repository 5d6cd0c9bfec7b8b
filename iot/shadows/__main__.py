"""A shadow service for a plain MQTT broker.

What it shows: how AWS IoT's Device Shadow service behaves, on a broker that has none, so that
devices and applications written for AWS IoT can be run and tested without it.

How to run it::

    python -m iot.shadows --mqtt-url mqtt://user:password@127.0.0.1:1883 --store shadows.sqlite

What you will see: one line, ``ready``, once requests are answered; then nothing unless something
is wrong.

What is guaranteed: merge, delta, metadata, versions and error codes follow AWS IoT; an update is in
the store before it is answered. A request is handled at least once: one that the broker delivers
twice counts twice, unless it carries a version. Requests sent while the service is away wait in the
broker, once the service has been there before. One service has the file; a second one is refused.
Not there: rate limits, 401, 403, 429.

What to change for production: use AWS IoT Core, which has this service built in. On your own
broker, let only ``shadow-service`` publish below ``$aws/things/+/shadow/+/+``, and each thing to
its own topics.
"""

import argparse
import sys
import time
from collections.abc import Sequence

from iot.connection import Connection, Message
from iot.endpoint import Endpoint
from iot.lifecycle import command_parser, integer_between, run_command, serve, stop_on_signals
from iot.shadows.protocol import MAX_DEPTH, SUBSCRIPTIONS, Limits
from iot.shadows.service import ShadowService
from iot.shadows.store import open_store
from records.limits import IOT_MAX_SHADOW_BYTES


def main(argv: Sequence[str] | None = None) -> int:
    """Answer shadow requests until SIGINT or SIGTERM; return the exit code."""
    parser = command_parser(__doc__, __spec__)
    parser.add_argument("--store", required=True, metavar="PATH", help="SQLite file, or :memory:")
    parser.add_argument(
        "--client-id", default="shadow-service", help="session name (default: %(default)s)"
    )
    parser.add_argument(
        "--max-bytes",
        type=integer_between(1),
        default=IOT_MAX_SHADOW_BYTES,
        metavar="N",
        help="size of one shadow's state as JSON (default: %(default)s)",
    )
    parser.add_argument(
        "--max-depth",
        type=integer_between(1),
        default=MAX_DEPTH,
        metavar="N",
        help="levels in a section; AWS names both 6 and 8 (default: %(default)s)",
    )
    return run_command(_serve, parser.parse_args(argv))


def _serve(arguments: argparse.Namespace) -> int:
    limits = Limits(arguments.max_bytes, arguments.max_depth)
    with stop_on_signals() as stop, open_store(arguments.store) as store:
        connection = Connection(
            Endpoint.parse(arguments.mqtt_url),
            client_id=arguments.client_id,
            # Requests wait in the broker while the service restarts.
            clean_session=False,
        )
        answer_requests(ShadowService(store, clock=time.time, limits=limits), connection)
        with connection:
            ready = f"ready: shadows on {connection.endpoint}"
            serve(connection, stop, ready=ready, timeout=arguments.connect_timeout)
    return 0


def answer_requests(service: ShadowService, connection: Connection) -> None:
    """Let a connection, not yet started, carry a service's requests and answers."""

    def handle(message: Message) -> None:
        for publication in service.handle(message.topic, message.payload):
            connection.publish(publication.topic, publication.payload)

    for topic_filter in SUBSCRIPTIONS:
        connection.subscribe(topic_filter, handle)


if __name__ == "__main__":
    sys.exit(main())
