import random
from collections.abc import Callable, Iterator
from itertools import count, islice, pairwise
from typing import Any

import pytest
from botocore.exceptions import (
    ClientError,
    CredentialRetrievalError,
    EndpointConnectionError,
    NoCredentialsError,
    ParamValidationError,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from producers.put_records import (
    BACKOFF_CAP_SECONDS,
    Outcome,
    Record,
    backoff_seconds,
    batches,
    deliver,
    put_once,
    put_records,
)
from records.limits import MAX_PUT_REQUEST_BYTES, MAX_RECORD_BYTES, record_bytes

THROTTLED = "ProvisionedThroughputExceededException"


class Script:
    """A client that answers as it is told and keeps what it was asked."""

    def __init__(self, answer: Callable[[list[dict[str, Any]]], dict[str, Any]]) -> None:
        self.requests: list[list[dict[str, Any]]] = []
        self._answer = answer

    def put_records(self, *, StreamName: str, Records: list[dict[str, Any]]) -> dict[str, Any]:  # noqa: N803 - boto3's names
        assert StreamName == "s"
        self.requests.append(Records)
        return self._answer(Records)


def stored(_entry: dict[str, Any]) -> dict[str, Any]:
    return {"ShardId": "shard-0", "SequenceNumber": "1"}


def failed(code: str) -> dict[str, Any]:
    return {"ErrorCode": code, "ErrorMessage": "told"}


def all_stored(entries: list[dict[str, Any]]) -> dict[str, Any]:
    return {"FailedRecordCount": 0, "Records": [stored(e) for e in entries]}


def put(client: Any, records: Any, **options: Any) -> list[Outcome]:
    defaults: dict[str, Any] = {"sleep": lambda _seconds: None, "rng": random.Random(1)}
    return put_records(client, "s", records, **defaults | options)


def numbered(how_many: int) -> list[Record]:
    return [Record("k", b"%d" % n) for n in range(how_many)]


sizes = st.lists(st.integers(0, 40), max_size=60)


@given(sizes=sizes, most=st.integers(1, 7), room=st.integers(1, 60))
@settings(max_examples=200)
def test_batches_keep_the_order_and_the_limits_and_are_as_few_as_that_allows(
    sizes: list[int], most: int, room: int
) -> None:
    records = [Record("kä", b"x" * size) for size in sizes]
    made = list(batches(records, max_records=most, max_bytes=room))
    assert [record for batch in made for record in batch] == records
    held = [[record_bytes(r.partition_key, r.data) for r in batch] for batch in made]
    for batch in held:
        assert 1 <= len(batch) <= most
        assert sum(batch) <= room or len(batch) == 1
    for batch, following in pairwise(held):
        assert len(batch) == most or sum(batch) + following[0] > room


def test_501_records_become_two_requests() -> None:
    client = Script(all_stored)
    outcomes = put(client, numbered(501))
    assert [len(request) for request in client.requests] == [500, 1]
    assert all(o.delivered and o.attempts == 1 for o in outcomes)
    assert [o.record.data for o in outcomes] == [b"%d" % n for n in range(501)]


def test_a_request_is_full_at_ten_mebibytes_keys_included() -> None:
    one = Record("k" * 16, b"x" * (MAX_RECORD_BYTES - 16))
    assert [len(b) for b in batches([one] * 11)] == [10, 1]
    assert sum(record_bytes(one.partition_key, one.data) for _ in range(10)) == (
        MAX_PUT_REQUEST_BYTES
    )
    longer_by_its_key = Record("k" * 17, one.data)
    assert [len(b) for b in batches([longer_by_its_key, *[one] * 9])] == [9, 1]


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (Record("k", b"x" * MAX_RECORD_BYTES), "RecordTooLarge"),
        (Record("é", b"x" * (MAX_RECORD_BYTES - 1)), "RecordTooLarge"),
        (Record("", b"x"), "InvalidPartitionKey"),
        (Record("k" * 257, b"x"), "InvalidPartitionKey"),
        (Record("\ud800", b"x"), "InvalidPartitionKey"),
        (Record("k", b"x", explicit_hash_key=2**128), "InvalidPartitionKey"),
        (Record("k", b"x" * (11 * 2**20)), "RecordTooLarge"),
    ],
    ids=lambda value: value if isinstance(value, str) else "record",
)
def test_a_record_invalid_by_itself_is_not_sent_and_harms_no_other(bad: Record, code: str) -> None:
    client = Script(all_stored)
    good = [
        Record("k", b"x" * (MAX_RECORD_BYTES - 1)),
        Record("é" * 256, b"x"),
        Record("k", b"", 2**128 - 1),
    ]
    outcomes = put(client, [good[0], bad, *good[1:]])
    assert [o.delivered for o in outcomes] == [True, False, True, True]
    assert (outcomes[1].error_code, outcomes[1].attempts) == (code, 0)
    assert outcomes[1].record is bad
    sent = [entry["Data"] for request in client.requests for entry in request]
    assert sent == [record.data for record in good]
    assert client.requests[-1][-1]["ExplicitHashKey"] == str(2**128 - 1)


# For each record: how often it fails, and with which code.
fates = st.lists(
    st.tuples(
        st.integers(0, 5),
        st.sampled_from([THROTTLED, "InternalFailure", "KMSDisabledException"]),
    ),
    max_size=30,
)


@given(fates=fates, attempts=st.integers(1, 5), said=st.sampled_from([0, 1, 99]))
@settings(max_examples=200)
def test_only_what_failed_and_may_succeed_is_sent_again(
    fates: list[tuple[int, str]], attempts: int, said: int
) -> None:
    left = [times for times, _ in fates]

    def answer(entries: list[dict[str, Any]]) -> dict[str, Any]:
        results = []
        for entry in entries:
            at = int(entry["Data"])
            results.append(failed(fates[at][1]) if left[at] else stored(entry))
            left[at] -= 1
        # What an emulator says here is not to be believed.
        return {"FailedRecordCount": said, "Records": results}

    client = Script(answer)
    outcomes = put(client, numbered(len(fates)), max_attempts=attempts)
    sent = [int(e["Data"]) for request in client.requests for e in request]
    for at, (times, code) in enumerate(fates):
        needed = 1 if times and code.startswith("KMS") else times + 1
        assert sent.count(at) == min(needed, attempts) == outcomes[at].attempts
        delivered = times < attempts and not (times and code.startswith("KMS"))
        assert outcomes[at].delivered == delivered
        assert outcomes[at].error_code == (None if delivered else code)
        assert (outcomes[at].sequence_number is not None) == delivered


def client_error(code: str, status: int = 400) -> ClientError:
    told: Any = {
        "Error": {"Code": code, "Message": "told"},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    return ClientError(told, "PutRecords")


FATAL = [
    client_error("ResourceNotFoundException"),
    client_error("AccessDeniedException"),
    client_error("ValidationException"),
    client_error("InvalidArgumentException"),
    client_error("KMSDisabledException"),
    ParamValidationError(report="bad"),
    NoCredentialsError(),
]
PASSING = [
    client_error(THROTTLED),
    client_error("Whatever", status=503),
    client_error("Whatever", status=429),
    client_error("InternalFailure", status=500),
    client_error("RequestTimeoutException", status=408),
    EndpointConnectionError(endpoint_url="http://nowhere"),
    CredentialRetrievalError(provider="container-role", error_msg="no answer"),
]


@pytest.mark.parametrize("error", FATAL, ids=lambda e: type(e).__name__)
def test_a_fatal_error_in_the_middle_keeps_what_came_before_and_ends_at_once(
    error: Exception,
) -> None:
    def answer(entries: list[dict[str, Any]]) -> dict[str, Any]:
        if len(client.requests) == 2:
            raise error
        return all_stored(entries)

    client = Script(answer)
    outcomes = put(client, numbered(1700))
    assert len(client.requests) == 2
    assert [o.delivered for o in outcomes] == [True] * 500 + [False] * 1200
    assert [o.attempts for o in outcomes[500:]] == [1] * 500 + [0] * 700
    assert len({o.error_code for o in outcomes[500:]}) == 1


@pytest.mark.parametrize("error", PASSING, ids=str)
def test_a_whole_request_that_may_pass_is_sent_again(error: Exception) -> None:
    def answer(entries: list[dict[str, Any]]) -> dict[str, Any]:
        if len(client.requests) % 3:
            raise error
        return all_stored(entries)

    client = Script(answer)
    outcomes = put(client, numbered(501))
    assert all(o.delivered and o.attempts == 3 for o in outcomes)
    assert len(client.requests) == 6


def test_no_answer_in_all_attempts_ends_the_run() -> None:
    waits: list[float] = []

    def answer(_entries: list[dict[str, Any]]) -> dict[str, Any]:
        raise EndpointConnectionError(endpoint_url="http://nowhere")

    client = Script(answer)
    outcomes = put(client, numbered(501), max_attempts=4, sleep=waits.append)
    assert [len(request) for request in client.requests] == [500] * 4
    assert [o.attempts for o in outcomes] == [4] * 500 + [0]
    assert {o.error_code for o in outcomes} == {"EndpointConnectionError"}
    assert len(waits) == 3


@pytest.mark.parametrize("results", [[], [stored({})], [{}, {}, {}]], ids=["none", "few", "empty"])
def test_an_answer_that_does_not_fit_confirms_nothing(results: list[dict[str, Any]]) -> None:
    def answer(entries: list[dict[str, Any]]) -> dict[str, Any]:
        return {"Records": results} if len(client.requests) == 1 else all_stored(entries)

    client = Script(answer)
    outcomes = put(client, numbered(3))
    assert all(o.delivered and o.attempts == 2 for o in outcomes)


ODD_ANSWERS: list[Any] = [None, [], "x", {"Records": 5}, {"Records": [5]}, {"Records": {"a": 1}}]


@pytest.mark.parametrize("odd", ODD_ANSWERS, ids=str)
def test_an_answer_that_is_none_confirms_nothing(odd: Any) -> None:
    def answer(entries: list[dict[str, Any]]) -> dict[str, Any]:
        return odd if len(client.requests) == 1 else all_stored(entries)

    client = Script(answer)
    outcomes = put(client, numbered(1))
    assert all(o.delivered and o.attempts == 2 for o in outcomes)


@pytest.mark.parametrize(
    "error", [AttributeError("a"), TypeError("a"), UnicodeDecodeError("utf-8", b"", 0, 1, "a")]
)
def test_what_the_sdk_trips_over_is_a_failure_that_may_pass(error: Exception) -> None:
    def answer(_entries: list[dict[str, Any]]) -> dict[str, Any]:
        raise error

    outcomes = put(Script(answer), numbered(501), max_attempts=3)
    assert [o.attempts for o in outcomes] == [3] * 500 + [0]
    assert {(o.error_code, o.error_message) for o in outcomes} == {
        (type(error).__name__, str(error))
    }


def test_an_error_is_told_as_text_whatever_the_answer_has_in_its_place() -> None:
    told: Any = {"Error": {"Code": "Odd", "Message": {"a": 1}}}
    results: list[Any] = [{"ErrorCode": ["x"], "ErrorMessage": 5}, stored({})]

    def answer(_entries: list[dict[str, Any]]) -> dict[str, Any]:
        if len(client.requests) == 1:
            return {"Records": results}
        raise ClientError(told, "PutRecords")

    client = Script(answer)
    assert [(o.error_code, o.error_message) for o in put(client, numbered(2))] == [
        ("['x']", "5"),
        (None, None),
    ]
    assert [(o.error_code, o.error_message) for o in put(client, numbered(1))] == [
        ("Odd", "{'a': 1}")
    ]


def test_what_can_be_no_stream_is_the_callers_error_and_no_failure() -> None:
    with pytest.raises(ValueError, match="neither the name"):
        put_once(Script(all_stored), "two words", numbered(1))  # type: ignore[arg-type] # Script


def test_deliver_reads_no_further_than_its_batch() -> None:
    read = count()
    client = Script(all_stored)

    def endless() -> Iterator[Record]:
        for n in read:
            yield Record("k", b"%d" % n)

    outcomes = list(islice(deliver(client, "s", endless()), 10))  # type: ignore[arg-type] # Script
    assert len(outcomes) == 10
    assert next(read) == 501


@given(failures=st.integers(1, 10_000), seed=st.integers())
def test_backoff_is_full_jitter_below_a_doubling_bound(failures: int, seed: int) -> None:
    pause = backoff_seconds(failures, random.Random(seed))
    assert 0 <= pause <= min(BACKOFF_CAP_SECONDS, 0.1 * 2.0 ** min(failures - 1, 20))


def test_backoff_uses_the_whole_range() -> None:
    rng = random.Random(3)
    pauses = [backoff_seconds(9, rng) for _ in range(200)]
    assert min(pauses) < 0.2
    assert max(pauses) > BACKOFF_CAP_SECONDS - 0.2
