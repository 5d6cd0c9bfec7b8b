"""Answers that are delivered a second time: each to the next call that is like its own."""

from typing import Final

from infra.proxy.exchange import Answer
from infra.proxy.fault import Subject
from infra.proxy.faults import FaultPlan, Strike
from infra.proxy.messages import Call, Identity

KEPT_ANSWERS: Final = 64
"""How many answers wait at most; each may have 10 MiB."""

_Alike = tuple[Subject, Identity, str]


class Repeats:
    """The answers that wait, the oldest first; what is not delivered gives its strike back.

    Args:
        faults: Where the strikes are settled.
    """

    def __init__(self, faults: FaultPlan) -> None:
        self._faults = faults
        self._waiting: dict[_Alike, tuple[Answer, Strike]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def keep(self, call: Call, answer: Answer, strike: Strike) -> None:
        """Keep an answer for the next call like the one that it was given to.

        Args:
            call: That one.
            answer: What it was answered.
            strike: The `repeat` that struck it.
        """
        alike = _alike(call, strike.subject)
        if alike in self._waiting or len(self._waiting) >= KEPT_ANSWERS:
            _, given_up = self._waiting.pop(alike if alike in self._waiting else self._oldest())
            self._faults.settle(given_up, happened=False)
        self._waiting[alike] = (answer, strike)

    def take(self, call: Call, subject: Subject) -> Answer | None:
        """Return the answer that an earlier call was given, if it is due, and count it."""
        if not self._waiting:
            return None
        answer, strike = self._waiting.pop(_alike(call, subject), (None, None))
        if strike is None:
            return None
        wanted = self._faults.knows(strike.fault)
        self._faults.settle(strike, happened=wanted)
        return answer if wanted else None

    def _oldest(self) -> _Alike:
        return next(iter(self._waiting))


def _alike(call: Call, subject: Subject) -> _Alike:
    """Return what two calls have in common of which one can have the other's answer."""
    return subject, call.identity, call.content_type
