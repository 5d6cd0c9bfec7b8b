"""A bar on a terminal for the programs that put a file's records on a stream."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from producers import programs


@contextmanager
def progress_bar(what: str) -> Iterator[programs.Progress]:
    """Show how far the input is read and what became of the records; gives what is to be told."""
    bar = _bar()
    task = bar.add_task(what, total=None)

    def show(tally: programs.Tally) -> None:
        told = f"{tally.delivered_records} delivered, {tally.failed_records} failed"
        bar.update(task, description=told, completed=tally.bytes_read, total=tally.total_bytes)
        if tally.finished:
            bar.stop()  # Before the summary is printed, not over it.

    with bar:
        yield show


def _bar() -> Progress:
    """Return a bar on stderr that catches nothing of what is printed: stdout may be a file."""
    console = Console(stderr=True)
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
        disable=not console.is_terminal,
    )
