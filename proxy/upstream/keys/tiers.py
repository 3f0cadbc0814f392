"""The tiers of a pool for every task and model, and the figures that they are ordered by.

A tier is a `Peers`: keys that stand equal by the leading static strategies. Calls for which the same keys stand equal
share the same object, whatever their task and model are.
"""

from collections.abc import Sequence
from typing import Any, Final, TypeAlias

from proxy.state import NEVER, State
from proxy.upstream.keys.key import Key
from proxy.upstream.keys.peers import Peers
from proxy.upstream.keys.strategies import STATIC, Price, split, standing, tiers

LOOK_EVERY: Final = 0.25
"""Seconds for which loads and latencies are counted on, before the shared figures are asked again."""
FORGET_LATENCY: Final = 60.0
"""Seconds after which a key's latency counts as unknown, so that one slow minute is not held against it for ever."""
MOST_TIERS: Final = 1000

Tiers: TypeAlias = tuple[Peers, ...]


class PoolTiers:
    """See the module.

    all: the tiers of every call, where neither its task nor its model changes them. pinned: those of a call for which
    `sticky` alone decides. loads: a strategy compares them. ends: the end of a call changes the order, too. look_at:
    when to `look` again. sticks: what a conversation is known by may decide.
    """

    __slots__ = (
        "_by_model", "_by_task", "_dynamic", "_keys", "_peers", "_price", "_state", "_static", "_tiers", "all", "ends",
        "loads", "look_at", "pinned", "sticks",
    )  # fmt: skip

    def __init__(self, keys: tuple[Key, ...], strategies: Sequence[str], state: State, price: Price | None) -> None:
        self._keys = keys
        self._state = state
        self._static, self._dynamic = split(strategies)
        self._price: Price = price or (lambda _key, _model: None)
        self._by_task = "task" in strategies and any(key.task_types for key in keys)
        self._by_model = "cheapest" in strategies and price is not None
        self.loads = "least_loaded" in self._dynamic
        self.ends = self.loads or "fastest" in self._dynamic
        self.sticks = "sticky" in strategies and len(keys) > 1
        self.look_at = -NEVER
        self._tiers: dict[tuple[str | None, str | None], Tiers] = {}
        self._peers: dict[tuple[Any, ...], Peers] = {}
        self.all: Tiers | None = None if self._by_task or self._by_model else self._make(None, None)
        self.pinned: Tiers = (self._peers.setdefault((), Peers(keys, ("sticky",))),)

    def of(self, task: str | None, model: str | None) -> Tiers:
        """The tiers of one call, best first."""
        if self.all is not None:
            return self.all
        words = (task if self._by_task else None, model if self._by_model else None)
        return self._tiers.get(words) or self._make(*words)

    def _make(self, task: str | None, model: str | None) -> Tiers:
        if len(self._tiers) >= MOST_TIERS:
            self._tiers.clear()  # tasks and models are words of the clients
        made = tuple(
            [self._meet(keys, task, model) for keys in tiers(self._keys, self._static, task, model, self._price)]
        )
        self._tiers[task, model] = made
        return made

    def _meet(self, keys: tuple[Key, ...], task: str | None, model: str | None) -> Peers:
        """Keys that stand equal for this call; the same object for all calls for which they stand so."""
        places = {word: standing(keys, word, task, model, self._price) for word in self._dynamic if word in STATIC}
        known = (tuple(key.id for key in keys), *places.values())
        if known not in self._peers:
            self._peers[known] = Peers(keys, self._dynamic, places)
        return self._peers[known]

    def look(self, now: float) -> None:
        """Reads the figures that others change too, or that age: loads and latencies."""
        self.look_at = now + LOOK_EVERY
        if self.sticks and "round_robin" in self._dynamic[: self._dynamic.index("sticky")]:
            # Whose turn it is decides between any two keys, once they have been used at all.
            self.sticks = not all(key.life.last_used for key in self._keys)
        for key in self._keys:
            life = key.life
            if self.loads:
                life.load = max(
                    [self._state.spent(window) / window.limit for window in (key.rpm, key.tpm) if window is not None],
                    default=0.0,
                )
                life.share = max(life.load, life.in_flight * key.part_of_slots)
            if now - life.latency_at >= FORGET_LATENCY:
                life.pace = 0.0
        for peers in self._peers.values():
            peers.idle()

    def wake(self) -> None:
        """A key went out or came back: whoever is awake looks at all keys anew."""
        for peers in self._peers.values():
            if peers.awake:
                peers.wake()
