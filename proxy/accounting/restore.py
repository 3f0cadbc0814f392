"""Brings budget counters back from the ledger after a start, so that a restart forgives nobody."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from proxy.accounting.budgets import METRICS, Amounts, Budget
from proxy.accounting.ledger.base import ask_totals

if TYPE_CHECKING:
    from proxy.accounting.books import Store
    from proxy.state.interface import State
    from proxy.state.limits import Share

__all__ = ["restore"]

log = logging.getLogger("proxy.accounting")

_COLUMNS = {
    "principal": "principal",
    "project": "project",
    "model": "model_asked",
    "task": "task",
    "key": "key",
    "upstream": "upstream",
}
_DRAIN = 5.0


async def restore(store: Store, budget: Budget, state: State, now: float) -> int:
    """Seed the counters of the current window with what the ledger has for it; how many values were seeded.

    Waits until the journal is in the ledger (5 s at most). Raises the driver's errors when the ledger is down.
    Where workers count apart each gets its part, as it has its part of the limit. Not kept in the ledger, so not
    restored: ``per: ip``. A rolling window gets its whole sum back as of now, which
    frees it later than the calls it came from, never earlier.
    """
    if "ip" in budget.per:
        log.info("budget %s: addresses are not kept in the ledger; it begins at nothing", budget.name)
        return 0
    async with asyncio.timeout(_DRAIN):
        await store.writer.caught_up()
    columns = [_COLUMNS.get(name, "tags") for name in budget.per if name != "all"]
    unique = list(dict.fromkeys(columns))
    span = budget.window.at(now)
    found = await ask_totals(store.ledger, int(span.start * 1000), int(span.end * 1000), unique)
    sums: dict[str, Amounts] = {}
    for key, totals in found.items():
        row: Mapping[str, str] = dict(zip(unique, key, strict=True))
        value = "|".join(_value(name, row) for name in budget.per)
        before = sums.get(value, Amounts(0, 0, 0))
        tokens = totals["input_tokens"] + totals["output_tokens"]
        calls = totals["calls"] - totals["cached_calls"]  # hits and followers reserve nothing
        sums[value] = Amounts(before.usd + totals["cost"], before.tokens + tokens, before.calls + calls)
    share: Share | None = getattr(state, "share", None)  # of a state in memory
    for value, amounts in sums.items():
        for place, counter in budget.bucket(value, now).counters:
            if amounts[place]:
                state.seed(counter, amounts[place] if share is None else share.of(amounts[place]))
    log.debug("budget %s: restored %d values of %s", budget.name, len(sums), ", ".join(METRICS))
    return len(sums)


def _value(name: str, row: Mapping[str, str]) -> str:
    if name == "all":
        return "all"
    text = row[_COLUMNS.get(name, "tags")]
    if name.startswith("tag:"):
        wanted = f"{name.removeprefix('tag:')}="
        text = next((part.removeprefix(wanted) for part in text.split(",") if part.startswith(wanted)), "")
    return text or "-"
