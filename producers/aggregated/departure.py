"""What leaves: as many packs as fit in one request, of all shards, the oldest first."""

import heapq
from collections.abc import Iterable
from dataclasses import dataclass

from producers.aggregated.lane import Lane
from producers.aggregated.pack import Pack
from producers.put_records import Record
from records.limits import MAX_PUT_REQUEST_BYTES, MAX_RECORDS_PER_PUT


@dataclass(slots=True, eq=False)
class PutRequest:
    """Send these records in one PutRecords, and report to `Machine.put_answered`.

    Attributes:
        records: The Kinesis records.
        packs: What they were made of, and the lane that each came from.
        started_at: When it was sent, in seconds since 1970; for the owner to set.
    """

    records: tuple[Record, ...]
    packs: tuple[tuple[Lane, Pack], ...]
    started_at: float = 0.0


def gather(lanes: Iterable[Lane], now: float) -> PutRequest | None:
    """Put on the road what may leave now, in one request; None: nothing may."""
    # The oldest first, or shards at the end of a long list would starve.
    queue = [
        (head.oldest, number, lane)
        for number, lane in enumerate(lanes)
        if lane.ready_at(eager=True) <= now and (head := lane.head) is not None
    ]
    heapq.heapify(queue)
    packs: list[tuple[Lane, Pack]] = []
    size = 0
    while queue and len(packs) < MAX_RECORDS_PER_PUT:
        _, number, lane = queue[0]
        pack = lane.head
        apart = packs and pack and pack.group != packs[0][1].group
        if pack is None or apart or not lane.admits(pack, now):
            heapq.heappop(queue)
            continue
        size += pack.size
        if packs and size > MAX_PUT_REQUEST_BYTES:
            break
        packs.append((lane, lane.depart(now)))
        if lane.ready_at(eager=True) <= now and (head := lane.head) is not None:
            heapq.heapreplace(queue, (head.oldest, number, lane))
        else:
            heapq.heappop(queue)
    if not packs:
        return None
    return PutRequest(tuple(pack.seal() for _, pack in packs), tuple(packs))
