"""`docker compose up` as a person types it: its exit code is the verdict, and nothing is left."""

import json
import os
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest

from kit.copy import ROOT

# The first build fetches every package; a run of the demo takes about two minutes.
BUILD_SECONDS, RUN_SECONDS, STEP_SECONDS = 900, 420, 120

pytestmark = [pytest.mark.containers, pytest.mark.timeout(BUILD_SECONDS + RUN_SECONDS)]

Compose = Callable[..., subprocess.CompletedProcess[str]]
SMALL = "--events 400 --devices 4 --seconds 45 --json"


@pytest.fixture(scope="module")
def image() -> str:
    """The image, built once from the checkout."""
    done = docker("compose", "build", "demo", timeout=BUILD_SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr
    return "kinesis-iot-toolkit"


@pytest.fixture
def compose(image: str) -> Iterator[Compose]:  # noqa: ARG001 - the project needs it built
    """`docker compose` on a project of the test's own, on ports that nobody else has."""
    project = f"test-{uuid.uuid4().hex[:12]}"

    def run(
        *argv: str, timeout: float = STEP_SECONDS, demo_args: str = ""
    ) -> subprocess.CompletedProcess[str]:
        settings = {"LOCALSTACK_PORT": "0", "MQTT_PORT": "0", "DEMO_ARGS": demo_args}
        return docker(
            "compose", "--ansi", "never", "-p", project, *argv, timeout=timeout, settings=settings
        )

    try:
        yield run
    finally:
        made, volumes = leftovers(project), mounted_volumes(project)
        down = run("down", "-v", "--remove-orphans", "--timeout", "5")
        left = leftovers(project)
    assert made["volume"]
    assert made["network"]
    assert down.returncode == 0, down.stderr
    assert left == {"container": [], "volume": [], "network": []}
    # Also those that an image declares, which have no name and no label.
    assert volumes.isdisjoint(docker("volume", "ls", "--quiet").stdout.split())


def docker(
    *argv: str, timeout: float = STEP_SECONDS, settings: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["docker", *argv],
        cwd=ROOT,
        env=os.environ | (settings or {}),
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )


def leftovers(project: str) -> dict[str, list[str]]:
    label = ["--filter", f"label=com.docker.compose.project={project}", "--quiet"]
    listings = {
        "container": ["container", "ls", "--all"],
        "volume": ["volume", "ls"],
        "network": ["network", "ls"],
    }
    return {kind: docker(*listing, *label).stdout.split() for kind, listing in listings.items()}


def mounted_volumes(project: str) -> set[str]:
    containers = leftovers(project)["container"]
    mounts = "{{range .Mounts}}{{.Name}} {{end}}"
    listed = docker("inspect", "--format", mounts, *containers).stdout if containers else ""
    return set(listed.split())


def test_the_demo_keeps_its_promises_and_says_so_with_0(compose: Compose) -> None:
    up = compose(
        "up", "--no-build", "--exit-code-from", "demo", timeout=RUN_SECONDS, demo_args=SMALL
    )
    assert up.returncode == 0, up.stdout[-4000:] + up.stderr[-4000:]
    # Not `compose logs`, which puts a control sequence before each line.
    said = docker("logs", compose("ps", "--all", "--quiet", "demo").stdout.strip()).stdout
    verdict = json.loads(said.splitlines()[-1])
    assert verdict["sent"] == verdict["stored"] == 400
    assert (verdict["lost"], verdict["doubled"], verdict["out_of_order"]) == (0, 0, 0)
    assert verdict["worker_kills"] >= 1
    assert verdict["shards_after"] > verdict["shards_before"]


def test_a_demo_that_breaks_a_promise_is_the_exit_code(compose: Compose) -> None:
    up = compose(
        "up", "--no-build", "--exit-code-from", "demo",
        timeout=RUN_SECONDS, demo_args=f"{SMALL} --sabotage lose",
    )  # fmt: skip
    assert up.returncode == 1, up.stdout[-4000:] + up.stderr[-4000:]
    assert "BROKEN" in up.stdout + up.stderr


def test_another_exit_code_of_the_demo_comes_back_as_it_is(
    compose: Compose, tmp_path: Path
) -> None:
    override = tmp_path / "fails.json"
    override.write_text(
        json.dumps({"services": {"demo": {"command": ["sh", "-c", "sleep 3; exit 7"]}}})
    )
    files = ["-f", str(ROOT / "docker-compose.yml"), "-f", str(override)]
    up = compose(*files, "up", "--no-build", "--exit-code-from", "demo", timeout=RUN_SECONDS)
    assert up.returncode == 7, up.stdout + up.stderr


def test_the_engines_are_provisioned_guarded_and_on_127_0_0_1(compose: Compose) -> None:
    up = compose("up", "--no-build", "--wait", "localstack", "mosquitto", timeout=RUN_SECONDS)
    assert up.returncode == 0, up.stderr
    for service, port in (("localstack", "4566"), ("mosquitto", "1883")):
        assert compose("port", service, port).stdout.startswith("127.0.0.1:")

    # Twice: what is there already is no error.
    for _ in range(2):
        provisioned = compose("run", "--rm", "--no-deps", "provision")
        assert provisioned.returncode == 0, provisioned.stderr
    endpoint = f"http://{compose('port', 'localstack', '4566').stdout.strip()}"
    client = boto3.session.Session().client("kinesis", endpoint_url=endpoint)
    summary = client.describe_stream_summary(StreamName="telemetry")["StreamDescriptionSummary"]
    client.close()
    assert (summary["StreamStatus"], summary["OpenShardCount"]) == ("ACTIVE", 2)

    inside = ("exec", "-T", "mosquitto", "sh", "-c")
    publish = "mosquitto_pub -h localhost -t a -m b"
    assert "not authorised" in compose(*inside, publish).stderr
    assert "not authorised" in compose(*inside, f"{publish} -u toolkit -P guess").stderr
    known = "mosquitto_pub -L $(cat /credentials/mqtt_url)/a -m b"
    assert compose(*inside, known).returncode == 0

    put = "echo one | python -m producers.put_records telemetry"
    stored = compose("run", "--rm", "--no-deps", "-T", "demo", "sh", "-c", put)
    assert "delivered 1 of 1" in stored.stdout, stored.stderr


def test_the_password_is_new_for_each_project_and_stays_with_its_volume(compose: Compose) -> None:
    def password() -> str:
        up = compose("up", "--no-build", "--wait", "mosquitto", timeout=RUN_SECONDS)
        assert up.returncode == 0, up.stderr
        return compose("exec", "-T", "mosquitto", "cat", "/credentials/mqtt_url").stdout

    first = password()
    assert len(first) > len("mqtt://toolkit:@mosquitto:1883") + 40
    compose("rm", "--stop", "--force", "--volumes", "mosquitto")
    assert password() == first
    assert compose("down", "-v", "--timeout", "5").returncode == 0
    assert password() not in {"", first}


def test_the_image_runs_as_nobody_special_who_cannot_change_the_code(compose: Compose) -> None:
    shown = compose(
        "run", "--rm", "--no-deps", "-T", "demo", "sh", "-c", "id -u; touch /toolkit/records/x"
    )
    assert shown.stdout.strip() not in {"0", ""}
    assert "Permission denied" in shown.stderr
