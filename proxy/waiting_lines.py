"""Calls that wait for a limit: one line for each limit that somebody waits for, served by turns (`FairQueue`).

A new call joins the line of a limit it needs, so that nobody is overtaken. Whoever is first asks; when what he waits
for by now is another limit, he moves to that limit's line and holds up nobody in this one.
"""

import asyncio
from typing import Final

from proxy.clock import Clock
from proxy.exchange import Priority
from proxy.fair_queue import FairQueue
from proxy.state import Claims, Grant, State

RECHECK: Final = 1.0
"""Seconds after which the first in line asks again although nothing was said to have changed."""


class Line:
    """Those who wait for one limit, and the task that serves them."""

    __slots__ = ("changed", "name", "queue", "task")

    def __init__(self, name: str) -> None:
        self.name = name
        self.queue: FairQueue[Waiter] = FairQueue()
        self.changed = asyncio.Event()
        self.task: asyncio.Task[None] | None = None


class Waiter:
    """A call in line. future: the grant, or None when its time is over."""

    __slots__ = ("claims", "future", "line", "owner", "priority")

    def __init__(self, claims: Claims, owner: str, priority: Priority, line: Line) -> None:
        self.claims = claims
        self.owner = owner
        self.priority: Priority = priority
        self.line = line
        self.future: asyncio.Future[Grant | None] = asyncio.get_running_loop().create_future()


class WaitingLines:
    """All lines of one policy, by the limit that is waited for. False when nobody waits."""

    def __init__(self, state: State, clock: Clock) -> None:
        self._state = state
        self._clock = clock
        self.open: dict[str, Line] = {}

    def __bool__(self) -> bool:
        return bool(self.open)

    def __repr__(self) -> str:
        return f"<WaitingLines {', '.join(f'{line.name}: {line.queue!r}' for line in self.open.values()) or 'empty'}>"

    def before(self, claims: Claims) -> str | None:
        """The limit that a new call has to stand in line for, since others wait for it; None when it may ask."""
        for limit, _ in claims:
            if limit.name in self.open:
                return limit.name
        return None

    async def wait(self, name: str, claims: Claims, owner: str, priority: Priority, seconds: float) -> Grant | None:
        """In line for the limit `name`: the grant when our turn came in time, else None.

        A caller that is cancelled takes his place with him, and gives back what he was given in that moment.
        """
        waiter = Waiter(claims, owner, priority, self._line(name))
        self._join(waiter.line, waiter)

        def out_of_time() -> None:
            if not waiter.future.done():
                waiter.future.set_result(None)

        timer = self._clock.call_later(seconds, out_of_time)
        try:
            return await waiter.future
        except asyncio.CancelledError:
            if waiter.future.done() and not waiter.future.cancelled():
                late = waiter.future.result()
                if late is not None:
                    self._give_back(late)
            raise
        finally:
            timer.cancel()
            if waiter.line.queue.remove(waiter, owner, priority):
                waiter.line.changed.set()

    def stir(self, claims: Claims) -> None:
        """Something was given back: those who wait for it ask again."""
        for limit, _ in claims:
            line = self.open.get(limit.name)
            if line is not None:
                line.changed.set()

    def stop(self) -> None:
        """Ends the serving; nobody waits any more."""
        for line in self.open.values():
            if line.task is not None:
                line.task.cancel()
        self.open.clear()

    def _line(self, name: str) -> Line:
        line = self.open.get(name)
        if line is None:
            line = self.open[name] = Line(name)
        return line

    def _join(self, line: Line, waiter: Waiter) -> None:
        waiter.line = line
        line.queue.add(waiter, waiter.owner, waiter.priority)
        line.changed.set()
        if line.task is None:
            line.task = asyncio.get_running_loop().create_task(self._serve(line), name="waiting-line")

    async def _serve(self, line: Line) -> None:
        """Serves one line until it is empty: whoever's turn it is gets the next that is free."""
        queue = line.queue
        while (first := queue.peek()) is not None:
            line.changed.clear()
            answer = await self._state.reserve((first.claims,))
            still_first = queue.peek() is first
            if isinstance(answer, Grant):
                if still_first:
                    queue.pop()
                if not still_first or first.future.done():
                    self._give_back(answer)  # he left, or was overtaken, while Redis was asked
                else:
                    first.future.set_result(answer)
            elif still_first and answer.limit.name != line.name:
                queue.pop()
                if not first.future.done():
                    self._join(self._line(answer.limit.name), first)
            else:
                await self._changed(line, min(RECHECK, max(answer.wait, 0.001)))
        line.task = None
        if self.open.get(line.name) is line:
            del self.open[line.name]

    async def _changed(self, line: Line, seconds: float) -> None:
        timer = self._clock.call_later(seconds, line.changed.set)
        try:
            await line.changed.wait()
        finally:
            timer.cancel()

    def _give_back(self, grant: Grant) -> None:
        self._state.free(grant)
        self.stir(grant.claims)
