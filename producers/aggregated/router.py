"""Which lane a record belongs in, and what a new list of shards changes about that."""

import random
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from math import inf
from typing import Final

from producers.aggregated.failures import NO_SUCH_STREAM, WRONG_SHARD
from producers.aggregated.lane import Landed, Lane
from producers.aggregated.limiter import ShardLimiter
from producers.aggregated.map_watch import MapWatch
from producers.aggregated.pack import Pack
from producers.aggregated.values import Item, Listed, Settings
from producers.put_records import Failure
from records.limits import MAX_RECORD_BYTES
from records.partition import Shard, ShardMap

_OUTDATED: Final = Failure("OutdatedShardMap", "the stream was not found meanwhile", retriable=True)


class Router:
    """The lanes, the map they were made by, and the records that no map covers yet.

    A new map is adopted once nothing of a shard that it changes is on the road; shards that it does
    not change go on meanwhile. So no record overtakes another of its key that may yet come back.

    Attributes:
        lanes: One for each shard that something was put to, by shard ID.
        unrouted: Records that wait for a map, in the order of put.
        watch: Whether and when a list is to be asked for.
        max_record_bytes: The most a record may count; None: nobody said so yet.
        maximum_wanted: Somebody waits to know it.
        auto: The service spreads records as it likes, and their keys say nothing of their place.
    """

    def __init__(
        self, settings: Settings, rng: random.Random, max_record_bytes: int | None
    ) -> None:
        self.lanes: dict[str, Lane] = {}
        self.unrouted: deque[Item] = deque()
        self.watch = MapWatch(rng)
        self.auto = False
        self._settings = settings
        self._rng = rng
        self._map: ShardMap | None = None
        self._pending: Listed | None = None
        self.max_record_bytes = max_record_bytes
        self._max_is_given = max_record_bytes is not None
        self.maximum_wanted = False
        self._turn = 0
        self._outdated = False  # The list that is on its way is of no use.

    def route(self, item: Item, *, now: float, due_at: float) -> bool:
        """Append a record where it belongs; say whether something may leave sooner for it."""
        lane = None if self.unrouted else self._lane_for(item, now)
        if lane is None:
            self.unrouted.append(item)
            self.watch.want()
            return True
        # KCL drops an aggregate with a stranger in it, and where the service spreads them as it
        # likes most are strangers.
        alone = self.auto or not self._settings.aggregation
        return lane.add(item, due_at=due_at, alone=alone)

    @property
    def full_packs(self) -> int:
        """How many packs wait that take no more records."""
        return sum(lane.full_packs for lane in self.lanes.values())

    def in_place(self, lane: Lane, pack: Pack, shard_id: str) -> bool:
        """Whether KCL hands out every record of a pack, of this lane, that a shard holds."""
        predicted = shard_id == lane.shard.shard_id and self._map is not None and not self.auto
        return predicted or _holds(self._map, shard_id, pack, auto=self.auto)

    def notice(self, shard_id: str, now: float) -> None:
        """Note who answered: where the service spreads records, nothing else tells of a reshard."""
        if self.auto and self._map is not None and shard_id not in self.lanes:
            shard = self._map.shard(shard_id)
            if shard is None or shard.closed:
                self.watch.hint(now)

    def forget(self) -> None:
        """Trust the map no more: a stream made anew has shards of the same IDs that cover others.

        What waits is unrouted until there is another. A list that is on its way may be of before.
        """
        if self._pending is not None:
            self.watch.listing = False
        self._outdated = self.watch.listing
        self._map = self._pending = None
        self.auto = False
        waiting = [item for lane in self.lanes.values() for item in lane.clear()]
        self.unrouted = deque(_in_order((*waiting, *self.unrouted)))
        for lane in self.lanes.values():
            lane.frozen = True
        if self.needs_map():
            self.watch.want()

    def listed(self, listed: Listed | Failure, now: float) -> Failure | None:
        """Take a list of shards, or why there is none; return why nobody can be routed any more."""
        if self._outdated:
            self._outdated = False
            listed = _OUTDATED
        if isinstance(listed, Failure):
            return self._not_listed(listed, now)
        if gap := self._gap_in(listed.shards):
            return self._not_listed(gap, now)
        self._pending = listed
        if not self._max_is_given:
            known = listed.max_record_bytes or self.max_record_bytes
            self.max_record_bytes = known or MAX_RECORD_BYTES
        for lane in self._changed(listed):
            lane.frozen = True
        return None

    def adopt(self, now: float) -> list[tuple[Lane, Landed]]:
        """Take the pending list for the map if it may be; return what that shows to be in place."""
        pending = self._pending
        if pending is None:
            if self._map is None and self.needs_map():
                self.watch.want()  # For what has just come back.
            return []
        changed = self._changed(pending)
        for lane in changed:
            lane.frozen = True
        confirmed = [
            each for lane in self.lanes.values() for each in _taken_in_place(lane, pending)
        ]
        if any(lane.on_the_road for lane in changed):
            return confirmed
        self._pending = None
        toggled = self._map is None or pending.auto != self.auto
        self._map, self.auto = pending.shards, pending.auto
        for lane in self.lanes.values():
            self._judge(lane, now)
        again = [*self.lanes.values()] if toggled else self._changed(pending)
        self._route_again(again, now)
        self.watch.answered(None, enough=not self.needs_map(), now=now)
        return confirmed

    def needs_map(self) -> bool:
        """Whether something waits that only another list can help."""
        if self.unrouted or (self.maximum_wanted and self.max_record_bytes is None):
            return True
        lanes = self.lanes.values()
        return any(lane.landed or (self._map is None and lane.head) for lane in lanes)

    def items(self) -> Iterator[Item]:
        """Yield all that is not on the road."""
        for lane in self.lanes.values():
            for pack in [*lane.waiting(), *(each.pack for each in lane.landed)]:
                yield from pack.items
        yield from self.unrouted

    def take_landed(self) -> list[Item]:
        """Remove and return the records whose place the map would have had to tell."""
        return [item for lane in self.lanes.values() for item in lane.take_landed()]

    def take_unrouted(self) -> list[Item]:
        """Remove and return the records that no map covers."""
        unrouted, self.unrouted = [*self.unrouted], deque()
        return unrouted

    def take_all(self) -> list[Item]:
        """Remove and return all that is not on the road."""
        items = [item for lane in self.lanes.values() for item in _emptied(lane)]
        return items + self.take_unrouted()

    def clear(self) -> list[Item]:
        """Forget the lanes, those on the road too, and return what was in them besides."""
        items = self.take_all()
        self._pending = None
        self.lanes.clear()
        self.watch.listing = False
        self.watch.settle(needed=False)
        return items

    def take_expired(self, now: float, age: float) -> list[tuple[Item, Failure | None]]:
        """Remove and return the records that have waited too long, each with the last failure."""
        expired: list[tuple[Item, Failure | None]] = []
        for lane in self.lanes.values():
            if lane.oldest_accepted_at() + age <= now:
                expired += [(item, lane.last_failure) for item in lane.take_expired(now, age)]
        while self._oldest_unrouted_at() + age <= now:
            expired.append((self.unrouted.popleft(), self.watch.failure))
        if expired:
            self.watch.settle(needed=self.needs_map())
        return expired

    def take_keys(self, keys: set[tuple[str, int | None]]) -> list[Item]:
        """Remove and return what waits to be sent of these keys."""
        taken = [item for lane in self.lanes.values() for item in lane.take_keys(keys)]
        taken += [item for item in self.unrouted if item.key in keys]
        self.unrouted = deque(item for item in self.unrouted if item.key not in keys)
        self.watch.settle(needed=self.needs_map())
        return taken

    def oldest_accepted_at(self) -> float:
        """Return when the oldest record was accepted that may expire now."""
        oldest = self._oldest_unrouted_at()
        return min([oldest, *(lane.oldest_accepted_at() for lane in self.lanes.values())])

    def _oldest_unrouted_at(self) -> float:
        # In order, they may be behind what is on the road.
        behind = self._settings.ordered and any(each.on_the_road for each in self.lanes.values())
        return self.unrouted[0].accepted_at if self.unrouted and not behind else inf

    def _lane_for(self, item: Item, now: float) -> Lane | None:
        shards = self._map
        if shards is None:
            return None
        if self.auto and shards.open_shards:
            self._turn += 1
            shard = shards.open_shards[self._turn % len(shards.open_shards)]
        else:
            try:
                shard = shards.shard_for(item.hash_key)
            except LookupError:
                return None
        return self.lanes.get(shard.shard_id) or self._new_lane(shard, now)

    def _new_lane(self, shard: Shard, now: float) -> Lane:
        limiter = ShardLimiter(
            share=self._settings.rate,
            max_record_bytes=self.max_record_bytes or MAX_RECORD_BYTES,
            now=now,
        )
        lane = self.lanes[shard.shard_id] = Lane(shard, self._settings, limiter)
        return lane

    def _not_listed(self, failure: Failure, now: float) -> Failure | None:
        self.watch.listing = False
        if failure.code == NO_SUCH_STREAM or self._map is None:
            self.forget()  # With what came back meanwhile.
        if self._settings.ordered and any(lane.on_the_road for lane in self.lanes.values()):
            failure = replace(failure, retriable=True)  # They come before what would be given up.
        self.watch.answered(failure, enough=not self.needs_map(), now=now)
        if failure.retriable:
            return None
        self.max_record_bytes = self.max_record_bytes or MAX_RECORD_BYTES
        return failure

    def _gap_in(self, shards: ShardMap) -> Failure | None:
        """Return why a list cannot be the map: it leaves out what a record belongs to."""
        try:
            for item in self.items():
                shards.shard_for(item.hash_key)
        except LookupError as gap:
            return Failure("IncompleteShardMap", str(gap), retriable=True)
        return None

    def _changed(self, listed: Listed) -> list[Lane]:
        """Return the lanes that the list makes no sense of: their records are predicted anew."""
        if self._map is None or listed.auto != self.auto:
            return [*self.lanes.values()]
        return [lane for lane in self.lanes.values() if _strays(lane, listed.shards)]

    def _judge(self, lane: Lane, now: float) -> None:
        """Send again what by the new map did not land in place."""
        landed, lane.landed = lane.landed, []
        wrong: list[Pack] = []
        for each in landed:
            if self._map and self._map.shard(each.stored.shard_id) is not None:
                wrong.append(each.misplaced())
            else:
                lane.landed.append(each)  # The list does not know that shard yet: the next may.
        if wrong:
            lane.last_failure = WRONG_SHARD
            lane.back_off(now, self._rng)
            lane.put_back(*wrong)

    def _route_again(self, changed: list[Lane], now: float) -> None:
        """Predict anew, in the order of put, what no longer lies where it was bound for."""
        items: list[Item] = []
        for lane in changed:
            # With what is on a shard that nobody knows, which must not be overtaken.
            items += _emptied(lane)
            del self.lanes[lane.shard.shard_id]
        for lane in self.lanes.values():
            lane.frozen = False
        for item in _in_order((*items, *self.take_unrouted())):
            self.route(item, now=now, due_at=-inf)
        # What was moved once leaves at once; what is moved again and again, after a back-off.
        for lane in self.lanes.values():
            lane.recount()
            sends = max((len(i.history) for p in lane.fresh for i in p.items), default=0)
            if sends > 1:
                lane.failures = sends - 2
                lane.back_off(now, self._rng)


def _in_order(items: Iterable[Item]) -> list[Item]:
    """Return records in the order of put: those of one lane, and behind them what is unrouted."""
    # A key is in one lane only, so its order stays.
    return sorted(items, key=lambda item: item.accepted_at)


def _emptied(lane: Lane) -> list[Item]:
    return lane.take_landed() + lane.clear()


def _holds(shards: ShardMap | None, shard_id: str, pack: Pack, *, auto: bool) -> bool:
    """Whether KCL hands out every record of a pack that a shard holds."""
    if auto and pack.is_plain:
        return True
    shard = shards.shard(shard_id) if shards else None
    return shard is not None and all(shard.covers(item.hash_key) for item in pack.items)


def _taken_in_place(lane: Lane, listed: Listed) -> Iterator[tuple[Lane, Landed]]:
    """Remove and yield what by this list landed where it belongs."""
    landed, lane.landed = lane.landed, []
    for each in landed:
        if _holds(listed.shards, each.stored.shard_id, each.pack, auto=listed.auto):
            yield lane, each
        else:
            lane.landed.append(each)


def _strays(lane: Lane, shards: ShardMap) -> bool:
    """Whether by this list the shard is no more, or something here is bound for another."""
    old, new = lane.shard, shards.shard(lane.shard.shard_id)
    if new is None or new.closed:
        return True
    ends = (old.starting_hash_key, old.ending_hash_key)
    if ends != (new.starting_hash_key, new.ending_hash_key):
        return True  # A stream made anew has shards of the same IDs.
    places = [item.hash_key for pack in lane.waiting() for item in pack.items]
    try:
        return any(shards.shard_for(place).shard_id != old.shard_id for place in (*ends, *places))
    except LookupError:
        return True
