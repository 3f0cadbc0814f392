"""What is idle is forgotten: each entry is looked at when it may have become idle, not again and again until then.

A wheel of quarter seconds: an entry lies in the slot of the moment in which it is worth a look, and after the look it
is forgotten or moves to a later slot. An hour of cooldown is looked at once a minute, a bucket that is full again in
half a second once. A look costs half a microsecond, whatever the number of entries that are not due.
"""

from collections.abc import Callable
from typing import Any, Final, TypeAlias

TICKS: Final = 4
"""Slots a second."""
SLOTS: Final = 256
LONGEST: Final = 60.0
"""Seconds after which an entry is looked at in any case; less than the wheel is long."""

Look: TypeAlias = Callable[[Any, float], float]
"""Called with an entry's key and the time: seconds until it is worth another look, 0 when it was forgotten."""


class Sweeper:
    """Pure but for the clock: somebody calls `sweep` now and then. Whoever does so late has some looked at early."""

    __slots__ = ("_done", "_due", "_monotonic", "_size", "_wheel")

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._wheel: list[list[tuple[Look, Any]]] = [[] for _ in range(SLOTS)]
        self._due: list[tuple[Look, Any]] = []
        self._done = int(monotonic() * TICKS)
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __repr__(self) -> str:
        return f"<Sweeper {self._size} entries>"

    def add(self, look: Look, key: Any, seconds: float) -> None:
        """Looks at `key` in so many seconds for the first time."""
        self._size += 1
        self._put(look, key, self._monotonic(), seconds)

    def _put(self, look: Look, key: Any, now: float, seconds: float) -> None:
        # Never further than once around from what was swept last: a sweep that is late would take it for a due one.
        tick = min(int((now + min(seconds, LONGEST)) * TICKS) + 1, self._done + SLOTS)
        self._wheel[tick % SLOTS].append((look, key))

    def sweep(self, most: int) -> int:
        """Looks at up to `most` entries that are due, and says at how many it looked."""
        now = self._monotonic()
        tick = int(now * TICKS)
        due = self._due
        for past in range(max(self._done, tick - SLOTS) + 1, tick + 1):
            due += self._wheel[past % SLOTS]
            self._wheel[past % SLOTS].clear()
        self._done = max(self._done, tick)
        looked = min(most, len(due))
        for _ in range(looked):
            look, key = due.pop()
            seconds = look(key, now)
            if seconds > 0.0:
                self._put(look, key, now, seconds)
            else:
                self._size -= 1
        return looked
