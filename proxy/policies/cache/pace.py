"""Work over many entries, a bounded part in each turn of the loop."""

from __future__ import annotations

import asyncio
from typing import Final

__all__ = ["EACH", "TURN", "Pace"]

TURN: Final = 128 * 1024
"""Bytes that one turn works on: well under 1 ms, whether they are read, sealed, copied or written as JSON."""
EACH: Final = 4 * 1024
"""Bytes that an entry counts for beside its own: what has to be done for the smallest."""


class Pace:
    """``await pace.took(n)`` after each entry; the loop gets its turn when ``TURN`` is spent."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = TURN

    async def took(self, size: int) -> None:
        """size: the entry's bytes."""
        self._left -= size + EACH
        if self._left <= 0:
            self._left = TURN
            await asyncio.sleep(0)
