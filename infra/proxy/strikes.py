"""What strikes one request, from its arrival to what came of it."""

import logging

from infra.proxy.fault import Action, Subject
from infra.proxy.faults import FaultPlan, Strike

_log = logging.getLogger(__name__)


class Strikes:
    """The strikes on one request; those that come to nothing are given back in the end."""

    def __init__(self, faults: FaultPlan, subject: Subject) -> None:
        self._faults = faults
        self._open = {strike.action: strike for strike in faults.arrived(subject)}

    def get(self, action: Action) -> Strike | None:
        """Return the strike of an action that has not happened yet."""
        return self._open.get(action)

    def is_due(self, action: Action) -> bool:
        """Say whether a strike of this action is still to happen."""
        return action in self._open

    def happened(self, strike: Strike, affected: int = 1) -> None:
        """Count a strike."""
        if self._open.pop(strike.action, None) is not None:
            self._faults.settle(strike, happened=True, affected=affected)
            _log.info("request %d, %s: %s", strike.number, strike.subject.operation, strike.reason)

    def keep(self, action: Action) -> Strike:
        """Take a strike away that will happen to a later request."""
        return self._open.pop(action)

    def give_back(self, *actions: Action) -> None:
        """Say that these strikes have come to nothing, or all that are left.

        An answer with nothing behind it, such as one whose every record was refused, is not worth
        losing: `lose` is about what was carried out.
        """
        for action in actions or tuple(self._open):
            if (strike := self._open.pop(action, None)) is not None:
                self._faults.settle(strike, happened=False)
