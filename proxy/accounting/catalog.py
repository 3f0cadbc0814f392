"""The bundled price list (package genai-prices) read once and turned into our rates. It never goes to the network.

Importing the package costs some 70 ms and 10 MB, so it happens on first use; ``PriceBook.warm`` does it in a thread
after the process is ready. Its own ``calc_price`` is not used: 135 us a call, and Decimal where we want integers.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from proxy.accounting.money import NANO, nano_from_usd
from proxy.accounting.rates import Rates

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice, Provider

__all__ = ["Catalog", "Listed"]

# The list's name for a kind -> ours. Per million tokens both.
_TOKENS = {
    "input_mtok": "input",
    "cache_read_mtok": "cached_input",
    "cache_write_mtok": "cache_write",
    "cache_write_1h_mtok": "cache_write_1h",
    "input_audio_mtok": "audio_input",
    "input_image_mtok": "image_input",
    "output_mtok": "output",
    "output_reasoning_mtok": "reasoning",
    "output_audio_mtok": "audio_output",
    "output_image_mtok": "image_output",
}
# Per thousand pieces there, per million pieces here; an hour has 60 minutes.
_PIECES = {
    "requests_kcount": ("request", 1_000, 1),
    "web_searches_kcount": ("search", 1_000, 1),
    "audio_hours": ("minute", 1_000_000, 60),
    "input_audio_hours": ("minute", 1_000_000, 60),
}
_CONTEXTS = {
    "batch": ({"processing": "batch"},),
    "flex": ({"service_tier": "flex"},),
    "priority": ({"service_tier": "priority"},),
    "fast": ({"speed": "fast"}, {"service_tier": "fast"}),
}
_MAKERS = frozenset({"openai", "anthropic", "google", "mistral", "cohere", "voyageai", "deepseek", "x-ai"})
_FOREVER = float("inf")


@dataclass(frozen=True, slots=True)
class Listed:
    """What the list says about a model at one moment."""

    provider: str
    model: str
    base: Rates
    tiers: tuple[tuple[int, Rates], ...]
    until: float
    """Unix time until which this holds: some prices start on a date or change with the time of day (UTC)."""
    note: str


class Catalog:
    """Finds a model in the bundled list. Every answer holds until ``Listed.until``; the caller keeps it that long."""

    def __init__(self) -> None:
        from genai_prices import __version__  # noqa: PLC0415 - heavy
        from genai_prices.data import providers  # noqa: PLC0415 - the bundled data, whatever else the process set

        self.version: str = __version__
        self._providers: list[Provider] = providers

    def find(self, model: str, base_url: str = "", service: str = "standard", at: float | None = None) -> Listed | str:
        """The price of ``model`` at the provider behind ``base_url``, or the reason why there is none.

        A base URL that no provider of the list has (a gateway, an own server) is looked up by the model's name alone.
        """
        provider = self._provider(model, base_url)
        if provider is None:
            return "no provider of the bundled list has a model of this name"
        info = provider.find_model(model, all_providers=self._providers)
        if info is None:
            return f"the bundled list has no such model at {provider.id}"
        moment = time.time() if at is None else at
        instant = datetime.fromtimestamp(moment, UTC)
        prices, note = _prices(info, service, instant)
        starts: dict[int, None] = {0: None}
        for value in _known(prices).values():
            for tier in getattr(value, "tiers", ()):
                starts[tier.start] = None
        columns = {start: Rates(_column(prices, start)) for start in starts}
        base = columns.pop(0)
        if not any(base.named.values()) and not any(any(rates.named.values()) for rates in columns.values()):
            return f"the bundled list has {provider.id}/{info.id}, without a price"
        return Listed(
            provider=provider.id,
            model=info.id,
            base=base,
            tiers=tuple(sorted(columns.items(), reverse=True)),
            until=_holds_until(info, moment),
            note=note,
        )

    def _provider(self, model: str, base_url: str) -> Provider | None:
        import re  # noqa: PLC0415 - beside the other lookups, at load only

        if base_url:
            for provider in self._providers:
                if re.match(provider.api_pattern, base_url):
                    return provider
        named = model.lower()
        for provider in self._providers:
            if provider.model_match is not None and provider.model_match.is_match(named):
                return provider
        # Some makers' patterns leave out their embeddings and the like; resellers are not asked: their prices differ.
        for provider in self._providers:
            if provider.id in _MAKERS and provider.find_model(model) is not None:
                return provider
        return None


def _prices(info: ModelInfo, service: str, instant: datetime) -> tuple[ModelPrice, str]:
    standard = info.get_prices(instant)
    if service == "standard":
        return standard, ""
    for context in _CONTEXTS.get(service, ()):
        prices = info.get_prices(instant, context)
        if _known(prices) != _known(standard):
            return prices, f"{service} price"
    return standard, f"the list has no {service} price: the standard one is used"


def _known(prices: ModelPrice) -> dict[str, Any]:
    return {key: value for key, value in vars(prices).items() if value is not None and not key.startswith("_")}


def _column(prices: ModelPrice, start: int) -> dict[str, int]:
    """Nano-dollars per million units of each kind for calls with more than ``start`` input tokens."""
    column: dict[str, int] = {}
    for key, value in _known(prices).items():
        amount = getattr(value, "base", value)
        for tier in getattr(value, "tiers", ()):  # ascending
            if start >= tier.start > 0:
                amount = tier.price
        if (kind := _TOKENS.get(key)) is not None:
            column[kind] = nano_from_usd(amount)
        elif (piece := _PIECES.get(key)) is not None:
            kind, factor, divisor = piece
            column[kind] = (int(amount * NANO) * factor + divisor // 2) // divisor
    return column


def _holds_until(info: ModelInfo, moment: float) -> float:
    return min((border for border in _borders(info, moment) if border > moment), default=_FOREVER)


def _borders(info: ModelInfo, moment: float) -> Iterator[float]:
    """Moments at which another price of this model may begin."""
    from genai_prices.types import StartDateConstraint  # noqa: PLC0415 - loaded with the list

    constraints = [entry.constraint for entry in info.prices] if isinstance(info.prices, list) else []
    constraints += [variant.constraint for variant in info.price_variants or ()]
    midnight = moment - moment % 86_400
    for constraint in constraints:
        if constraint is None:
            continue
        if isinstance(constraint, StartDateConstraint):
            first = constraint.start_date
            yield datetime(first.year, first.month, first.day, tzinfo=UTC).timestamp()
        else:  # a daily interval; next midnight and its two ends are enough
            yield midnight + 86_400
            for end in (constraint.start_time, constraint.end_time):
                yield midnight + end.hour * 3_600 + end.minute * 60 + end.second
