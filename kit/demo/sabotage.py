"""Breaks one promise on purpose, so that anyone can see that the verdict objects.

Each act changes the sink's effects behind the sink's back, just before the verdict is counted.
"""

import sqlite3
from contextlib import closing
from enum import StrEnum
from pathlib import Path


class Sabotage(StrEnum):
    """What to break."""

    LOSE = "lose"
    DOUBLE = "double"
    REORDER = "reorder"


_ACTS = {
    Sabotage.LOSE: "DELETE FROM effects WHERE position = (SELECT MAX(position) FROM effects)",
    Sabotage.DOUBLE: (
        "INSERT INTO effects (record_id, partition_key, shard_id, sequence_number,"
        " sub_sequence_number, data, applied_at)"
        " SELECT record_id, partition_key, shard_id, sequence_number, sub_sequence_number,"
        " data, applied_at FROM effects WHERE position = (SELECT MAX(position) FROM effects)"
    ),
    # The first effect of all becomes the last one, long after its successors.
    Sabotage.REORDER: (
        "UPDATE effects SET position = (SELECT MAX(position) FROM effects) + 1"
        " WHERE position = (SELECT MIN(position) FROM effects)"
    ),
}


def break_a_promise(sink: Path, act: Sabotage) -> None:
    """Tamper with the effects in the SQLite file `sink`."""
    with closing(sqlite3.connect(sink)) as database, database:
        database.execute(_ACTS[act])
