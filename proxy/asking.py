"""How policies are asked before an attempt: one by one, or several at the same time.

Policies that stand next to each other and say `alongside` are asked at once, because each would wait for an answer of
the same server and none needs to know what another was told: budgets in Redis, of which a chain may hold several, cost
one round trip together. It stays as if they had been asked in turn:

- One answer is followed: the first veto, else the first wait. A veto goes first since no waiting helps against it.
- Those that let the attempt through are ended like any that were entered, so nothing stays reserved while a call waits.
- A wait that is not followed is dropped, so that the call stands in no line in which it does not wait.
- When the client leaves meanwhile, those that had returned are ended, the others are not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from proxy.errors import ProxyError
from proxy.policy import Veto, Wait, waits
from proxy.step import broken

if TYPE_CHECKING:
    from proxy.exchange import Attempt, Exchange
    from proxy.phase import Entry

__all__ = ["ask", "ask_together"]


async def ask(entry: Entry, exchange: Exchange, attempt: Attempt) -> Veto | Wait | None:
    """What one policy says; ``attempt.broken`` gets its bit unless its hook returned."""
    index, hook, step = entry
    attempt.broken |= 1 << index  # as long as it has not returned, it has no on_attempt_end
    try:
        said: Any = hook(exchange, attempt)
        if said is not None and waits(said):
            said = await said
    except ProxyError as error:
        error.policy = error.policy or step.label
        return Veto("call", error)
    except Exception as error:
        try:
            broken(step, "on_attempt", error, exchange)
        except ProxyError as refused:
            return Veto("call", refused)
        return None
    attempt.broken &= ~(1 << index)
    if isinstance(said, Veto):
        said.error.policy = said.error.policy or step.label
    answer: Veto | Wait | None = said
    return answer


async def ask_together(entries: Sequence[Entry], exchange: Exchange, attempt: Attempt) -> Veto | Wait | None:
    """What several policies say, asked at the same time; all of them count as entered."""
    for index, _, _ in entries:
        attempt.broken |= 1 << index
    attempt.entered = entries[-1][0] + 1
    answers = await asyncio.gather(*[ask(entry, exchange, attempt) for entry in entries])
    vetoes = [said for said in answers if isinstance(said, Veto)]
    waiting = [said for said in answers if isinstance(said, Wait)]
    in_order: list[Veto | Wait] = [*vetoes, *waiting]
    followed = in_order[0] if in_order else None
    for wait in waiting:
        if wait is not followed and wait.drop is not None:
            wait.drop()
    return followed
