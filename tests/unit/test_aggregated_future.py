"""The light future behaves as one of `concurrent.futures`, however it is waited for."""

import asyncio
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, Future, as_completed, wait
from typing import Any

import pytest

from producers.aggregated import future as future_module
from producers.aggregated.future import PutFuture, confirm_unwatched
from producers.aggregated.values import Confirmed, Delivery, PutResult

END = (Delivery("shard-0", "1", ()), 7)
RESULT = PutResult("shard-0", "1", 7, (), "id")


def made() -> PutFuture:
    """Return the future of a record that was taken."""
    return PutFuture("key", b"data", None, "id", 0, 7)


@pytest.fixture
def _hasty_threads() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_a_future_that_nobody_waited_for_gives_its_result() -> None:
    future = made()
    assert (future.done(), future.running(), future.cancelled()) == (False, False, False)
    assert not future.cancel()
    future.confirm(*END)
    assert future.done()
    assert future.result() == future.result(0) == RESULT
    assert future.exception() is None
    assert not future.cancel()


def test_an_error_is_raised_and_returned() -> None:
    future = made()
    future.set_exception(LookupError("gone"))
    assert isinstance(future.exception(0), LookupError)
    with pytest.raises(LookupError, match="gone"):
        future.result()


def test_a_wait_that_is_too_long_times_out() -> None:
    future = made()
    with pytest.raises(TimeoutError):
        future.result(0)
    with pytest.raises(TimeoutError):
        future.exception(0)
    future.confirm(*END)
    assert future.result(0) == RESULT


WAYS: dict[str, Callable[[PutFuture], object]] = {
    "result": lambda future: future.result(30),
    "exception": lambda future: future.exception(30),
    "wait": lambda future: wait([future], 30, ALL_COMPLETED).done,
    "first": lambda future: wait([future, Future[PutResult]()], 30, FIRST_COMPLETED).done,
    "as_completed": lambda future: [*as_completed([future], 30)],
}


@pytest.mark.usefixtures("_hasty_threads")
@pytest.mark.parametrize("way", WAYS)
def test_whoever_comes_at_the_moment_it_ends_is_told(way: str) -> None:
    for _ in range(300):
        future = made()
        together = threading.Barrier(2)

        def end(future: PutFuture = future, together: threading.Barrier = together) -> None:
            together.wait(30)
            future.confirm(*END)

        thread = threading.Thread(target=end)
        thread.start()
        together.wait(30)
        WAYS[way](future)
        assert future.result(0) == RESULT
        thread.join(30)


@pytest.mark.usefixtures("_hasty_threads")
def test_each_callback_is_called_once_whenever_it_is_added() -> None:
    for _ in range(300):
        future = made()
        called: list[int] = []
        together = threading.Barrier(2)

        def add(
            future: PutFuture = future,
            called: list[int] = called,
            together: threading.Barrier = together,
        ) -> None:
            together.wait(30)
            for number in range(5):
                future.add_done_callback(lambda _, number=number: called.append(number))

        thread = threading.Thread(target=add)
        thread.start()
        together.wait(30)
        future.confirm(*END)
        thread.join(30)
        assert sorted(called) == [*range(5)]


def test_callbacks_come_in_their_order_and_one_that_fails_harms_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    called: list[str] = []

    def fail(_: Future[PutResult]) -> None:
        called.append("fails")
        raise ValueError("of the callback")

    for late in (False, True):
        called.clear()
        future = made()
        future.add_done_callback(lambda _: called.append("first"))
        future.add_done_callback(fail)
        if late:
            with pytest.raises(TimeoutError):  # Now it has a condition.
                future.result(0)
        future.add_done_callback(lambda _: called.append("last"))
        with caplog.at_level(logging.CRITICAL, logger="concurrent.futures"):
            future.confirm(*END)
        assert called == ["first", "fails", "last"]


def test_an_error_calls_back_too() -> None:
    future = made()
    called: list[object] = []
    future.add_done_callback(called.append)
    future.set_exception(LookupError("gone"))
    assert called == [future]


def test_asyncio_takes_it_for_a_future() -> None:
    async def scenario() -> PutResult:
        future = made()
        wrapped = asyncio.wrap_future(future)
        threading.Timer(0.0, future.confirm, END).start()
        return await asyncio.wait_for(wrapped, 30)

    assert asyncio.run(scenario()) == RESULT


def _pack(*futures: PutFuture) -> Confirmed:
    return Confirmed([*futures], Delivery("shard-0", "1", ()))


def test_the_futures_of_a_pack_end_together_up_to_one_that_is_looked_at() -> None:
    futures = [made() for _ in range(6)]
    futures[2].add_done_callback(lambda _: None)
    with pytest.raises(TimeoutError):
        futures[4].result(0)
    pack = _pack(*futures)
    assert confirm_unwatched(pack, 0) == 2
    assert [each.done() for each in futures] == [True, True, False, False, False, False]
    assert confirm_unwatched(pack, 3) == 4
    assert confirm_unwatched(pack, 5) == 6
    assert [each.done() for each in futures] == [True, True, False, True, False, True]
    assert futures[3].result(0) == PutResult("shard-0", "1", 3, (), "id")
    assert "PutResult" in repr(futures[3])


def test_a_confirmed_future_lets_go_of_the_data_and_one_on_its_way_keeps_it() -> None:
    one, other, waiting = made(), made(), made()
    one.confirm(*END)
    assert confirm_unwatched(_pack(other), 0) == 1
    assert (one.data, one.partition_key) == (other.data, other.partition_key) == (b"", "")
    assert (waiting.data, waiting.partition_key) == (b"data", "key")
    assert one.result(0).record_id == other.result(0).record_id == "id"


@pytest.mark.usefixtures("_hasty_threads")
@pytest.mark.parametrize("way", WAYS)
def test_whoever_comes_while_a_pack_ends_is_told(way: str) -> None:
    for _ in range(100):
        futures = [made() for _ in range(20)]
        together = threading.Barrier(2)

        def end(pack: Confirmed, together: threading.Barrier = together) -> None:
            together.wait(30)
            place = 0
            while (place := confirm_unwatched(pack, place)) < len(pack.items):
                one: Any = pack.items[place]
                one.confirm(pack.delivery, place)
                place += 1

        thread = threading.Thread(target=end, args=(_pack(*futures),))
        thread.start()
        together.wait(30)
        for future in reversed(futures):
            WAYS[way](future)
        thread.join(30)
        assert [each.result(0).sub_sequence_number for each in futures] == [*range(20)]


def test_a_signal_handler_may_look_at_a_future_while_one_ends() -> None:
    """It comes in the thread that holds the lock of the futures."""
    future = made()
    called: list[object] = []
    with future_module._lock:
        future.add_done_callback(called.append)
        with pytest.raises(TimeoutError):
            future.result(0)
        future.confirm(*END)
    assert called == [future]


@pytest.mark.parametrize("waited_for", [False, True])
def test_a_callback_that_exits_keeps_no_other_from_being_called(*, waited_for: bool) -> None:
    called: list[object] = []
    future = made()
    future.add_done_callback(sys.exit)
    future.add_done_callback(called.append)
    if waited_for:
        with pytest.raises(TimeoutError):
            future.result(0)
    with pytest.raises(SystemExit):
        future.confirm(*END)
    assert called == [future]
