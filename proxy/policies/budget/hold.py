"""What an attempt holds of a budget where that is not a grant alone; and what is doubted of calls in flight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from proxy.state.limits import Claims, Grant

if TYPE_CHECKING:
    from proxy.state.interface import State

__all__ = ["Doubts", "Hold"]


class Hold:
    """``grant`` None: nothing could be reserved, the attempt runs all the same and is counted. ``doubts``: what it may
    come to beyond what is reserved, in the order of the claims; empty where nothing is doubted. ``counted``: what a
    session has used and is counted already, in the same order.
    """

    __slots__ = ("claims", "counted", "doubts", "grant")

    def __init__(
        self, grant: Grant | None, claims: Claims, doubts: Sequence[int] = (), counted: Sequence[int] = ()
    ) -> None:
        self.grant = grant
        self.claims = claims
        self.doubts = doubts
        self.counted = counted

    def settle(self, state: State, used: Sequence[int]) -> None:
        """``used`` in the order of the claims: instead of what is reserved, or on top of what is counted already."""
        if self.grant is not None:
            state.settle(self.grant, used)
            return
        known = self.counted or [0] * len(used)
        for (limit, _), amount, before in zip(self.claims, used, known, strict=True):
            state.book(limit, amount - before)


class Doubts:
    """The sum of what is doubted, by counter, of this process' calls in flight (see ``proxy.accounting.gauge``)."""

    def __init__(self) -> None:
        self._sums: dict[str, int] = {}

    def of(self, name: str) -> int:
        """What the calls in flight may come to beyond their reservations."""
        return self._sums.get(name, 0)

    def add(self, claims: Claims, doubts: Sequence[int]) -> None:
        """An attempt goes out."""
        for (limit, _), doubt in zip(claims, doubts, strict=bool(doubts)):
            self._sums[limit.name] = self._sums.get(limit.name, 0) + doubt

    def remove(self, claims: Claims, doubts: Sequence[int]) -> None:
        """It has ended, or did not go."""
        for (limit, _), doubt in zip(claims, doubts, strict=bool(doubts)):
            left = self._sums.get(limit.name, 0) - doubt
            if left > 0:
                self._sums[limit.name] = left
            else:
                self._sums.pop(limit.name, None)
