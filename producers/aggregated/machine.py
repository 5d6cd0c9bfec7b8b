"""The engine's decisions, without a clock, a thread or a client of its own.

Its owner tells it what happened (`accept`, `put_answered`, `shards_listed`), asks what to do next
(`step`) and when to ask again (`wake_at`), and collects what was settled (`take_settled`). Times
are seconds of any one clock that never goes back.

The rules, each of which a test takes away to see what breaks:

- A lane for each shard. A throttled shard backs off and slows down by itself and delays no other.
- In order, one Kinesis record of a shard is on the road, over all requests: it succeeds or fails as
  a whole, and what is behind it waits. What is given up takes the records behind it with it that
  have the same key, unless they are to go on.
- A pack whose answer was lost is sent again with the same bytes, thus the same record IDs.
- A pack is confirmed only if the shard that answered covers the hash of every record in it. KCL
  drops an aggregate with a single stranger in it, so half of one cannot be confirmed.
- Otherwise the shards are listed again, once. What was bound for a shard that takes no more records
  is predicted anew in the order of put, and sent again. A list that does not yet know the shard
  which answered is asked for again after a back-off.
- They are listed again, too, once the stream was not found: one that is made anew under its name
  has shards of the same IDs that cover something else. Until then nothing leaves or is confirmed.
- A request that was refused, perhaps for one record in it, is sent again in halves, and so on down
  to the record, which fails alone. Where a thousand in a row are refused, the rest is handed back.
- What is on the road does not expire before its answer, nor, in order, what is behind it.
- A full pack leaves at once if nothing is on the road, and else waits for others, but never longer
  than its linger: so requests are few when there is much to send.
"""

import random
from dataclasses import dataclass
from math import inf
from typing import Final

from producers.aggregated.departure import PutRequest, gather
from producers.aggregated.failures import NO_SUCH_STREAM, THROTTLES, Remedy, remedy_of_request
from producers.aggregated.halving import Halving
from producers.aggregated.lane import Landed, Lane
from producers.aggregated.ledger import Ledger
from producers.aggregated.metrics import Metrics
from producers.aggregated.router import Router
from producers.aggregated.values import Item, Listed, Sent, Settings, Settled
from producers.errors import Attempt
from producers.put_records import Failure, Stored, backoff_seconds
from records.limits import MAX_PUT_REQUEST_BYTES, MAX_RECORDS_PER_PUT

# So much makes a request worth its while beside others that are on the road.
_WORTH_BYTES: Final = MAX_PUT_REQUEST_BYTES // 2
_WORTH_RECORDS: Final = MAX_RECORDS_PER_PUT // 2


@dataclass(frozen=True, slots=True)
class ListRequest:
    """List the stream's shards, closed ones too, and report to `Machine.shards_listed`."""


class Machine:
    """Packs, routes, retries and confirms the records of one stream. Not safe between threads.

    Attributes:
        ledger: What is buffered, for whoever asks for each record.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        rng: random.Random,
        metrics: Metrics | None = None,
        max_record_bytes: int | None = None,
    ) -> None:
        self._settings = settings
        age = settings.max_record_age
        self._linger = settings.linger if age is None else min(settings.linger, age / 2)
        self._rng = rng
        self._metrics = metrics or Metrics()
        self._router = Router(settings, rng, max_record_bytes)
        self.ledger = Ledger(self._metrics)
        self._halving = Halving()
        self._on_the_road: set[PutRequest] = set()
        self._wake = -inf  # What wake_at() said last.
        self._expire_at = inf  # Nothing expires before that.
        self._failures = 0  # Whole requests that failed in a row.
        self._not_before = -inf
        self._enough = max(1, min(_WORTH_RECORDS, _WORTH_BYTES // settings.max_aggregate_bytes))

    def accept(self, item: Item, *, now: float) -> bool:
        """Take a valid user record; return whether `wake_at` may have become earlier."""
        item.accepted_at = now
        self.ledger.received += 1
        self.ledger.received_bytes += item.size
        sooner = False
        if self._expire_at == inf and self._settings.max_record_age is not None:
            self._expire_at = now + self._settings.max_record_age
            sooner = self._expire_at < self._wake
        due_at = now + self._linger
        if not self._router.route(item, now=now, due_at=due_at):
            return sooner
        if self._router.unrouted:
            return sooner or len(self._router.unrouted) == 1
        return due_at < self._wake or self._eager()

    @property
    def buffered_records(self) -> int:
        """Items that are not settled."""
        return self.ledger.records

    @property
    def buffered_bytes(self) -> int:
        """The data and keys of the items that are not settled."""
        return self.ledger.bytes

    @property
    def max_record_bytes(self) -> int | None:
        """The most a record of the stream may count; None: not known yet."""
        return self._router.max_record_bytes

    def recover(self, item: Item) -> bool:
        """Put in order what an `accept` that was broken off, as by Ctrl-C, has left half done.

        Returns:
            Whether the item is in the buffer; then it will be sent and settled.
        """
        if self._settings.max_record_age is not None:
            self._expire_at = -inf
        for lane in self._router.lanes.values():
            lane.recount()
        items = [*self._router.items()]
        items += [
            item for each in self._on_the_road for _, pack in each.packs for item in pack.items
        ]
        self.ledger.correct(items)
        if self._router.needs_map():
            self._router.watch.want()
        return any(each is item for each in items)

    def want_maximum(self) -> None:
        """Have the stream asked for its `max_record_bytes`, whether or not there are records."""
        self._router.maximum_wanted = True
        self._router.watch.want()

    def step(self, now: float) -> PutRequest | ListRequest | None:
        """Return the next thing to do now, or None; call again after each event."""
        self._expire(now)
        if self._router.auto and self._settings.ordered:
            self._refuse_order(now)
        if self._router.watch.due_at() <= now:
            self._router.watch.asked()
            return ListRequest()
        if len(self._on_the_road) >= self._settings.max_in_flight or now < self._not_before:
            return None
        return self._next_put(now)

    def wake_at(self) -> float | None:
        """Return when `step` will have something to do if nothing happens before; None: never."""
        self._wake = self._router.watch.due_at()
        if len(self._on_the_road) < self._settings.max_in_flight:
            eager = self._eager()
            ready = min(
                (lane.ready_at(eager=eager) for lane in self._router.lanes.values()), default=inf
            )
            self._wake = min(self._wake, max(ready, self._not_before))
        self._wake = min(self._wake, self._expire_at)
        return None if self._wake == inf else self._wake

    def put_answered(
        self,
        request: PutRequest,
        reply: list[Stored | Failure] | Failure,
        *,
        now: float,
        sent: Sent,
    ) -> None:
        """Take the answer to a `PutRequest`, one result for each record or one for all."""
        if request not in self._on_the_road:
            return  # Abandoned meanwhile; its records have been given up.
        self._on_the_road.remove(request)
        if self._settings.max_record_age is not None:
            self._expire_at = now  # What comes back may be old.
        for lane, _ in request.packs:
            lane.on_the_road -= 1
        self._metrics.request_answered(
            kinesis_records=len(request.packs),
            user_records=sum(len(pack.items) for _, pack in request.packs),
            seconds=sent.duration,
        )
        if isinstance(reply, Failure):
            self._request_failed(request, reply, now, sent)
        else:
            self._failures = 0
            self._halving.taken()
            self._records_answered(request, reply, now, sent)
        self._adopt(now)

    def shards_listed(self, listed: Listed | Failure, *, now: float) -> None:
        """Take the answer to a `ListRequest`."""
        if not self._router.watch.listing:
            return
        failure = self._router.listed(listed, now)
        if failure is not None:
            # Nothing can be routed, nor can what landed elsewhere be confirmed; the rest goes on.
            self._give_up(self._router.take_landed(), failure)
            self._give_up(self._router.take_unrouted(), failure)
        self._adopt(now)

    def flush(self) -> None:
        """Let nothing that is accepted so far linger."""
        for lane in self._router.lanes.values():
            lane.hurry()

    def abandon(self, code: str, message: str) -> None:
        """Give up everything that is not settled; answers that come later are ignored."""
        items: list[Item] = []
        for request in self._on_the_road:
            told = "the producer gave up before the answer came"
            for _, pack in request.packs:
                pack.failed(Attempt(request.started_at, 0.0, "Unanswered", told))
                items += pack.dissolve()
        self._on_the_road.clear()
        items += self._router.clear()
        # Nothing is left behind any of them.
        for item in items:
            self.ledger.give_up(item, Failure(code, message, retriable=True))

    def take_settled(self) -> list[Settled]:
        """Return what was settled since the last call."""
        return self.ledger.take_settled()

    def shares(self) -> dict[str, float]:
        """Return what part of its full rate each shard is sent at now, by shard ID."""
        return {name: lane.limiter.share for name, lane in self._router.lanes.items()}

    def held(self) -> int:
        """Return how many objects it keeps, apart from the records themselves."""
        packs = sum(len(lane.again) + len(lane.fresh) for lane in self._router.lanes.values())
        return packs + len(self._router.lanes) + len(self._on_the_road)

    # Departure.

    def _eager(self) -> bool:
        full = self._router.full_packs
        return full >= self._enough or (full > 0 and not self._on_the_road)

    def _next_put(self, now: float) -> PutRequest | None:
        lanes = self._router.lanes.values()
        if not self._eager() and not any(lane.ready_at(eager=False) <= now for lane in lanes):
            return None
        request = gather(lanes, now)
        if request is not None:
            self._on_the_road.add(request)
        return request

    # Answers.

    def _records_answered(
        self, request: PutRequest, reply: list[Stored | Failure], now: float, sent: Sent
    ) -> None:
        failed: dict[Lane, Failure] = {}
        for (lane, pack), result in zip(request.packs, reply, strict=True):
            if isinstance(result, Failure):
                pack.failed(sent.attempt(result))
                self._metrics.record_failed(lane.shard.shard_id, result.code)
                if result.retriable:
                    lane.put_back(pack)
                    failed[lane] = result
                else:
                    lane.last_failure = result
                    self._give_up(pack.dissolve(), result)
            elif self._router.in_place(lane, pack, result.shard_id):
                self._confirm(lane, Landed(pack, result, sent, self._metrics), now)
                self._router.notice(result.shard_id, now)
            else:
                lane.landed.append(Landed(pack, result, sent, self._metrics))
                lane.last_failure = Failure(
                    "WrongShard",
                    f"it was stored on {result.shard_id}, which is not known to cover all of it",
                    retriable=True,
                )
                self._router.watch.want()
        for lane, failure in failed.items():
            self._lane_failed(lane, failure, now)

    def _lane_failed(self, lane: Lane, failure: Failure, now: float) -> None:
        lane.last_failure = failure
        if failure.code in THROTTLES:
            lane.limiter.throttled(now)
        lane.back_off(now, self._rng)

    def _request_failed(
        self, request: PutRequest, failure: Failure, now: float, sent: Sent
    ) -> None:
        attempt = sent.attempt(failure)
        for lane, pack in request.packs:
            pack.failed(attempt)
            lane.last_failure = failure
            self._metrics.record_failed(lane.shard.shard_id, failure.code)
        remedy = remedy_of_request(failure)
        if remedy is Remedy.SPLIT:
            self._split(request, failure)
        elif remedy is Remedy.RETRY:
            # In front of the line again, the oldest first.
            for lane, pack in reversed(request.packs):
                lane.put_back(pack)
            if failure.code in THROTTLES:
                for lane in {lane: None for lane, _ in request.packs}:
                    lane.limiter.throttled(now)
            if now >= self._not_before:  # Those that were on the road together fail as one.
                self._failures += 1
                self._not_before = now + backoff_seconds(self._failures, self._rng)
        else:
            if failure.code == NO_SUCH_STREAM:
                self._router.forget()
            for _, pack in request.packs:
                self._give_up(pack.dissolve(), failure)

    def _split(self, request: PutRequest, failure: Failure) -> None:
        """Send the halves of a refused request by themselves; a record alone is the culprit."""
        again = self._halving.divide(request.packs)
        for lane, pack in reversed(again):
            lane.put_back(pack)
        if not again:
            items = [item for _, pack in request.packs for item in pack.dissolve()]
            if len(items) > 1:
                told = f"{failure.message} (perhaps for another record of the request)"
                failure = Failure(failure.code, told, retriable=True)
            self._give_up(items, failure)

    # Ends.

    def _confirm(self, lane: Lane, landed: Landed, now: float) -> None:
        lane.failures = 0
        lane.limiter.confirmed(now)
        self.ledger.confirm(landed.pack, landed.stored, landed.sent.attempt())

    def _give_up(self, items: list[Item], failure: Failure) -> None:
        """Hand records back, and in order those that wait behind them on their keys."""
        for item in items:
            self.ledger.give_up(item, failure)
        self._give_up_behind(items, failure)

    def _give_up_behind(self, items: list[Item], failure: Failure) -> None:
        if items and self._settings.ordered and not self._settings.skip_failed:
            cause = f"{failure.code}: {failure.message}"
            told = f"a record of the same key before it was given up: {cause}"
            because = Failure("PrecedingRecordFailed", told, retriable=True)
            for item in self._router.take_keys({item.key for item in items}):
                self.ledger.give_up(item, because)

    def _expire(self, now: float) -> None:
        age = self._settings.max_record_age
        if age is None or now < self._expire_at:
            return
        expired: dict[Failure, list[Item]] = {}
        for item, last in self._router.take_expired(now, age):
            told = f"; last error: {last.code}: {last.message}" if last else ""
            message = f"not confirmed within {age:g} s{told}"
            failure = Failure("RecordExpired", message, retriable=True)
            expired.setdefault(failure, []).append(item)
            self.ledger.give_up(item, failure)
        for failure, items in expired.items():
            self._give_up_behind(items, failure)
        self._expire_at = self._router.oldest_accepted_at() + age

    def _refuse_order(self, now: float) -> None:
        told = "the service spreads the records of this stream itself, so they cannot be in order"
        items = self._router.take_all()
        self._give_up(items, Failure("UnorderedStream", told, retriable=False))
        if items:
            self._router.watch.hint(now)  # It may do so no more.

    def _adopt(self, now: float) -> None:
        for lane, landed in self._router.adopt(now):
            self._confirm(lane, landed, now)
