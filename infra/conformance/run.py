"""Run checks side by side, and say what became of each one."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from types import ModuleType

from botocore.exceptions import ClientError

from infra.conformance.check import Check, describe, is_unsupported
from infra.conformance.checks import (
    dynamodb,
    fan_out,
    limits,
    lineage,
    producing,
    quotas,
    reading,
    routing,
    settings,
    shard_lists,
    streams,
    transactions,
)
from infra.conformance.ground import Deviation, Ground

CHECK_SECONDS = 60.0

MODULES: tuple[ModuleType, ...] = (
    streams,
    settings,
    shard_lists,
    lineage,
    routing,
    producing,
    limits,
    quotas,
    reading,
    fan_out,
    dynamodb,
    transactions,
)
"""Where the checks are, in the order in which they are reported."""


class Verdict(StrEnum):
    """What became of a check."""

    PASSED = "passed"
    FAILED = "failed"
    UNSUPPORTED = "unsupported"


@dataclass(frozen=True, slots=True)
class Outcome:
    """A check and what became of it.

    Attributes:
        check: The check.
        verdict: `UNSUPPORTED` if the endpoint says that it does not know the operation.
        expected: What AWS does, if it failed.
        found: What the endpoint did, if the check did not pass.
    """

    check: Check
    verdict: Verdict
    expected: str = ""
    found: str = ""


def all_checks(modules: Iterable[ModuleType] = MODULES) -> list[Check]:
    """Return every check in these modules, in the order of the modules and within them.

    Raises:
        ValueError: Two checks have the same name.
    """
    found: dict[str, Check] = {}
    for module in modules:
        for value in vars(module).values():
            if isinstance(value, Check) and found.setdefault(value.name, value) is not value:
                raise ValueError(f"two checks are called {value.name}")
    return list(found.values())


def matching(checks: Iterable[Check], patterns: Sequence[str]) -> list[Check]:
    """Return the checks whose name or area matches one of the patterns; all without patterns."""
    return [
        each
        for each in checks
        if not patterns
        or any(fnmatchcase(each.name, p) or fnmatchcase(each.area, p) for p in patterns)
    ]


def run_checks(
    checks: Sequence[Check],
    ground: Ground,
    *,
    jobs: int,
    seconds: float = CHECK_SECONDS,
    tell: Callable[[Outcome], None] = lambda _: None,
) -> list[Outcome]:
    """Run checks in a pool of threads and return their outcomes in the order of the checks.

    The ground is cleaned up by the caller. When this is interrupted, the running checks end at
    their next call.

    Args:
        checks: What to run.
        ground: What they stand on.
        jobs: How many run at the same time.
        seconds: How long one may take.
        tell: Called with each outcome, in order.
    """
    outcomes = []
    pool = ThreadPoolExecutor(jobs)
    try:
        for outcome in pool.map(lambda each: run_check(each, ground, seconds=seconds), checks):
            tell(outcome)
            outcomes.append(outcome)
    except BaseException:
        ground.stop()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
    return outcomes


def run_check(check: Check, ground: Ground, *, seconds: float = CHECK_SECONDS) -> Outcome:
    """Run one check; whatever it raises is an outcome."""
    try:
        with ground.for_a_check(seconds):
            check.run(ground)
    except Deviation as deviation:
        return Outcome(check, Verdict.FAILED, deviation.expected, deviation.found)
    except ClientError as error:
        if is_unsupported(error):
            return Outcome(check, Verdict.UNSUPPORTED, found=describe(error))
        return Outcome(check, Verdict.FAILED, check.what, _of_call(error))
    except Exception as error:  # noqa: BLE001 - an answer no check expects is a finding
        return Outcome(check, Verdict.FAILED, check.what, f"{type(error).__name__}: {error}")
    return Outcome(check, Verdict.PASSED)


def _of_call(error: ClientError) -> str:
    return f"{error.operation_name}: {describe(error)}"
