"""What a record costs in the aggregating producer, beside its peers.

What it shows:

- `throughput`: user records a second that are confirmed, each for itself, and the CPU time of each,
  with records of 100 B and of 1 KB under keys of 16 characters, no two alike. Ours runs over
  `wire` and over boto3; beside it run the Kinesis Producer Library with its native child (TLS is
  all it speaks), aiokpl, async-kinesis, and aws_kinesis_agg with boto3.
- `calls`: the CPU time of a call by itself, over `wire` and over boto3, answers parsed.
- `shards`: what a record costs at 64 shards, beside one.
- `latency`: from put to confirmation at a tenth of the greatest rate, beside PutRecord and
  PutRecords by themselves, with an endpoint that answers at once and one that takes 15 ms.
- `memory`: the most that is held in the second and in the last quarter of a long run.
- `stages`: where our producer spends the CPU time of a record.

How to run it: `make bench BENCH=producer`, or `python benchmarks/producer.py [--json] [--quick]
[--only MEASURE]...`. The peers live in an environment of their own, `.venv/peers`, which `make
bench` sets up; the KPL needs Java and Maven. Who is missing is named, and its figures are null.

What you will see: a table for each measure, then which goals are met; with `--json` the last line
is one JSON object of `results` (seconds for each record or call), `ratios` (how many times better
ours is; null if somebody is missing), `goals` and `absent`. It takes about ten minutes.

What is guaranteed: all put to one endpoint in another process, `benchmarks/null_kinesis.py`, which
answers at once and stores nothing. Each producer is a process of its own, and its CPU time is that
of this process and its children. Everything is on: record IDs, aggregation, limiters (with quotas
so high that nobody waits for them), a result of each record, which is looked at. Warm-up is not
counted and lasts until a turn is hardly better than the one before; then all take turns, and
the best turn of each counts, so that another load on the machine hits all alike. The exit status
says nothing of goals: they are figures of one machine.

What to change: `SIZES` in `benchmarks/producer_measures.py`, to look like your records.
"""

import argparse
import json
import platform
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.producer_field import field_of
from benchmarks.producer_measures import CALLS, MEASURES, PRODUCERS, RATIOS, Effort, Figures
from infra.errors import ProcessError

LINGER_MS: Final = 100.0


@dataclass(frozen=True, slots=True)
class Goal:
    """What a figure should be: at least or at most so much."""

    text: str
    figure: Callable[[Figures], float | None]
    least: float = float("-inf")
    most: float = float("inf")


def ratio(name: str) -> Callable[[Figures], float | None]:
    """Return what looks up a ratio."""
    return lambda figures: figures.ratios.get(name)


def result(*path: str) -> Callable[[Figures], float | None]:
    """Return what looks up a figure among the results."""

    def find(figures: Figures) -> float | None:
        found: Any = figures.results
        for name in path:
            found = found.get(name, {})
        return found if isinstance(found, float) else None

    return find


def per_core(figures: Figures) -> float | None:
    """Return the records of 100 B that a second of CPU time is enough for."""
    cpu = result("throughput", "ours_wire", "100", "cpu")(figures)
    return 1 / cpu if cpu else None


GOALS: Final = (
    Goal("80,000 confirmed records of 100 B a second and core", per_core, least=80_000),
    Goal("20 times aiokpl", ratio("aiokpl"), least=20),
    *(
        Goal(f"{least} times the KPL by {how} at {size} B", ratio(f"kpl_{what}_{size}"), least)
        for what, how, least in (("wall", "wall clock", 1.2), ("cpu", "CPU second", 2.5))
        for size in (100, 1024)
    ),
    *(
        Goal(f"a fifth of boto3's CPU for {shape} B", ratio(f"wire_{shape}"), least=5)
        for shape, (records, _) in CALLS.items()
        if records
    ),
    Goal("64 shards cost at most 1.3 times one", result("shards", "times", "cpu"), most=1.3),
    Goal(
        "p99 at most linger + 20 ms at a tenth of the load",
        result("latency", "aggregated", "at_once", "p99_ms"),
        most=LINGER_MS + 20,
    ),
    Goal("memory grows by at most 8 MiB", result("memory", "grown_mib"), most=8),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print tables and goals, and with `--json` one object behind them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument(
        "--only", choices=MEASURES, action="append", help="measure only this; may be repeated"
    )
    parser.add_argument(
        "--quick", action="store_true", help="see that it runs; its figures say nothing"
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="of a turn, about")
    parser.add_argument(
        "--repetitions", type=int, default=4, help="turns of each, of which the best counts"
    )
    options = parser.parse_args(argv)
    if options.repetitions < 1 or not options.seconds > 0:
        parser.error("--repetitions must be at least 1, and --seconds positive")
    effort = Effort(0.05, 1) if options.quick else Effort(options.seconds, options.repetitions)
    figures = Figures(ratios=dict.fromkeys(ALL_RATIOS))
    with tempfile.TemporaryDirectory() as folder:
        try:
            with field_of(Path(folder)) as field:
                for name, measure in MEASURES.items():
                    if not options.only or name in options.only:
                        print(f"measuring {name} ...", file=sys.stderr)
                        measure(field, effort, figures)
                        REPORTS[name](figures.results.get(name, {}))
                        sys.stdout.flush()
        except ProcessError as error:
            print(error, file=sys.stderr)
            return 1
    for name, why in field.absent.items():
        print(f"\n{name} is missing: {why}")
    print()
    goals = judge(figures)
    if options.json:
        said = {"results": figures.results, "ratios": figures.ratios, "goals": goals}
        about = {"python": platform.python_version(), "absent": field.absent}
        print(json.dumps({**about, **rounded(said)}))
    return 0


ALL_RATIOS: Final = (
    *(name for name, *_ in RATIOS),
    *(f"wire_{shape}" for shape, (records, _) in CALLS.items() if records),
)


def report_throughput(found: dict[str, Any]) -> None:
    """Print what each producer does."""
    titles = {name.replace("-", "_"): title for name, title in PRODUCERS.items()}
    for size in ("100", "1024"):
        print(f"\nthroughput, records of {size} B")
        print(f"  {'':26}{'records/s':>12}{'µs wall':>10}{'µs CPU':>10}{'a core/s':>12}")
        for name, title in titles.items():
            if best := found.get(name, {}).get(size):
                wall, cpu = best["wall"], best["cpu"]
                figures = f"{1 / wall:>12,.0f}{wall * 1e6:>10.2f}{cpu * 1e6:>10.2f}"
                print(f"  {title:26}{figures}{1 / cpu:>12,.0f}")
            else:
                print(f"  {title:26}{'missing':>12}")


def report_calls(found: dict[str, Any]) -> None:
    """Print what a call costs."""
    print(f"\ncalls, CPU ms for each\n  {'':26}{'wire':>10}{'boto3':>10}")
    for shape in CALLS:
        cells = [found.get(name, {}).get(shape, {}).get("cpu") for name in ("wire", "boto3")]
        print(f"  {shape:26}", *(f"{cell * 1e3:>9.2f}" if cell else "  missing" for cell in cells))


def report_shards(found: dict[str, Any]) -> None:
    """Print what shards cost."""
    print(f"\nshards, records of 100 B\n  {'':26}{'µs wall':>10}{'µs CPU':>10}")
    for stream, best in found.items():
        scale = 1 if stream == "times" else 1e6
        print(f"  {stream:26}{best['wall'] * scale:>10.2f}{best['cpu'] * scale:>10.2f}")


def report_latency(found: dict[str, Any]) -> None:
    """Print how long a confirmation takes."""
    print(f"\nlatency, records of 100 B\n  {'':20}{'endpoint':>14}{'a second':>10}", end="")
    print(f"{'p50 ms':>9}{'p99 ms':>9}")
    for title, endpoints in found.items():
        for endpoint, at in endpoints.items():
            figures = f"{at['per_second']:>10,.0f}{at['p50_ms']:>9.2f}{at['p99_ms']:>9.2f}"
            print(f"  {title:20}{endpoint:>14}{figures}")


def report_memory(found: dict[str, Any]) -> None:
    """Print what is held."""
    print("\nmemory, over a long run")
    for name, value in found.items():
        print(f"  {name:26}{value:>12,.0f}" if name == "records" else f"  {name:26}{value:>12.1f}")


def report_stages(found: dict[str, Any]) -> None:
    """Print where the time goes."""
    for size, costs in found.items():
        whole = sum(costs.values())
        print(f"\nstages, records of {size} B: {whole * 1e6:.2f} µs CPU each")
        for stage, cost in costs.items():
            if cost > whole / 100:
                print(f"  {stage:50}{cost * 1e6:>8.2f}{cost / whole:>8.0%}")


REPORTS: Final[dict[str, Callable[[dict[str, Any]], None]]] = {
    "throughput": report_throughput,
    "calls": report_calls,
    "shards": report_shards,
    "latency": report_latency,
    "memory": report_memory,
    "stages": report_stages,
}


def judge(figures: Figures) -> dict[str, bool]:
    """Print which goals are met, of those that were measured."""
    met: dict[str, bool] = {}
    for goal in GOALS:
        value = goal.figure(figures)
        if value is not None:
            met[goal.text] = goal.least <= value <= goal.most
            print(f"{'met   ' if met[goal.text] else 'MISSED'} {goal.text} ({value:,.2f})")
    return met


def rounded(value: Any) -> Any:
    """Round every number in there to five digits."""
    if isinstance(value, dict):
        return {name: rounded(each) for name, each in value.items()}
    return float(f"{value:.5g}") if isinstance(value, float) else value


if __name__ == "__main__":
    sys.exit(main())
