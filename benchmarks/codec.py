"""How fast KPL aggregates are packed and unpacked, beside AWS's own Python library.

What it shows: user records a second for `records.aggregation` and for `aws_kinesis_agg`
(protobuf's C runtime underneath), each packing the same records into the same bytes and unpacking
them again. MD5 over the aggregate is part of the format, so its time alone is the floor.

How to run it: `make bench BENCH=codec`, or `python benchmarks/codec.py [--json]`.

What you will see: a table; with `--json` the last line is one JSON object whose `ratios` say how
many times faster than aws_kinesis_agg each case is.

What is guaranteed: both sides are checked to give the same records and the same bytes before
anything is timed. The repetitions of all take turns, and the best of each counts, so that another
load on the machine hits all alike. Encoding is adding every record and building the bytes;
decoding is having key and data of every record in hand. aws_kinesis_agg gives data in base64,
as its interface has it; the row "protobuf" is its generated classes used by hand without
that, the least that can be done over the protobuf runtime.

What to change: the cases, to look like your records.
"""

import argparse
import hashlib
import json
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from records.aggregation import MAGIC, AggregateBuilder, UserRecord, decode
from records.limits import MIB

CASES: Final = ("100", "1024", "100_unique")

Pairs = list[tuple[str, bytes]]


@dataclass(frozen=True, slots=True)
class Case:
    """What is packed: pairs of partition key and data, and the aggregate they make."""

    name: str
    pairs: Pairs
    blob: bytes


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a table, and with `--json` one object behind it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument(
        "--repetitions", type=int, default=300, help="turns of each, of which the best counts"
    )
    options = parser.parse_args(argv)
    if options.repetitions < 1:
        parser.error("--repetitions must be at least 1")
    try:
        peers = Peers()
    except ImportError as error:
        print(f"the library to compare with is not installed: {error}", file=sys.stderr)
        return 1
    results: dict[str, dict[str, float]] = {}
    ratios: dict[str, float] = {}
    for name in CASES:
        case = make_case(name)
        check(case, peers)
        best = measure(contenders(case, peers), options.repetitions)
        report(case, best, results, ratios)
    print("\ntimes faster than aws_kinesis_agg: ", end="")
    print(", ".join(f"{name} {ratio}" for name, ratio in ratios.items()))
    if options.json:
        print(
            json.dumps({"python": platform.python_version(), "results": results, "ratios": ratios})
        )
    return 0


def make_case(name: str) -> Case:
    """Build the records of a case, as much as fits an aggregate of two payload units."""
    count, size = (49, 1024) if name == "1024" else (450, 100)
    unique = name.endswith("_unique")
    pairs = [
        (f"device-{i:09}" if unique else f"device-{i % 50:03}", bytes([i % 256]) * size)
        for i in range(count)
    ]
    return Case(name, pairs, encode(pairs))


def encode(pairs: Pairs) -> bytes:
    """Pack with the builder of this repository."""
    builder = AggregateBuilder(max_bytes=MIB)
    for key, data in pairs:
        builder.try_add(key, data)
    return builder.build()


class Peers:
    """The same work with aws_kinesis_agg."""

    def __init__(self) -> None:
        # The deaggregator comes first: it puts the others' generated modules on the path.
        self._unpack: Any = import_module("aws_kinesis_agg.deaggregator").iter_deaggregate_records
        self._record: Any = import_module("aws_kinesis_agg.aggregator").AggRecord
        self._messages: Any = import_module("aws_kinesis_agg.messages_pb2")

    def encode(self, pairs: Pairs) -> bytes:
        """Pack with AggRecord."""
        record = self._record(MIB)
        for key, data in pairs:
            record.add_user_record(key, data)
        blob: bytes = record.get_contents()[2]
        return blob

    def decode(self, blob: bytes) -> list[dict[str, Any]]:
        """Unpack with iter_deaggregate_records, given raw bytes as boto3 gives them."""
        record = {
            "SequenceNumber": "1",
            "PartitionKey": "a",
            "ApproximateArrivalTimestamp": 0,
            "Data": blob,
        }
        return list(self._unpack([record], data_format="Boto3"))

    def decode_protobuf(self, blob: bytes) -> Pairs | None:
        """Unpack with the protobuf runtime alone, without what the library adds to it."""
        body = blob[len(MAGIC) : -16]
        if hashlib.md5(body, usedforsecurity=False).digest() != blob[-16:]:
            return None
        message = self._messages.AggregatedRecord()
        message.ParseFromString(body)
        keys = message.partition_key_table
        return [(keys[record.partition_key_index], record.data) for record in message.records]


def check(case: Case, peers: Peers) -> None:
    """Make sure that all do the same work."""
    if peers.encode(case.pairs) != case.blob:
        raise AssertionError("the two libraries write different bytes")
    wanted = [UserRecord(key, data, None, i) for i, (key, data) in enumerate(case.pairs)]
    if decode(case.blob) != wanted or peers.decode_protobuf(case.blob) != case.pairs:
        raise AssertionError("the records differ after decoding")
    if [record["kinesis"]["partitionKey"] for record in peers.decode(case.blob)] != [
        key for key, _ in case.pairs
    ]:
        raise AssertionError("aws_kinesis_agg decodes other records")


def contenders(case: Case, peers: Peers) -> dict[str, Callable[[], object]]:
    """Return what takes turns."""
    return {
        "encode ours": lambda: encode(case.pairs),
        "encode aws_kinesis_agg": lambda: peers.encode(case.pairs),
        "decode ours": lambda: decode(case.blob),
        "decode aws_kinesis_agg": lambda: peers.decode(case.blob),
        "decode protobuf": lambda: peers.decode_protobuf(case.blob),
        "MD5 alone": lambda: hashlib.md5(case.blob, usedforsecurity=False).digest(),
    }


def measure(work: dict[str, Callable[[], object]], repetitions: int) -> dict[str, float]:
    """Return the best time of each in seconds; they take turns."""
    best = dict.fromkeys(work, float("inf"))
    for _ in range(repetitions):
        for name, run in work.items():
            started = time.perf_counter()
            run()
            best[name] = min(best[name], time.perf_counter() - started)
    return best


def report(
    case: Case,
    best: dict[str, float],
    results: dict[str, dict[str, float]],
    ratios: dict[str, float],
) -> None:
    """Print the rows of a case, and enter its figures."""
    count = len(case.pairs)
    keys = len({key for key, _ in case.pairs})
    print(f"\n{count} records of {len(case.pairs[0][1])} B, {keys} keys, {len(case.blob)} B")
    print(f"  {'':24}{'µs':>10}{'records/s':>14}")
    for name, seconds in best.items():
        print(f"  {name:24}{seconds * 1e6:>10.0f}{count / seconds:>14,.0f}")
    results[case.name] = {name: round(count / seconds) for name, seconds in best.items()}
    for work in ("encode", "decode"):
        ratio = best[f"{work} aws_kinesis_agg"] / best[f"{work} ours"]
        ratios[f"{work}_{case.name}"] = round(ratio, 2)


if __name__ == "__main__":
    sys.exit(main())
