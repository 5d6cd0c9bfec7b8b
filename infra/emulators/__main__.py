"""Hold every engine of this machine against the checks, bare and behind the proxy, and write it up.

    python -m infra.emulators [--only ENGINE] [--write docs/emulators.md] [--check]

Without `--write` the document goes to standard output. `--check` writes nothing and compares with
`docs/emulators.md` which checks fail. The exit code is 0, 1 if `--check` finds a difference or no
engine is there, and 2 for bad arguments. moto and ferrokinesis are found on the PATH (ferrokinesis
also by the variable FERROKINESIS), LocalStack where there is a Docker engine.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from infra.conformance.run import all_checks
from infra.emulators.document import (
    DYNAMODB_AREA,
    CheckRow,
    Results,
    Word,
    failing,
    render,
)
from infra.emulators.engines import ENGINES, Engine
from infra.errors import InfraError
from infra.processes import start
from infra.stack.endpoints import Endpoints

DOCUMENT = Path("docs/emulators.md")

_JOBS = 6
_JOBS_OF_SECOND_RUN = 3
_RUN_SECONDS = 900.0
_START_SECONDS = 60.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the engines that are there and write the document, or compare with it."""
    arguments = _parser().parse_args(argv)
    results, absent = _run_engines(arguments.only or list(ENGINES))
    if not results:
        _say("none of these engines is there")
        return 1
    if arguments.check:
        return 1 if _differs(DOCUMENT.read_text(), results) else 0
    today = datetime.now(UTC).date().isoformat()
    document = render(_rows(), results, absent=absent, date=today)
    if arguments.write is None:
        print(document, end="")
    else:
        arguments.write.write_text(document)
    return 0


def verdicts(
    url: str, areas: Sequence[str], *, known: Collection[str] = frozenset()
) -> dict[str, Word]:
    """Run the checks of some areas against an endpoint, those that fail a second time.

    Args:
        url: The endpoint for every service.
        areas: The checks to run.
        known: Names of checks that are known to fail; these are not run again.

    Raises:
        subprocess.TimeoutExpired: They do not end.
        ValueError: The run ends without a report.
    """
    found = _conformance(url, areas, jobs=_JOBS)
    again = [name for name, word in found.items() if word == Word.NO and name not in known]
    if again:
        found |= _conformance(url, again, jobs=_JOBS_OF_SECOND_RUN)
    return found


@contextmanager
def proxied(url: str, log_dir: Path) -> Iterator[str]:
    """Run the proxy with quotas and corrections before an engine, and give its URL."""
    argv = [sys.executable, "-m", "infra.proxy", "--upstream", url, "--plain"]
    argv += ["--quotas", "aws", "--correct"]
    with start(argv, name="proxy", log_dir=log_dir) as process:
        yield process.wait_for_line(r"^ready (http://\S+)", _START_SECONDS)[1]


def areas_of(engine: Engine) -> list[str]:
    """Return the areas an engine is asked about."""
    areas = sorted({each.area for each in all_checks()})
    return [area for area in areas if area != DYNAMODB_AREA or engine.dynamodb]


def _run_engines(names: Sequence[str]) -> tuple[list[Results], list[str]]:
    results, absent = [], []
    with tempfile.TemporaryDirectory() as logs:
        for name in names:
            try:
                with ENGINES[name](Path(logs) / name) as engine:
                    results.append(_run_engine(engine, Path(logs) / name))
            except InfraError as error:
                _say(f"{name} is left out: {error}")
                absent.append(name)
    return results, absent


def _run_engine(engine: Engine, log_dir: Path) -> Results:
    areas = areas_of(engine)
    _say(f"{engine.name} ({engine.version}), bare")
    bare = verdicts(engine.url, areas)
    _say(f"{engine.name}, behind the proxy")
    with proxied(engine.url, log_dir) as url:
        behind = verdicts(url, areas)
    return Results(engine.name, engine.version, engine.dynamodb, bare, behind)


def _conformance(url: str, patterns: Sequence[str], *, jobs: int) -> dict[str, Word]:
    """Run the checks in a process of their own, whose environment leads to the endpoint."""
    argv = [sys.executable, "-m", "infra.conformance", "--json", "--jobs", str(jobs)]
    for pattern in patterns:
        argv += ["--only", pattern]
    endpoints = Endpoints(aws=url, kinesis=None, mqtt_url=None)
    done = subprocess.run(
        argv,
        capture_output=True,
        text=True,
        check=False,
        timeout=_RUN_SECONDS,
        env=endpoints.applied_to(os.environ),
    )
    if done.returncode not in (0, 1):
        raise ValueError(f"infra.conformance ended with {done.returncode}: {done.stderr[-2000:]}")
    report: dict[str, Any] = json.loads(done.stdout)
    failed = {each["name"] for each in report["failures"]}
    unsupported = {each["name"] for each in report["unsupported_checks"]}
    return {
        each.name: Word.NO
        if each.name in failed
        else Word.UNSUPPORTED
        if each.name in unsupported
        else Word.YES
        for each in all_checks()
        if each.name in patterns or each.area in patterns
    }


def _differs(document: str, results: Sequence[Results]) -> bool:
    """Say which checks fail now and not in the document, or the other way round."""
    differences = [line for each in results for line in _differences(document, each)]
    for line in differences:
        print(line)
    return bool(differences)


def _differences(document: str, results: Results) -> Iterator[str]:
    for behind, found in ((False, results.bare), (True, results.proxied)):
        now = {name for name, word in found.items() if word == Word.NO}
        try:
            written = failing(document, results.engine, proxied=behind)
        except ValueError as error:
            yield str(error)
            return
        where = f"{results.engine}, {'behind the proxy' if behind else 'bare'}"
        for name in sorted(now ^ written):
            yield f"{where}: {name} {'fails' if name in now else 'does not fail any more'}"


def _rows() -> list[CheckRow]:
    return [CheckRow(each.name, each.area, each.what) for each in all_checks()]


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m infra.emulators",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only", action="append", choices=list(ENGINES), help="this engine; may be repeated"
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--write", type=Path, metavar="FILE", help="write the document here")
    what.add_argument("--check", action="store_true", help=f"compare with {DOCUMENT}")
    return parser


if __name__ == "__main__":
    sys.exit(main())
