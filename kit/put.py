"""`kit put STREAM [FILE|-]`: the lines of a file onto a stream, with a bar on a terminal."""

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from producers import put_records
from producers.lines import Feed


def put(
    stream: str,
    source: str = "-",
    *,
    partition_key: str | None = None,
    key_field: str | None = None,
    dead_letter: str | None = None,
) -> int:
    """Put each line on the stream, as `python -m producers.put_records` does.

    Args:
        stream: The stream's name.
        source: A file, or - for standard input.
        partition_key: One key for all lines.
        key_field: The field of each line, a JSON object, that is its key.
        dead_letter: A file to which undelivered lines are appended.

    Returns:
        0 if all was delivered, 1 if something was not, 2 if the input is bad.

    Raises:
        SystemExit: with 2, bad usage: a file cannot be opened, or there is no region.
    """
    given = {"partition-key": partition_key, "key-field": key_field, "dead-letter": dead_letter}
    # Joined with "=", so that a value may begin with a dash; "--" protects the names likewise.
    argv = [f"--{name}={value}" for name, value in given.items() if value is not None]
    argv += ["--", stream, source]
    bar = _bar()
    task = bar.add_task(f"putting on {stream}", total=None)

    def show(feed: Feed) -> None:
        told = f"{feed.delivered_lines} delivered, {feed.failed_lines} failed"
        bar.update(task, description=told, completed=feed.bytes_read, total=feed.total_bytes)
        if feed.finished:
            bar.stop()  # Before the summary is printed, not over it.

    with bar:
        return put_records.main(argv, progress=show, program="kit put")


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
