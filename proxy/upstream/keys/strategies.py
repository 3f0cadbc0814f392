"""How one key is chosen of many: strategies, applied in the order listed until one key is left.

`task`, `priority` and `cheapest` depend on the configuration only: as long as they come first they are worked out once
for each task (and model), as tiers of keys that stand equal. The others depend on how the keys fare, see `tier`.

| strategy | prefers |
|---|---|
| task | keys for the call's task, then general keys; keys for other tasks only in a pool that has no general key |
| priority | the highest number |
| cheapest | free tiers, then the lowest price of a token for the model |
| round_robin | the key that was used longest ago |
| weighted | each key in proportion to its weight, spread evenly (stride scheduling) |
| least_loaded | the smallest used share of its tightest limit, then the fewest calls in flight |
| fastest | the smallest moving average of time to first byte; unknown ones are tried |
| sticky | the same key for the same conversation or principal (rendezvous hashing: all replicas agree) |

What is still equal after the last strategy takes turns.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Final, TypeAlias

from proxy.upstream.keys.key import Key

Price: TypeAlias = Callable[[str, str | None], float | None]
"""USD that a token costs, half input and half output, by the id of a key and the model; None when unknown."""

STRATEGIES: Final = ("task", "priority", "round_robin", "weighted", "least_loaded", "cheapest", "fastest", "sticky")
STATIC: Final = frozenset({"task", "priority", "cheapest"})


def split(strategies: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The leading static strategies, and the rest. Raises ValueError for a word that is none."""
    for word in strategies:
        if word not in STRATEGIES:
            raise ValueError(f"strategy {word!r} is not known; allowed: {', '.join(STRATEGIES)}")
    first = next((place for place, word in enumerate(strategies) if word not in STATIC), len(strategies))
    return tuple(strategies[:first]), tuple(strategies[first:])


def tiers(
    keys: Iterable[Key], static: Sequence[str], task: str | None, model: str | None, price: Price
) -> tuple[tuple[Key, ...], ...]:
    """The keys that may serve the call, best tier first."""
    candidates = list(keys)
    if "task" in static:
        has_general = any(not key.task_types for key in candidates)
        candidates = [key for key in candidates if not has_general or not key.task_types or task in key.task_types]
    ranked = sorted(candidates, key=lambda key: _rank(key, static, task, model, price))
    return tuple(tuple(tier) for _, tier in groupby(ranked, key=lambda key: _rank(key, static, task, model, price)))


def standing(keys: Sequence[Key], word: str, task: str | None, model: str | None, price: Price) -> tuple[int, ...]:
    """Each key's place by one static strategy: 0 for the best, the same for equal ones."""
    ranks = [_rank(key, (word,), task, model, price) for key in keys]
    order = sorted(set(ranks))
    return tuple(order.index(rank) for rank in ranks)


def _rank(key: Key, static: Sequence[str], task: str | None, model: str | None, price: Price) -> tuple[float, ...]:
    rank: list[float] = []
    for word in static:
        if word == "task":
            rank.append(task_rank(key, task))
        elif word == "priority":
            rank.append(-key.priority)
        else:
            rank.append(cost(key, model, price))
    return tuple(rank)


def task_rank(key: Key, task: str | None) -> int:
    """0: for this task, 1: general, 2: for other tasks."""
    if not key.task_types:
        return 1
    return 0 if task in key.task_types else 2


def cost(key: Key, model: str | None, price: Price) -> float:
    """USD for a token; infinite when nobody knows."""
    if key.tier == "free":
        return 0.0
    if key.cost_per_token is not None:
        return key.cost_per_token
    known = price(key.id, model)
    return float("inf") if known is None else known
