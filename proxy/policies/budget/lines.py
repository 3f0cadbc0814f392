"""Calls that wait because only others' reservations are in their way: one line for each value of a budget."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from proxy.accounting.line import Line, Place

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from proxy.errors import ProxyError

__all__ = ["Lines"]

_POLL = 0.2  # with Redis, others give back without our seeing it


class Lines(dict[str, Line]):
    """Value -> who waits for it. A line is there as long as somebody stands in it."""

    def __init__(self, *, poll: bool) -> None:
        """``poll``: ask again from time to time, since what is given back elsewhere is not told here."""
        super().__init__()
        self._poll = poll

    def wait(
        self, value: str, place: Place | None, deadline: float, error: ProxyError
    ) -> tuple[Place, Callable[[], Awaitable[None]]]:
        """A place in the line (``place``, if there is one already), and what to await until it is its turn: raises
        ``error`` when ``deadline`` (loop time) comes first.
        """
        line = self.setdefault(value, Line())
        held = line.join() if place is None else place
        loop = asyncio.get_running_loop()

        async def until() -> None:
            poll = loop.call_later(_POLL, line.wake) if self._poll else None
            try:
                if not await line.wait(held, max(0.0, deadline - loop.time())):
                    raise error
            finally:
                self._tidy(value)
                if poll is not None:
                    poll.cancel()

        return held, until

    def given_back(self, value: str) -> None:
        """Something of ``value`` is free again: the first one's turn."""
        line = self.get(value)
        if line is not None:
            line.wake()
            self._tidy(value)

    def leave(self, value: str, place: Place | None) -> None:
        """A call gives up its place."""
        line = self.get(value)
        if line is not None and place is not None:
            line.leave(place)
            self._tidy(value)

    def leave_all(self, place: Place) -> None:
        """The same when nobody knows any more what for it waited."""
        for value, line in list(self.items()):
            if place in line:
                self.leave(value, place)

    def _tidy(self, value: str) -> None:
        line = self.get(value)
        if line is not None and not len(line):
            del self[value]
