"""Our memory as an aiocache backend: bounded by bytes, least recently used first, bytes only, no timers.

aiocache's own memory cache has no bound, a timer for each key that outlives ``clear``, and hands out the object that
it keeps. This one is ``ByteLru`` behind aiocache's words.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from aiocache.base import BaseCache
from aiocache.serializers import BaseSerializer

from proxy.policies.cache.lru import ByteLru

__all__ = ["ByteBoundedCache", "BytesOnly"]

_FOREVER = 10 * 366 * 86400.0


class BytesOnly(BaseSerializer):  # type: ignore[misc]
    """Bytes go in and the same bytes come out; anything else is refused: nothing is ever pickled."""

    DEFAULT_ENCODING = None

    def dumps(self, value: Any) -> bytes:
        """The bytes themselves. Raises TypeError for anything else."""
        if not isinstance(value, bytes):
            raise TypeError(f"this cache keeps bytes, not {type(value).__name__}")
        return value

    def loads(self, value: bytes | None) -> bytes | None:
        """The bytes themselves."""
        return value


class ByteBoundedCache(BaseCache):  # type: ignore[misc]
    """max_bytes: bound of all that is kept. lru: an existing table to work on instead of one of its own.

    Keys are strings or bytes; a namespace is written before them. Values are bytes.
    """

    NAME = "byte-bounded"

    def __init__(
        self,
        max_bytes: int = 64 * 1024**2,
        *,
        lru: ByteLru | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        namespace: str | None = None,
        ttl: float | None = None,
    ) -> None:
        # No timeout: it would wrap each call in a task of its own, and nothing here waits for anybody.
        super().__init__(serializer=BytesOnly(), namespace=namespace, timeout=None, ttl=ttl)
        self.lru = lru if lru is not None else ByteLru(max_bytes, monotonic)

    def _build_key(self, key: str | bytes, namespace: str | None = None) -> bytes:
        name = key if isinstance(key, bytes) else key.encode()
        if not name:
            raise ValueError("a key must not be empty")
        space = namespace if namespace is not None else self.namespace
        return name if not space else space.encode() + b":" + name

    async def _get(self, key: bytes, encoding: str | None = None, _conn: object = None) -> bytes | None:
        return self.lru.get(key)

    async def _gets(self, key: bytes, encoding: str | None = None, _conn: object = None) -> bytes | None:
        return self.lru.get(key)

    async def _multi_get(
        self, keys: list[bytes], encoding: str | None = None, _conn: object = None
    ) -> list[bytes | None]:
        return [self.lru.get(key) for key in keys]

    async def _set(
        self, key: bytes, value: bytes, ttl: float | None = None, _cas_token: bytes | None = None, _conn: object = None
    ) -> bool | int:
        if _cas_token is not None and self.lru.get(key) != _cas_token:
            return 0
        return self.lru.put(key, value, _FOREVER if ttl is None else ttl)

    async def _multi_set(
        self, pairs: list[tuple[bytes, bytes]], ttl: float | None = None, _conn: object = None
    ) -> bool:
        return all([await self._set(key, value, ttl) for key, value in pairs])

    async def _add(self, key: bytes, value: bytes, ttl: float | None = None, _conn: object = None) -> bool | int:
        if self.lru.peek(key) is not None:
            raise ValueError(f"Key {key!r} already exists, use .set to update the value")
        return await self._set(key, value, ttl)

    async def _exists(self, key: bytes, _conn: object = None) -> bool:
        return self.lru.peek(key) is not None

    async def _increment(self, key: bytes, delta: int, _conn: object = None) -> int:
        found = self.lru.get(key)
        left = self.lru.left(key) if found is not None else _FOREVER
        try:
            value = int(found or b"0") + delta
        except ValueError:
            raise TypeError("Value is not an integer") from None
        self.lru.put(key, b"%d" % value, left)
        return value

    async def _expire(self, key: bytes, ttl: float, _conn: object = None) -> bool:
        found = self.lru.get(key)
        return found is not None and self.lru.put(key, found, ttl or _FOREVER)

    async def _delete(self, key: bytes, _conn: object = None) -> int:
        return int(self.lru.remove(key))

    async def _clear(self, namespace: str | None = None, _conn: object = None) -> bool:
        space = namespace if namespace is not None else self.namespace
        if not space:
            self.lru.clear()
            return True
        prefix = space.encode() + b":"
        for shard in self.lru.scan():
            for key, _ in shard:
                if key.startswith(prefix):
                    self.lru.remove(key)
        return True

    async def _raw(self, command: str, *args: Any, encoding: str | None = None, _conn: object = None) -> Any:
        return getattr(self.lru, command)(*args)

    async def _redlock_release(self, key: bytes, value: bytes) -> int:
        if self.lru.get(key) == value:
            return int(self.lru.remove(key))
        return 0
