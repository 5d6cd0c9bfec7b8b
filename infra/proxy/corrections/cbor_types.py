"""The types of AWS' CBOR answers: blobs are bytes, timestamps are tagged milliseconds.

An emulator that turns its JSON into CBOR member by member gets these wrong, and the Java SDK cannot
read the result. Pure.
"""

import base64
import binascii
from typing import Any, Final

import cbor2

# AWS: Kinesis Data Streams API Reference, the data types Record, StreamDescription,
# StreamDescriptionSummary, StreamSummary, Consumer and ConsumerDescription.
# https://docs.aws.amazon.com/kinesis/latest/APIReference/API_Types.html
_TIMESTAMPS: Final = frozenset(
    {"ApproximateArrivalTimestamp", "StreamCreationTimestamp", "ConsumerCreationTimestamp"}
)
_WITH_RECORDS: Final = frozenset({"GetRecords", "SubscribeToShard"})
"""In other answers a text called `Data` is a tag that the stream's owner named so."""
_EPOCH_TAG: Final = 1
_LEAST_MILLISECONDS: Final = 100_000_000_000
"""A number below is taken as seconds, any other as milliseconds. As seconds it is the year 5138, as
milliseconds March 1973: no stream, consumer or record has ever been made outside of the two."""

_NEVER: Final = 1e18
"""Milliseconds; a number as large stands for no time, and may be too large for a float."""


def fix(operation: str, payload: dict[str, Any]) -> dict[str, Any]:
    """Return an answer, or the payload of an event, with the types that AWS gives its members.

    Blobs become bytes, timestamps tag 1 with epoch milliseconds, and null members go. What has the
    right type already, or cannot be read, stays as it is.

    Args:
        operation: Whose answer it is; `SubscribeToShard` for its events.
        payload: As decoded from CBOR, or from the JSON that stands where CBOR belongs.
    """
    return _fixed_map(payload, with_records=operation in _WITH_RECORDS)


def epoch_seconds(value: object) -> float | None:
    """Return the seconds since the epoch of a timestamp in any of these forms; None if it is none.

    Args:
        value: A tagged or bare number, of seconds or of milliseconds.
    """
    tagged = _tagged_milliseconds(value)
    if not isinstance(tagged, cbor2.CBORTag) or not isinstance(tagged.value, int):
        return None
    return tagged.value / 1000


def _fixed_map(value: dict[Any, Any], *, with_records: bool) -> dict[Any, Any]:
    return {
        name: _fixed(name, member, with_records=with_records)
        for name, member in value.items()
        if member is not None
    }


def _fixed(name: Any, member: Any, *, with_records: bool) -> Any:
    if isinstance(member, dict):
        return _fixed_map(member, with_records=with_records)
    if isinstance(member, list):
        return [
            _fixed_map(entry, with_records=with_records) if isinstance(entry, dict) else entry
            for entry in member
        ]
    if name in _TIMESTAMPS:
        return _tagged_milliseconds(member)
    if with_records and name == "Data" and isinstance(member, str):
        return _decoded(member)
    return member


def _tagged_milliseconds(value: Any) -> Any:
    number = value.value if isinstance(value, cbor2.CBORTag) and value.tag == _EPOCH_TAG else value
    if isinstance(number, bool) or not isinstance(number, int | float):
        return value
    if not abs(number) < _NEVER:  # not a number is not less either
        return value
    milliseconds = number if abs(number) >= _LEAST_MILLISECONDS else number * 1000
    return cbor2.CBORTag(_EPOCH_TAG, round(milliseconds))


def _decoded(text: str) -> str | bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        return text
