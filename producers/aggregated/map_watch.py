"""When to ask for the stream's shards: once for many causes, and not in a hot loop."""

import random
from math import inf
from typing import Final

from producers.put_records import Failure, backoff_seconds

_HINT_SECONDS: Final = 10.0


class MapWatch:
    """Whether a list of shards is wanted, on its way, or must wait.

    Attributes:
        listing: It was asked for and is not answered.
        failure: Why there was no list, the last time; None if there was one.
    """

    def __init__(self, rng: random.Random) -> None:
        self.listing = False
        self.failure: Failure | None = None
        self._rng = rng
        self._wanted = False
        self._failures = 0
        self._not_before = self._hinted_at = -inf

    def want(self) -> None:
        """Ask for a list, unless that was done already."""
        self._wanted = True

    def hint(self, now: float) -> None:
        """Ask for a list that would be good to have, but not often."""
        if now >= self._hinted_at + _HINT_SECONDS:
            self._hinted_at = now
            self._wanted = True

    def settle(self, *, needed: bool) -> None:
        """Say whether a list is still needed, after what needed it was given up."""
        self._wanted = self._wanted and needed

    def due_at(self) -> float:
        """Return when a list should be asked for; infinity: not now."""
        return self._not_before if self._wanted and not self.listing else inf

    def asked(self) -> None:
        """Note that the list was asked for."""
        self.listing, self._wanted = True, False

    def answered(self, failure: Failure | None, *, enough: bool, now: float) -> None:
        """Note what came of it; `enough`: nothing is left that needs another list.

        A list that does not help is asked for again after a back-off, as one that failed.
        """
        self.listing = False
        self.failure = failure
        passing = failure is None or failure.retriable
        self._wanted = passing and not enough
        self._failures = 0 if failure is None and enough else self._failures + 1
        pause = backoff_seconds(self._failures, self._rng) if self._failures else 0.0
        self._not_before = now + pause
