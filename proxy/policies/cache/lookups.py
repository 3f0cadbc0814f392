"""Look-ups in Redis, together: those of one turn of the loop travel in one MGET.

A burst of a thousand calls is then a few questions instead of a thousand that wait in line for a connection. At most
``AT_A_TIME`` are under way; who comes meanwhile waits for the next one. That wait is our own affair: it counts against
what a caller may wait, and when it was too long the caller has a miss, but Redis is not to blame.

How many names one MGET carries follows from how large the answers have been, so that what is asked for can also arrive
in time on a slow network.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic
from typing import Final

__all__ = ["Lookups"]

AT_A_TIME: Final = 4
_NAMES: Final = 256
_FEWEST: Final = 8
_BYTES: Final = 1024 * 1024
"""What one MGET may bring: 8 ms of a network of 1 Gbit/s, of which all that are under way get their part."""
_USUAL: Final = 16 * 1024
"""Bytes that a name is thought to bring before anything is known."""
_LEAST: Final = 0.005
"""Seconds that Redis is given even when the time has gone with waiting in line: a tick, so that a call on a busy loop
still has its chance."""

Fetch = Callable[[list[bytes], float, bool], Awaitable[list[bytes | None] | None]]
"""Asks for names within seconds. The last: whether these are all the seconds there are, or others have passed in line.
None: no answer."""


class _Order:
    __slots__ = ("answer", "names", "since")

    def __init__(self, names: Sequence[bytes]) -> None:
        self.names = names
        self.answer: asyncio.Future[list[bytes | None] | None] = asyncio.get_running_loop().create_future()
        self.since: float | None = None
        """From when on it has waited in line; None: it has not."""


class Lookups:
    """timeout: seconds from asking to the answer, the line included."""

    def __init__(self, fetch: Fetch, timeout: float) -> None:
        self._fetch = fetch
        self._timeout = timeout
        self._usual: float = _USUAL
        self._line: deque[_Order] = deque()
        self._sending = False
        self._under_way: set[asyncio.Task[None]] = set()

    @property
    def most(self) -> int:
        """Names that one MGET carries at present."""
        return max(_FEWEST, min(_NAMES, int(_BYTES / max(1.0, self._usual))))

    async def ask(self, names: Sequence[bytes]) -> list[bytes | None] | None:
        """What lies under the names, in their order; None when nobody could say in time."""
        order = _Order(names)
        self._line.append(order)
        if not self._sending:
            self._sending = True
            asyncio.get_running_loop().call_soon(self._send)
        return await order.answer

    async def close(self) -> None:
        """Whoever still waits has a miss."""
        tasks = list(self._under_way)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for order in self._line:
            if not order.answer.done():
                order.answer.set_result(None)
        self._line.clear()

    def _send(self) -> None:
        self._sending = False
        line = self._line
        while line and len(self._under_way) < AT_A_TIME:
            orders: list[_Order] = []
            names, most = 0, self.most
            while line and (not orders or names + len(line[0].names) <= most):
                order = line.popleft()
                if not order.answer.done():  # else who asked has left
                    orders.append(order)
                    names += len(order.names)
            if orders:
                task = asyncio.get_running_loop().create_task(self._bring(orders))
                self._under_way.add(task)
                task.add_done_callback(self._brought)
        now = monotonic()
        for order in reversed(line):
            if order.since is not None:
                break  # and so has everybody before
            order.since = now

    def _brought(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        if not task.cancelled() and self._line:
            self._send()

    async def _bring(self, orders: list[_Order]) -> None:
        since = orders[0].since
        seconds = self._timeout if since is None else max(_LEAST, self._timeout - (monotonic() - since))
        names = list(dict.fromkeys(name for order in orders for name in order.names))
        found: list[bytes | None] | None = None
        try:
            found = await self._fetch(names, seconds, since is None)
        finally:
            known = None if found is None else dict(zip(names, found, strict=True))
            for order in orders:
                if not order.answer.done():
                    order.answer.set_result(None if known is None else [known[name] for name in order.names])
        if found is not None:
            usual = sum(len(one) for one in found if one is not None) / len(found)
            self._usual = max(usual, (self._usual + usual) / 2)  # quick to become careful
