"""The engine's decisions, without a clock, a thread or a client of its own.

Its owner tells it what happened (`accept`, `put_answered`, `shards_listed`), asks what to do next
(`step`) and when to ask again (`wake_at`), and collects what was settled (`take_settled`). Times
are seconds of any one clock that never goes back.

The rules, each of which a test takes away to see what breaks:

- A lane per shard, one pack of a lane on the road: the order per key survives every retry.
- A pack whose answer was lost is sent again with the same bytes, thus the same record IDs.
- A pack is confirmed only if the shard that answered covers the hash of every record in it. KCL
  drops an aggregate with a single stranger in it, so half of one cannot be confirmed.
- Otherwise the shards are listed again. What was bound for a shard that takes no more records is
  predicted anew in the order of put, and sent again. A list that does not yet know the shard which
  answered is asked for again after a back-off; until then the pack waits and its lane with it.
- They are listed again, too, once the stream was not found: one that is made anew under its name
  has shards of the same IDs that cover something else.
- The shards are listed only while nothing is on the road, so that no answer belongs to old lanes.
"""

import random
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from producers.aggregated.lanes import Lane
from producers.aggregated.values import Item, PutResult, Settings, Settled
from producers.errors import DeliveryError
from producers.put_records import Failure, Record, Stored, backoff_seconds
from records.limits import MAX_PUT_REQUEST_BYTES, MAX_RECORDS_PER_PUT, record_bytes
from records.partition import Shard, ShardMap

_WRONG_SHARD = Failure(
    "WrongShard", "it was stored on a shard that does not cover all of it", retriable=True
)


_NO_SUCH_STREAM = "ResourceNotFoundException"
# Kinesis refuses a whole request for one record that it does not like, and does not say which.
_MAY_BE_ANOTHERS_FAULT = frozenset({"InvalidArgumentException", "ValidationException"})


@dataclass(frozen=True, slots=True, eq=False)
class PutRequest:
    """Send these records in one PutRecords, and report to `Machine.put_answered`."""

    records: tuple[Record, ...]
    lanes: tuple[Lane, ...]


@dataclass(frozen=True, slots=True)
class ListRequest:
    """List the stream's shards, closed ones too, and report to `Machine.shards_listed`."""


class Machine:
    """Packs, routes, retries and confirms the records of one stream. Not safe between threads.

    Attributes:
        buffered_records: Items that are not settled.
        buffered_bytes: Their data and keys, in bytes.
    """

    def __init__(self, settings: Settings, *, rng: random.Random) -> None:
        self.buffered_records = 0
        self.buffered_bytes = 0
        self._settings = settings
        self._rng = rng
        self._next_number = 1
        self._flushed = 0  # Items up to this number do not linger.
        self._map: ShardMap | None = None
        self._lanes: dict[str, Lane] = {}
        self._unrouted: deque[Item] = deque()
        self._on_the_road: set[PutRequest] = set()
        self._listing = False
        self._map_wanted = False
        self._map_not_before = 0.0
        self._map_failures = 0
        self._map_failure: Failure | None = None
        self._settled: list[Settled] = []

    def accept(
        self,
        partition_key: str,
        data: bytes,
        explicit_hash_key: int | None,
        record_id: str | None,
        *,
        now: float,
    ) -> tuple[int, bool]:
        """Take a valid user record; return its number, and whether `wake_at` may have changed."""
        number = self._next_number
        self._next_number += 1
        item = Item(number, partition_key, data, explicit_hash_key, record_id, now)
        self.buffered_records += 1
        self.buffered_bytes += item.size
        return number, self._route(item)

    def recover(self) -> None:
        """Put in order what an `accept` that was broken off, as by Ctrl-C, has left half done.

        Its record is either in the buffer or not; if it is, it will be sent and settled.
        """
        items = [item for lane in self._lanes.values() for item in lane.items()]
        items += self._unrouted
        self.buffered_records = len(items)
        self.buffered_bytes = sum(item.size for item in items)
        self._map_wanted = self._map_wanted or self._needs_map()

    def step(self, now: float) -> PutRequest | ListRequest | None:
        """Return the next thing to do now, or None; call again after each event."""
        self._expire(now)
        if self._listing:
            return None
        if self._map_wanted:
            if self._on_the_road:
                return None
            if now >= self._map_not_before:
                self._listing = True
                return ListRequest()
        return self._next_put(now)

    def wake_at(self) -> float | None:
        """Return when `step` will have something to do if nothing happens before; None: never."""
        return min(self._times(), default=None)

    def put_answered(
        self, request: PutRequest, reply: list[Stored | Failure] | Failure, *, now: float
    ) -> None:
        """Take the answer to a `PutRequest`, one result for each record or one for all."""
        if request not in self._on_the_road:
            return  # Abandoned meanwhile; its records have been given up.
        self._on_the_road.remove(request)
        results = [reply] * len(request.lanes) if isinstance(reply, Failure) else reply
        shared = isinstance(reply, Failure) and len(request.lanes) > 1
        for lane, result in zip(request.lanes, results, strict=True):
            if shared and isinstance(result, Failure) and result.code in _MAY_BE_ANOTHERS_FAULT:
                lane.hold(result, now)
                lane.alone = True
            elif isinstance(result, Failure):
                self._put_failed(lane, result, now)
            elif result.shard_id == lane.shard.shard_id or self._covers(result.shard_id, lane):
                self._confirm(lane, result)
            else:
                lane.land(result)
                self._map_wanted = True

    def shards_listed(self, listed: ShardMap | Failure, *, now: float) -> None:
        """Take the answer to a `ListRequest`."""
        if not self._listing:
            return
        self._listing = False
        if isinstance(listed, ShardMap):
            listed = self._adopt(listed, now) or listed
        if isinstance(listed, Failure):
            self._map_failures += 1
            self._map_failure = listed
            if not listed.retriable:
                self._give_up_on_the_map(listed)
        else:
            self._map_failure = None
            self._map_wanted = self._needs_map()
            self._map_failures = self._map_failures + 1 if self._map_wanted else 0
        pause = backoff_seconds(self._map_failures, self._rng) if self._map_failures else 0.0
        self._map_not_before = now + pause

    def flush(self) -> None:
        """Let nothing that is accepted so far linger."""
        self._flushed = self._next_number - 1

    def abandon(self, code: str, message: str) -> None:
        """Give up everything that is not settled; answers that come later are ignored."""
        for lane in self._lanes.values():
            for item in lane.items():
                self._give_up(item, code, message, retriable=True)
        for item in self._unrouted:
            self._give_up(item, code, message, retriable=True)
        self._lanes.clear()
        self._unrouted.clear()
        self._on_the_road.clear()
        self._listing = self._map_wanted = False

    def take_settled(self) -> list[Settled]:
        """Return what was settled since the last call."""
        settled, self._settled = self._settled, []
        return settled

    # Routing and departure.

    def _route(self, item: Item) -> bool:
        shard = None if self._unrouted else self._shard_for(item)
        if shard is None:
            self._unrouted.append(item)
            self._map_wanted = True
            return len(self._unrouted) == 1
        return self._lane(shard).add(item)

    def _shard_for(self, item: Item) -> Shard | None:
        try:
            return self._map.shard_for(item.hash_key) if self._map else None
        except LookupError:
            return None

    def _lane(self, shard: Shard) -> Lane:
        lane = self._lanes.get(shard.shard_id)
        if lane is None:
            lane = Lane(shard, max_bytes=self._settings.max_aggregate_bytes)
            self._lanes[shard.shard_id] = lane
        return lane

    def _next_put(self, now: float) -> PutRequest | None:
        lanes = self._lanes.values()
        ready = [lane for lane in lanes if (at := self._due(lane)) is not None and at <= now]
        # The oldest first, or shards at the end of a long list would starve.
        ready.sort(key=lambda lane: lane.packs[0].items[0].number)
        chosen: list[Lane] = []
        size = 0
        for lane in ready[:MAX_RECORDS_PER_PUT]:
            wire = lane.packs[0].seal()
            size += record_bytes(wire.partition_key, wire.data)
            if chosen and (size > MAX_PUT_REQUEST_BYTES or chosen[0].alone or lane.alone):
                break
            chosen.append(lane)
        if not chosen:
            return None
        request = PutRequest(tuple(lane.depart() for lane in chosen), tuple(chosen))
        self._on_the_road.add(request)
        return request

    def _due(self, lane: Lane) -> float | None:
        return lane.due_at(linger=self._settings.linger, flushed=self._flushed)

    def _times(self) -> Iterator[float]:
        if self._listing:
            return  # Its answer comes first, whatever it is.
        holding = self._map_wanted and bool(self._on_the_road)
        if self._map_wanted and not holding:
            yield self._map_not_before
        age = self._settings.max_record_age
        if age is not None and self._unrouted:
            yield self._unrouted[0].accepted_at + age
        for lane in self._lanes.values():
            if not holding and (due := self._due(lane)) is not None:
                yield due
            if age is not None and (oldest := lane.oldest_accepted_at()) is not None:
                yield oldest + age

    # What became of packs.

    def _covers(self, shard_id: str, lane: Lane) -> bool:
        shard = self._map.shard(shard_id) if self._map else None
        return shard is not None and all(shard.covers(i.hash_key) for i in lane.packs[0].items)

    def _confirm(self, lane: Lane, stored: Stored) -> None:
        place = (stored.shard_id, stored.sequence_number)
        for index, item in enumerate(lane.settle_head()):
            self._settle(item, PutResult(*place, index, item.attempts, item.record_id))

    def _put_failed(self, lane: Lane, failure: Failure, now: float) -> None:
        if failure.retriable:
            lane.failures += 1
            lane.hold(failure, now + backoff_seconds(lane.failures, self._rng))
            return
        if failure.code == _NO_SUCH_STREAM:
            self._map_wanted = True
        for item in lane.settle_head():
            self._give_up(item, failure.code, failure.message, retriable=False)

    def _expire(self, now: float) -> None:
        age = self._settings.max_record_age
        if age is None:
            return
        expired: list[tuple[Item, Failure | None]] = []
        while self._unrouted and self._unrouted[0].accepted_at + age <= now:
            expired.append((self._unrouted.popleft(), self._map_failure))
        for lane in self._lanes.values():
            expired += [(item, lane.last_failure) for item in lane.take_expired(now, age)]
        for item, last in expired:
            message = f"not confirmed within {age:g} s"
            if last is not None:
                message += f"; last error: {last.code}: {last.message}"
            self._give_up(item, "RecordExpired", message, retriable=True)
        if expired:
            self._map_wanted = self._needs_map()

    def _needs_map(self) -> bool:
        return bool(self._unrouted) or any(lane.landed for lane in self._lanes.values())

    def _give_up(self, item: Item, code: str, message: str, *, retriable: bool) -> None:
        self._settle(item, item.error(code, message, retriable=retriable))

    def _settle(self, item: Item, result: PutResult | DeliveryError) -> None:
        self.buffered_records -= 1
        self.buffered_bytes -= item.size
        self._settled.append(Settled(item, result))

    # A new list of shards.

    def _adopt(self, new: ShardMap, now: float) -> Failure | None:
        """Make the list the map, and predict anew what no longer lies where it was bound for."""
        try:
            moved = [lane for lane in self._lanes.values() if _strays(lane, new)]
            for item in self._unrouted:
                new.shard_for(item.hash_key)
        except LookupError as gap:
            return Failure("IncompleteShardMap", str(gap), retriable=True)
        self._map = new
        for lane in self._lanes.values():
            if lane.landed is not None:
                self._judge_landed(lane, lane.landed, now)
        # A lane without packs is made again when there is need; its shard may be no more.
        for lane in [*self._lanes.values()]:
            if lane in moved or not lane.packs:
                del self._lanes[lane.shard.shard_id]
        items = [item for lane in moved for item in lane.items()]
        items += self._unrouted
        self._unrouted.clear()
        for item in sorted(items, key=lambda item: item.number):
            self._route(item)
        self._slow_down_repeated(items, now)
        return None

    def _judge_landed(self, lane: Lane, landed: Stored, now: float) -> None:
        if self._covers(landed.shard_id, lane):
            self._confirm(lane, landed)
        elif self._map and self._map.shard(landed.shard_id) is not None:
            lane.failures += 1
            lane.hold(_WRONG_SHARD, now + backoff_seconds(lane.failures, self._rng))
        # Else the list does not know that shard yet: the pack waits for the next list.

    def _slow_down_repeated(self, items: Iterable[Item], now: float) -> None:
        """Send what was moved once at once; what is moved again and again, after a back-off."""
        repeated: dict[str, int] = {}
        for item in items:
            if item.attempts > 1 and (shard := self._shard_for(item)):
                repeated[shard.shard_id] = max(item.attempts, repeated.get(shard.shard_id, 0))
        for shard_id, attempts in repeated.items():
            lane = self._lanes[shard_id]
            lane.failures = attempts - 1
            lane.hold(_WRONG_SHARD, now + backoff_seconds(lane.failures, self._rng))

    def _give_up_on_the_map(self, failure: Failure) -> None:
        """Nothing can be routed, nor what landed elsewhere be confirmed; the rest goes on."""
        self._map_wanted = False
        lost = list(self._unrouted)
        self._unrouted.clear()
        for lane in self._lanes.values():
            if lane.landed is not None:
                lost += lane.settle_head()
        for item in lost:
            self._give_up(item, failure.code, failure.message, retriable=False)


def _strays(lane: Lane, shards: ShardMap) -> bool:
    """Whether anything in the lane is bound for another shard, by this list."""
    mine = lane.shard.shard_id
    return any(shards.shard_for(item.hash_key).shard_id != mine for item in lane.items())
