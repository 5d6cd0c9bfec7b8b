"""Each control takes one guard of the machine away; the checker must notice that it is gone."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from producers.aggregated import lane, machine, map_watch, router
from producers.aggregated.failures import WRONG_SHARD, Remedy, remedy_of_request
from producers.aggregated.lane import Landed, Lane
from producers.aggregated.limiter import ShardLimiter
from producers.aggregated.machine import Machine
from producers.aggregated.map_watch import MapWatch
from producers.aggregated.metrics import Metrics
from producers.aggregated.pack import Pack
from producers.aggregated.router import Router
from producers.aggregated.values import Confirmed, Item, Listed, Settled
from producers.put_records import Failure, Record
from records.partition import ShardMap

Control = Callable[[pytest.MonkeyPatch], None]


def never_predict_anew(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(router, "_strays", lambda _lane, _shards: False)


def predict_anew_backwards(patch: pytest.MonkeyPatch) -> None:
    emptied = router._emptied
    patch.setattr(router, "_emptied", lambda each: emptied(each)[::-1])


def take_a_new_map_with_records_on_the_road(patch: pytest.MonkeyPatch) -> None:
    adopt = Router.adopt

    def at_once(self: Router, now: float) -> Any:
        on_the_road = {each: each.on_the_road for each in self.lanes.values()}
        for each in on_the_road:
            each.on_the_road = 0
        try:
            return adopt(self, now)
        finally:
            for each, count in on_the_road.items():
                each.on_the_road = count

    patch.setattr(Router, "adopt", at_once)


def remove_the_limiter(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ShardLimiter, "wait", lambda _self, _size, _now: 0.0)


def remove_the_order_gate(patch: pytest.MonkeyPatch) -> None:
    ready_at = Lane.ready_at

    def regardless(self: Lane, *, eager: bool) -> float:
        kept = self.on_the_road, self.landed
        self.on_the_road, self.landed = 0, []
        try:
            return ready_at(self, eager=eager)
        finally:
            self.on_the_road, self.landed = kept

    patch.setattr(Lane, "ready_at", regardless)


def overtake_what_failed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Lane, "put_back", lambda self, *packs: self.fresh.extend(packs))


def confirm_whatever_was_stored(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(router, "_holds", lambda *_, **__: True)


def confirm_if_the_first_record_is_covered(patch: pytest.MonkeyPatch) -> None:
    def holds(shards: ShardMap | None, shard_id: str, pack: Pack, *, auto: bool) -> bool:
        shard = shards.shard(shard_id) if shards else None
        return auto or (shard is not None and shard.covers(pack.items[0].hash_key))

    patch.setattr(router, "_holds", holds)


def _remedy_instead(patch: pytest.MonkeyPatch, wrong: Remedy, instead: Remedy) -> None:
    def remedy(failure: Failure) -> Remedy:
        found = remedy_of_request(failure)
        return instead if found is wrong else found

    patch.setattr(machine, "remedy_of_request", remedy)


def send_again_what_is_denied(patch: pytest.MonkeyPatch) -> None:
    _remedy_instead(patch, Remedy.NONE, Remedy.RETRY)


def give_up_all_beside_a_poisoned_record(patch: pytest.MonkeyPatch) -> None:
    _remedy_instead(patch, Remedy.SPLIT, Remedy.NONE)


def give_up_what_a_timeout_met(patch: pytest.MonkeyPatch) -> None:
    _remedy_instead(patch, Remedy.RETRY, Remedy.NONE)


def leave_those_behind(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Router, "take_keys", lambda _self, _keys: [])


def take_others_along(patch: pytest.MonkeyPatch) -> None:
    take_keys = Router.take_keys

    def by_partition_key(self: Router, keys: set[tuple[str, int | None]]) -> list[Item]:
        names = {name for name, _ in keys}
        return take_keys(self, {item.key for item in self.items() if item.key[0] in names})

    patch.setattr(Router, "take_keys", by_partition_key)


def expire_on_the_road(patch: pytest.MonkeyPatch) -> None:
    expire = Machine._expire

    def all_of_them(self: Machine, now: float) -> None:
        expire(self, now)
        age = self._settings.max_record_age
        for request in [*self._on_the_road]:
            items = [item for _, pack in request.packs for item in pack.items]
            if age is not None and items[0].accepted_at + age <= now:
                self._on_the_road.remove(request)
                for item in items:
                    self.ledger.give_up(item, Failure("RecordExpired", "old", retriable=True))

    patch.setattr(Machine, "_expire", all_of_them)


def never_expire(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Machine, "_expire", lambda _self, _now: None)


def lose_a_result(patch: pytest.MonkeyPatch) -> None:
    _tamper_with_results(patch, lambda settled: settled[1:])


def settle_twice(patch: pytest.MonkeyPatch) -> None:
    _tamper_with_results(patch, lambda settled: settled + settled[:1])


def confuse_places(patch: pytest.MonkeyPatch) -> None:
    def confuse(settled: list[Settled]) -> list[Settled]:
        return [
            each._replace(items=each.items[::-1]) if isinstance(each, Confirmed) else each
            for each in settled
        ]

    _tamper_with_results(patch, confuse)


def _tamper_with_results(
    patch: pytest.MonkeyPatch, tamper: Callable[[list[Settled]], list[Settled]]
) -> None:
    take_settled = Machine.take_settled
    patch.setattr(Machine, "take_settled", lambda self: tamper(take_settled(self)))


def retry_at_once(patch: pytest.MonkeyPatch) -> None:
    for module in (lane, machine, map_watch):
        patch.setattr(module, "backoff_seconds", lambda _failures, _rng: 0.0)


def let_a_throttled_shard_delay_all(patch: pytest.MonkeyPatch) -> None:
    lane_failed = Machine._lane_failed

    def all_wait(self: Machine, which: Lane, failure: Failure, now: float) -> None:
        lane_failed(self, which, failure, now)
        self._not_before = which.not_before

    patch.setattr(Machine, "_lane_failed", all_wait)


def linger_for_longer(patch: pytest.MonkeyPatch) -> None:
    route = Router.route

    def later(self: Router, item: Item, *, now: float, due_at: float) -> bool:
        return route(self, item, now=now, due_at=due_at + 0.5)

    patch.setattr(Router, "route", later)


def do_not_say_that_there_is_something_to_do(patch: pytest.MonkeyPatch) -> None:
    accept = Machine.accept

    def silent(self: Machine, item: Item, *, now: float) -> bool:
        accept(self, item, now=now)
        return False

    patch.setattr(Machine, "accept", silent)


def let_the_outer_key_route(patch: pytest.MonkeyPatch) -> None:
    seal = Pack.seal

    def without_hash_key(self: Pack) -> Record:
        return replace(seal(self), explicit_hash_key=None)

    patch.setattr(Pack, "seal", without_hash_key)


def pack_anew_what_failed(patch: pytest.MonkeyPatch) -> None:
    put_back = Lane.put_back

    def in_pieces(self: Lane, *packs: Pack) -> None:
        for pack in packs:
            put_back(self, *(self._packed([item]) for item in pack.dissolve()))

    patch.setattr(Lane, "put_back", in_pieces)


def forget_earlier_attempts(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Pack, "dissolve", lambda self: self.items)


def take_an_auto_stream_for_another(patch: pytest.MonkeyPatch) -> None:
    listed = Router.listed

    def not_auto(self: Router, told: Listed | Failure, now: float) -> Failure | None:
        return listed(self, told._replace(auto=False) if isinstance(told, Listed) else told, now)

    patch.setattr(Router, "listed", not_auto)


def confirm_whatever_an_auto_stream_has(patch: pytest.MonkeyPatch) -> None:
    holds = router._holds
    patch.setattr(router, "_holds", lambda *where, auto: auto or holds(*where, auto=auto))


def keep_the_map_of_what_is_gone(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Router, "forget", lambda self: self.watch.want())


def list_the_shards_again_and_again(patch: pytest.MonkeyPatch) -> None:
    answered = MapWatch.answered

    def never_enough(self: MapWatch, failure: Failure | None, *, enough: bool, now: float) -> None:
        answered(self, failure, enough=enough and now > 2, now=now)

    patch.setattr(MapWatch, "answered", never_enough)


def count_nothing_that_is_given_up(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Metrics, "given_up", lambda _self, _code: None)


def count_a_pack_as_if_nothing_in_it_had_been_sent_before(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Pack, "recount", lambda _self: None)


def count_no_retries_of_what_is_given_up(patch: pytest.MonkeyPatch) -> None:
    settled = Metrics.settled

    def only_confirmed(self: Metrics, shard_id: str | None, **told: Any) -> None:
        if shard_id is not None:
            settled(self, shard_id, **told)

    patch.setattr(Metrics, "settled", only_confirmed)


def count_no_error_of_what_landed_elsewhere(patch: pytest.MonkeyPatch) -> None:
    def misplaced(self: Landed) -> Pack:
        self.pack.failed(self.sent.attempt(WRONG_SHARD))
        return self.pack

    patch.setattr(Landed, "misplaced", misplaced)


def forget_what_is_on_the_road(patch: pytest.MonkeyPatch) -> None:
    abandon = Machine.abandon

    def forgetful(self: Machine, code: str, message: str) -> None:
        self._on_the_road.clear()
        abandon(self, code, message)

    patch.setattr(Machine, "abandon", forgetful)


def keep_the_lanes_of_old_shards(patch: pytest.MonkeyPatch) -> None:
    adopt = Router.adopt

    def hoard(self: Router, now: float) -> Any:
        old = {**self.lanes}
        found = adopt(self, now)
        for name, each in old.items():
            self.lanes.setdefault(f"{name} that was", each)
        return found

    patch.setattr(Router, "adopt", hoard)


def have_any_number_on_the_road(patch: pytest.MonkeyPatch) -> None:
    init = Machine.__init__

    def init_anew(self: Machine, settings: Any, **options: Any) -> None:
        init(self, replace(settings, max_in_flight=100), **options)

    patch.setattr(Machine, "__init__", init_anew)


# What is taken away, and what the checker must say.
CONTROLS: list[tuple[Control, str]] = [
    (never_predict_anew, "hot loop|only delayed"),
    (predict_anew_backwards, "came after|ends before"),
    (take_a_new_map_with_records_on_the_road, "came after|wait for nothing"),
    (remove_the_limiter, "asked too much"),
    (remove_the_order_gate, "came after"),
    (overtake_what_failed, "came after"),
    (confirm_whatever_was_stored, "KCL drops it"),
    (confirm_if_the_first_record_is_covered, "KCL drops it"),
    (keep_the_map_of_what_is_gone, "KCL drops it"),
    (send_again_what_is_denied, "not given up at once"),
    (give_up_all_beside_a_poisoned_record, "without reason"),
    (give_up_what_a_timeout_met, "only delayed"),
    (leave_those_behind, "went on without"),
    (take_others_along, "without reason"),
    (expire_on_the_road, "on the road"),
    (never_expire, "hot loop|without reason|late"),
    (lose_a_result, "never settled|it counts"),
    (settle_twice, "settled twice"),
    (confuse_places, "not where its result says"),
    (retry_at_once, "hot loop"),
    (let_a_throttled_shard_delay_all, "late by"),
    (linger_for_longer, "late by"),
    (do_not_say_that_there_is_something_to_do, "did not say|wait for nothing"),
    (let_the_outer_key_route, "KCL drops it|hot loop"),
    (pack_anew_what_failed, "packed anew"),
    (forget_earlier_attempts, "attempts"),
    (take_an_auto_stream_for_another, "travel together where|KCL will drop"),
    (confirm_whatever_an_auto_stream_has, "KCL drops it"),
    (list_the_shards_again_and_again, "were listed"),
    (count_nothing_that_is_given_up, "and counted"),
    (count_a_pack_as_if_nothing_in_it_had_been_sent_before, "retries of"),
    (count_no_retries_of_what_is_given_up, "retries of"),
    (count_no_error_of_what_landed_elsewhere, "Kinesis records"),
    (forget_what_is_on_the_road, "it counts|not abandoned|never settled"),
    (keep_the_lanes_of_old_shards, "it keeps"),
    (have_any_number_on_the_road, "requests are on the road"),
]
