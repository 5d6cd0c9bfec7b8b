"""The table of rates against what the SDK's own model of the API says."""

import re

import botocore.session
import pytest

from infra.proxy.messages import Identity, Refusal
from infra.proxy.quotas.kinesis import KinesisQuotas
from infra.proxy.quotas.rates import RATES, Scope

ME = Identity("key", "eu-west-1")
NUMBERS = {"one": 1, "five": 5}
MODEL = botocore.session.get_session().get_service_model("kinesis")
# Each page has its own words for it. What is counted per shard or consumer has no place here.
WORDINGS = [
    r"limit of (\w+) transactions? per second per (account|(?:data )?stream)\b(?! per open)",
    r"limit of (\w+) transactions per second \(TPS\) for each Amazon Web Services (account)",
    r"(?:more than|over) (\w+) TPS(?! will)()",
]


def documented() -> dict[str, tuple[int, Scope]]:
    found = {}
    for name in MODEL.operation_names:
        text = re.sub(r"<[^>]+>", "", MODEL.operation_model(name).documentation)
        text = re.sub(r"\s+", " ", text)
        for wording in WORDINGS:
            if match := re.search(wording, text):
                calls, scope = match.groups()
                number = NUMBERS.get(calls) or int(calls)
                found[name] = (number, Scope.STREAM if "stream" in scope else Scope.ACCOUNT)
                break
    return found


def test_the_table_is_what_the_model_documents():
    assert {name: (rate.calls, rate.scope) for name, rate in RATES.items()} == documented()


@pytest.mark.parametrize("operation", sorted(RATES))
def test_each_operation_may_be_called_so_often_and_no_more(operation: str):
    now = 0.0
    quotas = KinesisQuotas(lambda: now)
    calls = RATES[operation].calls
    answers = [quotas.control_plane(operation, ME, "orders") for _ in range(calls + 1)]
    assert answers[:-1] == [None] * calls
    assert answers[-1] == Refusal(
        "LimitExceededException",
        "Rate exceeded for stream orders under account 000000000000.",
    )
    now = 1 / calls + 1e-6
    assert quotas.control_plane(operation, ME, "orders") is None
    assert quotas.control_plane(operation, ME, "orders") is not None


@pytest.mark.parametrize(("operation", "shared"), [("DescribeStream", True), ("ListShards", False)])
def test_what_is_counted_together(operation: str, shared: bool):  # noqa: FBT001 - a parameter
    quotas = KinesisQuotas(lambda: 0.0)
    while quotas.control_plane(operation, ME, "orders") is None:
        pass
    assert (quotas.control_plane(operation, ME, "others") is not None) is shared
    for other in (Identity("other", ME.region), Identity(ME.account, "us-east-1")):
        assert quotas.control_plane(operation, other, "orders") is None


def test_a_call_that_names_no_stream_is_counted_and_refused_too():
    quotas = KinesisQuotas(lambda: 0.0)
    answers = [quotas.control_plane("ListStreams", ME, None) for _ in range(6)]
    assert answers[:5] == [None] * 5
    assert answers[5] == Refusal(
        "LimitExceededException", "Rate exceeded under account 000000000000."
    )


def test_operations_do_not_share():
    quotas = KinesisQuotas(lambda: 0.0)
    while quotas.control_plane("SplitShard", ME, "orders") is None:
        pass
    assert quotas.control_plane("MergeShards", ME, "orders") is None


def test_what_the_table_does_not_name_is_never_refused():
    quotas = KinesisQuotas(lambda: 0.0)
    for operation in ("PutRecords", "GetRecords", "StartStreamEncryption", "NoSuchOperation"):
        assert [quotas.control_plane(operation, ME, "orders") for _ in range(99)] == [None] * 99
