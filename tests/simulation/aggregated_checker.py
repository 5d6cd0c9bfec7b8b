"""Holds a finished run to what the producer promises."""

from collections import Counter, defaultdict
from math import isclose

from producers.aggregated.values import PutResult
from producers.errors import DeliveryError
from producers.put_records import Record
from tests.simulation.aggregated_entries import Entry
from tests.simulation.aggregated_model import kept, user_records
from tests.simulation.aggregated_requests import BrokenError
from tests.simulation.aggregated_world import DENIED, GONE, INVALID, WALL, World

MOST_ATTEMPTS = 100  # Of more, the first and the last are kept.


def check(world: World) -> None:
    """Hold a finished run to the promises.

    Raises:
        BrokenError: with what does not hold.
    """
    _check_settled(world)
    for entry in world.entries:
        result = entry.result
        if isinstance(result, PutResult):
            _check_confirmed(world, entry, result)
        elif result is not None:
            _check_given_up(world, entry, result)
    settings = world.regime.settings
    if settings.ordered and not world.regime.auto:
        _check_order(world)
    if settings.ordered and not settings.skip_failed:
        _check_those_behind(world)
    if world.regime.same_bytes:
        _check_same_bytes(world)
    if world.regime.prompt:
        _check_prompt(world)
    if world.regime.within_quota and world.stream.over_quota:
        raise BrokenError(f"a shard was asked too much {world.stream.over_quota} times")
    _check_lists(world)
    _check_counts(world)


def _check_settled(world: World) -> None:
    if missing := [entry.number for entry in world.entries if entry.result is None]:
        raise BrokenError(f"never settled: {missing}")
    if not world.abandoned and len(world.entries) != world.regime.records:
        raise BrokenError(f"only {len(world.entries)} records were let in")
    if world.machine.buffered_records or world.machine.buffered_bytes:
        raise BrokenError("the buffer is not empty")
    # It may be woken once more for a record that was settled in time.
    wake = world.machine.wake_at()
    if wake is not None and (world.machine.step(wake) or world.machine.wake_at() is not None):
        raise BrokenError(f"with nothing left to do it wants to be woken at {wake}")


def _check_confirmed(world: World, entry: Entry, result: PutResult) -> None:
    shard, record = world.stream.held(result.shard_id, result.sequence_number)
    users = user_records(record)
    found = users[result.sub_sequence_number]
    if (found.partition_key, found.data) != (entry.key[0], entry.data):
        raise BrokenError(f"record {entry.number} is not where its result says: {result}")
    if found.data is not record.data and found.explicit_hash_key != entry.key[1]:
        raise BrokenError(f"record {entry.number} lost its explicit hash key")
    if not kept(shard, record, users):
        raise BrokenError(f"record {entry.number} is confirmed, and KCL drops it: {result}")
    if result.record_id != f"id-{entry.number}":
        raise BrokenError(f"record {entry.number} has the ID {result.record_id}")
    _check_attempts(entry, result)


def _check_attempts(entry: Entry, result: PutResult | DeliveryError) -> None:
    told = [(each.started_at, each.duration, each.error_code) for each in result.attempts]
    known = [(*at, code or "WrongShard") for *at, code in entry.attempts]
    if isinstance(result, PutResult) and known:
        known[-1] = (*known[-1][:2], None)
    if entry.unanswered and told[-1:]:
        known.append((*told[-1][:2], "Unanswered"))
    if len(known) > MOST_ATTEMPTS:
        known = known[: MOST_ATTEMPTS // 2] + known[-MOST_ATTEMPTS // 2 :]
    if told != known:
        raise BrokenError(f"record {entry.number}: attempts {told}, and in truth {known}")
    if any((each.error_code is None) != (each.error_message is None) for each in result.attempts):
        raise BrokenError(f"record {entry.number}: a code without a message, or the reverse")
    if any(started < WALL for started, _, _ in told):
        raise BrokenError(f"record {entry.number}: an attempt by another clock")


def _check_given_up(world: World, entry: Entry, error: DeliveryError) -> None:
    regime, code = world.regime, error.error_code
    if regime.only_delays:
        raise BrokenError(f"record {entry.number} is given up where all is only delayed: {error}")
    lost = error.record
    told = (lost.partition_key, lost.explicit_hash_key, lost.data, lost.record_id)
    if told != (*entry.key, entry.data, f"id-{entry.number}"):
        raise BrokenError(f"record {entry.number} is handed back as {told}")
    explained = {
        "RecordExpired": error.retriable and _is_old(world, entry),
        "PrecedingRecordFailed": _stood_behind(world, entry),
        "ProducerClosed": world.abandoned,
        "UnorderedStream": regime.auto and regime.settings.ordered,
        INVALID.code: entry.poison and not error.retriable,
        GONE.code: regime.gone_at is not None and not error.retriable,
        DENIED.code: regime.denied is not None and not error.retriable,
    }
    if not explained.get(code, False):
        raise BrokenError(f"record {entry.number} is given up without reason: {error}")
    _check_attempts(entry, error)


def _is_old(world: World, entry: Entry) -> bool:
    age = world.regime.settings.max_record_age
    if age is None or entry.settled_at < entry.accepted_at + age:
        return False
    late = entry.settled_at - (entry.accepted_at + age)
    # While it is on the road nothing is decided.
    return late <= 2 * world.regime.latency + 1e-6 or world.regime.jumps > 0


def _stood_behind(world: World, entry: Entry) -> bool:
    settings = world.regime.settings
    return (
        settings.ordered
        and not settings.skip_failed
        and any(
            each.key == entry.key and isinstance(each.result, DeliveryError)
            for each in world.entries
            if each.accepted < entry.accepted < each.settled
        )
    )


def _check_order(world: World) -> None:
    """First occurrences of confirmed records, as KCL hands them out, follow the order of put.

    So do the ends of all.
    """
    ended: dict[object, Entry] = {}
    for entry in world.entries:
        before = ended.setdefault(entry.key, entry)
        if entry.settled < before.settled:
            raise BrokenError(f"record {entry.number} ends before record {before.number}")
        ended[entry.key] = entry
    confirmed = {
        entry.data: entry for entry in world.entries if isinstance(entry.result, PutResult)
    }
    last: dict[object, Entry] = {}
    for user in world.stream.read():
        entry = confirmed.pop(user.data, None)
        if entry is None:
            continue
        before = last.get(entry.key, entry)
        if entry.accepted < before.accepted:
            raise BrokenError(f"{entry.key}: record {entry.number} came after {before.number}")
        last[entry.key] = entry


def _check_those_behind(world: World) -> None:
    """What was buffered behind a record that is given up is not confirmed."""
    of_key: dict[object, list[Entry]] = defaultdict(list)
    for entry in world.entries:
        of_key[entry.key].append(entry)
    for entries in of_key.values():
        lost_until = 0
        for entry in entries:
            if isinstance(entry.result, DeliveryError):
                lost_until = max(lost_until, entry.settled)
            elif entry.accepted < lost_until:
                raise BrokenError(f"record {entry.number} went on without the one before it")


def _check_same_bytes(world: World) -> None:
    """What is sent again is the same record to the byte."""
    record_of: dict[bytes, Record] = {}
    for shard in world.stream.shards:
        for record in shard.held:
            for user in user_records(record):
                if record_of.setdefault(user.data, record) != record:
                    raise BrokenError(f"{user.data[:10]!r} was packed anew to be sent again")


def _check_prompt(world: World) -> None:
    """Where nothing goes wrong, each record is sent once, and soon."""
    settings = world.regime.settings
    round_trip = 2 * world.regime.latency
    blocked = world.stream.shards[0].shard if world.regime.throttled else None
    for entry in world.entries:
        if blocked is not None and blocked.covers(entry.place):
            continue
        due = entry.accepted_at + settings.linger
        if entry.flushed_at is not None:
            due = min(due, max(entry.accepted_at, entry.flushed_at))
        # The list of shards, one request that holds the road, its own; in order, all before it.
        trips = 3 + (entry.ahead if settings.ordered else 0)
        if entry.settled_at > due + trips * round_trip + 1e-6:
            late = entry.settled_at - due
            raise BrokenError(f"record {entry.number} was late by {late:.3f} s, for no reason")
        if len(entry.attempts) != 1:
            raise BrokenError(f"record {entry.number} was sent {len(entry.attempts)} times")


def _check_lists(world: World) -> None:
    """The shards are listed when there is need, and once for many causes."""
    regime = world.regime
    trouble = regime.list_fails or regime.list_damaged or regime.stale_for
    most = 1 if regime.prompt else 3 + 2 * regime.reshards
    if world.lists > most and not (trouble or regime.dead or regime.denied or regime.gone_at):
        raise BrokenError(f"the shards were listed {world.lists} times")


def _check_counts(world: World) -> None:
    """What the metrics say is what happened."""
    told = world.metrics.snapshot(
        now_wall=0.0, received=0, received_bytes=0, pending=0, pending_bytes=0, shares={}
    )
    results = [entry.result for entry in world.entries]
    codes = Counter(each.error_code for each in results if isinstance(each, DeliveryError))
    if dict(told.user_records_given_up) != codes:
        raise BrokenError(f"given up {codes}, and counted {told.user_records_given_up}")
    if told.total.user_records_put != len(results) - codes.total():
        raise BrokenError(f"counted {told.total.user_records_put} confirmed records")
    if told.request_time.count != world.requests and not world.abandoned:
        raise BrokenError(f"counted {told.request_time.count} of {world.requests} requests")
    answered = told.kinesis_records_per_request.sum
    if told.total.kinesis_records_put + told.total.all_errors != answered:
        raise BrokenError(f"counted {told.total.errors} of {answered} Kinesis records")
    retries, buffered = told.total.retries_per_record, told.total.buffering_time
    sent = [(entry, entry.result.attempts) for entry in world.entries if entry.result.attempts]
    resent = sum(len(attempts) - 1 for _, attempts in sent)
    if (retries.count, retries.sum, buffered.count) != (len(sent), resent, len(sent)):
        raise BrokenError(f"counted {retries.sum} retries of {retries.count}, not {resent}")
    waited = sum(tries[0].started_at - WALL - entry.accepted_at for entry, tries in sent)
    if not isclose(buffered.sum, waited, abs_tol=1e-3):  # The wall clock has few places left.
        raise BrokenError(f"counted {buffered.sum} s in the buffer, not {waited} s")
