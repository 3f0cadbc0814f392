"""Budgets as arithmetic: which counters a call touches, how much it wants of each, and what a refusal means.

Pure: counters are kept by ``proxy.state`` (memory or Redis), which takes all claims of an attempt or none. Money is
nano-dollars, so a counter is an integer that no order of settling can change.

    reserve   worst case of the attempt: input estimate + bound on the output, at the target's and key's price
    settle    what it used, or the estimate of what was sent and received when the provider did not say
    free      nothing was sent

A claim that would not fit into an unused window, or not beside what is already spent, is *spent*: refused
until the window ends. One that only others' reservations stand in the way of is *held*: they will settle for less.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Literal, NamedTuple

from proxy.accounting.money import NANO, usd_text
from proxy.accounting.purse import Purse
from proxy.accounting.windows import Window
from proxy.state.limits import Claims, Counter, Refusal

__all__ = ["METRICS", "Amounts", "Bucket", "Budget", "obstacle"]

METRICS = ("usd", "tokens", "calls")
_KEPT = 10_000
_AFTER = 3_600.0  # a counter outlives its window by an hour, for calls that settle late


class Amounts(NamedTuple):
    """What an attempt wants or used: nano-dollars, tokens, calls."""

    usd: int
    tokens: int
    calls: int = 1


class Bucket:
    """The counters of one budget for one value of its dimensions, while ``starts <= now < ends`` (Unix seconds).

    ``purse``: they are in hand, once a call has asked for them; ``unpriced``: those that a call without a price counts
    on. Both only where the counters are this process' own.
    """

    __slots__ = ("counters", "ends", "purse", "starts", "unpriced", "value")

    def __init__(self, value: str, starts: float, ends: float, counters: tuple[tuple[int, Counter], ...]) -> None:
        """``counters``: (place in METRICS, counter)."""
        self.value = value
        self.starts = starts
        self.ends = ends
        self.counters = counters
        self.purse: Purse | None = None
        self.unpriced: Purse | None = None


class Budget:
    """One entry of a chain: limits per window for each value of its dimensions."""

    def __init__(
        self,
        name: str,
        per: Sequence[str],
        window: Window,
        *,
        usd: int | None = None,
        tokens: int | None = None,
        calls: int | None = None,
    ) -> None:
        """``name``: unique in the configuration; counters are found by it. ``usd`` in nano-dollars."""
        limits = {"usd": usd, "tokens": tokens, "calls": calls}
        self.limits: Mapping[str, int] = {name: limit for name, limit in limits.items() if limit is not None}
        if not self.limits:
            raise ValueError(f"budget {name}: needs at least one of usd, tokens, calls")
        self.name = name
        self.per = tuple(per)
        self.window = window
        self._places = tuple(METRICS.index(name) for name in self.limits)
        self._unpriced = tuple(place for place in self._places if place)
        #: The buckets of the values that were seen, also those whose window is over.
        self.known: dict[str, Bucket] = {}

    def bucket(self, value: str, now: float) -> Bucket:
        """The counters for ``value`` (its dimensions joined by ``|``) at wall time ``now``. One look-up mostly."""
        found = self.known.get(value)
        if found is not None and found.starts <= now < found.ends:
            return found
        return self._make(value, now)

    def _make(self, value: str, now: float) -> Bucket:
        span = self.window.at(now)
        rolling = self.window.rolling
        counters = tuple(
            (
                METRICS.index(metric),
                Counter(
                    f"budget:{self.name}:{metric}:{span.name}:{value}",
                    limit,
                    rolling if rolling else span.end - now + _AFTER,
                    span=rolling,
                ),
            )
            for metric, limit in self.limits.items()
        )
        if len(self.known) >= _KEPT:  # values come from clients
            self.known.clear()
        lasts = (0.0, float("inf")) if rolling else span[:2]
        found = self.known[value] = Bucket(value, *lasts, counters)
        return found

    def buckets(self, now: float) -> list[Bucket]:
        """Those of every value that was seen in the window that runs."""
        return [bucket for bucket in self.known.values() if bucket.starts <= now < bucket.ends]

    def claims(self, bucket: Bucket, amounts: tuple[int, int, int], priced: bool = True) -> Claims:
        """What an attempt wants of each counter. An unpriced model counts as tokens and calls alone."""
        counters = bucket.counters
        if priced:
            if len(counters) == 1:
                [(place, counter)] = counters
                return ((counter, amounts[place]),)
            return tuple([(counter, amounts[place]) for place, counter in counters])
        return tuple([(counter, amounts[place]) for place, counter in counters if place])

    def amounts(self, claims: Claims, used: tuple[int, int, int]) -> Sequence[int]:
        """What was used, in the order of ``claims``."""
        places = self._places
        if len(claims) != len(places):
            places = self._unpriced
        return (used[places[0]],) if len(places) == 1 else [used[place] for place in places]

    def resets(self, now: float) -> float:
        """Unix seconds at which the current window ends; for a rolling one, when all of it is past."""
        return now + self.window.rolling if self.window.rolling else self.window.at(now).end

    def explain(self, refusal: Refusal, wanted: int, value: str, now: float) -> str:
        """What the caller reads: which budget, how much of it is gone, when it begins anew."""
        prefix = f"budget:{self.name}:"
        shown = _shown(refusal.limit.name.removeprefix(prefix).partition(":")[0])
        window = f"the last {self.window.rolling:g} s" if self.window.rolling else f"this {self.window.kind}"
        who = f"{'/'.join(self.per)} {value!r}" if self.per != ("all",) else "all calls"
        back = datetime.fromtimestamp(self.resets(now), UTC).strftime("%Y-%m-%d %H:%M:%SZ")
        text = f"Budget {self.name} of {who}: {shown(int(refusal.used))} of {shown(int(refusal.limit.limit))} are spent"
        if refusal.held:
            text += f", {shown(int(refusal.held))} are reserved by calls in flight"
        renewed = (
            f"it frees as calls grow old, all of it by {back}" if self.window.rolling else f"it begins anew at {back}"
        )
        return f"{text} for {window}; this call may need {shown(wanted)}; {renewed}."


def obstacle(refusal: Refusal, wanted: int) -> Literal["spent", "held"]:
    """Why a claim of ``wanted`` does not fit: the limit is used up, or only others' reservations stand there."""
    return "held" if refusal.used + wanted <= refusal.limit.limit else "spent"


def _shown(metric: str) -> Callable[[int], str]:
    if metric == "usd":
        return lambda nano: f"${usd_text(nano, places=4 if nano < NANO else 2)}"
    return lambda count: f"{count} {metric}"
