"""All key pools of one snapshot, found by pool or by the id of a key (ids are unique over all pools)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from proxy.clock import Clock
from proxy.state import State
from proxy.upstream.keys.key import Key, Life
from proxy.upstream.keys.ring import KeyRing
from proxy.upstream.keys.strategies import Price

if TYPE_CHECKING:
    from proxy.config.keys import KeyPool
    from proxy.services import Services


class KeyRings:
    """The rings by pool name. lives: hand over `before.lives` on a reload, so that keys keep their history."""

    def __init__(
        self,
        pools: "Mapping[str, KeyPool]",
        state: State,
        clock: Clock | None = None,
        *,
        price: Price | None = None,
        lives: dict[str, Life] | None = None,
    ) -> None:
        self.lives: dict[str, Life] = {} if lives is None else lives
        self.rings: Mapping[str, KeyRing] = {
            name: KeyRing(
                name,
                [Key.from_config(key, pool) for key in pool.keys],
                pool.strategy,
                state,
                clock,
                price=price,
                lives=self.lives,
            )
            for name, pool in pools.items()
        }
        # Another replica may use a key up before this one uses it at all, and then Redis may go.
        state.watch([limit for ring in self.rings.values() for key in ring.keys for limit in key.limits])

    def __repr__(self) -> str:
        return f"<KeyRings {', '.join(self.rings)}>"

    def get(self, pool: str) -> KeyRing | None:
        """The ring of a pool."""
        return self.rings.get(pool)

    def key(self, key_id: str) -> Key | None:
        """A key by id."""
        return next((ring.by_id[key_id] for ring in self.rings.values() if key_id in ring.by_id), None)

    def switch(self, key_id: str, *, on: bool) -> bool:
        """Enables or disables a key by id; False when there is none."""
        return any(ring.switch(key_id, on=on) for ring in self.rings.values())

    def snapshot(self) -> list[dict[str, Any]]:
        """Every key, for `GET /api/v1/keys`."""
        return [key for ring in self.rings.values() for key in ring.snapshot()]


def rings_for(services: "Services", lives: dict[str, Life] | None = None, price: Price | None = None) -> KeyRings:
    """The part `keys` of a snapshot. lives: those of the snapshot before. price: see `strategies`."""
    return KeyRings(services.config.keys, services.get("state"), services.clock, price=price, lives=lives)
