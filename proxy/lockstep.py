"""Calls that arrive together go on together.

A call through a long chain runs more code than a core keeps close at hand. When thirty calls are ready in one turn of
the loop, each taken from start to end would fetch all of it anew; taken stage by stage, one stage after the other for
all thirty, what a stage needs is fetched once. That is a tenth to a fifth of the CPU of a busy process
(docs/performance.md).

So at the borders of its stages a call waits for the next turn of the loop, in which those that wait with it come one
after the other: but only while others are under way and came by lately, so that a call that is alone waits for nobody.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Generator, Sized

__all__ = ["CLOSE", "COMPANY", "LONG", "NEXT_TURN", "Border"]

CLOSE: Final = 0.002
"""Seconds since another call came by. A process with less to do than that has nothing to gain."""
COMPANY: Final = 4
"""Calls under way, at least."""
LONG: Final = 5
"""Policies of a chain, at least: what a shorter one runs is close at hand anyway, and the turns cost 3 us."""


class Border:
    """Where one stage ends and the next begins, for all calls on the same chain. least: calls under way that make it
    crowded."""

    __slots__ = ("_last", "_least")

    def __init__(self, least: float = COMPANY) -> None:
        self._least = least
        self._last = 0.0

    def crowded(self, under_way: Sized) -> bool:
        """Whether this call should await ``NEXT_TURN``. under_way: the calls in flight, this one among them."""
        if len(under_way) < self._least:
            return False
        now = monotonic()
        near = now - self._last < CLOSE
        self._last = now
        return near


class _NextTurn:
    """What ``asyncio.sleep(0)`` does, without a coroutine."""

    __slots__ = ()

    def __await__(self) -> Generator[None, None, None]:
        yield


NEXT_TURN: Final = _NextTurn()
