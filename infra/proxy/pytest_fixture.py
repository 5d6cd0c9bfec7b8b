"""A pytest fixture to copy: each test gets a proxy that behaves like AWS, before your engine.

Import it in `conftest.py` (`from infra.proxy.pytest_fixture import kinesis_proxy`), and set
`AWS_ENDPOINT_URL_KINESIS` (or `AWS_ENDPOINT_URL`) to the engine, such as LocalStack.

A test then says what goes wrong, runs the code under test, and checks that it did go wrong::

    def test_a_lost_answer_does_no_harm(kinesis_proxy):
        kinesis_proxy.add_fault(action="lose", operation="PutRecords")
        deliver(orders, client=kinesis_proxy.client("kinesis"))
        assert kinesis_proxy.status()["lost"] == 1

It runs `python -m infra.proxy`, which `kit copy infra/proxy/pytest_fixture.py --into FOLDER` brings
along; what imports the fixture must be able to import that. Quotas and corrections are on.
Code that builds its own clients is led to the proxy by
`monkeypatch.setenv("AWS_ENDPOINT_URL_KINESIS", kinesis_proxy.url)`. One test gets other options of
`infra.proxy` by `@pytest.mark.parametrize("kinesis_proxy", [["--seed", "7"]], indirect=True)`.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

from infra.proxy import control

_OPTIONS = ["--quotas", "aws", "--correct"]
_STOP_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class KinesisProxy:
    """A running proxy.

    Attributes:
        url: Its endpoint, for any client.
    """

    url: str

    def add_fault(self, **fields: Any) -> None:
        """Let something go wrong; the fields are those of a scenario's `[[fault]]`.

        Raises:
            ValueError: There is no such field or action.
        """
        control.add(self.url, **fields)

    def status(self) -> dict[str, Any]:
        """Return what has happened: `requests`, `operations`, `lost`, `faults`, `shards`."""
        return control.status(self.url)

    def client(self, service: str = "kinesis", config: Config | None = None) -> Any:
        """Return a boto3 client that talks to the proxy; the caller closes it."""
        session = boto3.session.Session()
        return session.client(service, endpoint_url=self.url, config=config)  # type: ignore[call-overload]


@pytest.fixture
def kinesis_proxy(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[KinesisProxy]:
    """A proxy of the test's own, before the engine of the environment."""
    options: list[str] = getattr(request, "param", _OPTIONS)
    upstream = os.environ.get("AWS_ENDPOINT_URL_KINESIS") or os.environ.get("AWS_ENDPOINT_URL")
    if not upstream:
        pytest.fail("set AWS_ENDPOINT_URL to the engine that the proxy is to stand before")
    command = [sys.executable, "-m", "infra.proxy", "--upstream", upstream, *options]
    log = tmp_path / "kinesis-proxy.log"
    with (
        log.open("wb") as stderr,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr) as process,
    ):
        try:
            # The first line, or nothing at all when the proxy has ended.
            first = process.stdout.readline().decode() if process.stdout else ""
            if not first.startswith("ready "):
                pytest.fail(f"the proxy did not start: {log.read_text()}")
            yield KinesisProxy(first.split()[1])
        finally:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
