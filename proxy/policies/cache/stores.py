"""Where entries are kept: one interface; memory, Redis, and both as two levels, side by side.

A store is opened once a process and kept by whoever uses it, so that a reload of the configuration, which builds the
new policies before the old ones stop, keeps what was stored.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from proxy.policies.cache.lru import START, ByteLru

if TYPE_CHECKING:
    from proxy.policies.cache.options import CacheOptions
    from proxy.policies.cache.selection import Selection
    from proxy.services import Services
    from proxy.state.interface import State

__all__ = ["MemoryStore", "Store", "StoreError", "UnclearedError", "acquire", "check", "open_now", "release"]


class StoreError(ValueError):
    """A store that cannot be opened as configured; the message says what to change."""


class UnclearedError(Exception):
    """A clear that did not come to its end. count: entries that went. where: what it did not reach. Nothing is served
    from there until the clear has been carried out, as long as this process lives."""

    def __init__(self, count: int, where: str) -> None:
        super().__init__(f"{where} could not be cleared")
        self.count = count
        self.where = where


class Store(Protocol):
    """``look`` is what memory knows, at once; ``fetch`` asks further where ``far`` says that there is further to ask.

    No method but ``clear`` raises, save for cancellation: a store that is slow or gone has nothing, and what it cannot
    keep is dropped.
    memory: what of it is in this process. epoch: grows with every ``clear``, so that an answer that was under way can
    be told from one asked for after it. A store that is shared knows of the clears of other replicas, too, where they
    share their state.
    """

    far: bool
    secret: bytes
    memory: ByteLru | None

    @property
    def epoch(self) -> int:
        """See above."""

    def look(self, key: bytes) -> bytes | None:
        """What is known here and now. The entry begins at ``START``; what stands before it is the table's."""

    async def fetch(self, key: bytes) -> bytes | None:
        """What others know; within 50 ms. The entry begins at ``START``."""

    async def fetch_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The same for several, in their order; in vain within 50 ms."""

    def put(self, key: bytes, entry: bytes, ttl: float) -> object:
        """Keep an entry for ``ttl`` seconds. Returns at once; Redis gets it in the background, what is put in one turn
        of the loop together."""

    def remove(self, key: bytes) -> object:
        """Forget one entry."""

    async def clear(self, which: Selection) -> int:
        """Forget entries; how many. Raises UnclearedError."""

    async def start(self) -> None:
        """Called by the first who uses it."""

    async def close(self) -> None:
        """Called by the last."""

    def stats(self) -> dict[str, Any]:
        """For the admin pages."""


# Names of entries in memory mean nothing outside of this process, but stay the same over a reload.
_PROCESS_SECRET: Final = os.urandom(32)


class MemoryStore:
    """In this process only: ``ByteLru`` as it is. (The same as an aiocache backend: ``backend.ByteBoundedCache``;
    importing aiocache loads redis-py where it is installed, 150 ms and 13 MB that memory alone does not need.)"""

    far = False

    def __init__(self, max_bytes: int, monotonic: Callable[[], float]) -> None:
        self.lru = lru = ByteLru(max_bytes, monotonic)
        self.memory: ByteLru | None = lru
        self.epoch = 0
        self.secret = _PROCESS_SECRET
        self.look, self.put, self.remove = lru.peek, lru.put, lru.remove

    async def fetch(self, key: bytes) -> bytes | None:
        return self.lru.peek(key)

    async def fetch_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return [self.lru.peek(key) for key in keys]

    async def clear(self, which: Selection) -> int:
        self.epoch += 1
        return await clear_lru(self.lru, which)

    async def start(self) -> None:
        return

    async def close(self) -> None:
        self.lru.clear()

    def stats(self) -> dict[str, Any]:
        return {"store": "memory", **lru_stats(self.lru)}


async def clear_lru(lru: ByteLru, which: Selection) -> int:
    """Forget entries, a shard at a time, so that the loop is never kept."""
    if which.everything:
        return lru.clear()
    count = 0
    for shard in lru.scan():
        for key, data in shard:
            if which.takes(key, data, START):
                count += lru.remove(key)
        await asyncio.sleep(0)
    return count


def lru_stats(lru: ByteLru) -> dict[str, Any]:
    """Figures of what is in memory."""
    return {
        "entries": lru.entries,
        "bytes": lru.bytes,
        "max_bytes": lru.max_bytes,
        "evicted": lru.evicted,
        "expired": lru.expired,
    }


class _Open:
    __slots__ = ("store", "users")

    def __init__(self, store: Store) -> None:
        self.store = store
        self.users = 0


_open: dict[Hashable, _Open] = {}


async def acquire(options: CacheOptions, services: Services) -> tuple[Hashable, Store]:
    """The store that the options name, opened if nobody has; give the name back with ``release``. Raises StoreError."""
    name, make = _plan(options, services)
    if services.dry:
        name = object()
    held = _open.get(name)
    if held is None:
        held = _open[name] = _Open(make())
    held.users += 1
    state = _told_through(options, services)
    if state is not None:
        held.store.tell_through(state)  # type: ignore[attr-defined]
    if held.users == 1:
        await held.store.start()
    return name, held.store


async def release(name: Hashable) -> None:
    """The store is not used any more by one who acquired it; the last one closes it."""
    held = _open.get(name)
    if held is None:
        return
    held.users -= 1
    if held.users <= 0:
        del _open[name]
        await held.store.close()


def check(options: CacheOptions, services: Services) -> None:
    """Raises StoreError for options that cannot work with the rest of the configuration."""
    _plan(options, services)
    _told_through(options, services)  # parts are started with the snapshot, so it must be asked for before


def _told_through(options: CacheOptions, services: Services) -> State | None:
    """How replicas tell each other of a clear; None when there is nobody to tell."""
    if options.store == "memory" or services.config.state == "memory" or services.dry:
        return None
    state: State = services.get("state")
    return state


def open_now(options: CacheOptions, services: Services) -> Store:
    """A store of one's own, for a policy that works without having been started. Raises StoreError."""
    return _plan(options, services)[1]()


def _plan(options: CacheOptions, services: Services) -> tuple[Hashable, Callable[[], Store]]:
    monotonic = services.clock.monotonic
    memory: Callable[[], Store] = lambda: MemoryStore(options.max_bytes, monotonic)  # noqa: E731
    if options.store == "memory":
        return ("memory", options.max_bytes), memory
    url = options.redis.get_secret_value() if options.redis is not None else services.config.state
    if url == "memory":
        raise StoreError(
            f"cache: store: {options.store} needs a Redis: set `redis:` here, or `state: redis://host:6379/0` for all"
        )
    secrets = _secrets(options)
    if services.dry:
        return ("memory", options.max_bytes), memory

    def shared() -> Store:
        from proxy.policies.cache.redis import RedisStore  # noqa: PLC0415 - 150 ms, only for who shares
        from proxy.policies.cache.tiered import TieredStore  # noqa: PLC0415

        far = RedisStore(url, options.namespace, secrets, log=services.log)
        if options.store == "redis":
            return far
        return TieredStore(far, options.max_bytes, options.local_ttl, services.clock)

    return (options.store, url, options.namespace, secrets, options.max_bytes, options.local_ttl), shared


def _secrets(options: CacheOptions) -> tuple[str, ...]:
    if options.encrypt == "never":
        return ()
    from proxy.config.secrets import FILE_VARIABLE, KEY_VARIABLE, SecretError, master_keys  # noqa: PLC0415

    wanted = options.encrypt == "always" or any(os.environ.get(name) for name in (KEY_VARIABLE, FILE_VARIABLE))
    if not wanted:
        return ()
    try:
        return master_keys(os.environ)
    except SecretError as error:
        raise StoreError(f"cache: encrypt: {options.encrypt} {error}") from None
