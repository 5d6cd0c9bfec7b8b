"""The budget for request bodies: never more than there is, in order, and nothing is lost."""

import asyncio
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.proxy.serve.budget import MAX_BODY_BYTES, BodyBudget

STEPS = st.lists(
    st.tuples(st.sampled_from(["ask", "ask", "finish", "cancel"]), st.integers(0, MAX_BODY_BYTES)),
    max_size=40,
)


@given(STEPS, st.integers(MAX_BODY_BYTES, 3 * MAX_BODY_BYTES))
def test_no_more_than_there_is_and_all_of_it_comes_back(steps: list[tuple[str, int]], total: int):
    async def scenario() -> None:
        budget = BodyBudget(total_bytes=total)
        held: list[tuple[asyncio.Event, int]] = []
        tasks: list[asyncio.Task[None]] = []

        async def hold(size: int) -> None:
            await budget.reserve(size)
            done = asyncio.Event()
            held.append((done, size))
            try:
                await done.wait()
            finally:
                budget.release(size)
                held[:] = [one for one in held if one[0] is not done]

        for step, number in steps:
            if step == "ask":
                tasks.append(asyncio.create_task(hold(number)))
            elif step == "finish" and held:
                held[number % len(held)][0].set()
            elif step == "cancel" and tasks:
                tasks[number % len(tasks)].cancel()
            await settle()
            assert budget.free_bytes == total - sum(size for _, size in held) >= 0
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        assert budget.free_bytes == total
        assert budget.waiting == 0

    asyncio.run(scenario())


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_a_small_one_does_not_overtake_a_large_one_that_waits():
    async def scenario() -> list[str]:
        budget = BodyBudget(total_bytes=MAX_BODY_BYTES)
        order: list[str] = []

        async def ask(name: str, size: int) -> None:
            await budget.reserve(size)
            order.append(name)

        await budget.reserve(MAX_BODY_BYTES - 10)
        tasks = [asyncio.create_task(ask("large", 20)), asyncio.create_task(ask("small", 1))]
        await settle()
        assert order == []
        assert budget.waiting == 2
        budget.release(MAX_BODY_BYTES - 10)
        await asyncio.gather(*tasks)
        return order

    assert asyncio.run(scenario()) == ["large", "small"]


def test_whoever_waits_behind_one_that_gives_up_is_served():
    async def scenario() -> None:
        budget = BodyBudget(total_bytes=MAX_BODY_BYTES)
        await budget.reserve(MAX_BODY_BYTES - 10)
        large = asyncio.create_task(budget.reserve(20))
        await settle()
        small = asyncio.create_task(budget.reserve(1))
        await settle()
        large.cancel()
        await asyncio.wait_for(small, 30)

    asyncio.run(scenario())


def test_a_turn_that_comes_with_a_cancellation_is_given_back():
    async def scenario() -> int:
        budget = BodyBudget(total_bytes=MAX_BODY_BYTES)
        await budget.reserve(MAX_BODY_BYTES)
        waiter = asyncio.create_task(budget.reserve(5))
        await settle()
        budget.release(MAX_BODY_BYTES)
        waiter.cancel()
        with suppress(asyncio.CancelledError):
            await waiter
        return budget.free_bytes

    assert asyncio.run(scenario()) == MAX_BODY_BYTES


def test_a_budget_that_the_largest_body_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="at least"):
        BodyBudget(total_bytes=MAX_BODY_BYTES - 1)


def test_nothing_never_waits():
    async def scenario() -> None:
        budget = BodyBudget(total_bytes=MAX_BODY_BYTES)
        await budget.reserve(MAX_BODY_BYTES)
        waits = asyncio.create_task(budget.reserve(1))
        await asyncio.sleep(0)
        async with asyncio.timeout(5):
            await budget.reserve(0)
        assert (budget.waiting, budget.free_bytes) == (1, 0)
        waits.cancel()

    asyncio.run(scenario())
