"""The metrics of a real producer, as a Prometheus server reads them, and as CloudWatch does."""

import io
import json
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from producers.aggregated import AggregatingProducer
from producers.aggregated.emf import EmfWriter
from producers.aggregated.metrics import Metrics, MetricsSnapshot
from producers.aggregated.prometheus import ProducerCollector

if TYPE_CHECKING:
    from types_boto3_kinesis import KinesisClient

Streams = Callable[..., str]
OF_KPL = (
    "UserRecordsReceived",
    "UserRecordsPending",
    "UserRecordsPut",
    "UserRecordsDataPut",
    "UserRecordExpired",
    "KinesisRecordsPut",
    "KinesisRecordsDataPut",
    "ErrorsByCode",
    "AllErrors",
    "RetriesPerRecord",
    "BufferingTime",
    "RequestTime",
    "UserRecordsPerKinesisRecord",
    "KinesisRecordsPerPutRecordsRequest",
    "UserRecordsPerPutRecordsRequest",
)
OPEN_METRICS = "application/openmetrics-text; version=1.0.0"


class Scraped:
    """What one scrape gave."""

    def __init__(self, families: list[Metric]) -> None:
        self.families = {family.name: family for family in families}
        self.samples = [sample for family in families for sample in family.samples]

    def values(self, name: str, label: str, **labels: str) -> dict[str, float]:
        """Samples of a name with these labels, by what they have in one other label."""
        return {
            sample.labels[label]: sample.value
            for sample in self.samples
            if sample.name == f"kinesis_producer_{name}" and labels.items() <= sample.labels.items()
        }

    def value(self, name: str, **labels: str) -> float:
        [value] = self.values(name, "stream", **labels).values()
        return value


@contextmanager
def exposed(collector: ProducerCollector) -> Iterator[Callable[..., Scraped]]:
    """Serve a collector as an application would; scrape by calling what this returns."""
    registry = CollectorRegistry(auto_describe=True)
    registry.register(collector)
    server, thread = start_http_server(0, addr="127.0.0.1", registry=registry)

    def scrape(accept: str = "text/plain") -> Scraped:
        url = f"http://127.0.0.1:{server.server_port}/metrics"
        with urllib.request.urlopen(urllib.request.Request(url, headers={"Accept": accept})) as got:
            text = got.read().decode()
        # The strict reader of OpenMetrics refuses names and buckets that break its rules.
        strict = accept == OPEN_METRICS
        assert text.endswith("# EOF\n") == strict
        read: Any = (
            openmetrics.text_string_to_metric_families if strict else text_string_to_metric_families
        )
        return Scraped(list(read(text)))

    try:
        yield scrape
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def settled(producer: AggregatingProducer, start: int, count: int) -> None:
    futures = [producer.put(f"key-{n}", b"x" * 50) for n in range(start, start + count)]
    for future in futures:
        future.result(timeout=60)


@pytest.mark.parametrize("accept", ["text/plain", OPEN_METRICS])
def test_a_scrape_shows_what_a_real_producer_put(
    kinesis: "KinesisClient", stream: Streams, accept: str
):
    name = stream(shards=2)
    with (
        AggregatingProducer(kinesis, name, linger=0.01, record_ids=False) as producer,
        exposed(ProducerCollector({name: producer.metrics})) as scrape,
    ):
        assert scrape(accept).value("user_records_received_total", stream=name) == 0
        settled(producer, 0, 300)
        first = scrape(accept)
        settled(producer, 300, 100)
        second = scrape(accept)
    for scraped, count in ((first, 300), (second, 400)):
        assert scraped.value("user_records_received_total") == count
        assert scraped.value("user_bytes_received_total") >= 50 * count
        assert scraped.value("user_records_pending") == scraped.value("buffer_bytes") == 0
        put = scraped.values("user_records_put_total", "shard", stream=name)
        assert set(put) == {"shardId-000000000000", "shardId-000000000001"}
        assert min(put.values()) > 0
        assert sum(put.values()) == count
        sizes = scraped.values("user_bytes_put_total", "shard")
        assert sum(sizes.values()) == scraped.value("user_bytes_received_total")
        assert scraped.values("errors_total", "code") == {}
        assert scraped.value("buffering_seconds_count") == count
        assert scraped.values("user_record_retries_bucket", "le")["0.0"] == count
        records = sum(scraped.values("kinesis_records_put_total", "shard").values())
        assert scraped.value("user_records_per_kinesis_record_count") == records
        assert scraped.value("user_records_per_kinesis_record_sum") == count
        assert scraped.value("kinesis_records_per_request_sum") == records
        assert scraped.value("user_records_per_request_sum") == count
        assert 0 < scraped.value("request_seconds_sum") < 60
        assert set(scraped.values("limiter_share_ratio", "shard").values()) == {1.0}


def counted() -> MetricsSnapshot:
    metrics = Metrics()
    metrics.record_failed("s0", "ProvisionedThroughputExceededException", 3)
    metrics.record_failed("s1", "WrongShard")
    metrics.given_up("RecordExpired", 4)
    metrics.request_answered(kinesis_records=2, user_records=20, seconds=0.0011)
    metrics.request_answered(kinesis_records=2, user_records=20, seconds=1_000.0)
    return metrics.snapshot(
        now_wall=0.0,
        received=24,
        received_bytes=2_400,
        pending=3,
        pending_bytes=333,
        shares={"s0": 0.25},
    )


def test_errors_and_shares_have_the_shard_and_the_code_as_labels():
    with exposed(ProducerCollector({"readings": counted})) as scrape:
        scraped = scrape(OPEN_METRICS)
    labels = {"stream": "readings", "shard": "s0"}
    assert scraped.values("errors_total", "code", **labels) == {
        "ProvisionedThroughputExceededException": 3
    }
    assert scraped.values("errors_total", "code", shard="s1") == {"WrongShard": 1}
    assert scraped.values("user_records_given_up_total", "code") == {"RecordExpired": 4}
    assert scraped.value("limiter_share_ratio", **labels) == 0.25
    assert scraped.value("user_records_pending") == 3
    assert scraped.value("buffer_bytes") == 333
    buckets = scraped.values("request_seconds_bucket", "le")
    assert (buckets["0.001"], buckets["0.0015"], buckets["65.536"], buckets["+Inf"]) == (0, 1, 1, 2)


def test_several_producers_are_told_apart_and_every_name_has_its_help_and_prefix():
    with exposed(ProducerCollector({"one": counted, "two": counted})) as scrape:
        scraped = scrape()
    assert scraped.values("user_records_received_total", "stream") == {"one": 24, "two": 24}
    assert scraped.families
    assert all(name.startswith("kinesis_producer_") for name in scraped.families)
    helps = {name: family.documentation for name, family in scraped.families.items()}
    assert all(text.endswith(".") for text in helps.values())
    ours = {name for name, text in helps.items() if not any(each in text for each in OF_KPL)}
    assert ours == {
        "kinesis_producer_user_bytes_received",
        "kinesis_producer_buffer_bytes",
        "kinesis_producer_limiter_share_ratio",
    }
    assert all(any(each in text for text in helps.values()) for each in OF_KPL)


def test_to_register_asks_no_producer_and_the_same_names_are_refused_twice():
    def asked() -> MetricsSnapshot:
        raise AssertionError("nobody scraped")

    registry = CollectorRegistry(auto_describe=True)
    registry.register(ProducerCollector({"one": asked}))
    with pytest.raises(ValueError, match="Duplicated"):
        registry.register(ProducerCollector({"two": asked}))


def test_a_real_producer_writes_its_embedded_metrics(kinesis: "KinesisClient", stream: Streams):
    name = stream()
    file = io.StringIO()
    write = EmfWriter(file, stream=name)
    wrote = threading.Event()

    def tell(snapshot: MetricsSnapshot) -> None:
        write(snapshot)
        wrote.set()

    with AggregatingProducer(kinesis, name, on_metrics=tell, metrics_interval=0.05) as producer:
        settled(producer, 0, 100)
        assert wrote.wait(30)
        settled(producer, 100, 100)
    lines = [json.loads(line) for line in file.getvalue().splitlines()]
    streams = [line for line in lines if "UserRecordsReceived" in line]
    shards = [line for line in lines if "ShardId" in line]
    # Each interval has its own; together they are what was put.
    assert len(streams) > 1
    for metric in ("UserRecordsReceived", "UserRecordsPut"):
        assert sum(line[metric] for line in streams) == 200
    assert sum(line["UserRecordsPut"] for line in shards) == 200
    assert {line["StreamName"] for line in lines} == {name}
