"""What `EmfWriter` writes, held against the specification of the Embedded Metric Format."""

import io
import json
import re
from typing import Any

import pytest

from producers.aggregated.emf import EmfWriter
from producers.aggregated.metrics import Metrics, MetricsSnapshot

UNITS = re.compile(
    "((Kilo|Mega|Giga|Tera)?(bits|bytes)(/Second)?|(Milli|Micro)?seconds|Percent|Count(/Second)?"
    "|None)",
    re.IGNORECASE,
)
# The name and the unit of each metric of the KPL that has the stream as a dimension.
OF_KPL = {
    "UserRecordsReceived": "Count",
    "UserRecordsPending": "Count",
    "UserRecordsPut": "Count",
    "UserRecordsDataPut": "Bytes",
    "KinesisRecordsPut": "Count",
    "KinesisRecordsDataPut": "Bytes",
    "AllErrors": "Count",
    "RetriesPerRecord": "Count",
    "BufferingTime": "Milliseconds",
    "RequestTime": "Milliseconds",
    "UserRecordsPerKinesisRecord": "Count",
    "KinesisRecordsPerPutRecordsRequest": "Count",
    "UserRecordsPerPutRecordsRequest": "Count",
    "UserRecordExpired": "Count",
}


def put(metrics: Metrics, shard_id: str = "s0", retries: int = 0) -> None:
    metrics.record_put(shard_id, user_records=10, user_bytes=1_000, wire_bytes=1_200)
    metrics.settled(
        shard_id,
        user_records=10,
        retries=retries,
        buffered_mean=0.05,
        buffered_min=0.01,
        buffered_max=0.09,
    )


def snapshot(metrics: Metrics, at: float = 1_700_000_000.5, received: int = 0) -> MetricsSnapshot:
    return metrics.snapshot(
        now_wall=at,
        received=received,
        received_bytes=100 * received,
        pending=3,
        pending_bytes=333,
        shares={"s0": 0.25},
    )


def written(file: io.StringIO) -> list[dict[str, Any]]:
    lines = file.getvalue().splitlines()
    file.seek(0)
    file.truncate()
    documents = [json.loads(line) for line in lines]
    for line, document in zip(lines, documents, strict=True):
        assert len(line.encode()) < 1_000_000
        check(document)
    return documents


def check(document: dict[str, Any]) -> None:
    """Every rule that the specification has."""
    metadata = document["_aws"]
    assert set(metadata) == {"Timestamp", "CloudWatchMetrics"}
    assert type(metadata["Timestamp"]) is int
    for directive in metadata["CloudWatchMetrics"]:
        assert set(directive) == {"Namespace", "Dimensions", "Metrics"}
        assert 1 <= len(directive["Namespace"]) <= 1024
        assert directive["Dimensions"]
        for dimensions in directive["Dimensions"]:
            assert len(dimensions) <= 30
            for name in dimensions:
                assert 1 <= len(name) <= 250
                assert isinstance(document[name], str)
                assert 1 <= len(document[name]) <= 1024
        assert 1 <= len(directive["Metrics"]) <= 100
        for metric in directive["Metrics"]:
            assert set(metric) == {"Name", "Unit"}
            assert 1 <= len(metric["Name"]) <= 1024
            assert UNITS.fullmatch(metric["Unit"])
            check_target(document[metric["Name"]])


def check_target(target: Any) -> None:
    """A number, or the values and counts that AWS's own library writes."""
    if not isinstance(target, dict):
        assert type(target) in {int, float}
        return
    assert set(target) == {"Values", "Counts", "Min", "Max", "Count", "Sum"}
    values, counts = target["Values"], target["Counts"]
    assert 1 <= len(values) == len(counts) <= 100
    assert all(type(count) is int and count > 0 for count in counts)
    assert values == sorted(values)
    assert (target["Min"], target["Max"]) == (values[0], values[-1])
    assert target["Count"] == sum(counts)
    products = [value * count for value, count in zip(values, counts, strict=True)]
    assert target["Sum"] == pytest.approx(sum(products))


def of(documents: list[dict[str, Any]], *dimensions: str) -> list[dict[str, Any]]:
    return [
        document
        for document in documents
        if document["_aws"]["CloudWatchMetrics"][0]["Dimensions"] == [["StreamName", *dimensions]]
    ]


def busy() -> Metrics:
    metrics = Metrics()
    put(metrics, "s0")
    put(metrics, "s1", retries=3)
    metrics.record_failed("s1", "ProvisionedThroughputExceededException", 3)
    metrics.record_failed("s1", "WrongShard")
    metrics.request_answered(kinesis_records=2, user_records=20, seconds=0.05)
    metrics.given_up("RecordExpired", 4)
    return metrics


def test_the_stream_has_the_metrics_of_the_kpl_in_its_units():
    file = io.StringIO()
    EmfWriter(file, stream="readings")(snapshot(busy(), received=24))
    [line] = of(written(file))
    assert line["_aws"]["Timestamp"] == 1_700_000_000_500
    [directive] = line["_aws"]["CloudWatchMetrics"]
    assert directive["Namespace"] == "KinesisProducerLibrary"
    assert line["StreamName"] == "readings"
    units = {metric["Name"]: metric["Unit"] for metric in directive["Metrics"]}
    assert units == OF_KPL | {"BufferedBytes": "Bytes", "UserRecordsGivenUp": "Count"}
    assert line["UserRecordsReceived"] == 24
    assert line["UserRecordsPending"] == 3
    assert line["BufferedBytes"] == 333
    assert line["UserRecordsPut"] == 20
    assert line["UserRecordsDataPut"] == 2_000
    assert line["KinesisRecordsPut"] == 2
    assert line["KinesisRecordsDataPut"] == 2_400
    assert line["AllErrors"] == 4
    assert line["UserRecordExpired"] == line["UserRecordsGivenUp"] == 4
    assert line["RetriesPerRecord"]["Values"] == [0, 3]
    assert line["RetriesPerRecord"]["Counts"] == [10, 10]
    assert line["RequestTime"]["Values"] == [50.0]
    assert line["BufferingTime"]["Values"] == [10.0, 50.0, 90.0]
    assert line["BufferingTime"]["Counts"] == [2, 16, 2]
    assert line["BufferingTime"]["Sum"] == 1_000.0
    assert line["UserRecordsPerKinesisRecord"]["Values"] == [10.0]


def test_each_shard_and_each_code_has_a_line_of_its_own():
    file = io.StringIO()
    EmfWriter(file, namespace="Mine", stream="readings")(snapshot(busy()))
    documents = written(file)
    assert len(documents) == 5
    first, second = of(documents, "ShardId")
    assert (first["ShardId"], second["ShardId"]) == ("s0", "s1")
    assert [line["UserRecordsPut"] for line in (first, second)] == [10, 10]
    assert [line["AllErrors"] for line in (first, second)] == [0, 4]
    assert first["LimiterShare"] == 25.0
    assert "LimiterShare" not in second
    codes = {line["ErrorCode"]: line["ErrorsByCode"] for line in of(documents, "ErrorCode")}
    assert codes == {"ProvisionedThroughputExceededException": 3, "WrongShard": 1}
    for document in documents:
        assert document["_aws"]["CloudWatchMetrics"][0]["Namespace"] == "Mine"
        assert document["StreamName"] == "readings"


def test_a_call_writes_what_is_new_since_the_call_before():
    file, metrics = io.StringIO(), busy()
    write = EmfWriter(file, stream="readings")
    write(snapshot(metrics, received=24))
    written(file)
    put(metrics, "s1")
    write(snapshot(metrics, at=1_700_000_060.0, received=34))
    documents = written(file)
    [stream] = of(documents)
    assert stream["_aws"]["Timestamp"] == 1_700_000_060_000
    assert stream["UserRecordsReceived"] == stream["UserRecordsPut"] == 10
    assert stream["AllErrors"] == stream["UserRecordExpired"] == 0
    assert stream["UserRecordsPending"] == 3  # as it is, no difference
    assert "RequestTime" not in stream  # there was no request, so there is no time of one
    assert [line["ShardId"] for line in of(documents, "ShardId")] == ["s1"]
    assert of(documents, "ErrorCode") == []
    write(snapshot(metrics, at=1_700_000_120.0, received=34))
    [quiet] = written(file)
    assert quiet["UserRecordsPut"] == 0


def test_a_shard_that_only_refuses_has_a_line_too():
    file, metrics = io.StringIO(), Metrics()
    metrics.record_failed("s7", "InternalFailure")
    EmfWriter(file, stream="readings")(snapshot(metrics))
    [line] = of(written(file), "ShardId")
    assert (line["ShardId"], line["AllErrors"], line["UserRecordsPut"]) == ("s7", 1, 0)


def test_shards_may_be_left_out():
    file = io.StringIO()
    EmfWriter(file, stream="readings", shards=False)(snapshot(busy()))
    documents = written(file)
    assert of(documents, "ShardId") == []
    assert len(of(documents)) == 1
    assert len(of(documents, "ErrorCode")) == 2


def test_the_fullest_line_that_there_can_be_is_within_the_limits():
    file, metrics = io.StringIO(), Metrics()
    for step in range(40):
        value = 1.5**step
        metrics.record_put("s0", user_records=round(value), user_bytes=10**15, wire_bytes=10**15)
        metrics.settled(
            "s0",
            user_records=round(value),
            retries=round(value),
            buffered_mean=value / 1000,
            buffered_min=0.0,
            buffered_max=value / 500,
        )
        metrics.request_answered(
            kinesis_records=round(value), user_records=round(value), seconds=value / 1000
        )
    EmfWriter(file, stream="s" * 128)(snapshot(metrics))
    lines = file.getvalue().splitlines()
    assert max(map(len, lines)) < 20_000
    assert len(of(written(file))[0]["RequestTime"]["Values"]) > 25


def test_the_lines_are_flushed():
    class File(io.StringIO):
        flushed = ""

        def flush(self) -> None:
            self.flushed = self.getvalue()

    file = File()
    EmfWriter(file, stream="readings")(snapshot(busy()))
    assert file.flushed.endswith("}\n")
    assert file.flushed.count("\n") == 5
