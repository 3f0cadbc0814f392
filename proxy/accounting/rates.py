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
from math import gcd

from proxy.accounting.money import PER_MILLION, round_millionths
from proxy.accounting.record import FREE, UNPRICED
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
    """One column of a price list: every kind resolved to an integer rate.

    The rates that every call is summed with are kept a second time, divided by what they and a million have in common:
    mostly they are whole nano-dollars a token, and then there is nothing left to divide and to round.
    """

    __slots__ = (
        *KINDS,
        "_cached_input",
        "_dearest_input",
        "_dearest_output",
        "_half",
        "_input",
        "_output",
        "_reasoning",
        "_request",
        "_unit",
        "dearest_input",
        "dearest_output",
        "named",
    )

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
        # What a token may cost at most: a cache write cannot be known before, reasoning may be dearer than output, and
        # nobody has looked at what is heard or seen.
        self.dearest_input = max(self.input, self.cache_write, self.cache_write_1h, self.audio_input, self.image_input)
        self.dearest_output = max(self.output, self.reasoning, self.audio_output, self.image_output)
        common = gcd(
            PER_MILLION,
            self.input,
            self.cached_input,
            self.output,
            self.reasoning,
            self.request,
            self.dearest_input,
            self.dearest_output,
        )
        self._unit = PER_MILLION // common
        self._half = self._unit // 2
        self._input, self._cached_input = self.input // common, self.cached_input // common
        self._output, self._reasoning = self.output // common, self.reasoning // common
        self._dearest_input, self._dearest_output = self.dearest_input // common, self.dearest_output // common
        self._request = self.request // common

    def cost(self, usage: Usage) -> int:
        """Nano-dollars for ``usage``."""
        if (
            usage.cache_write
            or usage.audio_input
            or usage.audio_output
            or usage.image_input
            or usage.image_output
            or usage.images
            or usage.audio_ms
            or usage.searches
        ):
            return self._cost_of_all(usage)
        fresh, plain, cached, reasoning = usage.input, usage.output, usage.cached_input, usage.reasoning
        total = self._request
        if cached:
            total += cached * self._cached_input
            fresh -= cached
        if reasoning:
            total += reasoning * self._reasoning
            plain -= reasoning
        if fresh > 0:
            total += fresh * self._input
        if plain > 0:
            total += plain * self._output
        return total if self._unit == 1 else (total + self._half) // self._unit

    def _cost_of_all(self, usage: Usage) -> int:
        """The same with what few calls use."""
        cached, written = usage.cached_input, usage.cache_write
        audio_in, image_in = usage.audio_input, usage.image_input
        reasoning, audio_out, image_out = usage.reasoning, usage.audio_output, usage.image_output
        fresh = usage.input - cached - written - audio_in - image_in
        plain = usage.output - reasoning - audio_out - image_out
        hour = min(usage.cache_write_1h, written)
        total = (
            max(0, fresh) * self.input
            + cached * self.cached_input
            + (written - hour) * self.cache_write
            + hour * self.cache_write_1h
            + audio_in * self.audio_input
            + image_in * self.image_input
            + max(0, plain) * self.output
            + reasoning * self.reasoning
            + audio_out * self.audio_output
            + image_out * self.image_output
            + usage.images * self.image
            + usage.searches * self.search
            + self.request
            + (usage.audio_ms * self.minute + _MS_PER_MINUTE // 2) // _MS_PER_MINUTE
        )
        return round_millionths(total)

    def plain(self, input_tokens: int, output_tokens: int) -> int:
        """``cost`` of a usage that is nothing but these, as most are."""
        total = input_tokens * self._input + output_tokens * self._output + self._request
        return total if self._unit == 1 else (total + self._half) // self._unit

    def worst_case(self, input_tokens: int, output_tokens: int) -> int:
        """Nano-dollars for that many tokens if each costs its dearest kind."""
        total = input_tokens * self._dearest_input + output_tokens * self._dearest_output + self._request
        return total if self._unit == 1 else (total + self._half) // self._unit

    def pieces(self, pictures: int, speech: int = 0) -> int:
        """Nano-dollars for what is paid apiece: pictures, and milliseconds of speech by the minute."""
        return round_millionths(pictures * self.image + -(-speech * self.minute // _MS_PER_MINUTE))

    def scaled(self, numerator: int, denominator: int) -> Rates:
        """The same list times a fraction (a batch discount), each rate rounded half up."""
        return Rates(
            {kind: (rate * numerator * 2 + denominator) // (2 * denominator) for kind, rate in self.named.items()}
        )


class Price:
    """The price of one model at one provider, with where it comes from.

    ``cost(usage)``: nano-dollars, in the tier that its input falls into. ``plain(input_tokens, output_tokens)``: the
    same for a usage that has no other counts. ``worst_case(input_tokens, output_tokens)``: nano-dollars for that many
    tokens if nothing comes from a cache and each costs its dearest kind. They are asked for every call, so a price
    without tiers is its only rates' own functions.
    """

    __slots__ = (
        "base",
        "cost",
        "flags",
        "free",
        "name",
        "note",
        "plain",
        "priced",
        "service",
        "source",
        "tiers",
        "version",
        "worst_case",
    )

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
        service: str = "standard",
    ) -> None:
        """``tiers``: (start, rates), highest start first; a tier holds for more than ``start`` input tokens.

        ``free``: paid by a free-tier credit. ``service``: the class of service that it is the price of. ``flags``: what
        it says about a row of the ledger.
        """
        self.name = name
        self.base = base
        self.tiers = tiers
        self.source = source
        self.version = version
        self.note = note
        self.free = free
        self.flags = FREE if free else 0
        self.service = service
        self.priced = True
        self.cost: Callable[[Usage], int] = self._tiered if tiers else base.cost
        self.plain: Callable[[int, int], int] = self._tiered_plain if tiers else base.plain
        self.worst_case: Callable[[int, int], int] = self._tiered_worst_case if tiers else base.worst_case

    def _rates(self, input_tokens: int) -> Rates:
        for start, rates in self.tiers:
            if input_tokens > start:
                return rates
        return self.base

    def _tiered(self, usage: Usage) -> int:
        return self._rates(usage.input).cost(usage)

    def _tiered_plain(self, input_tokens: int, output_tokens: int) -> int:
        return self._rates(input_tokens).plain(input_tokens, output_tokens)

    def _tiered_worst_case(self, input_tokens: int, output_tokens: int) -> int:
        return self._rates(input_tokens).worst_case(input_tokens, output_tokens)

    def pieces(self, pictures: int, speech: int = 0) -> int:
        """Nano-dollars for what is paid apiece, whatever the tier."""
        return self.base.pieces(pictures, speech)

    def __repr__(self) -> str:
        return f"<Price {self.name} {self.version}>"


class Unpriced:
    """No price is known for a model. Counted, shown and warned about; its cost is unknown, not nothing."""

    __slots__ = ("flags", "free", "name", "priced", "reason", "service", "source", "version")

    def __init__(self, name: str, reason: str) -> None:
        self.name = name
        self.reason = reason
        self.priced = self.free = False
        #: A call for no model (a list, a file) has nothing to price.
        self.flags = UNPRICED if name else 0
        self.source = self.version = self.service = ""

    def cost(self, usage: Usage) -> int:
        """Always 0: callers look at ``priced`` and mark the row."""
        return 0

    def plain(self, input_tokens: int, output_tokens: int) -> int:
        """Always 0: callers look at ``priced``."""
        return 0

    def worst_case(self, input_tokens: int, output_tokens: int) -> int:
        """Always 0: callers look at ``priced``."""
        return 0

    def pieces(self, pictures: int, speech: int = 0) -> int:
        """Always 0: callers look at ``priced``."""
        return 0

    def __repr__(self) -> str:
        return f"<Unpriced {self.name}: {self.reason}>"
