"""Two attempts at once: one answer, and every other attempt ended once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from proxy.chain import Chain, Step
from proxy.exchange import Attempt, Exchange, FailureClass, Target
from proxy.policy import NoOptions, Policy, Verdict
from proxy.testing import called, exchange_builder, services_builder
from proxy.upstream.judge import Tried
from proxy.upstream.race import race


class Ends(Policy):
    """Keeps which attempts ended, in order."""

    name = "ends"

    def __init__(self) -> None:
        super().__init__(NoOptions(), services_builder())
        self.seen: list[tuple[int, str | None]] = []

    async def on_attempt_end(self, exchange: Exchange, attempt: Attempt) -> None:
        self.seen.append((attempt.number, attempt.outcome))


class Kept(Tried):
    """A try that knows whether it was thrown away."""

    def __init__(self, failure: FailureClass | None) -> None:
        super().__init__(Verdict(failure))
        self.discarded = 0

    def discard(self) -> None:
        self.discarded += 1


def attempt(number: int) -> Attempt:
    made = Attempt(number, 1, Target("a"), "a", 0.0)
    made.entered = 1
    made.hedge_after = 0.0
    return made


class Race:
    """One race; ``answers[n]`` is awaited for attempt n and gives its failure, or None for a good answer."""

    def __init__(self, *answers: Callable[[], Awaitable[FailureClass | None]], vetoed: bool = False) -> None:
        self.answers = answers
        self.vetoed = vetoed
        self.ends = Ends()
        self.chain = Chain("c", [Step(self.ends, False)])
        self.exchange = exchange_builder()
        self.tries: dict[int, Kept] = {}

    async def send(self, one: Attempt) -> Tried:
        try:
            self.tries[one.number] = Kept(await self.answers[one.number - 1]())
        except asyncio.CancelledError:
            await called(self.chain.end_attempt(self.exchange, one))
            raise
        return self.tries[one.number]

    async def second(self, first: Attempt) -> Attempt | None:
        return None if self.vetoed else attempt(2)

    async def run(self) -> tuple[Attempt, Tried]:
        return await race(self.chain, self.exchange, attempt(1), self.send, self.second)


def at(moment: asyncio.Event, failure: FailureClass | None = None) -> Callable[[], Awaitable[FailureClass | None]]:
    async def answer() -> FailureClass | None:
        await moment.wait()
        return failure

    return answer


async def forever() -> None:
    await asyncio.Event().wait()


@pytest.fixture
async def now() -> asyncio.Event:
    moment = asyncio.Event()
    asyncio.get_running_loop().call_later(0.02, moment.set)
    return moment


async def test_the_hedge_wins_and_the_first_is_lost(now: asyncio.Event) -> None:
    running = Race(forever, at(now))
    winner, _ = await running.run()
    assert (winner.number, running.ends.seen) == (2, [(1, "lost")])


async def test_two_answers_in_one_turn_leave_one(now: asyncio.Event) -> None:
    running = Race(at(now), at(now))
    winner, tried = await running.run()
    assert winner.number == 1
    assert tried is running.tries[1]
    assert running.ends.seen == [(2, "lost")]
    assert (running.tries[1].discarded, running.tries[2].discarded) == (0, 1)


async def test_a_failure_waits_for_the_other(now: asyncio.Event) -> None:
    soon = asyncio.Event()
    soon.set()
    running = Race(at(now, "timeout"), at(soon, "server_error"))
    winner, tried = await running.run()
    assert (winner.number, tried.verdict.failure) == (1, "timeout")
    assert running.ends.seen == [(2, "failed")]


async def test_a_vetoed_hedge_leaves_the_first_alone(now: asyncio.Event) -> None:
    running = Race(at(now), vetoed=True)
    winner, _ = await running.run()
    assert (winner.number, running.ends.seen) == (1, [])


async def test_cancelling_ends_both() -> None:
    running = Race(forever, forever)
    task = asyncio.create_task(running.run())
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sorted(running.ends.seen) == [(1, "cancelled"), (2, "cancelled")]


async def test_an_answer_that_comes_in_the_turn_of_the_cancellation_is_thrown_away(now: asyncio.Event) -> None:
    running = Race(at(now), forever)
    task = asyncio.create_task(running.run())
    await now.wait()
    while 1 not in running.tries:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0.01)
    assert sorted(number for number, _ in running.ends.seen) == [1, 2]
    assert running.tries[1].discarded == 1


async def test_an_on_attempt_that_broke_has_no_on_attempt_end() -> None:
    class Breaks(Ends):
        async def on_attempt(self, exchange: Exchange, attempt: Attempt) -> None:
            raise ValueError("a bug of this policy")

    class Works(Ends):
        async def on_attempt(self, exchange: Exchange, attempt: Attempt) -> None:
            pass

    steps: list[Any] = [Works(), Breaks(), Works()]
    chain = Chain("c", [Step(policy, False) for policy in steps])
    exchange, one = exchange_builder(), Attempt(1, 1, Target("a"), "a", 0.0)
    assert await called(chain.begin_attempt(exchange, one)) is None
    await called(chain.end_attempt(exchange, one))
    await called(chain.end_attempt(exchange, one))
    assert [len(policy.seen) for policy in steps] == [1, 0, 1]
