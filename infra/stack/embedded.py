"""The embedded stack: real engines from packages, without Docker, root or an account.

Kinesis is kinesis-mock, the engine inside LocalStack, from npm. It keeps closed shards readable and
their lineage right, which no other local engine does. Every other AWS service is MiniStack from
PyPI. The broker is described in `infra.stack.broker`.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

from infra.processes import GuardedProcess, start
from infra.stack.broker import on_free_port, start_broker
from infra.stack.endpoints import Endpoints, without_aws_settings
from infra.stack.health import check_http, check_kinesis
from infra.stack.nodejs import NODE_DIR, find_node, npm_package

SERVICES = ("dynamodb", "s3", "sqs", "sts", "cloudwatch")
"""What MiniStack serves here. Any other service answers with an error instead of surprising."""

_START_SECONDS = 60.0

_KINESIS_SETTINGS = {
    # How long changes of a stream take; a test should wait for the state, not for the clock.
    **{
        f"{operation}_DURATION": "0ms"
        for operation in (
            "CREATE_STREAM",
            "DELETE_STREAM",
            "REGISTER_STREAM_CONSUMER",
            "DEREGISTER_STREAM_CONSUMER",
            "START_STREAM_ENCRYPTION",
            "STOP_STREAM_ENCRYPTION",
            "MERGE_SHARDS",
            "SPLIT_SHARD",
            "UPDATE_SHARD_COUNT",
            "UPDATE_STREAM_MODE",
        )
    },
    # Account limits, out of the way of a long test session.
    "SHARD_LIMIT": "100000",
    "ON_DEMAND_STREAM_COUNT_LIMIT": "1000",
    "SHOULD_PERSIST_DATA": "false",
    "LOG_LEVEL": "WARN",
    # Ports for `loopback.cjs`, which replaces them by free ones.
    "KINESIS_MOCK_PLAIN_PORT": "1",
    "KINESIS_MOCK_TLS_PORT": "2",
}


@contextmanager
def embedded_stack(*, log_dir: Path) -> Iterator[Endpoints]:
    """Run the three engines side by side and stop them at the end.

    Args:
        log_dir: Folder of one log file per engine.

    Raises:
        ProcessError: An engine does not come up; the message has the end of its log.
        StackError: A package is missing.
    """
    with ExitStack() as running, ThreadPoolExecutor(max_workers=3) as pool:
        starts: tuple[Callable[[Path], tuple[GuardedProcess, str]], ...] = (
            start_kinesis,
            start_ministack,
            start_broker,
        )
        futures = [pool.submit(begin, log_dir) for begin in starts]
        urls = []
        first_error: BaseException | None = None
        for future in futures:
            try:
                process, url = future.result()
            except BaseException as error:  # noqa: BLE001 - raised below, after the others are owned
                first_error = first_error or error
            else:
                running.enter_context(process)
                urls.append(url)
        if first_error is not None:
            raise first_error
        kinesis, aws, mqtt = urls
        yield Endpoints(aws=aws, kinesis=kinesis, mqtt_url=mqtt)


def start_kinesis(log_dir: Path) -> tuple[GuardedProcess, str]:
    """Start kinesis-mock and return it with its URL, once it lists streams."""
    process = start(
        [find_node(), "--require", NODE_DIR / "loopback.cjs", "main.js"],
        name="kinesis-mock",
        log_dir=log_dir,
        env=without_aws_settings(os.environ) | _KINESIS_SETTINGS,
        cwd=npm_package("kinesis-local"),  # it reads its certificate from its working directory
        grace=5.0,
    )
    try:
        line = process.wait_for_line(r"^listening plain (127\.0\.0\.1:\d+)$", _START_SECONDS)
        url = f"http://{line[1]}"
        process.wait_until(lambda: check_kinesis(url) is None, timeout=_START_SECONDS)
    except BaseException:
        process.close()
        raise
    return process, url


def start_ministack(
    log_dir: Path, services: Sequence[str] = SERVICES
) -> tuple[GuardedProcess, str]:
    """Start MiniStack and return it with its URL, once it says that it is ready."""
    return on_free_port(lambda port: _start_ministack_on(port, log_dir, services))


def _start_ministack_on(
    port: int, log_dir: Path, services: Sequence[str]
) -> tuple[GuardedProcess, str]:
    url = f"http://127.0.0.1:{port}"
    scratch = log_dir / "ministack"
    scratch.mkdir(parents=True, exist_ok=True)
    settings = {
        "BIND_HOST": "127.0.0.1",
        "GATEWAY_PORT": str(port),
        "SERVICES": ",".join(services),
        "IOT_MTLS_ENABLED": "0",
        "SFTP_ENABLED": "0",
        "PERSIST_STATE": "0",
        "S3_PERSIST": "0",
        "LOG_LEVEL": "WARNING",
        # Its pid file belongs with its log. It also removes stray containers at start if it finds
        # a Docker engine, which is none of our business.
        "TMPDIR": str(scratch),
        "DOCKER_HOST": f"unix://{scratch}/no-docker.sock",
    }
    process = start(
        [sys.executable, "-m", "ministack"],
        name="ministack",
        log_dir=log_dir,
        env=without_aws_settings(os.environ) | settings,
        cwd=scratch,
        ready=lambda: check_http(url, "/_ministack/ready", service="MiniStack") is None,
        ready_timeout=_START_SECONDS,
        grace=5.0,
    )
    return process, url
