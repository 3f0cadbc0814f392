"""What happened in the last seconds: counts in a ring of 1 s cells, and a quantile of the latest values.

Pure: every method is told the time (monotonic seconds). Adding costs the same however much is counted.
"""

from __future__ import annotations


class Recent:
    """Two sums over the last ``seconds``: ``all`` and, of those, ``some`` (failures of calls, retries of calls ...).

    A cell counts until it is wholly past, the newest cell is the second that runs: the sums cover between
    ``seconds - 1`` and ``seconds`` seconds. Read the sums after ``at(now)``.

    What the running second has seen is what the sums have grown by since it began, so that adding is no more than the
    two sums; its cell is written when it is over.
    """

    __slots__ = ("_all", "_all_before", "_over", "_some", "_some_before", "all", "seconds", "some")

    def __init__(self, seconds: int) -> None:
        self.seconds = seconds
        self._over = 1.0  # the end of the second that runs
        self.clear()

    def __repr__(self) -> str:
        return f"<Recent {self.some} of {self.all} in {self.seconds}s>"

    def at(self, now: float) -> Recent:
        """Forget what is past at ``now``; time that goes back forgets nothing."""
        if now >= self._over:
            self._forget(int(now))
        return self

    def add(self, now: float, all: int, some: int) -> None:  # noqa: A002
        """Count ``all`` more, and ``some`` more, in the cell of ``now``."""
        if now >= self._over:
            self._forget(int(now))
        self.all += all
        self.some += some

    def clear(self) -> None:
        """Begin anew."""
        self.all = self.some = self._all_before = self._some_before = 0
        self._all = [0] * self.seconds
        self._some = [0] * self.seconds

    def _forget(self, second: int) -> None:
        ended = int(self._over) - 1
        self._over = second + 1.0
        if second - ended >= self.seconds:
            self.clear()
            return
        self._all[ended % self.seconds] = self.all - self._all_before
        self._some[ended % self.seconds] = self.some - self._some_before
        for past in range(ended + 1, second + 1):
            cell = past % self.seconds
            self.all -= self._all[cell]
            self.some -= self._some[cell]
            self._all[cell] = self._some[cell] = 0
        self._all_before = self.all
        self._some_before = self.some


class Latest:
    """The last ``size`` values and a quantile of them, sorted again after every quarter of them is new.

    ``value`` is None until ``least`` values were seen.
    """

    __slots__ = ("_at", "_stale", "_values", "least", "quantile", "size", "value")

    def __init__(self, quantile: float, *, size: int = 256, least: int = 20) -> None:
        self.quantile = quantile
        self.size = size
        self.least = least
        self.value: float | None = None
        self._values: list[float] = []
        self._at = 0
        self._stale = 0

    def __repr__(self) -> str:
        return f"<Latest p{self.quantile * 100:g} {self.value} of {len(self._values)}>"

    def add(self, value: float) -> None:
        """See one more value."""
        values = self._values
        if len(values) < self.size:
            values.append(value)
        else:
            values[self._at] = value
            self._at = (self._at + 1) % self.size
        self._stale += 1
        if self._stale >= self.size // 4 or (self.value is None and len(values) >= self.least):
            self._stale = 0
            ordered = sorted(values)
            # Nearest rank: the smallest value that at least this share of all values does not exceed.
            rank = -int(-self.quantile * len(ordered) // 1)
            self.value = ordered[max(0, rank - 1)] if len(ordered) >= self.least else None
