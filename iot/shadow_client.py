"""Read and set the shadow of a thing, as an application does.

What it shows: requests over MQTT whose answers are matched by client token, with a time limit and a
typed error, the optimistic lock of shadow versions, and watching a shadow change.

How to run it, with the broker's address in MQTT_URL and, where the broker is not AWS IoT Core,
``python -m iot.shadows --store shadows.sqlite`` running::

    python -m iot.shadow_client lamp-1 get
    python -m iot.shadow_client lamp-1 set '{"mode": "eco"}'  # desired; null deletes a key
    python -m iot.shadow_client lamp-1 set '{"mode": "eco"}' --version 7
    python -m iot.shadow_client lamp-1 watch --count 3
    python -m iot.shadow_client lamp-1 delete

What you will see: JSON, one document per answer or change. Exit code 1 and one line on stderr when
the request was rejected (409: another version) or nobody answered; 2 for bad input.

What is guaranteed: an answer belongs to its request. A request without an answer may still have
been carried out; with ``--version`` it is safe to repeat. Changes are seen while connected, at
least once, in no promised order; compare versions.

What to change for production: on AWS IoT use a certificate or SigV4, and a policy that allows
receiving from and subscribing to exactly the topics in :class:`ShadowClient`.
"""

import argparse
import json
import secrets
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from iot.connection import Connection, Message
from iot.endpoint import Endpoint
from iot.errors import ShadowRequestError
from iot.lifecycle import (
    command_parser,
    integer_between,
    run_command,
    seconds,
    stop_on_signals,
    thing_name,
)

ANSWER_SECONDS = 5.0
"""How long a request waits for its answer, unless told otherwise."""


class ShadowClient:
    """Requests to one thing's classic shadow.

    Args:
        connection: Not yet started; several clients may share it.
        thing: The thing's name.

    Blocks in the caller's thread: never call it from a handler of the same connection.
    """

    def __init__(self, connection: Connection, thing: str) -> None:
        self.thing = thing
        self._connection = connection
        self._prefix = f"$aws/things/{thing}/shadow"
        self._lock = threading.Lock()
        self._waiting: dict[str, Future[dict[str, Any]]] = {}
        self._watchers: list[Callable[[dict[str, Any]], None]] = []
        for operation in ("get", "update", "delete"):
            # Not "+" for both: policies and access lists grant single topics.
            connection.subscribe(f"{self._prefix}/{operation}/accepted", self._accepted)
            connection.subscribe(f"{self._prefix}/{operation}/rejected", self._rejected)
        connection.subscribe(f"{self._prefix}/update/documents", self._changed)

    def get(self, *, timeout: float = ANSWER_SECONDS) -> dict[str, Any]:
        """Return ``state`` (desired, reported, delta), ``metadata``, ``version``, ``timestamp``.

        Raises:
            ShadowRequestError: With code 404 when there is no shadow, None when no answer came.
        """
        return self._request("get", {}, timeout)

    def set(
        self,
        *,
        desired: Mapping[str, Any] | None = None,
        reported: Mapping[str, Any] | None = None,
        version: int | None = None,
        timeout: float = ANSWER_SECONDS,
    ) -> dict[str, Any]:
        """Merge into desired, reported or both, and return the accepted answer.

        Args:
            desired: Keys to set; None as a value deletes the key.
            reported: Likewise.
            version: The version that was read; rejected with 409 if there is a newer one.
            timeout: Seconds.

        Raises:
            ShadowRequestError: The service said no (``code``), or nothing (``code`` None).
        """
        sections = {"desired": desired, "reported": reported}
        body: dict[str, Any] = {
            "state": {name: patch for name, patch in sections.items() if patch is not None}
        }
        if version is not None:
            body["version"] = version
        return self._request("update", body, timeout)

    def delete(self, *, timeout: float = ANSWER_SECONDS) -> dict[str, Any]:
        """Delete the shadow; its version goes on counting if it is created again."""
        return self._request("delete", {}, timeout)

    def watch(self, callback: Callable[[dict[str, Any]], None]) -> None:
        """Call back in the network thread with each ``update/documents`` (previous, current)."""
        self._watchers.append(callback)

    def _request(self, operation: str, body: dict[str, Any], timeout: float) -> dict[str, Any]:
        token = secrets.token_hex(16)
        answer: Future[dict[str, Any]] = Future()
        with self._lock:
            # Before publishing: the answer may be faster than this thread.
            self._waiting[token] = answer
        try:
            payload = json.dumps(body | {"clientToken": token}).encode()
            self._connection.publish(f"{self._prefix}/{operation}", payload)
            return answer.result(timeout)
        except TimeoutError:
            raise ShadowRequestError(
                f"nobody answered {operation} of {self.thing} within {timeout:g} s", code=None
            ) from None
        finally:
            with self._lock:
                self._waiting.pop(token, None)

    def _accepted(self, message: Message) -> None:
        body, answer = self._answered(message)
        if answer:
            answer.set_result(body)

    def _rejected(self, message: Message) -> None:
        body, answer = self._answered(message)
        if answer:
            answer.set_exception(ShadowRequestError(body["message"], code=body["code"]))

    def _answered(self, message: Message) -> tuple[dict[str, Any], Future[dict[str, Any]] | None]:
        body = json.loads(message.payload)
        with self._lock:
            # A second delivery of the same answer finds nobody waiting.
            return body, self._waiting.pop(body.get("clientToken", ""), None)

    def _changed(self, message: Message) -> None:
        body = json.loads(message.payload)
        for watcher in self._watchers:
            watcher(body)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one request, or watch; return the exit code."""
    parser = command_parser(__doc__, __spec__)
    parser.add_argument("thing", type=thing_name, help="whose shadow")
    parser.add_argument(
        "--timeout",
        type=seconds,
        default=ANSWER_SECONDS,
        metavar="SECONDS",
        help="how long to wait for an answer (default: %(default)s)",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("get", help="print the shadow")
    commands.add_parser("delete", help="delete the shadow")
    setting = commands.add_parser("set", help="merge a JSON object into the shadow")
    setting.add_argument("changes", type=_json_object, help="a JSON object; null deletes a key")
    setting.add_argument(
        "--section",
        choices=("desired", "reported"),
        default="desired",
        help="desired: what the device should have; reported: what it has (default: %(default)s)",
    )
    setting.add_argument(
        "--version", type=int, metavar="N", help="only if the shadow still has this version"
    )
    watching = commands.add_parser("watch", help="print each change")
    watching.add_argument("--count", type=integer_between(1), help="stop after so many changes")
    return run_command(_run, parser.parse_args(argv))


def _run(arguments: argparse.Namespace) -> int:
    connection = Connection(
        Endpoint.parse(arguments.mqtt_url), client_id=f"app-{secrets.token_hex(6)}"
    )
    client = ShadowClient(connection, arguments.thing)
    if arguments.command == "watch":
        return _watch(client, connection, arguments)
    with connection:
        connection.wait_ready(arguments.connect_timeout)
        if arguments.command == "get":
            answer = client.get(timeout=arguments.timeout)
        elif arguments.command == "delete":
            answer = client.delete(timeout=arguments.timeout)
        else:
            section = {arguments.section: arguments.changes}
            answer = client.set(**section, version=arguments.version, timeout=arguments.timeout)
    print(json.dumps(answer))
    return 0


def _watch(client: ShadowClient, connection: Connection, arguments: argparse.Namespace) -> int:
    seen = 0
    with stop_on_signals() as stop:

        def show(change: dict[str, Any]) -> None:
            nonlocal seen
            if stop.is_set():
                return
            print(json.dumps(change), flush=True)
            seen += 1
            if seen == arguments.count:
                stop.set()

        client.watch(show)
        with connection:
            if connection.wait_ready(arguments.connect_timeout, stop=stop):
                print(f"ready: watching {client.thing}", file=sys.stderr, flush=True)
            while not stop.wait(1.0):
                if connection.failure:
                    raise connection.failure
    return 0


def _json_object(text: str) -> dict[str, Any]:
    with suppress(ValueError):
        value = json.loads(text)
        if isinstance(value, dict):
            return value
    raise argparse.ArgumentTypeError(f"not a JSON object: {text}")


if __name__ == "__main__":
    sys.exit(main())
