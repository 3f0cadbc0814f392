"""One Redis as a cache sees it: there or not, and how long anybody waits for it.

Every wait is bounded. The first sign of trouble, here or with whoever else in this process waits for the same Redis,
raises one alarm and takes the link down: from then on nothing is asked at once, until Redis answers a ping in the
background. Trouble is what says that nobody is there: no connection, no answer in time, a server that lets nobody in or
still loads. An error in answer to one question is none: Redis is well, and whoever asked is told.

Such an answer may still mean that a whole kind of question is refused for a time (memory full, a replica that takes no
writes): see ``Valve``.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import TYPE_CHECKING, Final, TypeVar

from proxy.state.patience import answered

if TYPE_CHECKING:
    from proxy.state.servers import Server

__all__ = ["PAUSES", "WHOLE", "Link", "Valve", "bounded"]

PAUSES: Final = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Seconds between tries; the last is repeated."""
WHOLE: Final = 1.0
"""Seconds for what no caller waits for: a ping, a pipeline of writes, a step of a walk."""
T = TypeVar("T")


class Link:
    """up: whether anything is asked. errors: how often there was trouble.

    ping: asks Redis whether it is there. refusals: what the client raises for an error in answer to a question.
    """

    def __init__(
        self,
        ping: Callable[[], Awaitable[object]],
        server: Server,
        log: logging.Logger,
        refusals: tuple[type[Exception], ...],
    ) -> None:
        self.up = True
        self.errors = 0
        self.first: Callable[[], Awaitable[None]] | None = None
        """What is done when Redis is back, before anybody may ask; raises when it could not be."""
        self._ping = ping
        self._server = server
        self._log = log
        self._refusals = refusals
        self._reviver: asyncio.Task[None] | None = None

    def join(self) -> None:
        """From now on vain waits of others for the same Redis count here, too."""
        self._server.join(self._give_up)

    async def close(self) -> None:
        """Ends ``join``, and the waiting for Redis to come back."""
        self._server.leave(self._give_up)
        if self._reviver is not None:
            self._reviver.cancel()
            await asyncio.gather(self._reviver, return_exceptions=True)

    async def ask(self, call: Callable[[], Awaitable[T]], timeout: float, *, alone: bool = True) -> T | None:
        """The answer; None on trouble, and at once while the link is down. Raises a refusal.

        alone: the wait is for Redis alone and a fair one, so that its end without an answer is trouble. Otherwise it
        says nothing of Redis.
        """
        if not self.up:
            return None
        began = monotonic()
        try:
            answer = await bounded(call, timeout)
        except self._refusals:
            self.errors += 1
            self._server.answered()
            raise
        except Exception as error:
            if alone or not isinstance(error, TimeoutError):
                self.fell(error)
            if alone and isinstance(error, TimeoutError):
                self._server.silent(began, str(error), self._give_up)
            return None
        self._server.answered()
        return answer

    async def greet(self) -> None:
        """Find out whether Redis is there before a call has to."""
        try:
            await self.ask(self._ping, WHOLE)
        except self._refusals as error:
            self.fell(error)

    def fell(self, error: Exception) -> None:
        """Redis is slow or gone: nobody waits for it any more. The alarm is raised once."""
        self.errors += 1
        if not self.up:
            return
        self.up = False
        self._log.error(
            "cache store unavailable: calls go on without it",
            extra={"event": "cache_store_unavailable", "error": type(error).__name__},
        )
        self._reviver = asyncio.get_running_loop().create_task(self._revive(), name="cache-store-revive")

    def _give_up(self, reason: str) -> None:
        """Somebody else has waited for this Redis in vain: nobody waits for it a second time."""
        self.fell(TimeoutError(reason))

    async def _revive(self) -> None:
        """Until Redis answers again; callers are never the ones who find out."""
        for pause in itertools.chain(PAUSES, itertools.repeat(PAUSES[-1])):
            await asyncio.sleep(pause)
            try:
                await bounded(self._ping, WHOLE)
                if self.first is not None:
                    await self.first()
            except Exception as error:
                self._log.debug("cache store is still away: %s", type(error).__name__)
                continue
            self.up = True
            self._log.warning("cache store is back", extra={"event": "cache_store_restored"})
            return


class Valve:
    """One kind of question, shut for a pause when Redis refuses it. One alarm, until it is answered again."""

    def __init__(self, what: str, log: logging.Logger) -> None:
        """what: the kind, as the alarm calls it."""
        self._what = what
        self._log = log
        self._until = 0.0
        self._refused = 0

    @property
    def open(self) -> bool:
        """Whether it may be tried."""
        return not self._refused or monotonic() >= self._until

    @property
    def well(self) -> bool:
        """Whether the last try was answered."""
        return not self._refused

    def refused(self, error: Exception) -> None:
        """Redis said no."""
        if not self._refused:
            self._log.error(
                f"cache store refuses {self._what}: calls go on without them",
                extra={"event": f"cache_store_refuses_{self._what}", "error": type(error).__name__},
            )
        self._until = monotonic() + PAUSES[min(self._refused, len(PAUSES) - 1)]
        self._refused += 1

    def passed(self) -> None:
        """Redis said yes."""
        if self._refused:
            self._refused = 0
            self._log.warning(f"cache store takes {self._what} again", extra={"event": "cache_store_restored"})


async def bounded(call: Callable[[], Awaitable[T]], timeout: float) -> T:
    """The answer within ``timeout`` seconds. Raises TimeoutError, or what the call raises."""
    task = asyncio.ensure_future(call())
    try:
        await answered(task, timeout)
        return task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
