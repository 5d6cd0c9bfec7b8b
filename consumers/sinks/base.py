"""What a sink is, and how long it must remember.

A consumer reads at least once: after a crash, a lost lease or a lost answer, records come again.
A sink turns that into *effectively once*. It stores the effect of a record together with the
record's ID, in one transaction, and refuses an ID that it has seen.

The set of seen IDs may not grow for ever, and may not forget too early. A record can be
delivered again as long as the stream retains it, so an ID is remembered for a *horizon* that is
never shorter than the stream's retention; each sighting, a refused one too, starts it anew. What
the horizon is longer than the retention is the time a producer has for repeating an ID: a copy put
later than that, long after the first was consumed, counts as a new record.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from consumers.errors import SetupError
from consumers.record import StreamRecord
from records.envelope import derived_record_id, open_envelope

DAY: Final = 86_400.0
"""Seconds."""

DEFAULT_RETENTION: Final = DAY
"""Of a new stream, in seconds. AWS: Kinesis Data Streams, Change the data retention period."""

PRODUCER_MARGIN: Final = DAY
"""Seconds that the default horizon is longer than the retention.

It covers what keeps an ID outside the stream before it is put again: a device that was offline
between sending and the acknowledgement, a dead-letter file replayed the same day.
"""


@dataclass(frozen=True, slots=True)
class Applied:
    """What became of one batch.

    Args:
        applied: Records whose effect was stored now.
        refused: Records whose ID had been applied before.
    """

    applied: int
    refused: int


@dataclass(frozen=True, slots=True)
class Counts:
    """What a sink holds altogether, counted from what it stored.

    Args:
        effects: Stored effects. More effects than distinct IDs means something was applied twice.
        distinct: Distinct record IDs among the effects.
        refused: Duplicates refused since the sink was made.
    """

    effects: int
    distinct: int
    refused: int


@dataclass(frozen=True, slots=True)
class Identified:
    """A record with the ID it is known by and the payload without its envelope."""

    record_id: str
    payload: bytes
    record: StreamRecord


class Sink(Protocol):
    """Takes batches of one shard at a time, in the order of the shard.

    The callable that makes a sink of your own is given two keywords, `retention` and `horizon`,
    both in seconds. One is made in each shard's process, and one before that, to try it.
    """

    def apply(self, records: Sequence[StreamRecord]) -> Applied:
        """Store the effects of `records`, in order, each ID once.

        When it returns, everything is committed, and a checkpoint may follow. When it raises, a
        prefix of the batch may be committed, and the same batch must be offered again.
        """
        ...

    def close(self) -> None:
        """Let go of files and connections."""
        ...


def identify(record: StreamRecord) -> Identified:
    """Find the ID of a record: from its envelope, else from its place in the stream.

    A place is as good as an ID against redelivery, since Kinesis never gives it twice; it does not
    recognise a record that the producer put twice.
    """
    envelope = open_envelope(record.data)
    record_id = envelope.record_id or derived_record_id(
        record.shard_id, f"{record.sequence_number}/{record.sub_sequence_number}"
    )
    return Identified(record_id, envelope.payload, record)


def checked_horizon(horizon: float | None, retention: float) -> float:
    """Settle how long IDs are remembered.

    Args:
        horizon: Seconds; None for the retention and `PRODUCER_MARGIN` on top.
        retention: Of the stream, seconds.

    Returns:
        The horizon in seconds.

    Raises:
        SetupError: The horizon is shorter than the retention, so a record could come again after
            its ID was forgotten; or it has no end.
    """
    if horizon is None:
        return retention + PRODUCER_MARGIN
    if not math.isfinite(horizon):
        raise SetupError(f"a horizon of {horizon:g} s is not a length of time")
    if horizon < retention:
        raise SetupError(
            f"a horizon of {horizon:g} s is shorter than the stream's retention of {retention:g} s:"
            " a record could be delivered again after its ID was forgotten"
        )
    return horizon
