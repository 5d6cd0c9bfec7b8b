"""A small Kinesis in virtual time, the shipped machine against it, and a checker of its promises.

The model splits and merges shards, throttles, fails requests before and after the commit, commits
late (after the producer has given up waiting), and lists shards as they were a while ago.
"""

import heapq
import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from producers.aggregated.machine import ListRequest, Machine, PutRequest
from producers.aggregated.values import PutResult, Settings
from producers.errors import DeliveryError
from producers.put_records import Failure, Record, Stored
from records.aggregation import UserRecord, decode
from records.limits import MAX_HASH_KEY
from records.partition import Shard, ShardMap, hash_key

THROTTLED = Failure("ProvisionedThroughputExceededException", "slow down", retriable=True)
INTERNAL = Failure("InternalFailure", "sorry", retriable=True)
TIMEOUT = Failure("ReadTimeoutError", "no answer", retriable=True)
UNREACHABLE = Failure("EndpointConnectionError", "no route", retriable=True)


class BrokenError(AssertionError):
    """A promise does not hold."""


@dataclass
class Regime:
    """How bad the world is; probabilities for each record or request."""

    throttle: float = 0.0
    refuse: float = 0.0  # the whole request, before the commit
    lose_answer: float = 0.0  # after the commit
    commit_late: float = 0.0  # the producer times out first, the commit comes later
    list_fails: float = 0.0
    stale_for: float = 0.0  # seconds that ListShards lags behind
    reshards: int = 0
    on_the_road: int = 1
    max_record_age: float | None = None
    records: int = 150
    keys: int = 10

    @classmethod
    def of(cls, rng: random.Random) -> "Regime":
        def chance(most: float) -> float:
            return rng.choice([0.0, rng.uniform(0, most)])

        return cls(
            throttle=chance(0.5),
            refuse=chance(0.3),
            lose_answer=chance(0.3),
            commit_late=chance(0.3),
            list_fails=chance(0.5),
            stale_for=chance(3.0),
            reshards=rng.randrange(5),
            on_the_road=rng.randint(1, 3),
            max_record_age=rng.choice([None, None, 0.5, 3.0]),
        )


@dataclass
class ModelStream:
    """The stream itself: shards in the order of their making, and what each of them holds."""

    shards: list[Shard] = field(default_factory=list)
    held: dict[str, list[Record]] = field(default_factory=lambda: defaultdict(list))
    history: list[tuple[float, ShardMap]] = field(default_factory=list)

    def make(self, start: int, end: int, now: float, *parents: Shard) -> None:
        ids = [parent.shard_id for parent in parents] + [None, None]
        self.shards.append(Shard(f"shard-{len(self.shards):04}", start, end, ids[0], ids[1]))
        self.history.append((now, ShardMap(self.shards)))

    def close(self, shard: Shard) -> None:
        closed = Shard(
            shard.shard_id,
            shard.starting_hash_key,
            shard.ending_hash_key,
            shard.parent_shard_id,
            shard.adjacent_parent_shard_id,
            closed=True,
        )
        self.shards[self.shards.index(shard)] = closed

    def reshard(self, rng: random.Random, now: float) -> None:
        """Split a shard, or merge two neighbours."""
        open_shards = sorted(
            (s for s in self.shards if not s.closed), key=lambda s: s.starting_hash_key
        )
        at = rng.randrange(len(open_shards))
        first = open_shards[at]
        if len(open_shards) > 1 and at + 1 < len(open_shards) and rng.random() < 0.5:
            second = open_shards[at + 1]
            self.close(first)
            self.close(second)
            self.make(first.starting_hash_key, second.ending_hash_key, now, first, second)
        else:
            low, high = first.starting_hash_key, first.ending_hash_key
            middle = low + int((high - low) * rng.uniform(0.2, 0.8))
            self.close(first)
            self.make(low, middle, now, first)
            self.history.pop()  # Nobody ever sees one child without the other.
            self.make(middle + 1, high, now, first)

    def put(self, record: Record) -> Stored:
        place = record.explicit_hash_key
        place = hash_key(record.partition_key) if place is None else place
        shard = next(s for s in self.shards if not s.closed and s.covers(place))
        self.held[shard.shard_id].append(record)
        return Stored(shard.shard_id, str(len(self.held[shard.shard_id]) - 1))

    def listed(self, now: float) -> ShardMap:
        """Return the newest list that is at least as old as `now`."""
        return next(shards for made, shards in reversed(self.history) if made <= now)


class World:
    """One run: a schedule drawn from a seed, the machine, and the stream."""

    def __init__(self, seed: int, regime: Regime | None = None) -> None:
        self.rng = random.Random(seed)
        self.regime = regime or Regime.of(self.rng)
        self.machine = Machine(
            Settings(
                linger=0.05,
                max_aggregate_bytes=256,
                max_record_age=self.regime.max_record_age,
            ),
            rng=random.Random(seed + 1),
        )
        self.stream = ModelStream()
        for at in range(first := self.rng.randint(1, 3)):
            self.stream.make(
                (MAX_HASH_KEY + 1) * at // first, (MAX_HASH_KEY + 1) * (at + 1) // first - 1, 0.0
            )
        self.now = 0.0
        self.agenda: list[tuple[float, int, Callable[[], object]]] = []
        self.entries = 0
        self.on_the_road = 0
        self.accepted: dict[int, tuple[str, int | None, bytes]] = {}
        self.settled: dict[int, PutResult | DeliveryError] = {}
        self.calls = 0

    def run(self) -> "World":
        """Play the schedule until every record is settled."""
        spread = 5.0
        for number in range(self.regime.records):
            self._at(self.rng.uniform(0, spread), partial(self._accept, number))
        for _ in range(self.regime.reshards):
            self._at(self.rng.uniform(0.2, spread + 1), self._reshard)
        while self.agenda or self.machine.buffered_records:
            self._act()
            wake = self.machine.wake_at() if self._may_send() else None
            if self.agenda and (wake is None or self.agenda[0][0] <= wake):
                at, _, event = heapq.heappop(self.agenda)
                self.now = max(self.now, at)
                event()
            elif wake is not None:
                self.now = max(self.now, wake)
            elif self.machine.buffered_records:
                raise BrokenError(f"{self.machine.buffered_records} records wait for nothing")
            if self.now > 2_000:
                raise BrokenError("not settled after 2,000 s")
            self.calls += 1
            if self.calls > 20_000:
                raise BrokenError(f"a hot loop: {self.calls} turns in {self.now:.1f} s")
        self._collect()
        return self

    def _may_send(self) -> bool:
        return self.on_the_road < self.regime.on_the_road

    def _act(self) -> None:
        while self._may_send() and (request := self.machine.step(self.now)) is not None:
            self.on_the_road += 1
            if isinstance(request, ListRequest):
                self._list()
            else:
                self._put(request)
        self._collect()

    def _collect(self) -> None:
        for each in self.machine.take_settled():
            if each.item.number in self.settled:
                raise BrokenError(f"record {each.item.number} is settled twice")
            self.settled[each.item.number] = each.result

    def _at(self, when: float, event: Callable[[], object]) -> None:
        self.entries += 1
        heapq.heappush(self.agenda, (when, self.entries, event))

    def _accept(self, number: int) -> None:
        key = f"key-{self.rng.randrange(self.regime.keys)}"
        # The explicit hash key belongs to the key, so that both together are one key.
        place = int(key.removeprefix("key-"))
        explicit = None if place % 3 else place * (MAX_HASH_KEY // self.regime.keys)
        if self.rng.random() < 0.02:
            data = b"%d:" % number + b"x" * 300  # larger than an aggregate may be
        else:
            data = b"%d:" % number + b"x" * self.rng.randrange(60)
        accepted, _ = self.machine.accept(key, data, explicit, None, now=self.now)
        self.accepted[accepted] = (key, explicit, data)

    def _reshard(self) -> None:
        self.stream.reshard(self.rng, self.now)

    def _list(self) -> None:
        fails = self.rng.random() < self.regime.list_fails
        asked = max(0.0, self.now - self.regime.stale_for)
        shards: ShardMap | Failure = UNREACHABLE if fails else self.stream.listed(asked)

        def answer() -> None:
            self.on_the_road -= 1
            self.machine.shards_listed(shards, now=self.now)

        self._at(self.now + self.rng.uniform(0.005, 0.05), answer)

    def _put(self, request: PutRequest) -> None:
        if self.rng.random() < self.regime.refuse:
            self._answer_at(self.now + 0.02, request, self.rng.choice([INTERNAL, UNREACHABLE]))
            return
        commit = self.now + self.rng.uniform(0.001, 0.05)
        if self.rng.random() < self.regime.commit_late:
            self._answer_at(self.now + 0.04, request, TIMEOUT)
            self._at(commit + self.rng.uniform(0, 2), lambda: self._commit(request))
            return

        def commit_and_answer() -> None:
            reply: list[Stored | Failure] | Failure = self._commit(request)
            if self.rng.random() < self.regime.lose_answer:
                reply = TIMEOUT
            self._answer_at(self.now + self.rng.uniform(0.001, 0.05), request, reply)

        self._at(commit, commit_and_answer)

    def _commit(self, request: PutRequest) -> list[Stored | Failure]:
        # PutRecords orders nothing within a request.
        results: dict[int, Stored | Failure] = {}
        for at in self.rng.sample(range(len(request.records)), len(request.records)):
            throttled = self.rng.random() < self.regime.throttle
            results[at] = THROTTLED if throttled else self.stream.put(request.records[at])
        return [results[at] for at in range(len(request.records))]

    def _answer_at(
        self, when: float, request: PutRequest, reply: list[Stored | Failure] | Failure
    ) -> None:
        def answer() -> None:
            self.on_the_road -= 1
            self.machine.put_answered(request, reply, now=self.now)

        self._at(when, answer)


def check(world: World) -> None:
    """Hold a finished run to the promises.

    Raises:
        BrokenError: with what does not hold.
    """
    if missing := world.accepted.keys() - world.settled.keys():
        raise BrokenError(f"never settled: {sorted(missing)}")
    if world.machine.buffered_records or world.machine.buffered_bytes:
        raise BrokenError("the buffer is not empty")
    for number, result in world.settled.items():
        if isinstance(result, PutResult):
            _check_confirmed(world, number, result)
        elif world.regime.max_record_age is None:
            raise BrokenError(f"record {number} was given up in a world that only delays: {result}")
    _check_order(world)
    if not world.regime.reshards and world.regime.max_record_age is None:
        _check_same_bytes(world)


def _user_records(record: Record) -> list[UserRecord]:
    # KCL and we: what is no aggregate is a user record itself.
    return decode(record.data) or [
        UserRecord(record.partition_key, record.data, record.explicit_hash_key)
    ]


def _check_confirmed(world: World, number: int, result: PutResult) -> None:
    key, explicit, data = world.accepted[number]
    record = world.stream.held[result.shard_id][int(result.sequence_number)]
    users = _user_records(record)
    found = users[result.sub_sequence_number]
    if (found.partition_key, found.data) != (key, data):
        raise BrokenError(f"record {number} is not where its result says")
    if len(users) > 1 and found.explicit_hash_key != explicit:
        raise BrokenError(f"record {number} lost its explicit hash key")
    shard = next(s for s in world.stream.shards if s.shard_id == result.shard_id)
    if strangers := [user for user in users if not shard.covers(user.hash_key)]:
        raise BrokenError(
            f"record {number} is confirmed beside {len(strangers)} KCL would not take"
        )


def _check_order(world: World) -> None:
    """First occurrences of confirmed records, as KCL hands them out, follow the order of put."""
    confirmed = {
        world.accepted[number][2]: (world.accepted[number][0], number)
        for number, result in world.settled.items()
        if isinstance(result, PutResult)
    }
    last: dict[str, int] = defaultdict(int)
    seen: set[bytes] = set()
    # Shards are numbered in the order of their making, so parents come before children.
    for shard in world.stream.shards:
        for record in world.stream.held[shard.shard_id]:
            users = _user_records(record)
            if not all(shard.covers(user.hash_key) for user in users):
                continue
            for user in users:
                if user.data in seen or user.data not in confirmed:
                    continue
                seen.add(user.data)
                key, number = confirmed[user.data]
                if number < last[key]:
                    raise BrokenError(f"{key}: record {number} came after record {last[key]}")
                last[key] = number


def _check_same_bytes(world: World) -> None:
    """Without a reshard, what is sent again is the same record to the byte."""
    record_of: dict[bytes, Record] = {}
    for records in world.stream.held.values():
        for record in records:
            for user in _user_records(record):
                if record_of.setdefault(user.data, record) != record:
                    raise BrokenError(f"{user.data[:10]!r} was packed anew to be sent again")
