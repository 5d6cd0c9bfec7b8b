"""The verdict of the demo: what the devices sent, held against what the sink holds.

Pure: rows in, numbers out. Every number is counted from evidence that the code under test does
not write for the verdict's sake: `sent` from the devices' own ledgers (one line per PUBACK),
`stored`, `doubled` and `out_of_order` from the effects in the sink, never from its set of seen IDs.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Sent:
    """An event whose publish a device saw acknowledged."""

    record_id: str
    thing: str
    sequence: int


@dataclass(frozen=True, slots=True)
class Effect:
    """An effect in the sink, in the order in which effects were applied."""

    record_id: str
    thing: str
    sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What was done to the system while the events travelled."""

    duplicates_refused: int
    shards_before: int
    shards_after: int
    worker_kills: int
    answers_lost: int
    throttled: int
    shadows: int
    shadows_converged: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The numbers of one run; `broken()` says which promises they break."""

    sent: int
    stored: int
    lost: int
    doubled: int
    out_of_order: int
    circumstances: Circumstances

    def broken(self, *, expected: int) -> list[str]:
        """Return one sentence for each promise that this run broke; none if all were kept.

        Args:
            expected: how many events the devices were asked to send.
        """
        met = self.circumstances
        findings = {
            f"{self.sent} of {expected} events were acknowledged to the devices": self.sent
            != expected,
            f"{self.lost} acknowledged events are not in the sink": self.lost > 0,
            f"{self.doubled} effects were applied more than once": self.doubled > 0,
            f"{self.out_of_order} effects were applied against their device's order": (
                self.out_of_order > 0
            ),
            f"{met.shadows - met.shadows_converged} of {met.shadows} shadows did not converge": (
                met.shadows_converged != met.shadows
            ),
            # A run in which nothing went wrong proves nothing: the faults must have happened.
            "the stream was not resharded": met.shards_after <= met.shards_before,
            "no answer was lost after its commit": met.answers_lost == 0,
            "nothing was throttled": met.throttled == 0,
            "the consumer was not killed": met.worker_kills == 0,
        }
        return [sentence for sentence, found in findings.items() if found]

    def as_dict(self) -> dict[str, int]:
        """Return the numbers under their names, for JSON."""
        counts = {name: count for name, count in asdict(self).items() if isinstance(count, int)}
        return counts | asdict(self.circumstances)


def judge(sent: Iterable[Sent], effects: Iterable[Effect], circumstances: Circumstances) -> Verdict:
    """Hold what was sent against what was stored.

    Args:
        sent: every acknowledged event, in any order.
        effects: every effect, in the order in which the sink applied them.
        circumstances: what was done to the system meanwhile.
    """
    sent_ids = {event.record_id for event in sent}
    applied: dict[str, int] = {}
    highest: dict[str, int] = {}
    out_of_order = 0
    for effect in effects:
        applied[effect.record_id] = applied.get(effect.record_id, 0) + 1
        if effect.sequence < highest.get(effect.thing, 0):
            out_of_order += 1
        highest[effect.thing] = max(effect.sequence, highest.get(effect.thing, 0))
    return Verdict(
        sent=len(sent_ids),
        stored=len(applied),
        lost=len(sent_ids - applied.keys()),
        doubled=sum(times - 1 for times in applied.values()),
        out_of_order=out_of_order,
        circumstances=circumstances,
    )
