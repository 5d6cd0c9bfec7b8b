"""`AggregatingProducer` without an engine: what it takes, and what its threads do."""

import asyncio
import math
import threading
from concurrent.futures import Future
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError

from producers.aggregated import PutResult
from producers.aggregated.metrics import MetricsSnapshot
from producers.errors import BufferFullError, DeliveryError, ProducerClosedError
from records.limits import MAX_LARGE_RECORD_BYTES, MAX_RECORD_BYTES, MIB
from tests.support import eventually
from tests.unit.aggregated_client import Client, _no_threads, producer_of

__all__ = ["_no_threads"]

BAD: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "a key of bytes": (b"key", b"x", {}),
    "a key of bytes beside a hash key": (b"key", b"x", {"explicit_hash_key": 1}),
    "no key": (None, b"x", {}),
    "a list for a key": (["key"], b"x", {}),
    "a number for a key": (5, b"x", {}),
    "text for data": ("key", "x", {}),
    "no data": ("key", None, {}),
    "a fraction for a hash key": ("key", b"x", {"explicit_hash_key": 1.5}),
    "text for a hash key": ("key", b"x", {"explicit_hash_key": "1"}),
    "a number for an ID": ("key", b"x", {"record_id": 5}),
}


@pytest.mark.parametrize(("key", "data", "more"), BAD.values(), ids=BAD)
def test_what_is_of_the_wrong_type_is_refused(key: Any, data: Any, more: dict[str, Any]) -> None:
    with producer_of(Client(), linger=0) as producer:
        with pytest.raises(TypeError):
            producer.put(key, data, **more)
        if "record_id" not in more:
            bad, good = producer.put_many([(key, data, *more.values()), ("key", b"x")])
            assert isinstance(bad, DeliveryError)
            assert (bad.error_code, bad.retriable) == ("TypeError", False)
            assert isinstance(good, PutResult)


@pytest.mark.parametrize("most", [-1, 0, MAX_LARGE_RECORD_BYTES + 1, 2**40])
def test_a_maximum_that_no_stream_has_is_refused(most: int) -> None:
    with pytest.raises(ValueError, match="max_record_bytes"):
        producer_of(Client(), max_record_bytes=most)


def test_one_may_wait_without_end() -> None:
    client, blocked = Client(held=True), Future[PutResult]()
    producer = producer_of(client, linger=0, max_buffered_records=1)
    first = producer.put("k", b"1", timeout=math.inf)

    def put() -> None:
        blocked.set_result(producer.put("k", b"2", timeout=math.inf).result(30))

    thread = threading.Thread(target=put)
    thread.start()
    client.go_on.set()
    assert first.result(30)
    assert blocked.result(30)
    assert producer.flush(math.inf)
    producer.put("k", b"3")
    producer.close(math.inf)
    thread.join(30)


def test_if_the_first_thread_cannot_start_the_next_put_tries_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start, failed = threading.Thread.start, list[str]()

    def fail_once(thread: threading.Thread) -> None:
        if not failed:
            failed.append(thread.name)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", fail_once)
    with producer_of(Client(), linger=0, max_record_age=None) as producer:
        futures = [producer.put("k", b"%d" % n) for n in range(2)]
        assert failed
        assert all(future.result(30) for future in futures)


def test_close_tries_again_to_start_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    producer = producer_of(Client(), linger=0, max_record_age=None)
    with monkeypatch.context() as patch:
        patch.setattr(threading, "Thread", lambda **_: Unstartable())
        future = producer.put("k", b"x")
    producer.close()
    assert future.result(0)


class Unstartable:
    ident = None

    def start(self) -> None:
        raise RuntimeError("can't start new thread")


@pytest.mark.usefixtures("_no_threads")
def test_a_request_does_not_wait_for_the_callback_of_the_metrics() -> None:
    now = [0.0]
    producer = producer_of(
        Client(),
        max_record_age=None,
        on_metrics=lambda _: None,
        metrics_interval=60,
        clock=lambda: now[0],
    )
    producer.put("k", b"x")
    now[0] = 100.0
    turns = []
    with producer._lock:
        for _ in range(2):
            request, batch, ticks = producer._crew._next() or (None, None, False)
            turns.append((request is not None, batch is not None, ticks))
    # Nor are the metrics told of again, before that has returned.
    assert turns == [(False, False, True), (True, False, False)]
    producer.close(0)


def test_the_metrics_are_told_of_once_at_close_though_a_callback_closed_it_before() -> None:
    told: list[MetricsSnapshot] = []
    closed = threading.Event()
    producer = producer_of(Client(), linger=0, on_metrics=told.append)

    def close(_: "Future[PutResult]") -> None:
        producer.close()
        closed.set()

    producer.put("k", b"x").add_done_callback(close)
    assert closed.wait(30)
    assert not told
    producer.close()
    producer.close()
    assert [each.user_records_received for each in told] == [1]


def test_nobody_waits_longer_for_the_maximum_than_a_record_lives() -> None:
    client = Client(EndpointConnectionError(endpoint_url="https://nowhere"))
    with producer_of(client, max_record_age=0.2) as producer:
        with pytest.raises(BufferFullError, match="EndpointConnectionError") as full:
            producer.put("k", bytes(MAX_RECORD_BYTES + 1))
        assert full.value.size > MAX_RECORD_BYTES
        outcomes = producer.put_many([("k", bytes(MAX_RECORD_BYTES + 1)), ("k", b"x")])
        assert producer.metrics().user_records_received == 1
    for each in outcomes:
        assert isinstance(each, DeliveryError)
        assert (each.error_code, each.retriable) == ("RecordExpired", True)
        assert "EndpointConnectionError" in each.error_message


def test_who_waits_for_the_maximum_is_told_when_the_producer_stops() -> None:
    stopped: Any = asyncio.CancelledError()  # As another library may raise it in any call.
    producer = producer_of(Client(stopped), max_record_age=None)
    with pytest.raises(ProducerClosedError):
        producer.put("k", bytes(2 * MIB))
    told = threading.Event()
    producer.call_when_room(told.set, 2 * MIB)
    assert told.wait(30)
    producer.close()


def test_metrics_go_on_while_a_callback_hangs() -> None:
    client, ticks = Client(held=True), threading.Semaphore(0)
    producer = producer_of(
        client, linger=0, metrics_interval=1e-3, on_metrics=lambda _: ticks.release()
    )
    went_on: list[bool] = []

    def hang(_: object) -> None:
        while ticks.acquire(blocking=False):
            pass
        went_on.append(all(ticks.acquire(timeout=30) for _ in range(3)))

    futures = [producer.put("k", b"x") for _ in range(5)]
    for future in futures:
        future.add_done_callback(hang)
    client.go_on.set()
    assert producer.flush(60)
    assert went_on == [True] * 5
    producer.close()


def test_close_delivers_whatever_those_raise_who_waited_for_room() -> None:
    client = Client(held=True)
    producer = producer_of(client, max_buffered_records=1)
    future = producer.put("k", b"x")

    def fail() -> None:
        client.go_on.set()
        raise SystemExit(3)

    producer.call_when_room(fail, 1)
    with pytest.raises(SystemExit):
        producer.close(60)
    assert future.done()
    assert future.exception(0) is None


def test_who_waits_for_room_does_not_wait_for_the_callbacks_of_the_record_that_had_it() -> None:
    client, taken = Client(held=True), threading.Event()
    producer = producer_of(client, linger=0, max_buffered_records=1)
    in_time: list[bool] = []
    producer.put("k", b"1").add_done_callback(lambda _: in_time.append(taken.wait(30)))

    def put() -> None:
        producer.put("k", b"2")
        taken.set()

    thread = threading.Thread(target=put)
    thread.start()
    eventually(lambda: producer._room.is_awaited)
    client.go_on.set()
    thread.join(60)
    producer.close()
    assert in_time == [True]
