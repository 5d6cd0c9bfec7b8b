"""What the demo shows while it runs: a live table on a terminal, plain lines anywhere else.

The story calls `step` when something happens and `update` a few times a second; a narrator
decides what becomes of it. Both narrators speak on the console they are given, so that `--json`
can keep the last line of standard output for the verdict.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

PLAIN_LINE_EVERY_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardLine:
    """One shard as the demo sees it."""

    shard_id: str
    open: bool
    effects: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The counts of one moment; nothing here is an estimate."""

    events: int
    sent: int
    stored: int
    duplicates_refused: int
    answers_lost: int
    worker_kills: int
    shadows: int
    shadows_converged: int
    shards: tuple[ShardLine, ...] = ()

    @property
    def lag(self) -> int:
        """Events acknowledged to a device that the sink does not hold yet."""
        return max(0, self.sent - self.stored)


class Narrator(Protocol):
    """Shows a story to whoever is watching."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def step(self, text: str) -> None:
        """Say that something has happened."""

    def update(self, snapshot: Snapshot) -> None:
        """Show the counts of this moment."""


def narrator_for(console: Console) -> Narrator:
    """Return the live view where `console` is a terminal, plain lines elsewhere."""
    return LiveNarrator(console) if console.is_terminal else PlainNarrator(console)


@dataclass(slots=True)
class PlainNarrator:
    """One line a step, and one line of counts every few seconds."""

    console: Console
    clock: Callable[[], float] = time.monotonic
    _started: float = field(init=False)
    _last_counts: float = field(init=False)

    def __post_init__(self) -> None:
        self._started = self._last_counts = self.clock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Plain lines leave nothing to put away."""

    def step(self, text: str) -> None:
        """Print the step with the seconds since the start."""
        seconds = self.clock() - self._started
        line = f"{seconds:6.1f} s  {text}"
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def update(self, snapshot: Snapshot) -> None:
        """Print the counts, at most once every few seconds."""
        if self.clock() - self._last_counts < PLAIN_LINE_EVERY_SECONDS:
            return
        self._last_counts = self.clock()
        open_shards = sum(1 for shard in snapshot.shards if shard.open)
        self.step(
            f"  sent {snapshot.sent}/{snapshot.events}  stored {snapshot.stored}"
            f"  lag {snapshot.lag}  duplicates refused {snapshot.duplicates_refused}"
            f"  open shards {open_shards}"
            f"  shadows {snapshot.shadows_converged}/{snapshot.shadows}"
        )


class LiveNarrator:
    """A table that redraws itself under the steps told so far."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._started = time.monotonic()
        self._live = Live(console=console, refresh_per_second=8, transient=True)

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.__exit__(kind, error, trace)

    def step(self, text: str) -> None:
        """Print the step above the table."""
        seconds = time.monotonic() - self._started
        line = Text.assemble((f"{seconds:6.1f} s  ", "dim"), text)
        self._live.console.print(line)

    def update(self, snapshot: Snapshot) -> None:
        """Redraw the table."""
        self._live.update(draw(snapshot))


def draw(snapshot: Snapshot) -> Panel:
    """Lay one moment out as a panel: counts on top, shards below."""
    counts = Table.grid(padding=(0, 3))
    counts.add_row(
        f"sent [bold]{snapshot.sent}[/]/{snapshot.events}",
        f"stored [bold green]{snapshot.stored}[/]",
        f"lag [bold]{snapshot.lag}[/]",
        f"duplicates refused [bold]{snapshot.duplicates_refused}[/]",
    )
    counts.add_row(
        f"answers lost [bold]{snapshot.answers_lost}[/]",
        f"worker kills [bold]{snapshot.worker_kills}[/]",
        f"shadows [bold]{snapshot.shadows_converged}[/]/{snapshot.shadows}",
        "",
    )
    shards = Table(box=None, pad_edge=False)
    shards.add_column("shard")
    shards.add_column("state")
    shards.add_column("effects", justify="right")
    for shard in snapshot.shards:
        state = Text("open", "green") if shard.open else Text("closed", "dim")
        shards.add_row(shard.shard_id, state, str(shard.effects))
    return Panel(Group(counts, Text(), shards), title="devices → stream → KCL → sink")
