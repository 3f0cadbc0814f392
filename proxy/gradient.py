"""How many calls at a time an upstream takes well, learned from its latency (gradient limit).

After the "Gradient2" idea of Netflix' concurrency-limits: when the latency of now is above the usual one, the limit
shrinks in proportion; when it is not, the limit grows by about its square root.

    gradient = clamp(tolerance * usual / now, 0.5, 1)
    limit    = (1 - smoothing) * limit + smoothing * (limit * gradient + sqrt(limit))      bounded by floor and ceiling

`now` is a fast moving average, `usual` a slow one that follows downwards quickly. Pure: told every latency.
"""

import math
from typing import Final

FAST: Final = 0.2
SLOW: Final = 0.005
SMOOTHING: Final = 0.2
STEP_EVERY: Final = 10
"""Latencies between two steps of the limit: one slow call is no trend."""
BACKOFF: Final = 0.9


class Gradient:
    """`limit` is whole and within [floor, ceiling]; it begins at `initial`."""

    __slots__ = ("_count", "_limit", "_now", "_usual", "ceiling", "floor", "tolerance")

    def __init__(self, floor: int, ceiling: int, initial: int, tolerance: float = 1.5) -> None:
        self.floor = floor
        self.ceiling = ceiling
        self.tolerance = tolerance
        self._limit = float(min(ceiling, max(floor, initial)))
        self._now: float | None = None
        self._usual: float | None = None
        self._count = 0

    def __repr__(self) -> str:
        return f"<Gradient {self.limit} in {self.floor}..{self.ceiling}, now {self._now}, usual {self._usual}>"

    @property
    def limit(self) -> int:
        """Calls at a time."""
        return int(self._limit)

    def answered(self, latency: float, in_flight: int) -> None:
        """A call's seconds to its first byte, and how many were in flight with it."""
        now, usual = self._now, self._usual
        if now is None or usual is None:
            self._now = self._usual = latency
            return
        self._now = now = now + FAST * (latency - now)
        usual += (FAST if latency < usual else SLOW) * (latency - usual)
        self._usual = usual
        self._count += 1
        if self._count < STEP_EVERY:
            return
        self._count = 0
        gradient = max(0.5, min(1.0, self.tolerance * usual / now)) if now > 0 else 1.0
        if gradient == 1.0 and in_flight * 2 < self._limit:
            return  # nobody asks for more: an unused limit says nothing and must not grow for ever
        target = self._limit * gradient + math.sqrt(self._limit)
        self._set((1 - SMOOTHING) * self._limit + SMOOTHING * target)

    def overloaded(self) -> None:
        """The upstream said itself that it has too much (503, a timeout)."""
        self._set(self._limit * BACKOFF)

    def _set(self, limit: float) -> None:
        self._limit = min(float(self.ceiling), max(float(self.floor), limit))
