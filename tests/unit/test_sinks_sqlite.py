"""The SQLite sink: any redelivery, each ID once, order per key, a bounded memory."""

import math
import multiprocessing
import os
import signal
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from consumers.errors import SetupError
from consumers.record import StreamRecord
from consumers.sinks import sqlite
from consumers.sinks.base import DAY, Applied, Counts, checked_horizon, identify
from consumers.sinks.sqlite import SqliteSink
from records.envelope import open_envelope, seal


def record(
    number: int, *, key: str = "k", record_id: str | None = None, shard: str = "shardId-0"
) -> StreamRecord:
    payload = b'{"n":%d}' % number
    return StreamRecord(
        shard_id=shard,
        sequence_number=str(10**20 + number // 3),
        sub_sequence_number=number % 3,
        partition_key=key,
        data=seal(payload, record_id) if record_id else payload,
        arrival_ms=None,
    )


def effects(path: Path) -> list[tuple[str, str, str, int]]:
    connection = sqlite3.connect(path)
    try:
        return connection.execute(
            "SELECT record_id, partition_key, sequence_number, sub_sequence_number"
            " FROM effects ORDER BY position"
        ).fetchall()
    finally:
        connection.close()


def deliveries(total: int) -> st.SearchStrategy[list[tuple[int, int]]]:
    """Runs of consecutive records; each begins at or before the first one not delivered yet."""

    @st.composite
    def runs(draw: st.DrawFn) -> list[tuple[int, int]]:
        done = 0
        chosen: list[tuple[int, int]] = []
        while done < total and len(chosen) < 12:
            start = draw(st.integers(0, done))
            end = draw(st.integers(start, total))
            chosen.append((start, end))
            done = max(done, end)
        return [*chosen, (0, total)]

    return runs()


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[StreamRecord], list[tuple[int, int]]]:
    """A shard's records, some without an ID and some put twice, and how they are delivered."""
    kinds = draw(st.lists(st.tuples(st.integers(0, 8), st.sampled_from("abc")), max_size=20))
    # Kind 0 has no ID of its own; the others repeat one of eight.
    shard = [
        record(n, key=key, record_id=f"id-{kind}-{key}" if kind else None)
        for n, (kind, key) in enumerate(kinds)
    ]
    return shard, draw(deliveries(len(shard)))


@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(case=streams())
def test_any_redelivery_applies_each_id_once_and_in_order(
    case: tuple[list[StreamRecord], list[tuple[int, int]]],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    shard, runs = case
    path = tmp_path_factory.mktemp("sink") / "s.db"
    sink = SqliteSink(path)
    offered = 0
    applied = Applied(0, 0)
    for start, end in runs:
        result = sink.apply(shard[start:end])
        offered += end - start
        applied = Applied(applied.applied + result.applied, applied.refused + result.refused)
    expected = list(dict.fromkeys(identify(item).record_id for item in shard))
    assert [row[0] for row in effects(path)] == expected
    assert applied == Applied(len(expected), offered - len(expected))
    assert sink.counts() == Counts(len(expected), len(expected), offered - len(expected))
    sink.close()


def test_the_effect_holds_the_payload_and_where_it_came_from(tmp_path: Path) -> None:
    sink = SqliteSink(tmp_path / "s.db")
    framed = StreamRecord("shardId-7", "123", 4, "key", seal(b"\x00binary", "id-1"), 99)
    sink.apply([framed])
    sink.close()
    connection = sqlite3.connect(tmp_path / "s.db")
    row = connection.execute(
        "SELECT record_id, partition_key, shard_id, sequence_number, sub_sequence_number, data"
        " FROM effects"
    ).fetchone()
    connection.close()
    assert row == ("id-1", "key", "shardId-7", "123", 4, b"\x00binary")


def test_a_record_without_an_id_is_known_by_its_place(tmp_path: Path) -> None:
    sink = SqliteSink(tmp_path / "s.db")
    same_bytes = [record(0), record(1), record(2)]
    bare = [
        StreamRecord(r.shard_id, r.sequence_number, r.sub_sequence_number, "k", b"x", None)
        for r in same_bytes
    ]
    assert open_envelope(b"x").record_id is None
    assert sink.apply(bare) == Applied(3, 0)
    assert sink.apply(bare) == Applied(0, 3)
    sink.close()


def test_a_failing_batch_leaves_nothing(tmp_path: Path) -> None:
    sink = SqliteSink(tmp_path / "s.db")
    poison = StreamRecord("s", "1", 0, None, b"x", None)  # type: ignore[arg-type] # violates NOT NULL
    with pytest.raises(sqlite3.IntegrityError):
        sink.apply([record(0), record(0), poison])
    assert sink.counts() == Counts(0, 0, 0)
    assert sink.apply([record(0)]) == Applied(1, 0)
    sink.close()


def test_ids_are_forgotten_after_the_horizon_and_not_before(tmp_path: Path) -> None:
    now = [1000.0]
    path = tmp_path / "s.db"
    sink = SqliteSink(path, retention=100, horizon=150, clock=lambda: now[0])

    def remembered_at(moment: float) -> bool:
        now[0] = moment
        sink.apply([record(1, record_id="another")])  # each batch forgets what is old
        return "a" in seen(path)

    assert sink.apply([record(0, record_id="a")]) == Applied(1, 0)
    assert remembered_at(1150)
    assert sink.apply([record(0, record_id="a")]) == Applied(0, 1)
    # The horizon is counted from the last sighting, although that was refused.
    assert remembered_at(1300)
    assert not remembered_at(1301)
    sink.close()


def test_the_memory_of_a_steady_stream_is_bounded(tmp_path: Path) -> None:
    now = [0.0]
    sink = SqliteSink(tmp_path / "s.db", retention=10, horizon=10, clock=lambda: now[0])
    largest = 0
    for step in range(60):
        now[0] = float(step)
        sink.apply([record(step * 300 + n, record_id=f"{step}-{n}") for n in range(300)])
        largest = max(largest, len(seen(tmp_path / "s.db")))
    assert largest <= 300 * 12
    sink.close()


def test_a_backlog_of_old_ids_is_forgotten_in_bounded_steps(tmp_path: Path) -> None:
    now = [0.0]
    sink = SqliteSink(tmp_path / "s.db", retention=10, horizon=10, clock=lambda: now[0])
    sink.apply([record(n, record_id=f"old-{n}") for n in range(1000)])
    now[0] = 100.0
    left = []
    for n in range(5):
        sink.apply([record(n, record_id=f"new-{n}")])
        left.append(len([name for name in seen(tmp_path / "s.db") if name.startswith("old")]))
    assert left == [744, 488, 232, 0, 0]
    sink.close()


def test_a_horizon_shorter_than_the_retention_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="shorter than the stream's retention"):
        SqliteSink(tmp_path / "s.db", retention=7 * DAY, horizon=7 * DAY - 1)
    assert not (tmp_path / "s.db").exists()
    assert checked_horizon(7 * DAY, 7 * DAY) == 7 * DAY
    assert checked_horizon(None, 7 * DAY) == 8 * DAY


@pytest.mark.parametrize("content", [b"not a database at all, just text" * 40, None])
def test_a_file_of_something_else_is_left_alone(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "other.db"
    if content:
        path.write_bytes(content)
    else:
        connection = sqlite3.connect(path)
        connection.execute("CREATE TABLE mine (x)")
        connection.close()
    with pytest.raises(SetupError, match=r"other\.db"):
        SqliteSink(path)
    if content:
        assert path.read_bytes() == content


@pytest.mark.parametrize("version", [0, 1])
def test_an_sqlite_file_of_something_else_stays_as_it_is_to_the_byte(
    tmp_path: Path, version: int
) -> None:
    path = tmp_path / "other.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE effects (mine)")
    connection.execute(f"PRAGMA user_version = {version}")  # as many a program numbers its own
    connection.close()
    before = path.read_bytes()
    with pytest.raises(SetupError, match="something else"):
        SqliteSink(path)
    assert path.read_bytes() == before


def test_a_file_that_stays_locked_is_given_up_in_bounded_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_S", 0.05)
    path = tmp_path / "s.db"
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("PRAGMA locking_mode = EXCLUSIVE")
    holder.execute("BEGIN EXCLUSIVE")
    tries: list[float] = []
    monkeypatch.setattr(sqlite.time, "sleep", tries.append)
    with pytest.raises(SetupError, match="locked"):
        SqliteSink(path)
    assert len(tries) < 20
    holder.close()


def test_a_writer_killed_before_its_commit_leaves_nothing_and_blocks_nobody(
    tmp_path: Path,
) -> None:
    path = tmp_path / "s.db"
    sink = SqliteSink(path)
    sink.apply([record(0)])
    process = multiprocessing.get_context("spawn").Process(target=_die_in_a_batch, args=(path,))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert sink.apply([record(n) for n in range(3)]) == Applied(2, 1)
    assert sink.counts() == Counts(3, 3, 1)
    sink.close()


def _die_in_a_batch(path: Path) -> None:
    class Dying(SqliteSink):
        def _prune(self, before: float, *, limit: int) -> None:  # noqa: ARG002 - as overridden
            os.kill(os.getpid(), signal.SIGKILL)  # effects and IDs are written, not committed

    Dying(path).apply([record(1), record(2)])


@pytest.mark.parametrize("horizon", [0.0, -1.0, math.nan, math.inf])
def test_a_horizon_that_is_no_time_is_refused(horizon: float) -> None:
    with pytest.raises(SetupError, match="horizon"):
        checked_horizon(horizon, 60.0)


def test_several_processes_write_one_file_at_once(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write, args=(path, writer)) for writer in range(4)]
    for process in writers:
        process.start()
    for process in writers:
        process.join(60)
    assert [process.exitcode for process in writers] == [0] * 4
    # Writers 0 and 1 read one shard (a zombie and its successor), as do 2 and 3.
    rows = effects(path)
    assert len(rows) == len({row[0] for row in rows}) == 2 * _PER_SHARD
    for shard in ("even", "odd"):
        numbers = [int(row[0].split("-")[1]) for row in rows if row[0].startswith(shard)]
        assert numbers == sorted(numbers)
    sink = SqliteSink(path)
    assert sink.counts() == Counts(2 * _PER_SHARD, 2 * _PER_SHARD, 2 * _PER_SHARD)
    sink.close()


_PER_SHARD = 200


def _write(path: Path, writer: int) -> None:
    shard = "even" if writer < 2 else "odd"
    batch: Callable[[int], Sequence[StreamRecord]] = lambda start: [  # noqa: E731 - short and local
        record(n, key=str(n % 5), record_id=f"{shard}-{n}", shard=shard)
        for n in range(start, start + 10)
    ]
    sink = SqliteSink(path)
    for start in range(0, _PER_SHARD, 10):
        sink.apply(batch(start))
    sink.close()


def seen(path: Path) -> set[str]:
    connection = sqlite3.connect(path)
    try:
        return {name for (name,) in connection.execute("SELECT record_id FROM seen")}
    finally:
        connection.close()
