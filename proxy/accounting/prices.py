"""Which price a call pays: the key's own over the YAML's over the bundled list's, else none (``Unpriced``).

``prices:`` in the YAML is USD per million tokens, and USD apiece for ``image``, ``minute``, ``request``, ``search``::

    prices:
      my-model:   {input: 0.2, output: 0.8}
      gpt-4o:     {input: 2.25, batch: 0.5}                      # the rest from the bundled list; batch at half
      my-long:    {input: 1, output: 4, tiers: [{above: 200000, input: 2, output: 6}]}
      "local-*":  {input: 0, output: 0}                          # * is any run of characters

An entry with both input and output stands alone. Anything less lies over what is below it; for a model that has no
price below, it is none, unless it names what such a model is paid by: pictures, minutes, or requests alone.

A name without ``*`` goes before one with, then the order of the file. What is found is kept; a call costs one
dictionary look-up.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from proxy.accounting.catalog import Catalog
from proxy.accounting.money import PER_MILLION, nano_from_usd
from proxy.accounting.rates import KINDS, Price, Rates, Unpriced

__all__ = ["ASKABLE", "FOREVER", "SERVICES", "PriceBook", "PriceError", "nano_per_million"]

SERVICES = ("standard", "batch", "flex", "priority", "fast")
ASKABLE = frozenset({"flex", "priority", "fast"})
"""What a call can ask for: a batch is another API, whatever a client writes."""
_PER_PIECE = frozenset({"image", "minute", "request", "search"})
_KEPT = 4_096
FOREVER = float("inf")


class PriceError(ValueError):
    """A price in the configuration that cannot be used; the text names where and what is allowed."""


class PriceBook:
    """Prices of one configuration. Frozen but for its memory of what it looked up."""

    def __init__(
        self,
        overrides: Mapping[str, Mapping[str, Any]] | None = None,
        *,
        key_prices: Mapping[str, Any] | None = None,
        free_keys: Iterable[str] = (),
        clock: Callable[[], float] = time.time,
        on_unpriced: Callable[[Unpriced], None] | None = None,
    ) -> None:
        """``key_prices``: key id -> USD for each token (``cost_per_token``), or a mapping of models as ``overrides``.

        ``free_keys``: ids of keys of a free tier, whose calls cost nothing, whatever the model.
        ``on_unpriced`` is told once for each model whose price is unknown. Raises ``PriceError``.
        """
        self._models = _Names(overrides or {}, "prices")
        self._keys = {key: _key_prices(key, value) for key, value in (key_prices or {}).items()}
        self._free = frozenset(free_keys)
        self._clock = clock
        self._on_unpriced = on_unpriced
        self._catalog: Catalog | None = None
        self.ready = False
        """Whether a look-up is quick: the bundled list is loaded."""
        self._found: dict[tuple[str, str, str, str], tuple[Price | Unpriced, float]] = {}

    def warm(self, models: Sequence[tuple[str, str]] = ()) -> None:
        """Load the bundled list and look up ``(model, base_url)`` pairs. Takes some 70 ms: call it in a thread."""
        self.catalog()
        for model, base_url in models:
            self.price(model, base_url)

    def catalog(self) -> Catalog:
        """The bundled list, loaded on first use."""
        if self._catalog is None:
            self._catalog = Catalog()
            self.ready = True
        return self._catalog

    def price(self, model: str, base_url: str = "", key: str = "", service: str = "standard") -> Price | Unpriced:
        """The price of ``model`` at the provider behind ``base_url``, paid with ``key``, in that service class."""
        if key and key not in self._keys and key not in self._free:
            key = ""
        wanted = (model, base_url, key, service)
        found = self._found.get(wanted)
        if found is not None and (found[1] == FOREVER or self._clock() < found[1]):
            return found[0]
        price, until = self._look_up(model, base_url, key, service)
        if len(self._found) >= _KEPT:  # model names come from clients: the memory is bounded
            self._found.clear()
        self._found[wanted] = (price, until)
        if isinstance(price, Unpriced) and found is None and self._on_unpriced is not None:
            self._on_unpriced(price)
        return price

    def until(self, model: str, base_url: str = "", key: str = "", service: str = "standard") -> float:
        """Unix time until which the price that ``price`` gave holds; 0 when it is not kept."""
        if key not in self._keys and key not in self._free:
            key = ""
        found = self._found.get((model, base_url, key, service))
        return 0.0 if found is None else found[1]

    def explain(self, model: str, base_url: str = "", key: str = "") -> dict[str, Any]:
        """What ``costs price MODEL`` shows: source, version, USD per million of each kind, tiers, service classes."""
        price = self.price(model, base_url, key)
        if isinstance(price, Unpriced):
            return {"model": model, "priced": False, "reason": price.reason}
        services: dict[str, Any] = {}
        for service in SERVICES[1:]:
            other = self.price(model, base_url, key, service)
            if isinstance(other, Price) and other.base.named != price.base.named:
                services[service] = _shown(other.base)
        return {
            "model": model,
            "priced": True,
            "name": price.name,
            "source": price.source,
            "version": price.version,
            "usd_per_million": _shown(price.base),
            "tiers": [{"above": start, **_shown(rates)} for start, rates in reversed(price.tiers)],
            "services": services,
        }

    def _look_up(self, model: str, base_url: str, key: str, service: str) -> tuple[Price | Unpriced, float]:
        if key in self._free:
            source = f"keys.{key}.tier"
            free = Price(model, Rates({}), source=source, version=f"{source}#free", free=True, service=service)
            return free, FOREVER
        own = self._keys.get(key)
        entries = [names.find(model) for names in (own, self._models) if names is not None]
        return self._layered([entry for entry in entries if entry is not None], model, base_url, service)

    def _layered(
        self, entries: Sequence[_Override], model: str, base_url: str, service: str
    ) -> tuple[Price | Unpriced, float]:
        """The first entry over the others, and all of them over the bundled list, down to one that stands alone."""
        if not entries:
            return self._listed(model, base_url, service)
        entry = entries[0]
        if entry.whole:
            return entry.price(model, service, None), FOREVER
        # What the YAML says of a service class is about the standard price, not on top of the list's own discount.
        below = "standard" if service in entry.services else service
        under, until = self._layered(entries[1:], model, base_url, below)
        if isinstance(under, Price):
            return entry.price(model, service, under), until
        if entry.apiece:
            return entry.price(model, service, None), until
        return Unpriced(model, f"{entry.source} has no input and output, and {under.reason}"), until

    def _listed(self, model: str, base_url: str, service: str) -> tuple[Price | Unpriced, float]:
        catalog = self.catalog()
        listed = catalog.find(model, base_url, service, self._clock())
        if isinstance(listed, str):
            return Unpriced(model, f"{listed}; give it one under prices: {model!r}"), FOREVER
        source = f"genai-prices {catalog.version} {listed.provider}/{listed.model}"
        return _price(listed.model, listed.base, listed.tiers, source, listed.note, service), listed.until


class _Names:
    """Entries by model: a name without ``*`` goes before one with, then the order of the file."""

    def __init__(self, entries: Mapping[str, Mapping[str, Any]], path: str) -> None:
        self._exact: dict[str, _Override] = {}
        self._globs: list[tuple[re.Pattern[str], _Override]] = []
        for name, fields in entries.items():
            entry = _Override(fields, f"{path}.{name}")
            if "*" in name:
                self._globs.append((re.compile(".*".join(map(re.escape, name.split("*")))), entry))
            else:
                self._exact[name] = entry

    def find(self, model: str) -> _Override | None:
        entry = self._exact.get(model)
        if entry is not None:
            return entry
        return next((candidate for pattern, candidate in self._globs if pattern.fullmatch(model)), None)


class _Override:
    """One entry under ``prices:`` or the price of one key, checked and turned into integers."""

    __slots__ = ("apiece", "named", "services", "source", "tiers", "whole")

    def __init__(self, fields: Mapping[str, Any], path: str) -> None:
        if not isinstance(fields, Mapping) or not fields:
            raise PriceError(f"{path}: must name at least one of {', '.join(KINDS)}")
        self.source = path
        self.named: dict[str, int] = {}
        self.tiers: list[tuple[int, dict[str, int]]] = []
        self.services: dict[str, Decimal | dict[str, int]] = {}
        for name, value in fields.items():
            if name == "tiers":
                self.tiers = [_tier(entry, f"{path}.tiers[{index}]") for index, entry in enumerate(value)]
            elif name in SERVICES[1:]:
                self.services[name] = _service(value, f"{path}.{name}")
            else:
                self.named[name] = nano_per_million(name, value, path)
        # A price that names both sides stands alone; anything less lies over the bundled list. Where that has nothing,
        # a price of a picture, a minute or a request alone is enough: such a model is not paid by its output.
        self.whole = {"input", "output"} <= self.named.keys()
        named = self.named.keys()
        self.apiece = bool(named & {"image", "minute"}) or ("request" in named and named <= _PER_PIECE)

    def price(self, model: str, service: str, under: Price | None) -> Price:
        """This entry over the bundled price ``under`` (of ``service``; the standard one if this names the service)."""
        base = Rates({**(under.base.named if under else {}), **self.named})
        own = [(start, Rates({**base.named, **named})) for start, named in self.tiers]
        if under and not own:
            own = [(start, Rates({**rates.named, **self.named})) for start, rates in under.tiers]
        tiers = tuple(sorted(own, key=lambda tier: tier[0], reverse=True))
        note = "" if service == "standard" else f"no {service} price: the standard one is used"
        change = self.services.get(service)
        if isinstance(change, dict):
            base, tiers, note = Rates({**base.named, **change}), (), f"{service} price"
        elif change is not None:
            numerator, denominator = change.as_integer_ratio()
            base = base.scaled(numerator, denominator)
            tiers = tuple((start, rates.scaled(numerator, denominator)) for start, rates in tiers)
            note = f"{service}: standard times {change}"
        source = f"{self.source} over {under.source}" if under else self.source
        return _price(model, base, tiers, source, note, service)


def _key_prices(key: str, value: Any) -> _Names:
    path = f"keys.{key}"
    if isinstance(value, Mapping):
        return _Names(value, f"{path}.prices")
    try:
        per_million = Decimal(str(value)) * PER_MILLION
    except ArithmeticError:
        raise PriceError(f"{path}.cost_per_token: {value!r} is no amount of USD") from None
    return _Names({"*": {"input": per_million, "output": per_million}}, f"{path}.cost_per_token")


def _tier(entry: Any, path: str) -> tuple[int, dict[str, int]]:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("above"), int) or entry["above"] < 0:
        raise PriceError(f"{path}: must be a mapping with above: (input tokens) and prices")
    named = {name: nano_per_million(name, value, path) for name, value in entry.items() if name != "above"}
    return entry["above"], named


def _service(value: Any, path: str) -> Decimal | dict[str, int]:
    if isinstance(value, Mapping):
        return {name: nano_per_million(name, amount, path) for name, amount in value.items()}
    try:
        factor = Decimal(str(value))
    except ArithmeticError:
        factor = Decimal(-1)
    if isinstance(value, bool) or not factor.is_finite() or not 0 <= factor <= 10:
        raise PriceError(f"{path}: must be a factor between 0 and 10 (0.5 is half) or a mapping of prices")
    return factor


def nano_per_million(kind: str, value: Any, path: str) -> int:
    """A price of the YAML as nano-dollars per million units. Raises ``PriceError``."""
    if kind not in KINDS:
        raise PriceError(f"{path}.{kind}: unknown kind; allowed are {', '.join((*KINDS, 'tiers', *SERVICES[1:]))}")
    try:
        nano = nano_from_usd(value)
    except ValueError as error:
        raise PriceError(f"{path}.{kind}: {error}") from None
    return nano * PER_MILLION if kind in _PER_PIECE else nano


def _price(name: str, base: Rates, tiers: tuple[tuple[int, Rates], ...], source: str, note: str, service: str) -> Price:
    values = repr((source, sorted(base.named.items()), [(start, sorted(r.named.items())) for start, r in tiers]))
    version = f"{source.partition(' ')[0]}#{hashlib.sha256(values.encode()).hexdigest()[:10]}"
    return Price(name, base, tiers=tiers, source=source, version=version, note=note, service=service)


def _shown(rates: Rates) -> dict[str, float]:
    """USD per million tokens, and apiece for what is counted in pieces."""
    return {
        kind: rate / (1e15 if kind in _PER_PIECE else 1e9)
        for kind in KINDS
        if (rate := rates.named.get(kind)) is not None
    }
