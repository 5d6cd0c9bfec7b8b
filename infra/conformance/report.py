"""The outcomes of a run as a table and as JSON."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence

from infra.conformance.check import Check
from infra.conformance.run import Outcome, Verdict


def line(outcome: Outcome, *, width: int) -> str:
    """Return the line of a table that is printed while the checks run."""
    check = outcome.check
    head = f"{outcome.verdict:<11}  {check.area:<11}  {check.name:<{width}}"
    match outcome.verdict:
        case Verdict.PASSED:
            return f"{head}  {check.what}"
        case Verdict.UNSUPPORTED:
            return f"{head}  {_one_line(outcome.found)}"
        case Verdict.FAILED:
            return (
                f"{head}  {check.what}\n    expected {_one_line(outcome.expected)}\n"
                f"    found    {_one_line(outcome.found)}\n    source   {check.source}"
            )


def summary(outcomes: Sequence[Outcome]) -> str:
    """Return the last line: how many passed, failed and were not supported."""
    counts = _counts(outcomes)
    return (
        f"{counts[Verdict.PASSED]} passed, {counts[Verdict.FAILED]} failed, "
        f"{counts[Verdict.UNSUPPORTED]} unsupported, {len(outcomes)} checks"
    )


def as_json(outcomes: Sequence[Outcome]) -> str:
    """Return one JSON object with the counts, the failures and what is not supported."""
    counts = _counts(outcomes)
    failures = [
        {
            "name": each.check.name,
            "area": each.check.area,
            "what": each.check.what,
            "expected": each.expected,
            "found": each.found,
            "source": each.check.source,
        }
        for each in outcomes
        if each.verdict is Verdict.FAILED
    ]
    unsupported = [
        {"name": each.check.name, "area": each.check.area, "found": each.found}
        for each in outcomes
        if each.verdict is Verdict.UNSUPPORTED
    ]
    answer = {
        **{str(verdict): counts[verdict] for verdict in Verdict},
        "total": len(outcomes),
        "failures": failures,
        "unsupported_checks": unsupported,
    }
    return json.dumps(answer, indent=2)


def listing(checks: Iterable[Check]) -> str:
    """Return what there is to run: each check with what it says AWS does, and where AWS says so."""
    return "\n".join(
        f"{each.area:<11}  {each.name}\n    {each.what}\n    {each.source}" for each in checks
    )


def _counts(outcomes: Iterable[Outcome]) -> Counter[Verdict]:
    return Counter(each.verdict for each in outcomes)


def _one_line(text: str) -> str:
    return " ".join(text.split())[:400]
