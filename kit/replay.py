"""`kit replay FILE`: dead letters back onto their streams, with a bar on a terminal."""

from collections.abc import Mapping

from kit.bar import progress_bar
from kit.put import arguments
from producers import replay as replaying


def replay(file: str, options: Mapping[str, str | bool | None]) -> int:
    """Put each dead letter again, as `python -m producers.replay` does.

    Args:
        file: What `--dead-letter` of a producer has written.
        options: Those of that program, such as `stream`; None or False: not given.

    Returns:
        0 if all was delivered, 1 if something was not, 2 if the file is damaged.

    Raises:
        SystemExit: with 2, bad usage: a file cannot be opened, or there is no region.
    """
    argv = [*arguments(options), "--", file]
    with progress_bar(f"replaying {file}") as show:
        return replaying.main(argv, progress=show, program="kit replay")
