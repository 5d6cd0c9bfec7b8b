"""`benchmarks/producer.py` runs as a person runs it, and says all that it promises to say."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "benchmarks" / "producer.py"

# The first build of the KPL fetches 125 MB.
pytestmark = pytest.mark.timeout(600)

OURS = {"ours_wire", "ours_wire_tls", "ours_boto3", "ours_ordered", "aws_kinesis_agg"}
PEERS = {"kpl", "aiokpl", "async_kinesis"}
RATIOS = {
    *("kpl_wall_100", "kpl_cpu_100", "kpl_wall_1024", "kpl_cpu_1024", "aiokpl", "async_kinesis"),
    *("wire_500x100", "wire_500x1024", "wire_100x51200"),
}


def run(*arguments: str, path: str | None = None) -> tuple[str, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, str(PROGRAM), "--quick", "--json", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | ({"PATH": path} if path is not None else {}),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, json.loads(done.stdout.splitlines()[-1])


def test_it_measures_everybody_who_is_there_and_names_the_others() -> None:
    table, found = run("--only", "throughput", "--only", "calls")
    absent = found["absent"]
    assert set(absent) <= PEERS
    measured = found["results"]["throughput"]
    assert set(measured) == (OURS | PEERS) - set(absent)
    for name, sizes in measured.items():
        assert set(sizes) == {"100", "1024"}, name
        for size, cost in sizes.items():
            assert set(cost) == {"wall", "cpu"}, (name, size)
            assert all(seconds > 0 for seconds in cost.values()), (name, size)
    ratios = found["ratios"]
    assert set(ratios) == RATIOS
    for name, ratio in ratios.items():
        rival = name.partition("_wall")[0].partition("_cpu")[0]
        assert (ratio is None) == (rival in absent), name
    for name, why in absent.items():
        assert f"{name} is missing: {why}" in table


def test_it_says_what_our_producer_costs_and_where() -> None:
    _, found = run("--only", "shards", "--only", "memory", "--only", "stages")
    results = found["results"]
    assert set(results) == {"shards", "memory", "stages"}
    assert set(results["shards"]) == {"null-1", "null-64", "times"}
    assert results["memory"]["last_quarter_mib"] > 0
    assert set(results["stages"]) == {"100", "1024"}
    files = [stage.partition(" ")[2] for stage in results["stages"]["100"]]
    assert any(file.startswith("producers/aggregated/") for file in files)
    assert len(found["goals"]) == 2
    # It was not asked for.
    assert set(found["ratios"].values()) == {None}


def test_without_java_the_latency_of_the_others_is_measured_all_the_same(tmp_path: Path) -> None:
    table, found = run("--only", "latency", path=str(tmp_path))
    assert found["absent"] == {"kpl": "there is no java"}
    assert "kpl is missing: there is no java" in table
    measured = found["results"]["latency"]
    assert set(measured) == {
        *("aggregated", "aggregated_ordered", "put_record", "put_records_500"),
    }
    for name, endpoints in measured.items():
        # The slow endpoint was the slow one.
        assert endpoints["after_15_ms"]["p50_ms"] >= 15, name
        assert endpoints["at_once"]["p50_ms"] > 0, name
