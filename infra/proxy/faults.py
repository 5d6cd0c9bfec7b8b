"""Which fault strikes which request: data in, data out, the same for the same seed.

The shell calls `FaultPlan.arrived` once for each request, in the order of arrival, does what the
strikes say and tells `settle` whether it came to that. Two actions are windows instead of strikes:
`throttle` and `freeze` open in the plan when a request sets them off, and the shell asks
`throttled` and `frozen_seconds`. Everything that was injected is counted, with its reason.

Chance is drawn for each fault apart, from the seed and its name, once for each request that the
fault concerns, whether it can strike just then or not. So the same requests in the same order meet
the same chance, however long they take and whatever other faults there are.
"""

import math
import random
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count as counting
from typing import Any, Final

from infra.proxy.fault import WINDOWS, Action, Fault, Subject

KEPT_STRIKES: Final = 1000
"""How many strikes the status lists; older ones are only counted."""

MAX_FAULTS: Final = 100
"""How many faults a plan takes: each request is held against all of them."""

_MAX_OPERATIONS: Final = 200
_OTHER: Final = "other"  # any client can make up paths


@dataclass(frozen=True, slots=True)
class Strike:
    """One fault that strikes one request.

    Attributes:
        number: The request's place among those that the plan was told of, from 1.
        fault: The name of the fault.
        action: What happens.
        subject: Whom it strikes.
        reason: Why, for the log and the status.
        draw: Which draw of the fault's it was; `FaultPlan.fails` needs it.
        seconds: Of a `delay`; 0 for the others.
        status: The HTTP status of an `error`.
        code: The error code of an `error` or `partial`.
    """

    number: int
    fault: str
    action: Action
    subject: Subject
    reason: str
    draw: int
    seconds: float
    status: int
    code: str


class FaultPlan:
    """The faults that are to strike, and those that have. Not safe between threads.

    Args:
        seed: Where chance begins.
        clock: Seconds of a clock that never goes back.

    Attributes:
        throttled_total: Records and calls that `throttle` has refused, cleared faults' too.
    """

    def __init__(self, *, seed: int = 0, clock: Callable[[], float]) -> None:
        self.throttled_total = 0
        self._seed = seed
        self._clock = clock
        self._began = clock()
        self._requests = 0
        self._rules: dict[str, _Rule] = {}
        self._outstanding: dict[tuple[int, Action], _Rule] = {}
        self._by_action: Counter[Action] = Counter()
        self._by_operation: dict[str, Counter[Action]] = {}
        self._strikes: deque[dict[str, Any]] = deque(maxlen=KEPT_STRIKES)

    def add(self, *faults: Fault) -> None:
        """Take faults, all or none; they look at requests from now on.

        A fault that is there already, but for its count, adds its count to what is still due.

        Raises:
            ValueError: Another fault has the name, or there are too many.
        """
        named = {name: rule.fault for name, rule in self._rules.items()}
        placed = [_place(fault, named) for fault in faults]
        if len(named) > MAX_FAULTS:
            raise ValueError(f"a plan takes {MAX_FAULTS} faults; clear those that are done")
        now = self._clock()
        for fault in placed:
            if fault.name in self._rules:
                self._rules[fault.name].left += _count(fault)
                continue
            opens = now + fault.after_seconds
            closes = math.inf if fault.for_seconds is None else opens + fault.for_seconds
            rng = random.Random(f"{self._seed}/{fault.name}")
            self._rules[fault.name] = _Rule(fault, rng, opens, closes, _count(fault))

    def clear(self, name: str | None = None) -> int:
        """Forget one fault or all, close their windows, and return how many there were."""
        gone = [name] if name in self._rules else [] if name is not None else list(self._rules)
        for each in gone:
            del self._rules[each]
        return len(gone)

    def thaw(self) -> int:
        """End every freeze that is on, and return how many there were."""
        now = self._clock()
        frozen = [rule for rule in self._rules.values() if rule.open(Action.FREEZE, now)]
        for rule in frozen:
            rule.until = -math.inf
        return len(frozen)

    def arrived(self, subject: Subject) -> list[Strike]:
        """Return what strikes a request that has just been read, in the order of the faults.

        At most one strike has each action, and no two contradict each other: a request has one end
        (`lose`, `reset-before`, `reset-after`, `error` or `expire-iterator`), one that is not
        carried out has no `partial`, `repeat` or `send-twice`, and `partial` does not meet
        `send-twice`. The fault that was added first goes first.

        A strike is off the fault's count at once, so that two requests at the same time do not both
        take the last one; `settle` gives it back if it came to nothing.
        """
        self._requests += 1
        if not self._rules:
            return []
        now = self._clock()
        struck: set[Action] = set()
        strikes = []
        for rule in self._rules.values():
            action = rule.fault.action
            if not rule.fault.concerns(subject):
                continue
            if rule.draws(now) and not any(_contradict(action, other) for other in struck):
                rule.left -= 1
                struck.add(action)
                strike = _strike(self._requests, rule, subject)
                if action in WINDOWS:
                    seconds = rule.fault.seconds
                    rule.until = math.inf if seconds is None else now + seconds
                    self._happened(strike, rule, affected=0)
                else:
                    strikes.append(strike)
                    self._outstanding[strike.number, action] = rule
            if rule.open(Action.FREEZE, now):
                rule.affected += 1
        return strikes

    def settle(self, strike: Strike, *, happened: bool, affected: int = 1) -> None:
        """Say whether it came to a strike; each is settled once, and again changes nothing.

        Args:
            strike: What `arrived` returned.
            happened: True counts and lists it. False gives its count back, as when the upstream
                answered an error, so that there was no answer worth losing.
            affected: How many records or calls it struck: the entries that `partial` failed.
        """
        rule = self._outstanding.pop((strike.number, strike.action), None)
        if rule is None:
            return
        if happened:
            self._happened(strike, rule, affected=affected)
        else:
            rule.left += 1

    def fails(self, strike: Strike, count: int) -> frozenset[int]:
        """Return which of the `count` entries of a PutRecords a `partial` fails; maybe none."""
        rule = self._outstanding.get((strike.number, strike.action))
        if rule is None:
            return frozenset()
        if rule.fault.records is not None:
            return frozenset(index for index in rule.fault.records if index < count)
        rng = random.Random(f"{self._seed}/{strike.fault}/{strike.draw}")
        share = rule.fault.share or 0.0
        return frozenset(index for index in range(count) if rng.random() < share)

    def throttled(
        self, operation: str, stream: str, shard_id: str, *, records: int = 1
    ) -> str | None:
        """Return why a shard is over its quota just now, counting the refusal; None if it is not.

        Args:
            operation: Who asks: PutRecord, PutRecords or GetRecords; no other is ever throttled.
            stream: The stream's name.
            shard_id: Where the records go or come from.
            records: How many records (of a put) or calls are refused, for the status.
        """
        if not self._rules:
            return None
        now = self._clock()
        subject = Subject(operation, stream, shard_id)
        for rule in self._rules.values():
            if rule.open(Action.THROTTLE, now) and rule.fault.concerns(subject):
                rule.affected += records
                self.throttled_total += records
                return rule.fault.reason
        return None

    def frozen_seconds(self, subject: Subject) -> float:
        """Return how long a request is to be held: 0 if it is not, inf until somebody thaws it.

        Ask again after a moment, as the freeze may be thawed or cleared meanwhile.
        """
        now = self._clock()
        rules = self._rules.values()
        frozen = [r for r in rules if r.open(Action.FREEZE, now) and r.fault.concerns(subject)]
        return max((rule.until - now for rule in frozen), default=0.0)

    @property
    def loaded(self) -> bool:
        """Whether there are faults, also if all have struck: what they did may go on."""
        return bool(self._rules)

    def knows(self, name: str) -> bool:
        """Say whether there is a fault of this name, struck or not."""
        return name in self._rules

    @property
    def active(self) -> bool:
        """Whether anything may still strike, is open, or has not been settled."""
        if self._outstanding:
            return True
        now = self._clock()
        return any(
            now < rule.until or (rule.left > 0 and now < rule.closes)
            for rule in self._rules.values()
        )

    @property
    def lost(self) -> int:
        """How many answers were lost after the commit, by `lose` or by `reset-after`."""
        return self._by_action[Action.LOSE] + self._by_action[Action.RESET_AFTER]

    def status(self) -> dict[str, Any]:
        """Return everything countable, ready for JSON.

        `lost`, `pending` (the sum over faults with a count), `by_name` (action, struck, affected
        records or calls, pending or null without end, reason), `by_action`, `by_operation` and the
        last `strikes` in the order of settlement, `at` seconds after the plan was made.
        """
        return {
            "seed": self._seed,
            "lost": self.lost,
            "pending": sum(int(r.left) for r in self._rules.values() if r.left < math.inf),
            "by_name": {name: rule.row() for name, rule in self._rules.items()},
            "by_action": {str(action): count for action, count in sorted(self._by_action.items())},
            "by_operation": {
                operation: {str(action): count for action, count in sorted(counts.items())}
                for operation, counts in sorted(self._by_operation.items())
            },
            "strikes": list(self._strikes),
        }

    def _happened(self, strike: Strike, rule: "_Rule", *, affected: int) -> None:
        operation = strike.subject.operation
        rule.struck += 1
        rule.affected += affected
        self._by_action[strike.action] += 1
        known = operation in self._by_operation or len(self._by_operation) < _MAX_OPERATIONS
        counts = self._by_operation.setdefault(operation if known else _OTHER, Counter())
        counts[strike.action] += 1
        self._strikes.append(
            {
                "request": strike.number,
                "operation": operation,
                "stream": strike.subject.stream,
                "shard": strike.subject.shard,
                "action": str(strike.action),
                "fault": strike.fault,
                "reason": strike.reason,
                "at": round(self._clock() - self._began, 6),
            }
        )


@dataclass(slots=True)
class _Rule:
    """A fault at work."""

    fault: Fault
    rng: random.Random
    opens: float
    closes: float
    left: float
    draw: int = 0
    seen: int = 0
    until: float = -math.inf  # the end of the window that is open
    struck: int = 0
    affected: int = 0

    def draws(self, now: float) -> bool:
        """Draw for a request, and say whether it may be struck now."""
        self.draw += 1
        drawn = self.rng.random() < self.fault.probability
        if not self.opens <= now < self.closes or now < self.until:
            return False
        self.seen += 1
        return drawn and self.left > 0 and self.seen > self.fault.skip

    def open(self, action: Action, now: float) -> bool:
        """Say whether it is of this action and its window is open."""
        return self.fault.action is action and now < self.until

    def row(self) -> dict[str, Any]:
        """Return its line of the status."""
        return {
            "action": str(self.fault.action),
            "struck": self.struck,
            "affected": self.affected,
            "pending": int(self.left) if self.left < math.inf else None,
            "reason": self.fault.reason,
        }


def _place(fault: Fault, named: dict[str, Fault]) -> Fault:
    """Find a fault's name and enter it in `named`."""
    if fault.name:
        if fault.name in named and not _adds_up(named[fault.name], fault):
            raise ValueError(f"name: there is another fault {fault.name!r}; clear it first")
        name = fault.name
    else:
        stem = "-".join([fault.action, *fault.operations])
        names = (stem if number == 1 else f"{stem}-{number}" for number in counting(1))
        name = next(n for n in names if n not in named or _adds_up(named[n], fault))
    named[name] = placed = replace(fault, name=name)
    return placed


def _adds_up(old: Fault, new: Fault) -> bool:
    """Say whether two faults are the same but for the count, and both count from now."""
    waits = new.skip or new.after_seconds or new.for_seconds is not None
    return not waits and replace(new, name=old.name, count=old.count) == old


def _count(fault: Fault) -> float:
    if fault.count is not None:
        return fault.count
    return 1 if fault.probability == 1 and fault.for_seconds is None else math.inf


def _strike(number: int, rule: _Rule, subject: Subject) -> Strike:
    fault = rule.fault
    return Strike(
        number=number,
        fault=fault.name,
        action=fault.action,
        subject=subject,
        reason=fault.reason,
        draw=rule.draw,
        seconds=fault.seconds or 0.0,
        status=fault.answer_status,
        code=fault.answer_code,
    )


_ENDS = frozenset(
    {
        Action.LOSE,
        Action.RESET_BEFORE,
        Action.RESET_AFTER,
        Action.ERROR,
        Action.EXPIRE_ITERATOR,
    }
)
_NOT_CARRIED_OUT = frozenset({Action.RESET_BEFORE, Action.ERROR, Action.EXPIRE_ITERATOR})
_CARRIED_OUT = frozenset({Action.PARTIAL, Action.REPEAT, Action.SEND_TWICE})
# The second sending would carry out what the first did not.
_HOW_OFTEN = frozenset({Action.PARTIAL, Action.SEND_TWICE})


def _contradict(one: Action, other: Action) -> bool:
    pair = {one, other}
    if len(pair) == 1 or pair <= _ENDS or pair <= _HOW_OFTEN:
        return True
    return bool(pair & _NOT_CARRIED_OUT and pair & _CARRIED_OUT)
