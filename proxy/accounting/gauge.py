"""How far off estimates are: what a budget must expect beyond them, so that a burst of calls cannot overspend it.

An estimate of input tokens counts letters, and nobody knows the provider's vocabulary, its hidden prompts or its way of
counting tools. So for each model at each upstream it is kept how many input tokens were charged for each one estimated:
the highest of late (the last 256 to 512 answers), at least 1, by size of the estimate (powers of two), because what a
provider adds to every call weighs more on a short one. That many are reserved from then on. The same for answers
without a limit of the client's: the longest of late, if it is longer than ``assume_output``.

Before the first answer of a size there is only doubt: the most that a text can come to, a token for each byte,
which is four times the estimate, and two thousand tokens for what is added unseen. It is not reserved, but as long as
it lasts, no more calls go out at once than the budget has room for with their doubts.

What is charged is always what the provider says.
"""

from __future__ import annotations

from math import ceil

__all__ = ["Gauge", "Highest"]

_GENERATION = 256
_BYTES_A_TOKEN = 4
_UNSEEN = 2_000
_DUST = 1e-6  # of a token, from the division


class Gauge:
    """One model at one upstream. ``fair``: the sizes of estimates for which nothing of late was charged beyond them,
    so that they are taken as they are. ``longest``: of the tokens of answers without a limit.
    """

    __slots__ = ("_inputs", "fair", "longest")

    def __init__(self) -> None:
        self._inputs: dict[int, Highest] = {}
        self.fair: set[int] = set()
        self.longest = Highest()

    def expect(self, estimate: int) -> tuple[int, int]:
        """Input tokens to reserve for an estimate; and how many may come on top of them while no answer to one of its
        size has come yet.
        """
        seen = self._inputs.get(estimate.bit_length())
        if seen is None:
            return estimate, estimate * (_BYTES_A_TOKEN - 1) + _UNSEEN if estimate else 0
        ratio = seen.value
        return (estimate if ratio <= 1.0 else ceil(estimate * ratio - _DUST)), 0

    def learn(self, estimate: int, charged: int) -> None:
        """``charged`` input tokens were the provider's count for ``estimate``. Need not be called where they are no
        more and the estimate's size is fair: there is nothing to remember then, and nothing to forget.
        """
        size = estimate.bit_length()
        seen = self._inputs.get(size)
        if seen is None:
            seen = self._inputs[size] = Highest()
        seen.see(charged / estimate)
        if seen.value <= 1.0:
            self.fair.add(size)
        else:
            self.fair.discard(size)


class Highest:
    """The highest of the values seen in this generation and the one before."""

    __slots__ = ("_left", "_now", "value")

    def __init__(self) -> None:
        self.value = self._now = 0.0
        self._left = _GENERATION

    def see(self, value: float) -> None:
        """One more."""
        if value > self._now:
            self._now = value
            self.value = max(self.value, value)
        self._left -= 1
        if not self._left:
            self.value, self._now = self._now, 0.0
            self._left = _GENERATION
