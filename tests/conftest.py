"""The stack under test, one for the whole session, and clients that lead to it."""

import contextlib
import os
import signal
import uuid
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.config import Config

from infra.stack.endpoints import FAKE_CREDENTIALS, REGION, Endpoints
from infra.stack.open import STACK_NAMES, open_stack
from tests.support import eventually

if TYPE_CHECKING:
    from types_boto3_dynamodb import DynamoDBClient
    from types_boto3_kinesis import KinesisClient
    from types_boto3_s3 import S3Client
    from types_boto3_sqs import SQSClient


# A shell without job control starts background jobs with SIGINT ignored, nohup ignores SIGHUP, and
# programs inherit that. The tests that send these need programs that listen, however the suite
# itself was started.
for _number, _handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
    (signal.SIGTERM, signal.SIG_DFL),
):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--stack",
        choices=STACK_NAMES,
        default="embedded",
        help="the engines to test against (default: embedded; aws reaches AWS and costs money)",
    )
    parser.addoption(
        "--seeds",
        type=int,
        help="how many worlds tests/simulation tries (default: 10,000, or what fits in a minute)",
    )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell how many worlds were simulated."""
    tried = sum(
        int(value)
        for report in terminalreporter.getreports("passed")
        for name, value in report.user_properties
        if name == "seeds"
    )
    if tried:
        terminalreporter.write_line(f"simulated worlds: {tried:,}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("containers")]
    if not marked:
        return
    from infra.stack.containers import check_docker  # noqa: PLC0415 - only where a test asks for it

    if (problem := check_docker()) is not None:
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=problem))


@pytest.fixture(scope="session")
def stack_name(pytestconfig: pytest.Config) -> str:
    name: str = pytestconfig.getoption("--stack")
    return name


@pytest.fixture(scope="session")
def stack(stack_name: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoints]:
    """Where the engines under test are. They are started when a test first asks for them."""
    with pytest.MonkeyPatch.context() as patch:
        if stack_name == "environment":
            for name, value in _ORIGINAL_ENVIRONMENT.items():
                patch.setenv(name, value)
        opened = open_stack(stack_name, log_dir=tmp_path_factory.mktemp("stack"))
        endpoints = opened.__enter__()
    try:
        yield endpoints
    finally:
        opened.__exit__(None, None, None)


_ORIGINAL_ENVIRONMENT = {
    name: value
    for name, value in os.environ.items()
    if name.startswith("AWS_") or name == "MQTT_URL"
}


@pytest.fixture(scope="session", autouse=True)
def _no_ambient_aws(stack_name: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Take every AWS setting of the surroundings away, so that no test can reach an account."""
    if stack_name == "aws":
        yield
        return
    nothing = str(tmp_path_factory.mktemp("aws") / "empty")
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith("AWS_") or name == "MQTT_URL":
                patch.delenv(name)
        for name, value in FAKE_CREDENTIALS.items():
            patch.setenv(name, value)
        patch.setenv("AWS_REGION", REGION)
        patch.setenv("AWS_DEFAULT_REGION", REGION)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_CONFIG_FILE", nothing)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", nothing)
        # boto3 without an endpoint fails at once instead of reaching AWS.
        patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        yield


@pytest.fixture(autouse=True)
def _no_shared_boto3_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """boto3 keeps a default session with the environment of its first use; forget it."""
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)


@pytest.fixture(scope="session")
def kinesis(stack: Endpoints) -> Iterator["KinesisClient"]:
    """A client without the SDK's own retries, so that a test sees every failure."""
    config = Config(retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=60)
    client = _client("kinesis", stack.kinesis or stack.aws, config)
    yield client
    client.close()


@pytest.fixture(scope="session")
def dynamodb(stack: Endpoints) -> Iterator["DynamoDBClient"]:
    client = _client("dynamodb", stack.aws)
    yield client
    client.close()


@pytest.fixture(scope="session")
def s3(stack: Endpoints) -> Iterator["S3Client"]:
    client = _client("s3", stack.aws, Config(s3={"addressing_style": "path"}))
    yield client
    client.close()


@pytest.fixture(scope="session")
def sqs(stack: Endpoints) -> Iterator["SQSClient"]:
    client = _client("sqs", stack.aws)
    yield client
    client.close()


@pytest.fixture(scope="session")
def local_kinesis(stack: Endpoints) -> str:
    """Where the Kinesis under test is, for a proxy to stand before; it refuses AWS."""
    url = stack.kinesis or stack.aws
    if url is None:
        pytest.skip("the proxy refuses AWS")
    return url


@pytest.fixture(scope="session")
def mqtt_url(stack: Endpoints) -> str:
    if stack.mqtt_url is None:
        pytest.skip("this stack has no MQTT broker; MQTT_URL names one")
    return stack.mqtt_url


@pytest.fixture
def unique() -> Callable[[str], str]:
    """Return a function that makes a name nobody else uses: `unique("orders")`."""
    return lambda prefix: f"{prefix}-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def stream(kinesis: "KinesisClient", unique: Callable[[str], str]) -> Iterator[Callable[..., str]]:
    """Return a function that makes an ACTIVE stream, `stream(shards=1)`, deleted after the test."""
    made: list[str] = []

    def make(shards: int = 1) -> str:
        name = unique("stream")
        kinesis.create_stream(StreamName=name, ShardCount=shards)
        made.append(name)

        def active() -> bool:
            # Not the SDK's waiter, which looks too early and then sleeps a whole second.
            summary = kinesis.describe_stream_summary(StreamName=name)["StreamDescriptionSummary"]
            return summary["StreamStatus"] == "ACTIVE"

        eventually(active, timeout=60)
        return name

    yield make
    for name in made:
        # A test may have deleted its stream itself.
        with contextlib.suppress(kinesis.exceptions.ResourceNotFoundException):
            kinesis.delete_stream(StreamName=name, EnforceConsumerDeletion=True)


def _client(service: str, endpoint: str | None, config: Config | None = None) -> Any:
    # A session of its own: the default one remembers the environment of its first use.
    session = boto3.session.Session()
    return session.client(service, endpoint_url=endpoint, config=config)  # type: ignore[call-overload]
