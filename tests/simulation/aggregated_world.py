"""One simulated run: a schedule drawn from a seed, the machine that ships, and the stream."""

import heapq
import random
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import cast

from producers.aggregated.departure import PutRequest
from producers.aggregated.machine import ListRequest, Machine
from producers.aggregated.metrics import Metrics
from producers.aggregated.values import Listed, Sent
from producers.errors import DeliveryError
from producers.put_records import Failure, Stored
from records.aggregation import AggregateBuilder
from records.limits import MAX_HASH_KEY, record_bytes
from records.partition import ShardMap
from tests.outcomes import outcomes
from tests.simulation.aggregated_entries import Entry, Put, Trip
from tests.simulation.aggregated_model import THROTTLED, ModelStream, Quota, user_records
from tests.simulation.aggregated_regime import Regime, Window, draw
from tests.simulation.aggregated_requests import BrokenError, check_request

INTERNAL = Failure("InternalFailure", "sorry", retriable=True)
TIMEOUT = Failure("ReadTimeoutError", "no answer", retriable=True)
UNREACHABLE = Failure("EndpointConnectionError", "no route", retriable=True)
LIMITED = Failure("LimitExceededException", "too many calls", retriable=True)
INVALID = Failure("InvalidArgumentException", "one of them is bad", retriable=False)
GONE = Failure("ResourceNotFoundException", "no such stream", retriable=False)
DENIED = Failure("AccessDeniedException", "no", retriable=False)

WALL = 1.7e9  # What the wall clock says at 0 by the world's own.
MOST_TURNS = 40  # For each record; a hot loop takes thousands.

Reply = list[Stored | Failure] | Failure


class World:
    """A run; `log` is told everything that happens."""

    def __init__(
        self,
        seed: int,
        regime: Regime | None = None,
        *,
        log: Callable[[str], None] | None = None,
    ) -> None:
        self.rng = random.Random(seed)
        self.regime = regime = regime or draw(self.rng)
        quota = Quota(regime.quota, regime.latency, regime.max_record_bytes)
        self.stream = ModelStream(regime.shards, quota, auto_from=regime.auto_from, rng=self.rng)
        self.metrics = Metrics()
        self.machine = Machine(regime.settings, rng=random.Random(seed + 1), metrics=self.metrics)
        self.now = 0.0  # By the world's clock; the machine's leaps ahead when it has slept.
        self.clock = 0.0
        self.entries: list[Entry] = []
        self.requests = self.lists = self.turns = 0
        self.abandoned = False
        self._log = log
        self._by_data: dict[bytes, Entry] = {}
        self._skew = 0.0
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._ticks = 0
        self._arriving: deque[Entry] = deque()
        self._closing = False
        self._listing = self._remaking = False
        self._on_the_road = 0
        self._wake: float | None = None
        self._dirty = True  # Something happened after which the machine must be asked.
        self._buffered_bytes = self._buffered = 0

    # The course of events.

    def run(self) -> "World":
        """Play the schedule until every record is settled."""
        self._plan()
        while self._agenda or self._arriving or self.machine.buffered_records:
            self._act()
            self.turns += 1
            if self.turns > MOST_TURNS * self.regime.records or self.now > 10_000:
                raise BrokenError(f"a hot loop: {self.turns} turns in {self.now:.1f} s")
            wake = self._wake
            if self._agenda and (wake is None or self._agenda[0][0] <= wake - self._skew):
                at, _, event = heapq.heappop(self._agenda)
                self.now = max(self.now, at)
                self.clock = max(self.clock, self.now + self._skew)
                event()
            elif wake is not None:
                self.clock = max(self.clock, wake)
                self.now = max(self.now, self.clock - self._skew)
                self._act(woken=True)
            elif self._arriving or self.machine.buffered_records:
                raise BrokenError(f"{self.machine.buffered_records} records wait for nothing")
        self._act()
        return self

    def _plan(self) -> None:
        regime, rng = self.regime, self.rng
        crowd: list[Entry] = []
        for number in range(regime.records):
            crowd.append(self._entry(number))
            if rng.random() < 0.5:  # Many come at one moment.
                self._at(rng.uniform(0, regime.spread), partial(self._arrive, crowd))
                crowd = []
        self._at(rng.uniform(0, regime.spread), partial(self._arrive, crowd))
        for _ in range(regime.reshards):
            self._at(rng.uniform(0.1, regime.spread + 1), self._reshard)
        for _ in range(regime.jumps):
            self._at(rng.uniform(0.1, regime.spread + 1), self._sleep)
        for _ in range(regime.flushes):
            self._at(rng.uniform(0, regime.spread), self._flush)
        if regime.throttled is not None:
            self.stream.shards[0].throttled = regime.throttled
        if regime.abandon_at is not None:
            self._at(regime.abandon_at, self._abandon)
        if regime.gone_at is not None:
            self._at(regime.gone_at, self._delete)
        self._at(regime.spread, self._close)

    def _entry(self, number: int) -> Entry:
        rng = self.rng
        key = f"key-{rng.randrange(self.regime.keys)}"
        # A key is both together: what shares only one of them has no order.
        explicit = rng.choice((None, None, 7, MAX_HASH_KEY // 3, MAX_HASH_KEY))
        size = rng.choice((0, 10, 20, 30, 60, 300))
        data = b"%d:" % number + b"x" * size
        if rng.random() < self.regime.nested:
            builder = AggregateBuilder(max_bytes=1_000)
            builder.try_add("inner", data)
            data = builder.build()
        entry = Entry(number, (key, explicit), data, rng.random() < self.regime.poison)
        self._by_data[data] = entry
        return entry

    def _at(self, when: float, event: Callable[[], None]) -> None:
        self._ticks += 1
        heapq.heappush(self._agenda, (when, self._ticks, event))

    def _say(self, *what: object) -> None:
        if self._log is not None:
            self._log(f"{self.now:9.4f} {' '.join(map(str, what))}")

    # What the shell does.

    def _act(self, *, woken: bool = False) -> None:
        """Ask the machine for everything that is to be done now."""
        if not (self._dirty or woken):
            return
        did = False
        while True:
            while (request := self.machine.step(self.clock)) is not None:
                did = True
                if isinstance(request, ListRequest):
                    self._list()
                else:
                    self._put(request)
            did = self._collect() or did
            if not self._let_in():
                break
        self._dirty = False
        self._wake = self.machine.wake_at()
        if woken and not did and self._wake is not None and self._wake <= self.clock:
            raise BrokenError(f"a hot loop: woken at {self.clock} for nothing, and again at once")

    def _let_in(self) -> bool:
        """Hand over what has arrived, as far as there is room; say whether to ask the machine."""
        changed = False
        while self._arriving and self.machine.buffered_records < self.regime.room:
            changed = self._accept(self._arriving.popleft()) or changed
        if changed and self._closing:
            self._flush()
        return changed

    def _accept(self, entry: Entry) -> bool:
        (key, explicit), data = entry.key, entry.data
        size = record_bytes(key, data)
        item = Put(key, data, explicit, f"id-{entry.number}", entry.place, size)
        item.entry = entry
        self.entries.append(entry)
        self._ticks += 1
        entry.accepted, entry.accepted_at, entry.ahead = self._ticks, self.clock, self._buffered
        self._buffered += 1
        self._buffered_bytes += size
        self._say("accept", entry, entry.key, "poison" if entry.poison else "")
        before = self.machine.wake_at()
        if self.machine.accept(item, now=self.clock):
            return True
        after = self.machine.wake_at()
        if after is not None and (before is None or after < before):
            raise BrokenError(f"accept did not say that it must be woken at {after}, not {before}")
        return self._closing  # The last ones are flushed.

    def _collect(self) -> bool:
        """Take what the machine has settled, and hold its counters to account."""
        settled = self.machine.take_settled()
        for item, result in outcomes(settled):
            entry = cast("Put", item).entry
            self._say("settle", entry, result)
            if entry.result is not None:
                raise BrokenError(f"record {entry.number} is settled twice")
            if isinstance(result, DeliveryError) and entry.on_the_road and not self.abandoned:
                raise BrokenError(f"record {entry.number} is given up on the road: {result}")
            self._ticks += 1
            entry.settled, entry.settled_at, entry.result = self._ticks, self.clock, result
            entry.unanswered = entry.on_the_road > 0
            self._buffered -= 1
            self._buffered_bytes -= item.size
        counted = (self.machine.buffered_records, self.machine.buffered_bytes)
        if counted != (self._buffered, self._buffered_bytes):
            raise BrokenError(f"it counts {counted} and holds {self._buffered} records")
        most = self._buffered + self._on_the_road + self.stream.most_open
        if self.machine.held() > most:
            raise BrokenError(f"it keeps {self.machine.held()} objects; {most} are in use")
        return bool(settled)

    def _arrive(self, crowd: list[Entry]) -> None:
        if not self.abandoned:
            self._arriving += crowd
            self._dirty = self._let_in() or self._dirty

    def _flush(self) -> None:
        self._say("flush")
        self.machine.flush()
        self._dirty = True
        for entry in self.entries:
            if entry.flushed_at is None:
                entry.flushed_at = self.clock

    def _close(self) -> None:
        self._closing = True
        self._flush()

    def _abandon(self) -> None:
        self._say("abandon")
        self.abandoned = True
        self._arriving.clear()
        self.machine.abandon("ProducerClosed", "it took too long")
        self._collect()
        if self._buffered:
            raise BrokenError(f"{self._buffered} records were not abandoned")
        self._dirty = True

    # What the world does.

    def _reshard(self) -> None:
        self._say("reshard")
        self.stream.reshard(self.now)

    def _delete(self) -> None:
        self._say("delete")
        self.stream.gone = True

    def _notice(self, reply: object) -> None:
        """Have the stream made anew once the machine knows that it is gone, else it never could."""
        if reply is GONE and self.stream.gone and not self._remaking:
            self._remaking = True
            self._at(self.now + self.rng.uniform(0.0, 1.0), self._make_anew)

    def _make_anew(self) -> None:
        self._say("make anew")
        self._remaking = False
        self.stream.make(self.rng.choice((1, 2, 3, 4)), self.now)

    def _sleep(self) -> None:
        self._skew += self.rng.uniform(30, 600)
        self.clock = self.now + self._skew
        self._say("the machine has slept")

    def _list(self) -> None:
        self.lists += 1
        if self._listing:
            raise BrokenError("the shards are listed twice at once")
        self._listing = True
        self._at(self.now + self._way() + self._way(), partial(self._listed, self._list_reply()))

    def _list_reply(self) -> Listed | Failure:
        regime, rng = self.regime, self.rng
        if self._is_in(regime.dead):
            return UNREACHABLE
        if self._is_in(regime.denied):
            return DENIED
        if self.stream.gone:
            return GONE
        if rng.random() < regime.list_fails:
            return rng.choice((UNREACHABLE, LIMITED))
        shards: ShardMap
        if rng.random() < regime.list_damaged:
            shards = self.stream.damaged_list()
        else:
            shards = self.stream.listed(max(0.0, self.now - regime.stale_for))
        return Listed(shards, self.now >= regime.auto_from, regime.max_record_bytes)

    def _listed(self, reply: Listed | Failure) -> None:
        self._say("listed", reply)
        self._listing = False
        self.machine.shards_listed(reply, now=self.clock)
        self._dirty = True
        self._notice(reply)

    def _put(self, request: PutRequest) -> None:
        self.requests += 1
        request.started_at = WALL + self.clock
        self._on_the_road += 1
        users = [user_records(record) for record in request.records]
        if self._on_the_road > self.regime.settings.max_in_flight:
            raise BrokenError(f"{self._on_the_road} requests are on the road")
        check_request(self.regime, request.records, users)
        packs = [[self._by_data[user.data] for user in each] for each in users]
        self._say("put", packs)
        for pack in packs:
            for entry in pack:
                entry.on_the_road += 1
        self._travel(Trip(request, packs, self.clock))

    def _travel(self, trip: Trip) -> None:
        regime, rng = self.regime, self.rng
        there, back = self._way(), self._way()
        reply: Failure | None = None
        if self._is_in(regime.dead):
            reply = UNREACHABLE
        elif self._is_in(regime.denied):
            reply = DENIED
        elif self.stream.gone:
            reply = GONE
        elif any(entry.poison for pack in trip.packs for entry in pack):
            reply = INVALID
        elif rng.random() < regime.refuse:
            reply = rng.choice((INTERNAL, UNREACHABLE))
        elif rng.random() < regime.commit_late:
            reply = TIMEOUT
            late = self.now + there + back + rng.uniform(0, 2)
            self._at(late, partial(self._commit_late, trip))
        if reply is not None:
            self._at(self.now + there + back, partial(self._answer, trip, reply))
        else:
            self._at(self.now + there, partial(self._commit_and_answer, trip, back))

    def _commit_late(self, trip: Trip) -> None:
        if not self.stream.gone:
            self._say("late", trip.packs, self._commit(trip))

    def _commit_and_answer(self, trip: Trip, back: float) -> None:
        reply: Reply = GONE if self.stream.gone else self._commit(trip)
        if self.rng.random() < self.regime.lose_answer:
            reply = TIMEOUT
        self._at(self.now + back, partial(self._answer, trip, reply))

    def _commit(self, trip: Trip) -> list[Stored | Failure]:
        # PutRecords orders nothing within a request.
        rng, regime, records = self.rng, self.regime, trip.request.records
        results: list[Stored | Failure] = [THROTTLED] * len(records)
        for at in rng.sample(range(len(records)), len(records)):
            if rng.random() < regime.fail:
                results[at] = INTERNAL
            elif rng.random() >= regime.throttle:
                results[at] = self.stream.put(records[at], self.now)
        return results

    def _answer(self, trip: Trip, reply: Reply) -> None:
        self._say("answer", trip.packs, reply)
        self._on_the_road -= 1
        self._dirty = True
        sent = Sent(WALL + trip.started, self.clock - trip.started)
        results = [reply] * len(trip.packs) if isinstance(reply, Failure) else reply
        for pack, result in zip(trip.packs, results, strict=True):
            code = result.code if isinstance(result, Failure) else None
            for entry in pack:
                entry.on_the_road -= 1
                if entry.result is None:
                    entry.attempts.append((*sent, code))
        self.machine.put_answered(trip.request, reply, now=self.clock, sent=sent)
        self._notice(reply)
        alone = sum(map(len, trip.packs)) == 1
        if reply is DENIED or reply is GONE or (reply is INVALID and alone):
            self._collect()
            if any(entry.result is None for pack in trip.packs for entry in pack):
                raise BrokenError(f"what failed for good ({reply!r}) is not given up at once")

    def _way(self) -> float:
        return self.rng.uniform(0.001, self.regime.latency)

    def _is_in(self, window: Window | None) -> bool:
        return window is not None and window[0] <= self.now < window[1]
