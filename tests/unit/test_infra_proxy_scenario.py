import json
from pathlib import Path

import pytest

import infra.proxy
from infra.proxy.fault import Action, Fault, Subject
from infra.proxy.faults import FaultPlan
from infra.proxy.scenario import Scenario, ScenarioError, fault_from, load

BAD_DAY = Path(infra.proxy.__file__).parent / "scenarios" / "bad_day.toml"


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "day.toml"
    path.write_text(text)
    return path


def test_a_scenario_is_a_seed_and_faults(tmp_path: Path):
    text = """
        seed = 7
        [[fault]]
        action = "lose"
        operation = "PutRecords"
        count = 2
        after-seconds = 5
        [[fault]]
        name = "some"
        action = "partial"
        operations = ["PutRecords"]
        stream = "orders"
        probability = 1
        for_seconds = 60
        records = [0, 2]
        code = "InternalFailure"
        [[fault]]
        action = "expire_iterator"
        shard = "shardId-000000000000"
    """
    assert load(written(tmp_path, text)) == Scenario(
        7,
        (
            Fault(action=Action.LOSE, operations=("PutRecords",), count=2, after_seconds=5.0),
            Fault(
                action=Action.PARTIAL,
                name="some",
                operations=("PutRecords",),
                stream="orders",
                for_seconds=60.0,
                records=(0, 2),
                code="InternalFailure",
            ),
            Fault(action=Action.EXPIRE_ITERATOR, shard="shardId-000000000000"),
        ),
    )


def test_an_empty_scenario_is_no_fault(tmp_path: Path):
    assert load(written(tmp_path, "")) == Scenario(0, ())


def test_the_bad_day_has_one_fault_of_each_kind_at_least_and_each_one_strikes():
    scenario = load(BAD_DAY)
    assert {fault.action for fault in scenario.faults} == set(Action)
    now = 0.0
    plan = FaultPlan(seed=scenario.seed, clock=lambda: now)
    plan.add(*scenario.faults)
    shard = "shardId-000000000000"
    subjects = [
        Subject("PutRecords", "orders"),
        Subject("GetRecords", "orders", shard),
        Subject("ListShards", "orders"),
    ]
    for number in range(3000):
        now = number / 10
        for strike in plan.arrived(subjects[number % 3]):
            plan.settle(strike, happened=True)
    assert [name for name, row in plan.status()["by_name"].items() if not row["struck"]] == []


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({}, "action: missing; one of lose, reset-before"),
        ({"action": "loose"}, "action: there is no 'loose'; did you mean lose?"),
        ({"action": "quack!"}, "action: there is no 'quack!'; there are lose, reset-before"),
        ({"action": 3}, "action: text is expected, not 3"),
        ({"action": "lose", "opertion": "X"}, "opertion: unknown; did you mean operation?"),
        ({"action": "lose", "zzz": 1}, "zzz: unknown; there are action, name, operations"),
        ({"action": "lose", "operation": "A", "operations": ["B"]}, "operations: given twice"),
        ({"action": "lose", "for-seconds": 1, "for_seconds": 1}, "for_seconds: given twice"),
        ({"action": "lose", "operation": 1}, "operation: text is expected, not 1"),
        ({"action": "lose", "operation": ["A", 1]}, "operation: text is expected, not 1"),
        ({"action": "lose", "operation": ""}, "operations: names of API operations"),
        ({"action": "lose", "name": "a\nb"}, "name: a name in one line"),
        ({"action": "lose", "name": "\ud800"}, "name: a name in one line"),
        ({"action": "lose", "stream": ""}, "stream: the name of a stream"),
        ({"action": "lose", "shard": ""}, "shard: the ID of a shard"),
        ({"action": "lose", "count": 0}, "count: a count of at least 1, not 0"),
        ({"action": "lose", "count": 1.0}, "count: a whole number is expected, not 1.0"),
        ({"action": "lose", "count": True}, "count: a whole number is expected, not True"),
        ({"action": "lose", "count": None}, "count: a whole number is expected, not None"),
        ({"action": "lose", "skip": -1}, "skip: a count of at least 0, not -1"),
        ({"action": "lose", "probability": 0}, "probability: a number above 0 and up to 1"),
        ({"action": "lose", "probability": 1.1}, "probability: a number above 0 and up to 1"),
        ({"action": "lose", "probability": "1"}, "probability: a number is expected, not '1'"),
        ({"action": "lose", "probability": True}, "probability: a number is expected, not True"),
        ({"action": "lose", "after-seconds": -1}, "after_seconds: seconds, at least 0"),
        ({"action": "lose", "for-seconds": 0}, "for_seconds: seconds, above 0"),
        ({"action": "lose", "for-seconds": float("inf")}, "for_seconds: seconds, above 0"),
        ({"action": "lose", "seconds": 1}, "seconds: lose takes none"),
        ({"action": "delay"}, "seconds: delay needs a number of seconds"),
        ({"action": "delay", "seconds": float("nan")}, "seconds: seconds, above 0"),
        ({"action": "delay", "seconds": 10**400}, "seconds: too large"),
        ({"action": "throttle"}, "seconds: throttle needs a number of seconds"),
        (
            {"action": "throttle", "operation": "ListShards", "seconds": 1},
            "operations: throttle is for PutRecord, PutRecords, GetRecords",
        ),
        ({"action": "error", "status": 200}, "status: a status of 400 to 599, not 200"),
        ({"action": "error", "status": 400}, "code: status 400 needs a code"),
        ({"action": "error", "code": "a b"}, "code: an error code such as InternalFailure"),
        ({"action": "delay", "seconds": 1, "status": 500}, "status: delay takes none"),
        ({"action": "partial"}, "share: partial needs either a share or records"),
        (
            {"action": "partial", "share": 0.5, "records": [1]},
            "share: partial needs either a share or records",
        ),
        ({"action": "partial", "share": 0}, "share: a number above 0 and up to 1"),
        ({"action": "partial", "records": []}, "records: one or more indices of 0 to 499"),
        ({"action": "partial", "records": [500]}, "records: one or more indices of 0 to 499"),
        ({"action": "partial", "records": 1}, "records: a list of whole numbers is expected"),
        ({"action": "partial", "share": 1, "code": "Odd"}, "code: the code of an entry is Prov"),
        (
            {"action": "partial", "share": 1, "operation": "PutRecord"},
            "operations: partial is for PutRecords",
        ),
        ({"action": "partial", "share": 1, "shard": "s"}, "shard: a put may go to any shard"),
        (
            {"action": "lose", "operation": "PutRecord", "shard": "s"},
            "shard: a put may go to any shard",
        ),
        (
            {"action": "expire-iterator", "operation": "PutRecords"},
            "operations: expire-iterator is for GetRecords",
        ),
        (
            {"action": "send-twice", "operation": ["PutRecords", "SubscribeToShard"]},
            "operations: send-twice is not for SubscribeToShard",
        ),
    ],
)
def test_what_does_not_fit_is_named(mapping: dict[str, object], message: str):
    with pytest.raises(ScenarioError) as caught:
        fault_from(mapping)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed = 'x'", "seed: a whole number is expected, not 'x'"),
        ("sed = 1", "sed: unknown; did you mean seed?"),
        ("[fault]\naction = 'lose'", "fault: each one is a table of its own, [[fault]]"),
        ("fault = [1]", "fault 1: a table is expected, not 1"),
        (
            "[[fault]]\naction = 'lose'\n[[fault]]\naction = 'delay'",
            "fault 2: seconds: delay needs a number of seconds",
        ),
        ("[[fault]]\nname = 'slow'\naction = 'delay'", "fault 1 (slow): seconds: delay needs"),
        (
            "[[fault]]\nname = 'a'\naction = 'lose'\n[[fault]]\nname = 'a'\naction = 'repeat'",
            "name: there is another fault 'a'",
        ),
        ("[[fault]", "Expected"),
        ("x = '\udcff'", "'utf-8' codec can't decode"),
    ],
)
def test_the_file_and_the_fault_are_named(tmp_path: Path, text: str, message: str):
    path = tmp_path / "day.toml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ScenarioError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(ScenarioError, match=r"day\.toml: No such file"):
        load(tmp_path / "day.toml")


def test_json_and_toml_say_the_same(tmp_path: Path):
    fields = {"action": "delay", "seconds": 1, "operation": ["A", "B"], "probability": 0.5}
    toml = "[[fault]]\n" + "\n".join(f"{k} = {json.dumps(v)}" for k, v in fields.items())
    assert load(written(tmp_path, toml)).faults == (fault_from(fields),)
