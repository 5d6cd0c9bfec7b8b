"""The real Kinesis Producer Library through the proxy's TLS, against its quotas."""

import json
import os
import random
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from records.aggregation import AggregateBuilder, decode, is_aggregate
from records.limits import MIB
from tests.integration.aggregated_support import kept_by_kcl, read_back, read_by_aws
from tests.proxy_process import ROOT, Proxy, proxy_before
from tests.support import eventually

if TYPE_CHECKING:
    from types_boto3_kinesis import KinesisClient

# The first build fetches 125 MB.
pytestmark = pytest.mark.timeout(600)

BUILD_SECONDS, RUN_SECONDS = 300, 120
PROJECT = ROOT / "tests" / "kpl" / "pom.xml"

Line = tuple[str, bytes]


@dataclass(frozen=True)
class Kpl:
    classpath: str
    folder: Path

    def put(
        self, proxy: Proxy, stream: str, lines: list[Line], *settings: str
    ) -> list[dict[str, Any]]:
        """Put lines with the KPL; return the result of each."""
        # It unpacks its native program into the folder for temporary files.
        command = ["java", "-XX:+UseSerialGC", f"-Djava.io.tmpdir={self.folder}"]
        command += ["-cp", self.classpath, "Producer", stream, str(proxy.tls_port), *settings]
        first, *others = (key.encode() + b"\t" + data + b"\n" for key, data in lines)
        log = self.folder / f"{stream}.log"
        with (
            log.open("wb") as stderr,
            subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr
            ) as process,
        ):
            try:
                assert process.stdin
                process.stdin.write(first)
                process.stdin.flush()
                # Until it knows the shards it aggregates nothing, and it asks at the first record.
                eventually(
                    lambda: "Successfully updated shard map" in log.read_text(errors="replace"),
                    message=f"the KPL knows the shards, in {log}",
                )
                out, _ = process.communicate(b"".join(others), timeout=RUN_SECONDS)
            finally:
                process.kill()
        said = log.read_text(errors="replace")[-4000:]
        assert process.returncode == 0, said
        results = [json.loads(line) for line in out.splitlines()]
        assert len(results) == len(lines), said
        return results


@pytest.fixture(scope="session")
def kpl(tmp_path_factory: pytest.TempPathFactory) -> Kpl:
    """The KPL and a program that uses it, built with Maven."""
    for program in ("java", "mvn"):
        if shutil.which(program) is None:
            pytest.skip(f"the KPL needs {program}, which is not installed")
    build = tmp_path_factory.mktemp("kpl")
    command = ["mvn", "-q", "-B", "-f", str(PROJECT), f"-Dkpl.build={build}", "compile"]
    said = ""
    for how in (["--offline"], []):
        try:
            done = subprocess.run(
                [*command, *how],
                capture_output=True,
                text=True,
                check=False,
                timeout=BUILD_SECONDS,
            )
        except subprocess.TimeoutExpired:
            pytest.skip(f"Maven has not fetched the KPL within {BUILD_SECONDS} s")
        said = done.stdout + done.stderr
        if done.returncode == 0:
            classpath = f"{build / 'classes'}{os.pathsep}{(build / 'classpath').read_text()}"
            return Kpl(classpath, tmp_path_factory.mktemp("kpl-run"))
    # What does not compile is a defect; what cannot be fetched is a machine without a network.
    assert "COMPILATION ERROR" not in said, said
    pytest.skip(f"Maven cannot fetch the KPL: {said.strip().splitlines()[-1:]}")


@pytest.fixture
def proxy(local_kinesis: str, tmp_path: Path) -> Iterator[Proxy]:
    with proxy_before(local_kinesis, "--tls", "--quotas", "aws", log_dir=tmp_path) as running:
        yield running


def stored(client: "KinesisClient", stream: str) -> tuple[Counter[Line], int]:
    """Read a stream; return its user records and how many records of it are aggregates."""
    found: Counter[Line] = Counter()
    aggregates = 0
    for shard in client.list_shards(StreamName=stream)["Shards"]:
        iterator = client.get_shard_iterator(
            StreamName=stream, ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
        )["ShardIterator"]
        for _ in range(1000):
            answer = client.get_records(ShardIterator=iterator)
            for record in answer["Records"]:
                users = decode(record["Data"])
                if users is None:
                    found[record["PartitionKey"], record["Data"]] += 1
                else:
                    aggregates += is_aggregate(record["Data"])
                    found.update((user.partition_key, user.data) for user in users)
            iterator = answer["NextShardIterator"]
            if not answer["Records"] and answer["MillisBehindLatest"] == 0:
                break
    return found, aggregates


def test_what_the_kpl_puts_through_tls_is_what_is_stored(
    kpl: Kpl, proxy: Proxy, kinesis: "KinesisClient", stream: Callable[..., str]
) -> None:
    name = stream(shards=2)
    lines = [(f"ключ-{n % 50}", f"record {n} é".encode()) for n in range(2000)]
    results = kpl.put(proxy, name, lines)
    assert [result["successful"] for result in results] == [True] * len(lines)
    assert {result["shard"] for result in results} == {
        "shardId-000000000000", "shardId-000000000001",
    }  # fmt: skip
    found, aggregates = stored(kinesis, name)
    assert found == Counter(lines)
    assert 1 <= aggregates < 200
    status = proxy.status()
    # It came through the proxy, many to a record.
    admitted = sum(row["admitted"] for row in status["shards"] if row["stream"] == name)
    assert aggregates <= admitted < 400
    assert status["operations"]["PutRecords"]["requests"] >= 1
    assert status["upstream_errors"] == 0
    check_that_we_read_it(kinesis, name, lines, results)


def check_that_we_read_it(
    client: "KinesisClient", stream: str, lines: list[Line], results: list[dict[str, Any]]
) -> None:
    """Each record is where the KPL says, as we read it and as AWS's own library does."""
    held = read_back(client, stream)
    users = kept_by_kcl(held)
    assert read_by_aws(held) == [(at, user.partition_key, user.data) for at, user in users.items()]
    found = Counter((*at[:2], user.partition_key, user.data) for at, user in users.items())
    assert found == Counter(
        (result["shard"], result["sequenceNumber"], *line)
        for line, result in zip(lines, results, strict=True)
    )
    for each in held:
        # And we would have written the very same bytes.
        builder = AggregateBuilder(max_bytes=MIB)
        for user in decode(each.data) or []:
            builder.try_add(user.partition_key, user.data, user.explicit_hash_key)
        assert each.lone or builder.build() == each.data


def test_a_flood_is_throttled_and_all_of_it_arrives(
    kpl: Kpl, proxy: Proxy, kinesis: "KinesisClient", stream: Callable[..., str]
) -> None:
    name = stream(shards=1)
    noise = random.Random(1)
    lines = [(f"key-{n % 20}", noise.randbytes(512).hex().encode()) for n in range(4000)]
    assert sum(len(data) for _, data in lines) > 3 * MIB
    # Its own limiter would keep it at half as much again as the shard takes.
    results = kpl.put(proxy, name, lines, "RateLimit=1000", "RecordTtl=110000")
    assert [result["successful"] for result in results] == [True] * len(lines)
    errors = Counter(error for result in results for error in result["errors"])
    assert errors["ProvisionedThroughputExceededException"] > 0
    assert set(errors) == {"ProvisionedThroughputExceededException"}
    found, _ = stored(kinesis, name)
    assert found == Counter(lines)
    (row,) = (row for row in proxy.status()["shards"] if row["stream"] == name)
    assert row["throttled"] > 0
