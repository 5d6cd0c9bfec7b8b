"""Where shadows live: one SQLite file, or memory."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from iot.shadows.document import ShadowDocument
from iot.shadows.protocol import ShadowName, compact

TOMBSTONE_SECONDS: Final = 48 * 3600
"""A shadow created again within 48 hours goes on counting. AWS: Device Shadow service, data
flow."""

LOCK_SECONDS: Final = 5.0
"""How long to wait for another service to let go of the file, such as one that is just ending."""


@dataclass(frozen=True, slots=True)
class StoredShadow:
    """One shadow as it is kept.

    Args:
        version: Goes up by one with every accepted update.
        timestamp: Epoch seconds of the last update, or of the deletion.
        document: None once deleted; the version is then remembered for 48 hours.
    """

    version: int
    timestamp: int
    document: ShadowDocument | None


class ShadowStore(Protocol):
    """Where shadows live. The service calls it from one thread at a time."""

    def load(self, name: ShadowName, *, now: int) -> StoredShadow | None:
        """Return the shadow, or what is left of a deleted one at ``now`` (epoch s), or None."""

    def save(self, name: ShadowName, shadow: StoredShadow) -> None:
        """Keep a shadow in place of what was there."""


class SqliteShadowStore:
    """Shadows in a SQLite file.

    Args:
        path: The file, created when missing; ``:memory:`` keeps nothing.

    Raises:
        OSError: It is no such file, or another service has it open: one service per file, or an
            update of one would undo that of the other between its reading and its writing.

    An update survives the death of the process as soon as :meth:`save` returns. It may not survive
    a power failure in the seconds after it: syncing each update would cost more than it is worth
    for a state that devices report again.
    """

    def __init__(self, path: Path | str) -> None:
        try:
            self._database = _opened(path)
        except sqlite3.Error as error:
            raise OSError(f"{path}: {error}") from None

    def load(self, name: ShadowName, *, now: int) -> StoredShadow | None:
        """Return the shadow, or what is left of a deleted one at ``now`` (epoch s), or None."""
        row = self._database.execute(
            "SELECT version, timestamp, document FROM shadows WHERE thing = ? AND name = ?",
            (name.thing, name.name or ""),
        ).fetchone()
        if row is None:
            return None
        version, timestamp, document = row
        if document is None:
            return StoredShadow(version, timestamp, None) if _remembered(timestamp, now) else None
        fields = json.loads(document)
        return StoredShadow(version, timestamp, ShadowDocument(fields["state"], fields["metadata"]))

    def save(self, name: ShadowName, shadow: StoredShadow) -> None:
        """Keep a shadow in place of what was there."""
        document = shadow.document and compact(
            {"state": shadow.document.state, "metadata": shadow.document.metadata}
        )
        self._database.execute(
            "INSERT OR REPLACE INTO shadows VALUES (?, ?, ?, ?, ?)",
            (
                name.thing,
                name.name or "",
                shadow.version,
                shadow.timestamp,
                document.decode() if document else None,
            ),
        )

    def close(self) -> None:
        """Close the file."""
        self._database.close()


@contextmanager
def open_store(path: Path | str) -> Iterator[SqliteShadowStore]:
    """Open a store for the length of a ``with`` block."""
    store = SqliteShadowStore(path)
    try:
        yield store
    finally:
        store.close()


def _opened(path: Path | str) -> sqlite3.Connection:
    database = sqlite3.connect(
        path, timeout=LOCK_SECONDS, isolation_level=None, check_same_thread=False
    )
    try:
        # Taken with the first access; it ends with the process, however that ends.
        database.execute("PRAGMA locking_mode=EXCLUSIVE")
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=NORMAL")
        database.execute(
            "CREATE TABLE IF NOT EXISTS shadows ("
            " thing TEXT NOT NULL, name TEXT NOT NULL, version INTEGER NOT NULL,"
            " timestamp INTEGER NOT NULL, document TEXT,"
            " PRIMARY KEY (thing, name)) WITHOUT ROWID"
        )
    except BaseException:
        database.close()
        raise
    return database


def _remembered(deleted_at: int, now: int) -> bool:
    return now - deleted_at < TOMBSTONE_SECONDS
