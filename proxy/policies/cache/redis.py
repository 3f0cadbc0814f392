"""Entries in Redis, through aiocache: shared by all replicas, and never in anybody's way.

A caller waits ``TIMEOUT`` at most (``link``), look-ups of one turn of the loop travel together (``lookups``), writes go
out in the background (``outbox``), and what a Redis that is slow, gone or full cannot take is dropped.

A clear that could not be carried out is owed: nothing is served from Redis until it has been.

aiocache is used for its words only: bytes in and out, a namespace always, never ``clear`` (it runs KEYS, or empties the
database). Invalidation walks our own names with SCAN and reads only the first bytes of each entry, where its tags are.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

from aiocache.backends.redis import RedisCache
from aiocache.base import BaseCache
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError

from proxy.policies.cache.backend import BytesOnly
from proxy.policies.cache.clears import Clears
from proxy.policies.cache.entry import MAX_TAGS, TAG, EntryError
from proxy.policies.cache.key import KEY
from proxy.policies.cache.link import WHOLE, Link, Valve, bounded
from proxy.policies.cache.lookups import Lookups
from proxy.policies.cache.lru import START
from proxy.policies.cache.outbox import Line, Outbox
from proxy.policies.cache.pace import Pace
from proxy.policies.cache.seal import Sealer, derive
from proxy.policies.cache.selection import EVERYTHING
from proxy.policies.cache.stores import UnclearedError
from proxy.state.servers import server_of

if TYPE_CHECKING:
    from proxy.policies.cache.lru import ByteLru
    from proxy.policies.cache.selection import Selection
    from proxy.state.interface import State

__all__ = ["TIMEOUT", "RedisStore", "SharedCache"]

TIMEOUT: Final = 0.045
"""Seconds that a call may wait for Redis: 50 ms with what the loop needs to notice."""
CONNECTIONS: Final = 32
_SHORTEST: Final = 0.001
"""Seconds: Redis refuses to keep anything for less."""
_BATCH: Final = 500
_OWED: Final = 16
"""Clears that are remembered one by one; with more, everything goes."""
_SEALED_APART: Final = 1024 * 1024
"""Bytes of an entry that is sealed or opened in a thread; less takes half a millisecond."""
_BEFORE: Final = bytes(START)
_HEAD: Final = 3 + MAX_TAGS * TAG
_NAME: Final = re.compile(b"[0-9a-f]{%d}" % (2 * KEY))
T = TypeVar("T")


class SharedCache(RedisCache):  # type: ignore[misc]
    """aiocache's Redis cache over a client of ours: any Redis URL, no retries."""

    def __init__(self, url: str, namespace: str) -> None:
        if not namespace:
            raise ValueError("a shared cache needs a namespace: without one, another application's keys are at risk")
        BaseCache.__init__(self, serializer=BytesOnly(), namespace=namespace, timeout=None)
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=CONNECTIONS,
            timeout=None,  # to wait for a connection says nothing of Redis; every wait has its bound where it begins
            socket_timeout=WHOLE,
            socket_connect_timeout=WHOLE,
            retry=Retry(NoBackoff(), 0),
            decode_responses=False,
        )
        self.client = Redis(connection_pool=pool)
        self.client.auto_close_connection_pool = True

    async def together(self, commands: Sequence[Sequence[str | bytes | int]]) -> list[Any]:
        """The answers to several commands, in one round trip; an error of Redis is the answer to its command."""
        async with self.client.pipeline(transaction=False) as pipe:
            for command in commands:
                pipe.execute_command(*command)
            answers: list[Any] = await pipe.execute(raise_on_error=False)
            return answers

    async def _clear(self, namespace: str | None = None, _conn: object = None) -> bool:
        raise NotImplementedError("aiocache's clear blocks Redis or empties the database; use RedisStore.clear")

    async def _close(self, *args: object, _conn: object = None, **kwargs: object) -> None:
        await self.client.aclose(close_connection_pool=True)


class RedisStore:
    """See the module's text. secrets: master keys, newest first; with one, entries are encrypted."""

    far = True
    memory: ByteLru | None = None

    def __init__(
        self,
        url: str,
        namespace: str,
        secrets: tuple[str, ...],
        *,
        timeout: float = TIMEOUT,
        log: logging.Logger | None = None,
    ) -> None:
        self.namespace = namespace
        # Without a master key nothing is secret that all replicas know and a reader of this Redis does not: he came in
        # with its address and password, and reads the answers themselves. Nobody else ever sees a name. So the names
        # hang on nothing but the namespace, and neither another way to write the address nor a new password loses the
        # cache. Who must not be able to test in Redis whether a question was asked sets a master key.
        self.secret = derive(secrets[-1] if secrets else "", b"cache names " + namespace.encode())
        self.dropped = 0
        self.damaged = 0
        self.clears = Clears(namespace)
        self._log = log or logging.getLogger("llm_sidecar")
        self._cache = SharedCache(url, namespace)
        self._sealer = Sealer(secrets)
        self._timeout = timeout
        self._link = Link(self._ping, server_of(url), self._log, (ResponseError,))
        self._link.first = self._clear_what_is_owed
        self._reads = Valve("reads", self._log)
        self._writes = Valve("writes", self._log)
        self._lookups = Lookups(self._fetch, timeout)
        self._outbox = Outbox(self._write)
        self.clears.by_others.append(self._outbox.drop)  # what is on its way was asked for before
        self._owed: list[Selection] = []
        self._greeting: asyncio.Task[None] | None = None

    @property
    def up(self) -> bool:
        """Whether Redis is there."""
        return self._link.up

    @property
    def errors(self) -> int:
        """How often it was not, or refused."""
        return self._link.errors

    @property
    def _pending(self) -> dict[bytes, Line]:
        return self._outbox.lines

    @property
    def epoch(self) -> int:
        """Grows with every clear, on this replica or another."""
        return self.clears.heed()

    def tell_through(self, state: State) -> None:
        """How replicas tell each other of a clear."""
        self.clears.tell_through(state)

    # --- look up -----------------------------------------------------------------------------------

    def look(self, key: bytes) -> bytes | None:
        """What is still on its way to Redis."""
        self.clears.heed()
        line = self._outbox.lines.get(key)
        return None if line is None or line[0] is None else _BEFORE + line[0]

    async def fetch(self, key: bytes) -> bytes | None:
        """The entry, from ``START`` on; None when there is none, Redis is slow or gone, or the entry cannot be read."""
        sealed = await self._ask_for([key])
        return None if sealed is None or sealed[0] is None else await self._opened(key, sealed[0])

    async def fetch_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Several, in as many questions as their sizes need. Who once waited in vain does not wait again."""
        found: list[bytes | None] = []
        pace = Pace()
        while len(found) < len(keys):
            some = keys[len(found) : len(found) + self._lookups.most]
            sealed = await self._ask_for(some)
            if sealed is None:
                break
            for key, one in zip(some, sealed, strict=True):
                found.append(None if one is None else await self._opened(key, one))
                await pace.took(0 if one is None else len(one))
        return found + [None] * (len(keys) - len(found))

    async def _ask_for(self, keys: Sequence[bytes]) -> list[bytes | None] | None:
        return await self._lookups.ask(keys) if self._link.up and self._reads.open else None

    async def _fetch(self, keys: list[bytes], seconds: float, alone: bool) -> list[bytes | None] | None:
        """See ``lookups.Fetch``. Redis says nothing, too, of a name under which there is something else than a text."""
        names = [key.hex() for key in keys]
        try:
            found: list[bytes | None] | None = await self._link.ask(
                lambda: self._cache.multi_get(names), seconds, alone=alone
            )
        except ResponseError as error:
            self._reads.refused(error)
            return None
        if found is not None:
            self._reads.passed()
        return found

    async def _opened(self, key: bytes, sealed: bytes) -> bytes | None:
        if key in self._outbox.lines:
            return self.look(key)  # the last word on it has not reached Redis yet
        try:
            if len(sealed) > _SEALED_APART:
                return _BEFORE + await _apart(lambda: self._sealer.open(key, sealed))
            return _BEFORE + self._sealer.open(key, sealed)
        except EntryError:
            self.damaged += 1
            self.remove(key)
            return None

    # --- keep and forget ---------------------------------------------------------------------------

    def put(self, key: bytes, entry: bytes, ttl: float) -> None:
        if ttl < _SHORTEST:
            return
        if not (self._link.up and self._writes.open and self._outbox.put(key, entry, ttl)):
            self.dropped += 1

    def remove(self, key: bytes) -> None:
        if self._link.up:
            self._outbox.remove(key)

    async def _write(self, batch: list[tuple[bytes, Line]]) -> None:
        commands: list[Sequence[str | bytes | int]] = []
        for key, (entry, ttl) in batch:
            name = f"{self.namespace}:{key.hex()}"
            if entry is None:
                commands.append(("DEL", name))
                continue
            if len(entry) > _SEALED_APART:
                sealed = await _apart(lambda key=key, entry=entry: self._sealer.seal(key, entry))  # type: ignore[misc]
            else:
                sealed = self._sealer.seal(key, entry)
            commands.append(("SET", name, sealed, "PX", int(ttl * 1000)))
        try:
            answers = await self._link.ask(lambda: self._cache.together(commands), WHOLE)
        except ResponseError as error:
            answers = [error] * len(commands)
        refusals = [answer for answer in answers or () if isinstance(answer, ResponseError)]
        asked = sum(command[0] == "SET" for command in commands)
        kept = 0
        for command, answer in zip(commands, answers or (), strict=answers is not None):
            kept += command[0] == "SET" and not isinstance(answer, ResponseError)
        self.dropped += asked - kept
        if refusals:
            self._writes.refused(refusals[-1])
        elif kept:
            self._writes.passed()

    # --- clear -------------------------------------------------------------------------------------

    async def clear(self, which: Selection) -> int:
        """Walks all names of the namespace. Raises UnclearedError when it did not come to the end: it will before
        anything is served from Redis again."""
        self.clears.count += 1
        self._outbox.drop()  # what is on its way was asked for before
        count = 0
        try:
            if not self._link.up:
                raise ConnectionError("it is not there")
            await self._outbox.stand_still(WHOLE)
            async for gone in self._walk(which):
                count += gone
        except Exception as error:
            self._owe(which)
            self._link.fell(error)
            raise UnclearedError(count, f"Redis ({self.namespace})") from error
        finally:
            self.clears.tell()
        return count

    async def _clear_what_is_owed(self) -> None:
        """Raises what the walk raises; it is still owed then."""
        while self._owed:
            which = self._owed.pop(0)
            try:
                async for _ in self._walk(which):
                    pass
            except BaseException:
                self._owe(which)
                raise
            self.clears.tell()  # others may have found there in the meantime what is gone now

    def _owe(self, which: Selection) -> None:
        if which.everything or len(self._owed) >= _OWED:
            self._owed = [EVERYTHING]
        elif not (self._owed and self._owed[0].everything) and which not in self._owed:
            self._owed.append(which)

    async def _walk(self, which: Selection) -> AsyncIterator[int]:
        """Takes what is selected away; how many, step by step. Raises what the client raises."""
        client, prefix, cursor = self._cache.client, f"{self.namespace}:".encode(), 0
        pattern = _escaped(prefix.decode()) + which.prefix + "?" * (2 * KEY - len(which.prefix))
        while True:
            step: Any = await bounded(lambda at=cursor: client.scan(at, match=pattern, count=_BATCH), WHOLE)  # type: ignore[misc]
            cursor = step[0]
            # A namespace may begin as another's does, or as another application's names.
            ours = [name for name in step[1] if _NAME.fullmatch(name, len(prefix))]
            gone = await self._chosen(ours, len(prefix), which)
            if gone:
                yield await bounded(lambda found=gone: client.unlink(*found), WHOLE)  # type: ignore[misc]
            if not cursor:
                return

    async def _chosen(self, names: list[bytes], skip: int, which: Selection) -> list[bytes]:
        if not which.by_tags or not names:
            return names
        heads = await bounded(lambda: self._cache.together([("GETRANGE", name, 0, _HEAD - 1) for name in names]), WHOLE)
        chosen = []
        for name, head in zip(names, heads, strict=True):
            if isinstance(head, ResponseError):
                if not str(head).startswith("WRONGTYPE"):
                    raise head
                chosen.append(name)  # no entry of ours any more
            elif which.takes(bytes.fromhex(name[skip:].decode()), head):
                chosen.append(name)
        return chosen

    # --- life --------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Connects in the background; nothing is waited for."""
        self._link.join()
        self._greeting = asyncio.get_running_loop().create_task(self._link.greet(), name="cache-store-greet")

    async def close(self) -> None:
        """Gives what is on its way a moment, and disconnects."""
        await self._link.close()
        await self._outbox.close(4 * self._timeout)
        await self._lookups.close()
        if self._greeting is not None:
            self._greeting.cancel()
            await asyncio.gather(self._greeting, return_exceptions=True)
        try:
            async with asyncio.timeout(WHOLE):
                await self._cache.close()
        except Exception as error:
            self._log.debug("cache store closed badly: %s", type(error).__name__)

    async def _ping(self) -> None:
        await self._cache.client.ping()

    def stats(self) -> dict[str, Any]:
        return {
            "store": "redis",
            "up": self.up,
            "takes_writes": self.up and self._writes.well,
            "encrypted": self._sealer.encrypts,
            "errors": self.errors,
            "dropped": self.dropped,
            "damaged": self.damaged,
        }


async def _apart(work: Callable[[], T]) -> T:
    """In a thread."""
    return await asyncio.get_running_loop().run_in_executor(None, work)


def _escaped(text: str) -> str:
    """For a MATCH pattern: the namespace's own signs mean themselves."""
    return "".join(f"\\{sign}" if sign in "*?[]^\\-" else sign for sign in text)
