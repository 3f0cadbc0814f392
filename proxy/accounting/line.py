"""Who waits for others' reservations to settle: first come, first served, within this process.

A call that found only reservations in its way takes a place. When something is given back the first one is woken and
asks again; until it has asked, nobody behind it and nobody new is let past. A woken call that does not come back (it
ended elsewhere, or waits for something else) loses its turn after a quarter of a second.
"""

from __future__ import annotations

import asyncio
from collections import deque

__all__ = ["Line", "Place"]

TURN = 0.25


class Place:
    """One waiting call."""

    __slots__ = ("left", "woken")

    def __init__(self) -> None:
        self.woken: asyncio.Future[None] | None = None
        self.left = False


class Line:
    """The waiting calls of one budget counter."""

    __slots__ = ("_places", "_turn")

    def __init__(self) -> None:
        self._places: deque[Place] = deque()
        self._turn: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, place: object) -> bool:
        return place in self._places

    def may_ask(self, place: Place | None) -> bool:
        """Whether a call may reserve now: nobody waits, or it is the first of those who wait."""
        return not self._places or self._places[0] is place

    def join(self) -> Place:
        """Take the last place."""
        place = Place()
        self._places.append(place)
        return place

    async def wait(self, place: Place, seconds: float) -> bool:
        """Until it is this place's turn; False when ``seconds`` went by first (the place is then given up)."""
        loop = asyncio.get_running_loop()
        self._end_turn(place)
        place.woken = loop.create_future()
        timer = loop.call_later(seconds, _set, place.woken)
        try:
            await place.woken
        except BaseException:
            self.leave(place)
            raise
        finally:
            timer.cancel()
        if self._turn is not None and self._places and self._places[0] is place:
            return True
        self.leave(place)
        return False

    def leave(self, place: Place) -> None:
        """Give a place up, also twice; whoever was behind it may be next."""
        if place.left:
            return
        place.left = True
        first = bool(self._places) and self._places[0] is place
        self._places.remove(place)
        self._end_turn(place, always=first)
        if first:
            self.wake()

    def wake(self) -> None:
        """Something was given back: it is the first one's turn to ask."""
        if not self._places or self._turn is not None:
            return
        first = self._places[0]
        self._turn = asyncio.get_running_loop().call_later(TURN, self._lost, first)
        if first.woken is not None:
            _set(first.woken)

    def _lost(self, place: Place) -> None:
        self._turn = None
        self.leave(place)

    def _end_turn(self, place: Place, *, always: bool = False) -> None:
        if self._turn is not None and (always or (self._places and self._places[0] is place)):
            self._turn.cancel()
            self._turn = None


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
