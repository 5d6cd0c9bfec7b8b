import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from infra.proxy.decisions import KEPT_LOSSES, Forward, LoseAnswer, Plan, operation_of
from infra.proxy.server import parse_lose


def call(plan: Plan, operation: str, status: int | None = 200) -> bool:
    """One call from arrival to settlement; returns whether its answer was lost."""
    request = plan.arrived(operation, body_bytes=10)
    decision = plan.decide(request)
    if isinstance(decision, LoseAnswer):
        return plan.settle(request, decision, status, at=1.0)
    return False


def test_nothing_is_lost_unasked():
    plan = Plan()
    assert plan.decide(plan.arrived("PutRecords", 1)) == Forward()


def test_exactly_the_asked_number_of_the_asked_operation_is_lost():
    plan = Plan()
    plan.lose("PutRecords", 2)
    lost = [
        call(plan, op) for op in ("GetRecords", "PutRecords", "PutRecord") + ("PutRecords",) * 3
    ]
    assert lost == [False, True, False, True, False, False]


def test_an_error_of_the_upstream_is_not_lost_and_the_loss_stays_due():
    plan = Plan()
    plan.lose("PutRecords", 1)
    assert [call(plan, "PutRecords", status) for status in (400, 500, None, 200, 200)] == [
        *(False, False, False),
        *(True, False),
    ]


def test_two_requests_at_once_do_not_share_one_loss():
    plan = Plan()
    plan.lose("PutRecords", 1)
    first, second = plan.arrived("PutRecords", 1), plan.arrived("PutRecords", 1)
    assert isinstance(plan.decide(first), LoseAnswer)
    assert plan.decide(second) == Forward()


@given(
    due=st.integers(1, 20),
    statuses=st.lists(st.sampled_from([200, 400, 500, None]), max_size=40),
)
def test_losses_are_the_smaller_of_what_was_asked_and_what_succeeded(
    due: int, statuses: list[int | None]
):
    plan = Plan()
    plan.lose("PutRecords", due)
    lost = sum(call(plan, "PutRecords", status) for status in statuses)
    assert lost == min(due, statuses.count(200))
    assert plan.status()["pending"] == due - lost
    assert plan.status()["lost"] == lost == len(plan.losses)
    assert plan.status()["requests"] == len(statuses)


def test_the_status_gives_every_loss_its_reason_and_is_json():
    plan = Plan()
    plan.lose("PutRecords", 1)
    call(plan, "GetRecords")
    call(plan, "PutRecords")
    status = json.loads(json.dumps(plan.status()))
    assert status["losses"] == [
        {
            "request": 2,
            "operation": "PutRecords",
            "reason": "asked to lose an answer to PutRecords",
            "status": 200,
            "at": 1.0,
        }
    ]
    assert status["operations"] == {
        "GetRecords": {"requests": 1, "lost": 0, "pending": 0},
        "PutRecords": {"requests": 1, "lost": 1, "pending": 0},
    }


def test_the_list_of_losses_is_bounded_and_the_count_is_not():
    plan = Plan()
    plan.lose("PutRecords", KEPT_LOSSES + 5)
    for _ in range(KEPT_LOSSES + 5):
        call(plan, "PutRecords")
    assert len(plan.status()["losses"]) == KEPT_LOSSES
    assert plan.status()["lost"] == KEPT_LOSSES + 5


@pytest.mark.parametrize(("operation", "count"), [("", 1), ("PutRecords", 0), ("PutRecords", -1)])
def test_a_loss_needs_an_operation_and_a_count(operation: str, count: int):
    with pytest.raises(ValueError, match="operation"):
        Plan().lose(operation, count)


@pytest.mark.parametrize(
    ("body", "parsed"),
    [
        (b'{"operation": "PutRecords", "count": 2}', ("PutRecords", 2)),
        (b'{"operation": "PutRecord"}', ("PutRecord", 1)),
    ],
)
def test_what_to_lose_is_read_from_json(body: bytes, parsed: tuple[str, int]):
    assert parse_lose(body) == parsed


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"nonsense",
        b'{"count": 1}',
        b'{"operation": 1}',
        b'{"operation": "PutRecords", "count": "2"}',
        b'{"operation": "PutRecords", "count": true}',
        b'{"operation": "PutRecords", "count": 1.5}',
    ],
)
def test_bad_json_is_a_value_error(body: bytes):
    with pytest.raises(ValueError):  # noqa: PT011 - the JSON module has messages of its own
        parse_lose(body)


@pytest.mark.parametrize(
    ("method", "path", "headers", "operation"),
    [
        ("POST", "/", {"x-amz-target": "Kinesis_20131202.PutRecords"}, "PutRecords"),
        ("POST", "/", {"X-Amz-Target": "DynamoDB_20120810.GetItem"}, "GetItem"),
        ("POST", "/service/Kinesis_20131202/operation/PutRecords", {}, "PutRecords"),
        ("GET", "/healthcheck", {}, "GET /healthcheck"),
        ("GET", "/x/operation/y", {}, "GET /x/operation/y"),
    ],
)
def test_the_operation_is_found_in_each_protocol(
    method: str, path: str, headers: dict[str, str], operation: str
):
    assert operation_of(method, path, CIMultiDict(headers)) == operation
