import base64
from typing import Any

import pytest

from infra.proxy.messages import Refusal
from infra.proxy.quotas.requests import check, measure
from records.limits import MAX_HASH_KEY, MIB

VALIDATION, ARGUMENT, SERIALIZATION = (
    "ValidationException",
    "InvalidArgumentException",
    "SerializationException",
)


def blob(size: int) -> str:
    return base64.b64encode(bytes(size)).decode()


def entry(size: int = 3, key: Any = "key", **more: Any) -> dict[str, Any]:
    return {"PartitionKey": key, "Data": blob(size), **more}


def put(*entries: Any, maximum: int | None = MIB) -> list[int] | Refusal:
    return measure("PutRecords", {"StreamName": "s", "Records": list(entries)}, maximum)


def refused(answer: list[int] | Refusal | None, code: str, *words: str) -> None:
    assert isinstance(answer, Refusal), answer
    assert (answer.code, answer.status) == (code, 400)
    for word in words:
        assert word in answer.message


def test_sizes_are_data_before_base64_and_keys_in_bytes():
    entries = [entry(size) for size in range(5)]
    entries += [{"PartitionKey": "déjà", "Data": b"1234", "ExplicitHashKey": str(MAX_HASH_KEY)}]
    assert put(*entries) == [3, 4, 5, 6, 7, 10]
    assert measure("PutRecord", entry(5, "k", StreamName="s"), MIB) == [6]


@pytest.mark.parametrize("count", [1, 500])
def test_the_fewest_and_the_most_records(count: int):
    assert put(*[entry()] * count) == [6] * count


def test_too_many_and_too_few_records():
    refused(
        put(*[entry()] * 501),
        VALIDATION,
        "1 validation error detected: Value '[...]' at 'records' failed to satisfy constraint:"
        " Member must have length less than or equal to 500",
    )
    refused(put(), VALIDATION, "'records'", "greater than or equal to 1")
    refused(measure("PutRecords", {}, MIB), VALIDATION, "Value null at 'records'", "not be null")


def test_a_request_holds_ten_mebibytes_with_its_keys():
    largest = [entry(MIB - 1, "k")] * 10
    assert put(*largest) == [MIB] * 10
    refused(put(*largest, entry(0, "k")), ARGUMENT, "Records size exceeds 10 MB limit")


@pytest.mark.parametrize("maximum", [MIB, 3 * MIB, None])
def test_the_last_byte_that_fits_a_record_and_the_first_that_does_not(maximum: int | None):
    most = maximum or 10 * MIB
    assert put(entry(most - 3), maximum=maximum) == [most]
    refused(put(entry(most - 2), maximum=maximum), ARGUMENT, f"{most + 1} bytes")
    refused(
        put(entry(), entry(most + 1), maximum=maximum),
        VALIDATION,
        f"at 'records.2.member.data' failed to satisfy constraint: Member must have length less"
        f" than or equal to {most}",
    )
    single = measure("PutRecord", entry(most + 1), maximum)
    refused(single, VALIDATION, "at 'data'")


@pytest.mark.parametrize("key", ["k", "k" * 256, "\N{SNOWMAN}" * 256])
def test_keys_that_are_taken(key: str):
    assert put(entry(0, key)) == [len(key.encode())]


@pytest.mark.parametrize(
    ("key", "code", "words"),
    [
        ("", VALIDATION, "Value '' at 'records.2.member.partitionKey'"),
        ("k" * 257, VALIDATION, "less than or equal to 256"),
        ("k" * 9_999_999, VALIDATION, "kkk...'"),
        (None, VALIDATION, "Value null at 'records.2.member.partitionKey'"),
        (7, SERIALIZATION, "PartitionKey"),
        (b"k", SERIALIZATION, "PartitionKey"),
        ("\ud800", SERIALIZATION, "Unicode"),
    ],
)
def test_keys_that_are_refused(key: Any, code: str, words: str):
    answer = put(entry(), entry(0, key), entry())
    refused(answer, code, words)
    assert isinstance(answer, Refusal)
    assert len(answer.message) < 1_000


@pytest.mark.parametrize("explicit", ["0", "9", str(MAX_HASH_KEY), None])
def test_hash_keys_that_are_taken(explicit: str | None):
    assert put(entry(ExplicitHashKey=explicit)) == [6]


@pytest.mark.parametrize(
    ("explicit", "code", "words"),
    [
        ("", VALIDATION, r"at 'records.1.member.explicitHashKey'"),
        ("01", VALIDATION, r"Member must satisfy regular expression pattern: 0|([1-9]\d{0,38})"),
        ("-1", VALIDATION, "Value '-1'"),
        ("1\n", VALIDATION, "pattern"),
        ("\N{ARABIC-INDIC DIGIT ONE}", VALIDATION, "pattern"),
        ("1" * 40, VALIDATION, "pattern"),
        (str(MAX_HASH_KEY + 1), ARGUMENT, f"Specified value was {MAX_HASH_KEY + 1}"),
        (1, SERIALIZATION, "ExplicitHashKey"),
    ],
)
def test_hash_keys_that_are_refused(explicit: Any, code: str, words: str):
    refused(put(entry(ExplicitHashKey=explicit)), code, words)


@pytest.mark.parametrize(
    ("data", "code", "words"),
    [
        (None, VALIDATION, "Value null at 'records.1.member.data'"),
        (17, SERIALIZATION, "Data"),
        ("abc", SERIALIZATION, "base64"),
        (["eA=="], SERIALIZATION, "Data"),
    ],
)
def test_data_that_is_none(data: Any, code: str, words: str):
    refused(put({"PartitionKey": "k", "Data": data}), code, words)


@pytest.mark.parametrize("records", ["text", {"Records": []}, 7])
def test_records_that_are_no_list(records: Any):
    refused(measure("PutRecords", {"Records": records}, MIB), SERIALIZATION)


@pytest.mark.parametrize("record", ["text", None, 7, ["PartitionKey", "Data"]])
def test_a_record_that_is_no_structure(record: Any):
    refused(put(entry(), record), SERIALIZATION)


def test_types_come_before_lengths_and_lengths_before_the_rest():
    beyond = entry(ExplicitHashKey=str(MAX_HASH_KEY + 1))
    refused(put(beyond, entry(key=""), entry(key=7)), SERIALIZATION)
    refused(put(beyond, entry(key="")), VALIDATION, "records.2.member")
    refused(put(*[beyond] * 501), VALIDATION, "'records'")


def test_members_that_are_missing():
    refused(measure("PutRecord", {"Data": ""}, MIB), VALIDATION, "null at 'partitionKey'")
    refused(measure("PutRecord", {"PartitionKey": "k"}, MIB), VALIDATION, "null at 'data'")


def test_check_says_the_same():
    good, bad = {"Records": [entry()]}, {"Records": []}
    assert check("PutRecords", good, max_record_bytes=MIB) is None
    assert check("PutRecords", bad, max_record_bytes=MIB) == measure("PutRecords", bad, MIB)
    refused(check("PutRecord", entry(2 * MIB), max_record_bytes=MIB), VALIDATION)
    assert check("PutRecord", entry(2 * MIB), max_record_bytes=None) is None
    assert check("ListShards", bad, max_record_bytes=MIB) is None


@pytest.mark.parametrize("limit", [None, 1, 10_000])
def test_limits_of_get_records_that_are_taken(limit: int | None):
    assert check("GetRecords", {"Limit": limit}, max_record_bytes=None) is None


@pytest.mark.parametrize(
    ("limit", "code", "words"),
    [
        (0, VALIDATION, "Value '0' at 'limit'"),
        (10_001, VALIDATION, "Member must have value less than or equal to 10000"),
        (True, SERIALIZATION, "Limit"),
        ("5", SERIALIZATION, "Limit"),
    ],
)
def test_limits_of_get_records_that_are_refused(limit: Any, code: str, words: str):
    refused(check("GetRecords", {"Limit": limit}, max_record_bytes=None), code, words)
