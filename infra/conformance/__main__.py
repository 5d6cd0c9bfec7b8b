r"""Hold an endpoint against what AWS documents about Kinesis and DynamoDB.

What it shows: which of the documented behaviours an emulator has, by small checks that each name
the page of the API reference, or the member of the service model, that they come from.

How to run it::

    export AWS_ENDPOINT_URL=http://127.0.0.1:4566      # or: eval "$(kit env)"
    python -m infra.conformance
    python -m infra.conformance --only lineage --only 'put-*' --json
    python -m infra.conformance --list

What you will see: a line for each check, `passed`, `failed` with what was expected and found, or
`unsupported` when the endpoint says that it does not know the operation; then the counts. With
`--json` one object instead. The exit code is 0 when no check failed, 1 when one did, 2 for bad
arguments or an endpoint at AWS, 3 when the endpoint cannot be reached, 130 and 143 after SIGINT and
SIGTERM.

What is guaranteed and what is not: a check says what AWS documents, never what an emulator does. A
passed check is an example, not a proof. Every stream and table is made for the run, has a name of
its own and is deleted at the end, after an interruption too; only SIGKILL leaves them behind.
A rate limit is waited out, except by the checks that look at rate limits.

What to change for production: nothing; it is for endpoints that imitate AWS. `--aws` runs it on
the account of the environment's credentials, where streams and tables cost money while they exist.
"""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

from infra.conformance import report
from infra.conformance.check import Check
from infra.conformance.ground import PATIENCE_SECONDS, Ground
from infra.conformance.run import CHECK_SECONDS, Outcome, Verdict, all_checks, matching, run_checks
from infra.errors import AwsRefusedError
from infra.safety import require_local

JOBS = 8
AWS_CHECK_SECONDS = 600.0
AWS_PATIENCE_SECONDS = 240.0
"""A stream takes half a minute to be made there, and minutes to be resharded."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the checks that the arguments choose and return the exit code."""
    arguments = _parser().parse_args(argv)
    checks = matching(all_checks(), arguments.only)
    if not checks:
        print(f"no check is called {' or '.join(arguments.only)}; see --list", file=sys.stderr)
        return 2
    if arguments.list:
        print(report.listing(checks))
        return 0
    if not arguments.aws:
        try:
            require_local(os.environ)
        except AwsRefusedError as error:
            print(str(error).replace("--stack aws", "--aws"), file=sys.stderr)
            return 2
    try:
        with _stopped_by_signals():
            return _run(checks, arguments)
    except _StoppedBySignal as stopped:
        print(f"stopped by {signal.Signals(stopped.number).name}", file=sys.stderr)
        return 128 + stopped.number


def _run(checks: Sequence[Check], arguments: argparse.Namespace) -> int:
    seconds = AWS_CHECK_SECONDS if arguments.aws else CHECK_SECONDS
    try:
        ground = Ground(patience=AWS_PATIENCE_SECONDS if arguments.aws else PATIENCE_SECONDS)
        _reach(ground, checks)
    except (BotoCoreError, HTTPClientError) as error:
        print(f"the endpoint cannot be reached: {error}", file=sys.stderr)
        return 3
    width = max(len(each.name) for each in checks)

    def tell(outcome: Outcome) -> None:
        if not arguments.json:
            print(report.line(outcome, width=width), flush=True)

    try:
        outcomes = run_checks(checks, ground, jobs=arguments.jobs, seconds=seconds, tell=tell)
    finally:
        for problem in ground.clean_up():
            print(f"not deleted: {problem}", file=sys.stderr)
    print(report.as_json(outcomes) if arguments.json else report.summary(outcomes), flush=True)
    return 1 if any(each.verdict is Verdict.FAILED for each in outcomes) else 0


def _reach(ground: Ground, checks: Sequence[Check]) -> None:
    """Raise if there is nobody at the endpoints; any answer will do."""
    dynamodb = {each.area == "dynamodb" for each in checks}
    calls: list[Callable[[], object]] = []
    if False in dynamodb:
        calls.append(lambda: ground.kinesis.list_streams(Limit=1))
    if True in dynamodb:
        calls.append(lambda: ground.dynamodb.list_tables(Limit=1))
    for call in calls:
        try:
            call()
        except ClientError:
            continue


class _StoppedBySignal(BaseException):
    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Turn the first SIGINT or SIGTERM into an exception; the clean-up is not interrupted again."""
    signals = (signal.SIGINT, signal.SIGTERM)

    def stop(number: int, _frame: FrameType | None) -> None:
        for each in signals:
            signal.signal(each, signal.SIG_IGN)
        raise _StoppedBySignal(number)

    before = {each: signal.signal(each, stop) for each in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m infra.conformance",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="PATTERN",
        help="run the checks whose name or area matches, such as 'put-*'; may be repeated",
    )
    parser.add_argument("--list", action="store_true", help="list the checks and end")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--jobs", type=_jobs, default=JOBS, metavar="N", help=f"checks at a time ({JOBS})"
    )
    parser.add_argument("--aws", action="store_true", help="allow AWS itself; it costs money")
    return parser


def _jobs(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 32:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 32")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
