"""The text of the daemon's properties file, built from values; no I/O here.

Keys that are not documented in one place are read by the beans of
`software.amazon.kinesis.multilang.config.MultiLangDaemonConfiguration` (KCL 3.1.3).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from consumers.errors import SetupError

Tuning = Literal["local", "production"]
InitialPosition = Literal["TRIM_HORIZON", "LATEST"]

SHUTDOWN_GRACE_MS: Final = 20_000
"""How long a child may take to answer `shutdownRequested`.

KCL's default is 0, with which a SIGTERM never reaches the child at all. 20 s leave room for a
batch that waits for a locked database, and stay under the 30 s after which Kubernetes sends
SIGKILL.
"""

_COMMON: Final[Mapping[str, str]] = {
    "AwsCredentialsProvider": "DefaultCredentialsProvider",
    "processingLanguage": "python",
    "shutdownGraceMillis": str(SHUTDOWN_GRACE_MS),
    # Without this key, or with DEFAULT, KCL registers an enhanced fan-out consumer, which costs
    # money per shard and hour and needs SubscribeToShard.
    "retrievalMode": "POLLING",
}

_TUNINGS: Final[Mapping[Tuning, Mapping[str, str]]] = {
    # A development machine has one worker, few shards and an engine without quotas. With KCL's
    # own values the first record comes after two minutes.
    "local": {
        "failoverTimeMillis": "3000",
        "leaseAssignmentIntervalMillis": "1000",
        "shardSyncIntervalMillis": "500",
        "parentShardPollIntervalMillis": "1000",
        "workerMetricsReporterFreqInMillis": "500",
        "idleTimeBetweenReadsInMillis": "250",
        "metricsLevel": "NONE",
    },
    # Failover stays at 10 s: a lease is renewed every third of it, so a shorter one turns a pause
    # of the garbage collector or a slow DynamoDB into a lost lease. Reads every 1 s keep four of
    # a shard's five GetRecords calls per second for other consumers.
    "production": {
        "failoverTimeMillis": "10000",
        "shardSyncIntervalMillis": "60000",
        "idleTimeBetweenReadsInMillis": "1000",
        "metricsLevel": "SUMMARY",
    },
}

_APPLICATION: Final = re.compile(r"[a-zA-Z0-9_.-]{3,255}")


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where the three services are; None leaves it to the SDK, which means AWS."""

    kinesis: str | None = None
    dynamodb: str | None = None
    cloudwatch: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """What makes one worker.

    Args:
        stream: The stream's name.
        application: Names the lease table; workers with the same one share the shards.
        worker_id: The same again after a restart, so that the worker finds its own leases at once
            instead of waiting for a leader; never two live workers under one.
        region: AWS region.
        command: Starts the child of a shard. KCL splits it at spaces and knows no quoting.
        endpoints: Where the services are.
        tuning: `local` or `production`.
        initial_position: Where a shard without a checkpoint is begun.
        overrides: Further keys, or other values for the ones set here.
    """

    stream: str
    application: str
    worker_id: str
    region: str
    command: str
    endpoints: Endpoints = Endpoints()
    tuning: Tuning = "production"
    initial_position: InitialPosition = "TRIM_HORIZON"
    overrides: Mapping[str, str] | None = None


def build(settings: WorkerSettings) -> str:
    """Return the properties file: what is read first comes first, ASCII only.

    Raises:
        SetupError: The application's name is none that a DynamoDB table can have, or the command
            holds something that KCL would split differently.
    """
    if not _APPLICATION.fullmatch(settings.application):
        raise SetupError(
            f"the application {settings.application!r} names a DynamoDB table:"
            " 3 to 255 of a-z, A-Z, 0-9, '_', '-' and '.'"
        )
    if settings.command.split(" ") != settings.command.split():
        raise SetupError(f"KCL splits a command at single spaces: {settings.command!r}")
    values = {
        "executableName": settings.command,
        "applicationName": settings.application,
        "streamName": settings.stream,
        "workerId": settings.worker_id,
        "regionName": settings.region,
        "initialPositionInStream": settings.initial_position,
        **_COMMON,
        **_TUNINGS[settings.tuning],
        **_endpoints(settings.endpoints),
        **(settings.overrides or {}),
    }
    return "".join(f"{_escape(key, ': =')} = {_escape(value)}\n" for key, value in values.items())


def _endpoints(endpoints: Endpoints) -> dict[str, str]:
    found = {
        "kinesisEndpoint": endpoints.kinesis,
        "dynamoDBEndpoint": endpoints.dynamodb,
        # There is no cloudWatchEndpoint; this reaches into the builder of the client.
        "cloudWatchClient.endpointOverride": endpoints.cloudwatch,
    }
    return {key: url for key, url in found.items() if url}


def _escape(text: str, special: str = "") -> str:
    """Escape for java.util.Properties, which reads ISO 8859-1 and drops leading blanks."""
    escaped = []
    for index, character in enumerate(text):
        if character in "\\#!" + special or (character == " " and index == 0):
            escaped.append("\\" + character)
        elif not " " <= character <= "~":
            units = character.encode("utf-16-be")
            escaped += [f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2)]
        else:
            escaped.append(character)
    return "".join(escaped)
