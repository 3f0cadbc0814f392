"""Time, injected everywhere, so that a test can hold it still and a wall clock that jumps breaks nothing.

`now()` is the wall clock: seconds since 1970, for what people and providers read (dates, calendars). It may jump.
`monotonic()` only moves forward: every wait, deadline, window and bucket is measured with it.
"""

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable
from typing import Protocol


class Timer(Protocol):
    """What `call_later` returns: `cancel()` is safe at any time, also after the call was made."""

    def cancel(self) -> None: ...


class Clock(Protocol):
    """The three things anybody may ask of time, and the two ways to wait for it."""

    def now(self) -> float:
        """Wall clock, seconds since 1970."""

    def monotonic(self) -> float:
        """Seconds since some fixed moment; never goes back."""

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Timer:
        """Calls `callback` once, `seconds` from now, on the running loop."""

    async def sleep(self, seconds: float) -> None:
        """Waits; ends at once when the waiting task is cancelled."""


class SystemClock:
    """The machine's clocks. `now` and `monotonic` are the C functions themselves: no Python frame a call."""

    __slots__ = ()

    now = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Timer:
        return asyncio.get_running_loop().call_later(seconds, callback)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class FakeClock:
    """A clock for tests: time stands still until `advance` or `run` moves it; `jump` moves the wall clock alone.

    Timers fire inside `advance`, in order of their deadlines, with the clock showing each deadline in turn.
    """

    def __init__(self, now: float = 1_700_000_000.0, monotonic: float = 1_000.0) -> None:
        self._now = now
        self._monotonic = monotonic
        self._timers: list[tuple[float, int, FakeTimer]] = []
        self._order = itertools.count()

    def now(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def jump(self, seconds: float) -> None:
        """Sets the wall clock forward (or back, when negative), as a time server would; `monotonic` does not notice."""
        self._now += seconds

    def advance(self, seconds: float) -> None:
        """Moves both clocks and fires what falls due on the way. Tasks woken by it run when the loop next turns."""
        end = self._monotonic + seconds
        while self._timers and self._timers[0][0] <= end:
            due, _, timer = heapq.heappop(self._timers)
            if timer.callback is None:
                continue
            self._move_to(due)
            callback, timer.callback = timer.callback, None
            callback()
        self._move_to(end)

    async def run(self, seconds: float) -> None:
        """Like `advance`, but lets woken tasks run at each deadline before time moves on."""
        end = self._monotonic + seconds
        await settle_loop()
        while self._timers and self._timers[0][0] <= end:
            self.advance(max(0.0, self._timers[0][0] - self._monotonic))
            await settle_loop()
        self.advance(max(0.0, end - self._monotonic))
        await settle_loop()

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Timer:
        timer = FakeTimer(callback)
        heapq.heappush(self._timers, (self._monotonic + max(0.0, seconds), next(self._order), timer))
        return timer

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def wake() -> None:
            if not woken.done():
                woken.set_result(None)

        timer = self.call_later(seconds, wake)
        try:
            await woken
        finally:
            timer.cancel()

    def _move_to(self, moment: float) -> None:
        step = max(0.0, moment - self._monotonic)
        self._now += step
        self._monotonic += step


class FakeTimer:
    """A pending call of a `FakeClock`; a cancelled one stays in the queue, empty."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], object]) -> None:
        self.callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        self.callback = None


async def settle_loop(turns: int = 10) -> None:
    """Gives every task that can run the chance to do so, a few times over."""
    for _ in range(turns):
        await asyncio.sleep(0)
