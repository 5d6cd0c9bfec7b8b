"""What the runnable files of this package share: the broker's address, signals, exit codes."""

import argparse
import logging
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import FrameType

from iot.connection import Connection
from iot.errors import InvalidEndpoint, IotError
from iot.names import THING_NAME

CONNECT_SECONDS = 30.0
"""How long a program waits for its broker before it gives up, unless told otherwise."""


def command_parser(
    module_doc: str | None, module_spec: ModuleSpec | None
) -> argparse.ArgumentParser:
    """Return a parser whose help is the module's docstring, with what every MQTT program needs.

    Args:
        module_doc: The program's ``__doc__``.
        module_spec: Its ``__spec__``, which names it in the usage line; None for a plain script.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m {module_spec.name.removesuffix('.__main__')}" if module_spec else None,
        description=module_doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--mqtt-url",
        default=os.environ.get("MQTT_URL"),
        metavar="URL",
        help="mqtt://[user:password@]host[:port] (default: the environment's MQTT_URL)",
    )
    parser.add_argument(
        "--connect-timeout",
        type=seconds,
        default=CONNECT_SECONDS,
        metavar="SECONDS",
        help="give up when the broker has not accepted us by then (default: %(default)s)",
    )
    parser.add_argument("--verbose", action="store_true", help="log what happens, to stderr")
    return parser


def run_command(command: Callable[[argparse.Namespace], int], arguments: argparse.Namespace) -> int:
    """Run a program's work; a foreseeable error is one line on stderr and an exit code."""
    logging.basicConfig(
        level=logging.INFO if arguments.verbose else logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    if not arguments.mqtt_url:
        print("error: no broker: give --mqtt-url or set MQTT_URL", file=sys.stderr)
        return 2
    try:
        return command(arguments)
    except InvalidEndpoint as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (IotError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def integer_between(low: int, high: int | None = None) -> Callable[[str], int]:
    """Return an argparse type for an integer from ``low`` to ``high``, both included."""

    def integer(text: str) -> int:
        value = int(text)
        if value < low or (high is not None and value > high):
            limit = f"at least {low}" if high is None else f"between {low} and {high}"
            raise argparse.ArgumentTypeError(f"must be {limit}")
        return value

    return integer


def seconds(text: str) -> float:
    """Read a time in seconds, as an argparse type: 0 or more, and not for ever."""
    value = float(text)
    if not (value >= 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError("must be a number of seconds, 0 or more")
    return value


def thing_name(text: str) -> str:
    """Read the name of a thing, as an argparse type."""
    if not THING_NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no name of a thing: 1 to 128 characters of a-z A-Z 0-9 : _ -"
        )
    return text


@contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """Give an event that SIGINT and SIGTERM set, in place of what they did before."""
    stop = threading.Event()

    def request_stop(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, request_stop) for number in signals]
    try:
        yield stop
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)


def serve(connection: Connection, stop: threading.Event, *, ready: str, timeout: float) -> None:
    """Print the ready line once the connection is; return when ``stop`` is set.

    Raises:
        IotError: The connection was refused, at first or later, or not ready in ``timeout``
        seconds.
    """
    if connection.wait_ready(timeout, stop=stop):
        print(ready, flush=True)
    while not stop.wait(1.0):
        if connection.failure:
            raise connection.failure
