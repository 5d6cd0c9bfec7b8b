"""What `docs/emulators.md` says, from the results of runs; and what it said, read back."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

COMMAND: Final = "python -m infra.emulators --write docs/emulators.md"

DYNAMODB_AREA: Final = "dynamodb"
"""The area that is asked of an engine only if it serves DynamoDB; it comes last."""

ARROW: Final = " → "
"""Between what an engine does bare and what it does behind the proxy, where that differs."""

_BAR: Final = re.compile(r"(?<!\\)\|")
"""Between two cells, unlike an escaped one inside a cell."""

_HEAD: Final = """\
# What each emulator gets right

One list of small checks, each of something that the API reference or the service model says, held
against every engine that was at hand: bare, and behind this toolkit's proxy
(`python -m infra.proxy --upstream URL --quotas aws --correct`). `python -m infra.conformance` runs
the same list against your own endpoint and prints what it found; with `--list` it names the source
of each check. No check was made to fit an engine, and a check that passes is an example, not a
proof.
"""

_KEY: Final = """\
`yes`: as AWS documents. `no`: otherwise. `unknown`: the engine says that it does not know the
operation. `no → yes`: otherwise when bare, as documented behind the proxy. Empty: not asked,
because the engine does not serve that.
"""

_LIMITS: Final = """\
## What the proxy cannot give, and why

The proxy answers for quotas and for the corrections that its `--correct` lists. Everything else is
the engine's own answer, passed through byte for byte:

- **What is stored is the engine's.** Records, shards, lineage, consumers and tables live there. An
  engine that loses records at a reshard, never ends a closed shard, or has no SubscribeToShard
  cannot be helped from outside.
- **What is refused for the state of things is the engine's**, but for what a correction names. The
  proxy refuses what quotas, limits and the service model forbid of a request by itself.
- **Numbers that clients hand back are the engine's.** kinesis-mock starts the child of a merge at a
  sequence number of its parents' time; their corrected end lies below the child's records, and not
  below that start (`merge-ending`).
- **What the engine refuses, it refuses.** A request of 10 MiB that AWS takes stays refused where
  the engine's own limit is lower.
- **What the engine does not know stays unknown**: an operation, or the CBOR of the Java clients.
- **Time is the engine's**: how long a call takes, and how long a stream takes to become ACTIVE.
"""


class Word(StrEnum):
    """How a verdict is written."""

    YES = "yes"
    NO = "no"
    UNSUPPORTED = "unknown"


@dataclass(frozen=True, slots=True)
class CheckRow:
    """A check as the document shows it."""

    name: str
    area: str
    what: str


@dataclass(frozen=True, slots=True)
class Results:
    """What one engine did.

    Attributes:
        engine: Its name.
        version: Exactly which one it is.
        dynamodb: What serves DynamoDB there; empty if nothing does.
        bare: The verdict on each check by its name.
        proxied: The same behind the proxy.
    """

    engine: str
    version: str
    dynamodb: str
    bare: Mapping[str, Word]
    proxied: Mapping[str, Word]


def render(
    checks: Sequence[CheckRow], results: Sequence[Results], *, absent: Sequence[str], date: str
) -> str:
    """Write the document.

    Args:
        checks: All of them, in the order in which they are shown within their areas.
        results: Of the engines that were there.
        absent: The names of the engines that were not.
        date: Of the runs.
    """
    parts = [_HEAD, _summary(results), _KEY]
    areas = {row.area for row in checks}
    for area in sorted(areas, key=lambda each: (each == DYNAMODB_AREA, each)):
        table = _area([row for row in checks if row.area == area], results)
        parts += [f"## {area}\n", table] if table else []
    parts += [_LIMITS, _left(results), _how(absent, date)]
    return "\n".join(parts)


def failing(document: str, engine: str, *, proxied: bool) -> set[str]:
    """Return the names of the checks of which a document says that an engine fails them.

    Raises:
        ValueError: The document has nothing on that engine.
    """
    found: set[str] = set()
    seen = False
    column: int | None = None
    for line in document.splitlines():
        cells = [cell.strip() for cell in _BAR.split(line)[1:-1]]
        if not cells:
            column = None
        elif cells[0] == "check":
            column = cells.index(engine) if engine in cells else None
            seen = seen or column is not None
        elif column is not None and _word(cells[column], proxied=proxied) == Word.NO:
            found.add(cells[0].strip("`"))
    if not seen:
        raise ValueError(f"the document has nothing on {engine}")
    return found


def _summary(results: Sequence[Results]) -> str:
    lines = [
        "| engine | version | DynamoDB | bare: yes / no / unknown | proxy: yes / no / unknown |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {each.engine} | {each.version} | {each.dynamodb or 'none'} "
        f"| {_counts(each.bare)} | {_counts(each.proxied)} |"
        for each in results
    ]
    return _lines(lines)


def _area(rows: Sequence[CheckRow], results: Sequence[Results]) -> str:
    """Return the table of an area, with the engines that were asked about it."""
    columns = [each for each in results if any(row.name in each.bare for row in rows)]
    if not columns:
        return ""
    names = " | ".join(each.engine for each in columns)
    lines = [f"| check | what AWS does | {names} |", f"|---|---|{'---|' * len(columns)}"]
    for row in rows:
        cells = " | ".join(_cell(row.name, each) for each in columns)
        lines.append(f"| `{row.name}` | {_escaped(row.what)} | {cells} |")
    return _lines(lines)


def _left(results: Sequence[Results]) -> str:
    lines = ["What therefore fails behind the proxy as well:", ""]
    for each in results:
        names = [name for name, word in each.proxied.items() if word == Word.NO]
        listed = ", ".join(f"`{name}`" for name in names) or "nothing"
        lines.append(f"- {each.engine} ({len(names)}): {listed}")
    return _lines(lines)


def _how(absent: Sequence[str], date: str) -> str:
    missing = f" Not on that machine, so left out: {', '.join(absent)}." if absent else ""
    return f"""\
## How this page was made

On {date}, by `{COMMAND}`, from
runs alone.{missing}
A check that fails is run again with less beside it, and what it says then counts, so that a busy
machine is not taken for a deviation. A test of the suite runs kinesis-mock's part again and
compares.
"""


def _cell(name: str, results: Results) -> str:
    bare, proxied = results.bare.get(name), results.proxied.get(name)
    if bare is None or proxied is None:
        return ""
    return str(bare) if bare == proxied else f"{bare}{ARROW}{proxied}"


def _word(cell: str, *, proxied: bool) -> str:
    bare, _, behind = cell.partition(ARROW)
    return (behind or bare) if proxied else bare


def _counts(verdicts: Mapping[str, Word]) -> str:
    found = list(verdicts.values())
    return " / ".join(str(found.count(word)) for word in Word)


def _escaped(text: str) -> str:
    return re.sub(r"([|<>])", r"\\\1", text)


def _lines(lines: Iterable[str]) -> str:
    return "\n".join(lines) + "\n"
