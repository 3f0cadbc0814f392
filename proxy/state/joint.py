"""Limits that are always taken together, in one process: the short way for those who keep them (a key, a caller).

`MemoryState.try_reserve` takes any limits in any order: it finds their meters by name and writes a receipt. A key or a
caller takes the same ones again and again, so this keeps the meters at hand and writes none; whoever takes remembers
the moment and the tokens, and gives exactly these to `settle`.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

from proxy.state.limits import Bucket, Limit, Slots, Window
from proxy.state.memory import MemoryState
from proxy.state.meters import Meter

Pairs: TypeAlias = tuple[tuple[Any, Any], ...]
"""Limits, each with its meter."""


class Joint:
    """One unit of each of `rates`, one place of each of `slots`, tokens of each of `weighed`: all or nothing.

    Its meters stay until it is closed (or gone). After that nobody may `take`; what was taken before can be settled.
    """

    __slots__ = ("_open", "_state", "rates", "slots", "weighed")

    def __init__(
        self,
        state: MemoryState,
        rates: Sequence[Window | Bucket] = (),
        slots: Sequence[Slots] = (),
        weighed: Sequence[Window | Bucket] = (),
    ) -> None:
        self._state = state
        self.rates = self._keep(rates)
        self.slots = self._keep(slots)
        self.weighed = self._keep(weighed)
        self._open = True

    def _keep(self, limits: Sequence[Limit]) -> Pairs:
        return tuple([(limit, self._state.keep(limit)) for limit in limits])

    def close(self) -> None:
        """Lets go of the meters."""
        if self._open:
            self._open = False
            for limit, meter in (*self.rates, *self.slots, *self.weighed):
                self._state.let_go(limit, meter)

    __del__ = close

    def __repr__(self) -> str:
        return f"<Joint {', '.join(limit.name for limit, _ in (*self.rates, *self.slots, *self.weighed))}>"

    def take(self, tokens: int, now: float) -> bool:
        """Takes all of it if it fits. now: monotonic seconds, to be kept for `settle`."""
        share = self._state.share
        for limit, meter in self.rates:
            if meter.ask(limit, 1, now, share) > 0.0:
                return self._undo(meter, tokens, now)
        for limit, meter in self.slots:
            if meter.ask(limit, 1, now, share) > 0.0:
                return self._undo(meter, tokens, now)
        for limit, meter in self.weighed:
            if meter.ask(limit, tokens, now, share) > 0.0:
                return self._undo(meter, tokens, now)
        return True

    def _undo(self, refused: Meter, tokens: int, now: float) -> bool:
        """Gives back what was taken before the one that did not fit."""
        share = self._state.share
        for limit, meter in (*self.rates, *self.slots):
            if meter is refused:
                return False
            meter.settle(limit, 1, 0, now, now, share)
        for limit, meter in self.weighed:
            if meter is refused:
                return False
            meter.settle(limit, tokens, 0, now, now, share)
        return False

    def settle(self, count: int, tokens: int, used: int, stamp: float, now: float) -> None:
        """What was really used: `count` units instead of one, `used` tokens instead of `tokens`. Frees the places."""
        if not self._open:
            # A call so long that everything else about it was over: what it owes is owed all the same.
            again = Joint(self._state, *[[limit for limit, _ in pairs] for pairs in (self.rates, (), self.weighed)])
            again.settle(count, tokens, used, stamp, now)
            again.close()
            return
        share = self._state.share
        if count != 1:
            for limit, meter in self.rates:
                meter.settle(limit, 1, count, stamp, now, share)
        for limit, meter in self.slots:
            meter.settle(limit, 1, 0, stamp, now, share)
        if used != tokens:
            for limit, meter in self.weighed:
                meter.settle(limit, tokens, used, stamp, now, share)

    def idle_in(self, now: float) -> float:
        """Seconds until none of it is in use, 0 when that is so now."""
        return max([meter.idle_in(now) for _, meter in (*self.rates, *self.slots, *self.weighed)], default=0.0)
