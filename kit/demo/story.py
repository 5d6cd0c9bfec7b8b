"""The story of the demo, told in order: what is started, what is broken, what is waited for.

Producer and consumer both reach the engine through the proxy, with AWS's quotas and corrections on.
KCL sets the order: it is killed only after both children of the split have been taken up, because
only its leader hands out new leases, and the dead leader's lock lasts two minutes; leases it
already held it takes up again at once under the same worker ID.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from infra.processes import GuardedProcess, describe_exit
from infra.proxy import control
from kit.demo.cast import Cast
from kit.demo.split import Split, choose_split
from kit.demo.view import Narrator
from kit.demo.watch import Watch

CONSUMER_START_SECONDS: Final = 120.0
"""KCL needs 10 to 40 s from the start of its JVM to its first shard: on an empty lease table it
waits for a random time of up to 30 s, which cannot be set."""

RESHARD_SECONDS: Final = 150.0
"""The parent has to be drained and both children leased, by a leader that looks every second."""

STALL_SECONDS: Final = 150.0
"""How long nothing new may reach the sink before the story gives up: longer than KCL's leader
lock of 120 s, so that a slow hand-over is seen as slow and not as loss."""

THROTTLE_SECONDS: Final = 2.0
SHADOW_SECONDS: Final = 30.0
POLL_SECONDS: Final = 0.25


class StoryError(Exception):
    """Something that the story waits for did not happen."""


@dataclass(slots=True, kw_only=True)
class Story:
    """One run of the demo.

    Args:
        cast: starts the processes.
        watch: sees what they do.
        narrator: shows it.
        kinesis_url: the engine's endpoint, for the proxy to stand before.
        seconds: over how long the devices send.
    """

    cast: Cast
    watch: Watch
    narrator: Narrator
    kinesis_url: str
    seconds: float

    def tell(self) -> None:
        """Run the whole story; the verdict can be asked for afterwards, also when this raises.

        Raises:
            StoryError: something that was waited for did not happen in time.
            ProcessError: a process ended that should have gone on.
            IotError: the shadow service refused.
        """
        self._require_fresh_stream()
        consumer = self._start_services()
        self._start_producing()
        self._lose_answers(2)
        self._wait_until_read(consumer)
        self._wait_until_sent(0.2)
        split = self._split_under_load()
        self._desire({"mode": "eco", "interval_ms": 500})
        self._lose_answers(2)
        self._wait_for_children(split, consumer)
        self._kill_and_restart(consumer)
        self._desire({"mode": "boost", "interval_ms": 250})
        self._wait_until_sent(1.0)
        self._wait_until_stored()
        self._wait_for_shadows()

    def _require_fresh_stream(self) -> None:
        shards = self.watch.shards()
        if any(shard.closed for shard in shards):
            raise StoryError(f"{self.cast.stream} was resharded before; use a fresh stream")
        self.watch.shards_before = len(shards)

    def _start_services(self) -> GuardedProcess:
        self.watch.proxy_url = self.cast.start_proxy(self.kinesis_url)
        self.narrator.step("the proxy stands before the engine, with AWS's quotas and corrections")
        self.cast.start_shadow_service()
        self.watch.shadows.connection.start()
        self.watch.shadows.connection.wait_ready(SHADOW_SECONDS)
        consumer = self.cast.start_consumer(self.watch.proxy_url)
        self.narrator.step("shadow service and KCL are started; KCL needs 10 to 40 s")
        return consumer

    def _start_producing(self) -> None:
        things, events = len(self.watch.shadows.things), self.watch.events
        self._throttle()
        self.cast.start_bridge(self.watch.proxy_url)
        self.cast.start_fleet(devices=things, events=events, seconds=self.seconds)
        self.narrator.step(f"{things} devices publish {events} events over {self.seconds:g} s")

    def _wait_until_read(self, consumer: GuardedProcess) -> None:
        wanted = {shard.shard_id for shard in self.watch.shards()}
        self._wait(
            lambda: wanted <= self.watch.shards_being_read(),
            CONSUMER_START_SECONDS,
            "KCL to take up every shard",
            needs=consumer,
        )
        self.narrator.step(f"KCL reads all {len(wanted)} shards")

    def _split_under_load(self) -> Split:
        split = choose_split(self.watch.shard_map(), self.watch.shadows.things)
        self.watch.kinesis.split_shard(
            StreamName=self.cast.stream,
            ShardToSplit=split.shard.shard_id,
            NewStartingHashKey=str(split.new_starting_hash_key),
        )
        self.narrator.step(f"split {split.shard.shard_id} while the devices publish")
        return split

    def _wait_for_children(self, split: Split, consumer: GuardedProcess) -> None:
        """Wait until both children are leased, and have delivered where devices live on them."""
        shards = self.watch.shard_map()
        parent = split.shard.shard_id
        children = {s.shard_id for s in shards.open_shards if s.parent_shard_id == parent}
        populated = {shards.shard_for(hash_key).shard_id for hash_key in split.resident_hashes}
        self._wait(
            lambda: children <= self.watch.shards_being_read(),
            RESHARD_SECONDS,
            "KCL to drain the parent and take up both children",
            needs=consumer,
        )
        self._wait(
            lambda: (
                populated <= self.watch.sink.effects_by_shard().keys() or self.watch.all_stored()
            ),
            RESHARD_SECONDS,
            "both children to deliver",
            needs=consumer,
        )
        self.narrator.step("the parent is drained, and both children deliver")

    def _kill_and_restart(self, consumer: GuardedProcess) -> None:
        self._lose_answers(1)
        consumer.kill()
        self.watch.worker_kills += 1
        stored = self.watch.sink.stored()
        self.narrator.step(f"killed the consumer (kill -9) when {stored} events were stored")
        consumer = self.cast.start_consumer(self.watch.proxy_url)
        self._wait(
            lambda: self.watch.sink.stored() > stored or self.watch.all_stored(),
            CONSUMER_START_SECONDS + STALL_SECONDS,
            "the restarted consumer to store again",
            needs=consumer,
        )
        self.narrator.step("restarted under the same worker ID, it reads on")

    def _desire(self, state: dict[str, object]) -> None:
        self.watch.shadows.desire(state)
        self.narrator.step(f"asked every device, through its shadow, for {json.dumps(state)}")

    def _throttle(self) -> None:
        """Let the first records of the run find every shard over its quota for a while."""
        control.add(
            self.watch.proxy_url,
            action="throttle",
            operation="PutRecords",
            stream=self.cast.stream,
            seconds=THROTTLE_SECONDS,
        )
        self.narrator.step(f"the first PutRecords will be throttled for {THROTTLE_SECONDS:g} s")

    def _lose_answers(self, count: int) -> None:
        control.lose(self.watch.proxy_url, "PutRecords", count)
        self.narrator.step(f"the next {count} PutRecords answers get lost after the commit")

    def _wait_until_sent(self, share: float) -> None:
        self._wait(
            lambda: self.watch.sent() >= self.watch.events * share,
            self.seconds + STALL_SECONDS,
            f"the devices to have {share:.0%} of their events acknowledged",
        )
        if share == 1.0:
            self.narrator.step("the devices have sent everything")

    def _wait_until_stored(self) -> None:
        latest, since = -1, time.monotonic()
        while not self.watch.all_stored():
            stored = self.watch.sink.stored()
            if stored != latest:
                latest, since = stored, time.monotonic()
            elif time.monotonic() - since > STALL_SECONDS:
                raise StoryError(f"nothing new was stored for {STALL_SECONDS:g} s")
            self._beat()
        self.narrator.step("everything is stored")

    def _wait_for_shadows(self) -> None:
        def all_followed() -> bool:
            self.watch.shadows.look()
            return len(self.watch.shadows.converged) == len(self.watch.shadows.things)

        self._wait(all_followed, SHADOW_SECONDS, "every device to follow its shadow")
        self.narrator.step("every shadow has converged")

    def _wait(
        self,
        done: Callable[[], bool],
        timeout: float,
        what: str,
        *,
        needs: GuardedProcess | None = None,
    ) -> None:
        deadline = time.monotonic() + timeout
        while not done():
            if time.monotonic() > deadline:
                raise StoryError(f"waited {timeout:g} s for {what}")
            if needs is not None and needs.returncode is not None:
                end = describe_exit(needs.returncode)
                raise StoryError(f"{needs.name} ended with {end}; its log: {needs.log_path}")
            self._beat()

    def _beat(self) -> None:
        time.sleep(POLL_SECONDS)
        self.watch.shadows.look(at_most=1)
        self.narrator.update(self.watch.snapshot())
