"""What Redis has to be told when it comes back: everything that happened here without it, summed up.

Kept small by adding up: one entry for each limit, for windows one for each limit and second. Notes, map entries and
seeds are kept as they were said.
"""

from collections import deque
from typing import Any, TypeAlias

from proxy.state.limits import Bucket, Claim, Counter, Limit, Slots, Window

KEPT_MESSAGES = 10_000
Owed: TypeAlias = tuple[Limit, float, float]
"""Limit, amount, stamp."""


def encode(limit: Limit, amount: float) -> list[Any]:
    """A claim as the Lua script reads it; durations in milliseconds, amounts whole."""
    whole = int(amount)
    if isinstance(limit, Window):
        spans = [int(limit.span * 1000), int(limit.cell * 1000), int(limit.grace * 1000)]
        return ["w", limit.name, limit.limit, whole, *spans]
    if isinstance(limit, Bucket):
        return ["b", limit.name, limit.burst, whole, limit.rate]
    if isinstance(limit, Counter):
        spans = [int(limit.ttl * 1000), int(limit.span * 1000), int(limit.cell * 1000)]
        return ["c", limit.name, limit.limit, whole, *spans]
    return ["s", limit.name, limit.limit, whole]


class Debt:
    """`add` while Redis is away; `messages` turns the sums into operations and forgets them."""

    def __init__(self) -> None:
        self.windows: dict[tuple[str, int], tuple[Window, float, float]] = {}
        self.sums: dict[str, tuple[Limit, float]] = {}
        self.said: deque[list[Any]] = deque(maxlen=KEPT_MESSAGES)

    def __len__(self) -> int:
        return len(self.windows) + len(self.sums) + len(self.said)

    def add(self, limit: Limit, amount: float, stamp: float) -> None:
        """Units booked (or, negative, given back) at `stamp`, monotonic seconds. Counters: spent units."""
        if not amount or isinstance(limit, Slots):
            return
        if isinstance(limit, Window):
            cell = (limit.name, int(stamp))
            known = self.windows.get(cell)
            self.windows[cell] = (limit, amount + (known[1] if known else 0.0), stamp)
            if len(self.windows) > KEPT_MESSAGES:
                self.prune(stamp)
        else:
            total = self.sums.get(limit.name)
            self.sums[limit.name] = (limit, amount + (total[1] if total else 0.0))

    def taken(self, claim: Claim, stamp: float) -> None:
        """A reservation made here. What a counter holds is told as it stands, so only what was spent counts here."""
        if not isinstance(claim[0], Counter):
            self.add(claim[0], claim[1], stamp)

    def settled(self, claim: Claim, actual: float, stamp: float) -> None:
        """A settlement, wherever the reservation was made."""
        limit, amount = claim
        self.add(limit, actual if isinstance(limit, Counter) else actual - amount, stamp)

    def spent(self, limit: Limit) -> float:
        """What this counter or bucket owes."""
        owed = self.sums.get(limit.name)
        return owed[1] if owed else 0.0

    def prune(self, now: float) -> None:
        """Forgets windows that are past anyhow."""
        self.windows = {k: v for k, v in self.windows.items() if v[2] + v[0].span + v[0].cell > now}

    def messages(self, now: float, *, windows: bool = True) -> list[tuple[list[Any], Owed | None]]:
        """Operations to say, each with what it stands for should it have to be said again."""
        self.prune(now)
        told: list[tuple[list[Any], Owed | None]] = [(message, None) for message in self.said]
        if windows:
            for window, amount, stamp in self.windows.values():
                message = ["book", encode(window, amount), max(0, int((now - stamp) * 1000))]
                told.append((message, (window, amount, stamp)))
        for limit, amount in self.sums.values():
            told.append((["book", encode(limit, amount), 0], (limit, amount, now)))
        self.windows.clear()
        self.sums.clear()
        self.said.clear()
        return told
