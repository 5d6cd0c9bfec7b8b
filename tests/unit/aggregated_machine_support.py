"""What the tests of the machine share: shards, records, answers, and time by hand."""

import random
from typing import Any

from producers.aggregated.departure import PutRequest
from producers.aggregated.machine import ListRequest, Machine
from producers.aggregated.values import Item, Listed, PutResult, Sent, Settings
from producers.errors import DeliveryError
from producers.put_records import Failure, Stored
from records.aggregation import decode
from records.limits import MAX_HASH_KEY, record_bytes
from records.partition import Shard, ShardMap, hash_key
from tests.outcomes import outcomes

SLOW = Failure("ProvisionedThroughputExceededException", "slow down", retriable=True)
LOST = Failure("ReadTimeoutError", "no answer", retriable=True)
DENIED = Failure("AccessDeniedException", "no", retriable=False)
REFUSED = Failure("InvalidArgumentException", "one of them is bad", retriable=False)
GONE = Failure("ResourceNotFoundException", "no such stream", retriable=False)


def shard_map(shards: int, *, first_id: int = 0, closed: tuple[Shard, ...] = ()) -> ShardMap:
    step = (MAX_HASH_KEY + 1) // shards
    last = [step * at - 1 for at in range(1, shards)] + [MAX_HASH_KEY]
    made = [Shard(f"shard-{first_id + at}", step * at, end) for at, end in enumerate(last)]
    return ShardMap([*closed, *made])


def new_machine(**options: Any) -> Machine:
    return Machine(Settings(**options), rng=random.Random(1))


def machine_with(shards: int = 1, *, auto: bool = False, **options: Any) -> Machine:
    """Return a machine that knows its shards, and holds nothing."""
    machine = new_machine(**options)
    machine.want_maximum()
    assert machine.step(0.0) == ListRequest()
    machine.shards_listed(Listed(shard_map(shards), auto=auto), now=0.0)
    return machine


def item(data: bytes, key: str = "k", *, place: int | None = None) -> Item:
    hashed = hash_key(key) if place is None else place
    return Item(key, data, place, None, hashed, record_bytes(key, data))


def accept(
    machine: Machine, data: bytes, now: float, key: str = "k", *, place: int | None = None
) -> bool:
    return machine.accept(item(data, key, place=place), now=now)


def sent(machine: Machine, now: float) -> PutRequest:
    request = machine.step(now)
    assert isinstance(request, PutRequest)
    return request


def nothing(machine: Machine, now: float) -> None:
    assert machine.step(now) is None


def idle(machine: Machine, now: float) -> None:
    """There is nothing to do, and nothing to wait for.

    It may be woken once more for a record that was settled in time.
    """
    nothing(machine, now)
    if (wake := machine.wake_at()) is not None:
        nothing(machine, wake)
    assert machine.wake_at() is None


def shards_of(request: PutRequest) -> list[str]:
    return [lane.shard.shard_id for lane, _ in request.packs]


def inside(request: PutRequest) -> list[list[bytes]]:
    """Return the data of the user records, by Kinesis record."""
    return [
        [user.data for user in decode(record.data) or ()] or [record.data]
        for record in request.records
    ]


def reply(machine: Machine, request: PutRequest, now: float, *results: Stored | Failure) -> None:
    machine.put_answered(request, [*results], now=now, sent=Sent(now, 0.5))


def refuse(machine: Machine, request: PutRequest, now: float, failure: Failure) -> None:
    machine.put_answered(request, failure, now=now, sent=Sent(now, 0.5))


def answer(machine: Machine, request: PutRequest, now: float) -> None:
    """Say that all of it is stored where it was meant to be."""
    reply(machine, request, now, *(Stored(each, f"{now}") for each in shards_of(request)))


def lists(machine: Machine, now: float, shards: ShardMap, *, auto: bool = False) -> None:
    assert machine.step(now) == ListRequest()
    machine.shards_listed(Listed(shards, auto=auto), now=now)


def ends(machine: Machine) -> list[tuple[Item, PutResult | DeliveryError]]:
    """Return what was settled since the last call."""
    return outcomes(machine.take_settled())


def fates(machine: Machine) -> dict[bytes, str]:
    """Return what was settled since the last call: the shard it is on, or why it is given up."""
    return {
        item.data: result.shard_id if isinstance(result, PutResult) else result.error_code
        for item, result in ends(machine)
    }


def errors(machine: Machine) -> list[DeliveryError]:
    results = [result for _, result in ends(machine)]
    assert all(isinstance(result, DeliveryError) for result in results)
    return results  # type: ignore[return-value]


def codes(error: DeliveryError | PutResult) -> list[str | None]:
    return [attempt.error_code for attempt in error.attempts]
