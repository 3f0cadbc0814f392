"""One phase of a chain: the hooks of the policies that have it, in the order in which they are called.

A chain of ten policies calls some twenty-five hooks for each call, and the usual call passes through all of them. So
what a loop runs over is a plain tuple of functions; who a hook belongs to is looked up only where the loop stops. For a
call that did not enter all policies, or that skipped one (its ``when`` did not hold), the phase is narrowed to those
that it did enter, once for each such combination.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain as following
from operator import length_hint
from typing import Any, Final, TypeAlias

from proxy.step import Step

__all__ = ["Entry", "Phase", "told"]

Entry: TypeAlias = tuple[int, Callable[..., Any], Step]
"""A policy's number in its chain, its hook, and its step."""

_KEPT: Final = 256
"""Combinations that are remembered: a chain has few conditions, but they multiply."""


def told(said: Any) -> Callable[..., Any]:
    """A hook that was called already, and what it said."""
    return lambda *_: said


class Phase:
    """entries: as they are called. hooks: theirs. last: the highest number among them; a call that entered more
    policies than that has entered all of these."""

    __slots__ = ("_narrowed", "entries", "hooks", "last")

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.entries = tuple(entries)
        self.hooks = tuple([hook for _, hook, _ in self.entries])
        self.last = max([index for index, _, _ in self.entries], default=-1)
        self._narrowed: dict[tuple[int, int], Phase] = {}

    def __bool__(self) -> bool:
        return bool(self.hooks)

    def of(self, entered: int, skipped: int) -> Phase:
        """What is left of it for a call that entered the policies below the number ``entered`` but for the bits in
        ``skipped``."""
        found = self._narrowed.get((entered, skipped))
        if found is None:
            if len(self._narrowed) >= _KEPT:
                self._narrowed.clear()
            found = Phase(one for one in self.entries if one[0] < entered and not skipped >> one[0] & 1)
            self._narrowed[entered, skipped] = found
        return found

    def called(self, left: Iterator[Any]) -> Entry:
        """The entry whose hook a loop called last. left: the loop's iterator over ``hooks``."""
        return self.entries[self._place(left)]

    def rest(self, left: Iterator[Any], said: Any) -> Iterator[Entry]:
        """The entries that a loop has not finished with: the one that it called last, which is not called again (it
        ``said`` so), and those to come."""
        place = self._place(left)
        index, _, step = self.entries[place]
        return following([(index, told(said), step)], self.entries[place + 1 :])

    def _place(self, left: Iterator[Any]) -> int:
        return len(self.hooks) - length_hint(left) - 1
