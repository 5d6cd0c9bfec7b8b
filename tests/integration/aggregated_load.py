"""A split and a merge under load, while everything else goes wrong as well."""

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from infra.proxy import control
from producers.aggregated import AggregatingProducer
from tests.integration.aggregated_support import (
    Put,
    client_of,
    merge,
    put_numbered,
    shard_id,
    split,
)
from tests.support import eventually

if TYPE_CHECKING:
    from types_boto3_kinesis import KinesisClient

MODES: dict[str, dict[str, Any]] = {
    "packed": {},
    "ordered": {"ordered": True},
    "ordered, same key": {"ordered": True, "same_key": True},
    "same key": {"same_key": True},
    "alone": {"aggregation": False},
}

PUTS = ["PutRecords"]
# Each with a count, so that the load goes on until all have struck and then has an end.
FAULTS: dict[str, dict[str, Any]] = {
    "lost": {"action": "lose", "operation": PUTS, "skip": 2, "count": 2},
    "reset-before": {"action": "reset-before", "operation": PUTS, "skip": 5, "count": 2},
    "reset-after": {"action": "reset-after", "operation": PUTS, "skip": 9, "count": 1},
    "error-500": {"action": "error", "operation": PUTS, "skip": 12, "count": 1},
    "error-503": {"action": "error", "status": 503, "operation": PUTS, "skip": 14, "count": 1},
    "throttled": {"action": "partial", "share": 0.5, "probability": 0.3, "count": 3},
    "failed": {
        "action": "partial",
        "share": 1.0,
        "code": "InternalFailure",
        "skip": 4,
        "count": 2,
    },
    "slow": {"action": "delay", "seconds": 0.2, "operation": PUTS, "skip": 3, "count": 3},
    "no-list": {"action": "error", "operation": ["ListShards"], "skip": 1, "count": 1},
}
# For a shard that is there only after the split.
HOT: dict[str, Any] = {"action": "throttle", "shard": shard_id(1), "seconds": 1.0, "count": 1}
# Far more than the reshard takes anywhere; only so that a test comes to an end.
MOST = 40_000


@dataclass
class Load:
    """What was put while the shards changed.

    Attributes:
        puts: All of it.
        shards: The shards that took records.
        struck: How many records or calls each fault has struck.
    """

    puts: list[Put]
    shards: set[str]
    struck: dict[str, int]


def reshard_under_load(
    kinesis: "KinesisClient", proxy_url: str, stream: str, mode: str, *, burst: int = 50
) -> Load:
    """Put records through a proxy while the only shard is split and its children are merged.

    Args:
        kinesis: Leads to the engine, past the proxy.
        proxy_url: Where the faults are to strike.
        stream: A new stream of one shard.
        mode: One of `MODES`.
        burst: How many records are put at once; the last of them is waited for.
    """
    for name, fault in FAULTS.items():
        control.add(proxy_url, name=name, stream=stream, **fault)
    load = Load([], set(), {})
    enough = threading.Event()
    settings = {"linger": 0.02, "max_aggregate_bytes": 2000, "max_record_age": 120.0}
    with AggregatingProducer(
        client_of(proxy_url), stream, **{**settings, **MODES[mode]}
    ) as producer:
        # A closed loop: as much as the engine takes, and no more.
        def feed() -> None:
            while not enough.is_set() and len(load.puts) < MOST:
                numbers = range(len(load.puts), len(load.puts) + burst)
                puts = put_numbered(producer, numbers)
                load.puts += puts
                load.shards |= {put.future.result(60).shard_id for put in puts}

        feeder = threading.Thread(target=feed)
        feeder.start()
        try:
            _reshard(kinesis, proxy_url, stream, load)
        finally:
            enough.set()
            feeder.join(90)
        assert not feeder.is_alive()
    load.struck = struck(proxy_url)
    return load


def struck(proxy_url: str) -> dict[str, int]:
    by_name = control.status(proxy_url)["faults"]["by_name"]
    return {name: row["affected"] for name, row in by_name.items()}


def _reshard(kinesis: "KinesisClient", proxy_url: str, stream: str, load: Load) -> None:
    """Change the shards, each time when the records have come to all of those there are."""

    def in_use(*numbers: int) -> bool:
        return load.shards >= {shard_id(n) for n in numbers}

    eventually(lambda: len(load.puts) > 200)
    split(kinesis, stream)
    eventually(lambda: in_use(0, 1, 2), timeout=60)
    control.add(proxy_url, name="hot", stream=stream, **HOT)
    eventually(lambda: struck(proxy_url)["hot"], timeout=60)
    merge(kinesis, stream, 1, 2)
    eventually(lambda: in_use(3), timeout=60)
    eventually(lambda: all(struck(proxy_url).values()), timeout=60)
