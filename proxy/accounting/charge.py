"""What one attempt used and what that cost: worked out once, for ``account`` and ``budget`` alike."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from proxy.accounting.prices import FOREVER, SERVICES, PriceBook
from proxy.accounting.rates import Price, Unpriced
from proxy.accounting.usage import Usage, estimate_tokens_from_size

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proxy.dialects.base import Bound
    from proxy.exchange import Attempt, Exchange

__all__ = ["ASSUMED_OUTPUT", "PRICE", "WORST_CASE", "Charge", "Tariff", "bound_of", "size_estimate", "used"]

ASSUMED_OUTPUT = 1_000
_KEPT = 4_096
PRICE: Final = "accounting.price"
"""Where a policy that runs after the key was chosen may leave the attempt's price in ``attempt.local``."""
WORST_CASE: Final = "accounting.worst_case"
"""Beside it: what the attempt may cost at most, (nano-dollars, input tokens, output tokens), where somebody knows."""
_CHARGED: Final = "accounting.charge"
_BOUND: Final = "accounting.bound"
# Ended without an answer of the provider's: it may have worked on what it was sent, and may bill it.
_CUT_OFF = frozenset({"timeout", "stalled", "truncated"})


class Charge:
    """An attempt's usage, its cost in nano-dollars, and the price that was used."""

    __slots__ = ("cost", "price", "usage")

    def __init__(self, usage: Usage, cost: int, price: Price | Unpriced) -> None:
        self.usage = usage
        self.cost = cost
        self.price = price


class Tariff:
    """Prices seen from an exchange: which model at which provider with which key."""

    def __init__(self, prices: PriceBook, base_urls: Mapping[str, str]) -> None:
        """``base_urls``: upstream -> base URL, by which the bundled list knows the provider."""
        self.prices = prices
        self._base_urls = base_urls
        self._kept: dict[tuple[str, str, str, str], tuple[Price | Unpriced, float]] = {}

    def price(self, exchange: Exchange, attempt: Attempt) -> Price | Unpriced:
        """The price of this attempt's target with its key, in the service class that the request asks for
        (``service_tier``, if somebody has read the request; else ``standard``)."""
        key, upstream, body = attempt.key, attempt.upstream, exchange.request.body
        model = attempt.target.model or exchange.model_asked or ""
        service = "standard"
        if body is not None and body.was_read:
            tree = body.strict()
            if "service_tier" in tree:
                tier = tree["service_tier"]
                if isinstance(tier, str) and tier in SERVICES:
                    service = tier
        paid_with = "" if key is None else key.id
        wanted = (model, upstream, paid_with, service)
        kept = self._kept.get(wanted)
        if kept is not None and (kept[1] == FOREVER or time.time() < kept[1]):
            return kept[0]
        base_url = self._base_urls.get(upstream, "")
        price = self.prices.price(model, base_url, paid_with, service)
        if len(self._kept) >= _KEPT:  # model names come from clients: the memory is bounded
            self._kept.clear()
        self._kept[wanted] = (price, self.prices.until(model, base_url, paid_with, service))
        return price

    def model_price(self, model: str, upstream: str) -> Price | Unpriced:
        """The list price of a model at an upstream, whoever asks."""
        return self.prices.price(model, self._base_urls.get(upstream, ""))

    def charge(self, exchange: Exchange, attempt: Attempt) -> Charge | None:
        """What the attempt used and cost; None when nothing of it is paid. Final once the attempt has an outcome."""
        local = attempt.local
        if _CHARGED in local:
            found: Charge = local[_CHARGED]
            return found
        usage = attempt.usage if attempt.usage is not None else used(exchange, attempt)
        if usage is None:
            return None
        price: Price | Unpriced = local.get(PRICE) or self.price(exchange, attempt)
        charge = Charge(usage, price.cost(usage), price)
        if attempt.outcome is not None:
            local[_CHARGED] = charge
        return charge


def used(exchange: Exchange, attempt: Attempt) -> Usage | None:
    """The attempt's usage: the provider's, else an estimate; None for what costs nothing.

    Nothing was sent: nothing. An error that the provider answered with: nothing, unless it says so. Cut off, cancelled
    or lost on the way: the estimate of what was sent and of what came back until then.
    """
    if attempt.usage is not None:
        return attempt.usage
    if not attempt.sent or attempt.outcome == "vetoed":
        return None
    if attempt.outcome == "failed" and attempt.failure not in _CUT_OFF:
        return None
    if attempt.status is not None and attempt.status >= 400:
        return None
    return Usage(
        input=input_estimate(exchange),
        output=estimate_tokens_from_size(attempt.received_bytes),
        estimated=True,
    )


def input_estimate(exchange: Exchange) -> int:
    """Input tokens: the exchange's own estimate where the body was read or estimated, else four bytes a token."""
    count = exchange.estimated_input
    if count is not None:
        return count
    body = exchange.request.body
    if body is not None and body.was_read and exchange.dialect is not None:
        return exchange.input_estimate()
    return estimate_tokens_from_size(exchange.request.content_length or 0)


def size_estimate(exchange: Exchange) -> int:
    """Input tokens for a begin record: the exchange's estimate if somebody made one, else four bytes a token. Reading
    every text for a figure that only a crash will ask for would cost more than the record itself."""
    count = exchange.estimated_input
    return estimate_tokens_from_size(exchange.request.content_length or 0) if count is None else count


def bound_of(exchange: Exchange, assumed: int, *, read: bool) -> int:
    """Output tokens in the worst case: the client's own limit, else ``assumed``, times the number of answers.

    ``read``: look into the body also if nobody has yet.
    """
    bound: Bound | None = exchange.local.get(_BOUND)
    if bound is None:
        body, dialect = exchange.request.body, exchange.dialect
        if body is None or dialect is None or not (read or body.was_read):
            return assumed
        bound = exchange.local[_BOUND] = dialect.bound(body.strict())
    tokens = assumed if bound.tokens is None else bound.tokens
    return tokens if bound.choices == 1 else tokens * max(1, bound.choices)
