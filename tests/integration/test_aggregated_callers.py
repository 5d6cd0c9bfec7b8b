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


def idle(producer: AggregatingProducer) -> bool:
    """Whether no thread of its own is left."""
    return not any(thread.is_alive() for thread in producer._crew.threads)


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
    eventually(lambda: idle(producer))


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


def strike_everywhere(
    kinesis: "KinesisClient", name: str, producer_of: Callable[[], AggregatingProducer]
) -> None:
    """Break off a put at each of its lines; all the others must come to their end, once."""
    expected, doubtful = Counter[tuple[str, bytes]](), set[tuple[str, bytes]]()
    for lines in count():
        producer = producer_of()
        ended = False
        futures = []
        for key in ("a", "b"):  # The second finds a record that waits for company.
            mine, after = (f"{key}-{lines}", b"struck"), (f"{key}-{lines}", b"after")
            ended = put_interrupted(producer, *mine, lines)
            doubtful.add(mine)
            futures.append(producer.put(*after))
            expected[after] += 1
        assert producer.flush(30)
        assert all(len(future.result(0).attempts) == 1 for future in futures)
        assert producer._machine.buffered_records == producer._machine.buffered_bytes == 0
        if ended:
            break
    assert lines > 30
    users = [(u.partition_key, u.data) for held in read_back(kinesis, name) for u in held.users()]
    assert Counter(user for user in users if user not in doubtful) == expected
    assert max(Counter(users)[user] for user in doubtful) == 1


def test_wherever_ctrl_c_strikes_a_put_it_spoils_nothing_for_others(
    kinesis: "KinesisClient", stream: Streams
) -> None:
    name = stream()
    with AggregatingProducer(kinesis, name, record_ids=False, linger=600) as producer:
        first = producer.put("a-0", b"struck")
        assert producer.flush(30)
        assert first.result(0).shard_id  # The shards are known.
        strike_everywhere(kinesis, name, lambda: producer)


def test_wherever_ctrl_c_strikes_the_first_put_it_spoils_nothing_for_others(
    kinesis: "KinesisClient", stream: Streams
) -> None:
    name, made = stream(), list[AggregatingProducer]()

    def fresh() -> AggregatingProducer:
        if made:
            made[-1].close(deadline=20)
            eventually(lambda: idle(made[-1]))
        made.append(AggregatingProducer(kinesis, name, record_ids=False, linger=600))
        return made[-1]

    strike_everywhere(kinesis, name, fresh)
    made[-1].close()


def test_a_record_may_linger_for_ever(kinesis: "KinesisClient", stream: Streams) -> None:
    name = stream()
    with AggregatingProducer(kinesis, name, linger=1e300, max_record_age=None) as producer:
        producer.put("k", b"1")  # Perhaps it goes as soon as the shards are known.
        assert producer.flush(30)
        second = producer.put("k", b"2")
        assert not idle(producer)
        assert not producer.flush(0)
        assert len(second.result(30).attempts) == 1


FORK = """\
import os, sys, threading
from producers.aggregated import AggregatingProducer, future as futures
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
threading.Thread(target=futures._lock.acquire).start()  # That of the futures as well.
child = os.fork()
if not child:
    try:
        futures.PutFuture("k", b"", None, None, 0, 1).add_done_callback(print)
        for call in (
            lambda: producer.put("k", b"of the child", timeout=1),
            lambda: producer.call_when_room(print, 1),
            producer.flush,
            producer.metrics,
        ):
            try:
                call()
            except ProducerClosedError as error:
                tell(f"child: {error}")
        producer.close(deadline=0)
    finally:
        os._exit(0)
os.waitpid(child, 0)
producer._lock.release()
futures._renew_lock()
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
    assert told[:4] == ["child: the producer belongs to the process that made it"] * 4, done.stderr
    assert told[4:] == ["parent: 0"]
    (held,) = read_back(kinesis, name)
    assert held.data.endswith(b"of the parent")


def test_no_thread_is_left_behind(kinesis: "KinesisClient", stream: Streams) -> None:
    before = set(threading.enumerate())
    with AggregatingProducer(kinesis, stream()) as producer:
        producer.put("k", b"1")
    eventually(lambda: {t for t in threading.enumerate() if t.is_alive()} <= before)


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
        eventually(lambda: idle(producer))
    assert isinstance(error, DeliveryError)
    assert (error.error_code, len(error.attempts)) == ("ProducerClosed", 1)


@pytest.mark.parametrize("ordered", [False, True], ids=["unordered", "ordered"])
def test_sixteen_threads_put_at_once_and_every_record_is_accounted_for(
    kinesis: "KinesisClient", stream: Streams, *, ordered: bool
) -> None:
    name, start = stream(3), threading.Barrier(16)
    futures: dict[tuple[str, bytes], Future[PutResult]] = {}
    with AggregatingProducer(
        kinesis,
        name,
        ordered=ordered,
        linger=0.01,
        record_ids=False,
        max_aggregate_records=50,
        max_buffered_records=100,
    ) as producer:

        def work(number: int) -> None:
            start.wait(30)
            for at in range(250):
                key, data = f"k{number}-{at % 3}", b"%d" % at
                futures[key, data] = producer.put(key, data, timeout=60)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(90)
        assert producer.flush(60)
        assert producer._machine.buffered_records == producer._machine.buffered_bytes == 0
    assert len(futures) == 4_000
    places = {}
    seen: dict[str, list[int]] = {}
    for held in read_back(kinesis, name):
        for sub, user in enumerate(held.users()):
            place = (held.shard.shard_id, held.sequence_number, sub)
            assert places.setdefault((user.partition_key, user.data), place) == place
            seen.setdefault(user.partition_key, []).append(int(user.data))
    assert places == {record: future.result(0)[:3] for record, future in futures.items()}
    if ordered:
        assert all(numbers == sorted(numbers) for numbers in seen.values())


def test_a_callback_may_put_again(kinesis: "KinesisClient", stream: Streams) -> None:
    name = stream()
    second: Future[Future[PutResult]] = Future()
    with AggregatingProducer(kinesis, name) as producer:
        producer.put("k", b"1").add_done_callback(
            lambda _done: second.set_result(producer.put("k", b"2"))
        )
        assert second.result(30).result(30).shard_id
    assert len(read_back(kinesis, name)) == 2
