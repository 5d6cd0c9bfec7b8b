"""Replies that do not arrive as they were sent: what passes, what does not, and when it counts."""

import asyncio

import pytest

from infra.proxy.exchange import Answer, send
from infra.proxy.replies import Kept, Late, Lost, Nowhere, Passing
from tests.unit.proxy_reply_support import HEADERS, WHOLE, Noted, answer

ERRORS = pytest.mark.parametrize("status", [301, 400, 500, 503])


def lost(noted: Noted, counts: list[str], *, at_start: bool = False, due: bool = True) -> Lost:
    return Lost(
        noted,
        reset=True,
        at_start=at_start,
        due=lambda: due,
        happened=lambda: counts.append(f"after {noted.steps}"),
    )


def kept(noted: Noted) -> tuple[Kept, list[Answer]]:
    answers: list[Answer] = []
    return Kept(noted, answers.append), answers


def test_what_only_passes_passes_all():
    noted = Noted()
    passing = Passing(noted)
    asyncio.run(send(answer(), passing))
    passing.cut(reset=True)
    passing.cut(reset=False)
    assert noted.told == [*WHOLE, ("cut", True), ("cut", False)]


@pytest.mark.parametrize(("status", "carried_out"), [(200, True), (204, True), (400, False)])
def test_nowhere_knows_a_success_and_nothing_else(status: int, *, carried_out: bool):
    nowhere = Nowhere()
    assert not nowhere.carried_out
    asyncio.run(send(answer(status), nowhere))
    assert nowhere.carried_out is carried_out


def test_a_lost_answer_is_taken_in_whole_and_its_connection_cut():
    async def scenario() -> None:
        noted, counts = Noted(), []
        reply = lost(noted, counts)
        await reply.start(200, HEADERS)
        await reply.write(b"half")
        assert (noted.told, counts) == ([], []), "until it is whole, it may still break off"
        await reply.finish()
        assert noted.told == [("cut", True)]
        assert counts == ["after []"], "counted before the client can know"

    asyncio.run(scenario())


@ERRORS
def test_an_error_is_not_lost(status: int):
    noted, counts = Noted(), []
    asyncio.run(send(answer(status), lost(noted, counts)))
    assert noted.steps == ["start", "write", "finish"]
    assert counts == []


def test_a_success_that_is_not_worth_losing_is_not_lost():
    noted, counts = Noted(), []
    asyncio.run(send(answer(), lost(noted, counts, due=False)))
    assert (noted.told, counts) == (WHOLE, [])


def test_an_answer_that_has_no_end_is_lost_at_its_start():
    noted, counts = Noted(), []
    with pytest.raises(ConnectionResetError):
        asyncio.run(send(answer(), lost(noted, counts, at_start=True)))
    assert (noted.told, counts) == ([("cut", True)], ["after []"])


def test_an_answer_that_breaks_off_is_not_counted_as_lost():
    async def scenario() -> None:
        noted, counts = Noted(), []
        reply = lost(noted, counts)
        await reply.start(200, HEADERS)
        reply.cut(reset=False)
        assert (noted.told, counts) == ([("cut", False)], [])

    asyncio.run(scenario())


def test_a_late_answer_comes_whole_and_is_counted_before_it_does():
    noted, counts = Noted(), []
    late = Late(noted, 0.001, lambda: counts.append(noted.steps))
    asyncio.run(send(answer(), late))
    assert noted.told == WHOLE
    assert counts == [[]]


def test_a_client_that_does_not_wait_was_not_kept_waiting():
    async def scenario() -> None:
        noted, counts = Noted(), []
        late = Late(noted, 3600.0, lambda: counts.append("late"))
        task = asyncio.create_task(send(answer(), late))
        await asyncio.sleep(0)
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (noted.told, counts) == ([], [])

    asyncio.run(scenario())


def test_a_kept_answer_has_passed_and_is_the_same():
    noted = Noted()
    reply, answers = kept(noted)

    async def scenario() -> None:
        await reply.start(200, HEADERS, reason="Fine", length=4)
        await reply.write(b"bo")
        await reply.write(b"dy")
        assert answers == []
        await reply.finish()

    asyncio.run(scenario())
    assert [b"".join(step[1:]) for step in noted.told if step[0] == "write"] == [b"bo", b"dy"]
    assert answers == [answer()]


@ERRORS
def test_an_error_is_not_kept(status: int):
    noted = Noted()
    reply, answers = kept(noted)
    asyncio.run(send(answer(status), reply))
    assert noted.steps == ["start", "write", "finish"]
    assert answers == []


@pytest.mark.parametrize("step", ["start", "write", "finish"])
def test_an_answer_that_did_not_arrive_is_not_kept(step: str):
    reply, answers = kept(Noted(fails_at=step))
    with pytest.raises(ConnectionResetError):
        asyncio.run(send(answer(), reply))
    assert answers == []


def test_half_an_answer_is_not_kept():
    async def scenario() -> None:
        reply, answers = kept(Noted())
        await reply.start(200, HEADERS)
        await reply.write(b"half")
        reply.cut(reset=False)
        assert answers == []

    asyncio.run(scenario())
