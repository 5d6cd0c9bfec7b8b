"""Which shard an iterator is of, and when it expires."""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf
from typing import Final

from infra.proxy.messages import Identity, Refusal
from infra.proxy.quotas.keys import StreamKey
from records.limits import ITERATOR_LIFE_SECONDS

_DATE: Final = "%a %b %d %H:%M:%S UTC %Y"


@dataclass(frozen=True, slots=True)
class Issued:
    """An iterator that was given out.

    Attributes:
        stream: Whose stream it reads, and its name.
        shard_id: The shard it reads.
        issued_at: When, in seconds of the clock.
        age_seconds: How long ago, in AWS's seconds: those of the clock times the time scale.
        expired: Whether it is too old to be used.
    """

    stream: StreamKey
    shard_id: str
    issued_at: float
    age_seconds: float = 0.0
    expired: bool = False

    @property
    def made_to_expire(self) -> bool:
        """Whether it expired on demand, and not by its age."""
        return self.issued_at == -inf


class Iterators:
    """The iterators that were given out, the longest unused first; beyond the capacity they go.

    One that is not known any more is the upstream's to judge.

    AWS: Kinesis Data Streams API Reference, GetRecords: an iterator lives for five minutes.

    Args:
        clock: Monotonic seconds.
        time_scale: How many times sooner they expire.
        capacity: How many are kept.
    """

    def __init__(
        self, clock: Callable[[], float], *, time_scale: float = 1.0, capacity: int = 50_000
    ) -> None:
        self._clock = clock
        self._time_scale = time_scale
        self._capacity = capacity
        self._issued: OrderedDict[str, Issued] = OrderedDict()

    def __len__(self) -> int:
        return len(self._issued)

    def remember(self, iterator: str, stream: StreamKey, shard_id: str) -> None:
        """Remember an iterator that is given out now; an older one of the same text is renewed."""
        self._keep(iterator, Issued(stream, shard_id, self._clock()))

    def look_up(self, iterator: str) -> Issued | None:
        """Return what is known of an iterator, as it is now; None for one that is not known."""
        issued = self._issued.get(iterator)
        if issued is None:
            return None
        self._issued.move_to_end(iterator)
        age = (self._clock() - issued.issued_at) * self._time_scale
        return replace(issued, age_seconds=age, expired=age > ITERATOR_LIFE_SECONDS)

    def expire(self, iterator: str) -> None:
        """Let one iterator expire now, also one that is not known."""
        issued = self._issued.get(iterator, Issued((Identity("", ""), ""), "", -inf))
        self._keep(iterator, replace(issued, issued_at=-inf))

    def expire_all(self, stream: StreamKey | None = None, shard_id: str | None = None) -> int:
        """Let iterators expire now, and return how many.

        Args:
            stream: Only those of this stream; None: of all.
            shard_id: Only those of this shard; None: of all.
        """
        chosen = [
            (iterator, issued)
            for iterator, issued in self._issued.items()
            if stream in (None, issued.stream) and shard_id in (None, issued.shard_id)
        ]
        for iterator, issued in chosen:
            self._issued[iterator] = replace(issued, issued_at=-inf)
        return len(chosen)

    def _keep(self, iterator: str, issued: Issued) -> None:
        self._issued[iterator] = issued
        self._issued.move_to_end(iterator)
        while len(self._issued) > self._capacity:
            self._issued.popitem(last=False)


def expired_refusal(issued: Issued, wall_time: float) -> Refusal:
    """Return what AWS answers to an iterator that has expired.

    Args:
        issued: The iterator.
        wall_time: Now, in seconds since the epoch.
    """
    # One that was made to expire is as old as one that has just done so by itself.
    age = issued.age_seconds if issued.age_seconds < inf else ITERATOR_LIFE_SECONDS + 1
    created = time.strftime(_DATE, time.gmtime(wall_time - age))
    return Refusal(
        "ExpiredIteratorException",
        f"Iterator expired. The iterator was created at time {created} while right now it is"
        f" {time.strftime(_DATE, time.gmtime(wall_time))} which is further in the future than the"
        f" tolerated delay of {ITERATOR_LIFE_SECONDS * 1000} milliseconds.",
    )
