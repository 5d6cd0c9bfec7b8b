"""The frame of the conformance checks: verdicts, refusals, reports and the command line."""

import json
import threading
import types
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from infra.conformance import __main__ as program
from infra.conformance import checks as check_package
from infra.conformance import report
from infra.conformance.__main__ import main
from infra.conformance.check import Check, check, equal, expect, is_unsupported, refused
from infra.conformance.ground import Deviation, Ground
from infra.conformance.run import (
    MODULES,
    Outcome,
    Verdict,
    all_checks,
    matching,
    run_check,
    run_checks,
)


def error(code: str, message: str = "", status: int = 400) -> ClientError:
    answer = {
        "Error": {"Code": code, "Message": message},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    return ClientError(answer, "PutRecord")  # type: ignore[arg-type]


def raising(problem: Exception) -> Callable[[], object]:
    def call() -> object:
        raise problem

    return call


def a_check(run: Callable[[Ground], None], name: str = "a-check", area: str = "field") -> Check:
    return Check(name=name, what="AWS does it.", source="A page", area=area, run=run)


@pytest.mark.parametrize(
    ("code", "message", "status", "unsupported"),
    [
        ("UnknownOperationException", "", 400, True),
        ("InternalFailure", "API for service x not yet implemented", 500, True),
        ("InvalidAction", "Unknown action: DescribeLimits", 400, True),
        ("AccessDeniedException", "Unable to determine service/operation name", 400, True),
        ("Whatever", "", 501, True),
        ("InternalFailure", "something broke", 500, False),
        ("AccessDeniedException", "not authorized to perform: kinesis:PutRecord", 400, False),
        ("ValidationException", "this argument is not supported", 400, False),
        ("ResourceNotFoundException", "", 404, False),
    ],
)
def test_only_an_unknown_operation_is_unsupported(
    *, code: str, message: str, status: int, unsupported: bool
) -> None:
    assert is_unsupported(error(code, message, status)) is unsupported


def test_a_refusal_as_expected_is_returned() -> None:
    problem = error("ValidationException", "too long")
    assert refused(("InvalidArgumentException", "ValidationException"), raising(problem)) is problem


@pytest.mark.parametrize(
    ("call", "found"),
    [
        (lambda: {"ResponseMetadata": {"HTTPStatusCode": 200}}, "success 200"),
        (raising(error("InternalFailure", "broken", 500)), "InternalFailure: broken"),
        (raising(error("500", "<html><b>broken</b>", 500)), "500: broken"),
    ],
)
def test_a_refusal_that_does_not_come_is_a_deviation(
    call: Callable[[], object], found: str
) -> None:
    with pytest.raises(Deviation) as raised:
        refused("ValidationException", call)
    assert (raised.value.expected, raised.value.found) == ("ValidationException", found)


def test_a_refusal_to_know_the_operation_is_no_deviation() -> None:
    with pytest.raises(ClientError):
        refused("ValidationException", raising(error("UnknownOperationException")))


def test_what_is_not_equal_or_does_not_hold_is_a_deviation() -> None:
    equal(1, 1)
    expect(1, "one", 1)
    with pytest.raises(Deviation, match="expected shards 2, found shards 1"):
        equal(1, 2, "shards")
    with pytest.raises(Deviation, match="expected something, found ''"):
        expect("", "something", repr(""))


def test_a_check_says_what_aws_does() -> None:
    @check("name", source="page", area="field")
    def good(_: Ground) -> None:
        """It does
        this."""

    assert (good.name, good.what, good.source, good.area) == (
        "name",
        "It does this.",
        "page",
        "field",
    )
    with pytest.raises(TypeError, match="silent does not say"):

        @check("silent", source="page", area="field")
        def silent(_: Ground) -> None:
            pass


def test_every_check_module_is_run() -> None:
    folder = Path(check_package.__path__[0])
    there = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    assert {module.__name__.rpartition(".")[2] for module in MODULES} == there


def test_every_check_has_a_name_of_its_own_and_a_source() -> None:
    found = all_checks()
    assert len(found) >= 85
    for each in found:
        assert each.source, each.name
        assert each.what.endswith("."), each.name
        assert each.name == each.name.lower(), each.name


def test_two_checks_of_one_name_are_an_error() -> None:
    modules = []
    for number in range(2):
        module = types.ModuleType(f"module_{number}")
        module.it = a_check(lambda _: None)  # type: ignore[attr-defined]
        modules.append(module)
    assert len(all_checks(modules[:1])) == 1
    with pytest.raises(ValueError, match="two checks are called a-check"):
        all_checks(modules)


def test_patterns_match_names_and_areas() -> None:
    found = [
        a_check(print, "put-one", "producing"),
        a_check(print, "get-one", "reading"),
        a_check(print, "split", "lineage"),
    ]
    assert matching(found, []) == found
    assert matching(found, ["put-*", "lineage"]) == [found[0], found[2]]
    assert matching(found, ["read"]) == []


@pytest.fixture
def ground() -> Ground:
    """Its clients lead nowhere."""
    return Ground()


@pytest.mark.parametrize(
    ("problem", "verdict", "found"),
    [
        (Deviation("a", "b"), Verdict.FAILED, "b"),
        (error("AccessDenied", "no"), Verdict.FAILED, "PutRecord: AccessDenied: no"),
        (
            error("UnknownOperationException", "x"),
            Verdict.UNSUPPORTED,
            "UnknownOperationException: x",
        ),
        (KeyError("Records"), Verdict.FAILED, "KeyError: 'Records'"),
    ],
)
def test_whatever_a_check_raises_is_its_outcome(
    ground: Ground, problem: Exception, verdict: Verdict, found: str
) -> None:
    outcome = run_check(a_check(lambda _: raising(problem)() and None), ground)
    assert (outcome.verdict, outcome.found) == (verdict, found)


def test_outcomes_come_in_the_order_of_the_checks(ground: Ground) -> None:
    last_is_done = threading.Event()

    def fail(_: Ground) -> None:
        last_is_done.set()
        raise Deviation("a", "b")

    found = [a_check(lambda _: last_is_done.wait(20) and None, "slow"), a_check(fail, "quick")]
    told: list[Outcome] = []
    outcomes = run_checks(found, ground, jobs=2, tell=told.append)
    assert [(each.check.name, each.verdict) for each in outcomes] == [
        ("slow", Verdict.PASSED),
        ("quick", Verdict.FAILED),
    ]
    assert told == outcomes


def test_no_call_begins_when_the_time_of_a_check_is_used_up(ground: Ground) -> None:
    outcome = run_check(a_check(lambda g: g.kinesis.list_streams() and None), ground, seconds=0)
    assert outcome.verdict is Verdict.FAILED
    assert "used up its time" in outcome.found


def test_waiting_in_vain_is_a_deviation(ground: Ground) -> None:
    with pytest.raises(Deviation, match="expected luck within 0 s, found 0"):
        ground.eventually(lambda: 0, expected="luck", within=0)


def test_nothing_is_waited_for_beyond_the_patience() -> None:
    with pytest.raises(Deviation, match="expected luck within 0 s, found None"):
        Ground(patience=0).eventually(lambda: None, expected="luck")


@pytest.mark.parametrize(("arguments", "least"), [([], 20), (["--aws"], 120)])
def test_aws_is_given_the_time_that_it_takes(
    arguments: list[str], least: int, *, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[float] = []

    def run(_: object, ground: Ground, *, seconds: float, **__: object) -> list[Outcome]:
        given.extend((ground.patience, seconds))
        return []

    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(program, "_reach", lambda *_: None)
    monkeypatch.setattr(program, "run_checks", run)
    assert main(arguments) == 0
    patience, seconds = given
    assert least <= patience < seconds
    assert (patience > 100) == bool(arguments)


def test_what_is_shared_is_made_once_and_fails_for_all(ground: Ground) -> None:
    made: list[str] = []

    def make() -> str:
        made.append("x")
        return "thing"

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda _: ground.once("key", make), range(8))) == {"thing"}
    assert len(made) == 1
    for _ in range(2):
        with pytest.raises(KeyError):
            ground.once("other", raising(KeyError("x")))


OUTCOMES = [
    Outcome(a_check(print, "good"), Verdict.PASSED),
    Outcome(a_check(print, "bad"), Verdict.FAILED, "this\nand that", "nothing"),
    Outcome(a_check(print, "new"), Verdict.UNSUPPORTED, found="NotImplemented: x"),
]


def test_the_json_has_the_counts_and_what_did_not_pass() -> None:
    assert json.loads(report.as_json(OUTCOMES)) == {
        "passed": 1,
        "failed": 1,
        "unsupported": 1,
        "total": 3,
        "failures": [
            {
                "name": "bad",
                "area": "field",
                "what": "AWS does it.",
                "expected": "this\nand that",
                "found": "nothing",
                "source": "A page",
            }
        ],
        "unsupported_checks": [{"name": "new", "area": "field", "found": "NotImplemented: x"}],
    }


def test_the_table_says_what_was_expected_and_found() -> None:
    good, bad, new = (report.line(each, width=4) for each in OUTCOMES)
    assert good.split() == ["passed", "field", "good", "AWS", "does", "it."]
    assert "expected this and that\n" in bad
    assert "found    nothing\n" in bad
    assert bad.endswith("source   A page")
    assert new.split() == ["unsupported", "field", "new", "NotImplemented:", "x"]
    assert report.summary(OUTCOMES) == "1 passed, 1 failed, 1 unsupported, 3 checks"


def test_the_list_names_every_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    shown = capsys.readouterr().out
    assert all(each.name in shown and each.source in shown for each in all_checks())


@pytest.mark.parametrize(
    ("endpoint", "arguments", "code", "message"),
    [
        ("", [], 2, "AWS_ENDPOINT_URL is not set"),
        ("https://kinesis.us-east-1.amazonaws.com", [], 2, "which takes `--aws`"),
        ("http://127.0.0.1:9", ["--only", "nonsense"], 2, "no check is called nonsense"),
        ("http://127.0.0.1:9", ["--only", "create-stream-*"], 3, "cannot be reached"),
    ],
)
def test_what_cannot_be_run_is_said(
    endpoint: str,
    arguments: list[str],
    code: int,
    message: str,
    *,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    assert main(arguments) == code
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("jobs", ["0", "33", "many"])
def test_jobs_is_a_number_in_bounds(jobs: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--jobs", jobs])
    assert stopped.value.code == 2
