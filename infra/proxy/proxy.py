"""The proxy as a whole: servers, pipeline and upstream put together, and what it says of itself."""

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from infra.proxy.control_endpoint import CONTROL_PREFIX, answer_control
from infra.proxy.desk import Desk
from infra.proxy.exchange import Incoming, Reply, send
from infra.proxy.faults import FaultPlan
from infra.proxy.pipeline import Pipeline
from infra.proxy.quotas.dynamodb import DynamoQuotas
from infra.proxy.quotas.iterators import Iterators
from infra.proxy.quotas.kinesis import KinesisQuotas
from infra.proxy.quotas.subscriptions import Subscriptions
from infra.proxy.scenario import Scenario, load
from infra.proxy.serve.budget import BodyBudget
from infra.proxy.serve.listen import listening
from infra.proxy.serve.tls import throw_away_identity
from infra.proxy.settings import ProxySettings
from infra.proxy.upstream import Upstream


@dataclass(frozen=True, slots=True)
class RunningProxy:
    """A proxy that listens.

    Attributes:
        url: For plain HTTP/1.1 and HTTP/2.
        tls_url: For the same over TLS, or None.
        desk: What it works with.
        upstream_url: The engine behind it.
    """

    url: str
    tls_url: str | None
    desk: Desk
    upstream_url: str

    def status(self) -> dict[str, Any]:
        """Return everything countable, ready for JSON."""
        return status_of(self.desk, self.upstream_url)


def status_of(desk: Desk, upstream_url: str) -> dict[str, Any]:
    """Return what a proxy says of itself."""
    tally = desk.tally
    operations = sorted({*tally.requests, *tally.refused})
    faults = desk.faults.status()
    shards = [] if desk.quotas is None else _rows(desk.quotas)
    return {
        "upstream": upstream_url,
        "requests": tally.requests.total(),
        "operations": {
            name: {"requests": tally.requests[name], "refused": tally.refused[name]}
            for name in operations
        },
        "lost": faults["lost"],
        "throttled": desk.faults.throttled_total
        + (0 if desk.quotas is None else desk.quotas.throttled),
        "upstream_errors": tally.upstream_errors,
        "corrections": {name: tally.corrected[name] for name in sorted(desk.corrections)},
        "faults": faults,
        "shards": shards,
        "tables": [] if desk.dynamo is None else desk.dynamo.rows(),
    }


def _rows(quotas: KinesisQuotas) -> list[dict[str, Any]]:
    return [
        {
            "stream": row.stream[1],
            "shard": row.shard_id,
            "records_per_second": row.records_per_second,
            "bytes_per_second": row.bytes_per_second,
            "reads_per_second": row.reads_per_second,
            "read_bytes_per_second": row.read_bytes_per_second,
            "admitted": row.admitted,
            "throttled": row.throttled,
        }
        for row in quotas.rows()
    ]


@asynccontextmanager
async def running_proxy(settings: ProxySettings) -> AsyncIterator[RunningProxy]:
    """Run a proxy for the length of an `async with` block.

    Args:
        settings: How it is to behave.

    Raises:
        AwsRefusedError: The upstream is AWS, or no http(s) URL.
        ScenarioError: The scenario cannot be used.
        OSError: The port is taken, or the certificate cannot be written.
    """
    scenario = load(settings.scenario) if settings.scenario else Scenario()
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(Upstream(settings.upstream))
        desk = _desk(settings, scenario, upstream)
        pipeline = Pipeline(desk)
        status = partial(status_of, desk, settings.upstream)

        async def handle(incoming: Incoming, reply: Reply) -> None:
            if incoming.path.startswith(CONTROL_PREFIX):
                answer = answer_control(incoming, plan=desk.faults, status=status)
                await send(answer, reply)
            else:
                await pipeline.handle(incoming, reply)

        budget = BodyBudget()
        plain = await stack.enter_async_context(
            listening(handle, host=settings.host, port=settings.port, budget=budget)
        )
        secure = None
        if settings.tls:
            identity = throw_away_identity(settings.host)
            if settings.ca_file is not None:
                settings.ca_file.write_bytes(identity.ca_pem)
            secure = await stack.enter_async_context(
                listening(
                    handle,
                    host=settings.host,
                    port=settings.tls_port,
                    tls=identity,
                    budget=budget,
                )
            )
        yield RunningProxy(
            plain.url, None if secure is None else secure.url, desk, settings.upstream
        )


def _desk(settings: ProxySettings, scenario: Scenario, upstream: Upstream) -> Desk:
    clock = time.monotonic
    seed = scenario.seed if settings.seed is None else settings.seed
    faults = FaultPlan(seed=seed, clock=clock)
    faults.add(*scenario.faults)
    return Desk(
        clock=clock,
        upstream=upstream,
        faults=faults,
        corrections=settings.corrections,
        iterators=Iterators(clock, time_scale=settings.time_scale),
        subscriptions=Subscriptions(clock, time_scale=settings.time_scale),
        quotas=KinesisQuotas(clock, time_scale=settings.time_scale) if settings.quotas else None,
        dynamo=DynamoQuotas(clock) if settings.quotas else None,
    )
