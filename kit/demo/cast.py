"""The processes of the demo: runnables of this toolkit, started as a person would start them."""

import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from infra.processes import STOP_GRACE_SECONDS, GuardedProcess, start
from iot.connection import Connection
from iot.endpoint import Endpoint

WORKER_ID = "worker-1"
THING_PREFIX = "device"
BRIDGE_SESSION = "demo-bridge"
SHADOW_SERVICE_SESSION = "demo-shadow-service"
TELEMETRY = "dt/fleet/+/telemetry"
READY = r"^ready"
READY_SECONDS = 60.0
CONSUMER_GRACE_SECONDS = 30.0
"""KCL asks its children to finish, which it allows 20 s, and then gives its leases back."""


@dataclass(slots=True, kw_only=True)
class Cast:
    """Starts the processes of one run; all of them end when `stack` unwinds.

    Args:
        stack: what the processes are pushed on.
        folder: the run's folder: ledger, sink, shadow store, dead letters, logs.
        environment: the variables that carry the endpoints.
        stream: the stream's name.
        application: KCL's application name, which is its lease table's name too.
    """

    stack: ExitStack
    folder: Path
    environment: dict[str, str]
    stream: str
    application: str

    @property
    def ledger(self) -> Path:
        """Where the fleet notes each acknowledged event."""
        return self.folder / "sent.jsonl"

    @property
    def sink(self) -> Path:
        """The consumer's SQLite file."""
        return self.folder / "sink.sqlite"

    @property
    def consumer_folder(self) -> Path:
        """The consumer's properties, logs and events."""
        return self.folder / "kcl"

    def start_proxy(self, upstream: str) -> str:
        """Start the proxy before `upstream`, quotas and corrections on, and return its URL."""
        likeness = ("--quotas", "aws", "--correct")
        proxy = self._start("proxy", "infra.proxy", "--upstream", upstream, *likeness, ready=False)
        return proxy.wait_for_line(r"^ready (http\S+)", timeout=READY_SECONDS)[1]

    def start_shadow_service(self) -> GuardedProcess:
        """Start the shadow service."""
        store = str(self.folder / "shadows.sqlite")
        session = ("--client-id", SHADOW_SERVICE_SESSION)
        return self._start("shadows", "iot.shadows", "--store", store, *session)

    def start_consumer(self, kinesis_url: str) -> GuardedProcess:
        """Start the KCL consumer, led to `kinesis_url`; it reads 10 to 40 s later."""
        return self._start(
            "consumer",
            "consumers.kcl",
            *("--stream", self.stream, "--application", self.application, "--worker-id", WORKER_ID),
            *("--sink", f"sqlite:{self.sink}", "--work-dir", str(self.consumer_folder)),
            environment={"AWS_ENDPOINT_URL_KINESIS": kinesis_url},
            ready=False,
            grace=CONSUMER_GRACE_SECONDS,
        )

    def start_bridge(self, kinesis_url: str) -> GuardedProcess:
        """Start the bridge, its producer pointed at `kinesis_url`."""
        return self._start(
            "bridge",
            "iot.bridge",
            *("--stream", self.stream, "--topic", TELEMETRY, "--client-id", BRIDGE_SESSION),
            *("--dead-letter", str(self.folder / "bridge.dead")),
            environment={"AWS_ENDPOINT_URL_KINESIS": kinesis_url},
        )

    def start_fleet(self, *, devices: int, events: int, seconds: float) -> GuardedProcess:
        """Start the devices."""
        return self._start(
            "fleet",
            "iot.fleet",
            *("--devices", str(devices), "--events", str(events), "--seconds", str(seconds)),
            *("--prefix", THING_PREFIX, "--ledger", str(self.ledger)),
        )

    def _start(
        self,
        name: str,
        module: str,
        *arguments: str,
        environment: dict[str, str] | None = None,
        ready: bool = True,
        grace: float = STOP_GRACE_SECONDS,
    ) -> GuardedProcess:
        process = start(
            [sys.executable, "-m", module, *arguments],
            name=name,
            log_dir=self.folder / "logs",
            env={**self.environment, **(environment or {})},
            ready=READY if ready else None,
            ready_timeout=READY_SECONDS,
            grace=grace,
        )
        return self.stack.enter_context(process)


def forget_sessions(endpoint: Endpoint) -> None:
    """Throw away what an earlier run has left in the broker for the two that keep a session.

    A run that was killed leaves its bridge's session behind, and the next bridge of that name
    would be handed the telemetry of a run that is over.

    Raises:
        IotError: the broker does not answer, or refuses.
    """
    for client_id in (BRIDGE_SESSION, SHADOW_SERVICE_SESSION):
        with Connection(endpoint, client_id=client_id, clean_session=True) as connection:
            connection.wait_ready(READY_SECONDS)
