"""Limits that are always taken together, in one process: the short way for those who keep them (a key, a caller).

`MemoryState.try_reserve` takes any limits in any order: it finds their meters by name and writes a receipt. A key or a
caller takes the same ones again and again, so this keeps the meters at hand and writes none; whoever takes remembers
the moment and the tokens, and gives exactly these to `settle`.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

from proxy.state.limits import Bucket, Limit, Slots, Window
from proxy.state.memory import MemoryState
from proxy.state.meters import Meter, SlotsMeter, WindowMeter

Pairs: TypeAlias = tuple[tuple[Any, Any], ...]
"""Limits, each with its meter."""
Usual: TypeAlias = tuple[WindowMeter, int, WindowMeter, int, SlotsMeter | None, int]
"""A window of calls, one of tokens, and places or none, each as its meter and its limit."""


class Joint:
    """One unit of each of `rates`, one place of each of `slots`, tokens of each of `weighed`: all or nothing.

    Its meters stay until it is closed (or gone). After that nobody may `take`; what was taken before can be settled.

    What a key usually has, a window of calls, one of tokens, and places or none, is moved as one: `take` looks at all
    of it before it changes any, and asks the meters one by one only when it sees a reason not to.
    """

    __slots__ = ("_open", "_place", "_state", "_usual", "rates", "slots", "weighed")

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
        self._place: SlotsMeter | None = self.slots[0][1] if len(self.slots) == 1 else None
        self._usual = self._usual_of()
        self._open = True

    def _keep(self, limits: Sequence[Limit]) -> Pairs:
        return tuple([(limit, self._state.keep(limit)) for limit in limits])

    def _usual_of(self) -> Usual | None:
        match self.rates, self.weighed, self.slots:  # two limits never have one name, so these are two meters
            case ((Window() as calls, of_calls),), ((Window() as tokens, of_tokens),), ():
                return of_calls, calls.limit, of_tokens, tokens.limit, None, 0
            case ((Window() as calls, of_calls),), ((Window() as tokens, of_tokens),), ((slots, place),):
                return of_calls, calls.limit, of_tokens, tokens.limit, place, slots.limit
        return None

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
        if self._usual is not None and share.count == 1:
            of_calls, most_calls, of_tokens, most_tokens, place, places = self._usual
            calls = of_calls.total + 1
            weight = of_tokens.total + tokens
            if (
                now < of_calls.steady
                and now < of_tokens.steady
                and calls + of_calls.others <= most_calls
                and weight + of_tokens.others <= most_tokens
                and (place is None or (place.held < places and not place.others))
            ):
                if place is not None:
                    place.held += 1
                    place.away += 1
                of_calls.total = calls
                of_tokens.total = weight
                return True
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
        if self._place is not None:
            self._place.held -= 1
            self._place.away -= 1
        else:
            for limit, meter in self.slots:
                meter.settle(limit, 1, 0, stamp, now, share)
        if used != tokens:
            for limit, meter in self.weighed:
                meter.settle(limit, tokens, used, stamp, now, share)

    def idle_in(self, now: float) -> float:
        """Seconds until none of it is in use, 0 when that is so now."""
        return max([meter.idle_in(now) for _, meter in (*self.rates, *self.slots, *self.weighed)], default=0.0)
