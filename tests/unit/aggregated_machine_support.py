"""What the tests of the machine share: shards, answers, and time by hand."""

import random
from typing import Any

from producers.aggregated.machine import ListRequest, Machine, PutRequest
from producers.aggregated.values import Settings
from producers.put_records import Failure, Stored
from records.limits import MAX_HASH_KEY
from records.partition import Shard, ShardMap

SLOW = Failure("ProvisionedThroughputExceededException", "slow down", retriable=True)
DENIED = Failure("AccessDeniedException", "no", retriable=False)


def shard_map(shards: int, *, first_id: int = 0, closed: tuple[Shard, ...] = ()) -> ShardMap:
    step = (MAX_HASH_KEY + 1) // shards
    last = [step * at - 1 for at in range(1, shards)] + [MAX_HASH_KEY]
    made = [Shard(f"shard-{first_id + at}", step * at, end) for at, end in enumerate(last)]
    return ShardMap([*closed, *made])


def machine_with(shards: int = 1, **options: Any) -> Machine:
    machine = Machine(Settings(**options), rng=random.Random(1))
    machine.accept("first", b"x", 0, None, now=0.0)
    assert machine.step(0.0) == ListRequest()
    machine.shards_listed(shard_map(shards), now=0.0)
    machine.flush()
    answer(machine, sent(machine, 0.0), 0.0)
    machine.take_settled()
    assert machine.buffered_records == machine.buffered_bytes == 0
    return machine


def sent(machine: Machine, now: float) -> PutRequest:
    request = machine.step(now)
    assert isinstance(request, PutRequest)
    return request


def answer(machine: Machine, request: PutRequest, now: float) -> None:
    stored = [Stored(lane.shard.shard_id, f"{now}") for lane in request.lanes]
    machine.put_answered(request, [*stored], now=now)


def accept(machine: Machine, data: bytes, now: float, key: str = "k") -> None:
    machine.accept(key, data, None, None, now=now)
