"""The containers stack: LocalStack and Eclipse Mosquitto in Docker, for the length of a block."""

import gc
import logging
import sys
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from docker.errors import DockerException  # type: ignore[import-untyped] # has no types
from testcontainers.core.container import DockerContainer
from testcontainers.core.docker_client import DockerClient
from testcontainers.core.waiting_utils import WaitStrategy, WaitStrategyTarget

from infra.errors import StackError
from infra.processes import start
from infra.stack.broker import MOSQUITTO_CONFIG, Credentials, new_credentials
from infra.stack.endpoints import Endpoints
from infra.stack.health import check_kinesis, check_localstack, check_mqtt

logger = logging.getLogger(__name__)

LOCALSTACK_IMAGE = "localstack/localstack:4.14.0"
"""The last image that runs without an account: later ones want LOCALSTACK_AUTH_TOKEN."""

MOSQUITTO_IMAGE = "eclipse-mosquitto:2.0"

SERVICES = ("kinesis", "dynamodb", "s3", "sqs", "sts", "cloudwatch")
"""What LocalStack serves here; any other service answers with an error."""

_LOCALSTACK_PORT = 4566
_MQTT_PORT = 1883
_START_SECONDS = 120.0
_POLL_SECONDS = 0.2
_LABEL = "kinesis-iot-toolkit.stack"

# The password goes in through the environment, and the file is made inside: a mounted file would
# have to be readable by the broker's user, and need not exist where a remote engine runs.
_MOSQUITTO_COMMAND = """\
set -eu
cd /mosquitto/config
printf '%s' "$BROKER_CONFIG" > toolkit.conf
printf '%s:%s\\n' "$MQTT_USERNAME" "$MQTT_PASSWORD" > passwords
chmod 600 passwords
mosquitto_passwd -U passwords
chown mosquitto: toolkit.conf passwords
exec mosquitto -c toolkit.conf
"""


@contextmanager
def containers_stack(*, log_dir: Path) -> Iterator[Endpoints]:
    """Run both containers, published on 127.0.0.1 only, and remove them at the end.

    They are also removed when this process is killed: a guarded child of this process sees to it.

    Args:
        log_dir: Folder for the containers' logs, which are saved when they are stopped.

    Raises:
        StackError: No Docker engine answers, or a container does not come up.
    """
    label = uuid.uuid4().hex
    credentials = new_credentials()
    if (problem := check_docker()) is not None:
        raise StackError(problem)
    localstack, mosquitto = _localstack(label), _mosquitto(label, credentials)
    with ExitStack() as running:
        reaper = [sys.executable, "-m", "infra.stack.reaper", "--label", f"{_LABEL}={label}"]
        running.enter_context(
            start(reaper, name="reaper", log_dir=log_dir, ready="^ready", grace=60.0)
        )
        running.callback(_stop, localstack, log_dir / "localstack.log")
        running.callback(_stop, mosquitto, log_dir / "mosquitto.log")
        with ThreadPoolExecutor(max_workers=2) as pool:
            started = [pool.submit(c.start) for c in (localstack, mosquitto)]
        _raise_first(started)
        url = _url(localstack)
        # The first call starts kinesis-mock inside LocalStack, which takes seconds.
        if (problem := check_kinesis(url, timeout=_START_SECONDS)) is not None:
            raise StackError(problem)
        yield Endpoints(aws=url, kinesis=url, mqtt_url=_mqtt_url(mosquitto, credentials))


def check_docker() -> str | None:
    """Ask whether a Docker engine is there; None if so, else one line that says what is wrong."""
    with warnings.catch_warnings():
        # docker-py leaves the socket of a failed connection to the garbage collector.
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            client = DockerClient(timeout=10).client
        except DockerException as error:
            problem = f"no Docker engine answers: {error}"
        else:
            client.close()
            return None
        gc.collect()
    return problem


def _localstack(label: str) -> DockerContainer:
    return (
        _container(LOCALSTACK_IMAGE, _LOCALSTACK_PORT, label)
        .with_envs(
            SERVICES=",".join(SERVICES),
            EAGER_SERVICE_LOADING="1",
            KINESIS_LATENCY="0",
            KINESIS_SHARD_LIMIT="100000",
            KINESIS_ON_DEMAND_STREAM_COUNT_LIMIT="1000",
            SQS_ENDPOINT_STRATEGY="path",
            DISABLE_EVENTS="1",
            SKIP_SSL_CERT_DOWNLOAD="1",
        )
        .waiting_for(_Healthy(lambda c: check_localstack(_url(c))))
    )


def _mosquitto(label: str, credentials: Credentials) -> DockerContainer:
    # Inside the container it has to listen on all interfaces; only 127.0.0.1 is published.
    config = f"{MOSQUITTO_CONFIG}password_file passwords\nlistener {_MQTT_PORT}\n"
    return (
        _container(MOSQUITTO_IMAGE, _MQTT_PORT, label)
        .with_envs(
            BROKER_CONFIG=config,
            MQTT_USERNAME=credentials.username,
            MQTT_PASSWORD=credentials.password,
        )
        .with_command(["sh", "-c", _MOSQUITTO_COMMAND])
        .waiting_for(_Healthy(lambda c: check_mqtt(_mqtt_url(c, credentials))))
    )


def _container(image: str, port: int, label: str) -> DockerContainer:
    container = DockerContainer(image).with_kwargs(labels={_LABEL: label})
    # A tuple is docker-py's way to say the address and leave the port to the engine.
    container.ports = {f"{port}/tcp": ("127.0.0.1",)}  # type: ignore[dict-item]
    return container


class _Healthy(WaitStrategy):
    """Wait until a service answers on the address its users will have.

    testcontainers' own strategies ask on the address it guesses from the surroundings, and inside a
    container that is the engine's gateway, where nothing is published.
    """

    def __init__(self, check: Callable[[DockerContainer], str | None]) -> None:
        super().__init__()
        self._check = check

    def wait_until_ready(self, container: WaitStrategyTarget) -> None:
        assert isinstance(container, DockerContainer)  # noqa: S101 - the other kind is compose's
        deadline = time.monotonic() + _START_SECONDS
        while (problem := self._check(container)) is not None:
            container.reload()
            if container.status == "exited" or time.monotonic() > deadline:
                raise TimeoutError(f"{container.image} is {container.status}: {problem}")
            time.sleep(_POLL_SECONDS)


def _url(localstack: DockerContainer) -> str:
    return f"http://{_address(localstack, _LOCALSTACK_PORT)}"


def _mqtt_url(mosquitto: DockerContainer, credentials: Credentials) -> str:
    return credentials.url(_address(mosquitto, _MQTT_PORT))


def _address(container: DockerContainer, port: int) -> str:
    """Return where a port is published; the port is 0, which nothing answers, until it is."""
    container.reload()
    published = container.get_wrapped_container().ports.get(f"{port}/tcp") or [{}]
    return f"127.0.0.1:{published[0].get('HostPort', 0)}"


def _raise_first(started: "list[Future[DockerContainer]]") -> None:
    for future in started:
        error = future.exception()
        if isinstance(error, DockerException | TimeoutError):
            notes = "\n".join(getattr(error, "__notes__", []))
            raise StackError(f"a container does not come up: {error}\n{notes}") from error
        if error is not None:
            raise error


def _stop(container: DockerContainer, log: Path) -> None:
    """Save the container's log and remove it; one that was never made is nothing to stop."""
    with suppress(Exception):
        log.write_bytes(b"".join(container.get_logs()))
    try:
        container.stop()
    except DockerException as error:
        logger.warning("a container could not be removed: %s", error)
