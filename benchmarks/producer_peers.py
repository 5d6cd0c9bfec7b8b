"""The peers that live in an environment of their own, and the same load on them.

How to run it: `.venv/peers/bin/python benchmarks/producer_peers.py NAME URL` with `aiokpl` or
`async_kinesis`; jobs come by way of `benchmarks/producer_protocol.py`.
"""

import asyncio
import logging
import os
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from importlib import import_module
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.producer_protocol import Done, Job, serve

REGION: Final = "us-east-1"
UNBOUND: Final = 1e9
"""What their limiters may reckon with and nobody reaches, per second and shard."""


def main(name: str, url: str) -> None:
    """Serve as one of the peers."""
    # async-kinesis takes its credentials from nowhere else, and warns of the limit that is asked.
    os.environ.update(AWS_ACCESS_KEY_ID="test", AWS_SECRET_ACCESS_KEY="test")
    logging.disable(logging.WARNING)
    with asyncio.Runner() as runner:
        serve(lambda job: runner.run(PEERS[name](url, job)))


async def aiokpl(url: str, job: Job) -> Done:
    """Put with aiokpl, and look at every result."""
    library: Any = import_module("aiokpl")
    config = library.Config(
        region=REGION,
        endpoint_url=url,
        aws_access_key_id="test",
        aws_secret_access_key="test",
        rate_limit_records_per_sec_per_shard=UNBOUND,
        rate_limit_bytes_per_sec_per_shard=UNBOUND,
    )
    async with library.Producer(config) as producer:

        async def put(key: str, data: bytes) -> Any:
            return await producer.put_record(stream=job.stream, partition_key=key, data=data)

        # The stream's pipeline, which asks for the shards, is not counted.
        await confirmed(await put("first", b""))
        return await flat_out(job, put, producer.flush)


async def flat_out(
    job: Job, put: Callable[[str, bytes], Awaitable[Any]], flush: Callable[[], Awaitable[object]]
) -> Done:
    """Put as fast as the producer takes it, and look at every result."""
    data, done = job.data, Done()
    waiting: deque[Any] = deque()
    started = time.perf_counter()
    for keys in job.key_chunks():
        for key in keys:
            waiting.append(await put(key, data))
        while waiting and waiting[0].is_set():
            done.confirmed += await confirmed(waiting.popleft())
    await flush()
    for outcome in waiting:
        done.confirmed += await confirmed(outcome)
    done.seconds = time.perf_counter() - started
    return done


async def confirmed(outcome: Any) -> int:
    """Wait for a result of aiokpl, and count it if it is a good one."""
    result = await outcome.wait()
    if not result.success:
        raise RuntimeError(f"aiokpl did not deliver: {result}")
    return 1


async def async_kinesis(url: str, job: Job) -> Done:
    """Put with async-kinesis.

    Keys of their own allow it no aggregation; its results are those of a request, not of a record.
    """
    library: Any = import_module("kinesis")
    processors: Any = import_module("kinesis.processors")
    data, done = "x" * job.size, Done()

    async def flushed(items: list[Any]) -> None:
        done.confirmed += len(items)

    async with library.Producer(
        job.stream,
        endpoint_url=url,
        region_name=REGION,
        processor=processors.StringProcessor(),
        put_rate_limit_per_shard=UNBOUND,
        put_bandwidth_limit_per_shard=UNBOUND,
        skip_describe_stream=True,
        after_flush_fun=flushed,
    ) as producer:
        started = time.perf_counter()
        for keys in job.key_chunks():
            for key in keys:
                await producer.put(data, partition_key=key)
        await producer.flush()
        done.seconds = time.perf_counter() - started
    return done


PEERS: Final[dict[str, Callable[[str, Job], Coroutine[Any, Any, Done]]]] = {
    "aiokpl": aiokpl,
    "async_kinesis": async_kinesis,
}


if __name__ == "__main__":
    main(*sys.argv[1:])
