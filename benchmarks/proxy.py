"""What the proxy costs, and how exactly it keeps quotas, beside its peers.

What it shows:

- `latency`: what the proxy adds to a request, at 500 requests a second of PutRecord with 1 KiB,
  each sent when it is due (an open loop).
- `throughput`: PutRecord requests with 1 KiB for each CPU second of the proxy, quotas on, beside a
  bare aiohttp forwarder that does nothing but forward; and the proxy's memory over 100,000 of them.
- `bulk`: megabytes of data a second in PutRecords of 500 records of 10 KiB.
- `accuracy`: records and bytes a second that one shard admits over ten seconds to a client that
  wants far more, once the burst is spent, against AWS's quota; beside ferrokinesis, which admits
  in steps of about a second, so that ten seconds may see nine of them.

How to run it: `make bench BENCH=proxy`, or `python benchmarks/proxy.py [--json] [--only NAME]`.
ferrokinesis takes part if it is on the PATH or `FERROKINESIS` names its program.

What you will see: a table, then which goals are met; with `--json` the last line is one JSON object
of `results`, `ratios` and `goals`. It takes about two minutes.

What is guaranteed: engine, proxy, peers and load are processes of their own. The engine behind both
proxies is the same, answers at once and stores nothing (`benchmarks/null_kinesis.py`). What is
compared takes turns, and the best turn of each counts, so that another load on the machine hits
all alike. The exit status says nothing of goals: they are figures of one machine.

What to change: nothing; the load is in `benchmarks/proxy_load.py`.
"""

import argparse
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import boto3

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from infra.errors import ProcessError
from infra.processes import GuardedProcess, start
from infra.stack.endpoints import FAKE_CREDENTIALS, REGION
from records.limits import KIB, SHARD_WRITE_BYTES_PER_SECOND, SHARD_WRITE_RECORDS_PER_SECOND

ROOT: Final = Path(__file__).resolve().parent.parent

Results = dict[str, dict[str, float]]

TICKS: Final = os.sysconf("SC_CLK_TCK")
WIDE: Final = "null-512"
"""A stream of so many shards that no quota is felt."""


@dataclass(frozen=True, slots=True)
class Server:
    """A program that answers, and where."""

    url: str
    process: GuardedProcess

    def cpu_seconds(self) -> float:
        """Return the CPU time it has used, all threads together."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def resident_mib(self) -> float:
        """Return the memory that it holds."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / KIB


@dataclass(frozen=True, slots=True)
class Field:
    """Everything that is measured against everything else."""

    engine: Server
    ours: Server
    bare: Server
    ferrokinesis: Server | None


@dataclass(slots=True)
class Figures:
    """What has been found out."""

    results: Results = field(default_factory=dict)
    ratios: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Goal:
    """What a figure should be: at least or at most so much."""

    text: str
    section: str
    figure: str
    least: float = float("-inf")
    most: float = float("inf")


GOALS: Final = (
    Goal("adds at most 1 ms to the median request", "latency", "added_p50_ms", most=1),
    Goal("adds at most 5 ms to the 99th percentile", "latency", "added_p99_ms", most=5),
    Goal("2,000 requests a CPU second", "throughput", "ours_per_cpu_second", least=2000),
    Goal("memory grows by at most 8 MiB over 100,000 requests", "throughput", "grown_mib", most=8),
    Goal("50 MB/s in full PutRecords", "bulk", "ours_mb_per_second", least=50),
    Goal("records a second within 2 %", "accuracy", "ours_records", least=0.98, most=1.02),
    Goal("bytes a second within 2 %", "accuracy", "ours_bytes", least=0.98, most=1.02),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a table and the goals, and with `--json` one object behind them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--only", choices=MEASURES, help="measure only this")
    options = parser.parse_args(argv)
    figures = Figures()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        try:
            everyone = stack.enter_context(contestants(folder))
        except ProcessError as error:
            print(error, file=sys.stderr)
            return 1
        for name, measure in MEASURES.items():
            if options.only in (None, name):
                measure(everyone, figures)
                report(name, figures.results[name])
    goals = judge(figures)
    if options.json:
        print(json.dumps({"python": platform.python_version(), **vars_of(figures), "goals": goals}))
    return 0


@contextmanager
def contestants(folder: Path) -> Iterator[Field]:
    """Start everyone, and stop them at the end."""
    with ExitStack() as stack:

        def server(name: str, *argv: str) -> Server:
            process = stack.enter_context(start(argv, name=name, log_dir=folder, cwd=ROOT))
            return Server(process.wait_for_line(r"^ready (http://\S+)$", timeout=30)[1], process)

        here, python = Path(__file__).parent, sys.executable
        engine = server("engine", python, str(here / "null_kinesis.py"))
        bare = server("bare", python, str(here / "bare_forwarder.py"), engine.url)
        ours = server(
            "ours", python, "-m", "infra.proxy", "--upstream", engine.url, "--quotas", "aws"
        )
        yield Field(engine, ours, bare, ferrokinesis(stack, folder))


def ferrokinesis(stack: ExitStack, folder: Path) -> Server | None:
    """Start ferrokinesis with its limits on, if it is there, and make a stream of one shard."""
    program = os.environ.get("FERROKINESIS") or shutil.which("ferrokinesis")
    if program is None:
        print("ferrokinesis is not installed: the comparison with it is left out")
        return None
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    argv = [program, "--port", str(port), "--enforce-limits", "--create-stream-ms", "0"]
    process = stack.enter_context(
        start(argv, name="ferrokinesis", log_dir=folder, ready=lambda: listens(port))
    )
    client = boto3.session.Session(
        FAKE_CREDENTIALS["AWS_ACCESS_KEY_ID"], FAKE_CREDENTIALS["AWS_SECRET_ACCESS_KEY"]
    ).client("kinesis", endpoint_url=f"http://127.0.0.1:{port}", region_name=REGION)
    for name in ("records-1", "bytes-1"):
        client.create_stream(StreamName=name, ShardCount=1)
        client.get_waiter("stream_exists").wait(StreamName=name, WaiterConfig={"Delay": 1})
    client.close()
    return Server(f"http://127.0.0.1:{port}", process)


def listens(port: int) -> bool:
    """Say whether something accepts connections."""
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def latency(everyone: Field, figures: Figures) -> None:
    """Measure what is added to a request that has the machine to itself."""
    through = {"direct": everyone.engine, "ours": everyone.ours, "bare": everyone.bare}
    found: dict[str, float] = {}
    for turn in range(4):
        for name, server in through.items():
            outcome = load(server, stream=WIDE, rate=500, seconds=3 if turn else 1, connections=32)
            for figure in ("p50_ms", "p99_ms"):
                if turn:  # the first one warms up
                    best = found.get(f"{name}_{figure}", float("inf"))
                    found[f"{name}_{figure}"] = min(best, outcome[figure])
    for name, prefix in (("ours", "added"), ("bare", "bare_added")):
        for figure in ("p50_ms", "p99_ms"):
            found[f"{prefix}_{figure}"] = found[f"{name}_{figure}"] - found[f"direct_{figure}"]
    figures.results["latency"] = found


def throughput(everyone: Field, figures: Figures) -> None:
    """Measure requests for each CPU second, and memory over 100,000 of ours."""
    ours, bare = everyone.ours, everyone.bare
    best = {"ours": 0.0, "bare": 0.0}
    wall = {"ours": 0.0, "bare": 0.0}
    memory: list[float] = []
    for turn in range(11):
        for name, server in (("ours", ours), ("bare", bare))[: 1 + turn % 2]:
            before = server.cpu_seconds()
            outcome = load(server, stream=WIDE, count=10_000 if server is ours else 4_000)
            spent = server.cpu_seconds() - before
            best[name] = max(best[name], outcome["requests"] / spent)
            wall[name] = max(wall[name], outcome["requests"] / outcome["seconds"])
        memory.append(ours.resident_mib())
    figures.results["throughput"] = {
        "ours_per_cpu_second": best["ours"],
        "bare_per_cpu_second": best["bare"],
        "ratio": best["ours"] / best["bare"],
        "ours_per_second": wall["ours"],
        "bare_per_second": wall["bare"],
        # The first 10,000 fill what is filled once.
        "memory_mib": memory[-1],
        "grown_mib": memory[-1] - memory[0],
    }
    figures.ratios["forwarder_requests_per_cpu"] = best["ours"] / best["bare"]


def bulk(everyone: Field, figures: Figures) -> None:
    """Measure megabytes a second in requests of 5 MB."""
    found: dict[str, float] = {}
    through = {"direct": everyone.engine, "ours": everyone.ours, "bare": everyone.bare}
    for _ in range(3):
        for name, server in through.items():
            before = server.cpu_seconds()
            outcome = load(server, stream=WIDE, records=500, size=10 * KIB, connections=2, count=24)
            megabytes = outcome["admitted"] * outcome["record_bytes"] / 1e6
            for figure, seconds in (
                (f"{name}_mb_per_second", outcome["seconds"]),
                (f"{name}_mb_per_cpu_second", server.cpu_seconds() - before),
            ):
                found[figure] = max(found.get(figure, 0.0), megabytes / seconds)
    found.pop("direct_mb_per_cpu_second")
    figures.results["bulk"] = found
    figures.ratios["forwarder_bulk_mb"] = found["ours_mb_per_second"] / found["bare_mb_per_second"]


def accuracy(everyone: Field, figures: Figures) -> None:
    """Measure what one shard admits, as a part of AWS's quota: 1 is exact."""
    quotas = {
        "records": (SHARD_WRITE_RECORDS_PER_SECOND, {"records": 500, "size": 100}),
        "bytes": (SHARD_WRITE_BYTES_PER_SECOND, {"records": 20, "size": 10 * KIB}),
    }
    names = {"ours": everyone.ours, "ferrokinesis": everyone.ferrokinesis}
    found: dict[str, float] = {}

    def admitted(server: Server, what: str) -> float:
        quota, shape = quotas[what]
        outcome = load(server, stream=f"{what}-1", rate=50, seconds=10, after_refusal=True, **shape)
        units = outcome["admitted"] * (1 if what == "records" else outcome["record_bytes"])
        return units / outcome["seconds"] / quota

    with ThreadPoolExecutor() as pool:  # each is far from busy
        asked = {
            f"{name}_{what}": pool.submit(admitted, server, what)
            for name, server in names.items()
            if server is not None
            for what in quotas
        }
        for name, answer in asked.items():
            found[name] = answer.result()
    figures.results["accuracy"] = found


MEASURES: Final[dict[str, Callable[[Field, Figures], None]]] = {
    "latency": latency,
    "throughput": throughput,
    "bulk": bulk,
    "accuracy": accuracy,
}


def load(server: Server, **fields: Any) -> dict[str, float]:
    """Put a load on a server, from another process, and return what came of it."""
    program = str(Path(__file__).parent / "proxy_load.py")
    argv = [sys.executable, program, json.dumps({"url": server.url, **fields})]
    done = subprocess.run(argv, check=True, stdout=subprocess.PIPE, timeout=120)
    outcome: dict[str, float] = json.loads(done.stdout)
    if outcome["errors"] or not outcome["requests"]:
        raise RuntimeError(f"{server.process.name} did not answer as it should: {outcome}")
    return outcome


def report(name: str, found: dict[str, float]) -> None:
    """Print the rows of a measure."""
    print(f"\n{name}")
    for figure, value in found.items():
        print(f"  {figure:28}{value:>14,.3f}" if value < 100 else f"  {figure:28}{value:>14,.0f}")


def judge(figures: Figures) -> dict[str, bool]:
    """Print which goals are met, of those that were measured."""
    met: dict[str, bool] = {}
    print()
    for goal in GOALS:
        value = figures.results.get(goal.section, {}).get(goal.figure)
        if value is not None:
            met[f"{goal.section}_{goal.figure}"] = goal.least <= value <= goal.most
            verdict = "met   " if goal.least <= value <= goal.most else "MISSED"
            print(f"{verdict} {goal.text} ({value:.3f})")
    return met


def vars_of(figures: Figures) -> dict[str, Any]:
    """Return the figures for JSON, rounded."""
    return {
        "results": {
            name: {figure: round(value, 3) for figure, value in found.items()}
            for name, found in figures.results.items()
        },
        "ratios": {name: round(value, 3) for name, value in figures.ratios.items()},
    }


if __name__ == "__main__":
    sys.exit(main())
