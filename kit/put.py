"""`kit put STREAM [FILE|-]`: the lines of a file onto a stream, with a bar on a terminal."""

from collections.abc import Mapping

from kit.bar import progress_bar
from producers import put_records
from producers.aggregated import __main__ as aggregated


def put(
    stream: str, source: str, options: Mapping[str, str | bool | None], *, aggregate: bool = False
) -> int:
    """Put each line on the stream, as `python -m producers.put_records` does, or `.aggregated`.

    Args:
        stream: The stream's name or ARN.
        source: A file, or - for standard input.
        options: Those of that program, such as `key-field`; None or False: not given.
        aggregate: Which of the two it is.

    Returns:
        0 if all was delivered, 1 if something was not, 2 if the input is bad.

    Raises:
        SystemExit: with 2, bad usage: a file cannot be opened, or there is no region.
    """
    argv = [*arguments(options), "--", stream, source]
    main = aggregated.main if aggregate else put_records.main
    with progress_bar(f"putting on {stream}") as show:
        return main(argv, progress=show, program="kit put")


def arguments(options: Mapping[str, str | bool | None]) -> list[str]:
    """Return the options that are given as a program takes them."""
    # Joined with "=", so that a value may begin with a dash; "--" protects the names likewise.
    return [
        f"--{name}" if value is True else f"--{name}={value}"
        for name, value in options.items()
        if value is not None and value is not False
    ]
