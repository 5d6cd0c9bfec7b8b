"""The numbers of a producer for Prometheus: they are read when somebody scrapes, and never kept.

    from prometheus_client import REGISTRY, start_http_server

    REGISTRY.register(ProducerCollector({"readings": producer.metrics}))
    start_http_server(9100)

The help text of each that the KPL has too gives its name there; `metrics` says what is counted.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from producers.aggregated.metrics import Distribution, MetricsSnapshot, ShardMetrics

_PREFIX: Final = "kinesis_producer_"

# What there is of a stream: the name, the help, and where to read it.
_COUNTERS: Final[tuple[tuple[str, str, Callable[[MetricsSnapshot], int]], ...]] = (
    (
        "user_records_received",
        "User records that put() took (UserRecordsReceived).",
        lambda now: now.user_records_received,
    ),
    (
        "user_bytes_received",
        "The data and keys of the user records that put() took, in bytes.",
        lambda now: now.user_bytes_received,
    ),
)
_GAUGES: Final[tuple[tuple[str, str, Callable[[MetricsSnapshot], int]], ...]] = (
    (
        "user_records_pending",
        "User records that are not settled (UserRecordsPending).",
        lambda now: now.user_records_pending,
    ),
    (
        "buffer_bytes",
        "What the user records that are not settled take of the buffer.",
        lambda now: now.user_bytes_pending,
    ),
)
_HISTOGRAMS: Final[tuple[tuple[str, str, Callable[[MetricsSnapshot], Distribution]], ...]] = (
    (
        "request_seconds",
        "Duration of each PutRecords request (RequestTime).",
        lambda now: now.request_time,
    ),
    (
        "kinesis_records_per_request",
        "Kinesis records in each PutRecords request (KinesisRecordsPerPutRecordsRequest).",
        lambda now: now.kinesis_records_per_request,
    ),
    (
        "user_records_per_request",
        "User records in each PutRecords request (UserRecordsPerPutRecordsRequest).",
        lambda now: now.user_records_per_request,
    ),
    (
        "buffering_seconds",
        "Time of each user record that was sent, from put() to the first attempt (BufferingTime).",
        lambda now: now.total.buffering_time,
    ),
    (
        "user_record_retries",
        "Retries of each user record that was sent, confirmed or given up (RetriesPerRecord).",
        lambda now: now.total.retries_per_record,
    ),
    (
        "user_records_per_kinesis_record",
        "User records in each Kinesis record confirmed (UserRecordsPerKinesisRecord).",
        lambda now: now.total.user_records_per_kinesis_record,
    ),
)
# What there is of each shard. The sum over the shards is the stream's.
_SHARD_COUNTERS: Final[tuple[tuple[str, str, Callable[[ShardMetrics], int]], ...]] = (
    (
        "user_records_put",
        "User records that were confirmed (UserRecordsPut).",
        lambda shard: shard.user_records_put,
    ),
    (
        "user_bytes_put",
        "The data and keys of the user records that were confirmed (UserRecordsDataPut).",
        lambda shard: shard.user_bytes_put,
    ),
    (
        "kinesis_records_put",
        "Kinesis records that were confirmed (KinesisRecordsPut).",
        lambda shard: shard.kinesis_records_put,
    ),
    (
        "kinesis_bytes_put",
        "The data of the Kinesis records that were confirmed (KinesisRecordsDataPut).",
        lambda shard: shard.kinesis_bytes_put,
    ),
)


class ProducerCollector(Collector):
    """Turns producers' metrics into what `prometheus_client` exposes, at each scrape.

    Args:
        producers: For each stream name, what returns the metrics of its producer: its `metrics`.
    """

    def __init__(self, producers: Mapping[str, Callable[[], MetricsSnapshot]]) -> None:
        self._producers = dict(producers)

    def collect(self) -> Iterator[Metric]:
        """Return what the producers have counted so far."""
        snapshots = [(stream, metrics()) for stream, metrics in self._producers.items()]
        return _families(snapshots)

    def describe(self) -> Iterator[Metric]:
        """Return the names alone, so that registering asks no producer."""
        return _families([])


_Snapshots = list[tuple[str, MetricsSnapshot]]


def _families(snapshots: _Snapshots) -> Iterator[Metric]:
    for name, text, read in _COUNTERS:
        yield _filled(
            CounterMetricFamily(_PREFIX + name, text, labels=["stream"]),
            (((stream,), read(now)) for stream, now in snapshots),
        )
    for name, text, read in _GAUGES:
        yield _filled(
            GaugeMetricFamily(_PREFIX + name, text, labels=["stream"]),
            (((stream,), read(now)) for stream, now in snapshots),
        )
    yield _filled(
        CounterMetricFamily(
            f"{_PREFIX}user_records_given_up",
            "User records handed back with a DeliveryError; RecordExpired is UserRecordExpired.",
            labels=["stream", "code"],
        ),
        (
            ((stream, code), count)
            for stream, now in snapshots
            for code, count in now.user_records_given_up.items()
        ),
    )
    yield from _of_shards(snapshots)
    for name, text, distribution in _HISTOGRAMS:
        histogram = HistogramMetricFamily(_PREFIX + name, text, labels=["stream"])
        for stream, now in snapshots:
            values = distribution(now)
            histogram.add_metric([stream], _cumulative(values), values.sum)
        yield histogram


def _of_shards(snapshots: _Snapshots) -> Iterator[Metric]:
    shards = [
        (stream, shard_id, shard)
        for stream, now in snapshots
        for shard_id, shard in now.shards.items()
    ]
    for name, text, read in _SHARD_COUNTERS:
        yield _filled(
            CounterMetricFamily(_PREFIX + name, text, labels=["stream", "shard"]),
            (((stream, shard_id), read(shard)) for stream, shard_id, shard in shards),
        )
    yield _filled(
        CounterMetricFamily(
            f"{_PREFIX}errors",
            "Attempts of Kinesis records that failed (ErrorsByCode, AllErrors).",
            labels=["stream", "shard", "code"],
        ),
        (
            ((stream, shard_id, code), count)
            for stream, shard_id, shard in shards
            for code, count in shard.errors.items()
        ),
    )
    yield _filled(
        GaugeMetricFamily(
            f"{_PREFIX}limiter_share_ratio",
            "What the limiter uses of the producer's full share of the shard's quota.",
            labels=["stream", "shard"],
        ),
        (
            ((stream, shard_id), share)
            for stream, now in snapshots
            for shard_id, share in now.shares.items()
        ),
    )


def _filled(
    family: CounterMetricFamily | GaugeMetricFamily,
    values: Iterable[tuple[tuple[str, ...], float]],
) -> Metric:
    for labels, value in values:
        family.add_metric(labels, value)
    return family


def _cumulative(values: Distribution) -> list[Any]:
    buckets = []
    total = 0
    for bound, count in zip((*values.bounds, float("inf")), values.counts, strict=True):
        total += count
        buckets.append(("+Inf" if bound == float("inf") else str(bound), total))
    return buckets
