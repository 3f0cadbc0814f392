"""Entries in Redis, through aiocache: shared by all replicas, and never in anybody's way.

Every wait is bounded by ``TIMEOUT``. The first sign of trouble, here or with whoever else in this process waits for the
same Redis, raises one alarm and closes the store: from then on every look-up is a miss at once, until Redis answers a
ping in the background. Writes go out in the background, too;
what a Redis that is slow or gone cannot take is dropped.

aiocache is used for its words only: bytes in and out, a namespace always, never ``clear`` (it runs KEYS, or empties the
database). Invalidation walks our own names with SCAN and reads only the first bytes of each entry, where its tags are.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable, Coroutine
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, TypeVar

from aiocache.backends.redis import RedisCache
from aiocache.base import BaseCache
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from proxy.policies.cache.backend import BytesOnly
from proxy.policies.cache.entry import MAX_TAGS, TAG, EntryError
from proxy.policies.cache.lru import START
from proxy.policies.cache.seal import Sealer, derive
from proxy.state.patience import answered
from proxy.state.servers import server_of

if TYPE_CHECKING:
    from proxy.policies.cache.selection import Selection

__all__ = ["TIMEOUT", "RedisStore", "SharedCache"]

TIMEOUT: Final = 0.045
"""Seconds that a call may wait for Redis: 50 ms with what the loop needs to notice."""
CONNECTIONS: Final = 32
PAUSES: Final = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
PENDING_BYTES: Final = 32 * 1024 * 1024
"""Entries on their way to Redis at most; what comes beyond is dropped."""
_WRITE_TIMEOUT: Final = 1.0
_SHORTEST: Final = 0.001
"""Seconds: Redis refuses to keep anything for less."""
_BATCH: Final = 500
_BEFORE: Final = bytes(START)
_HEAD: Final = 3 + MAX_TAGS * TAG
T = TypeVar("T")


class SharedCache(RedisCache):  # type: ignore[misc]
    """aiocache's Redis cache over a client of ours: any Redis URL, bounded waits, no retries."""

    def __init__(self, url: str, namespace: str, timeout: float = TIMEOUT) -> None:
        if not namespace:
            raise ValueError("a shared cache needs a namespace: without one, another application's keys are at risk")
        BaseCache.__init__(self, serializer=BytesOnly(), namespace=namespace, timeout=None)
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=CONNECTIONS,
            timeout=timeout,
            socket_timeout=_WRITE_TIMEOUT,
            socket_connect_timeout=_WRITE_TIMEOUT,
            retry=Retry(NoBackoff(), 0),
            decode_responses=False,
        )
        self.client = Redis(connection_pool=pool)
        self.client.auto_close_connection_pool = True

    async def _clear(self, namespace: str | None = None, _conn: object = None) -> bool:
        raise NotImplementedError("aiocache's clear blocks Redis or empties the database; use RedisStore.clear")

    async def _close(self, *args: object, _conn: object = None, **kwargs: object) -> None:
        await self.client.aclose(close_connection_pool=True)


class RedisStore:
    """See the module's text. secrets: master keys, newest first; with one, entries are encrypted."""

    far = True

    def __init__(
        self,
        url: str,
        namespace: str,
        secrets: tuple[str, ...],
        *,
        timeout: float = TIMEOUT,
        log: logging.Logger | None = None,
    ) -> None:
        self.epoch = 0
        self.namespace = namespace
        # Without a master key the entries themselves can be read in Redis, so their names need not hide more; the
        # address (with its password) still keeps them from being worked out elsewhere.
        self.secret = derive(secrets[-1] if secrets else url, b"cache names " + namespace.encode())
        self.up = True
        self.errors = 0
        self.dropped = 0
        self.damaged = 0
        self._cache = SharedCache(url, namespace, timeout)
        self._sealer = Sealer(secrets)
        self._timeout = timeout
        self._server = server_of(url)
        self._reviver: asyncio.Task[None] | None = None
        self._log = log or logging.getLogger("llm_sidecar")
        self._pending: dict[bytes, bytes] = {}
        self._pending_bytes = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def look(self, key: bytes) -> bytes | None:
        """What is still on its way to Redis."""
        found = self._pending.get(key)
        return None if found is None else _BEFORE + found

    async def fetch(self, key: bytes) -> bytes | None:
        """The entry, from ``START`` on; None when there is none, Redis is slow or gone, or the entry cannot be read."""
        sealed = await self._ask(lambda: self._cache.get(key.hex()), self._timeout)
        if sealed is None:
            return None
        try:
            return _BEFORE + self._sealer.open(key, sealed)
        except EntryError:
            self.damaged += 1
            self.remove(key)
            return None

    async def left(self, key: bytes) -> float:
        """Seconds until the entry leaves; 0 when nobody knows."""
        name = f"{self.namespace}:{key.hex()}"
        left = await self._ask(lambda: self._cache.raw("pttl", name), self._timeout)
        return max(0.0, left / 1000) if isinstance(left, int) else 0.0

    def put(self, key: bytes, entry: bytes, ttl: float) -> None:
        if ttl < _SHORTEST:
            return
        if not self.up or self._pending_bytes + len(entry) > PENDING_BYTES:
            self.dropped += 1
            return
        self._pending[key] = entry
        self._pending_bytes += len(entry)
        task = self._background(self._write(key, entry, ttl))
        task.add_done_callback(lambda _: self._written(key, entry))

    def remove(self, key: bytes) -> None:
        self._background(self._forget(key))

    async def clear(self, which: Selection) -> int:
        """Walks all names of the namespace; raises nothing, and clears nothing while Redis is gone."""
        self.epoch += 1
        for task in list(self._tasks):  # what is on its way was asked for before
            task.cancel()
        self._pending.clear()
        prefix = f"{self.namespace}:"
        client, cursor, count = self._cache.client, 0, 0
        while True:
            step = await self._ask(
                lambda at=cursor: client.scan(at, match=f"{_escaped(prefix)}{which.prefix}*", count=_BATCH),  # type: ignore[misc]
                _WRITE_TIMEOUT,
            )
            if step is None:
                return count
            cursor, names = step
            gone = await self._ask(lambda found=names: self._chosen(found, len(prefix), which), _WRITE_TIMEOUT)  # type: ignore[misc]
            if gone:
                count += await self._ask(lambda found=gone: client.unlink(*found), _WRITE_TIMEOUT) or 0  # type: ignore[misc]
            if not cursor:
                return count

    async def start(self) -> None:
        """Connects in the background; nothing is waited for."""
        self._server.join(self._give_up)
        self._background(self._greet())

    async def close(self) -> None:
        """Gives what is on its way a moment, and disconnects."""
        self._server.leave(self._give_up)
        if self._reviver is not None:
            self._reviver.cancel()
            await asyncio.gather(self._reviver, return_exceptions=True)
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=4 * self._timeout)
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            async with asyncio.timeout(_WRITE_TIMEOUT):
                await self._cache.close()
        except Exception as error:
            self._log.debug("cache store closed badly: %s", type(error).__name__)

    def stats(self) -> dict[str, Any]:
        return {
            "store": "redis",
            "up": self.up,
            "encrypted": self._sealer.encrypts,
            "errors": self.errors,
            "dropped": self.dropped,
            "damaged": self.damaged,
        }

    # --- inside ------------------------------------------------------------------------------------

    async def _chosen(self, names: list[bytes], skip: int, which: Selection) -> list[bytes]:
        if not which.by_tags or not names:
            return names
        async with self._cache.client.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.getrange(name, 0, _HEAD)
            heads: list[bytes] = await pipe.execute()
        return [
            name for name, head in zip(names, heads, strict=True) if head and which.takes(_unhex(name[skip:]), head)
        ]

    async def _write(self, key: bytes, entry: bytes, ttl: float) -> None:
        sealed = self._sealer.seal(key, entry)
        await self._ask(lambda: self._cache.set(key.hex(), sealed, ttl=float(ttl)), _WRITE_TIMEOUT)

    def _written(self, key: bytes, entry: bytes) -> None:
        """Also for a write that was cancelled before it began."""
        self._pending_bytes -= len(entry)
        if self._pending.get(key) is entry:
            del self._pending[key]

    async def _forget(self, key: bytes) -> None:
        await self._ask(lambda: self._cache.delete(key.hex()), _WRITE_TIMEOUT)

    def _background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _ask(self, call: Callable[[], Awaitable[T]], timeout: float) -> T | None:
        """The answer; None on any trouble, and at once while the store is closed."""
        if not self.up:
            return None
        began = monotonic()
        try:
            answer = await _bounded(call, timeout)
        except Exception as error:
            self._fell(error)
            if isinstance(error, TimeoutError):
                self._server.silent(began, str(error), self._give_up)
            return None
        self._server.answered()
        return answer

    async def _greet(self) -> None:
        await self._ask(self._ping, _WRITE_TIMEOUT)

    async def _ping(self) -> None:
        await self._cache.client.ping()

    def _give_up(self, reason: str) -> None:
        """Somebody else has waited for this Redis in vain: nobody waits for it a second time."""
        self._fell(TimeoutError(reason))

    def _fell(self, error: Exception) -> None:
        self.errors += 1
        if not self.up:
            return
        self.up = False
        self._log.error(
            "cache store unavailable: calls go on without it",
            extra={"event": "cache_store_unavailable", "error": type(error).__name__},
        )
        self._reviver = asyncio.get_running_loop().create_task(self._revive(), name="cache-store-revive")

    async def _revive(self) -> None:
        """Until Redis answers again; callers are never the ones who find out."""
        for pause in itertools.chain(PAUSES, itertools.repeat(PAUSES[-1])):
            await asyncio.sleep(pause)
            try:
                await _bounded(self._ping, _WRITE_TIMEOUT)
            except Exception as error:
                self._log.debug("cache store is still away: %s", type(error).__name__)
                continue
            self.up = True
            self._log.warning("cache store is back", extra={"event": "cache_store_restored"})
            return


async def _bounded(call: Callable[[], Awaitable[T]], timeout: float) -> T:
    """The answer within ``timeout`` seconds. Raises TimeoutError, or what the call raises."""
    task = asyncio.ensure_future(call())
    try:
        await answered(task, timeout)
        return task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def _unhex(name: bytes) -> bytes:
    try:
        return bytes.fromhex(name.decode("ascii"))
    except ValueError:
        return b""


def _escaped(text: str) -> str:
    """For a MATCH pattern: the namespace's own signs mean themselves."""
    return "".join(f"\\{sign}" if sign in "*?[]^\\-" else sign for sign in text)
