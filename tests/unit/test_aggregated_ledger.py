"""What the metrics say of records that were sent more than once, moved or given up."""

import pytest

from producers.aggregated.machine import Machine
from producers.aggregated.metrics import MetricsSnapshot
from producers.put_records import Stored
from records.limits import MAX_HASH_KEY
from records.partition import Shard
from tests.unit.aggregated_machine_support import (
    DENIED,
    REFUSED,
    SLOW,
    accept,
    answer,
    codes,
    ends,
    idle,
    inside,
    item,
    lists,
    machine_with,
    refuse,
    reply,
    sent,
    shard_map,
)

PARENT = Shard("shard-0", 0, MAX_HASH_KEY, closed=True)
SPLIT = shard_map(2, first_id=9, closed=(PARENT,))


def counted(machine: Machine) -> MetricsSnapshot:
    return machine._metrics.snapshot(
        now_wall=0.0,
        received=machine.ledger.received,
        received_bytes=machine.ledger.received_bytes,
        pending=machine.ledger.records,
        pending_bytes=machine.ledger.bytes,
        shares={},
    )


def halves_again(machine: Machine, now: float) -> None:
    """Have the request of this moment refused, and its halves stored in the seconds after it."""
    refuse(machine, sent(machine, now), now + 0.5, REFUSED)
    for later in (1.0, 2.0):
        answer(machine, sent(machine, now + later), now + later + 0.5)


def test_a_record_that_was_packed_anew_keeps_its_retries_and_its_first_attempt() -> None:
    machine = machine_with(linger=0.0)
    accept(machine, b"1", 1.0)
    accept(machine, b"2", 2.0)
    halves_again(machine, 3.0)
    assert [codes(result) for _, result in ends(machine)] == [[REFUSED.code, None]] * 2
    shard = counted(machine).shards["shard-0"]
    for told in (shard, counted(machine).total):
        retries, buffered = told.retries_per_record, told.buffering_time
        assert (retries.count, retries.sum, retries.min, retries.max) == (2, 2.0, 1.0, 1.0)
        assert (buffered.count, buffered.sum, buffered.min, buffered.max) == (2, 3.0, 1.0, 2.0)


def test_records_of_one_pack_are_counted_each_with_its_own_past() -> None:
    machine = machine_with(linger=0.0)
    accept(machine, b"moved", 1.0, place=0)
    accept(machine, b"moved too", 1.0, place=MAX_HASH_KEY)
    reply(machine, sent(machine, 2.0), 2.5, Stored("shard-9", "1"))
    accept(machine, b"new", 3.0, place=0)
    lists(machine, 4.0, SPLIT)
    request = sent(machine, 4.0)
    assert inside(request) == [[b"moved", b"new"], [b"moved too"]]
    answer(machine, request, 4.5)
    told = counted(machine).shards["shard-9"]
    assert (told.retries_per_record.count, told.retries_per_record.sum) == (2, 1.0)
    assert (told.retries_per_record.min, told.retries_per_record.max) == (0.0, 1.0)
    # Each from its own put to its own first attempt.
    assert (told.buffering_time.count, told.buffering_time.sum) == (2, 2.0)
    assert (told.buffering_time.min, told.buffering_time.max) == (1.0, 1.0)


def test_what_expires_counts_with_its_retries_and_without_a_shard() -> None:
    machine = machine_with(linger=0.0, max_record_age=10.0)
    accept(machine, b"tried", 0.0)
    for now in (1.0, 4.0, 8.0):
        reply(machine, sent(machine, now), now + 0.1, SLOW)
    accept(machine, b"never sent", 8.2)
    assert machine.step(18.2) is None
    assert [len(codes(error)) for _, error in ends(machine)] == [3, 0]
    told = counted(machine)
    assert told.user_records_expired == 2
    total = told.total
    assert (total.retries_per_record.count, total.retries_per_record.sum) == (1, 2.0)
    assert (total.buffering_time.count, total.buffering_time.sum) == (1, 1.0)
    # It is on no shard.
    assert told.shards["shard-0"].retries_per_record.count == 0
    assert told.shards["shard-0"].errors == {SLOW.code: 3}
    idle(machine, 18.2)


def test_what_fails_for_good_and_what_close_does_not_wait_for_count_too() -> None:
    machine = machine_with(linger=0.0)
    accept(machine, b"denied", 1.0)
    refuse(machine, sent(machine, 2.0), 2.5, DENIED)
    accept(machine, b"left behind", 3.0)
    sent(machine, 5.0)
    machine.abandon("ProducerClosed", "in a hurry")
    assert [codes(error) for _, error in ends(machine)] == [[DENIED.code], ["Unanswered"]]
    total = counted(machine).total
    assert (total.retries_per_record.count, total.retries_per_record.sum) == (2, 0.0)
    assert (total.buffering_time.count, total.buffering_time.sum) == (2, 3.0)
    assert total.errors == {DENIED.code: 1}


@pytest.mark.parametrize("how", ["sent again", "closed", "expired", "not listed"])
def test_a_pack_on_a_wrong_shard_is_an_attempt_that_failed(how: str) -> None:
    machine = machine_with(linger=0.0, max_record_age=20.0)
    accept(machine, b"low", 1.0, place=0)
    accept(machine, b"high", 1.0, place=MAX_HASH_KEY)
    reply(machine, sent(machine, 1.0), 1.1, Stored("shard-9", "1"))
    assert counted(machine).total.errors == {}  # Nobody knows yet.
    if how == "closed":
        machine.abandon("ProducerClosed", "in a hurry")
    elif how == "expired":
        machine.step(1.1)
        assert machine.step(30.0) is None
    elif how == "not listed":
        machine.step(1.1)
        machine.shards_listed(DENIED, now=1.2)
    else:
        lists(machine, 1.2, SPLIT)
        answer(machine, sent(machine, 5.0), 5.5)
    assert [codes(result)[:1] for _, result in ends(machine)] == [["WrongShard"]] * 2
    told = counted(machine)
    assert told.total.errors == told.shards["shard-9"].errors == {"WrongShard": 1}
    sent_again = 2 if how == "sent again" else 0
    assert told.total.user_records_put == told.total.retries_per_record.sum == sent_again


def test_a_pack_on_a_child_shard_that_covers_all_of_it_is_no_failure() -> None:
    machine = machine_with(linger=0.0)
    accept(machine, b"low", 1.0, place=0)
    reply(machine, sent(machine, 1.0), 1.1, Stored("shard-9", "1"))
    lists(machine, 1.2, SPLIT)
    assert [codes(result) for _, result in ends(machine)] == [[None]]
    assert counted(machine).total.errors == {}


def test_what_was_received_is_what_is_settled_and_what_is_not() -> None:
    machine = machine_with(linger=0.0)
    accept(machine, b"1234", 1.0)
    accept(machine, b"12", 1.0)
    told = counted(machine)
    assert (told.user_records_received, told.user_bytes_received) == (2, 4 + 2 + 2)
    request = sent(machine, 2.0)
    answer(machine, request, 2.5)
    accept(machine, b"1", 3.0)
    refuse(machine, sent(machine, 3.0), 3.5, DENIED)
    accept(machine, b"", 4.0)
    told = counted(machine)
    assert (told.user_records_received, told.user_bytes_received) == (4, 7 + 4)
    assert (told.user_records_pending, told.user_bytes_pending) == (1, 1)
    # Of user records the keys count too, of Kinesis records only the data.
    assert told.total.user_bytes_put == 6 + 2
    assert told.total.kinesis_bytes_put == len(request.records[0].data)


def test_a_put_that_was_broken_off_is_received_if_its_record_is_in_the_buffer() -> None:
    machine = machine_with(linger=0.0)
    kept = item(b"1234")
    machine.accept(kept, now=1.0)
    machine.ledger.received += 1  # As far as an accept may have come.
    assert machine.recover(kept)
    told = counted(machine)
    assert (told.user_records_received, told.user_bytes_received) == (1, 5)
