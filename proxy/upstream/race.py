"""A hedge: the same call on its way twice, the first to answer with content wins.

The first attempt runs alone for ``hedge_after`` seconds. Then a second one is asked for; when the
policies let it through, both run and the first good answer is kept. The other is cancelled with
outcome ``lost``. When both fail, the first attempt's failure is the one that counts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from proxy.policy import called

if TYPE_CHECKING:
    from proxy.chain import Chain
    from proxy.exchange import Attempt, AttemptOutcome, Exchange
    from proxy.upstream.judge import Tried

    Racing = dict[asyncio.Task[Tried], Attempt]

Send = Callable[["Attempt"], Coroutine[Any, Any, "Tried"]]
Second = Callable[["Attempt"], Coroutine[Any, Any, "Attempt | None"]]

# Ends of losers that go on after their call was cancelled; the loop itself holds tasks only weakly.
_ending: Final[set[asyncio.Task[None]]] = set()


async def race(chain: Chain, exchange: Exchange, first: Attempt, send: Send, second: Second) -> tuple[Attempt, Tried]:
    """The attempt whose answer is used, and what it came to. Cancelling cancels both.

    Whatever happens, every attempt but the one returned has been ended, or is being ended, when this returns or raises.
    """
    racing: Racing = {}
    try:
        winner = await _run(racing, first, send, second)
    except BaseException:
        await _end_others(chain, exchange, racing, None, "cancelled")
        raise
    try:
        await _end_others(chain, exchange, racing, winner, "lost")
    except BaseException:
        await _end_others(chain, exchange, {winner: racing[winner]}, None, "cancelled")
        raise
    return racing[winner], winner.result()


async def _run(racing: Racing, first: Attempt, send: Send, second: Second) -> asyncio.Task[Tried]:
    """Run both; the first that is answered well, else the one that was sent first. Raises what a task raises."""
    loop = asyncio.get_running_loop()
    running = loop.create_task(send(first))
    racing[running] = first
    done, _ = await asyncio.wait((running,), timeout=first.hedge_after)
    if done:
        running.result()
        return running
    other = await second(first)
    if other is not None:
        racing[loop.create_task(send(other))] = other
    pending = set(racing)
    while pending:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        # In the order in which they were sent: two may end in the same turn of the loop.
        for task in racing:
            if task in done and task.result().verdict.failure is None:
                return task
    return running


async def _end_others(
    chain: Chain, exchange: Exchange, racing: Racing, winner: asyncio.Task[Tried] | None, outcome: AttemptOutcome
) -> None:
    """End every attempt but the winner's. A cancelled call does not wait for it, but it happens all the same."""
    others = {task: attempt for task, attempt in racing.items() if task is not winner}
    if not others:
        return
    ending = asyncio.get_running_loop().create_task(_end(chain, exchange, others, outcome))
    _ending.add(ending)
    ending.add_done_callback(_ending.discard)
    await asyncio.shield(ending)


async def _end(chain: Chain, exchange: Exchange, others: Racing, outcome: AttemptOutcome) -> None:
    for task, attempt in others.items():
        if not task.done():
            attempt.outcome = outcome
            task.cancel()
    await asyncio.wait(others)
    for task, attempt in others.items():
        if task.cancelled() or task.exception() is not None:
            continue  # it has ended its attempt itself
        tried = task.result()
        tried.discard()
        failure = tried.verdict.failure
        if failure is not None:
            attempt.failure = failure
            attempt.outcome = failure if failure in ("truncated", "stalled") else "failed"
        else:
            attempt.outcome = outcome
        attempt.ended_at = monotonic()
        await called(chain.end_attempt(exchange, attempt))
