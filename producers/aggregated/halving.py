"""Finds the record that spoils a request for all: the request is sent in halves, and so on."""

from collections.abc import Sequence
from typing import Final

from producers.aggregated.lane import Lane
from producers.aggregated.pack import Pack

# It takes two for each record of a request of 500 that are all at fault. After as many in a row the
# fault is not a record's, and the rest is not taken apart any more.
_MAX_REFUSALS: Final = 1_000


class Halving:
    """Numbers the groups of packs that travel apart from all others."""

    def __init__(self) -> None:
        self._refusals = 0
        self._groups = 0

    def taken(self) -> None:
        """Note that a request was not refused."""
        self._refusals = 0

    def divide(self, packs: Sequence[tuple[Lane, Pack]]) -> list[tuple[Lane, Pack]]:
        """Return what to send again of a refused request, in two groups; none: it is at fault."""
        self._refusals += 1
        (lane, pack), *others = packs
        if self._refusals > _MAX_REFUSALS or (not others and len(pack.items) == 1):
            return []
        again = [*packs] if others else [(lane, half) for half in lane.halve(pack)]
        middle = len(again) // 2
        for number, (_, pack) in enumerate(again):
            pack.group = self._groups + (1 if number < middle else 2)
        self._groups += 2
        return again
