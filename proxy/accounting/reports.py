"""What was spent: sums by any dimensions, percentiles, trend, projection, and what changed. Reads roll-ups, not rows.

Every report is a list of flat objects, so that table, JSON and CSV say the same. The first names are those of ``--by``;
then ``calls`` (reached an upstream or came from a cache), ``cached_calls``, ``refused`` (apart), ``input_tokens``,
``output_tokens`` and ``cost_usd`` (from upstreams only), ``saved_usd`` (hits and followers). ``unpriced`` calls went to
models without a known price: their cost is in no sum.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from functools import cache
from typing import Any, NamedTuple

from proxy.accounting.histogram import percentile
from proxy.accounting.ledger.base import Ledger, Totals, add, ask_histogram, ask_totals
from proxy.accounting.ledger.statements import HOUR
from proxy.accounting.money import NANO, usd
from proxy.accounting.windows import Window

__all__ = ["DIMENSIONS", "Projection", "Row", "changes", "project_month", "summarize", "trend", "unpriced_models"]

Row = dict[str, Any]

DIMENSIONS = {
    "model": "model",
    "model_asked": "model_asked",
    "project": "project",
    "principal": "principal",
    "key": "key",
    "upstream": "upstream",
    "task": "task",
    "route": "route",
    "tags": "tags",
    "version": "version",
    "hour": "slot",
    "day": "slot",
}
"""Name in ``--by`` -> column. ``tag:NAME`` is one more."""

LACKING = "-"
"""What stands for a dimension that a call lacks, as in limits and budgets."""

_TIMES = ("hour", "day")


async def summarize(
    ledger: Ledger,
    since: float,
    until: float,
    by: Sequence[str] = (),
    *,
    where: Mapping[str, str] | None = None,
    time_zone: tzinfo = UTC,
    percentiles: Sequence[float] = (),
) -> list[Row]:
    """One object for each combination of ``by``, dearest first (in order of time when ``by`` begins with one).

    ``since`` <= t < ``until``, Unix seconds. ``percentiles`` (0..1) of the cost of a priced call are added as
    ``cost_p50_usd`` and so on: for whole days in UTC, within 6.3 %, not by hour, day or tag. Raises ``ValueError``
    for a dimension that there is not.
    """
    columns = _columns(by)
    first, last = int(since * 1000), int(until * 1000)
    timed = any(name in _TIMES for name in by)
    finest = ""
    if timed:  # other zones' days begin within a day of UTC
        finest = "days" if time_zone is UTC and "hour" not in by else "hours"
    found = await ask_totals(ledger, first, last, columns, where, finest=finest)
    merged: dict[tuple[str, ...], Totals] = {}
    readers = [(columns.index(_column(name)), _reader(name, time_zone)) for name in by]
    for key, totals in found.items():
        place = tuple([read(key[column]) for column, read in readers])
        if place in merged:
            add(merged[place], totals)
        else:
            merged[place] = totals
    ordered = sorted(merged) if by and by[0] in _TIMES else merged
    rows = [_row(by, place, merged[place]) for place in ordered]
    if percentiles and not timed and all(name in DIMENSIONS for name in by):
        await _add_percentiles(ledger, rows, first, last, by, where, percentiles)
    if not (by and by[0] in _TIMES):
        rows.sort(key=lambda row: (-row["cost_usd"], -row["calls"], *(str(row[name]) for name in by)))
    return rows


async def _add_percentiles(
    ledger: Ledger,
    rows: list[Row],
    first: int,
    last: int,
    by: Sequence[str],
    where: Mapping[str, str] | None,
    percentiles: Sequence[float],
) -> None:
    counts = await ask_histogram(ledger, first, last, [DIMENSIONS[name] for name in by], where)
    for row in rows:
        buckets = counts.get(tuple("" if row[name] == LACKING else row[name] for name in by), [])
        for share in percentiles:
            row[f"cost_p{share * 100:g}_usd"] = usd(percentile(buckets, share))


def _columns(by: Sequence[str]) -> list[str]:
    columns: list[str] = []
    for name in by:
        column = _column(name)
        if column not in columns:
            columns.append(column)
    return columns


def _column(name: str) -> str:
    column = "tags" if name.startswith("tag:") and len(name) > 4 else DIMENSIONS.get(name)
    if column is None:
        raise ValueError(f"by {name!r}: no such dimension; there are {', '.join(DIMENSIONS)} and tag:NAME")
    return column


def _reader(name: str, time_zone: tzinfo) -> Callable[[Any], str]:
    """What a column's value is called in the report, worked out once for each value (an hour has many rows)."""
    if name in _TIMES:
        form = "%Y-%m-%d" if name == "day" else "%Y-%m-%dT%H:00%z"
        return cache(lambda slot: datetime.fromtimestamp(int(slot) * (HOUR // 1000), time_zone).strftime(form))
    if name.startswith("tag:"):
        wanted = f"{name.removeprefix('tag:')}="
        return cache(
            lambda tags: next((part[len(wanted) :] for part in tags.split(",") if part.startswith(wanted)), LACKING)
        )
    return lambda value: str(value) or LACKING


def _row(by: Sequence[str], place: Sequence[str], totals: Totals) -> Row:
    calls, cost, free = totals["calls"], totals["cost"], totals["free"]
    paid = calls - totals["cached_calls"]
    return {
        **dict(zip(by, place, strict=True)),
        "calls": calls,
        "cached_calls": totals["cached_calls"],
        "refused": totals["refused"],
        "input_tokens": totals["input_tokens"],
        "output_tokens": totals["output_tokens"],
        "cost_usd": cost / NANO,
        "saved_usd": totals["saved"] / NANO,
        "failed": totals["failed"],
        "estimated": totals["estimated"],
        "unpriced": totals["unpriced"],
        "free_share": round(free / paid, 6) if free and paid > 0 else 0.0,
        "cached_input_tokens": totals["cached_input"],
        "cache_write_tokens": totals["cache_write"],
        "reasoning_tokens": totals["reasoning"],
        "mean_cost_usd": cost / NANO / paid if paid > 0 else 0.0,
        "mean_ms": round(totals["ms"] / calls, 1) if calls else 0.0,
    }


class Projection(NamedTuple):
    """What the month will have cost when it ends, in USD; ``error_usd`` is one standard error of the rest of it."""

    month: str
    spent_usd: float
    projected_usd: float
    error_usd: float
    days_left: float
    method: str
    unpriced: int
    """Calls so far that are in no figure, because no price is known for their model."""


async def project_month(ledger: Ledger, now: float, time_zone: tzinfo = UTC) -> Projection:
    """Spent so far, plus for every day that is left the mean of the same kind of day over the last four weeks.

    Weekdays and weekends are two kinds (offices sleep on weekends). The error is the standard deviation of the days
    of each kind, added up as if days were independent: sqrt(sum of n * s**2). With under seven whole days of history
    the mean of all days there are is used, and the error says so by its size; with none, nothing is projected.
    """
    span = Window("month", time_zone).at(now)
    first_day = now - 28 * 86_400
    rows = await summarize(ledger, min(first_day, span.start), now, ("day",), time_zone=time_zone)
    cost = {row["day"]: row["cost_usd"] for row in rows}
    today = datetime.fromtimestamp(now, time_zone).date()
    begun = min(cost, default=today.isoformat())
    history: dict[bool, list[float]] = {False: [], True: []}
    for back in range(1, 29):
        day = today - timedelta(days=back)
        if day.isoformat() >= begun:
            history[day.weekday() >= 5].append(cost.get(day.isoformat(), 0.0))
    spent = sum(amount for day, amount in cost.items() if day >= span.name + "-01")
    everything = history[False] + history[True]
    kinds = {weekend: days if len(everything) >= 7 and days else everything for weekend, days in history.items()}
    midnight = Window("day", time_zone).at(now).end
    shares = [(today, max(0.0, (midnight - now) / 86_400))]
    day = today + timedelta(days=1)
    while day.isoformat()[:7] == span.name:
        shares.append((day, 1.0))
        day += timedelta(days=1)
    rest = variance = 0.0
    for day, share in shares:
        days = kinds[day.weekday() >= 5]
        if days:
            mean = sum(days) / len(days)
            rest += share * mean
            variance += share * share * (_variance(days, mean) if len(days) > 1 else mean * mean)
    method = "no whole day of history: nothing is projected"
    if everything:
        way = "weekdays and weekends apart" if len(everything) >= 7 else "all days alike"
        method = f"spent + mean cost of the last {len(everything)} whole days, {way}"
    left = sum(share for _, share in shares)
    unpriced = sum(row["unpriced"] for row in rows if row["day"] >= span.name + "-01")
    error = round(math.sqrt(variance), 9)
    return Projection(span.name, round(spent, 9), round(spent + rest, 9), error, left, method, unpriced)


def _variance(values: Sequence[float], mean: float) -> float:
    return sum((value - mean) ** 2 for value in values) / (len(values) - 1)


async def trend(ledger: Ledger, now: float, days: int = 28, time_zone: tzinfo = UTC) -> Row:
    """The straight line through the cost of the last ``days`` whole days (least squares): USD a day, and the change a
    day in USD and as a share of the mean.
    """
    today = Window("day", time_zone).at(now)
    since = today.start - days * 86_400
    rows = await summarize(ledger, since, today.start, ("day",), time_zone=time_zone)
    costs = {row["day"]: row["cost_usd"] for row in rows}
    end = datetime.fromtimestamp(now, time_zone).date()
    points = [costs.get((end - timedelta(days=back)).isoformat(), 0.0) for back in range(days, 0, -1)]
    mean = sum(points) / days
    middle = (days - 1) / 2
    spread = sum((place - middle) ** 2 for place in range(days))
    slope = sum((place - middle) * (cost - mean) for place, cost in enumerate(points)) / spread if spread else 0.0
    return {"days": days, "mean_usd": mean, "change_usd": slope, "change_share": slope / mean if mean else 0.0}


async def changes(ledger: Ledger, since: float, until: float, by: Sequence[str]) -> list[Row]:
    """What differs from the period of the same length before, the largest difference in cost first."""
    now = {_place(by, row): row for row in await summarize(ledger, since, until, by)}
    before = {_place(by, row): row for row in await summarize(ledger, since - (until - since), since, by)}
    rows: list[Row] = []
    for place in now.keys() | before.keys():
        new, old = now.get(place), before.get(place)
        cost, cost_before = (new["cost_usd"] if new else 0.0), (old["cost_usd"] if old else 0.0)
        rows.append(
            {
                **dict(zip(by, place, strict=True)),
                "cost_usd": cost,
                "cost_before_usd": cost_before,
                "change_usd": round(cost - cost_before, 9),
                "change_share": (cost - cost_before) / cost_before if cost_before else None,
                "calls": new["calls"] if new else 0,
                "calls_before": old["calls"] if old else 0,
                "unpriced": new["unpriced"] if new else 0,
            }
        )
    rows.sort(key=lambda row: (-abs(row["change_usd"]), *(str(row[name]) for name in by)))
    return rows


async def unpriced_models(ledger: Ledger, since: float, until: float) -> dict[str, int]:
    """Models without a known price -> calls to them, the most called first: their cost is in no sum."""
    rows = await summarize(ledger, since, until, ("model",))
    found = {row["model"]: row["unpriced"] for row in rows if row["unpriced"]}
    return dict(sorted(found.items(), key=lambda pair: -pair[1]))


def _place(by: Iterable[str], row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in by)
