"""What the child of one shard does with each request, and in which order.

The rules, all of which kclpy leaves to the user or breaks:

1. A checkpoint names the last record that the sink has *committed*, with its sub-sequence number,
   so a restart inside an aggregate is exact.
2. A sink that raises gets the same batch again, after a pause. When it keeps raising, the child
   ends and with it the worker; nothing after the last commit was checkpointed.
3. A checkpoint that was throttled is asked for again by itself. If it stays throttled the effects
   are committed all the same, so the next batch's checkpoint covers them; only the end of a shard
   cannot do without.
4. A lost lease is not an error. The child stops checkpointing and waits to be told to end.
"""

import logging
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from consumers.errors import CheckpointThrottled, LeaseLost, ProtocolError
from consumers.kcl import protocol
from consumers.kcl.events import Journal, ShardStatus
from consumers.record import StreamRecord
from consumers.sinks.base import Sink

CHECKPOINT_RETRY: Final = 5
"""Attempts for a throttled checkpoint. The pauses between them add up to 3 s at most, during which
the daemon goes on renewing the lease."""

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class Line(Protocol):
    """The two calls of `consumers.kcl.channel.Channel` that are needed here."""

    def receive(self) -> bytes | None: ...  # noqa: D102
    def send(self, line: bytes) -> None: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Retry:
    """How often to try and how long to pause in between.

    Args:
        attempts: Calls in all.
        base: Ceiling of the first pause, seconds; it doubles each time.
        cap: Ceiling of any pause, seconds.
    """

    attempts: int = 6
    base: float = 0.2
    cap: float = 5.0

    def pause(self, attempt: int, rng: random.Random) -> float:
        """Return the seconds to wait after the attempt with this number, counted from 1."""
        return rng.uniform(0.5, 1.0) * min(self.cap, self.base * 2.0 ** (attempt - 1))


class Processor:
    """Reads requests from the daemon and answers them until the daemon closes the pipe.

    Args:
        line: The pipe.
        sink: Where records go.
        journal: Where events and status are written.
        worker_id: Named in the events.
        retry: For a sink that raises.
        on_initialize: Called with the shard's ID before anything else happens.
        on_batch: Called before each batch is handed to the sink.
        sleep: Waits for seconds.
        rng: Spreads the pauses.
    """

    def __init__(
        self,
        *,
        line: Line,
        sink: Sink,
        journal: Journal,
        worker_id: str = "",
        retry: Retry | None = None,
        on_initialize: Callable[[str], None] = lambda _shard_id: None,
        on_batch: Callable[[], None] = lambda: None,
        sleep: Callable[[float], None] = time.sleep,
        rng: random.Random | None = None,
    ) -> None:
        self._line = line
        self._sink = sink
        self._journal = journal
        self._worker_id = worker_id
        self._retry = retry or Retry()
        self._on_initialize = on_initialize
        self._on_batch = on_batch
        self._sleep = sleep
        self._rng = rng or random.Random()
        self._shard_id = ""
        self._committed: StreamRecord | None = None
        self._checkpointed: StreamRecord | None = None
        self._lease_lost = False
        self._applied = 0
        self._refused = 0

    def serve(self) -> None:
        """Answer requests until the daemon closes the pipe between two of them.

        Raises:
            Exception: Whatever the sink kept raising; nothing of that batch was checkpointed.
            ProtocolError: The daemon went away inside a request, or spoke out of turn.
            CheckpointThrottled: The end of the shard could not be checkpointed.
        """
        while (received := self._line.receive()) is not None:
            request = protocol.parse(received, shard_id=self._shard_id)
            if isinstance(request, protocol.CheckpointAnswer):
                raise ProtocolError("the daemon answers a checkpoint that was not asked for")
            self._perform(request)
            self._line.send(protocol.status(request))

    @property
    def shard_id(self) -> str:
        """The shard, empty until the daemon has named it."""
        return self._shard_id

    def _perform(self, request: protocol.Request) -> None:
        match request:
            case protocol.Initialize():
                self._initialize(request)
            case protocol.ProcessRecords():
                self._process(request)
            case protocol.ShardEnded():
                self._end_shard()
            case protocol.ShutdownRequested():
                self._event("shutdown_requested")
                self._checkpoint_committed()
            case protocol.LeaseWasLost():
                self._lease_lost = True
                self._event("lease_lost")

    def _initialize(self, request: protocol.Initialize) -> None:
        self._shard_id = request.shard_id
        self._on_initialize(request.shard_id)
        _log.info(
            "reading %s from %s/%d",
            request.shard_id,
            request.sequence_number,
            request.sub_sequence_number,
        )
        self._event(
            "initialized",
            sequence_number=request.sequence_number,
            sub_sequence_number=request.sub_sequence_number,
        )

    def _process(self, request: protocol.ProcessRecords) -> None:
        if self._lease_lost:
            return  # whoever has the lease now is given the same records
        records = request.records
        if records:
            self._on_batch()
            applied = self._retried(
                lambda: self._sink.apply(records), self._retry, unless=_never_retriable
            )
            self._committed = records[-1]
            self._applied += applied.applied
            self._refused += applied.refused
        self._report(request.millis_behind_latest)
        self._checkpoint_committed()

    def _end_shard(self) -> None:
        if self._lease_lost:
            return  # batches may have been passed by since; the shard is not ours to end
        # Without this checkpoint the children would never start, so here throttling is fatal.
        try:
            self._checkpoint(None)
        except LeaseLost:
            self._lose_lease()
            return
        self._event("shard_ended")

    def _checkpoint_committed(self) -> None:
        if self._committed is self._checkpointed or self._lease_lost:
            return
        try:
            self._checkpoint(self._committed)
        except LeaseLost:
            self._lose_lease()
        except CheckpointThrottled as error:
            _log.warning("%s; the next batch's checkpoint will cover it", error)
        else:
            self._checkpointed = self._committed

    def _checkpoint(self, record: StreamRecord | None) -> None:
        message = (
            protocol.checkpoint(record.sequence_number, record.sub_sequence_number)
            if record
            else protocol.checkpoint(None, None)
        )
        self._retried(
            lambda: self._ask_for_checkpoint(message),
            Retry(attempts=CHECKPOINT_RETRY),
            unless=lambda error: not isinstance(error, CheckpointThrottled),
        )

    def _ask_for_checkpoint(self, message: bytes) -> None:
        self._line.send(message)
        received = self._line.receive()
        if received is None:
            raise ProtocolError("the daemon went away before it answered a checkpoint")
        answer = protocol.parse(received, shard_id=self._shard_id)
        if not isinstance(answer, protocol.CheckpointAnswer):
            raise ProtocolError(f"the daemon answers a checkpoint with {type(answer).__name__}")
        if answer.error:
            raise protocol.checkpoint_error(answer.error)

    def _retried(
        self, call: Callable[[], _T], retry: Retry, *, unless: Callable[[Exception], bool]
    ) -> _T:
        for attempt in range(1, retry.attempts):
            try:
                return call()
            except Exception as error:
                if unless(error):
                    raise
                pause = retry.pause(attempt, self._rng)
                _log.warning(
                    "attempt %d of %d failed, next in %.1f s",
                    attempt,
                    retry.attempts,
                    pause,
                    exc_info=error,
                )
                self._sleep(pause)
        return call()

    def _lose_lease(self) -> None:
        self._lease_lost = True
        _log.info("the lease of %s is lost; waiting to be told to end", self._shard_id)

    def _report(self, millis_behind_latest: int | None) -> None:
        self._journal.status(
            ShardStatus(
                shard_id=self._shard_id,
                pid=os.getpid(),
                at=self._journal.now_ms(),
                applied=self._applied,
                refused=self._refused,
                sequence_number=self._committed.sequence_number if self._committed else "",
                millis_behind_latest=millis_behind_latest,
            )
        )

    def _event(self, name: str, **details: object) -> None:
        self._journal.event(name, worker_id=self._worker_id, shard_id=self._shard_id, **details)


def _never_retriable(error: Exception) -> bool:
    # Only an error that says so itself is beyond retry: an unknown one may be a network's.
    return getattr(error, "retriable", True) is False
