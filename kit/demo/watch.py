"""Everything that the demo can see of itself while it runs, in one place."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from consumers.kcl.events import initialized_shards
from infra.proxy import control
from kit.demo.cast import Cast
from kit.demo.fleet_shadows import FleetShadows
from kit.demo.observe import Ledger, SinkLook, read_shards
from kit.demo.verdict import Circumstances, Verdict, judge
from kit.demo.view import ShardLine, Snapshot
from records.partition import Shard, ShardMap

if TYPE_CHECKING:
    from types_boto3_kinesis import KinesisClient


@dataclass(slots=True, kw_only=True)
class Watch:
    """Counts of one run: of the devices, the stream, the proxy, the sink and the shadows.

    Args:
        cast: the processes and their files.
        kinesis: a client that talks to the engine itself.
        shadows: the application's view of the shadows.
        events: how many events are to be sent.
    """

    cast: Cast
    kinesis: "KinesisClient"
    shadows: FleetShadows
    events: int
    proxy_url: str = ""
    worker_kills: int = 0
    shards_before: int = 0
    ledger: Ledger = field(init=False)
    sink: SinkLook = field(init=False)

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.cast.ledger)
        self.sink = SinkLook(self.cast.sink)

    def shards(self) -> tuple[Shard, ...]:
        """Return the stream's shards as they are now, open and closed."""
        return read_shards(self.kinesis, self.cast.stream)

    def shard_map(self) -> ShardMap:
        """Return where the stream puts a hash key now."""
        return ShardMap(self.shards())

    def shards_being_read(self) -> set[str]:
        """Return the shards that the consumer has begun to read since it was last started."""
        return initialized_shards(self.cast.consumer_folder)

    def sent(self) -> int:
        """Return how many events were acknowledged to their devices."""
        return self.ledger.count()

    def all_stored(self) -> bool:
        """Tell whether as many events are in the sink as were to be sent."""
        return self.sink.stored() >= self.events

    def answers_lost(self) -> int:
        """Return how many answers the proxy has lost after the commit."""
        return int(self._proxy_status()["lost"])

    def throttled(self) -> int:
        """Return how many records and reads the proxy has refused as over quota."""
        return int(self._proxy_status()["throttled"])

    def _proxy_status(self) -> dict[str, Any]:
        """Return what the proxy counts; zeros before it was started."""
        return control.status(self.proxy_url) if self.proxy_url else {"lost": 0, "throttled": 0}

    def snapshot(self) -> Snapshot:
        """Return the counts of this moment."""
        by_shard = self.sink.effects_by_shard()
        return Snapshot(
            events=self.events,
            sent=self.sent(),
            stored=self.sink.stored(),
            duplicates_refused=self.sink.refused(),
            answers_lost=self.answers_lost(),
            worker_kills=self.worker_kills,
            shadows=len(self.shadows.things),
            shadows_converged=len(self.shadows.converged),
            shards=tuple(
                ShardLine(
                    shard_id=shard.shard_id,
                    open=not shard.closed,
                    effects=by_shard.get(shard.shard_id, 0),
                )
                for shard in self.shards()
            ),
        )

    def verdict(self) -> Verdict:
        """Hold the ledger against the effects."""
        circumstances = Circumstances(
            duplicates_refused=self.sink.refused(),
            shards_before=self.shards_before,
            shards_after=len(self.shard_map().open_shards),
            worker_kills=self.worker_kills,
            answers_lost=self.answers_lost(),
            throttled=self.throttled(),
            shadows=len(self.shadows.things),
            shadows_converged=len(self.shadows.converged),
        )
        return judge(self.ledger.events(), self.sink.effects(), circumstances)
