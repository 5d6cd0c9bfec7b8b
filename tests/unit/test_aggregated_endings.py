"""Futures end, all of them, whatever their callbacks do and whoever calls these."""

import asyncio
import logging
import sys
import threading
from concurrent.futures import Future
from itertools import count
from linecache import getline
from types import FrameType
from typing import Any

import pytest

from producers.aggregated import AggregatingProducer, PutResult, endings, exits
from producers.aggregated import producer as producer_module
from producers.errors import BufferFullError, DeliveryError
from records.dead_letter import DeadLetter
from tests.support import eventually
from tests.unit.aggregated_client import Client, _no_threads, producer_of

__all__ = ["_no_threads"]

ORDERS = pytest.mark.parametrize("ordered", [False, True], ids=["unordered", "ordered"])
RAISED = pytest.mark.parametrize("error", [asyncio.CancelledError, SystemExit, KeyboardInterrupt])


def put_held(client: Client, number: int, **settings: Any) -> tuple[AggregatingProducer, list[Any]]:
    """Put records that are settled together once the client may go on."""
    producer = producer_of(client, linger=600, **settings)
    futures = [producer.put("k", b"%d" % n) for n in range(number)]
    return producer, futures


@RAISED
@ORDERS
def test_what_a_callback_raises_keeps_no_other_waiting(
    error: type[BaseException], *, ordered: bool
) -> None:
    client, called = Client(held=True), list[int]()
    producer, futures = put_held(client, 5, ordered=ordered)

    def fail(_: "Future[PutResult]") -> None:
        raise error

    for at, future in enumerate(futures):
        if at in {1, 3}:
            future.add_done_callback(fail)
        future.add_done_callback(lambda _, at=at: called.append(at))
    client.go_on.set()
    assert producer.flush(30)
    assert called == [*range(5)]
    assert [future.result(0).sub_sequence_number for future in futures] == [*range(5)]
    later = producer.put("k", b"later")
    assert producer.flush(30)
    assert later.done()
    producer.close()


@RAISED
@pytest.mark.usefixtures("_no_threads")
def test_what_strikes_a_closing_thread_is_raised_when_all_is_ended(
    error: type[BaseException],
) -> None:
    letters: list[DeadLetter] = []

    def keep(letter: DeadLetter) -> None:
        letters.append(letter)
        if len(letters) in {2, 4}:
            raise error(len(letters))

    producer, futures = put_held(Client(), 5, on_dead_letter=keep)
    with pytest.raises(error) as struck:
        producer.close(0)
    assert struck.value.args == (2,)
    assert [int(letter.data[-1:]) for letter in letters] == [*range(5)]
    assert all(isinstance(future.exception(0), DeliveryError) for future in futures)
    producer.close()


class Interrupt:
    """A trace function that raises KeyboardInterrupt once, before the nth line of the endings."""

    def __init__(self, lines: int) -> None:
        self.lines_left = lines

    def __call__(self, frame: FrameType, event: str, _: object) -> "Interrupt | None":
        # In these two it is as if the callback had raised it, which is tried above.
        callback = frame.f_code.co_name in {"_call", "_dead_letter"}
        if callback or frame.f_code.co_filename != endings.__file__:
            return None
        # Python itself sees to it that no signal comes before the one or the other.
        line = getline(endings.__file__, frame.f_lineno).strip()
        if event == "line" and self.lines_left >= 0 and not line.startswith(("with ", "try:")):
            self.lines_left -= 1
            if self.lines_left < 0:
                raise KeyboardInterrupt
        return self


@pytest.mark.usefixtures("_no_threads")
def test_wherever_ctrl_c_strikes_the_endings_closing_again_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(producer_module, "_PATIENCE_SECONDS", 0.0)
    for lines in count():
        letters: list[int] = []
        producer, futures = put_held(
            Client(), 3, on_dead_letter=lambda letter, kept=letters: kept.append(letter.data[-1])
        )
        before, interrupt = sys.gettrace(), Interrupt(lines)
        sys.settrace(interrupt)
        try:
            producer.close(0)
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(before)
        producer.close(0)
        assert all(future.done() for future in futures)
        assert set(letters) == {*b"012"}
        assert len(letters) <= 4
        if interrupt.lines_left >= 0:
            break
    assert lines > 30


@pytest.mark.usefixtures("_no_threads")
def test_flush_and_close_in_a_callback_of_the_closing_thread_do_not_wait_for_it() -> None:
    flushed: list[bool] = []

    def call_back(_: DeadLetter) -> None:
        flushed.append(producer.flush())
        producer.close(600)

    producer, futures = put_held(Client(), 2, on_dead_letter=call_back)
    producer.close(0)
    assert flushed == [False, False]
    assert all(future.done() for future in futures)
    assert producer.flush()


@ORDERS
def test_close_waits_for_the_thread_that_calls_the_callbacks_while_it_gets_on(
    monkeypatch: pytest.MonkeyPatch, *, ordered: bool
) -> None:
    client, given_up, threads = Client(held=True), threading.Event(), list[int]()
    producer, futures = put_held(client, 20, ordered=ordered)
    abandon = producer._machine.abandon

    def told(*arguments: Any) -> None:
        abandon(*arguments)
        given_up.set()

    def slow(_: "Future[PutResult]") -> None:
        assert given_up.wait(30)  # close() has waited for its deadline.
        threads.append(threading.get_ident())

    monkeypatch.setattr(producer._machine, "abandon", told)
    for future in futures:
        future.add_done_callback(slow)
    client.go_on.set()
    futures[0].result(30)
    producer.close(0)
    assert len(threads) == 20
    assert threading.get_ident() not in threads


@ORDERS
@pytest.mark.parametrize("where", ["future", "dead letter"])
def test_close_calls_itself_what_is_behind_a_callback_that_does_not_return(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, where: str, *, ordered: bool
) -> None:
    monkeypatch.setattr(producer_module, "_PATIENCE_SECONDS", 0.0)
    client, inside, go_on = Client(held=True), threading.Event(), threading.Event()
    called: list[Any] = []

    def call_back(told: Any) -> None:
        called.append(told)
        if len(called) == 2:
            inside.set()
            assert go_on.wait(60)

    if where == "future":
        producer, futures = put_held(client, 6, ordered=ordered)
        for future in futures:
            future.add_done_callback(call_back)
    else:
        error = ValueError("denied")
        monkeypatch.setattr(client, "list_shards", lambda **_: (_ for _ in ()).throw(error))
        producer, futures = put_held(
            client, 6, ordered=ordered, on_dead_letter=call_back, max_record_age=0.01
        )
    try:
        client.go_on.set()
        assert inside.wait(30)
        with caplog.at_level(logging.ERROR):
            producer.close(0)
        assert len(called) == 6
        pending = [future.done() for future in futures].count(False)
        assert pending == (where == "dead letter")
        assert f"a callback does not return; pending: {pending}" in caplog.text
    finally:
        go_on.set()
    eventually(lambda: all(future.done() for future in futures) and not producer._endings.pending)
    assert len(called) == 6


def test_close_takes_nothing_over_while_one_callback_after_the_other_returns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However slow they are: two at once would break the order of ends."""
    error, client = ValueError("denied"), Client(held=True)
    monkeypatch.setattr(client, "list_shards", lambda **_: (_ for _ in ()).throw(error))
    begun, may_return = threading.Semaphore(0), threading.Semaphore(0)
    calls: list[tuple[str, int]] = []
    closing = threading.get_ident()
    here: list[int] = []

    def call(what: str, number: int) -> None:
        calls.append((what, number))
        here.append(threading.get_ident())
        if closing not in here:
            begun.release()
            assert may_return.acquire(timeout=60)

    producer, futures = put_held(
        client,
        4,
        ordered=True,
        max_record_age=0.01,
        on_dead_letter=lambda letter: call("letter", int(letter.data[-1:])),
    )
    for number, future in enumerate(futures):
        future.add_done_callback(lambda _, number=number: call("future", number))
    assert begun.acquire(timeout=30)
    ended = producer._endings._ended

    def wait_for(done: Any, timeout: float | None) -> bool:
        """In the time of one wait, one callback returns and another begins."""
        if done() or timeout == 0:
            return bool(done())
        ended.release()
        may_return.release()
        begun.acquire(timeout=0.2 if len(calls) == 8 else 30)
        ended.acquire()
        return bool(done())

    monkeypatch.setattr(ended, "wait_for", wait_for)
    producer.close(0)
    assert closing not in here
    assert calls == [(what, number) for number in range(4) for what in ("letter", "future")]


@ORDERS
def test_a_record_takes_its_room_until_its_future_ends(*, ordered: bool) -> None:
    client, inside, go_on = Client(held=True), threading.Event(), threading.Event()
    producer, futures = put_held(client, 3, ordered=ordered, max_buffered_records=3)

    def slow(_: "Future[PutResult]") -> None:
        inside.set()
        assert go_on.wait(60)

    for future in futures:
        future.add_done_callback(slow)
    try:
        client.go_on.set()
        assert inside.wait(30)
        assert producer.metrics().user_records_pending == 0
        # What has ended has left, so that its own callback may put another.
        futures.append(producer.put("k", b"more", timeout=0))
        with pytest.raises(BufferFullError, match="holds 3 records"):
            producer.put("k", b"too much", timeout=0)
    finally:
        go_on.set()
    assert producer.flush(30)
    assert producer.put("k", b"again", timeout=0)
    producer.close()


def test_what_a_callback_raises_that_waited_for_room_keeps_no_other_waiting() -> None:
    client, called = Client(held=True), threading.Event()
    producer, _ = put_held(client, 1, max_buffered_records=1)
    producer.call_when_room(sys.exit, 1)
    producer.call_when_room(called.set, 1)
    client.go_on.set()
    assert producer.flush(30)
    assert called.wait(30)
    producer.close()


def test_put_many_in_a_callback_is_refused() -> None:
    producer, told = producer_of(Client(), linger=0), Future[type[BaseException]]()

    def call_back(_: "Future[PutResult]") -> None:
        try:
            producer.put_many([("k", b"x")])
        except RuntimeError as error:
            told.set_result(type(error))

    producer.put("k", b"x").add_done_callback(call_back)
    assert told.result(30) is RuntimeError
    producer.close()


def test_at_the_exit_one_that_cannot_be_closed_keeps_no_other_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    closed: list[str] = []

    class Leaves:
        def close(self, deadline: float) -> None:
            closed.append(f"{deadline > 0}")
            raise SystemExit(3)

    monkeypatch.setattr(exits, "_open", [Leaves(), Leaves()])
    with pytest.raises(SystemExit):
        exits._close_all()
    assert closed == ["True", "True"]
