"""What a simulated world is like: settings, load and misfortunes, drawn from a seed."""

import random
from dataclasses import dataclass, replace
from math import inf

from producers.aggregated.values import Settings

CALM = Settings(linger=0.05, max_aggregate_bytes=256, max_record_age=None)
Window = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Regime:
    """All times are in seconds, and all chances are for each record or for each request.

    Attributes:
        settings: The producer's.
        shards: How many the stream has at first.
        records: How many are put.
        keys: How many partition keys there are; some of them with several explicit hash keys.
        spread: The time within which all is put.
        room: The most records that the machine may hold; the caller waits with the others.
        latency: The longest way to Kinesis, and the longest way back.
        max_record_bytes: The stream's own limit.
        quota: The share of AWS's write quota that each shard grants.
        throttle: The chance that a record is throttled.
        fail: The chance that a record has an InternalFailure.
        refuse: The chance that a whole request fails before the commit.
        lose_answer: The chance that the answer is lost after the commit.
        commit_late: The chance that the producer gives up waiting, and the commit comes later.
        list_fails: The chance that ListShards fails.
        list_damaged: The chance that the list of shards is not whole, or shows closed ones as open.
        stale_for: How far ListShards lags behind.
        reshards: How many splits and merges there are.
        jumps: How often the machine sleeps, so that its clock leaps ahead by minutes.
        flushes: How often the caller flushes.
        poison: The chance that a record makes Kinesis refuse the request that it is in.
        nested: The chance that the data of a record is an aggregate.
        throttled: When one of the first shards takes nothing.
        dead: When the endpoint cannot be reached.
        denied: When every call is denied.
        abandon_at: When the caller gives everything up.
        gone_at: When the stream is deleted; once that was noticed, it is made anew.
        auto_from: When the stream begins to spread records as it likes; infinity: never.
    """

    settings: Settings = CALM
    shards: int = 2
    records: int = 40
    keys: int = 8
    spread: float = 3.0
    room: int = 1_000
    latency: float = 0.03
    max_record_bytes: int = 4_096
    quota: float = 1.0
    throttle: float = 0.0
    fail: float = 0.0
    refuse: float = 0.0
    lose_answer: float = 0.0
    commit_late: float = 0.0
    list_fails: float = 0.0
    list_damaged: float = 0.0
    stale_for: float = 0.0
    reshards: int = 0
    jumps: int = 0
    flushes: int = 0
    poison: float = 0.0
    nested: float = 0.0
    throttled: Window | None = None
    dead: Window | None = None
    denied: Window | None = None
    abandon_at: float | None = None
    gone_at: float | None = None
    auto_from: float = inf

    @property
    def auto(self) -> bool:
        """Whether the stream spreads records as it likes, sooner or later."""
        return self.auto_from < inf

    @property
    def only_delays(self) -> bool:
        """Whether nothing here can keep a record from being confirmed in the end."""
        unordered = self.auto and self.settings.ordered
        ends = self.abandon_at is not None or self.gone_at is not None
        lost = self.poison or self.denied or unordered or ends
        return not lost and self.settings.max_record_age is None

    @property
    def prompt(self) -> bool:
        """Whether nothing delays the records of a shard that is not throttled."""
        chances = self.throttle + self.fail + self.refuse + self.lose_answer + self.commit_late
        lists = self.list_fails + self.list_damaged + self.stale_for
        troubles = self.reshards or self.jumps or self.poison or self.dead or self.denied
        aged = self.settings.max_record_age is not None
        unhurried = aged or self.quota < 1 or self.settings.rate < 1 or self.room < self.records
        ends = self.abandon_at or self.gone_at
        return not (chances or lists or troubles or unhurried or ends or self.auto)

    @property
    def within_quota(self) -> bool:
        """Whether the producer has the shards to itself, and nothing bunches what it sends."""
        bunched = self.jumps or self.commit_late or self.reshards or self.auto
        return self.quota >= self.settings.rate and not bunched

    @property
    def same_bytes(self) -> bool:
        """Whether nothing forces the machine to pack records anew."""
        anew = self.reshards or self.poison or self.list_damaged or self.auto or self.gone_at
        return not anew and self.settings.max_record_age is None


def draw(rng: random.Random) -> Regime:
    """Return a world in which each misfortune is as likely as not to be absent."""
    if rng.random() < 0.1:
        return _hour_of_need(rng)
    settings = _settings(rng)
    auto = rng.random() < 0.08
    own = 0.01 <= settings.rate < 1
    return Regime(
        settings=settings,
        shards=rng.choice((1, 1, 2, 3, 4)),
        records=rng.randint(20, 50),
        keys=rng.randint(1, 10),
        spread=rng.choice((0.0, 0.5, 3.0)),
        room=rng.choice((5, 15, 1_000)),
        latency=rng.choice((0.005, 0.03, 0.1)),
        quota=settings.rate * rng.choice((1.0, 1.0, 0.4)) if own else 1.0,
        throttle=_chance(rng, 0.4),
        fail=_chance(rng, 0.2),
        refuse=_chance(rng, 0.3),
        lose_answer=_chance(rng, 0.3),
        commit_late=_chance(rng, 0.3),
        list_fails=_chance(rng, 0.5),
        list_damaged=_chance(rng, 0.5),
        stale_for=_chance(rng, 3.0),
        reshards=rng.choice((0, 0, 1, 2, 4)),
        jumps=rng.choice((0, 0, 0, 0, 1, 2)),
        flushes=rng.choice((0, 0, 1, 3)),
        poison=_chance(rng, 0.1),
        nested=0.0 if auto else rng.choice((0.0, 0.1)),
        dead=_window(rng, 2.0) if rng.random() < 0.15 else None,
        denied=_window(rng, 0.3) if rng.random() < 0.05 else None,
        abandon_at=rng.uniform(0, 4.0) if rng.random() < 0.05 else None,
        gone_at=rng.uniform(0.1, 3.0) if rng.random() < 0.08 else None,
        auto_from=rng.choice((0.0, 0.0, rng.uniform(0, 3.0))) if auto else inf,
    )


def _hour_of_need(rng: random.Random) -> Regime:
    """Return a world with one misfortune that lasts, or with none."""
    calm = Regime(
        settings=replace(
            CALM,
            linger=rng.choice((0.0, 0.05, 100.0)),
            ordered=(ordered := rng.random() < 0.4),
            skip_failed=ordered and rng.random() < 0.3,
            max_in_flight=rng.choice((1, 2, 8)),
            aggregation=rng.random() < 0.8,
        ),
        shards=rng.randint(1, 4),
        records=rng.randint(20, 40),
        keys=rng.randint(1, 10),
        flushes=rng.choice((0, 2)),
        spread=rng.choice((0.5, 3.0, 40.0)),
    )
    slow = replace(calm.settings, rate=0.01, max_aggregate_records=2, linger=0.0)
    aged = replace(
        calm,
        settings=replace(calm.settings, linger=0.05, max_record_age=rng.choice((0.5, 5.0))),
    )
    return rng.choice(
        (
            calm,
            replace(calm, shards=3, throttled=(5.0, 35.0), spread=40.0),
            replace(calm, dead=(1.0, 61.0)),
            replace(calm, settings=slow, quota=0.01, spread=0.5),
            replace(aged, dead=(rng.uniform(0, 1.0), 1e9), room=10),
        )
    )


def _settings(rng: random.Random) -> Settings:
    ordered = rng.random() < 0.4
    return Settings(
        linger=rng.choice((0.0, 0.05, 0.05, 0.2)),
        aggregation=rng.random() < 0.8,
        same_key=rng.random() < 0.2,
        max_aggregate_bytes=rng.choice((128, 256, 1_000)),
        max_aggregate_records=rng.choice((1, 3, 1_000, 1_000)),
        max_record_age=rng.choice((None, None, 0.3, 3.0)),
        ordered=ordered,
        skip_failed=ordered and rng.random() < 0.3,
        rate=rng.choice((1.0, 1.0, 0.01, 0.02)),
        max_in_flight=rng.choice((1, 2, 8)),
    )


def _chance(rng: random.Random, most: float) -> float:
    return rng.uniform(0, most) if rng.random() < 0.3 else 0.0


def _window(rng: random.Random, longest: float) -> Window:
    begin = rng.uniform(0, 3.0)
    return begin, begin + rng.uniform(0, longest)
