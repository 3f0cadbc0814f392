"""Calls that wait for a key to come back: first come, first woken."""

import asyncio
from collections import deque

from proxy.clock import Clock


class Waiting:
    """turns: of those who wait, the longest waiting first; empty when nobody does."""

    __slots__ = ("_clock", "turns")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.turns: deque[asyncio.Future[None]] = deque()

    async def wait(self, seconds: float) -> None:
        """Until it is one's turn, or `seconds` have passed."""
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.turns.append(woken)

        def wake() -> None:
            if not woken.done():
                woken.set_result(None)

        timer = self._clock.call_later(seconds, wake)
        try:
            await woken
        except asyncio.CancelledError:
            if woken.done() and not woken.cancelled():
                self.wake()  # the turn it was given goes to the next
            raise
        finally:
            timer.cancel()
            if woken in self.turns:
                self.turns.remove(woken)

    def wake(self) -> None:
        """The next one's turn."""
        while self.turns:
            woken = self.turns.popleft()
            if not woken.done():
                woken.set_result(None)
                return

    def wake_all(self) -> None:
        """Everybody's turn."""
        while self.turns:
            self.wake()
