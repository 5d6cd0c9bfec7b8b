"""The process that `benchmarks/producer.py` measures: a producer, and the load on it.

How to run it: `python benchmarks/producer_load.py NAME URL`, where NAME is one of `ours-wire`,
`ours-boto3`, `ours-ordered`, `aws_kinesis_agg`, `call-wire` and `call-boto3`, and jobs come by way
of `benchmarks/producer_protocol.py`. The calls are those of a client alone: PutRecords or
PutRecord, their answers parsed.
"""

import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import boto3
from botocore.config import Config

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.producer_protocol import LOOKS, Done, Future, Job, Pace, resident_mib, serve
from benchmarks.producer_stages import Stages
from infra.stack.endpoints import FAKE_CREDENTIALS, REGION
from producers.aggregated import AggregatingProducer
from records.limits import KPL_AGGREGATE_BYTES, MIB
from wire import client as wire

# A share of a shard's quota that the limiter reckons with and that nobody reaches.
UNBOUND: Final = 1000.0

Run = Callable[[Job], Done]


def main(name: str, url: str) -> None:
    """Serve as one of the contenders."""
    serve(CONTENDERS[name](url))


def boto3_client(url: str) -> Any:
    """Return boto3's client, with no retries of its own."""
    config = Config(retries={"total_max_attempts": 1}, max_pool_connections=32)
    # The certificate is one that nobody knows.
    where: dict[str, Any] = {"endpoint_url": url, "region_name": REGION, "verify": False}
    return session().client("kinesis", config=config, **where)


def wire_client(url: str) -> Any:
    """Return the client of `wire`."""
    return wire.client(session=session(), endpoint_url=url, region_name=REGION, verify=False)


def session() -> boto3.session.Session:
    """Return a session whose credentials nobody checks."""
    return boto3.session.Session(
        FAKE_CREDENTIALS["AWS_ACCESS_KEY_ID"], FAKE_CREDENTIALS["AWS_SECRET_ACCESS_KEY"]
    )


def ours(make_client: Callable[[str], Any], url: str, **settings: Any) -> Run:
    """Return the load on our producer, with everything on."""

    @cache
    def producer(stream: str) -> AggregatingProducer:
        return AggregatingProducer(make_client(url), stream, rate=UNBOUND, **settings)

    def run(job: Job) -> Done:
        mine = producer(job.stream)
        if job.rate:
            return paced(job, mine.put, mine.flush)
        with Stages() if job.stages else nullcontext() as stages:
            done = flat_out(job, mine.put, mine.flush)
        if stages is not None:
            done.stages = dict(stages.seconds)
        return done

    return run


def flat_out(job: Job, put: Callable[[str, bytes], Future], flush: Callable[[], object]) -> Done:
    """Put as fast as the producer takes it, and look at every result."""
    data, done = job.data, Done()
    waiting: deque[Future] = deque()
    started = time.perf_counter()
    for keys in job.key_chunks():
        for key in keys:
            waiting.append(put(key, data))
        while waiting and waiting[0].done():
            waiting.popleft().result()
            done.confirmed += 1
        if done.confirmed * LOOKS > len(done.resident_mib) * job.count:
            done.resident_mib.append(resident_mib())
    flush()
    for future in waiting:
        future.result()
        done.confirmed += 1
    done.seconds = time.perf_counter() - started
    done.resident_mib.append(resident_mib())
    return done


def paced(job: Job, put: Callable[[str, bytes], Any], flush: Callable[[], object]) -> Done:
    """Put so many a second, whatever comes back, and time each from put to confirmation."""
    data, pace = job.data, Pace(job.rate)
    latencies: list[float] = []
    futures: list[Any] = []
    started = time.perf_counter()
    for keys in job.key_chunks():
        for key in keys:
            if pause := pace.wait(len(futures)):
                time.sleep(pause)
            future = put(key, data)
            ended = partial(_ended, latencies, time.perf_counter())
            future.add_done_callback(ended)
            futures.append(future)
    flush()
    for future in futures:
        future.result()
    seconds = time.perf_counter() - started
    # A future is done a moment before its callback is called.
    while len(latencies) < len(futures):
        time.sleep(1e-3)
    return Done(confirmed=len(futures), seconds=seconds).took(latencies)


def _ended(latencies: list[float], began: float, _: object) -> None:
    latencies.append(time.perf_counter() - began)


def aws_kinesis_agg(url: str) -> Run:
    """Return the load on AWS's own aggregator, with PutRecords of what it makes.

    It knows no shards, limits nothing, sends nothing again and has no result of a record.
    """
    client = boto3_client(url)
    aggregator: Any = import_module("aws_kinesis_agg.aggregator")

    def run(job: Job) -> Done:
        data, done = job.data, Done()
        packer = aggregator.RecordAggregator(KPL_AGGREGATE_BYTES)
        packed: list[dict[str, Any]] = []
        users = size = 0

        def send() -> None:
            nonlocal users, size
            put_all(client, job.stream, packed)
            done.confirmed += users
            packed.clear()
            users = size = 0

        def pack(full: Any) -> None:
            nonlocal users, size
            key, _, content = full.get_contents()
            packed.append({"PartitionKey": key, "Data": content})
            users += full.get_num_user_records()
            size += len(content)
            if size > 5 * MIB - KPL_AGGREGATE_BYTES:
                send()

        packer.on_record_complete(pack, execute_on_new_thread=False)
        started = time.perf_counter()
        for keys in job.key_chunks():
            for key in keys:
                packer.add_user_record(key, data)
        if (rest := packer.clear_and_get()) is not None:
            pack(rest)
        if packed:
            send()
        done.seconds = time.perf_counter() - started
        return done

    return run


def call(make_client: Callable[[str], Any], url: str) -> Run:
    """Return the load on a client alone: one call after the other."""
    client = make_client(url)

    def run(job: Job) -> Done:
        latencies: list[float] = []
        pace = Pace(job.rate) if job.rate else None
        (keys, *_) = Job(count=max(job.records, 1)).key_chunks()
        records = [{"PartitionKey": key, "Data": job.data} for key in keys]
        started = time.perf_counter()
        for number in range(job.count):
            if pace and (pause := pace.wait(number)):
                time.sleep(pause)
            began = time.perf_counter()
            if job.records:
                put_all(client, job.stream, records)
            else:
                client.put_record(StreamName=job.stream, **records[0])
            latencies.append(time.perf_counter() - began)
        done = Done(confirmed=job.count, seconds=time.perf_counter() - started)
        return done.took(latencies)

    return run


def put_all(client: Any, stream: str, records: list[dict[str, Any]]) -> None:
    """Call PutRecords, and see that nothing failed."""
    answer = client.put_records(StreamName=stream, Records=records)
    if answer["FailedRecordCount"] or len(answer["Records"]) != len(records):
        raise RuntimeError(f"not all was stored: {answer}")


CONTENDERS: Final[dict[str, Callable[[str], Run]]] = {
    "ours-wire": partial(ours, wire_client),
    "ours-boto3": partial(ours, boto3_client),
    "ours-ordered": partial(ours, wire_client, ordered=True),
    "aws_kinesis_agg": aws_kinesis_agg,
    "call-wire": partial(call, wire_client),
    "call-boto3": partial(call, boto3_client),
}


if __name__ == "__main__":
    main(*sys.argv[1:])
