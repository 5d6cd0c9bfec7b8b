"""Things that are made when they are first asked for, and forgotten when nobody asks any more."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Final, Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")

IDLE_SECONDS: Final = 600.0
CAPACITY: Final = 20_000
"""As many shards as AWS gives an account; the busiest proxy sees a fraction."""


class Recent(Generic[K, V]):
    """A map that holds what was used lately, the longest unused first.

    What has not been used for ten minutes is dropped, and the longest unused at once when there
    are too many. For quotas that is no loss: the buckets of what has not been used for some seconds
    are full, and new ones are full too.

    Args:
        make: Makes the value of a new key; is given the time.
        capacity: The most that it holds.
    """

    def __init__(self, make: Callable[[float], V], *, capacity: int = CAPACITY) -> None:
        self._make = make
        self._capacity = capacity
        self._entries: OrderedDict[K, tuple[float, V]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: K, now: float) -> V:
        """Return the value of a key, a new one if there is none.

        Args:
            key: Of any hashable kind.
            now: The time, in seconds.
        """
        entry = self._entries.get(key)
        value = self._make(now) if entry is None else entry[1]
        self._entries[key] = (now, value)
        self._entries.move_to_end(key)
        if entry is None:
            self._drop(now)
        return value

    def forget(self, keys: Callable[[K], bool]) -> None:
        """Drop every key for which a condition holds."""
        for key in [key for key in self._entries if keys(key)]:
            del self._entries[key]

    def items(self, now: float) -> Iterator[tuple[K, V]]:
        """Return the keys and values that are in use."""
        self._drop(now)
        return ((key, value) for key, (_, value) in self._entries.items())

    def _drop(self, now: float) -> None:
        entries = self._entries
        while entries:
            used, _ = next(iter(entries.values()))
            if len(entries) <= self._capacity and now - used <= IDLE_SECONDS:
                return
            entries.popitem(last=False)
