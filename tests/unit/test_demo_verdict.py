"""The verdict must object to every promise that is broken: each control breaks one."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.demo.verdict import Circumstances, Effect, Sent, judge

HARD_DAY = Circumstances(
    duplicates_refused=3,
    shards_before=2,
    shards_after=3,
    worker_kills=1,
    answers_lost=2,
    throttled=3,
    shadows=2,
    shadows_converged=2,
)
SENT = [Sent(f"{thing}-{n}", thing, n) for thing in ("a", "b") for n in (1, 2, 3)]
EFFECTS = [Effect(event.record_id, event.thing, event.sequence) for event in SENT]


def broken(
    sent: list[Sent], effects: list[Effect], circumstances: Circumstances = HARD_DAY
) -> list[str]:
    return judge(sent, effects, circumstances).broken(expected=6)


def test_a_run_that_kept_its_promises_is_accepted() -> None:
    assert broken(SENT, EFFECTS) == []
    verdict = judge(SENT, EFFECTS, HARD_DAY)
    assert (verdict.sent, verdict.stored, verdict.lost, verdict.doubled) == (6, 6, 0, 0)


@pytest.mark.parametrize(
    ("sent", "effects", "circumstances", "complaint"),
    [
        (SENT[1:], EFFECTS, HARD_DAY, "5 of 6 events were acknowledged"),
        (SENT, EFFECTS[:-1], HARD_DAY, "1 acknowledged events are not in the sink"),
        (SENT, [*EFFECTS, EFFECTS[-1]], HARD_DAY, "1 effects were applied more than once"),
        (SENT, [EFFECTS[1], EFFECTS[0], *EFFECTS[2:]], HARD_DAY, "against their device's order"),
        (SENT, EFFECTS, replace(HARD_DAY, shadows_converged=1), "1 of 2 shadows"),
        (SENT, EFFECTS, replace(HARD_DAY, shards_after=2), "not resharded"),
        (SENT, EFFECTS, replace(HARD_DAY, answers_lost=0), "no answer was lost"),
        (SENT, EFFECTS, replace(HARD_DAY, throttled=0), "nothing was throttled"),
        (SENT, EFFECTS, replace(HARD_DAY, worker_kills=0), "not killed"),
    ],
)
def test_each_broken_promise_is_named(
    sent: list[Sent], effects: list[Effect], circumstances: Circumstances, complaint: str
) -> None:
    findings = broken(sent, effects, circumstances)
    assert len(findings) == 1
    assert complaint in findings[0]


@given(st.permutations(EFFECTS))
def test_only_the_order_within_a_device_counts(effects: list[Effect]) -> None:
    in_order = all(
        [e.sequence for e in effects if e.thing == thing] == [1, 2, 3] for thing in ("a", "b")
    )
    assert (judge(SENT, effects, HARD_DAY).out_of_order == 0) == in_order
