"""`producers.aggregated` on a real engine."""

import json
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import pytest

from infra.stack.endpoints import Endpoints
from producers.aggregated import AggregatingProducer, PutResult
from producers.errors import BufferFullError, DeliveryError, ProducerClosedError
from records.aggregation import AggregateBuilder
from records.dead_letter import DeadLetter
from records.envelope import new_record_id, open_envelope, seal
from records.errors import EnvelopeError, InvalidPartitionKey, RecordTooLarge
from records.limits import MAX_RECORD_BYTES
from tests.integration.aggregated_support import (
    Answer,
    Forward,
    all_failed,
    check_account,
    client_of,
    closed_port,
    endpoint_of,
    every_other_fails,
    put_numbered,
    read_back,
    tampering,
)

if TYPE_CHECKING:
    from types_boto3_kinesis import KinesisClient

Streams = Callable[..., str]


def test_many_records_travel_in_few_and_in_order(kinesis: "KinesisClient", stream: Streams) -> None:
    name = stream(shards=2)
    with AggregatingProducer(kinesis, name, ordered=True) as producer:
        puts = put_numbered(producer, range(3000))
    held = read_back(kinesis, name)
    check_account(held, puts, ordered=True)
    assert len(held) < 100
    assert {h.shard.shard_id for h in held} == {put.future.result(0).shard_id for put in puts}
    assert len({h.shard.shard_id for h in held}) == 2


def test_answers_lost_after_the_commit_make_duplicates_that_can_be_told(
    kinesis: "KinesisClient", stack: Endpoints, stream: Streams
) -> None:
    name = stream()
    requests = Counter[str]()

    def tamper(operation: str, body: bytes, forward: Forward) -> Answer | None:
        requests[operation] += 1
        answer = forward(body)
        lost = operation == "PutRecords" and requests[operation] in {1, 2}
        return None if lost else answer

    with (
        tampering(endpoint_of(stack), tamper) as url,
        AggregatingProducer(client_of(url), name, ordered=True) as producer,
    ):
        puts = put_numbered(producer, range(50))
        assert producer.flush(60)
    held = read_back(kinesis, name)
    check_account(held, puts, ordered=True)
    times = Counter(open_envelope(user.data).record_id for h in held for user in h.users())
    assert set(times.values()) >= {3}
    # Sent again to the byte: an aggregate packed anew would be another record.
    assert max(Counter(h.data for h in held).values()) == 3


@pytest.mark.parametrize("way", ["all", "half"])
def test_failures_of_single_records_are_sent_again_whatever_was_counted(
    kinesis: "KinesisClient", stack: Endpoints, stream: Streams, way: str
) -> None:
    name = stream(shards=4)
    requests = Counter[str]()

    def tamper(operation: str, body: bytes, forward: Forward) -> Answer:
        requests[operation] += 1
        if operation != "PutRecords" or requests[operation] > 6:
            return forward(body)
        return all_failed(body) if way == "all" else every_other_fails(body, forward)

    with (
        tampering(endpoint_of(stack), tamper) as url,
        AggregatingProducer(client_of(url), name, max_aggregate_bytes=1000) as producer,
    ):
        puts = put_numbered(producer, range(400))
    held = read_back(kinesis, name)
    check_account(held, puts)
    # No answer was lost, so nothing is there twice.
    assert sum(len(h.users()) for h in held) == len(puts)
    assert max(len(put.attempts) for put in puts) > 1


def test_a_list_of_shards_in_many_pages_is_read_to_its_end(
    kinesis: "KinesisClient", stack: Endpoints, stream: Streams
) -> None:
    name = stream(shards=3)
    asked: list[dict[str, Any]] = []

    def tamper(operation: str, body: bytes, forward: Forward) -> Answer:
        if operation != "ListShards":
            return forward(body)
        asked.append(json.loads(body))
        return forward(json.dumps(asked[-1] | {"MaxResults": 1}).encode())

    with (
        tampering(endpoint_of(stack), tamper) as url,
        AggregatingProducer(client_of(url), name) as producer,
    ):
        puts = put_numbered(producer, range(60))
    check_account(read_back(kinesis, name), puts)
    assert {len(put.attempts) for put in puts} == {1}
    # AWS refuses a token that comes with the stream's name.
    assert [sorted(each) for each in asked] == [["StreamName"], ["NextToken"], ["NextToken"]]


def test_an_unknown_stream_fails_each_record_with_itself_and_the_reason(
    kinesis: "KinesisClient", unique: Callable[[str], str]
) -> None:
    name = unique("missing")
    letters: list[DeadLetter] = []
    with AggregatingProducer(kinesis, name, on_dead_letter=letters.append) as producer:
        future = producer.put("k", b"data", explicit_hash_key=7, record_id="mine")
        error = future.exception(30)
    assert isinstance(error, DeliveryError)
    assert (error.error_code, error.attempts) == ("ResourceNotFoundException", ())
    assert error.record.partition_key == "k"
    assert error.record.explicit_hash_key == 7
    assert error.record.record_id == "mine"
    assert open_envelope(error.record.data).payload == b"data"
    assert [(each.stream, each.data) for each in letters] == [(name, error.record.data)]


def test_a_stream_deleted_on_the_way_fails_what_comes_after_and_only_that(
    kinesis: "KinesisClient", stream: Streams
) -> None:
    name = stream(shards=2)
    letters: list[DeadLetter] = []
    with AggregatingProducer(kinesis, name, on_dead_letter=letters.append) as producer:
        before = put_numbered(producer, range(100))
        assert producer.flush(30)
        kinesis.delete_stream(StreamName=name, EnforceConsumerDeletion=True)
        kinesis.get_waiter("stream_not_exists").wait(
            StreamName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 60}
        )
        after = put_numbered(producer, range(100))
    assert not any(put.error for put in before)
    codes = {put.error and put.error.error_code for put in after}
    assert codes == {"ResourceNotFoundException"}
    assert sorted(json.loads(each.data)["n"] for each in letters) == list(range(100))


def test_a_record_larger_than_the_stream_takes_spoils_nothing_for_others(
    kinesis: "KinesisClient", stream: Streams
) -> None:
    name = stream(shards=2)
    with AggregatingProducer(kinesis, name, max_record_bytes=2 * MAX_RECORD_BYTES) as producer:
        large = producer.put("k", b"x" * (MAX_RECORD_BYTES + 1), explicit_hash_key=0)
        other = producer.put("k", b"x", explicit_hash_key=2**128 - 1)
        same = producer.put("k", b"x", explicit_hash_key=0)
        assert producer.flush(60)
    error = large.exception(0)
    assert isinstance(error, DeliveryError)
    assert error.error_code in {"InvalidArgumentException", "ValidationException"}
    assert other.result(0).shard_id != same.result(0).shard_id


def test_a_dead_endpoint_fills_a_bounded_buffer_and_close_leaves_nothing_pending() -> None:
    letters: list[DeadLetter] = []
    producer = AggregatingProducer(
        client_of(closed_port()),
        "any",
        max_buffered_bytes=10_000,
        max_record_age=None,
        on_dead_letter=letters.append,
    )
    futures: list[Future[PutResult]] = []

    def fill() -> None:
        while len(futures) < 1000:
            futures.append(producer.put("k", b"x" * 100, timeout=0.01))

    with pytest.raises(BufferFullError) as full:
        fill()
    assert full.value.retriable
    assert 50 < len(futures) < 100
    assert not producer.flush(0.01)
    assert not any(future.done() for future in futures)
    producer.close(deadline=0.1)
    errors = [future.exception(0) for future in futures]
    assert all(isinstance(error, DeliveryError) for error in errors)
    assert len(letters) == len(futures)
    with pytest.raises(ProducerClosedError):
        producer.put("k", b"late")
    producer.close()


def test_a_record_of_any_age_is_given_up_in_the_end() -> None:
    with AggregatingProducer(client_of(closed_port()), "any", max_record_age=0.3) as producer:
        error = producer.put("k", b"x").exception(30)
    assert isinstance(error, DeliveryError)
    assert error.error_code == "RecordExpired"
    assert "EndpointConnectionError" in error.error_message


def test_record_ids_are_kept_minted_or_left_out(kinesis: "KinesisClient", stream: Streams) -> None:
    name = stream()
    own = new_record_id()
    with AggregatingProducer(kinesis, name) as producer:
        payload = json.dumps({"record_id": own, "x": 1}).encode()
        kept = producer.put("k", payload)
        framed = producer.put("k", seal(b"\x00bin", "framed"))
        given = producer.put("k", b"\xff\xfe", record_id="given")
        minted = producer.put("k", b'{"x": 2}')
        with pytest.raises(EnvelopeError):
            producer.put("k", payload, record_id="other")
        with pytest.raises(InvalidPartitionKey):
            producer.put("", b"x")
        with pytest.raises(RecordTooLarge):
            producer.put("k", b"x" * MAX_RECORD_BYTES)
    users = [user.data for h in read_back(kinesis, name) for user in h.users()]
    found = [open_envelope(data) for data in users]
    assert users[0] == payload
    ids = [future.result(0).record_id for future in (kept, framed, given, minted)]
    assert [each.record_id for each in found] == ids
    assert ids[:3] == [own, "framed", "given"]
    assert ids[3] not in {None, own}
    assert [each.payload for each in found[1:3]] == [b"\x00bin", b"\xff\xfe"]


def test_bytes_are_left_alone_without_record_ids_even_if_they_are_an_aggregate(
    kinesis: "KinesisClient", stream: Streams
) -> None:
    name = stream()
    builder = AggregateBuilder(max_bytes=1000)
    builder.try_add("inner", b"x")
    blob = builder.build()
    with AggregatingProducer(kinesis, name, record_ids=False) as producer:
        assert producer.put("outer", b"plain").result(30).record_id is None
        producer.put("outer", blob).result(30)
    users = [
        (user.partition_key, user.data) for h in read_back(kinesis, name) for user in h.users()
    ]
    assert users == [("outer", b"plain"), ("outer", blob)]


@pytest.mark.parametrize("error", [RuntimeError("a defect"), ValueError("another")])
def test_a_client_that_breaks_is_retried_and_a_machine_that_breaks_leaves_nothing_pending(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise error

    client: Any = type("Client", (), {"list_shards": broken})()
    producer = AggregatingProducer(client, "any", max_record_age=0.2)
    failed = producer.put("k", b"x").exception(30)
    assert isinstance(failed, DeliveryError)
    assert str(error) in failed.error_message
    step = producer._machine.step
    # From the next record on; it may still look for something to do before that.
    monkeypatch.setattr(
        producer._machine,
        "step",
        lambda now: broken() if producer._machine.buffered_records else step(now),
    )
    future = producer.put("k", b"x")
    failed = future.exception(30)
    assert isinstance(failed, DeliveryError)
    assert failed.error_code == "ProducerFailed"
    with pytest.raises(ProducerClosedError):
        producer.put("k", b"x")
    producer.close()
