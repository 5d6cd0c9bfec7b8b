"""A record as every consumer here hands it to a sink: one user record, already de-aggregated."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StreamRecord:
    """One user record of a stream.

    Args:
        shard_id: The shard it was read from.
        sequence_number: Of the Kinesis record that carried it, decimal digits. Numbers are only
            comparable within one shard and its lineage, and as integers, not as strings.
        sub_sequence_number: Its index inside an aggregate, 0 for a record put alone.
        partition_key: Its own partition key, not that of the aggregate around it.
        data: Its payload, envelope included, de-aggregated but otherwise as it was put.
        arrival_ms: When Kinesis took it in, milliseconds since the epoch, if the source says so.
    """

    shard_id: str
    sequence_number: str
    sub_sequence_number: int
    partition_key: str
    data: bytes
    arrival_ms: int | None
