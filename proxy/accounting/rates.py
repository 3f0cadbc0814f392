"""What one model costs, compiled to integers, and the one multiplication that prices a usage.

Rates are nano-dollars for a million units (tokens, pictures, minutes, requests, searches). A kind that a list does not
name costs what the kind it is part of costs: a cache read is an input token, reasoning is output.

    fresh input = input - cached_input - cache_write - audio_input - image_input      (never below zero)
    plain output = output - reasoning - audio_output - image_output                   (never below zero)
    cost = sum(count * rate), rounded once, half up

Tiers are cliffs: a call with more input tokens than a tier's start pays that tier's rates for all its tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from proxy.accounting.money import PER_MILLION
from proxy.accounting.usage import Usage

__all__ = ["KINDS", "PARENTS", "Price", "Rates", "Unpriced"]

KINDS = (
    "input",
    "cached_input",
    "cache_write",
    "cache_write_1h",
    "audio_input",
    "image_input",
    "output",
    "reasoning",
    "audio_output",
    "image_output",
    "image",
    "minute",
    "request",
    "search",
)
"""Every kind a price can name. The first ten are per token, the rest per piece."""

PARENTS = {
    "cached_input": "input",
    "cache_write": "input",
    "cache_write_1h": "cache_write",
    "audio_input": "input",
    "image_input": "input",
    "reasoning": "output",
    "audio_output": "output",
    "image_output": "output",
}

_MS_PER_MINUTE = 60_000


class Rates:
    """One column of a price list: every kind resolved to an integer rate."""

    __slots__ = (*KINDS, "_plain", "dearest_input", "dearest_output", "named")

    input: int
    cached_input: int
    cache_write: int
    cache_write_1h: int
    audio_input: int
    image_input: int
    output: int
    reasoning: int
    audio_output: int
    image_output: int
    image: int
    minute: int
    request: int
    search: int

    def __init__(self, named: Mapping[str, int]) -> None:
        """``named``: nano-dollars per million units for the kinds the list names; the others follow their parent."""
        self.named = dict(named)
        for kind in KINDS:  # parents stand before their parts in KINDS
            rate = named.get(kind)
            if rate is None:
                parent = PARENTS.get(kind)
                rate = getattr(self, parent) if parent else 0
            setattr(self, kind, rate)
        self._plain = not (self.image or self.minute or self.request or self.search)
        # What a token may cost at most: a cache write cannot be known before, reasoning may be dearer than output.
        self.dearest_input = max(self.input, self.cache_write)
        self.dearest_output = max(self.output, self.reasoning)

    def cost(self, usage: Usage) -> int:
        """Nano-dollars for ``usage``."""
        cached, written = usage.cached_input, usage.cache_write
        audio_in, image_in = usage.audio_input, usage.image_input
        reasoning, audio_out, image_out = usage.reasoning, usage.audio_output, usage.image_output
        fresh = usage.input - cached - written - audio_in - image_in
        plain = usage.output - reasoning - audio_out - image_out
        total = (fresh * self.input if fresh > 0 else 0) + (plain * self.output if plain > 0 else 0)
        if cached:
            total += cached * self.cached_input
        if reasoning:
            total += reasoning * self.reasoning
        if written:
            hour = min(usage.cache_write_1h, written)
            total += (written - hour) * self.cache_write + hour * self.cache_write_1h
        if audio_in or image_in or audio_out or image_out:
            total += audio_in * self.audio_input + image_in * self.image_input
            total += audio_out * self.audio_output + image_out * self.image_output
        if not self._plain:
            total += usage.images * self.image + self.request + usage.searches * self.search
            total += (usage.audio_ms * self.minute + _MS_PER_MINUTE // 2) // _MS_PER_MINUTE
        return (total + 500_000) // PER_MILLION  # round_millionths, without the call

    def worst_case(self, input_tokens: int, output_tokens: int) -> int:
        """Nano-dollars for that many tokens if each costs its dearest kind."""
        total = input_tokens * self.dearest_input + output_tokens * self.dearest_output + self.request
        return (total + 500_000) // PER_MILLION

    def scaled(self, numerator: int, denominator: int) -> Rates:
        """The same list times a fraction (a batch discount), each rate rounded half up."""
        return Rates(
            {kind: (rate * numerator * 2 + denominator) // (2 * denominator) for kind, rate in self.named.items()}
        )


class Price:
    """The price of one model at one provider, with where it comes from.

    ``cost(usage)``: nano-dollars, in the tier that its input falls into. ``worst_case(input_tokens, output_tokens)``:
    nano-dollars for that many tokens if nothing comes from a cache and each costs its dearest kind. Both are asked for
    every call, so a price without tiers is its only rates' own functions.
    """

    __slots__ = ("base", "cost", "free", "name", "note", "source", "tiers", "version", "worst_case")

    priced = True

    def __init__(
        self,
        name: str,
        base: Rates,
        *,
        tiers: tuple[tuple[int, Rates], ...] = (),
        source: str,
        version: str,
        note: str = "",
        free: bool = False,
    ) -> None:
        """``tiers``: (start, rates), highest start first; a tier holds for more than ``start`` input tokens.

        ``free``: paid by a free-tier credit.
        """
        self.name = name
        self.base = base
        self.tiers = tiers
        self.source = source
        self.version = version
        self.note = note
        self.free = free
        self.cost: Callable[[Usage], int] = self._tiered if tiers else base.cost
        self.worst_case: Callable[[int, int], int] = self._tiered_worst_case if tiers else base.worst_case

    def _rates(self, input_tokens: int) -> Rates:
        return next((rates for start, rates in self.tiers if input_tokens > start), self.base)

    def _tiered(self, usage: Usage) -> int:
        return self._rates(usage.input).cost(usage)

    def _tiered_worst_case(self, input_tokens: int, output_tokens: int) -> int:
        return self._rates(input_tokens).worst_case(input_tokens, output_tokens)

    def __repr__(self) -> str:
        return f"<Price {self.name} {self.version}>"


class Unpriced:
    """No price is known for a model. Counted, shown and warned about; its cost is unknown, not nothing."""

    __slots__ = ("name", "reason")

    priced = False
    free = False
    source = ""
    version = ""

    def __init__(self, name: str, reason: str) -> None:
        self.name = name
        self.reason = reason

    def cost(self, usage: Usage) -> int:
        """Always 0: callers look at ``priced`` and mark the row."""
        return 0

    def worst_case(self, input_tokens: int, output_tokens: int) -> int:
        """Always 0: callers look at ``priced``."""
        return 0

    def __repr__(self) -> str:
        return f"<Unpriced {self.name}: {self.reason}>"
