"""One lane for each shard: the packs bound for it, its limiter, and its back-off."""

import random
from bisect import insort_left
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from math import inf
from operator import attrgetter
from typing import Final, NamedTuple

from producers.aggregated.failures import WRONG_SHARD
from producers.aggregated.limiter import ShardLimiter
from producers.aggregated.metrics import Metrics
from producers.aggregated.pack import Pack
from producers.aggregated.values import Item, Sent, Settings
from producers.put_records import Failure, Stored, backoff_seconds
from records.partition import Shard

# Held up by no quota, until when.
_NOBODY: Final = (None, -inf)


class Landed(NamedTuple):
    """A pack that is stored where perhaps it should not be."""

    pack: Pack
    stored: Stored
    sent: Sent
    metrics: Metrics

    def misplaced(self) -> Pack:
        """Return the pack, with the attempt that came to nothing."""
        self.pack.failed(self.sent.attempt(WRONG_SHARD))
        self.metrics.record_failed(self.stored.shard_id, WRONG_SHARD.code)
        return self.pack


class Lane:
    """The packs bound for one shard, oldest first.

    Attributes:
        shard: The shard that all records here were predicted to go to.
        limiter: What that shard's quota admits.
        again: Packs that were sent before or packed anew, by the age of their oldest record.
        fresh: Packs that were never sent, in the order of put; younger than those of `again`.
        on_the_road: Packs that were sent and are not answered.
        landed: Packs whose place the map must tell first.
        full_packs: How many of `fresh` take no more records.
        failures: How often in a row something here failed.
        not_before: When the next pack may be sent, by the back-off.
        frozen: A new map changes this shard; nothing leaves until the map is adopted.
        last_failure: What went wrong last.
    """

    __slots__ = (
        "_held",
        "_open",
        "_ordered",
        "_settings",
        "again",
        "failures",
        "fresh",
        "frozen",
        "full_packs",
        "landed",
        "last_failure",
        "limiter",
        "not_before",
        "on_the_road",
        "shard",
    )

    def __init__(self, shard: Shard, settings: Settings, limiter: ShardLimiter) -> None:
        self.shard: Final = shard
        self.limiter: Final = limiter
        self.again: list[Pack] = []
        self.fresh: deque[Pack] = deque()
        self.full_packs = 0
        self.on_the_road = 0
        self.landed: list[Landed] = []
        self.failures = 0
        self.not_before = -inf
        self._held: tuple[Pack | None, float] = _NOBODY
        self.frozen = False
        self.last_failure: Failure | None = None
        self._settings: Final = settings
        # The pack that takes the next record; with `same_key` there is one for each key.
        self._open: dict[object, Pack] = {}

    def add(self, item: Item, *, due_at: float, alone: bool) -> bool:
        """Append a record; say whether that began a pack or filled one."""
        slot = item.key if self._settings.same_key else None
        pack = self._open.get(slot)
        if pack is not None:
            added = pack.try_add(item)
            if pack.full:
                del self._open[slot]
                self.full_packs += 1
            if added:
                return pack.full
        pack = Pack(item, self._settings, due_at=due_at, alone=alone)
        self.fresh.append(pack)
        if pack.full:
            self.full_packs += 1
        else:
            self._open[slot] = pack
        return True

    @property
    def head(self) -> Pack | None:
        """The pack that leaves next."""
        if self.again:
            return self.again[0]
        return self.fresh[0] if self.fresh else None

    def ready_at(self, *, eager: bool) -> float:
        """Return when the head may leave; infinity: not before something happens.

        Args:
            eager: A full pack leaves at once; otherwise it waits for its linger to be over, so that
                more travel in one request.
        """
        ordered = self._settings.ordered
        if self.frozen or (ordered and (self.on_the_road or self.landed)):
            return inf
        head = self.head
        if head is None:
            return inf
        held, until = self._held
        # The limiter's wait is that of one pack, which may be gone by now.
        ready = max(self.not_before, until) if held is head else self.not_before
        return ready if self.again or (eager and head.full) else max(head.due_at, ready)

    def admits(self, pack: Pack, now: float) -> bool:
        """Whether the shard's quota has room for the head; if not, note when it will."""
        wait = self.limiter.wait(pack.size, now)
        self._held = (pack, now + wait) if wait > 0 else _NOBODY
        return wait <= 0

    def depart(self, now: float) -> Pack:
        """Put the head on the road, charge it to the limiter, and return it."""
        pack = self.again.pop(0) if self.again else self._pop_fresh()
        pack.seal()
        self.limiter.take(pack.size, now)
        pack.first_sent_at = min(pack.first_sent_at, now)
        self.on_the_road += 1
        return pack

    def back_off(self, now: float, rng: random.Random) -> None:
        """Send nothing for a while: the longer, the more failures in a row."""
        if now < self.not_before:
            return  # It was on the road with the one that failed before: both are one failure.
        self.failures += 1
        self.not_before = now + backoff_seconds(self.failures, rng)

    def put_back(self, *packs: Pack) -> None:
        """Take packs that must be sent (again), in their order, before those that are younger."""
        for pack in reversed(packs):
            insort_left(self.again, pack, key=_oldest)

    def hurry(self) -> None:
        """Let nothing that is here linger."""
        for pack in self.fresh:
            pack.due_at = -inf

    def waiting(self) -> Iterator[Pack]:
        """Yield the packs that are to be sent, in order."""
        yield from self.again
        yield from self.fresh

    def clear(self) -> list[Item]:
        """Remove and return everything that is to be sent, in order."""
        items = [item for pack in self.waiting() for item in pack.dissolve()]
        self.again.clear()
        self.fresh.clear()
        self._open.clear()
        self._held = _NOBODY
        self.full_packs = 0
        return items

    def take_landed(self) -> list[Item]:
        """Remove and return the records whose place the map must tell first."""
        landed, self.landed = self.landed, []
        return [item for each in landed for item in each.misplaced().dissolve()]

    def oldest_accepted_at(self) -> float:
        """Return when the oldest record was accepted that may expire now; infinity: there is none.

        What is on the road may not: its answer comes first. Nor may, in order, what is behind it.
        """
        oldest = inf
        if self._settings.ordered and self.on_the_road:
            return oldest
        if self.again:
            oldest = self.again[0].oldest
        if self.fresh:
            oldest = min(oldest, self.fresh[0].oldest)
        return min(oldest, min((each.pack.oldest for each in self.landed), default=inf))

    def take_expired(self, now: float, age: float) -> list[Item]:
        """Remove and return the records that were accepted `age` seconds ago or earlier.

        What is left of a pack is packed anew, and sent again even if the old pack has landed.
        """
        packs = [each.misplaced() for each in self.landed if each.pack.oldest + age <= now]
        self.landed = [each for each in self.landed if each.pack.oldest + age > now]
        while self.again and self.again[0].oldest + age <= now:
            packs.append(self.again.pop(0))
        while self.fresh and self.fresh[0].oldest + age <= now:
            packs.append(self._pop_fresh())
        expired: list[Item] = []
        for pack in packs:
            rest = self._without(pack, lambda item: item.accepted_at + age <= now, expired)
            if rest is not None:
                self.put_back(rest)
        return expired

    def take_keys(self, keys: set[tuple[str, int | None]]) -> list[Item]:
        """Remove and return the records of these keys that are to be sent, in order."""
        taken: list[Item] = []

        def without(packs: Iterable[Pack]) -> Iterator[Pack]:
            for pack in packs:
                rest = self._without(pack, lambda item: item.key in keys, taken)
                if rest is not None:
                    yield rest

        self.again = [*without(self.again)]
        self.fresh = deque(without(self.fresh))
        self.recount()
        return taken

    def halve(self, pack: Pack) -> tuple[Pack, Pack]:
        """Divide the records of a pack between two."""
        items = pack.dissolve()
        middle = len(items) // 2
        return self._packed(items[:middle]), self._packed(items[middle:])

    def recount(self) -> None:
        """Make what is kept of `fresh` agree with it."""
        for pack in self.fresh:
            pack.recount()
        self.full_packs = sum(pack.full for pack in self.fresh)
        here = {id(pack) for pack in self.fresh if not pack.full}
        self._open = {slot: pack for slot, pack in self._open.items() if id(pack) in here}

    def _pop_fresh(self) -> Pack:
        pack = self.fresh.popleft()
        if pack.full:
            self.full_packs -= 1
        else:
            slot = pack.items[0].key if self._settings.same_key else None
            if self._open.get(slot) is pack:
                del self._open[slot]
        return pack

    def _without(self, pack: Pack, goes: Callable[[Item], bool], gone: list[Item]) -> Pack | None:
        """Move the records that go to `gone`; return the pack, or one of the rest if any."""
        if not any(map(goes, pack.items)):
            return pack
        items = pack.dissolve()
        gone += filter(goes, items)
        rest = [item for item in items if not goes(item)]
        return self._packed(rest) if rest else None

    def _packed(self, items: list[Item]) -> Pack:
        """Pack records that have been in one pack before."""
        pack = Pack(items[0], self._settings, due_at=-inf, alone=False)
        for item in items[1:]:
            pack.try_add(item)  # Fewer than before, so they fit.
        pack.recount()
        pack.full = True
        return pack


_oldest = attrgetter("oldest")
