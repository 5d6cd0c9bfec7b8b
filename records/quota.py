"""A token bucket: so much at once, so much per second, and exactly no more.

All arithmetic is on integers, so that no run of any length drifts. Times are read in whole ticks
of 2**-30 s, about a nanosecond, and tokens in parts of 2**-60: what a rate yields in a tick is then
a whole number of parts. Rates are rounded down to the parts and amounts up.
"""

from math import ceil, floor, inf, isfinite, ulp
from typing import Final

_TICKS_PER_SECOND: Final = 1 << 30
_PARTS_PER_TOKEN: Final = _TICKS_PER_SECOND << 30


class TokenBucket:
    """What a quota would admit now. Starts full. Not safe between threads.

    Over any window of time, `take` grants at most the burst and what the rate yields in the window.
    A `now` before the latest one refills nothing and loses nothing.

    Args:
        rate: Tokens per second, at least 2**-30.
        burst: The most that the bucket holds, in tokens; at least 2**-8.
        now: The time, in seconds of any one clock, as in all methods.

    Raises:
        ValueError: The rate or the burst is none of these.
    """

    __slots__ = ("_burst", "_capacity", "_level", "_parts_per_tick", "_rate", "_tick")

    def __init__(self, *, rate: float, burst: float, now: float) -> None:
        # A smaller one may be no whole number of parts.
        if not 2**-8 <= burst < inf:
            raise ValueError(f"a burst is a number of at least 2**-8, not {burst!r}")
        self._rate = rate
        self._parts_per_tick = _parts_per_tick(rate)
        self._burst = burst
        self._capacity = self._level = int(burst * _PARTS_PER_TOKEN)
        self._tick = floor(now * _TICKS_PER_SECOND)

    @property
    def rate(self) -> float:
        """Tokens per second."""
        return self._rate

    @property
    def burst(self) -> float:
        """The most that the bucket holds, in tokens."""
        return self._burst

    def take(self, amount: float, now: float) -> bool:
        """Take all of an amount or nothing of it, and say which.

        An amount above the burst is never granted.

        Args:
            amount: Tokens, 0 or more.
            now: The time, in seconds.
        """
        self._refill(now)
        if amount > self._burst:
            return False
        cost = _parts(amount)
        if cost > self._level:
            return False
        self._level -= cost
        return True

    def charge(self, amount: float, now: float) -> None:
        """Take an amount whatever there is: the bucket may go into debt, for what is paid after.

        Args:
            amount: Tokens, 0 or more.
            now: The time, in seconds.
        """
        self._refill(now)
        self._level -= _parts(amount)

    def give_back(self, amount: float, now: float) -> None:
        """Put back what was taken and not used; never more than to the brim.

        Args:
            amount: Tokens, 0 or more.
            now: The time, in seconds.
        """
        self._refill(now)
        self._level = min(self._capacity, self._level + _parts(amount))

    def available(self, now: float) -> float:
        """Return the tokens that there are; below 0 in debt."""
        self._refill(now)
        return self._level / _PARTS_PER_TOKEN

    def wait(self, amount: float, now: float) -> float:
        """Return the seconds until `take` would grant an amount; infinity if it never will.

        Args:
            amount: Tokens, 0 or more.
            now: The time, in seconds.
        """
        self._refill(now)
        if amount > self._burst:
            return inf
        missing = _parts(amount) - self._level
        if missing <= 0:
            return 0.0
        tick = self._tick - (-missing // self._parts_per_tick)
        seconds = max(0.0, tick / _TICKS_PER_SECOND - now)
        # The sum that the caller makes is rounded too, and must not end before the tick.
        while floor((now + seconds) * _TICKS_PER_SECOND) < tick:
            seconds += ulp(max(abs(now), seconds))
        return seconds

    def set_rate(self, rate: float, now: float) -> None:
        """Refill at another rate from now on.

        Args:
            rate: Tokens per second, at least 2**-30.
            now: The time, in seconds.

        Raises:
            ValueError: It is no such rate.
        """
        parts_per_tick = _parts_per_tick(rate)
        self._refill(now)
        self._rate = rate
        self._parts_per_tick = parts_per_tick

    def _refill(self, now: float) -> None:
        tick = floor(now * _TICKS_PER_SECOND)
        elapsed = tick - self._tick
        if elapsed > 0:
            self._tick = tick
            level = self._level + elapsed * self._parts_per_tick
            self._level = min(level, self._capacity)


def _parts_per_tick(rate: float) -> int:
    if not isfinite(rate) or (parts := floor(rate * (1 << 30))) < 1:
        raise ValueError(f"a rate is a number of at least 2**-30 a second, not {rate!r}")
    return parts


def _parts(amount: float) -> int:
    if amount < 0:
        raise ValueError(f"an amount is 0 or more, not {amount!r}")
    return ceil(amount * _PARTS_PER_TOKEN)
