"""A sink in one SQLite file that several processes write at once.

Guaranteed: each record ID takes effect once within the horizon, the effects of one shard are stored
in the order of the shard, and a batch is stored whole or not at all, also across a power cut.
Not guaranteed: an order between shards (there is none to keep), and speed over a network file
system, where SQLite's locks cannot be trusted at all.
"""

import contextlib
import random
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from consumers.errors import SetupError
from consumers.record import StreamRecord
from consumers.sinks.base import (
    DEFAULT_RETENTION,
    Applied,
    Counts,
    Identified,
    checked_horizon,
    identify,
)

SCHEMA_VERSION: Final = 1
BUSY_TIMEOUT_S: Final = 30.0
"""How long a writer waits for the others. A batch takes milliseconds; 30 s mean a disk in trouble,
and the error that follows is answered by offering the batch again."""

MIN_PRUNE: Final = 256
"""IDs that a batch may forget at least. Twice its own size is the usual bound: pruning keeps ahead
of growth, and no batch pays for a week of backlog."""

_TABLES: Final = frozenset({"effects", "seen", "refused"})

# No unique constraint on effects.record_id: doublings must be countable from the effects
# themselves, not ruled out by the very mechanism that they would show to be broken.
_SCHEMA: Final = """
CREATE TABLE effects (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    record_id TEXT NOT NULL,
    partition_key TEXT NOT NULL,
    shard_id TEXT NOT NULL,
    sequence_number TEXT NOT NULL,
    sub_sequence_number INTEGER NOT NULL,
    data BLOB NOT NULL,
    applied_at REAL NOT NULL
);
CREATE INDEX effects_by_key ON effects (partition_key, position);
CREATE TABLE seen (record_id TEXT PRIMARY KEY, seen_at REAL NOT NULL) WITHOUT ROWID;
CREATE INDEX seen_by_age ON seen (seen_at);
CREATE TABLE refused (shard_id TEXT PRIMARY KEY, count INTEGER NOT NULL) WITHOUT ROWID;
"""


class SqliteSink:
    """Effects, seen IDs and refusals of a stream in one SQLite file.

    Args:
        path: The file; made when it is not there.
        retention: Of the stream, seconds.
        horizon: How long an ID is remembered after it was last seen, seconds; at least the
            retention. By default the retention and a day.
        clock: Seconds since the epoch.

    Raises:
        SetupError: The horizon is too short, or the file is not one of ours or stays locked.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        retention: float = DEFAULT_RETENTION,
        horizon: float | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.horizon = checked_horizon(horizon, retention)
        self._clock = clock
        self._connection = _open(Path(path))

    def apply(self, records: Sequence[StreamRecord]) -> Applied:
        """Store the batch in one transaction; see `consumers.sinks.base.Sink.apply`.

        Raises:
            sqlite3.OperationalError: The file stayed locked or the disk failed. Nothing of the
                batch is stored.
        """
        identified = [identify(record) for record in records]  # outside the lock
        if not identified:
            return Applied(0, 0)
        now = self._clock()
        with _transaction(self._connection):
            fresh = [item for item in identified if self._first_sighting(item, now)]
            self._insert_effects(fresh, now)
            refused = len(identified) - len(fresh)
            if refused:
                self._count_refused(records[0].shard_id, refused)
            self._prune(now - self.horizon, limit=max(MIN_PRUNE, 2 * len(identified)))
        return Applied(len(fresh), refused)

    def counts(self) -> Counts:
        """Count what is stored."""
        effects, distinct = self._connection.execute(
            "SELECT count(*), count(DISTINCT record_id) FROM effects"
        ).fetchone()
        (refused,) = self._connection.execute(
            "SELECT coalesce(sum(count), 0) FROM refused"
        ).fetchone()
        return Counts(effects, distinct, refused)

    def close(self) -> None:
        """Close the file. Everything applied is already in it."""
        self._connection.close()

    def _first_sighting(self, item: Identified, now: float) -> bool:
        inserted = self._connection.execute(
            "INSERT OR IGNORE INTO seen (record_id, seen_at) VALUES (?, ?)", (item.record_id, now)
        ).rowcount
        if inserted:
            return True
        # The copy just refused can be delivered again for a whole retention from its own arrival.
        self._connection.execute(
            "UPDATE seen SET seen_at = max(seen_at, ?) WHERE record_id = ?", (now, item.record_id)
        )
        return False

    def _insert_effects(self, fresh: Sequence[Identified], now: float) -> None:
        self._connection.executemany(
            "INSERT INTO effects (record_id, partition_key, shard_id, sequence_number,"
            " sub_sequence_number, data, applied_at) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                (
                    item.record_id,
                    item.record.partition_key,
                    item.record.shard_id,
                    item.record.sequence_number,
                    item.record.sub_sequence_number,
                    item.payload,
                    now,
                )
                for item in fresh
            ),
        )

    def _count_refused(self, shard_id: str, refused: int) -> None:
        self._connection.execute(
            "INSERT INTO refused (shard_id, count) VALUES (?, ?)"
            " ON CONFLICT (shard_id) DO UPDATE SET count = count + excluded.count",
            (shard_id, refused),
        )

    def _prune(self, before: float, *, limit: int) -> None:
        self._connection.execute(
            "DELETE FROM seen WHERE record_id IN"
            " (SELECT record_id FROM seen WHERE seen_at < ? ORDER BY seen_at LIMIT ?)",
            (before, limit),
        )


def _open(path: Path) -> sqlite3.Connection:
    # Autocommit, so that BEGIN and COMMIT are where they are written.
    try:
        connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
    except sqlite3.OperationalError as error:
        raise SetupError(f"cannot open {path}: {error}") from error
    try:
        with _transaction(connection, "DEFERRED"):  # a look, before anything in it is changed
            _is_ours(connection, path)
        _enter_wal_mode(connection)
        # The checkpoint follows the commit, so a commit must survive a power cut as well.
        connection.execute("PRAGMA synchronous = FULL")
        with _transaction(connection):
            if not _is_ours(connection, path):
                _make_schema(connection)
    except sqlite3.DatabaseError as error:
        connection.close()
        raise SetupError(f"{path} cannot be used as a sink: {error}") from error
    except BaseException:
        connection.close()
        raise
    return connection


def _enter_wal_mode(connection: sqlite3.Connection) -> None:
    # Several processes that open a new file in the same moment can all be told "locked" here:
    # SQLite does not wait when waiting could be a deadlock. Where it does wait, once is enough.
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        except sqlite3.OperationalError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(random.uniform(0.005, 0.05))
        else:
            break
    if mode != "wal":
        raise sqlite3.OperationalError("write-ahead logging could not be switched on")


def _is_ours(connection: sqlite3.Connection, path: Path) -> bool:
    """Tell a sink's file from a new, empty one; anything else is an error."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    names = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema")}
    if version == SCHEMA_VERSION and names >= _TABLES:
        return True
    if version or names:
        raise SetupError(f"{path} is an SQLite file of something else; it was left alone")
    return False


def _make_schema(connection: sqlite3.Connection) -> None:
    for statement in _SCHEMA.split(";"):
        connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection, kind: str = "IMMEDIATE") -> Iterator[None]:
    # IMMEDIATE takes the write lock first: a transaction that reads and then writes would fail
    # with SQLITE_BUSY when another process had written in between, without waiting.
    connection.execute(f"BEGIN {kind}")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise
