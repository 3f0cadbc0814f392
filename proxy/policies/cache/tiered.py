"""Two levels: memory in front of Redis. Looked up here first, kept in both, cleared in both and on every replica.

What Redis had is kept in memory for ``local_ttl`` at most. A clear on another replica empties the memory of this one
within a second where the replicas share their state (``state: redis://...``), else after ``local_ttl``.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from proxy.policies.cache.backend import ByteBoundedCache
from proxy.policies.cache.lru import START
from proxy.policies.cache.stores import clear_lru, lru_stats

if TYPE_CHECKING:
    from proxy.policies.cache.redis import RedisStore
    from proxy.policies.cache.selection import Selection
    from proxy.state.interface import State

__all__ = ["TieredStore"]

_NOTED_FOR: Final = 3600.0


class TieredStore:
    """far: the second level."""

    far = True

    def __init__(self, far: RedisStore, max_bytes: int, local_ttl: float, monotonic: Callable[[], float]) -> None:
        self.secret = far.secret
        self.behind = far
        self.near = ByteBoundedCache(max_bytes, monotonic=monotonic)
        self._lru = self.near.lru
        self._local_ttl = local_ttl
        self._state: State | None = None
        self._note = f"cache.cleared.{far.namespace}"
        self._noted: bytes | None = None
        self._epoch = 0

    def tell_through(self, state: State) -> None:
        """How replicas tell each other of a clear; said again by each new configuration, whose state it is."""
        self._state = state
        self._noted = state.read(self._note) or self._noted

    @property
    def epoch(self) -> int:
        """Grows with every clear, on this replica or another."""
        self._heed()
        return self._epoch

    def look(self, key: bytes) -> bytes | None:
        self._heed()
        found = self._lru.peek(key)
        return found if found is not None else self.behind.look(key)

    async def fetch(self, key: bytes) -> bytes | None:
        epoch = self._epoch
        found = await self.behind.fetch(key)
        if found is not None and epoch == self._epoch:
            await self.near.set(key, found[START:], ttl=self._local_ttl)
        return found

    def put(self, key: bytes, entry: bytes, ttl: float) -> None:
        self._lru.put(key, entry, min(ttl, self._local_ttl))
        self.behind.put(key, entry, ttl)

    def remove(self, key: bytes) -> None:
        self._lru.remove(key)
        self.behind.remove(key)

    async def clear(self, which: Selection) -> int:
        self._epoch += 1
        count = await clear_lru(self._lru, which)
        behind = await self.behind.clear(which)
        if self._state is not None:
            self._noted = uuid.uuid4().bytes
            self._state.post(self._note, self._noted, _NOTED_FOR)
        # Between the two, a look-up may have brought an entry from Redis back into memory.
        await clear_lru(self._lru, which)
        return max(count, behind)

    async def start(self) -> None:
        await self.behind.start()

    async def close(self) -> None:
        self._lru.clear()
        await self.behind.close()

    def stats(self) -> dict[str, Any]:
        return {**self.behind.stats(), "store": "tiered", **lru_stats(self._lru)}

    def _heed(self) -> None:
        """Another replica has cleared: nothing in this memory is sure any more; Redis has what is left."""
        if self._state is None:
            return
        noted = self._state.read(self._note)
        if noted is not None and noted != self._noted:
            self._noted = noted
            self._epoch += 1
            self._lru.clear()
