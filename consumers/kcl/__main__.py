r"""Read a stream with the Kinesis Client Library and store each record once.

What it shows: KCL's leases, checkpoints and resharding from Python, with a child runtime that does
not lose records: a handler that raises is retried and then stops the worker, where kclpy skips the
batch and checkpoints past it; a `print` cannot corrupt the protocol; no process is orphaned.

How to run it::

    python -m consumers.kcl --stream orders --application billing --worker-id slot-0 \
        --sink sqlite:/var/lib/billing.db --work-dir /var/lib/billing-slot-0

What you will see: on standard error `ready: shardId-... is being read` for each shard, warnings
of KCL on standard output, and in the work directory `events.jsonl` (one line per shard taken,
ended or lost), `status/<shard>.json` (how far each shard is), `logs/<shard>.log` (what your
handler prints) and `kcl.log` (all that KCL says). The first start of an application takes 10 to
45 s, since KCL waits a random time of up to 30 s before it fills an empty lease table. A restart
under the same worker ID reads again after about 5 s; under another one it can take two minutes.

What is guaranteed: at least once, in order per shard, parents before children; with these sinks
effectively once (each record ID takes effect once within the horizon). Not guaranteed: that a
record is processed only once while a lease moves to another worker; the sink refuses the second.
Aggregates come de-aggregated, and the checkpoint is exact inside them.

What to change for production: `--tuning production` (the default where no endpoint is set), one
worker ID per slot, such as a StatefulSet's pod name, `--heap` by the number of shards, and a
supervisor that restarts the worker: it exits non-zero when the handler keeps failing. Restart it
too when the stream's retention was raised, since record IDs must be remembered as long. To KCL a
stream that is deleted is one whose shards have ended: the worker goes on, idle and without a word,
and a new stream of the same name is only read under a new application.

Exit status: 2 when nothing was started (bad usage, altered jars, no JVM, no such stream); 1 when a
shard could not go on; the JVM's 143 or 130 after a clean stop by SIGTERM or SIGINT, 3 when its heap
was too small.
"""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import boto3
import botocore.session
from botocore.config import Config
from botocore.configprovider import ConfiguredEndpointProvider
from botocore.exceptions import BotoCoreError, ClientError

from consumers.errors import SetupError
from consumers.kcl.jars import verified_jars
from consumers.kcl.jvm import find_jvm
from consumers.kcl.launch import COMMAND, Launch, launch
from consumers.kcl.properties import Endpoints, WorkerSettings
from consumers.sinks.open import FORMS, prepare_sink
from records.aws_hosts import is_aws_endpoint

_HOUR: Final = 3600.0


def main(argv: Sequence[str] | None = None) -> int:
    """Check everything that can be checked, then become the worker."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    try:
        plan = _plan(arguments)
        launch(plan, os.environ)
    except SetupError as error:
        print(f"consumers.kcl: {error}", file=sys.stderr)
        return 2
    except (BotoCoreError, ClientError, OSError) as error:
        print(f"consumers.kcl: {error}", file=sys.stderr)
        return 2


def configured_endpoints(session: botocore.session.Session) -> Endpoints:
    """Resolve the endpoints as boto3 does, so that KCL and boto3 talk to the same services.

    AWS SDKs and Tools Reference Guide, "Service-specific endpoints".
    """
    if session.get_config_variable("ignore_configured_endpoint_urls"):
        return Endpoints()

    def provide(service: str) -> str | None:
        provider = ConfiguredEndpointProvider(
            full_config=session.full_config,
            scoped_config=session.get_scoped_config(),
            client_name=service,
        )
        url: str | None = provider.provide()
        return url

    return Endpoints(provide("kinesis"), provide("dynamodb"), provide("cloudwatch"))


def is_local(endpoint: str | None) -> bool:
    """Tell whether an endpoint is an engine of one's own; none at all is AWS."""
    return endpoint is not None and not is_aws_endpoint(endpoint)


def _plan(arguments: argparse.Namespace) -> Launch:
    session = botocore.session.Session()
    region = session.get_config_variable("region")
    if not region:
        raise SetupError("no AWS region is configured: set AWS_DEFAULT_REGION")
    endpoints = configured_endpoints(session)
    if is_local(endpoints.kinesis) and not endpoints.dynamodb:
        raise SetupError(
            f"Kinesis is {endpoints.kinesis}, but no endpoint is set for DynamoDB, so the leases"
            " would be kept in AWS: set AWS_ENDPOINT_URL_DYNAMODB or AWS_ENDPOINT_URL"
        )
    retention = _retention(arguments.stream)
    horizon = None if arguments.horizon_hours is None else arguments.horizon_hours * _HOUR
    work_dir = arguments.work_dir.absolute()
    sink = prepare_sink(arguments.sink, retention=retention, horizon=horizon)
    child = ["--sink", sink, "--work-dir", str(work_dir), "--worker-id", arguments.worker_id]
    child += ["--retention", str(retention), "--attempts", str(arguments.attempts)]
    if horizon is not None:
        child += ["--horizon", str(horizon)]
    return Launch(
        work_dir=work_dir,
        settings=WorkerSettings(
            stream=arguments.stream,
            application=arguments.application,
            worker_id=arguments.worker_id,
            region=region,
            command=COMMAND,
            endpoints=endpoints,
            tuning=arguments.tuning or ("local" if is_local(endpoints.kinesis) else "production"),
            initial_position=arguments.initial_position,
            overrides=dict(arguments.property),
        ),
        child=child,
        jvm=find_jvm(os.environ),
        jars=verified_jars(),
        heap=arguments.heap,
    )


def _retention(stream: str) -> float:
    config = Config(retries={"mode": "standard"}, connect_timeout=5, read_timeout=15)
    client = boto3.client("kinesis", config=config)
    summary = client.describe_stream_summary(StreamName=stream)["StreamDescriptionSummary"]
    return summary["RetentionPeriodHours"] * _HOUR


def _property(text: str) -> tuple[str, str]:
    key, found, value = text.partition("=")
    if not found or not key:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return key.strip(), value.strip()


def _worker_id(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("KCL would make one up, another after each restart")
    return text


def _attempts(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, at least 1")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    summary, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m consumers.kcl",
        description=summary,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--stream", required=True, help="the stream to read")
    add("--application", required=True, help="names the lease table; its workers share the shards")
    add(
        "--worker-id",
        required=True,
        type=_worker_id,
        help="the same after a restart; never two live ones",
    )
    add("--sink", required=True, help=f"{FORMS}, a sink of your own; see consumers/sinks/base.py")
    add("--work-dir", required=True, type=Path, help="this worker's folder, made if need be")
    add(
        "--initial-position",
        choices=["TRIM_HORIZON", "LATEST"],
        default="TRIM_HORIZON",
        help="where a shard without a checkpoint is begun (default TRIM_HORIZON, its oldest)",
    )
    _add_settings(parser)
    return parser


def _add_settings(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--tuning",
        choices=["local", "production"],
        help="default: local where the Kinesis endpoint is not one of AWS",
    )
    add(
        "--attempts",
        type=_attempts,
        default=6,
        help="how often a failing batch is tried (default 6)",
    )
    add(
        "--horizon-hours",
        type=float,
        help="how long record IDs are remembered (default: the stream's retention and a day)",
    )
    add("--heap", default="256m", help="the JVM's greatest heap (default 256m)")
    add(
        "--property",
        type=_property,
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any further property of KCL; may be repeated",
    )


if __name__ == "__main__":
    sys.exit(main())
