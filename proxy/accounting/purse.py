"""A bucket's counters in hand: what a call takes of a budget, and what it settles, without a look-up by name.

``MemoryState.try_reserve`` finds each meter by its limit's name, asks the clock and writes a receipt. A budget's calls
take of the same few counters again and again, so a purse keeps their meters (``MemoryState.keep``: nobody sweeps them
meanwhile) and writes none: whoever takes remembers the amounts, and gives exactly these to ``settle``. The meters are
the same that everybody else finds by name, so what is taken here is seen there and the other way round.

A calendar window's counter is two sums, spent and held. Whether its window still runs is told by the wall clock when
the bucket is chosen, so the usual way asks no clock at all; nor does it say what of the sums is this process' own
(``away``), since all of it is. Rolling windows, and shares of a limit (``workers: N``), go through the meter's own
questions.

A purse lives as long as somebody can still settle with it, then its meters are let go.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import TypeAlias

from proxy.state.limits import Claims, Counter
from proxy.state.memory import MemoryState
from proxy.state.meters import CounterMeter

__all__ = ["Pocket", "Purse"]

_Amounts: TypeAlias = tuple[int, int, int]


class Pocket:
    """One counter and its meter. ``place``: that of its amount among a call's (``METRICS``). ``mark``: what has to be
    spent before a warning is due.
    """

    __slots__ = ("counter", "limit", "mark", "meter", "place")

    def __init__(self, place: int, counter: Counter, meter: CounterMeter) -> None:
        self.place = place
        self.counter = counter
        self.limit = float(counter.limit)  # as the sums are
        self.meter = meter
        self.mark = inf


class Purse:
    """All of a bucket's counters, or those that an unpriced model counts on."""

    __slots__ = ("_monotonic", "_only", "_state", "_sums", "pockets")

    def __init__(self, state: MemoryState, counters: Sequence[tuple[int, Counter]]) -> None:
        """``counters``: (place in ``METRICS``, counter)."""
        self._state = state
        self._monotonic = state.clock.monotonic
        self._sums = state.share.count == 1 and not any(counter.span for _, counter in counters)
        now = self._monotonic()
        pockets = []
        for place, counter in counters:
            meter = state.keep(counter)
            assert isinstance(meter, CounterMeter)
            meter.touch(counter, now)
            pockets.append(Pocket(place, counter, meter))
        self.pockets = tuple(pockets)
        self._only = pockets[0] if self._sums and len(pockets) == 1 else None  # as most have

    def __del__(self) -> None:
        for pocket in self.pockets:
            self._state.let_go(pocket.counter, pocket.meter)

    def __repr__(self) -> str:
        return f"<Purse {', '.join(pocket.counter.name for pocket in self.pockets)}>"

    def take(self, amounts: _Amounts) -> bool:
        """Takes all of it if it fits, else nothing."""
        pocket = self._only
        if pocket is not None:
            meter = pocket.meter
            held = meter.held + amounts[pocket.place]
            if meter.spent + held > pocket.limit:
                return False
            meter.held = held
            return True
        if not self._sums:
            return self._take_each(amounts)
        for pocket in self.pockets:
            meter = pocket.meter
            if meter.spent + meter.held + amounts[pocket.place] > pocket.limit:
                return False
        for pocket in self.pockets:
            pocket.meter.held += amounts[pocket.place]
        return True

    def _take_each(self, amounts: _Amounts) -> bool:
        now, share = self._monotonic(), self._state.share
        taken: list[Pocket] = []
        for pocket in self.pockets:
            if pocket.meter.ask(pocket.counter, amounts[pocket.place], now, share) > 0.0:
                for other in taken:
                    other.meter.settle(other.counter, amounts[other.place], 0, now, now, share)
                return False
            taken.append(pocket)
        return True

    def settle(self, amounts: _Amounts, used: _Amounts) -> bool:
        """What was really used instead of what was taken. Says whether a mark was reached."""
        if not self._sums:
            return self._settle_each(amounts, used)
        marked = False
        for pocket in self.pockets:
            meter, place = pocket.meter, pocket.place
            meter.held -= amounts[place]
            spent = meter.spent = meter.spent + used[place]
            if spent >= pocket.mark:
                marked = True
            if not meter.expires:  # a call so long that the counter was forgotten meanwhile
                meter.touch(pocket.counter, self._monotonic())
        return marked

    def _settle_each(self, amounts: _Amounts, used: _Amounts) -> bool:
        now, share = self._monotonic(), self._state.share
        marked = False
        for pocket in self.pockets:
            meter, place = pocket.meter, pocket.place
            meter.settle(pocket.counter, amounts[place], used[place], now, now, share)
            meter.drop(now)
            marked = marked or meter.spent >= pocket.mark
        return marked

    def claims(self, amounts: _Amounts) -> Claims:
        """The same amounts by name, for a receipt of the state's."""
        return tuple([(pocket.counter, amounts[pocket.place]) for pocket in self.pockets])
