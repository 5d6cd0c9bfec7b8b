"""What AWS refuses for the request alone, whatever the load.

AWS names up to ten things that are wrong with a request; here it is the first.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from infra.proxy.messages import MalformedBodyError, Refusal, data_bytes
from infra.proxy.wording import (
    GREATER,
    LESS,
    NOT_NULL,
    at_least,
    at_most,
    invalid,
    invalid_argument,
    serialization,
    shown,
)
from records.limits import (
    MAX_HASH_KEY,
    MAX_LARGE_RECORD_BYTES,
    MAX_PARTITION_KEY_CHARS,
    MAX_PUT_REQUEST_BYTES,
    MAX_RECORDS_PER_GET,
    MAX_RECORDS_PER_PUT,
    MIB,
)

_HASH_KEY: Final = re.compile(r"0|[1-9][0-9]{0,38}")
_WRONG: Final = -1


def check(
    operation: str, parameters: Mapping[str, Any], *, max_record_bytes: int | None
) -> Refusal | None:
    """Return why AWS would refuse a request; None if it would not, or for another operation.

    Args:
        operation: PutRecords, PutRecord and GetRecords are known.
        parameters: As on the wire: `Data` is base64 text or bytes.
        max_record_bytes: The stream's own maximum, key included; None: the most that any takes.
    """
    if operation == "GetRecords":
        return _limit_fault(parameters.get("Limit"))
    if operation in ("PutRecord", "PutRecords"):
        measured = measure(operation, parameters, max_record_bytes)
        return measured if isinstance(measured, Refusal) else None
    return None


def measure(
    operation: str, parameters: Mapping[str, Any], max_record_bytes: int | None
) -> list[int] | Refusal:
    """Return each record's size, or why AWS would refuse the whole request.

    AWS: Kinesis Data Streams API Reference, PutRecords, PutRecord.

    Args:
        operation: PutRecords or PutRecord, whose only record the parameters are.
        parameters: As on the wire: `Data` is base64 text or bytes.
        max_record_bytes: The stream's own maximum, key included; None: the most that any takes.

    Returns:
        Data before base64 and partition key in UTF-8, in bytes, in the records' order.
    """
    most = MAX_LARGE_RECORD_BYTES if max_record_bytes is None else max_record_bytes
    entries: Any = [parameters] if operation == "PutRecord" else parameters.get("Records")
    if not isinstance(entries, list):
        return _no_list(entries)
    sizes = [_size(entry, most) for entry in entries]
    if _WRONG in sizes or not 1 <= len(sizes) <= MAX_RECORDS_PER_PUT:
        return _fault(entries, single=operation == "PutRecord", most=most)
    if sum(sizes) > MAX_PUT_REQUEST_BYTES:
        return invalid_argument(f"Records size exceeds {MAX_PUT_REQUEST_BYTES // MIB} MB limit")
    return sizes


def _size(entry: Any, most: int) -> int:
    """Return a record's size; `_WRONG` if there is anything wrong with it."""
    try:
        key = entry["PartitionKey"]
        if type(key) is not str or not 1 <= len(key) <= MAX_PARTITION_KEY_CHARS:
            return _WRONG
        size = data_bytes(entry["Data"]) + (len(key) if key.isascii() else len(key.encode()))
        explicit = entry.get("ExplicitHashKey")
        if explicit is not None and not (
            _HASH_KEY.fullmatch(explicit) and int(explicit) <= MAX_HASH_KEY
        ):
            return _WRONG
    except (KeyError, TypeError, ValueError, AttributeError):
        return _WRONG
    return size if size <= most else _WRONG


# What is wrong is looked for again, in AWS's order, once it is known that something is.


def _fault(entries: Sequence[Any], *, single: bool, most: int) -> Refusal:
    """Return the first thing that AWS would find wrong: types, then lengths, then the rest."""
    places = [("" if single else f"records.{n}.member.") for n in range(1, len(entries) + 1)]

    def first(find: Callable[[Any, str], Refusal | None]) -> Refusal | None:
        found = (find(entry, place) for entry, place in zip(entries, places, strict=True))
        return next(filter(None, found), None)

    return (
        first(_type_fault)
        or _count_fault(len(entries))
        or first(lambda entry, place: _length_fault(entry, place, most))
        or first(lambda entry, _: _argument_fault(entry, most))
        or invalid_argument("The request is not valid.")
    )


def _type_fault(entry: Any, _place: str) -> Refusal | None:
    if not isinstance(entry, dict):
        return serialization("Expected a structure")
    for name in ("PartitionKey", "ExplicitHashKey"):
        text = entry.get(name)
        if text is None:
            continue
        if not isinstance(text, str):
            return serialization(f"{name} is expected to be a string")
        try:
            text.encode()
        except UnicodeEncodeError:
            return serialization(f"{name} is no Unicode text")
    try:
        if entry.get("Data") is not None:
            data_bytes(entry["Data"])
    except MalformedBodyError as error:
        return serialization(str(error))
    return None


def _no_list(entries: Any) -> Refusal:
    if entries is None:
        return invalid("Value null", "records", NOT_NULL)
    return serialization("Records is expected to be a list")


def _count_fault(count: int) -> Refusal | None:
    if count < 1:
        return invalid("Value '[]'", "records", at_least(1))
    if count > MAX_RECORDS_PER_PUT:
        return invalid("Value '[...]'", "records", at_most(MAX_RECORDS_PER_PUT))
    return None


def _length_fault(entry: Mapping[str, Any], place: str, most: int) -> Refusal | None:
    key, data = entry.get("PartitionKey"), entry.get("Data")
    for value, name in ((key, "partitionKey"), (data, "data")):
        if value is None:
            return invalid("Value null", place + name, NOT_NULL)
    if not key:
        return invalid("Value ''", f"{place}partitionKey", at_least(1))
    if len(key) > MAX_PARTITION_KEY_CHARS:
        most_chars = at_most(MAX_PARTITION_KEY_CHARS)
        return invalid(f"Value '{shown(key)}'", f"{place}partitionKey", most_chars)
    explicit = entry.get("ExplicitHashKey")
    if explicit is not None and not _HASH_KEY.fullmatch(explicit):
        pattern = r"Member must satisfy regular expression pattern: 0|([1-9]\d{0,38})"
        return invalid(f"Value '{shown(explicit)}'", f"{place}explicitHashKey", pattern)
    # AWS names the stream's own maximum here, not the API's, and no value.
    if data_bytes(data) > most:
        return invalid("Value", f"{place}data", at_most(most))
    return None


def _argument_fault(entry: Mapping[str, Any], most: int) -> Refusal | None:
    explicit = entry.get("ExplicitHashKey")
    if explicit is not None and int(explicit) > MAX_HASH_KEY:
        return invalid_argument(
            "Invalid ExplicitHashKey. ExplicitHashKey must be in the range: [0, 2^128-1]."
            f" Specified value was {explicit}"
        )
    size = data_bytes(entry["Data"]) + len(entry["PartitionKey"].encode())
    if size > most:
        return invalid_argument(
            f"Record size of {size} bytes, data and partition key, exceeds the limit of {most}"
        )
    return None


def _limit_fault(limit: Any) -> Refusal | None:
    if limit is None:
        return None
    if not isinstance(limit, int) or isinstance(limit, bool):
        return serialization("Limit is expected to be an integer")
    if limit < 1:
        return invalid(f"Value '{limit}'", "limit", "Member must have value " + GREATER + "1")
    if limit > MAX_RECORDS_PER_GET:
        most = f"Member must have value {LESS}{MAX_RECORDS_PER_GET}"
        return invalid(f"Value '{limit}'", "limit", most)
    return None
