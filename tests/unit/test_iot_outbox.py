"""One message on its way at a time, whatever the network thread and the publishers do."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

from iot.outbox import Outbox


class Session:
    """Takes what is published and acknowledges it when told to."""

    def __init__(self, *, immediate: bool = False) -> None:
        self.published: list[bytes] = []
        self.unacknowledged: list[Callable[[], None]] = []
        self.immediate = immediate

    def publish(self, _topic: str, payload: bytes, *, on_acknowledged: Callable[[], None]) -> None:
        self.published.append(payload)
        if self.immediate:
            on_acknowledged()
        else:
            self.unacknowledged.append(on_acknowledged)


def outbox(session: Any, capacity: int = 10) -> Outbox:
    return Outbox(session, capacity=capacity)


def nothing() -> None:
    pass


def test_the_next_goes_out_when_the_last_is_acknowledged():
    session = Session()
    box = outbox(session)
    done: list[int] = []
    for number in range(3):
        assert box.put("t", b"%d" % number, lambda number=number: done.append(number), timeout=0)
    assert session.published == [b"0"]
    session.unacknowledged.pop()()
    assert session.published == [b"0", b"1"]
    assert done == [0]
    assert not box.drain(0)
    session.unacknowledged.pop()()
    session.unacknowledged.pop()()
    assert done == [0, 1, 2]
    assert box.drain(0)


def test_a_full_outbox_takes_nothing():
    session = Session()
    box = outbox(session, capacity=2)
    assert box.put("t", b"1", nothing, timeout=0)
    assert box.put("t", b"2", nothing, timeout=0)
    assert not box.put("t", b"3", nothing, timeout=0)
    session.unacknowledged.pop()()
    assert box.put("t", b"4", nothing, timeout=0)
    session.unacknowledged.pop()()
    assert session.published == [b"1", b"2", b"4"]


def test_a_failing_callback_does_not_hold_up_the_rest():
    def fail() -> None:
        raise RuntimeError("from the caller")

    session = Session()
    box = outbox(session)
    box.put("t", b"1", fail, timeout=0)
    box.put("t", b"2", nothing, timeout=0)
    with pytest.raises(RuntimeError, match="from the caller"):
        session.unacknowledged.pop()()
    assert session.published == [b"1", b"2"]


def test_many_publishers_and_a_fast_broker_lose_nothing():
    session = Session(immediate=True)
    box = outbox(session, capacity=5)
    acknowledged: list[bytes] = []

    def publish(name: int) -> None:
        for number in range(200):
            payload = b"%d-%d" % (name, number)
            assert box.put("t", payload, lambda p=payload: acknowledged.append(p), timeout=30)

    threads = [threading.Thread(target=publish, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert box.drain(30)
    assert sorted(acknowledged) == sorted(b"%d-%d" % (n, i) for n in range(4) for i in range(200))
    assert session.published == acknowledged
