"""What a check is, and the words in which it says what it expects.

A check is a function with a `Ground` to stand on. It returns when the endpoint does what AWS
documents, and raises `Deviation` when it does not::

    @check("put-records-501", source="PutRecords: Records, 1..500", area="limits")
    def put_records_501(ground: Ground) -> None:
        \"\"\"501 records in one call are refused.\"\"\"
        refused("ValidationException", lambda: ground.kinesis.put_records(...))
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from botocore.exceptions import ClientError

from infra.conformance.ground import Deviation, Ground

INVALID = ("ValidationException", "InvalidArgumentException")
"""How AWS refuses an argument; which of the two is seldom documented."""

_CLOCK_DIFFERENCE = timedelta(minutes=5)
"""Between the endpoint and this machine; AWS refuses signatures that are further off."""

_UNKNOWN_OPERATION_CODES = frozenset(
    {
        "UnknownOperationException",
        "UnknownOperation",
        "UnsupportedOperation",
        "UnsupportedOperationException",
        "NotImplemented",
        "NotImplementedException",
        "InvalidAction",
    }
)
_MAYBE_UNKNOWN_CODES = frozenset(
    {"InternalFailure", "InternalError", "AccessDenied", "AccessDeniedException", "500", "404"}
)
_UNKNOWN_OPERATION_WORDS = (
    "not implemented",
    "not yet implemented",
    "not been implemented",
    "not supported",
    "unsupported operation",
    "unknown operation",
    "unknown action",
    "unable to determine service/operation",
)


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that AWS does, and how to see whether an endpoint does it.

    Attributes:
        name: What it is called, unique among all checks.
        what: What AWS does, in one sentence.
        source: The page of the API reference or the member of the service model that says so.
        area: The field it belongs to, by which reports are grouped.
        run: Returns, or raises `Deviation`.
    """

    name: str
    what: str
    source: str
    area: str
    run: Callable[[Ground], None]


def check(name: str, *, source: str, area: str) -> Callable[[Callable[[Ground], None]], Check]:
    """Make a check of a function; its docstring is the sentence that says what AWS does."""

    def make(function: Callable[[Ground], None]) -> Check:
        what = " ".join((function.__doc__ or "").split())
        if not what:
            raise TypeError(f"the check {name} does not say what AWS does")
        return Check(name=name, what=what, source=source, area=area, run=function)

    return make


def equal(found: object, expected: object, what: str = "") -> None:
    """Raise `Deviation` unless two values are equal; `what` says whose value it is."""
    if found != expected:
        prefix = f"{what} " if what else ""
        raise Deviation(f"{prefix}{expected!r}", f"{prefix}{found!r}")


def expect(condition: object, expected: str, found: object) -> None:
    """Raise `Deviation` unless a condition holds."""
    if not condition:
        raise Deviation(expected, found if isinstance(found, str) else repr(found))


def about_now(found: datetime) -> None:
    """Raise `Deviation` unless a time is now, as far as two clocks agree."""
    near = abs(found - datetime.now(UTC)) < _CLOCK_DIFFERENCE
    expect(near, "about now", str(found))


def refused(codes: str | tuple[str, ...], call: Callable[[], object]) -> ClientError:
    """Make a call that AWS refuses with one of these error codes, and return the error.

    Raises:
        Deviation: The call succeeds, or fails with another code.
        ClientError: The endpoint says that it does not know the operation.
    """
    expected = (codes,) if isinstance(codes, str) else codes
    try:
        answer = call()
    except ClientError as error:
        if code_of(error) not in expected:
            if is_unsupported(error):
                raise
            raise Deviation(" or ".join(expected), describe(error)) from error
        return error
    metadata = answer.get("ResponseMetadata", {}) if isinstance(answer, dict) else {}
    status = metadata.get("HTTPStatusCode", "")
    raise Deviation(" or ".join(expected), f"success {status}".rstrip())


def code_of(error: ClientError) -> str:
    """Return the name of the error that the endpoint answered with."""
    return str(error.response.get("Error", {}).get("Code", ""))


def describe(error: ClientError) -> str:
    """Say on one line what the endpoint answered."""
    message = str(error.response.get("Error", {}).get("Message", ""))
    text = " ".join(re.sub(r"<[^>]*>", " ", message).split())  # some answer with a web page
    return f"{code_of(error)}: {text}"[:300]


def is_unsupported(error: ClientError) -> bool:
    """Say whether the endpoint says that it does not know the operation at all.

    A refusal for another reason is none: "not supported" in a `ValidationException` is about an
    argument.
    """
    code = code_of(error)
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    message = str(error.response.get("Error", {}).get("Message", "")).lower()
    return (
        code in _UNKNOWN_OPERATION_CODES
        or status == 501
        or (
            code in _MAYBE_UNKNOWN_CODES
            and any(words in message for words in _UNKNOWN_OPERATION_WORDS)
        )
    )
