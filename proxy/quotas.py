"""How much of a limit or budget is left: for the caller itself (``GET /v1/sidecar/limits``) and for the operator.

A caller asks as he calls: the chain's request phase runs first, so he is authenticated like with any call, and hears of
nobody but himself. Asking takes nothing of a limit: who has used his up must hear when to come back.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

import orjson

from proxy.accounting.money import usd
from proxy.document import Document
from proxy.errors import ProxyError
from proxy.exchange import Answer

if TYPE_CHECKING:
    from proxy.accounting.budgets import Bucket
    from proxy.exchange import Exchange
    from proxy.policies.budget import Budget
    from proxy.policies.rate_limit import RateLimit
    from proxy.snapshot import Snapshot

__all__ = ["PATH", "budget_rows", "own_limits"]

PATH: Final = "/v1/sidecar/limits"
_OF_THE_ATTEMPT: Final = frozenset({"key", "upstream"})


def own_limits(snapshot: Snapshot, exchange: Exchange) -> Callable[[Exchange], Awaitable[Answer]]:
    """Who answers a call to ``PATH``. Raises ``method_not_allowed``."""
    if exchange.request.method not in ("GET", "HEAD"):
        raise ProxyError("method_not_allowed", f"{PATH} is read with GET.")
    chain = snapshot.chains[exchange.chain_name]

    async def limits(asked: Exchange) -> Answer:
        rates: list[dict[str, Any]] = []
        budgets: list[dict[str, Any]] = []
        for step in chain.all_steps:
            if step.when is not None and not step.when(asked):
                continue
            policy: Any = step.policy
            if policy.name == "rate_limit":
                limiter: RateLimit = policy
                rates += limiter.limits(asked)
            elif policy.name == "budget":
                budgets += _own_budget(policy, asked)
        who = asked.principal
        body = {
            "object": "sidecar.limits",
            "principal": who.id,
            "project": asked.project,
            "models": list(who.models) or None,
            "expires": who.expires,
            "limits": rates,
            "budgets": budgets,
        }
        return Answer(
            200, [(b"content-type", b"application/json")], origin="sidecar", body=Document(orjson.dumps(body))
        )

    return limits


def _own_budget(policy: Budget, exchange: Exchange) -> list[dict[str, Any]]:
    """The budget as far as it is about this caller; one by key or upstream is not."""
    per = policy.budget.per
    if _OF_THE_ATTEMPT & set(per):
        return []
    value = "|".join(exchange.dimension(name) for name in per)
    if policy.options.only and value not in policy.options.only:
        return []
    now = policy.services.clock.now()
    return _bucket_rows(policy, policy.budget.bucket(value, now), now)


def budget_rows(policy: Budget, most: int) -> list[dict[str, Any]]:
    """Every value of a budget that was seen in its window: dearest first, ``most`` of them."""
    now = policy.services.clock.now()
    rows = [row for bucket in policy.budget.buckets(now) for row in _bucket_rows(policy, bucket, now)]
    rows.sort(key=lambda row: -row["share"])
    return rows[:most]


def _bucket_rows(policy: Budget, bucket: Bucket, now: float) -> list[dict[str, Any]]:
    from proxy.accounting.budgets import METRICS  # noqa: PLC0415 - there is a budget, so it is loaded

    budget = policy.budget
    rows = []
    for place, counter in bucket.counters:
        usage = policy.state.usage(counter)
        shown: Callable[[float], float] = (lambda nano: usd(int(nano))) if METRICS[place] == "usd" else int
        rows.append(
            {
                "budget": budget.name,
                "per": list(budget.per),
                "value": bucket.value,
                "window": f"{budget.window.rolling:g}s" if budget.window.rolling else budget.window.kind,
                "unit": METRICS[place],
                "limit": shown(counter.limit),
                "spent": shown(usage.used),
                "reserved": shown(usage.held),
                "remaining": shown(max(0.0, counter.limit - usage.used - usage.held)),
                "share": round(usage.used / counter.limit, 6),
                "shared": policy.state.shared,
                "resets_in": None if budget.window.rolling else round(max(0.0, budget.resets(now) - now), 3),
            }
        )
    return rows
