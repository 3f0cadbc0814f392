"""``warn_at``: said once for each share of a limit that was passed, however far one call jumped."""

from __future__ import annotations

import logging
from math import inf
from typing import TYPE_CHECKING

from proxy.accounting.money import usd_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proxy.accounting.books import Books
    from proxy.accounting.budgets import Budget
    from proxy.state.limits import Limit

__all__ = ["Marks"]

log = logging.getLogger("proxy.accounting")

_KEPT = 10_000


class Marks:
    """What must be spent of each counter before something is said (again)."""

    def __init__(self, shares: Sequence[float], budget: Budget, books: Books) -> None:
        self._shares = sorted(shares)
        self._budget = budget
        self._books = books
        self._next: dict[str, float] = {}

    def __bool__(self) -> bool:
        return bool(self._shares)

    def next(self, limit: Limit) -> float:
        """Units that may be spent before a word is due."""
        known = self._next.get(limit.name)
        if known is not None:
            return known
        return limit.limit * self._shares[0] if self._shares else inf

    def look(self, limit: Limit, spent: float, value: str) -> None:
        """Warn if a mark was passed."""
        if spent < self.next(limit):
            return
        share = spent / limit.limit
        if len(self._next) > _KEPT:
            self._next.clear()
        self._next[limit.name] = next((mark * limit.limit for mark in self._shares if mark > share), inf)
        budget, window = self._budget, self._budget.window
        metric = limit.name.removeprefix(f"budget:{budget.name}:").partition(":")[0]
        shown = f"${usd_text(int(spent), places=4)}" if metric == "usd" else f"{int(spent)} {metric}"
        of = f"last {window.rolling:g} s" if window.rolling else window.kind
        text = f"budget {budget.name} of {value}: {share:.0%} of its {of} are spent ({shown})"
        log.warning("%s", text)
        if self._books.store is not None:
            self._books.store.tell("budget_warning", text)
