"""What `AggregatingProducer` makes of the service's answers: fatal, strange, wrong, or telling."""

import base64
import json
import logging
import random
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.config import Config

from infra.stack.endpoints import Endpoints
from producers.aggregated import AggregatingProducer
from producers.aggregated.calls import Calls
from producers.aggregated.values import Listed
from producers.errors import DeliveryError
from producers.put_records import Failure
from records.errors import RecordTooLarge
from records.limits import MIB
from tests.integration.aggregated_support import (
    Answer,
    Forward,
    Tamper,
    check_account,
    client_of,
    closed_port,
    described,
    endpoint_of,
    put_numbered,
    read_back,
    refused,
    shard_id,
    stored_on,
    tampering,
)

if TYPE_CHECKING:
    from types_boto3_kinesis import KinesisClient

Streams = Callable[..., str]

FATAL = [
    "AccessDeniedException",
    "UnrecognizedClientException",
    "ResourceNotFoundException",
    "KMSDisabledException",
    "KMSAccessDeniedException",
    "KMSInvalidStateException",
    "KMSNotFoundException",
    "KMSOptInRequired",
    "SomethingNobodyKnows",
]


def counting(requests: "Counter[str]", tamper: Tamper) -> Tamper:
    def counted(operation: str, body: bytes, forward: Forward) -> Answer | None:
        requests[operation] += 1
        return tamper(operation, body, forward)

    return counted


@pytest.mark.parametrize("code", FATAL)
def test_what_will_never_pass_fails_each_record_at_its_first_request(
    stack: Endpoints, stream: Streams, code: str
) -> None:
    name = stream(shards=2)
    requests = Counter[str]()

    def tamper(operation: str, body: bytes, forward: Forward) -> Answer:
        return refused(code) if operation == "PutRecords" else forward(body)

    with (
        tampering(endpoint_of(stack), counting(requests, tamper)) as url,
        AggregatingProducer(client_of(url), name, max_record_age=None) as producer,
    ):
        puts = put_numbered(producer, range(50))
        assert producer.flush(30)
    assert requests["PutRecords"] == 1
    for put in puts:
        assert put.error
        assert (put.error.error_code, put.error.retriable) == (code, False)
        assert "is what it is" in put.error.error_message
        assert [attempt.error_code for attempt in put.attempts] == [code]
        assert put.error.record.partition_key == put.key


@pytest.mark.parametrize("code", ["AccessDeniedException", "ResourceNotFoundException"])
def test_a_list_of_shards_that_is_refused_for_good_fails_what_waits_for_it(
    stack: Endpoints, stream: Streams, code: str
) -> None:
    name = stream()
    requests = Counter[str]()

    def tamper(operation: str, body: bytes, forward: Forward) -> Answer:
        return refused(code) if operation == "ListShards" else forward(body)

    with (
        tampering(endpoint_of(stack), counting(requests, tamper)) as url,
        AggregatingProducer(client_of(url), name, max_record_age=None) as producer,
    ):
        puts = put_numbered(producer, range(50))
        assert producer.flush(30)
    assert {(put.error and put.error.error_code, put.attempts) for put in puts} == {(code, ())}
    assert requests["PutRecords"] == 0
    assert requests["ListShards"] <= len(puts)


def short(_body: bytes, answer: Any) -> Answer:
    return 200, json.dumps(answer | {"Records": answer["Records"][:-1]}).encode()


def neither(_body: bytes, answer: Any) -> Answer:
    return 200, json.dumps(answer | {"Records": [{} for _ in answer["Records"]]}).encode()


def garbage(_body: bytes, _answer: Any) -> Answer:
    return 200, b"<html>a proxy's own page"


def empty(_body: bytes, _answer: Any) -> Answer:
    return 200, b""


def page_503(_body: bytes, _answer: Any) -> Answer:
    return 503, b"<html><body>Service Unavailable</body></html>"


@pytest.mark.parametrize("way", [short, neither, garbage, empty, page_503])
def test_an_answer_that_says_nothing_is_a_lost_answer(
    kinesis: "KinesisClient", stack: Endpoints, stream: Streams, way: Callable[[bytes, Any], Answer]
) -> None:
    name = stream(shards=2)
    requests = Counter[str]()

    def tamper(operation: str, body: bytes, forward: Forward) -> Answer:
        status, content = forward(body)
        if operation == "PutRecords" and requests[operation] <= 2:
            assert status == 200
            return way(body, json.loads(content))
        return status, content

    with (
        tampering(endpoint_of(stack), counting(requests, tamper)) as url,
        AggregatingProducer(client_of(url), name) as producer,
    ):
        puts = put_numbered(producer, range(50))
        assert producer.flush(60)
    times = check_account(read_back(kinesis, name), puts)
    assert not any(put.error for put in puts)
    # They were stored each time, and the producer could not know.
    assert max(times.values()) > 1
    assert times == {put.record_id: len(put.attempts) for put in puts}


@pytest.mark.parametrize(
    ("code", "retriable"),
    [
        ("ProvisionedThroughputExceededException", True),
        ("InternalFailure", True),
        ("SomethingNobodyKnows", False),
    ],
)
def test_a_code_of_single_records_is_theirs_alone(
    kinesis: "KinesisClient", stack: Endpoints, stream: Streams, code: str, *, retriable: bool
) -> None:
    name = stream(shards=2)
    requests = Counter[str]()

    def tamper(operation: str, body: bytes, forward: Forward) -> Answer:
        if operation != "PutRecords" or requests[operation] > 1:
            return forward(body)
        request = json.loads(body)
        others = request["Records"][1:]
        failed = {"ErrorCode": code, "ErrorMessage": "no"}
        _, content = forward(json.dumps(request | {"Records": others}).encode())
        results = [failed, *json.loads(content)["Records"]]
        return 200, json.dumps({"FailedRecordCount": 1, "Records": results}).encode()

    with (
        tampering(endpoint_of(stack), counting(requests, tamper)) as url,
        AggregatingProducer(client_of(url), name, max_aggregate_bytes=500) as producer,
    ):
        puts = put_numbered(producer, range(200))
        assert producer.flush(60)
    struck = [put for put in puts if put.attempts[0].error_code]
    assert 0 < len(struck) < 50
    assert {put.attempts[0].error_code for put in struck} == {code}
    assert {put.error is None for put in struck} == {retriable}
    assert {len(put.attempts) for put in puts if put not in struck} == {1}
    assert set(check_account(read_back(kinesis, name), puts).values()) == {1}


def auto(rng: random.Random, starts: list[int]) -> Tamper:
    """A stream whose service spreads records as it likes, whatever hash key they name."""

    def tamper(operation: str, body: bytes, forward: Forward) -> Answer:
        if operation == "DescribeStreamSummary":
            return described(forward(body), RecordDistributionStrategy="AUTO")
        if operation == "PutRecords":
            request = json.loads(body)
            for entry in request["Records"]:
                entry["ExplicitHashKey"] = str(rng.choice(starts))
            body = json.dumps(request).encode()
        return forward(body)

    return tamper


def test_where_the_service_spreads_records_each_travels_alone_and_stands_anywhere(
    kinesis: "KinesisClient", stack: Endpoints, stream: Streams
) -> None:
    name = stream(shards=3)
    requests = Counter[str]()
    starts = [n * 2**128 // 3 + 1 for n in range(3)]
    with (
        tampering(endpoint_of(stack), counting(requests, auto(random.Random(1), starts))) as url,
        AggregatingProducer(client_of(url), name) as producer,
    ):
        puts = put_numbered(producer, range(200), keys=1)
        assert producer.flush(60)
    held = read_back(kinesis, name)
    assert set(check_account(held, puts).values()) == {1}
    assert {len(put.attempts) for put in puts} == {1}
    assert all(h.lone for h in held)
    # One key, and all shards have it: nothing was asked again for that.
    assert len({put.future.result(0).shard_id for put in puts}) == 3
    assert requests["ListShards"] == 1


def test_no_order_is_promised_where_the_service_spreads_records(
    stack: Endpoints, stream: Streams
) -> None:
    name = stream(shards=3)
    requests = Counter[str]()
    with (
        tampering(endpoint_of(stack), counting(requests, auto(random.Random(1), [0]))) as url,
        AggregatingProducer(client_of(url), name, ordered=True) as producer,
    ):
        error = producer.put("k", b"x").exception(30)
    assert isinstance(error, DeliveryError)
    assert (error.error_code, error.attempts, error.retriable) == ("UnorderedStream", (), False)
    assert requests["PutRecords"] == 0


def test_the_streams_own_record_size_is_asked_for_once_and_obeyed(
    stack: Endpoints, stream: Streams
) -> None:
    name = stream()
    requests = Counter[str]()
    taken: list[int] = []

    def tamper(operation: str, body: bytes, forward: Forward) -> Answer:
        if operation == "DescribeStreamSummary":
            return described(forward(body), MaxRecordSizeInKiB=2048)
        if operation != "PutRecords":
            return forward(body)
        # Not every engine has streams that take more than 1 MiB.
        sizes = [len(base64.b64decode(entry["Data"])) for entry in json.loads(body)["Records"]]
        taken.extend(sizes)
        return stored_on(shard_id(0) for _ in sizes)

    with (
        tampering(endpoint_of(stack), counting(requests, tamper)) as url,
        AggregatingProducer(client_of(url), name, record_ids=False) as producer,
    ):
        with pytest.raises(RecordTooLarge) as error:
            producer.put("k", bytes(2 * MIB))
        assert error.value.limit == 2 * MIB
        assert producer.put("k", bytes(2 * MIB - 1)).result(60)
        assert producer.put("k", b"x").result(60)
    assert taken == [2 * MIB - 1, 1]
    assert requests["DescribeStreamSummary"] == 1


@pytest.mark.parametrize("code", ["AccessDeniedException", "UnknownOperationException"])
def test_a_stream_that_may_not_be_described_is_taken_for_one_of_1_mib(
    kinesis: "KinesisClient", stack: Endpoints, stream: Streams, code: str
) -> None:
    name = stream()

    def tamper(operation: str, body: bytes, forward: Forward) -> Answer:
        return refused(code) if operation == "DescribeStreamSummary" else forward(body)

    with (
        tampering(endpoint_of(stack), tamper) as url,
        AggregatingProducer(client_of(url), name, record_ids=False) as producer,
    ):
        assert producer.put("k", bytes(MIB - 1)).result(30).shard_id
        with pytest.raises(RecordTooLarge):
            producer.put("k", bytes(MIB))
    assert len(read_back(kinesis, name)) == 1


def test_a_description_that_fails_in_passing_is_asked_for_again(
    stack: Endpoints, stream: Streams
) -> None:
    name = stream()
    asked = 0

    def tamper(operation: str, body: bytes, forward: Forward) -> Answer:
        nonlocal asked
        if operation != "DescribeStreamSummary":
            return forward(body)
        asked += 1
        if asked % 2:
            return refused("LimitExceededException")
        return described(forward(body), MaxRecordSizeInKiB=2048, RecordDistributionStrategy="AUTO")

    with tampering(endpoint_of(stack), tamper) as url:
        calls = Calls(client_of(url), name)
        first = calls.list()
        assert isinstance(first, Failure)
        assert (first.code, first.retriable) == ("LimitExceededException", True)
        for _ in range(3):  # The second of them is what was said before.
            told = calls.list()
            assert isinstance(told, Listed)
            assert (told.auto, told.max_record_bytes) == (True, 2 * MIB)
            assert len(told.shards) == 1
        assert asked == 4


def test_records_do_not_wait_for_ever_for_a_description(stack: Endpoints, stream: Streams) -> None:
    name = stream()

    def tamper(operation: str, body: bytes, forward: Forward) -> Answer:
        if operation == "DescribeStreamSummary":
            return refused("InternalFailure", status=500)
        return forward(body)

    with (
        tampering(endpoint_of(stack), tamper) as url,
        AggregatingProducer(client_of(url), name) as producer,
    ):
        assert producer.put("k", b"x").result(60).shard_id


@pytest.mark.parametrize("retries", [None, {"mode": "standard", "total_max_attempts": 3}])
def test_a_client_with_retries_of_its_own_is_named_in_a_warning(
    caplog: pytest.LogCaptureFixture, retries: Any
) -> None:
    session = boto3.session.Session()
    endpoint = closed_port()
    loud = session.client("kinesis", endpoint_url=endpoint, config=Config(retries=retries))
    with caplog.at_level(logging.WARNING):
        AggregatingProducer(client_of(endpoint), "quiet").close()
        assert not caplog.records
        AggregatingProducer(loud, "orders").close()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "orders" in record.getMessage()
    assert "retries" in record.getMessage()
