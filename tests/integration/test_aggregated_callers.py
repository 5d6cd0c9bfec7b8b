"""`AggregatingProducer` and those who call it: from callbacks, through Ctrl-C, across a fork."""

import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from itertools import count
from linecache import getline
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import pytest

from infra.stack.endpoints import Endpoints
from producers.aggregated import AggregatingProducer, PutResult
from producers.errors import DeliveryError
from records.dead_letter import DeadLetter
from tests.integration.aggregated_support import (
    Answer,
    Forward,
    client_of,
    closed_port,
    endpoint_of,
    environment_of,
    read_back,
    tampering,
)
from tests.support import eventually

if TYPE_CHECKING:
    from types_boto3_kinesis import KinesisClient

ROOT = Path(__file__).resolve().parents[2]
Streams = Callable[..., str]


def test_close_and_flush_in_a_callback_do_not_wait_for_themselves(
    kinesis: "KinesisClient", stream: Streams
) -> None:
    name = stream()
    flushed: list[bool] = []
    producer = AggregatingProducer(kinesis, name, linger=0.01)

    def callback(_done: "Future[PutResult]") -> None:
        second.append(producer.put("k", b"2"))
        flushed.append(producer.flush())
        producer.close()
        flushed.append(True)

    second: list[Future[PutResult]] = []
    producer.put("k", b"1").add_done_callback(callback)
    eventually(lambda: flushed == [False, True])
    assert second[0].result(30).shard_id
    producer._thread.join(30)
    assert not producer._thread.is_alive()


@pytest.mark.parametrize("where", ["future", "dead letter"])
def test_a_callback_that_exits_leaves_no_other_caller_waiting(where: str) -> None:
    def leave(_: "Future[PutResult] | DeadLetter") -> None:
        sys.exit(1)

    letter = leave if where == "dead letter" else None
    producer = AggregatingProducer(
        client_of(closed_port()), "any", max_record_age=0.2, on_dead_letter=letter
    )
    first, second = producer.put("k", b"1"), producer.put("k", b"2")
    if where == "future":
        first.add_done_callback(leave)
    assert isinstance(second.exception(30), DeliveryError)
    assert isinstance(first.exception(30), DeliveryError)
    assert isinstance(producer.put("k", b"3").exception(30), DeliveryError)
    producer.close()


class Interrupt:
    """A trace function that raises KeyboardInterrupt before the nth line that runs of ours."""

    def __init__(self, lines: int) -> None:
        self.lines_left = lines

    def __call__(self, frame: FrameType, event: str, _: object) -> "Interrupt | None":
        path = Path(frame.f_code.co_filename)
        if not path.is_relative_to(ROOT) or path.parent.parent not in {ROOT, ROOT / "producers"}:
            return None
        # Python itself sees to it that no signal comes between the end of a `with` and its exit.
        line = getline(str(path), frame.f_lineno).strip()
        if event == "line" and not line.startswith(("with ", "try:")):
            self.lines_left -= 1
            if self.lines_left < 0:
                raise KeyboardInterrupt
        return self


def put_interrupted(producer: AggregatingProducer, key: str, data: bytes, lines: int) -> bool:
    """Put a record with Ctrl-C pressed after so many lines; say whether put came to its end."""
    before = sys.gettrace()
    sys.settrace(Interrupt(lines))
    try:
        producer.put(key, data)
    except KeyboardInterrupt:
        return False
    finally:
        sys.settrace(before)
    return True


@pytest.mark.parametrize("known", [True, False], ids=["shards known", "shards unknown"])
def test_wherever_ctrl_c_strikes_a_put_it_spoils_nothing_for_others(
    kinesis: "KinesisClient", stream: Streams, *, known: bool
) -> None:
    name = stream()
    expected, doubtful = Counter[tuple[str, bytes]](), set[tuple[str, bytes]]()
    for lines in count():
        producer = AggregatingProducer(kinesis, name, record_ids=False, linger=0.01)
        if known:
            producer.put("first", b"x").result(30)
            expected["first", b"x"] += 1
        ended = False
        futures = []
        for key in ("a", "b"):
            mine, after = (f"{key}-{lines}", b"struck"), (f"{key}-{lines}", b"after")
            ended = put_interrupted(producer, *mine, lines)
            doubtful.add(mine)
            futures.append(producer.put(*after))
            expected[after] += 1
        assert all(future.result(30).attempts == 1 for future in futures)
        producer.close(deadline=20)
        assert not producer._thread.is_alive()
        assert producer._machine.buffered_records == producer._machine.buffered_bytes == 0
        if ended:
            break
    assert lines > 30
    users = [(u.partition_key, u.data) for held in read_back(kinesis, name) for u in held.users()]
    found = Counter(user for user in users if user not in doubtful)
    assert found == expected
    assert max(Counter(users)[user] for user in doubtful) == 1


@pytest.mark.parametrize("linger", [1e300, float("inf")])
def test_a_record_may_linger_for_ever(
    kinesis: "KinesisClient", stream: Streams, linger: float
) -> None:
    name = stream()
    with AggregatingProducer(kinesis, name, linger=linger, max_record_age=None) as producer:
        first = producer.put("k", b"1")
        eventually(lambda: producer._machine._lanes)  # The shards are listed, and it waits.
        assert producer._thread.is_alive()
        assert not producer.flush(0)
        assert first.result(30).attempts == 1


FORK = """\
import os, sys
from producers.aggregated import AggregatingProducer
from producers.errors import ProducerClosedError
from tests.integration.aggregated_support import client_of

def tell(what):
    os.write(1, what.encode() + b"\\n")

tellers = {"parent": os.getpid()}
def letter(_):
    tell("dead letter in the " + ("parent" if os.getpid() == tellers["parent"] else "child"))

client = client_of(sys.argv[1])
producer = AggregatingProducer(client, sys.argv[2], linger=600, on_dead_letter=letter)
future = producer.put("k", b"of the parent")
producer._lock.acquire()  # As the producer's thread may, at the moment of the fork.
child = os.fork()
if not child:
    try:
        for call in (lambda: producer.put("k", b"of the child", timeout=1), producer.flush):
            try:
                call()
            except ProducerClosedError as error:
                tell(f"child: {error}")
        producer.close(deadline=0)
    finally:
        os._exit(0)
os.waitpid(child, 0)
producer._lock.release()
producer.close()
tell(f"parent: {future.result(0).sub_sequence_number}")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_is_told_and_changes_nothing(
    kinesis: "KinesisClient", stack: Endpoints, stream: Streams
) -> None:
    name = stream()
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK, endpoint_of(stack), name],
        capture_output=True,
        cwd=ROOT,
        env=environment_of(stack),
        text=True,
        timeout=60,
        check=False,
    )
    told = done.stdout.splitlines()
    assert told[:2] == ["child: the producer belongs to the process that made it"] * 2, done.stderr
    assert told[2:] == ["parent: 0"]
    (held,) = read_back(kinesis, name)
    assert held.data.endswith(b"of the parent")


def test_no_thread_is_left_behind(kinesis: "KinesisClient", stream: Streams) -> None:
    before = set(threading.enumerate())
    with AggregatingProducer(kinesis, stream()) as producer:
        producer.put("k", b"1")
    assert {t for t in threading.enumerate() if t.is_alive()} <= before


def test_close_while_an_answer_is_awaited_leaves_nothing_pending(
    stack: Endpoints, stream: Streams
) -> None:
    name = stream()
    asked, go_on = threading.Event(), threading.Event()

    def tamper(operation: str, body: bytes, forward: Forward) -> Answer:
        if operation == "PutRecords":
            asked.set()
            go_on.wait(30)
        return forward(body)

    with tampering(endpoint_of(stack), tamper) as url:
        producer = AggregatingProducer(client_of(url), name, linger=0)
        try:
            future = producer.put("k", b"x")
            assert asked.wait(30)
            producer.close(deadline=0.05)
            error = future.exception(0)
        finally:
            go_on.set()
        producer._thread.join(30)
        assert not producer._thread.is_alive()
    assert isinstance(error, DeliveryError)
    assert (error.error_code, error.attempts) == ("ProducerClosed", 1)


def test_a_callback_may_put_again(kinesis: "KinesisClient", stream: Streams) -> None:
    name = stream()
    second: Future[Future[PutResult]] = Future()
    with AggregatingProducer(kinesis, name) as producer:
        producer.put("k", b"1").add_done_callback(
            lambda _done: second.set_result(producer.put("k", b"2"))
        )
        assert second.result(30).result(30).shard_id
    assert len(read_back(kinesis, name)) == 2
