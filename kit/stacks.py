"""What is behind `kit up`, `kit env`, `kit status` and `kit down`.

Each function prints what a person wants to know and returns an exit code. `endpoints_for` is how
every other command finds out where to go, and the place where AWS is refused unless it was named.
"""

import dataclasses
import os
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from infra.errors import AwsRefusedError, InfraError, StackError
from infra.safety import refuse_aws
from infra.stack.endpoints import Endpoints
from infra.stack.health import check_dynamodb, check_kinesis, check_mqtt, check_s3, check_sqs
from infra.stack.open import endpoints_in, open_stack
from infra.stack.supervisor import Running, bring_down, bring_up, find_running

STARTABLE = ("embedded", "containers")
"""The stacks that `kit up` can start."""

STATE_DIR_VARIABLE = "KIT_STATE_DIR"
"""Names another folder for the state of running stacks; `.stack` in the checkout without it."""

_STATUS_SECONDS = 15.0
"""LocalStack starts a service at the first call to it, which takes seconds."""


def up(stack: str = "embedded") -> int:
    """Start a stack that stays until `down`, or say that it is there already."""
    began = time.monotonic()
    was_running = find_running(stack, state_dir()) is not None
    try:
        running = bring_up(stack, state_dir())
    except InfraError as error:
        print(error, file=sys.stderr)
        return 1
    how = "runs already" if was_running else f"is up after {time.monotonic() - began:.1f} s"
    print(f"{stack} {how}; logs in {running.log_dir}")
    for service, address in _addresses(running.endpoints):
        print(f"  {service:<9} {address}")
    print(f'for your shell: eval "$(kit env{_flag(stack)})"; to stop it: kit down{_flag(stack)}')
    return 0


def env(stack: str = "embedded") -> int:
    """Print `export` lines for a shell's `eval`."""
    running = find_running(stack, state_dir())
    if running is None:
        return _not_running(stack)
    for name, value in running.endpoints.environment().items():
        print(f"export {name}={shlex.quote(value)}")
    return 0


def status(stack: str = "embedded") -> int:
    """Ask each service of a stack; 0 when all of them answer."""
    running = find_running(stack, state_dir())
    if running is None:
        return _not_running(stack)
    code = 0
    for service, problem in _check(running):
        print(f"{service:<9} {'ok' if problem is None else problem}", flush=True)
        code = code if problem is None else 1
    return code


def down(stack: str = "embedded") -> int:
    """Stop a stack with all that belongs to it; stopping none is no failure."""
    try:
        was_there = bring_down(stack, state_dir())
    except InfraError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{stack} is stopped" if was_there else f"{stack} was not running")
    return 0


def endpoints_for(stack: str | None, environ: Mapping[str, str]) -> Endpoints:
    """Return where a command's services are.

    Args:
        stack: `aws`, the name of a stack that `kit up` has started, `environment`, or None: then
            the endpoint in the environment counts, else the one stack that is running.
        environ: The variables that boto3 would read. `MQTT_URL` wins over a stack's own broker.

    Raises:
        AwsRefusedError: AWS would be reached without `--stack aws`.
        StackError: The stack is not running, or it is not clear which one is meant.
    """
    if stack in ("aws", "environment"):
        with open_stack(stack, log_dir=state_dir()) as endpoints:
            return endpoints
    if stack is None and environ.get("AWS_ENDPOINT_URL"):
        return endpoints_in(environ)
    for name, value in sorted(environ.items()):
        # An endpoint of one service counts for boto3, whatever the stack's own says.
        if name.startswith("AWS_ENDPOINT_URL_") and value:
            refuse_aws(value, name)
    running = _the_running(stack)
    mqtt_url = environ.get("MQTT_URL") or running.endpoints.mqtt_url
    return dataclasses.replace(running.endpoints, mqtt_url=mqtt_url)


def state_dir() -> Path:
    """Return the folder in which running stacks are noted."""
    named = os.environ.get(STATE_DIR_VARIABLE)
    return Path(named) if named else Path(__file__).parents[1] / ".stack"


def _the_running(stack: str | None) -> Running:
    if stack is not None and stack not in STARTABLE:
        raise StackError(f"no stack {stack!r}: it is aws, environment, {' or '.join(STARTABLE)}")
    names = STARTABLE if stack is None else (stack,)
    found = [running for name in names if (running := find_running(name, state_dir()))]
    if len(found) == 1:
        return found[0]
    if found:
        raise StackError(f"several stacks are running; say which: --stack {found[0].stack}")
    if stack is not None:
        raise StackError(f"the stack {stack} is not running; start it: kit up{_flag(stack)}")
    raise AwsRefusedError(
        "no stack is running and AWS_ENDPOINT_URL is not set: start one with `kit up`, set "
        "AWS_ENDPOINT_URL, or say `--stack aws` if AWS is what you want"
    )


def _check(running: Running) -> list[tuple[str, str | None]]:
    aws, mqtt_url = running.endpoints.aws or "", running.endpoints.mqtt_url
    kinesis = running.endpoints.kinesis or aws
    asked: list[tuple[str, Callable[[], str | None]]] = [
        ("kinesis", lambda: check_kinesis(kinesis, timeout=_STATUS_SECONDS)),
        ("dynamodb", lambda: check_dynamodb(aws, timeout=_STATUS_SECONDS)),
        ("s3", lambda: check_s3(aws, timeout=_STATUS_SECONDS)),
        ("sqs", lambda: check_sqs(aws, timeout=_STATUS_SECONDS)),
    ]
    if mqtt_url is not None:
        asked.append(("mqtt", lambda: check_mqtt(mqtt_url)))
    return [(service, ask()) for service, ask in asked]


def _addresses(endpoints: Endpoints) -> list[tuple[str, str]]:
    addresses = [("kinesis", endpoints.kinesis or ""), ("other aws", endpoints.aws or "")]
    if endpoints.mqtt_url is not None:
        parts = urlsplit(endpoints.mqtt_url)  # shown without the password
        addresses.append(("mqtt", f"mqtt://{parts.hostname}:{parts.port}"))
    return addresses


def _not_running(stack: str) -> int:
    print(f"{stack} is not running; start it: kit up{_flag(stack)}", file=sys.stderr)
    return 1


def _flag(stack: str) -> str:
    return "" if stack == "embedded" else f" --stack {stack}"
