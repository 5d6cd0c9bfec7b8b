"""What a running proxy shows: a live table, plain lines, or one JSON object a line.

The program hands the proxy's status to a view as often as the view wants it; a view decides what
becomes of it. Views hold no sockets, and their clock and streams come in.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Protocol, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from records.limits import (
    KIB,
    SHARD_READ_BYTES_PER_SECOND,
    SHARD_READ_CALLS_PER_SECOND,
    SHARD_WRITE_BYTES_PER_SECOND,
    SHARD_WRITE_RECORDS_PER_SECOND,
)

Status = Mapping[str, Any]
"""What `GET /_proxy/status` answers."""

PLAIN_LINE_EVERY_SECONDS: Final = 10.0
MAX_ROWS: Final = 16
"""The busiest shards and operations; more than fit a terminal help nobody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """Where the proxy listens.

    Attributes:
        url: For plain HTTP.
        tls_url: For TLS, or None.
        ca_file: What clients of `tls_url` are to trust, or None.
    """

    url: str
    tls_url: str | None = None
    ca_file: str | None = None


class View(Protocol):
    """Shows a proxy to whoever is watching.

    Attributes:
        look_every_seconds: How often it is to be given the status. With hundreds of shards that
            takes milliseconds, for which every request waits.
    """

    look_every_seconds: ClassVar[float]

    def showing(self) -> AbstractContextManager[object]:
        """Show something for the length of a `with` block."""

    def ready(self, ready: Ready) -> None:
        """Say where the proxy listens."""

    def update(self, status: Status) -> None:
        """Take the status of this moment."""

    def end(self, status: Status) -> None:
        """Say what it came to; `showing` has ended."""


@dataclass(slots=True)
class PlainView:
    """`ready` lines on one stream; on another the faults, and now and then a line of counts."""

    look_every_seconds: ClassVar[float] = 1.0

    out: TextIO
    err: TextIO
    clock: Callable[[], float] = time.monotonic
    _last_line: float = field(init=False)
    _last_summary: str = field(init=False, default="")
    _strikes_seen: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self._last_line = self.clock()

    def showing(self) -> AbstractContextManager[object]:
        """Plain lines need nothing."""
        return nullcontext()

    def ready(self, ready: Ready) -> None:
        """Print `ready URL`, and a second line for TLS."""
        print_ready(ready, self.out)

    def update(self, status: Status) -> None:
        """Print each new fault, and every ten seconds the counts if they have changed."""
        fresh, self._strikes_seen = new_strikes(status, self._strikes_seen)
        for strike in fresh:
            print(strike_line(strike), file=self.err, flush=True)
        if self.clock() - self._last_line >= PLAIN_LINE_EVERY_SECONDS:
            self._last_line = self.clock()
            if (summary := summary_of(status)) != self._last_summary and status["requests"]:
                self._last_summary = summary
                print(summary, file=self.err, flush=True)

    def end(self, status: Status) -> None:
        """Print the counts of the whole run."""
        self.update(status)
        print(f"end: {summary_of(status)}", file=self.err, flush=True)


@dataclass(slots=True)
class JsonView:
    """One JSON object a line: `ready`, then `status` when it has changed, at last `end`."""

    look_every_seconds: ClassVar[float] = 1.0

    out: TextIO
    _last: Status | None = field(init=False, default=None)
    _strikes_seen: int = field(init=False, default=0)

    def showing(self) -> AbstractContextManager[object]:
        """Lines of JSON need nothing."""
        return nullcontext()

    def ready(self, ready: Ready) -> None:
        """Write the `ready` object."""
        self._write("ready", {"url": ready.url, "tls_url": ready.tls_url, "ca_file": ready.ca_file})

    def update(self, status: Status) -> None:
        """Write a `status` object if it has changed, with the strikes since the last one."""
        if status == self._last:
            return
        self._last = status
        fresh, self._strikes_seen = new_strikes(status, self._strikes_seen)
        self._write("status", {**status, "faults": {**status["faults"], "strikes": list(fresh)}})

    def end(self, status: Status) -> None:
        """Write the last object."""
        self._write("end", status)

    def _write(self, event: str, members: Status) -> None:
        print(json.dumps({"event": event, **members}), file=self.out, flush=True)


class LiveView:
    """A table that redraws itself on a terminal, under a line for each fault.

    Args:
        console: The terminal.
        out: Where the `ready` lines go.
        clock: Monotonic seconds.
    """

    look_every_seconds: ClassVar[float] = 0.25

    def __init__(
        self, console: Console, out: TextIO, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console = console
        self._out = out
        self._clock = clock
        self._live = Live(
            console=console, refresh_per_second=1 / self.look_every_seconds, transient=True
        )
        self._strikes_seen = 0
        self._before: tuple[float, int] | None = None
        self._rate = 0.0

    def showing(self) -> AbstractContextManager[object]:
        """Hold the terminal."""
        return self._live

    def ready(self, ready: Ready) -> None:
        """Print `ready URL`, and a second line for TLS."""
        print_ready(ready, self._out)

    def update(self, status: Status) -> None:
        """Print new faults above the table, and redraw it."""
        fresh, self._strikes_seen = new_strikes(status, self._strikes_seen)
        for strike in fresh:
            self._live.console.print(
                strike_line(strike), markup=False, highlight=False, style="yellow"
            )
        self._measure(status["requests"])
        self._live.update(draw(status, requests_per_second=self._rate))

    def end(self, status: Status) -> None:
        """Leave the last table and the counts on the terminal."""
        self._console.print(draw(status, requests_per_second=0.0))
        self._console.print(
            f"end: {summary_of(status)}", markup=False, highlight=False, soft_wrap=True
        )

    def _measure(self, requests: int) -> None:
        now = self._clock()
        if self._before is None:
            self._before = (now, requests)
        elif now - self._before[0] >= 1.0:
            self._rate = (requests - self._before[1]) / (now - self._before[0])
            self._before = (now, requests)


def print_ready(ready: Ready, out: TextIO) -> None:
    """Print the lines that others wait for."""
    print(f"ready {ready.url}", file=out, flush=True)
    if ready.tls_url is not None:
        print(f"ready {ready.tls_url} (certificate: {ready.ca_file})", file=out, flush=True)


def new_strikes(status: Status, seen: int) -> tuple[Sequence[Mapping[str, Any]], int]:
    """Return the strikes listed after the first `seen` that there ever were, and how many are."""
    total = _struck(status)
    listed: Sequence[Mapping[str, Any]] = status["faults"]["strikes"]
    missed = min(total - seen, len(listed))  # the list is bounded: older ones may be gone
    return (listed[len(listed) - missed :] if missed > 0 else ()), max(seen, total)


def strike_line(strike: Mapping[str, Any]) -> str:
    """Say one fault in a line."""
    where = "/".join(strike[name] for name in ("stream", "shard") if strike[name])
    call = f"request {strike['request']}, {strike['operation']}" + (f" on {where}" if where else "")
    return f"{strike['at']:8.3f} s  {strike['action']}: {call}: {strike['reason']}"


def summary_of(status: Status) -> str:
    """Say the counts of a run in a line."""
    parts = [
        _count(status["requests"], "request"),
        f"{sum(each['refused'] for each in status['operations'].values()):,} refused",
        f"{sum(row['throttled'] for row in status['shards']):,} throttled on shards",
        f"{_count(_struck(status), 'fault')} ({_count(status['lost'], 'answer')} lost)",
        _count(sum(status["corrections"].values()), "correction"),
        _count(status["upstream_errors"], "upstream error"),
    ]
    return ", ".join(parts)


def draw(status: Status, *, requests_per_second: float) -> RenderableType:
    """Lay one moment out as a panel: counts on top, then shards, tables, operations."""
    counts = Table.grid(padding=(0, 3))
    for line in _counts(status, requests_per_second):
        counts.add_row(*line)
    parts: list[RenderableType] = [counts]
    if status["shards"]:
        parts += [Text(), _shards(status["shards"])]
    if status["tables"]:
        parts += [Text(), _tables(status["tables"])]
    if status["operations"]:
        parts += [Text(), _operations(status["operations"])]
    return Panel(Group(*parts), title=f"clients → proxy → {status['upstream']}")


def _counts(status: Status, requests_per_second: float) -> list[list[Text]]:
    lines = [
        [
            _figure("requests", f"{status['requests']:,}"),
            _figure("requests/s", f"{requests_per_second:,.0f}"),
            _figure("upstream errors", f"{status['upstream_errors']:,}"),
        ]
    ]
    for heading, counts in (
        ("fault", status["faults"]["by_action"]),
        ("corrected", status["corrections"]),
    ):
        lines += [[_figure(heading, f"{name} {n:,}")] for name, n in counts.items() if n]
    return lines


def _figure(name: str, value: str) -> Text:
    return Text.assemble(f"{name} ", (value, "bold"))


def _shards(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("shard")
    for heading in ("records/s", "KiB/s", "reads/s", "read KiB/s", "admitted", "throttled"):
        table.add_column(heading, justify="right")
    busiest = sorted(rows, key=lambda row: (row["throttled"], row["admitted"]), reverse=True)
    for row in busiest[:MAX_ROWS]:
        table.add_row(
            f"{row['stream']} {row['shard']}",
            _rate(row["records_per_second"], SHARD_WRITE_RECORDS_PER_SECOND),
            _rate(row["bytes_per_second"] / KIB, SHARD_WRITE_BYTES_PER_SECOND / KIB),
            _rate(row["reads_per_second"], SHARD_READ_CALLS_PER_SECOND),
            _rate(row["read_bytes_per_second"] / KIB, SHARD_READ_BYTES_PER_SECOND / KIB),
            f"{row['admitted']:,}",
            _refusals(row["throttled"]),
        )
    _say_more(table, len(rows))
    return table


def _tables(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("table")
    for heading in ("WCU/s", "WCU left", "RCU/s", "RCU left", "throttled"):
        table.add_column(heading, justify="right")
    for row in sorted(rows, key=lambda row: row["throttled"], reverse=True)[:MAX_ROWS]:
        capacity = [
            f"{row[f'{kind}_units_{what}']:,.0f}"
            for kind in ("write", "read")
            for what in ("per_second", "left")
        ]
        table.add_row(row["table"], *capacity, _refusals(row["throttled"]))
    _say_more(table, len(rows))
    return table


def _refusals(number: int) -> Text:
    return Text(f"{number:,}", "bold red" if number else "dim")


def _operations(operations: Mapping[str, Mapping[str, int]]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("operation")
    table.add_column("requests", justify="right")
    table.add_column("refused", justify="right")
    busiest = sorted(operations.items(), key=lambda each: each[1]["requests"], reverse=True)
    for name, each in busiest[:MAX_ROWS]:
        table.add_row(name, f"{each['requests']:,}", f"{each['refused']:,}")
    _say_more(table, len(operations))
    return table


def _say_more(table: Table, rows: int) -> None:
    if rows > MAX_ROWS:
        table.add_row(Text(f"… and {rows - MAX_ROWS:,} more", "dim"))


def _rate(value: float, quota: float) -> Text:
    share = value / quota
    style = "bold red" if share >= 0.98 else "yellow" if share >= 0.8 else ""
    return Text(f"{value:,.0f}/{quota:,.0f}", style)


def _struck(status: Status) -> int:
    total: int = sum(status["faults"]["by_action"].values())
    return total


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
