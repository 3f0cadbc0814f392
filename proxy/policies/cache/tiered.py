"""Two levels: memory in front of Redis. Looked up here first, kept in both, cleared in both and on every replica.

What Redis had is kept in memory for ``local_ttl`` at most. A copy that is not fresh any more does not hide what Redis
has, since another replica may have renewed it there; it is given when Redis has nothing, or is gone. A clear on another
replica empties the memory of this one within a second where the replicas share their state (``state: redis://...``),
else after ``local_ttl``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from proxy.policies.cache.backend import ByteBoundedCache
from proxy.policies.cache.entry import times_of
from proxy.policies.cache.lru import START
from proxy.policies.cache.pace import Pace
from proxy.policies.cache.stores import UnclearedError, clear_lru, lru_stats

if TYPE_CHECKING:
    from proxy.clock import Clock
    from proxy.policies.cache.lru import ByteLru
    from proxy.policies.cache.redis import RedisStore
    from proxy.policies.cache.selection import Selection
    from proxy.state.interface import State

__all__ = ["TieredStore"]


class TieredStore:
    """behind: the second level. local_ttl: seconds."""

    far = True

    def __init__(self, far: RedisStore, max_bytes: int, local_ttl: float, clock: Clock) -> None:
        self.secret = far.secret
        self.behind = far
        self.near = ByteBoundedCache(max_bytes, monotonic=clock.monotonic)
        self._lru = self.near.lru
        self.memory: ByteLru | None = self._lru
        self._local_ttl = local_ttl
        self._now = clock.now
        self._heed = far.clears.heed
        # Nothing in this memory is sure any more; Redis has what is left.
        far.clears.by_others.append(self._lru.clear)

    def tell_through(self, state: State) -> None:
        """How replicas tell each other of a clear."""
        self.behind.tell_through(state)

    @property
    def epoch(self) -> int:
        """Grows with every clear, on this replica or another."""
        return self._heed()

    def look(self, key: bytes) -> bytes | None:
        self._heed()
        found = self._lru.peek(key)
        if found is None or times_of(found, START)[1] <= self._now():
            return self.behind.look(key)
        return found

    async def fetch(self, key: bytes) -> bytes | None:
        epoch = self._heed()
        return self._later(key, await self.behind.fetch(key), epoch)

    async def fetch_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        epoch = self._heed()
        pace = Pace()
        found = await self.behind.fetch_many(keys)
        for place, key in enumerate(keys):
            found[place] = one = self._later(key, found[place], epoch)
            await pace.took(0 if one is None else len(one))
        return found

    def put(self, key: bytes, entry: bytes, ttl: float) -> None:
        self._lru.put(key, entry, min(ttl, self._local_ttl))
        self.behind.put(key, entry, ttl)

    def remove(self, key: bytes) -> None:
        self._lru.remove(key)
        self.behind.remove(key)

    async def clear(self, which: Selection) -> int:
        self.behind.clears.count += 1
        count = await clear_lru(self._lru, which)
        try:
            return max(count, await self.behind.clear(which))
        except UnclearedError as error:
            error.count = max(count, error.count)
            raise
        finally:
            # Between the two, a look-up may have brought an entry from Redis back into memory.
            await clear_lru(self._lru, which)

    async def start(self) -> None:
        await self.behind.start()

    async def close(self) -> None:
        self._lru.clear()
        await self.behind.close()

    def stats(self) -> dict[str, Any]:
        return {**self.behind.stats(), "store": "tiered", **lru_stats(self._lru)}

    def _later(self, key: bytes, found: bytes | None, epoch: int) -> bytes | None:
        """The later one of what Redis had and of what is here, which may be past its time; kept here unless there was
        a clear meanwhile."""
        kept = self._lru.peek(key)
        if found is None or (kept is not None and times_of(kept, START)[0] > times_of(found, START)[0]):
            return kept
        if epoch == self._heed():
            self._lru.put(key, found[START:], self._local_ttl)
        return found
