"""How a program with an `AggregatingProducer` ends: exits, errors, signals, forks; and Lambda."""

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from infra.stack.endpoints import Endpoints
from producers.aggregated import AggregatingProducer, PutResult
from producers.errors import DeliveryError
from tests.integration.aggregated_support import (
    client_of,
    closed_port,
    endpoint_of,
    environment_of,
    read_back,
)

if TYPE_CHECKING:
    from types_boto3_kinesis import KinesisClient

ROOT = Path(__file__).resolve().parents[2]
Streams = Callable[..., str]

START = """\
import asyncio, atexit, multiprocessing, os, signal, sys, threading

at_last = []  # Called after what the producer registered, for it was registered later.
atexit.register(lambda: [call() for call in at_last])
from producers.aggregated import AggregatingProducer
from producers.aggregated.aio import AsyncAggregatingProducer
from producers.errors import ProducerClosedError
from tests.integration.aggregated_support import client_of

def tell(what):
    os.write(1, str(what).encode() + b"\\n")  # Whole lines, whichever process or thread it is.

client, name = client_of(sys.argv[1]), sys.argv[2]
def producer_of(**settings):
    return AggregatingProducer(client, name, record_ids=False, **settings)
"""


def started(program: str, *arguments: str, stack: Endpoints) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", START + program, *arguments],
        cwd=ROOT,
        env=environment_of(stack),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: "subprocess.Popen[str]") -> tuple[int, list[str], str]:
    try:
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, out.splitlines(), err


def stored(kinesis: "KinesisClient", name: str) -> Counter[bytes]:
    return Counter(user.data for held in read_back(kinesis, name) for user in held.users())


@pytest.mark.parametrize(
    ("last", "code"),
    [
        ("", 0),
        ("sys.exit(3)", 3),
        ("raise LookupError('of the program')", 1),
        ("os.kill(os.getpid(), signal.SIGINT)", -signal.SIGINT),
        ("signal.signal(signal.SIGTERM, lambda *_: sys.exit(4)); signal.raise_signal(15)", 4),
    ],
    ids=["end", "sys.exit", "exception", "Ctrl-C", "SIGTERM handled"],
)
def test_what_nobody_closed_is_delivered_at_exit(
    kinesis: "KinesisClient", stack: Endpoints, stream: Streams, last: str, code: int
) -> None:
    name = stream()
    program = f"""
producer = producer_of(linger=600)
producer.put("k", b"first")
producer.flush()  # From now on the shards are known, and records linger.
for at in range(100):
    producer.put(f"k{{at}}", b"%d" % at)
{last}
"""
    process = started(program, endpoint_of(stack), name, stack=stack)
    returncode, _, err = ended(process)
    assert returncode == code, err
    assert ("of the program" in err) == (code == 1)
    assert stored(kinesis, name) == Counter([b"first", *(b"%d" % at for at in range(100))])


def test_a_signal_that_kills_leaves_no_time_for_anything(
    kinesis: "KinesisClient", stack: Endpoints, stream: Streams
) -> None:
    """As documented: without a handler of the program's own, SIGTERM ends it then and there."""
    name = stream()
    program = """
producer = producer_of(linger=600)
producer.put("k", b"delivered")
producer.flush()
producer.put("k", b"lost")
tell("put")
signal.pause()
"""
    process = started(program, endpoint_of(stack), name, stack=stack)
    assert process.stdout
    assert process.stdout.readline() == "put\n"
    process.terminate()
    returncode, _, err = ended(process)
    assert returncode == -signal.SIGTERM, err
    assert stored(kinesis, name) == Counter([b"delivered"])


def test_what_cannot_be_delivered_at_exit_is_dead_lettered_and_the_process_ends(
    stack: Endpoints,
) -> None:
    program = """
producer = producer_of(
    max_record_age=None, on_dead_letter=lambda x: tell(f"{x.partition_key} {x.error_code}")
)
futures = [producer.put(f"k{at}", b"x") for at in range(10)]
atexit.register(lambda: tell(sum(f.done() for f in futures)))
at_last.append(lambda: tell(sum(f.done() for f in futures)))
"""
    returncode, out, err = ended(started(program, closed_port(), "any", stack=stack))
    assert returncode == 0, err
    assert out == ["0", *(f"k{at} ProducerClosed" for at in range(10)), "10"]
    assert "Traceback" not in err


def test_ctrl_c_amid_puts_loses_nothing_that_was_taken(
    kinesis: "KinesisClient", stack: Endpoints, stream: Streams
) -> None:
    name = stream()
    program = """
at, futures = 0, []
try:
    with producer_of(max_buffered_records=50) as producer:
        while True:
            futures.append(producer.put(f"k{at % 7}", b"%d" % at))
            at += 1
            if at == 200:
                tell("putting")
except KeyboardInterrupt:
    tell(f"{len(futures)} {sum(len(f.result(0).attempts) == 1 for f in futures)}")
"""
    process = started(program, endpoint_of(stack), name, stack=stack)
    assert process.stdout
    assert process.stdout.readline() == "putting\n"
    process.send_signal(signal.SIGINT)
    returncode, out, err = ended(process)
    assert returncode == 0, err
    kept, confirmed = map(int, out[0].split())
    assert kept == confirmed
    found = stored(kinesis, name)
    assert max(found.values()) == 1
    # The put that was struck may have taken its record before it could return the future.
    assert (
        {b"%d" % at for at in range(kept)} <= set(found) <= {b"%d" % at for at in range(kept + 1)}
    )


def test_ctrl_c_in_a_loop_of_asyncio_closes_the_producer_in_time(
    kinesis: "KinesisClient", stack: Endpoints, stream: Streams
) -> None:
    name = stream()
    program = """
async def main():
    async with AsyncAggregatingProducer(producer_of(linger=600)) as producer:
        await producer.submit("k", b"first")
        await producer.flush()
        for at in range(50):
            await producer.submit(f"k{at}", b"%d" % at)
        tell("put")
        await asyncio.Event().wait()
asyncio.run(main())
"""
    process = started(program, endpoint_of(stack), name, stack=stack)
    assert process.stdout
    assert process.stdout.readline() == "put\n"
    process.send_signal(signal.SIGINT)
    returncode, _, err = ended(process)
    assert returncode == -signal.SIGINT, err
    assert stored(kinesis, name) == Counter([b"first", *(b"%d" % at for at in range(50))])


def test_threads_that_put_while_the_interpreter_ends_get_an_answer_for_every_record(
    kinesis: "KinesisClient", stack: Endpoints, stream: Streams
) -> None:
    name = stream()
    program = """
futures, enough, refused = [], threading.Event(), [threading.Event() for _ in range(4)]

def account():
    ends = [event.wait(30) for event in refused]
    tell(f"{all(ends)} {len(futures)} {sum(f.done() and not f.exception() for f in futures)}")

at_last.append(account)
producer = producer_of()

def work(number):
    try:
        for at in range(1_000_000):
            futures.append(producer.put(f"k{number}", b"%d-%d" % (number, at)))
            if at == 100:
                enough.set()
    except ProducerClosedError:
        refused[number].set()

for number in range(4):
    threading.Thread(target=work, args=(number,), daemon=True).start()
enough.wait(30)
"""
    returncode, out, err = ended(started(program, endpoint_of(stack), name, stack=stack))
    assert returncode == 0, err
    all_refused, taken, confirmed = out[0].split()
    assert all_refused == "True"
    assert taken == confirmed
    found = stored(kinesis, name)
    assert len(found) == int(taken)
    assert max(found.values()) == 1


FORKS = {
    "os.fork": """
child = os.fork()
if not child:
    in_child()
    sys.exit(7)  # The interpreter's exit of the child runs, with all that is registered for it.
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
""",
    "multiprocessing": """
def run():
    in_child()
    sys.exit(7)
process = multiprocessing.get_context("fork").Process(target=run)
process.start()
process.join(30)
code = process.exitcode
""",
}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("fork", FORKS.values(), ids=FORKS.keys())
def test_a_fork_delivers_nothing_twice_and_the_child_ends_cleanly(
    kinesis: "KinesisClient", stack: Endpoints, stream: Streams, fork: str
) -> None:
    name = stream()
    program = f"""
def in_child():
    for call in (lambda: producer.put("k", b"child"), producer.flush, producer_asked_in_a_loop):
        try:
            call()
        except ProducerClosedError:
            tell("refused")
    producer.close()
    # It may make one of its own, with a client of its own, and leave it to the exit.
    own = AggregatingProducer(client_of(sys.argv[1]), name, record_ids=False, linger=600)
    own.put("k", b"own")
    if {"multiprocessing" in fork}:
        own.close()  # multiprocessing ends with os._exit, which calls no one.

def producer_asked_in_a_loop():
    async def ask():
        await AsyncAggregatingProducer(producer).put("k", b"child")
    asyncio.run(ask())

producer = producer_of(linger=600)
producer.put("k", b"first")
producer.flush()
for at in range(300):
    producer.put(f"k{{at}}", b"%d" % at)
{fork}
tell(code)
"""
    returncode, out, err = ended(started(program, endpoint_of(stack), name, stack=stack))
    assert returncode == 0, err
    assert out == ["refused", "refused", "refused", "7"], err
    assert stored(kinesis, name) == Counter([b"own", b"first", *(b"%d" % at for at in range(300))])


def test_a_lambda_handler_leaves_nothing_in_the_buffer_when_it_returns(
    kinesis: "KinesisClient", stream: Streams
) -> None:
    name, seen = stream(2), Counter[bytes]()
    producer = AggregatingProducer(kinesis, name, record_ids=False, linger=600)  # Of the module.

    def handler(event: list[bytes]) -> list[PutResult | DeliveryError]:
        return producer.put_many([(f"k{at % 5}", data) for at, data in enumerate(event)])

    for call in range(4):
        event = [b"%d-%d" % (call, at) for at in range(120)]
        results = handler(event)
        # Here AWS may freeze the process for good: all must be in the stream by now.
        seen.update(event)
        assert stored(kinesis, name) == seen
        assert all(isinstance(result, PutResult) for result in results)
        assert producer.flush(0)
    producer.close()


def test_put_many_gives_each_record_its_place_in_the_order_of_asking(
    kinesis: "KinesisClient", stream: Streams
) -> None:
    name = stream(2)
    records = [
        ("a", b"0"),
        ("", b"no key"),
        ("b", b"2", 2**128 - 1),
        ("c", b"3", 2**128),
        ("d", bytes(11 * 1024 * 1024)),
        ("e", b"5"),
    ]
    with AggregatingProducer(kinesis, name, record_ids=False) as producer:
        results = producer.put_many(records)
    bad = [at for at, result in enumerate(results) if isinstance(result, DeliveryError)]
    assert bad == [1, 3, 4]
    for at in bad:
        error = results[at]
        assert isinstance(error, DeliveryError)
        assert (error.attempts, error.retriable) == ((), False)
        assert (error.record.partition_key, error.record.data) == records[at][:2]
    places = {
        (held.shard.shard_id, held.sequence_number, sub): user.data
        for held in read_back(kinesis, name)
        for sub, user in enumerate(held.users())
    }
    assert len(places) == 3
    for at in (0, 2, 5):
        result = results[at]
        assert isinstance(result, PutResult)
        assert places[result[:3]] == records[at][1]


def test_put_many_returns_the_errors_of_records_that_are_given_up() -> None:
    with AggregatingProducer(client_of(closed_port()), "any", max_record_age=0.3) as producer:
        results = producer.put_many([("k", b"1"), ("k", b"2")])
        assert [type(result) for result in results] == [DeliveryError] * 2
        assert not producer.put_many([])
