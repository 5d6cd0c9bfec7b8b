"""Looks at the running demo from outside: ledger, sink, shard list. Reads only."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kit.demo.verdict import Effect, Sent
from records.partition import Shard

if TYPE_CHECKING:
    from types_boto3_kinesis import KinesisClient


@dataclass(slots=True)
class Ledger:
    """The fleet's ledger: one JSON line for each event whose publish was acknowledged.

    `count` reads only what has been added since the last call.
    """

    path: Path
    _offset: int = field(default=0, init=False)
    _lines: int = field(default=0, init=False)

    def count(self) -> int:
        """Return the number of whole lines."""
        if not self.path.exists():
            return 0
        with self.path.open("rb") as file:
            file.seek(self._offset)
            fresh = file.read()
        self._offset += len(fresh)
        self._lines += fresh.count(b"\n")
        return self._lines

    def events(self) -> list[Sent]:
        """Return every acknowledged event."""
        if not self.path.exists():
            return []
        with self.path.open(encoding="utf-8") as file:
            lines = [json.loads(line) for line in file if line.endswith("\n")]
        return [Sent(line["record_id"], line["thing"], line["sequence"]) for line in lines]


@dataclass(frozen=True, slots=True)
class SinkLook:
    """The sink's database, opened read-only for each question."""

    path: Path

    def stored(self) -> int:
        """Return how many distinct record IDs have an effect."""
        return self._number("SELECT COUNT(DISTINCT record_id) FROM effects")

    def refused(self) -> int:
        """Return how many duplicates the sink has refused."""
        return self._number("SELECT COALESCE(SUM(count), 0) FROM refused")

    def effects_by_shard(self) -> dict[str, int]:
        """Return the number of effects of each shard's records."""
        rows = self._rows("SELECT shard_id, COUNT(*) FROM effects GROUP BY shard_id")
        return {str(shard_id): int(count) for shard_id, count in rows}

    def effects(self) -> Iterator[Effect]:
        """Yield every effect in the order in which it was applied."""
        for (data,) in self._rows("SELECT data FROM effects ORDER BY position"):
            event = json.loads(data)
            yield Effect(event["record_id"], event["thing"], event["sequence"])

    def _number(self, query: str) -> int:
        rows = self._rows(query)
        return int(rows[0][0]) if rows else 0

    def _rows(self, query: str) -> list[tuple[Any, ...]]:
        # Before the worker's first record there is no file, then for a moment no table.
        if not self.path.exists():
            return []
        try:
            with closing(sqlite3.connect(f"file:{self.path}?mode=ro", uri=True)) as database:
                database.execute("PRAGMA busy_timeout = 10000")
                return database.execute(query).fetchall()
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):
                return []
            raise


def read_shards(kinesis: "KinesisClient", stream: str) -> tuple[Shard, ...]:
    """Return every shard of `stream`, open and closed, oldest first."""
    pages = kinesis.get_paginator("list_shards").paginate(StreamName=stream)
    found = (Shard.from_list_shards(shard) for page in pages for shard in page["Shards"])
    return tuple(sorted(found, key=lambda shard: shard.shard_id))
