"""One fault: what it does, to which requests, when and how often."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from records.limits import MAX_RECORDS_PER_PUT


class Action(StrEnum):
    """What happens to a request."""

    LOSE = "lose"  # carried out, then the connection is closed without a byte
    RESET_BEFORE = "reset-before"  # RST, nothing is carried out
    RESET_AFTER = "reset-after"  # carried out, then RST
    DELAY = "delay"  # carried out at once, the answer is held back
    ERROR = "error"  # an error of ours, nothing is carried out
    PARTIAL = "partial"  # some entries of a PutRecords fail and do not reach the upstream
    REPEAT = "repeat"  # the next call like this one gets this one's answer again
    SEND_TWICE = "send-twice"  # carried out twice, the second answer is passed on
    EXPIRE_ITERATOR = "expire-iterator"  # the shard iterator of this call has expired, for good
    THROTTLE = "throttle"  # for a while a shard is over its quota
    FREEZE = "freeze"  # for a while requests are taken and held


WINDOWS: Final = frozenset({Action.THROTTLE, Action.FREEZE})
"""The actions that `FaultPlan.arrived` does not return: the plan keeps their windows itself."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What a fault may look at.

    Attributes:
        operation: The API operation such as `PutRecords`, or the HTTP method of any other.
        stream: The stream's name, where the request has one.
        shard: Of GetRecords, GetShardIterator and SubscribeToShard; None for puts.
    """

    operation: str
    stream: str | None = None
    shard: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What is to go wrong, when and how often.

    Args:
        action: What happens.
        name: For the status and for `FaultPlan.clear`; the plan finds one when it is empty.
        operations: Only these API operations; every one that the action suits when empty.
        stream: Only requests to the stream of this name.
        shard: Only requests to this shard. `throttle` throttles it for puts too.
        probability: The chance that a request is struck, above 0 and up to 1.
        count: How often in all. None: once, or without end where `probability` is below 1 or
            `for_seconds` is set, which say how often by themselves.
        skip: How many requests that it concerns pass first.
        after_seconds: From when it was added to when it may strike first, in seconds.
        for_seconds: How long it may strike from then on, in seconds; without end when None.
        seconds: The length of a `delay`, a `throttle` or a `freeze`; None is a `freeze` until
            somebody thaws it.
        status: The HTTP status of an `error`; 500 when None.
        code: The error code of an `error` (InternalFailure at 500, ServiceUnavailable at 503 when
            None) or of the entries that `partial` fails (ProvisionedThroughputExceededException).
        share: The chance of each entry that `partial` may fail, above 0 and up to 1.
        records: Which entries `partial` fails instead, counted from 0.

    Raises:
        ValueError: A field does not fit; the message begins with its name.

    AWS: Kinesis Data Streams API Reference, PutRecordsResultEntry (the two codes of an entry).
    """

    action: Action
    name: str = ""
    operations: tuple[str, ...] = ()
    stream: str | None = None
    shard: str | None = None
    probability: float = 1.0
    count: int | None = None
    skip: int = 0
    after_seconds: float = 0.0
    for_seconds: float | None = None
    seconds: float | None = None
    status: int | None = None
    code: str | None = None
    share: float | None = None
    records: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        for name, good, rule in (*_checks(self), *_checks_of_action(self)):
            if not good:
                value = getattr(self, name)
                raise ValueError(f"{name}: {rule}" + ("" if value is None else f", not {value!r}"))

    def concerns(self, subject: Subject) -> bool:
        """Say whether a request is one of those that this fault is about."""
        operations = self.operations or _SUITS.get(self.action)
        if operations is not None and subject.operation not in operations:
            return False
        if self.action is Action.SEND_TWICE and subject.operation == _SUBSCRIBE:
            return False
        if self.stream not in (None, subject.stream):
            return False
        # A put may go to any shard, so it sets off the throttling of each.
        return self.shard in (None, subject.shard) or (
            self.action is Action.THROTTLE and subject.shard is None
        )

    @property
    def reason(self) -> str:
        """Why a request is struck, for the log and the status."""
        words = _WORDS[self.action]
        if self.seconds is not None:
            words += f" for {self.seconds:g} s"
        elif self.action is Action.FREEZE:
            words += " until it is thawed"
        elif self.action in (Action.ERROR, Action.PARTIAL):
            words += f" with {self.answer_code}"
        return f"fault {self.name!r}: {words}"

    @property
    def answer_status(self) -> int:
        """The HTTP status of an `error`."""
        return self.status or 500

    @property
    def answer_code(self) -> str:
        """The error code of an `error`, or of the entries that `partial` fails."""
        if self.code:
            return self.code
        if self.action is Action.PARTIAL:
            return _ENTRY_CODES[0]
        return _CODES.get(self.answer_status, "") if self.action is Action.ERROR else ""


_ENTRY_CODES: Final = ("ProvisionedThroughputExceededException", "InternalFailure")
_CODES: Final = {500: "InternalFailure", 503: "ServiceUnavailable"}
_CODE: Final = re.compile(r"[A-Za-z][A-Za-z0-9.]*")
_PUTS: Final = ("PutRecord", "PutRecords")
_SUBSCRIBE: Final = "SubscribeToShard"  # the first one's answer would last for five minutes

_SUITS: Final = {
    Action.PARTIAL: ("PutRecords",),
    Action.REPEAT: ("GetRecords",),  # a put's answer, given again, would speak of other records
    Action.EXPIRE_ITERATOR: ("GetRecords",),
    Action.THROTTLE: (*_PUTS, "GetRecords"),
}
_TAKES: Final = {
    Action.DELAY: ("seconds",),
    Action.THROTTLE: ("seconds",),
    Action.FREEZE: ("seconds",),
    Action.ERROR: ("status", "code"),
    Action.PARTIAL: ("code", "share", "records"),
}
_WORDS: Final = {
    Action.LOSE: "the answer is lost after the commit",
    Action.RESET_BEFORE: "the connection is reset before the request is sent on",
    Action.RESET_AFTER: "the connection is reset after the commit",
    Action.DELAY: "the answer is held back",
    Action.ERROR: "the request is refused",
    Action.PARTIAL: "entries fail",
    Action.REPEAT: "the answer is delivered a second time",
    Action.SEND_TWICE: "the request is carried out twice",
    Action.EXPIRE_ITERATOR: "the shard iterator has expired",
    Action.THROTTLE: "the shard is over its quota",
    Action.FREEZE: "requests are held",
}


def _checks(fault: Fault) -> Iterator[tuple[str, bool, str]]:
    """Yield a field, whether it fits, and the rule."""
    yield "name", fault.name.isprintable(), "a name in one line"
    good = all(name and name.isprintable() for name in fault.operations)
    yield "operations", good, "names of API operations"
    yield "stream", fault.stream != "", "the name of a stream"
    yield "shard", fault.shard != "", "the ID of a shard"
    yield "probability", 0 < fault.probability <= 1, "a number above 0 and up to 1"
    yield "count", fault.count is None or fault.count >= 1, "a count of at least 1"
    yield "skip", fault.skip >= 0, "a count of at least 0"
    yield "after_seconds", 0 <= fault.after_seconds < math.inf, "seconds, at least 0"
    for name in ("for_seconds", "seconds"):
        value: float | None = getattr(fault, name)
        yield name, value is None or 0 < value < math.inf, "seconds, above 0"
    yield "status", fault.status is None or 400 <= fault.status <= 599, "a status of 400 to 599"
    good = fault.code is None or _CODE.fullmatch(fault.code) is not None
    yield "code", good, "an error code such as InternalFailure"
    yield "share", fault.share is None or 0 < fault.share <= 1, "a number above 0 and up to 1"
    last = MAX_RECORDS_PER_PUT - 1
    good = fault.records is None or all(0 <= index <= last for index in fault.records)
    yield "records", good and fault.records != (), f"one or more indices of 0 to {last}"


def _checks_of_action(fault: Fault) -> Iterator[tuple[str, bool, str]]:
    """Yield the same for what depends on the action."""
    action = fault.action
    for name in ("seconds", "status", "code", "share", "records"):
        good = getattr(fault, name) is None or name in _TAKES.get(action, ())
        yield name, good, f"{action} takes none"
    suits = _SUITS.get(action)
    good = suits is None or set(fault.operations) <= set(suits)
    yield "operations", good, f"{action} is for {', '.join(suits or ())}"
    good = action is not Action.SEND_TWICE or _SUBSCRIBE not in fault.operations
    yield "operations", good, f"{action} is not for {_SUBSCRIBE}"
    if action in (Action.DELAY, Action.THROTTLE):
        yield "seconds", fault.seconds is not None, f"{action} needs a number of seconds"
    if action is Action.ERROR:
        good = fault.code is not None or fault.answer_status in _CODES
        yield "code", good, f"status {fault.status} needs a code"
    if action is Action.PARTIAL:
        good = (fault.share is None) != (fault.records is None)
        yield "share", good, "partial needs either a share or records"
        good = fault.answer_code in _ENTRY_CODES
        yield "code", good, f"the code of an entry is {' or '.join(_ENTRY_CODES)}"
    if fault.shard is not None and action is not Action.THROTTLE:
        good = not fault.operations or not set(fault.operations) <= set(_PUTS)
        good = good and action is not Action.PARTIAL
        yield "shard", good, "a put may go to any shard"
