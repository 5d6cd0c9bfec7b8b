"""The proxy as people run it: a process of its own, before an engine."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config

from infra.processes import GuardedProcess, start
from infra.proxy import control
from tests.scripted_upstream import connection_to

if TYPE_CHECKING:
    from types_boto3_kinesis import KinesisClient

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Proxy:
    url: str
    process: GuardedProcess
    tls_url: str | None = None
    ca_file: Path | None = None

    @property
    def tls_port(self) -> int:
        assert self.tls_url
        return int(self.tls_url.rpartition(":")[2])

    def status(self) -> dict[str, Any]:
        return control.status(self.url)

    def client(self, *, attempts: int = 1, url: str | None = None) -> "KinesisClient":
        config = Config(retries={"total_max_attempts": attempts}, read_timeout=60)
        return boto3.session.Session().client(
            "kinesis",
            endpoint_url=url or self.url,
            config=config,
            verify=str(self.ca_file) if self.ca_file else None,
        )


@contextmanager
def proxy_before(
    upstream: str,
    *options: str,
    log_dir: Path,
    env: Mapping[str, str] | None = None,
) -> Iterator[Proxy]:
    command = [sys.executable, "-m", "infra.proxy", "--upstream", upstream, *options]
    with start(command, name="proxy", log_dir=log_dir, env=env, cwd=ROOT) as process:
        url = process.wait_for_line(r"^ready (http://\S+)$", timeout=30)[1]
        if "--tls" not in options:
            yield Proxy(url, process)
            return
        pattern = r"^ready (https://\S+) \(certificate: (.+)\)$"
        found = process.wait_for_line(pattern, timeout=10)
        yield Proxy(url, process, found[1], Path(found[2]))


# AWS names no rate for it, so that no quota gets in the way.
GET_POLICY = {
    "X-Amz-Target": "Kinesis_20131202.GetResourcePolicy",
    "Content-Type": "application/x-amz-json-1.1",
}


def policy_of(stream: str) -> bytes:
    """The body of that call, such that AWS would take it."""
    return b'{"ResourceARN":"arn:aws:kinesis:us-east-1:000000000000:stream/%b"}' % stream.encode()


def ask(url: str, body: bytes = policy_of("orders")) -> tuple[int, bytes]:
    """Make a call that every upstream can answer; return its status and body."""
    connection = connection_to(url)
    try:
        connection.request("POST", "/", body, GET_POLICY)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()
