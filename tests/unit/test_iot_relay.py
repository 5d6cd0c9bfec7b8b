"""The bridge's core: what is acknowledged, when, and in which order."""

import json
import random
import threading
from concurrent.futures import Future
from typing import Any

import pytest

from iot.connection import Message
from iot.relay import Refused, Relay
from records.envelope import new_record_id
from records.errors import RecordTooLarge


def telemetry(number: int, *, connection: int = 1, mid: int | None = None) -> Message:
    payload = json.dumps({"record_id": f"id-{number}", "sequence": number}).encode()
    return Message("dt/fleet/lamp/telemetry", payload, 1, mid or number, connection)


class Bench:
    def __init__(self, **bounds: int) -> None:
        self.puts: list[tuple[str, bytes, str, Future[Any]]] = []
        self.acknowledged: list[Message] = []
        self.refused: list[Refused] = []
        self.relay = Relay(
            put=self.put,
            acknowledge=self.acknowledged.append,
            refuse=self.refused.append,
            key_level=3,
            **({"max_messages": 100, "max_bytes": 100_000} | bounds),
        )

    def put(self, key: str, data: bytes, record_id: str) -> Future[Any]:
        if b"too-large" in data:
            raise RecordTooLarge(2, 1)
        future: Future[Any] = Future()
        self.puts.append((key, data, record_id, future))
        return future

    def succeed(self, index: int) -> None:
        self.puts[index][3].set_result("shard")


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_key_data_and_id_are_the_message_s_own(bench: Bench):
    message = telemetry(1)
    bench.relay.accept(message)
    assert bench.puts[0][:3] == ("lamp", message.payload, "id-1")


def test_nothing_is_acknowledged_before_the_stream_has_it(bench: Bench):
    bench.relay.accept(telemetry(1))
    assert bench.acknowledged == []
    bench.succeed(0)
    assert bench.acknowledged == [telemetry(1)]
    assert bench.relay.in_flight == 0


def test_waiting_for_what_was_taken_ends_with_the_last_acknowledgement(bench: Bench):
    assert bench.relay.wait_settled(0)
    bench.relay.accept(telemetry(1))
    bench.relay.accept(telemetry(2))
    bench.relay.close_intake()
    bench.succeed(1)
    assert not bench.relay.wait_settled(0)
    waiter = threading.Thread(target=bench.relay.wait_settled, args=(30,))
    waiter.start()
    bench.succeed(0)
    waiter.join(10)
    assert not waiter.is_alive()
    assert bench.relay.wait_settled(0)


def test_a_failure_ends_the_wait_for_what_was_taken(bench: Bench):
    bench.relay.accept(telemetry(1))
    waiter = threading.Thread(target=bench.relay.wait_settled, args=(30,))
    waiter.start()
    bench.puts[0][3].set_exception(RuntimeError("gone"))
    waiter.join(10)
    assert not waiter.is_alive()
    assert not bench.relay.wait_settled(30), "the broker has it, and it stays there"


def test_acknowledgements_keep_the_order_of_arrival(bench: Bench):
    for number in (1, 2, 3):
        bench.relay.accept(telemetry(number))
    bench.succeed(2)
    bench.succeed(1)
    assert bench.acknowledged == []
    bench.succeed(0)
    assert bench.acknowledged == [telemetry(1), telemetry(2), telemetry(3)]


@pytest.mark.parametrize(
    "payload",
    [b"", b"\xff\xfe", b"not json", b"{}", b"[]", b'{"record_id": 5}', b'{"record_id": ""}'],
)
def test_what_has_no_record_id_is_refused_and_the_others_go_on(bench: Bench, payload: bytes):
    bad = Message("dt/fleet/lamp/telemetry", payload, 1, 2, 1)
    bench.relay.accept(telemetry(1))
    bench.relay.accept(bad)
    bench.relay.accept(telemetry(3))
    assert [refused.message for refused in bench.refused] == [bad]
    assert bench.refused[0].code == "NoRecordId"
    bench.succeed(0)
    bench.succeed(1)
    assert bench.acknowledged == [telemetry(1), bad, telemetry(3)]
    assert (bench.relay.relayed, bench.relay.refused) == (3, 1)


def test_what_kinesis_would_not_take_is_refused(bench: Bench):
    payload = json.dumps({"record_id": new_record_id(), "x": "too-large"}).encode()
    bench.relay.accept(Message("dt/fleet/lamp/telemetry", payload, 1, 1, 1))
    assert bench.refused[0].code == "RecordTooLarge"
    assert len(bench.acknowledged) == 1


def test_a_failed_put_is_not_acknowledged_nor_anything_behind_it(bench: Bench):
    for number in (1, 2, 3):
        bench.relay.accept(telemetry(number))
    bench.succeed(0)
    bench.puts[1][3].set_exception(RuntimeError("the stream is gone"))
    bench.succeed(2)
    assert bench.acknowledged == [telemetry(1)]
    assert str(bench.relay.failure) == "the stream is gone"
    bench.relay.accept(telemetry(4))
    assert len(bench.puts) == 3


def test_a_message_that_cannot_be_kept_is_not_acknowledged():
    def full_disk(_: Refused) -> None:
        raise OSError("no space left on device")

    bench = Bench()
    bench.relay._refuse = full_disk
    bench.relay.accept(Message("dt/fleet/lamp/telemetry", b"bad", 1, 1, 1))
    assert bench.acknowledged == []
    assert isinstance(bench.relay.failure, OSError)


@pytest.mark.parametrize("bounds", [{"max_messages": 2}, {"max_bytes": 80}])
def test_without_room_the_rest_is_left_to_the_broker(bounds: dict[str, int]):
    bench = Bench(**bounds)
    for number in (1, 2, 3):
        bench.relay.accept(telemetry(number))
    assert bench.relay.in_flight == 2
    assert not bench.relay.needs_redelivery()
    bench.succeed(0)
    # There is room again, but 4 must not overtake 3.
    bench.relay.accept(telemetry(4))
    assert len(bench.puts) == 2
    bench.succeed(1)
    assert bench.relay.needs_redelivery()
    assert not bench.relay.needs_redelivery()
    # What was still in the pipe of the old connection stays out, the new one brings all.
    bench.relay.accept(telemetry(5))
    assert len(bench.puts) == 2
    bench.relay.accept(telemetry(3, connection=2))
    assert len(bench.puts) == 3


def test_one_message_larger_than_all_room_still_passes():
    bench = Bench(max_bytes=1)
    bench.relay.accept(telemetry(1))
    bench.succeed(0)
    assert bench.acknowledged == [telemetry(1)]


def test_after_closing_nothing_is_taken(bench: Bench):
    bench.relay.accept(telemetry(1))
    bench.relay.close_intake()
    bench.relay.accept(telemetry(2))
    bench.succeed(0)
    assert bench.acknowledged == [telemetry(1)]
    assert len(bench.puts) == 1


def test_a_topic_without_the_key_level_is_refused():
    bench = Bench()

    def check(key: str, data: bytes, record_id: str) -> Future[Any]:
        assert key == ""
        raise RecordTooLarge(len(data) + len(record_id), 0)

    bench.relay._put = check
    bench.relay.accept(Message("short", b'{"record_id": "x"}', 1, 1, 1))
    assert bench.refused[0].partition_key == ""


class Broker:
    """One persistent session: what is not acknowledged comes again on each connection, in order."""

    def __init__(self, count: int, window: int) -> None:
        self.queue = list(range(1, count + 1))
        self.window = window
        self.connection = 0
        self.sent: list[int] = []
        self.connect()

    def connect(self) -> None:
        self.connection += 1
        self.sent = []

    def next(self) -> Message | None:
        waiting = [number for number in self.queue if number not in self.sent]
        if len(self.sent) >= self.window or not waiting:
            return None
        self.sent.append(waiting[0])
        return telemetry(waiting[0], connection=self.connection)

    def acknowledge(self, message: Message) -> None:
        if message.connection_number != self.connection:
            return
        assert message.mid == self.sent[0], "acknowledged out of order"
        self.sent.pop(0)
        self.queue.remove(message.mid)


class Incarnation:
    """A run of the bridge with a producer that delivers in order and confirms in any."""

    def __init__(self, broker: Broker, stream: list[int], rng: random.Random) -> None:
        self.stream = stream
        self.rng = rng
        self.unsettled: list[tuple[int, Future[Any]]] = []
        self.relay = Relay(
            put=self.put,
            acknowledge=broker.acknowledge,
            refuse=lambda _: pytest.fail("nothing is refused"),
            key_level=3,
            max_messages=rng.choice([2, 7, 50]),
            max_bytes=10_000,
        )

    def put(self, _key: str, data: bytes, _record_id: str) -> Future[Any]:
        future: Future[Any] = Future()
        self.unsettled.append((json.loads(data)["sequence"], future))
        return future

    def deliver(self) -> None:
        batch = self.unsettled[: self.rng.randint(1, 5)]
        del self.unsettled[: len(batch)]
        self.stream.extend(number for number, _ in batch)
        self.rng.shuffle(batch)
        for _, future in batch:
            future.set_result(None)


@pytest.mark.parametrize("seed", range(80))
def test_nothing_is_lost_and_first_puts_are_in_order(seed: int):
    """Puts end in any order, connections end at any time, the bridge is killed now and then."""
    rng = random.Random(seed)
    broker = Broker(count=60, window=rng.choice([3, 10, 100]))
    stream: list[int] = []
    bridge = Incarnation(broker, stream, rng)
    for _ in range(20_000):
        action = rng.random()
        if action < 0.01:
            bridge = Incarnation(broker, stream, rng)  # kill -9: what it held is forgotten
            broker.connect()
        elif action < 0.03 or bridge.relay.needs_redelivery():
            broker.connect()
        elif action < 0.6:
            if message := broker.next():
                bridge.relay.accept(message)
        else:
            bridge.deliver()
        if not broker.queue:
            break
    assert not broker.queue
    assert list(dict.fromkeys(stream)) == list(range(1, 61))
