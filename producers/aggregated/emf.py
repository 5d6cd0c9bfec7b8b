"""The numbers of a producer for CloudWatch: as lines of a log, in the Embedded Metric Format.

    AggregatingProducer(client, "readings", on_metrics=EmfWriter(sys.stdout, stream="readings"))

In AWS Lambda the log is standard output; elsewhere the CloudWatch agent reads a file of such lines.
The namespace, the metrics and their units are those of the KPL: dashboards and alarms for a stream,
one of its shards or an error code keep working. `metrics` says what is counted otherwise.

AWS: Amazon CloudWatch User Guide, Specification: Embedded metric format.
https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
A distribution is written as values and counts, as AWS's own library does (its class `Histogram`):
each value is the mean of those that fell in one bucket of `Distribution`.
https://github.com/awslabs/aws-embedded-metrics-java
"""

import json
from collections.abc import Iterator, Mapping
from typing import Final, TextIO

from producers.aggregated.metrics import Distribution, MetricsSnapshot, ShardMetrics

_MILLISECONDS: Final = 1000.0

# The value of a metric in the log, and its unit.
_Metrics = dict[str, tuple[object, str]]


class EmfWriter:
    """Writes what happened since the last time, once for each call. Made for `on_metrics`.

    A call writes a line for the stream, one for each shard that had something to do in the interval
    and one for each error code that came in it. CloudWatch bills each metric of each shard; a
    stream of many shards may do without them.

    Args:
        file: Where the lines go. They are flushed.
        namespace: The namespace of the metrics in CloudWatch, 1 to 1,024 characters.
        stream: The name of the stream, which is the dimension StreamName.
        shards: Whether the shards get lines of their own.
    """

    __slots__ = ("_before", "_file", "_namespace", "_shards", "_stream")

    def __init__(
        self,
        file: TextIO,
        *,
        namespace: str = "KinesisProducerLibrary",
        stream: str,
        shards: bool = True,
    ) -> None:
        self._file = file
        self._namespace = namespace
        self._stream = stream
        self._shards = shards
        self._before: MetricsSnapshot | None = None

    def __call__(self, snapshot: MetricsSnapshot) -> None:
        """Write the difference to the snapshot before; of the first one, all.

        Raises:
            OSError: The file cannot be written.
        """
        interval = snapshot if self._before is None else snapshot - self._before
        self._before = snapshot
        self._file.write("".join(f"{line}\n" for line in self._lines(interval)))
        self._file.flush()

    def _lines(self, interval: MetricsSnapshot) -> Iterator[str]:
        yield self._line(interval.at, {}, _of_stream(interval))
        for code, count in interval.total.errors.items():
            metrics: _Metrics = {"ErrorsByCode": (count, "Count")}
            yield self._line(interval.at, {"ErrorCode": code}, metrics)
        for shard_id, shard in interval.shards.items() if self._shards else ():
            if shard.kinesis_records_put or shard.errors:
                metrics = _of_shard(shard)
                if shard_id in interval.shares:
                    metrics["LimiterShare"] = (100 * interval.shares[shard_id], "Percent")
                yield self._line(interval.at, {"ShardId": shard_id}, metrics)

    def _line(self, at: float, dimensions: Mapping[str, str], metrics: _Metrics) -> str:
        members = {"StreamName": self._stream, **dimensions}
        directive = {
            "Namespace": self._namespace,
            "Dimensions": [list(members)],
            "Metrics": [{"Name": name, "Unit": unit} for name, (_, unit) in metrics.items()],
        }
        document = {
            "_aws": {"Timestamp": int(at * 1000), "CloudWatchMetrics": [directive]},
            **members,
            **{name: value for name, (value, _) in metrics.items()},
        }
        return json.dumps(document, separators=(",", ":"))


def _of_stream(interval: MetricsSnapshot) -> _Metrics:
    metrics: _Metrics = {
        "UserRecordsReceived": (interval.user_records_received, "Count"),
        "UserRecordsPending": (interval.user_records_pending, "Count"),
        "UserRecordExpired": (interval.user_records_expired, "Count"),
        "UserRecordsGivenUp": (sum(interval.user_records_given_up.values()), "Count"),
        "BufferedBytes": (interval.user_bytes_pending, "Bytes"),
    }
    _put(metrics, "RequestTime", interval.request_time, "Milliseconds", _MILLISECONDS)
    _put(metrics, "KinesisRecordsPerPutRecordsRequest", interval.kinesis_records_per_request)
    _put(metrics, "UserRecordsPerPutRecordsRequest", interval.user_records_per_request)
    return metrics | _of_shard(interval.total)


def _of_shard(shard: ShardMetrics) -> _Metrics:
    metrics: _Metrics = {
        "UserRecordsPut": (shard.user_records_put, "Count"),
        "UserRecordsDataPut": (shard.user_bytes_put, "Bytes"),
        "KinesisRecordsPut": (shard.kinesis_records_put, "Count"),
        "KinesisRecordsDataPut": (shard.kinesis_bytes_put, "Bytes"),
        "AllErrors": (shard.all_errors, "Count"),
    }
    _put(metrics, "RetriesPerRecord", shard.retries_per_record)
    _put(metrics, "BufferingTime", shard.buffering_time, "Milliseconds", _MILLISECONDS)
    _put(metrics, "UserRecordsPerKinesisRecord", shard.user_records_per_kinesis_record)
    return metrics


def _put(
    metrics: _Metrics, name: str, values: Distribution, unit: str = "Count", scale: float = 1.0
) -> None:
    """Add a distribution; nothing if it is empty, for there is no value then."""
    filled = [
        (round(scale * total / count, 6), count)
        for total, count in zip(values.sums, values.counts, strict=True)
        if count
    ]
    if not filled:
        return
    # All six numbers come from the same values: CloudWatch refuses statistics that contradict
    # each other.
    metrics[name] = (
        {
            "Values": [mean for mean, _ in filled],
            "Counts": [count for _, count in filled],
            "Min": filled[0][0],
            "Max": filled[-1][0],
            "Count": sum(count for _, count in filled),
            "Sum": round(sum(mean * count for mean, count in filled), 6),
        },
        unit,
    )
