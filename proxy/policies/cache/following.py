"""Who asks what is being asked already waits for that answer.

When the shared call fails, the first who learns of it finds nobody else asking and asks himself; the others find him
and wait once more. When that fails, too, all get its error. What says something of who asked (a refusal by a policy or
a budget, a credential that the provider does not take) is nobody else's business: whoever waited for it goes on as if
that call had not been there.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING, Final

from proxy.errors import ProxyError
from proxy.policies.cache import forms
from proxy.policies.cache.call import curable
from proxy.policy import called

if TYPE_CHECKING:
    from proxy.below import Below
    from proxy.exchange import Answer
    from proxy.flight import Flight
    from proxy.policies.cache.call import Call
    from proxy.policies.cache.policy import Cache

__all__ = ["follow"]

_OF_THE_CALLER: Final = frozenset({"client", "limit"})
_CREDENTIAL: Final = frozenset({401, 403})


async def follow(policy: Cache, call: Call, running: Below, *, back: bool) -> Answer | None:
    """The answer of ``running`` for this call, or of who asks after it. None: the call goes on and asks itself, unless
    ``back``. Raises ProxyError."""
    exchange = call.exchange
    again = False
    while True:
        exchange.cache_status = "coalesced"
        flight = running.join()
        try:
            answer = await _in_time(policy, flight, call)
            failed = curable(answer)
            if not _personal(policy, answer) and (again or not failed):
                policy.figures.coalesced += 1
                return answer
            if answer.source is not None:
                answer.source.abort()
        except ProxyError as error:
            failed = error.kind.fault not in _OF_THE_CALLER
            if failed and again:
                raise
        again = again or failed
        flight.forget(exchange)
        call.forget_failure()
        found = policy.running.get(call.name)
        if found is None or found is running or not found.joinable:
            return await called(policy.ask(call, back=back))
        running = found


async def _in_time(policy: Cache, flight: Flight, call: Call) -> Answer:
    """What the flight brings this caller, whose own time runs while another's call is waited for."""
    upstream = policy.services.config.upstreams.get(call.target.upstream)
    total = None if upstream is None else upstream.timeouts.total
    if total is None:
        return await forms.joined(flight, call)
    try:
        async with asyncio.timeout(max(0.0, call.exchange.started_at + total - monotonic())):
            return await forms.joined(flight, call)
    except TimeoutError:
        raise ProxyError(
            "upstream_timeout", f"The call that this one waited for took longer than timeouts.total ({total:g} s)."
        ) from None


def _personal(policy: Cache, answer: Answer) -> bool:
    """Whether an answer says something of who asked."""
    if answer.error is not None:
        return answer.error.kind.fault in _OF_THE_CALLER
    return policy.options.scope != "principal" and answer.origin == "upstream" and answer.status in _CREDENTIAL
