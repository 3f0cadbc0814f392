"""The page of keys, one row a key: what the workers used of it together, and the state that an operator should see."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

_FROM_BEST: Final = ("ready", "full", "cooling", "suspect", "disabled")
"""States; a worker that is worse off than the others speaks for the key."""
_LIMIT_OF: Final = {"rpm": "max_rpm", "tpm": "max_tpm"}


def merged(said: Sequence[tuple[int, Any]]) -> list[dict[str, Any]]:
    """Pages of `GET /api/v1/keys` by worker number, as one; in the order in which the first has its keys."""
    found: dict[tuple[str, str], list[tuple[int, dict[str, Any]]]] = {}
    for number, page in said:
        for row in page if isinstance(page, list) else ():
            found.setdefault((row["pool"], row["id"]), []).append((number, row))
    return [_whole(rows) for rows in found.values()]


def _whole(rows: Sequence[tuple[int, dict[str, Any]]]) -> dict[str, Any]:
    number, worst = max(rows, key=lambda pair: _FROM_BEST.index(pair[1]["state"]))
    each = [row for _, row in rows]
    whole = dict(worst)
    if worst["why"] and any(row["state"] != worst["state"] for row in each):
        whole["why"] = f"{worst['why']} (worker {number})"
    for figure in ("requests", "in_flight"):
        whole[figure] = sum(row[figure] for row in each)
    for figure, limit in _LIMIT_OF.items():
        # What is limited in Redis every worker knows of all; anything else each has counted for itself.
        together = max if worst["shared"] and worst[limit] is not None else sum
        whole[figure] = together([row[figure] for row in each])
    for figure in ("success_rate", "latency"):
        whole[figure] = _mean([(row[figure], row["requests"]) for row in each])
    whole["last_used"] = max([row["last_used"] for row in each if row["last_used"] is not None], default=None)
    whole["cooling_models"] = _united([row["cooling_models"] for row in each], max)
    whole["tasks"] = _united([row["tasks"] for row in each], sum)
    return whole


def _mean(weighed: Sequence[tuple[float | None, int]]) -> float | None:
    """By requests: a worker that had few says little."""
    known = [(value, weight) for value, weight in weighed if value is not None]
    weights = sum(weight for _, weight in known)
    if not weights:
        return known[0][0] if known else None
    return sum(value * weight for value, weight in known) / weights


def _united(maps: Sequence[dict[str, Any]], together: Any) -> dict[str, Any]:
    names = dict.fromkeys(name for one in maps for name in one)
    return {name: together([one[name] for one in maps if name in one]) for name in names}
