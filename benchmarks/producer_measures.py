"""What `benchmarks/producer.py` measures, of whoever takes part."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from benchmarks.producer_field import AbsentError, Contender, Field, Outcome, null_kinesis
from benchmarks.producer_protocol import CHUNK

SIZES: Final = (100, 1024)
OURS: Final = "ours-wire"
PRODUCERS: Final = {
    "ours-wire": "ours over wire",
    "ours-wire_tls": "ours over wire, TLS",
    "ours-boto3": "ours over boto3",
    "ours-ordered": "ours over wire, ordered",
    "kpl": "KPL 1.0.7, TLS",
    "aws_kinesis_agg": "aws_kinesis_agg + boto3",
    "async_kinesis": "async-kinesis 3.0.1",
    "aiokpl": "aiokpl 0.2.0",
}
CALLS: Final = {
    "500x100": (500, 100),
    "500x1024": (500, 1024),
    "100x51200": (100, 51_200),
    "put_record": (0, 100),
}
"""Records in a PutRecords, and the bytes of each; or a PutRecord."""

SLOW_MS: Final = 15.0
LOAD: Final = 0.1
"""The part of the greatest rate at which latency is measured."""

LONG: Final = 40
"""Turns that make a long run: after a quarter of it the heap has found its size."""

WARM_TURNS: Final = 6
_BETTER: Final = 1.05


@dataclass(frozen=True, slots=True)
class Effort:
    """How long is measured.

    Attributes:
        seconds: Of a turn, about.
        repetitions: Turns of each, of which the best counts.
    """

    seconds: float
    repetitions: int


@dataclass(slots=True)
class Figures:
    """What has been found out: seconds are seconds, for each record or call."""

    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    ratios: dict[str, float | None] = field(default_factory=dict)


def throughput(field_: Field, effort: Effort, figures: Figures) -> None:
    """Measure wall clock and CPU of each record, as fast as each producer goes."""
    found: dict[str, dict[str, Any]] = {}
    with ExitStack() as stack:
        takers = dict(entered(stack, field_, PRODUCERS))
        for size in SIZES:
            counts = warmed(takers, field_, effort, size=size)
            for name, best in turns(takers, field_, effort, counts, size=size).items():
                found.setdefault(name.replace("-", "_"), {})[str(size)] = best
    figures.results["throughput"] = found
    ours = found.get("ours_wire", {})
    for ratio, rival, case, what in RATIOS:
        theirs = found.get(rival, {}).get(case)
        mine = ours.get(case)
        figures.ratios[ratio] = theirs[what] / mine[what] if theirs and mine else None


RATIOS: Final = (
    ("kpl_wall_100", "kpl", "100", "wall"),
    ("kpl_cpu_100", "kpl", "100", "cpu"),
    ("kpl_wall_1024", "kpl", "1024", "wall"),
    ("kpl_cpu_1024", "kpl", "1024", "cpu"),
    ("aiokpl", "aiokpl", "100", "wall"),
    ("async_kinesis", "async_kinesis", "100", "wall"),
)


def calls(field_: Field, effort: Effort, figures: Figures) -> None:
    """Measure the CPU of a call by itself, its answer parsed."""
    found: dict[str, dict[str, Any]] = {}
    with ExitStack() as stack:
        takers = dict(entered(stack, field_, ("call-wire", "call-boto3")))
        for shape, (records, size) in CALLS.items():
            fields = {"records": records, "size": size, "chunk": 1}
            counts = warmed(takers, field_, effort, **fields)
            for name, best in turns(takers, field_, effort, counts, **fields).items():
                found.setdefault(name.removeprefix("call-"), {})[shape] = best
            wire, boto3 = (found.get(name, {}).get(shape) for name in ("wire", "boto3"))
            if records:
                ratio = boto3["cpu"] / wire["cpu"] if wire and boto3 else None
                figures.ratios[f"wire_{shape}"] = ratio
    figures.results["calls"] = found


def shards(field_: Field, effort: Effort, figures: Figures) -> None:
    """Measure what a record costs at one shard and at 64."""
    found: dict[str, dict[str, Any]] = {}
    streams = ("null-1", "null-64")
    with ExitStack() as stack:
        takers = dict(entered(stack, field_, (OURS,)))
        counts = {stream: warmed(takers, field_, effort, stream=stream) for stream in streams}
        for _ in range(effort.repetitions):
            for stream in streams:
                once = Effort(effort.seconds, 1)
                for best in turns(takers, field_, once, counts[stream], stream=stream).values():
                    sofar = found.get(stream, best)
                    found[stream] = {what: min(best[what], sofar[what]) for what in best}
    figures.results["shards"] = found
    if len(found) == len(streams):
        one, many = (found[stream] for stream in streams)
        figures.results["shards"]["times"] = {what: many[what] / one[what] for what in one}


def latency(field_: Field, effort: Effort, figures: Figures) -> None:
    """Measure put to confirmation at a tenth of the greatest rate, and calls by themselves.

    Once with an endpoint that answers at once, and once with one that takes a while.
    """
    found: dict[str, dict[str, Any]] = {}
    ask = {"aggregated": OURS, "aggregated_ordered": "ours-ordered", "kpl": "kpl"}
    rates: dict[str, float] = {}
    slow = {"at_once": 0.0, f"after_{SLOW_MS:.0f}_ms": SLOW_MS}
    for label, delay in slow.items():
        with null_kinesis(field_.folder, delay_ms=delay) as endpoint:
            for title, name in ask.items():
                with there(field_, name), field_.contender(name, endpoint) as taker:
                    quick = Effort(effort.seconds / 2, 1)
                    if name not in rates:
                        rates[name] = LOAD / measured(taker, quick).wall
                    taker.do(count=1000, rate=rates[name])
                    count = max(1000, int(rates[name] * effort.seconds))
                    found.setdefault(title, {})[label] = times(taker, effort, count, rates[name])
            with field_.contender("call-wire", endpoint) as taker:
                count = max(100, int(100 * effort.seconds))
                for title, records in (("put_record", 0), ("put_records_500", 500)):
                    taker.do(count=100, records=records)
                    figure = times(taker, effort, count, 100.0, records=records)
                    found.setdefault(title, {})[label] = figure
    figures.results["latency"] = found


def times(
    taker: Contender, effort: Effort, count: int, rate: float, **fields: float
) -> dict[str, float]:
    """Return the best turn's latencies in milliseconds, by the 99th percentile."""
    done = [taker.do(count=count, rate=rate, **fields).done for _ in range(effort.repetitions)]
    best = min(done, key=lambda each: each.p99_ms)
    return {"p50_ms": best.p50_ms, "p99_ms": best.p99_ms, "per_second": rate}


def memory(field_: Field, effort: Effort, figures: Figures) -> None:
    """Measure the most memory that is held in the second and the last quarter of a long run."""
    with there(field_, OURS), field_.contender(OURS) as taker:
        rate = 1 / measured(taker, effort).wall
        done = taker.do(count=max(CHUNK, round(rate * effort.seconds * LONG))).done
        held = done.resident_mib
        quarter = len(held) // 4
        # What is held goes up and down with what is on its way: the most of a while is compared.
        second, last = max(held[quarter : 2 * quarter] or held), max(held[-quarter:])
        figures.results["memory"] = {
            "records": done.confirmed,
            "second_quarter_mib": second,
            "last_quarter_mib": last,
            "grown_mib": last - second,
        }


def stages(field_: Field, effort: Effort, figures: Figures) -> None:
    """Find out where our producer spends the CPU time of a record."""
    found: dict[str, dict[str, Any]] = {}
    with there(field_, OURS), field_.contender(OURS) as taker:
        for size in SIZES:
            count = round(effort.seconds * 2 / measured(taker, effort, size=size).wall)
            done = taker.do(count=max(CHUNK, count), size=size, stages=True).done
            costs = {what: spent / done.confirmed for what, spent in done.stages.items()}
            found[str(size)] = dict(sorted(costs.items(), key=lambda each: -each[1]))
    figures.results["stages"] = found


def entered(stack: ExitStack, field_: Field, names: Any) -> Iterator[tuple[str, Contender]]:
    """Start all who can be started."""
    for name in names:
        with there(field_, name):
            yield name, stack.enter_context(field_.contender(name))


@contextmanager
def there(field_: Field, name: str) -> Iterator[None]:
    """Note who is absent, or drops out, and go on without."""
    try:
        yield
    except AbsentError as error:
        field_.absent[name] = str(error)


def warmed(
    takers: dict[str, Contender], field_: Field, effort: Effort, **fields: Any
) -> dict[str, int]:
    """Warm everyone up, and return how many records make a turn of each."""
    counts: dict[str, int] = {}
    for name, taker in takers.items():
        with there(field_, name):
            counts[name] = warm(taker, effort, **fields)
    return counts


def warm(taker: Contender, effort: Effort, *, chunk: int = CHUNK, **fields: Any) -> int:
    """Have turns until one is hardly better than the best before; return the count of a turn.

    So a virtual machine that compiles as it goes gets the time that it needs.
    """
    best = taker.do(count=chunk, **fields).wall
    for turn in range(WARM_TURNS):
        count = max(1, round(effort.seconds / best / chunk)) * chunk
        wall = taker.do(count=count, **fields).wall
        if turn and wall * _BETTER > best:
            break
        best = min(best, wall)
    return max(1, round(effort.seconds / best / chunk)) * chunk


def measured(taker: Contender, effort: Effort, **fields: Any) -> Outcome:
    """Warm up, and have one turn."""
    return taker.do(count=warm(taker, effort, **fields), **fields)


def turns(
    takers: dict[str, Contender],
    field_: Field,
    effort: Effort,
    counts: dict[str, int],
    *,
    chunk: int = CHUNK,
    **fields: Any,
) -> dict[str, dict[str, float]]:
    """Have everyone take turns; return the best wall clock and CPU of each record or call."""
    del chunk  # The counts are multiples of it.
    best: dict[str, dict[str, float]] = {}
    for _ in range(effort.repetitions):
        for name, count in counts.items():
            with there(field_, name):
                outcome = takers[name].do(count=count, **fields)
                sofar = best.setdefault(name, {"wall": outcome.wall, "cpu": outcome.cpu})
                sofar["wall"] = min(sofar["wall"], outcome.wall)
                sofar["cpu"] = min(sofar["cpu"], outcome.cpu)
    return best


Measure = Callable[[Field, Effort, Figures], None]
MEASURES: Final[dict[str, Measure]] = {
    "throughput": throughput,
    "calls": calls,
    "shards": shards,
    "latency": latency,
    "memory": memory,
    "stages": stages,
}
