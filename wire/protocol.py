"""The service's CBOR protocol, without any I/O: parameters to a body, a body to boto3's answer."""

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import HTTPClientError, ParamValidationError
from botocore.parsers import create_parser
from botocore.utils import parse_timestamp, parse_to_aware_datetime
from botocore.validate import ParamValidator
from cbor2 import CBORDecodeError, CBORTag, dumps, loads

from wire.body import PIECE_BYTES, Body

if TYPE_CHECKING:
    from botocore.model import OperationModel

CONTENT_TYPE: Final = "application/x-amz-cbor-1.1"

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_TAG: Final = 1
# As milliseconds this is March 1973, before any stream; as seconds it is the year 5138.
_LEAST_MILLISECONDS: Final = 100_000_000_000

Reader = Callable[[Any], Any]


class Operation:
    """One operation of Kinesis: how its parameters and its answers travel.

    Args:
        model: botocore's model of the operation.
        validate: Whether parameters are checked, as by boto3's `parameter_validation`.
    """

    def __init__(self, model: "OperationModel", *, validate: bool = True) -> None:
        self.name: Final[str] = model.name
        self.headers: Final[Mapping[str, str]] = {
            "X-Amz-Target": f"{model.metadata['targetPrefix']}.{model.name}",
            "Content-Type": CONTENT_TYPE,
        }
        self.model: Final = model
        self._validate: Final = validate
        self._input: Final[Any] = model.input_shape
        self._output: Final[Any] = model.output_shape
        self._readers: Final[Mapping[bool, Reader]] = {
            nulls: _reader(self._output, nulls=nulls) or _as_it_is for nulls in (False, True)
        }

    def encode(self, parameters: Mapping[str, Any]) -> Body:
        """Return the body of a request, for parameters as boto3 takes them.

        Raises:
            ParamValidationError: what boto3's would say, word for word; also for text that holds
                half a surrogate pair, which UTF-8 cannot carry.
        """
        entries: Any = parameters.get("Records")
        groups = _plain_groups(entries)
        # botocore's own validator words the errors. It takes 6 us for each record, and each plain
        # one passes it as the first does.
        checked = parameters if groups is None else {**parameters, "Records": entries[:1]}
        if self._validate:
            report = ParamValidator().validate(checked, self._input)
            if report.has_errors():
                raise ParamValidationError(report=report.generate_report())
        try:
            body = _to_wire(checked, self._input)
            return Body([dumps(body)] if groups is None else _pieces(body, entries, groups))
        except UnicodeEncodeError as error:
            raise ParamValidationError(report=f"Not Unicode text: {error}") from error

    def decode(self, status: int, headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
        """Return an answer, or what an error's `response` holds, as boto3 would.

        Args:
            status: The HTTP status; what is below 300 is an answer.
            headers: The answer's headers, with names in lower case.
            body: The answer's body: CBOR, or JSON from those that do not know CBOR.

        Raises:
            HTTPClientError: it is no answer at all. The request may have been carried out.
        """
        if status >= 300:
            return self._decode_error(status, headers, body)
        try:
            # Quicker to be seen here than in 1,000 values.
            nulls = b"\xf6" in body or b"null" in body
            parsed: dict[str, Any] = self._readers[nulls](_load(body))
        except _NoAnswerError as error:
            raise HTTPClientError(error=error) from error
        metadata: dict[str, Any] = {"HTTPStatusCode": status, "HTTPHeaders": dict(headers)}
        if "x-amzn-requestid" in headers:
            metadata["RequestId"] = headers["x-amzn-requestid"]
        parsed["ResponseMetadata"] = metadata | {"RetryAttempts": 0}
        return parsed

    def _decode_error(self, status: int, headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
        # Errors are rare, and boto3 knows every form of them (an HTML page, nothing at all), so
        # its JSON parser reads them.
        parser = create_parser("json")
        response = {"status_code": status, "headers": headers, "body": _as_json(body)}
        parsed: dict[str, Any] = parser.parse(response, self._output)
        code = parsed.get("Error", {}).get("Code")
        shape = self.model.service_model.shape_for_error_code(code)
        if shape is not None:
            parsed.update(parser.parse(response, shape))
        parsed["ResponseMetadata"]["RetryAttempts"] = 0
        return parsed


class _NoAnswerError(Exception):
    """What came is not what the operation answers."""


def _plain_groups(entries: Any) -> list[int] | None:
    """Return where groups of records end that are worth a piece.

    None: not each record has exactly the types that go on the wire as they are.
    """
    if type(entries) is not list or not entries:
        return None
    ends: list[int] = []
    size = 0
    try:
        for number, entry in enumerate(entries, 1):
            if (
                type(entry) is not dict
                or type(data := entry["Data"]) is not bytes
                or type(key := entry["PartitionKey"]) is not str
                or not key
                or (len(entry) != 2 and type(entry["ExplicitHashKey"]) is not str)
                or len(entry) > 3
            ):
                return None
            size += len(data)
            if size >= PIECE_BYTES:
                ends.append(number)
                size = 0
    except KeyError:
        return None
    if not ends or ends[-1] < len(entries):
        ends.append(len(entries))
    return ends


def _pieces(
    body: dict[str, Any], entries: list[Any], ends: Sequence[int]
) -> Sequence[bytes | memoryview]:
    """Encode a body with these records."""
    # The list of records comes last, so that its members can follow.
    del body["Records"]
    pieces: list[bytes | memoryview] = [
        dumps({**body, "Records": []})[:-1] + _list_head(len(entries))
    ]
    for begin, end in pairwise((0, *ends)):
        group = dumps(entries[begin:end])
        pieces.append(memoryview(group)[len(_list_head(end - begin)) :])
    return pieces


@lru_cache(maxsize=1024)
def _list_head(count: int) -> bytes:
    """Return what stands before the members of a list."""
    return dumps([0] * count)[:-count]


def _to_wire(value: Any, shape: Any) -> Any:
    match shape.type_name:
        case "structure":
            return {name: _to_wire(each, shape.members[name]) for name, each in value.items()}
        case "list":
            return [_to_wire(each, shape.member) for each in value]
        case "blob":
            # As boto3 does; a file passes its validator, and fails here as it fails there.
            return value.encode() if isinstance(value, str) else bytes(memoryview(value))
        case "timestamp":
            since = parse_to_aware_datetime(value) - _EPOCH
            return CBORTag(_EPOCH_TAG, since // timedelta(milliseconds=1))
    return value


def _reader(shape: Any, *, nulls: bool) -> Reader | None:
    """Return what turns a decoded value into boto3's; None if they are the same.

    `nulls` is whether there may be any in the value.
    """
    match shape.type_name:
        case "structure":
            members = {n: _reader(each, nulls=nulls) for n, each in shape.members.items()}
            return _structure_reader(members)
        case "list":
            return _list_reader(shape.member, nulls=nulls)
        case "blob":
            return _blob
        case "timestamp":
            return _timestamp
    return None


def _structure_reader(readers: Mapping[str, Reader | None]) -> Reader:
    known = frozenset(readers)
    converted = {name: reader for name, reader in readers.items() if reader is not None}

    def read(value: Any) -> Any:
        value = _clean(value, known)
        for name, reader in converted.items():
            if name in value:
                value[name] = reader(value[name])
        return value

    return read


def _clean(value: Any, known: frozenset[str]) -> dict[str, Any]:
    """Leave out what is null, as absent members are with some, and what boto3 does not know."""
    if type(value) is not dict:
        raise _NoAnswerError(f"a structure was expected, not {type(value).__name__}")
    return {n: each for n, each in value.items() if each is not None and n in known}


def _list_reader(member: Any, *, nulls: bool) -> Reader:
    reader = _reader(member, nulls=nulls)
    # Members of which nothing is converted (there are 500 in an answer) are read without a call.
    flat = member.type_name == "structure" and not any(
        _reader(each, nulls=nulls) for each in member.members.values()
    )
    known = frozenset(member.members if flat else ())

    def read(value: Any) -> Any:
        if type(value) is not list:
            raise _NoAnswerError(f"a list was expected, not {type(value).__name__}")
        if flat:
            clean = (
                set(map(type, value)) <= {dict}
                and known.issuperset(set().union(*value))
                and not (nulls and None in chain.from_iterable(map(dict.values, value)))
            )
            return value if clean else [_clean(each, known) for each in value]
        return value if reader is None else [reader(each) for each in value]

    return read


def _blob(value: Any) -> bytes:
    if type(value) is bytes:
        return value
    # The Kinesis of the emulators may answer as it does in JSON.
    try:
        return base64.b64decode(value)
    except (TypeError, ValueError) as error:
        raise _NoAnswerError(f"data was expected: {error}") from error


def _timestamp(value: Any) -> datetime:
    """Read AWS's tagged milliseconds, or any number of milliseconds or seconds, tagged or bare."""
    number: Any = value.value if type(value) is CBORTag else value
    try:
        seconds = float(number)
        if seconds >= _LEAST_MILLISECONDS:
            seconds /= 1000
        minute, rest = divmod(seconds, 60)
        start = _minute(int(minute))
        return (start + timedelta(seconds=rest)).replace(fold=start.fold)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise _NoAnswerError(f"a timestamp was expected: {error}") from error


@lru_cache(maxsize=1024)
def _minute(number: int) -> datetime:
    """Return when a minute since 1970 begins, as boto3 says it: in the zone of the machine.

    That takes boto3 15 us, and an answer has up to 10,000 records of a few minutes. No zone has
    changed its clocks within a minute since there is Kinesis.
    """
    start: Any = number * 60.0
    return parse_timestamp(start)


def _as_it_is(value: Any) -> Any:
    return value


def _load(body: bytes) -> Any:
    """Decode a body; JSON is told by its brace, with which no CBOR map begins."""
    try:
        if body.lstrip()[:1] == b"{":
            return json.loads(body)
        # A generic decoder takes the number under the tag for seconds.
        return loads(body, semantic_decoders={_EPOCH_TAG: _keep_tagged})
    except (CBORDecodeError, ValueError, RecursionError) as error:
        raise _NoAnswerError(f"{error} in {body[:64]!r}") from error


def _keep_tagged(value: Any, _immutable: bool) -> CBORTag:  # noqa: FBT001 - cbor2 calls it so
    return CBORTag(_EPOCH_TAG, value)


def _as_json(body: bytes) -> bytes:
    """Return an error as boto3's JSON parser can read it."""
    loaded: Any = None
    with suppress(_NoAnswerError):
        loaded = _load(body)
    if type(loaded) is dict:
        texts = {n: each for n, each in loaded.items() if isinstance(each, str | None)}
        return json.dumps(texts).encode()
    text = body.decode(errors="replace")
    # It knows a page and an empty body; of any other text it would make a message as well, but
    # breaks on JSON that is no object.
    page = text.lstrip()[:1] in ("", "<")
    return text.encode() if page else json.dumps({"message": text}).encode()
