"""How one key is chosen of many: strategies, applied in the order listed until one key is left.

Each strategy puts a number on a key for a call, lower is better, so that applying them in order is comparing tuples.
`task`, `priority` and `cheapest` depend on the configuration only: as long as they come first they are worked out once
for each task (and model), as tiers of keys that stand equal. The others are asked at each call, within a tier.

| strategy | prefers |
|---|---|
| task | keys for the call's task, then general keys; keys for other tasks only in a pool that has no general key |
| priority | the highest number |
| cheapest | free tiers, then the lowest price of a token for the model |
| round_robin | the key that was used longest ago |
| weighted | each key in proportion to its weight, spread evenly (smooth weighted round robin) |
| least_loaded | the smallest used share of its tightest limit, then the fewest calls in flight |
| fastest | the smallest moving average of time to first byte; unknown ones are tried |
| sticky | the same key for the same conversation or principal (rendezvous hashing: no table, all replicas agree) |

What is still equal after the last strategy takes turns.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Final, TypeAlias

from proxy.upstream.keys.key import Key, hash_of

Price: TypeAlias = Callable[[str | None], float | None]
"""USD a token costs for a model, without a key's own price; None when unknown."""

STRATEGIES: Final = ("task", "priority", "round_robin", "weighted", "least_loaded", "cheapest", "fastest", "sticky")
STATIC: Final = frozenset({"task", "priority", "cheapest"})
_MASK: Final = (1 << 64) - 1
FORGET_LATENCY: Final = 60.0
"""Seconds after which a key's latency counts as unknown, so that one slow minute is not held against it for ever."""


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
    """USD for a token, half input and half output where they differ; infinite when nobody knows."""
    if key.tier == "free":
        return 0.0
    if key.cost_per_token is not None:
        return key.cost_per_token
    own = key.prices.get(model) if model is not None else None
    if own is not None:
        return float(own.input + own.output) / 2_000_000
    known = price(model)
    return float("inf") if known is None else known


def stickiness(sticky: int, key: Key) -> int:
    """Rendezvous hashing: the key with the smallest number serves this id; when it is out, the next smallest does.

    The mix is the finalizer of SplitMix64 (Steele, Lea, Flood 2014) over the two hashes.
    """
    mixed = ((sticky ^ key.seed) * 0xBF58476D1CE4E5B9) & _MASK
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
    return mixed ^ (mixed >> 31)


class Order:
    """Puts the keys of a tier in the order of the dynamic strategies. load: a key's used share, 0 to 1."""

    def __init__(
        self, dynamic: Sequence[str], load: Callable[[Key, float], float], price: Price, clock: Callable[[], float]
    ) -> None:
        self.dynamic = tuple(dynamic)
        self._load = load
        self._price = price
        self._clock = clock
        self._only_load = self.dynamic == ("least_loaded",)

    def sort(self, keys: Sequence[Key], task: str | None, model: str | None, sticky: str | None) -> list[Key]:
        """Best first."""
        if not self.dynamic:
            return sorted(keys, key=lambda key: key.life.last_used)
        now = self._clock()
        if self._only_load:
            load = self._load
            rows = [(load(key, now), key.life.in_flight, key.life.last_used, key.id, key) for key in keys]
            rows.sort()
            return [row[4] for row in rows]
        stuck = hash_of(sticky) if sticky is not None and "sticky" in self.dynamic else None
        weights = self._credits(keys) if "weighted" in self.dynamic else None
        ranked = []
        for key in keys:
            life = key.life
            rank: list[float] = []
            for word in self.dynamic:
                if word == "least_loaded":
                    rank += (self._load(key, now), life.in_flight)
                elif word == "round_robin":
                    rank.append(life.last_used)
                elif word == "weighted" and weights is not None:
                    rank.append(-weights[key.id])
                elif word == "fastest":
                    fresh = life.latency is not None and now - life.latency_at < FORGET_LATENCY
                    rank.append(life.latency if fresh and life.latency is not None else 0.0)
                elif word == "sticky":
                    rank.append(0 if stuck is None else stickiness(stuck, key))
                else:
                    rank += _rank(key, (word,), task, model, self._price)
            ranked.append((*rank, life.last_used, key.id, key))
        ranked.sort()
        return [entry[-1] for entry in ranked]  # type: ignore[misc]

    @staticmethod
    def _credits(keys: Sequence[Key]) -> dict[str, float]:
        return {key.id: key.life.credit + key.weight for key in keys}

    def taken(self, key: Key, among: Sequence[Key]) -> None:
        """Pays for a weighted choice: everybody gets his weight, the chosen one pays the sum of all."""
        if "weighted" in self.dynamic:
            total = sum(one.weight for one in among)
            for one in among:
                one.life.credit += one.weight
            key.life.credit -= total
