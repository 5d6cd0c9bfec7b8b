"""Open a stack by its name."""

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Literal, get_args

from infra.errors import StackError
from infra.safety import require_local
from infra.stack.endpoints import Endpoints

StackName = Literal["embedded", "containers", "environment", "aws"]
STACK_NAMES: tuple[StackName, ...] = get_args(StackName)


def open_stack(name: str, *, log_dir: Path) -> AbstractContextManager[Endpoints]:
    """Start a stack, or find it, for the length of a `with` block.

    ===========  ====================================================================
    embedded     engines from packages, started here (`infra.stack.embedded`)
    containers   LocalStack and Mosquitto in Docker, started here
    environment  what `AWS_ENDPOINT_URL` and `MQTT_URL` say; nothing is started, and AWS is refused
    aws          AWS, with the credentials of the environment; nothing is started
    ===========  ====================================================================

    Whatever is started listens on 127.0.0.1 only and is stopped at the end of the block, and also
    when this process ends in any other way.

    Args:
        name: One of the names above.
        log_dir: Folder for the logs of what is started.

    Raises:
        ValueError: There is no stack of that name.
        InfraError: The stack does not come up, or is not local (raised on entering).
    """
    match name:
        case "embedded":
            from infra.stack.embedded import embedded_stack  # noqa: PLC0415 - only what is used

            return embedded_stack(log_dir=log_dir)
        case "containers":
            # Docker's client is a dependency of the tests alone.
            from infra.stack.containers import containers_stack  # noqa: PLC0415

            return containers_stack(log_dir=log_dir)
        case "environment":
            return _environment_stack(os.environ)
        case "aws":
            return _aws_stack(os.environ)
        case _:
            raise ValueError(f"no stack {name!r}: it is one of {', '.join(STACK_NAMES)}")


def endpoints_in(environ: Mapping[str, str]) -> Endpoints:
    """Return the local endpoints that an environment names.

    Raises:
        AwsRefusedError: It names none, or AWS.
    """
    aws = require_local(environ)
    return Endpoints(
        aws=aws,
        kinesis=environ.get("AWS_ENDPOINT_URL_KINESIS") or aws,
        mqtt_url=environ.get("MQTT_URL") or None,
    )


@contextmanager
def _environment_stack(environ: Mapping[str, str]) -> Iterator[Endpoints]:
    yield endpoints_in(environ)


@contextmanager
def _aws_stack(environ: Mapping[str, str]) -> Iterator[Endpoints]:
    named = [name for name in environ if name.startswith("AWS_ENDPOINT_URL") and environ[name]]
    if named:
        raise StackError(f"--stack aws means AWS, but {named[0]} names an endpoint; unset it first")
    yield Endpoints(aws=None, kinesis=None, mqtt_url=environ.get("MQTT_URL") or None)
