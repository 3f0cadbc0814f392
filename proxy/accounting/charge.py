"""What one attempt may cost and what it did: its ``Bill``, worked out once, for ``account`` and ``budget`` alike."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from proxy.accounting.gauge import Gauge
from proxy.accounting.prices import FOREVER, SERVICES, PriceBook
from proxy.accounting.rates import Price, Unpriced
from proxy.accounting.usage import Usage, estimate_tokens_from_size

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proxy.dialects.base import Bound
    from proxy.exchange import Attempt, Exchange

__all__ = ["ASSUMED_OUTPUT", "Bill", "Tariff", "bound_of", "limits_of", "size_estimate", "used"]

ASSUMED_OUTPUT = 1_000
_KEPT = 4_096
# Ended without an answer of the provider's: it may have worked on what it was sent, and may bill it.
_CUT_OFF = frozenset({"timeout", "stalled", "truncated"})
_NO_USAGE: Final = Usage()


class Bill:
    """One attempt's money: beforehand its price and, where a budget has asked, what it may come to; afterwards its
    usage and its cost in nano-dollars. What many never set has its default on the class.
    """

    asked = 0
    bound = 0
    most = 0
    doubt = 0
    """Input tokens that may come on top of those asked, as long as nothing was learned of such estimates."""
    limited = True
    """Whether the client set a limit on the answer."""
    paid = False
    """Whether ``usage`` and ``cost`` are final."""
    counted = False
    """Whether a row of the ledger has it."""
    usage: Usage = _NO_USAGE
    cost = 0

    def __init__(self, price: Price | Unpriced, gauge: Gauge) -> None:
        self.price = price
        self.gauge = gauge


class Tariff:
    """Prices seen from an exchange: which model at which provider with which key."""

    def __init__(self, prices: PriceBook, base_urls: Mapping[str, str]) -> None:
        """``base_urls``: upstream -> base URL, by which the bundled list knows the provider."""
        self.prices = prices
        self.gauges: dict[tuple[str, str], Gauge] = {}
        """What was learned of each model and upstream; kept over reloads by whoever sets it."""
        self._base_urls = base_urls
        self._kept: dict[tuple[str, str, str, str], tuple[Price | Unpriced, Gauge, float]] = {}

    def bill(self, exchange: Exchange, attempt: Attempt) -> Bill:
        """The attempt's bill, opened with the price of its target with its key, in the service class that the request
        asks for (``service_tier``, if somebody has read the request; else ``standard``).
        """
        bill = attempt.bill
        if bill is not None:
            return bill
        key, body = attempt.key, exchange.request.body
        model = attempt.target.model or exchange.model_asked or ""
        service = "standard"
        if body is not None and body.was_read:
            tier = body.strict().get("service_tier")
            if tier is not None and isinstance(tier, str) and tier in SERVICES:
                service = tier
        wanted = (model, attempt.upstream, "" if key is None else key.id, service)
        kept = self._kept.get(wanted)
        if kept is None or (kept[2] != FOREVER and time.time() >= kept[2]):
            kept = self._look_up(*wanted)
        bill = attempt.bill = Bill(kept[0], kept[1])
        return bill

    def _look_up(self, model: str, upstream: str, key: str, service: str) -> tuple[Price | Unpriced, Gauge, float]:
        base_url = self._base_urls.get(upstream, "")
        price = self.prices.price(model, base_url, key, service)
        until = self.prices.until(model, base_url, key, service)
        for memory in (self._kept, self.gauges):
            if len(memory) >= _KEPT:  # model names come from clients: what is remembered is bounded
                memory.clear()
        gauge = self.gauges.setdefault((model, upstream), Gauge())
        found = self._kept[model, upstream, key, service] = (price, gauge, until)
        return found

    def model_price(self, model: str, upstream: str) -> Price | Unpriced:
        """The list price of a model at an upstream, whoever asks."""
        return self.prices.price(model, self._base_urls.get(upstream, ""))

    def charge(self, exchange: Exchange, attempt: Attempt) -> Bill | None:
        """The bill with what the attempt used and cost; None when nothing of it is paid. Final once the attempt has an
        outcome.
        """
        bill = attempt.bill
        if bill is not None and bill.paid:
            return bill
        usage = attempt.usage
        if usage is None:
            usage = used(exchange, attempt)
            if usage is None:
                return None
        if bill is None:
            bill = self.bill(exchange, attempt)
        bill.usage = usage
        bill.cost = bill.price.cost(usage)
        if attempt.outcome is not None:
            bill.paid = True
            if bill.asked and not usage.estimated:
                bill.gauge.learn(bill.asked, usage.input)
                if not bill.limited:
                    bill.gauge.learn_output(usage.output)
        return bill


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
    bound = limits_of(exchange, read=read)
    if bound is None:
        return assumed
    tokens = assumed if bound.tokens is None else bound.tokens
    return tokens if bound.choices == 1 else tokens * max(1, bound.choices)


def limits_of(exchange: Exchange, *, read: bool) -> Bound | None:
    """The client's own limits on the answer; None without a body that is understood."""
    body, dialect = exchange.request.body, exchange.dialect
    if body is None or dialect is None or not (read or body.was_read):
        return None
    return body.bound(dialect)
