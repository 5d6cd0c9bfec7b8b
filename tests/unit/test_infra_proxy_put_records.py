"""PutRecords and PutRecord: what is refused stays here, what is accepted goes on in its order."""

import asyncio
import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.proxy.exchange import Answer
from infra.proxy.fault import Action, Fault, Subject
from infra.proxy.messages import decode
from infra.proxy.operations.put_records import put_record, put_records
from infra.proxy.upstream import UpstreamError
from records.limits import KIB, MAX_HASH_KEY, MIB
from tests.unit.proxy_desk_support import CBOR, Clock, Engine, call, desk_before, read, shard

THROTTLED = "ProvisionedThroughputExceededException"
HALF = MAX_HASH_KEY // 2


def entry(number: int, size: int = 1, **more: Any) -> dict[str, Any]:
    data = base64.b64encode(b"%0*d" % (size, number)).decode()
    return {"Data": data, "PartitionKey": "k", **more}


def put(*entries: dict[str, Any], **settings: Any) -> Any:
    return call("PutRecords", {"StreamName": "orders", "Records": list(entries)}, **settings)


@given(st.lists(st.integers(1, 300), min_size=1, max_size=30))
def test_what_is_refused_never_goes_on_and_what_is_accepted_does_in_order(kib: list[int]):
    engine = Engine()
    sent = [entry(n, size * KIB) for n, size in enumerate(kib)]
    answer = read(asyncio.run(put_records(put(*sent), desk_before(engine, Clock()), None)))
    accepted = [n for n, result in enumerate(answer["Records"]) if "ErrorCode" not in result]
    assert engine.written == [sent[n] for n in accepted]
    assert answer["FailedRecordCount"] == len(sent) - len(accepted)
    assert len(answer["Records"]) == len(sent)
    numbers = [answer["Records"][n]["SequenceNumber"] for n in accepted]
    assert numbers == [str(n + 1) for n in range(len(accepted))]
    left, expected = MIB, []
    for n, size in enumerate(kib):
        if size * KIB + 1 <= left:
            left -= size * KIB + 1
            expected.append(n)
    assert accepted == expected


def test_the_failures_are_counted_by_the_entries_and_not_by_the_engine():
    engine = Engine()
    failed = {"ErrorCode": "InternalFailure", "ErrorMessage": "Internal service failure."}
    # So does LocalStack: it counts the call.
    engine.scripted["PutRecords"] = (200, {"FailedRecordCount": 1, "Records": [failed, failed]})
    sent = [entry(0), entry(1), entry(2, MIB - 1)]
    answer = read(asyncio.run(put_records(put(*sent), desk_before(engine, Clock()), None)))
    assert answer["FailedRecordCount"] == 3
    assert [result["ErrorCode"] for result in answer["Records"]] == [
        "InternalFailure",
        "InternalFailure",
        THROTTLED,
    ]


def test_all_refused_goes_nowhere():
    engine, clock = Engine(), Clock()
    desk = desk_before(engine, clock)
    full = entry(0, MIB - 1)
    assert read(asyncio.run(put_records(put(full), desk, None)))["FailedRecordCount"] == 0
    answer = asyncio.run(put_records(put(entry(1), entry(2)), desk, None))
    assert (answer.status, read(answer)["FailedRecordCount"]) == (200, 2)
    single = asyncio.run(put_record(call("PutRecord", {"StreamName": "orders", **full}), desk))
    assert (single.status, single.refused, read(single)["__type"]) == (400, True, THROTTLED)
    assert (engine.reached("PutRecords"), engine.reached("PutRecord")) == (1, 0)
    clock.now += 1
    asyncio.run(put_record(call("PutRecord", {"StreamName": "orders", **full}), desk))
    assert engine.reached("PutRecord") == 1


def test_what_is_accepted_whole_goes_on_byte_for_byte():
    engine = Engine()
    body = b' {"Records": [{"PartitionKey":"k","Data":"QQ=="}],"StreamName":"orders"} '
    asyncio.run(put_records(call("PutRecords", body), desk_before(engine, Clock()), None))
    assert engine.received[-1][2] == body


def test_in_cbor_it_is_the_same():
    engine = Engine()
    records = [{"Data": bytes(600 * KIB), "PartitionKey": "k"}] * 2
    parameters = {"StreamName": "orders", "Records": records, "Other": "kept"}
    made = call("PutRecords", parameters, content_type=CBOR)
    answer = asyncio.run(put_records(made, desk_before(engine, Clock()), None))
    assert decode(engine.received[-1][2], cbor=True) == {**parameters, "Records": records[:1]}
    value = decode(answer.body, cbor=True)
    assert (value["FailedRecordCount"], value["EncryptionType"]) == (1, "NONE")
    assert [result.get("ErrorCode") for result in value["Records"]] == [None, THROTTLED]


def test_users_of_one_account_share_what_a_shard_takes():
    engine = Engine()
    desk = desk_before(engine, Clock())

    def failed(key: str) -> int:
        answer = asyncio.run(put_records(put(entry(0, MIB - 1), key=key), desk, None))
        return int(read(answer)["FailedRecordCount"])

    assert [failed(key) for key in ("alice", "bob", "111122223333")] == [0, 1, 0]


@pytest.mark.parametrize(
    "records", [None, {}, [], [{"SequenceNumber": "1", "ShardId": "s"}] * 2], ids=str
)
def test_an_answer_with_another_number_of_records_is_the_engines_fault(records: Any):
    engine = Engine()
    engine.scripted["PutRecords"] = (200, {"Records": records})
    with pytest.raises(UpstreamError, match="another number"):
        asyncio.run(put_records(put(entry(0)), desk_before(engine, Clock()), None))


def test_the_engines_own_refusal_passes():
    engine = Engine()
    engine.scripted["PutRecords"] = (500, {"__type": "InternalFailure"})
    for sent in ([entry(0)], [entry(0), entry(1, MIB - 1)]):
        answer = asyncio.run(put_records(put(*sent), desk_before(engine, Clock()), None))
        assert (answer.status, read(answer)) == (500, {"__type": "InternalFailure"})


def test_without_quotas_and_faults_it_is_not_even_looked_at():
    engine = Engine()
    desk = desk_before(engine, Clock(), quotas=False, corrections="list-shards-filter")
    engine.scripted["PutRecords"] = (200, {"Records": "whatever"})
    answer = asyncio.run(put_records(put(entry(0)), desk, None))
    assert read(answer) == {"Records": "whatever"}
    asyncio.run(put_record(call("PutRecord", {"StreamName": "orders", **entry(0)}), desk))
    assert [name for name, _, _ in engine.received] == ["PutRecords", "PutRecord"]


def test_without_quotas_a_shard_can_be_throttled_and_the_limits_are_the_engines():
    engine = Engine()
    fault = Fault(action=Action.THROTTLE, operations=("PutRecords",), seconds=60)
    desk = desk_before(engine, Clock(), fault, quotas=False)
    answer = asyncio.run(put_records(put(*[entry(n) for n in range(501)]), desk, None))
    assert (answer.status, len(engine.written)) == (200, 501)
    desk.faults.arrived(Subject("PutRecords", "orders"))
    answer = read(asyncio.run(put_records(put(entry(0), entry(1)), desk, None)))
    assert [result["ErrorCode"] for result in answer["Records"]] == [THROTTLED] * 2
    assert len(engine.written) == 501


def test_records_go_to_their_shards_by_either_key_and_each_has_a_quota():
    engine = Engine()
    engine.shards = [shard(1, 0, HALF), shard(2, HALF + 1)]
    keys = (0, HALF, HALF + 1, MAX_HASH_KEY)
    sent = [entry(n, 600 * KIB, ExplicitHashKey=str(key)) for n, key in enumerate(keys)]
    answer = read(asyncio.run(put_records(put(*sent), desk_before(engine, Clock()), None)))
    refused = [n for n, result in enumerate(answer["Records"]) if "ErrorCode" in result]
    assert refused == [1, 3]
    assert f"shard {engine.shards[0]['ShardId']} in" in answer["Records"][1]["ErrorMessage"]
    assert f"shard {engine.shards[1]['ShardId']} in" in answer["Records"][3]["ErrorMessage"]


def test_where_the_list_of_shards_has_a_gap_nothing_is_charged():
    engine = Engine()
    engine.shards = [shard(2, HALF + 1)]
    desk = desk_before(engine, Clock())
    sent = [entry(n, MIB - 1, ExplicitHashKey="0") for n in range(3)]
    answer = read(asyncio.run(put_records(put(*sent), desk, None)))
    assert answer["FailedRecordCount"] == 0
    assert desk.quotas is not None
    assert desk.quotas.rows() == []


@pytest.mark.parametrize("operation", ["PutRecord", "PutRecords"])
def test_a_record_that_lands_elsewhere_lets_the_shards_be_asked_for(operation: str):
    engine = Engine()
    desk = desk_before(engine, Clock())

    def send() -> Answer:
        if operation == "PutRecords":
            return asyncio.run(put_records(put(entry(0)), desk, None))
        return asyncio.run(put_record(call(operation, {"StreamName": "orders", **entry(0)}), desk))

    send()
    assert (send().status, engine.reached("ListShards")) == (200, 1)
    engine.shards = [shard(1)]
    send()
    assert (send().status, engine.reached("ListShards")) == (200, 2)
    assert desk.quotas is not None
    assert [row.shard_id[-1] for row in desk.quotas.rows()] == ["0", "1"]


def test_a_stream_that_is_missing_is_the_engines_to_name():
    engine = Engine()
    missing = {"__type": "ResourceNotFoundException", "message": "no"}
    engine.scripted = dict.fromkeys(("DescribeStreamSummary", "PutRecords"), (400, missing))
    answer = asyncio.run(put_records(put(entry(0)), desk_before(engine, Clock()), None))
    assert (answer.status, read(answer)) == (400, missing)
    # What AWS refuses for itself alone it refuses before it looks for the stream.
    refusal = asyncio.run(put_records(put(), desk_before(engine, Clock()), None))
    assert read(refusal)["__type"] == "ValidationException"
