"""Faults at their edges, before a scripted upstream: what is counted is just what has happened."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest

from infra.proxy import control
from infra.proxy.corrections import names
from infra.proxy.corrections.event_stream import encode
from tests.proxy_in_thread import proxied
from tests.scripted_upstream import Upstream, connection_to, ok
from tests.support import eventually

Scripted = Callable[..., tuple[Upstream, str]]

# Understood as the answer to every call that these tests make.
STREAM = {
    "StreamDescriptionSummary": {"StreamName": "orders"},
    "Shards": [
        {
            "ShardId": "shardId-000000000000",
            "HashKeyRange": {"StartingHashKey": "0", "EndingHashKey": str(2**128 - 1)},
            "SequenceNumberRange": {"StartingSequenceNumber": "1"},
        }
    ],
    "ShardIterator": "issued",
    "NextShardIterator": "issued",
}
READ = {"StreamName": "orders", "ShardId": "shardId-000000000000", "ShardIteratorType": "LATEST"}
PUT = {"StreamName": "orders", "Records": [{"Data": "YQ==", "PartitionKey": "k"}]}
WRITTEN = {
    **STREAM,
    "FailedRecordCount": 0,
    "Records": [{"ShardId": "shardId-000000000000", "SequenceNumber": "7"}],
}


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    with ExitStack() as opened:

        def make(answer: bytes, *, pieces: bool = False, **settings: Any) -> Any:
            upstream = Upstream(answer, pieces=pieces)
            opened.callback(upstream.close)
            return upstream, opened.enter_context(proxied(upstream.url, **settings)).url

        yield make


def answer_with(value: object) -> bytes:
    return ok(json.dumps(value).encode())


def call(url: str, operation: str, parameters: dict[str, Any]) -> tuple[int, Any]:
    connection = connection_to(url)
    try:
        headers = {
            "X-Amz-Target": f"Kinesis_20131202.{operation}",
            "Content-Type": "application/x-amz-json-1.1",
        }
        connection.request("POST", "/", json.dumps(parameters), headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def read(url: str) -> tuple[int, Any]:
    return call(url, "GetRecords", {"ShardIterator": "issued"})


def sent(upstream: Upstream, operation: str) -> int:
    return sum(b"." + operation.encode() + b"\r\n" in request for request in upstream.received)


def test_of_two_answers_that_are_to_be_repeated_at_once_none_is_forgotten(scripted: Scripted):
    upstream, url = scripted(answer_with({**STREAM, "Records": []}), pieces=True)
    control.add(url, name="again", action="repeat", count=2)
    upstream.next_piece.release()
    assert call(url, "GetShardIterator", READ)[0] == 200
    with ThreadPoolExecutor() as pool:
        both = [pool.submit(read, url) for _ in range(2)]
        eventually(lambda: sent(upstream, "GetRecords") == 2)
        upstream.next_piece.release(100)
        assert [each.result(30)[0] for each in both] == [200, 200]
    for _ in range(8):
        assert read(url)[0] == 200
    assert control.struck(control.status(url), "again") == 2
    assert sent(upstream, "GetRecords") == 8


def test_a_subscription_is_not_opened_twice(scripted: Scripted):
    event = encode({":event-type": "initial-response"}, b"{}")
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    upstream, url = scripted(head + b"%x\r\n%b\r\n|" % (len(event), event), pieces=True)
    control.add(url, action="send-twice")
    upstream.next_piece.release()
    connection = connection_to(url)
    connection.timeout = 10
    headers = {
        "X-Amz-Target": "Kinesis_20131202.SubscribeToShard",
        "Content-Type": "application/x-amz-json-1.1",
    }
    connection.request("POST", "/", b"{}", headers)
    response = connection.getresponse()
    assert response.read(len(event)) == event
    connection.sock.close()
    response.close()
    connection.close()
    assert control.status(url)["faults"]["pending"] == 1


def test_a_put_of_which_nothing_was_written_is_not_counted_as_sent_twice(scripted: Scripted):
    upstream, url = scripted(answer_with(WRITTEN))
    control.add(url, action="throttle", seconds=60)
    control.add(url, action="send-twice", operation="PutRecords")
    status, answer = call(url, "PutRecords", PUT)
    assert (status, answer["FailedRecordCount"]) == (200, 1)
    assert sent(upstream, "PutRecords") == 0
    assert control.status(url)["faults"]["by_action"] == {"throttle": 1}


def test_entries_do_not_count_as_failed_when_the_whole_call_has(scripted: Scripted):
    upstream, url = scripted(answer_with(WRITTEN))
    control.add(url, name="some", action="partial", records=[0])
    put = {**PUT, "Records": PUT["Records"] * 2}
    assert call(url, "ListShards", {"StreamName": "orders"})[0] == 200
    assert call(url, "PutRecords", put)[1]["FailedRecordCount"] == 1
    control.add(url, name="others", action="partial", records=[0])
    upstream.answer = answer_with({"__type": "InternalFailure"}).replace(b"200 OK", b"500 Oops")
    assert call(url, "PutRecords", put)[0] == 500
    assert control.struck(control.status(url), "others") == 0
    upstream.answer = answer_with(WRITTEN)
    assert call(url, "PutRecords", put)[1]["FailedRecordCount"] == 1
    assert control.struck(control.status(url), "others") == 1


def test_a_fault_knows_iterators_that_were_issued_before_it_was_added(scripted: Scripted):
    _, url = scripted(answer_with({**STREAM, "Records": []}))
    assert call(url, "GetShardIterator", READ)[0] == 200
    assert read(url)[0] == 200
    control.add(url, action="throttle", stream="orders", shard=READ["ShardId"], seconds=60)
    status, answer = read(url)
    assert (status, answer["__type"]) == (400, "ProvisionedThroughputExceededException")


def test_an_iterator_that_was_made_to_expire_stays_so_when_the_faults_are_cleared(
    scripted: Scripted,
):
    _, url = scripted(answer_with({**STREAM, "Records": []}))
    assert call(url, "GetShardIterator", READ)[0] == 200
    control.add(url, action="expire-iterator")
    assert read(url)[1]["__type"] == "ExpiredIteratorException"
    control.clear(url)
    assert read(url)[1]["__type"] == "ExpiredIteratorException"


@pytest.mark.parametrize("corrections", [frozenset(), frozenset(names.ALL)])
def test_iterators_do_not_grow_old_without_quotas(scripted: Scripted, corrections: frozenset[str]):
    answer = answer_with({**STREAM, "Records": []})
    _, url = scripted(answer, corrections=corrections, time_scale=1e9)
    assert call(url, "GetShardIterator", READ)[0] == 200
    assert read(url)[0] == 200


@pytest.mark.parametrize("operation", ["GetShardIterator", "GetRecords", "ListShards"])
def test_an_answer_that_nobody_understands_is_not_the_clients_fault(
    scripted: Scripted, operation: str
):
    upstream, url = scripted(answer_with(STREAM), quotas=True, corrections=frozenset(names.ALL))
    assert call(url, "GetShardIterator", READ)[0] == 200
    upstream.answer = ok(b"<html>")
    parameters = {
        "GetShardIterator": READ,
        "GetRecords": {"ShardIterator": "issued"},
        "ListShards": {"StreamName": "orders", "ShardFilter": {"Type": "AT_LATEST"}},
    }
    status, answer = call(url, operation, parameters[operation])
    assert (status, answer["__type"]) == (502, "ServiceUnavailable")
    assert control.status(url)["upstream_errors"] == 1


def test_operations_that_clients_make_up_do_not_fill_the_memory(scripted: Scripted):
    _, url = scripted(ok())
    connection = connection_to(url)
    for number in range(500):
        connection.request("POST", "/", b"{}", {"X-Amz-Target": f"Made_Up.Operation{number}"})
        assert connection.getresponse().read() == b"{}"
    connection.close()
    status = control.status(url)
    assert status["requests"] == 500
    assert len(status["operations"]) <= 201
    assert sum(each["requests"] for each in status["operations"].values()) == 500


def test_a_repeat_is_given_back_when_its_fault_is_cleared(scripted: Scripted):
    upstream, url = scripted(answer_with({**STREAM, "Records": []}))
    control.add(url, name="again", action="repeat")
    assert call(url, "GetShardIterator", READ)[0] == 200
    assert read(url)[0] == 200
    control.clear(url)
    assert read(url)[0] == 200
    assert sent(upstream, "GetRecords") == 2
    assert control.status(url)["faults"]["by_action"] == {}


def test_a_client_that_leaves_while_it_is_held_gives_its_strikes_back(scripted: Scripted):
    upstream, url = scripted(ok())
    control.add(url, name="stop", action="freeze", operation="ListStreams")
    control.add(url, name="none", action="error", operation="ListStreams")
    connection = connection_to(url)
    connection.request("POST", "/", b"{}", {"X-Amz-Target": "Kinesis_20131202.ListStreams"})
    eventually(lambda: control.status(url)["faults"]["by_action"] == {"freeze": 1})
    assert control.status(url)["faults"]["by_name"]["none"]["pending"] == 0
    connection.close()
    eventually(lambda: control.status(url)["faults"]["by_name"]["none"]["pending"] == 1)
    assert not upstream.received
