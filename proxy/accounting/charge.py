"""What one attempt may cost and what it did: its ``Bill``, worked out once, for ``account`` and ``budget`` alike."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeAlias

from proxy.accounting import record
from proxy.accounting.gauge import Gauge
from proxy.accounting.prices import ASKABLE, FOREVER, PriceBook
from proxy.accounting.rates import Price, Rates, Unpriced
from proxy.accounting.record import ESTIMATED, canonical_tags
from proxy.accounting.usage import Usage, answers, estimate_tokens_from_size
from proxy.dialects.paid import works
from proxy.errors import ProxyError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proxy.dialects.base import Bound
    from proxy.exchange import Attempt, AttemptKey, Exchange

__all__ = [
    "ASSUMED_OUTPUT",
    "Bill",
    "Tariff",
    "attribution",
    "bound_of",
    "limits_of",
    "size_estimate",
    "uploaded",
    "used",
]

ASSUMED_OUTPUT = 1_000
_KEPT = 4_096
# Ended without an answer of the provider's: it may have worked on what it was sent, and may bill it.
_CUT_OFF = frozenset({"timeout", "stalled", "truncated"})


_TO_COME = "to come"
MODEL_TO_COME = Price("", Rates({}), source="", version="", service=_TO_COME)
"""The price of a form that has not named its model yet, because its files stand first: nothing can be reserved for it.
The bill is made out anew when the call is over."""


class Bill:
    """One attempt's money: beforehand its price and, where a budget has asked, what it may come to; afterwards what it
    used and its cost in nano-dollars, final once it is ``paid``.

    key: the one that the price is for. who: the attempt's attribution in the ledger. asked, bound, most: the budget's
    estimate, in tokens both ways and in nano-dollars; none where ``asked`` is 0. doubt: input tokens that may come on
    top, as long as nothing was learned of such estimates. fair: estimates of its size are taken as they are. limited:
    whether the client set a limit on the answer.
    counts: what was used, as ``Usage.pack`` gives it. flags: what a row of the ledger says of it. counted: whether one
    has it. A bill is made for every call, hence without a constructor: ``Tariff.bill`` fills it in; ``bound`` and
    ``most`` come with ``asked``; ``counts``, ``flags`` and ``cost`` with the charge.
    """

    __slots__ = (
        "asked", "bound", "cost", "counted", "counts", "doubt", "fair", "flags", "gauge", "key", "limited", "most",
        "paid", "price", "who",
    )  # fmt: skip

    price: Price | Unpriced
    gauge: Gauge
    key: AttemptKey | None
    who: str
    paid: bool
    counted: bool
    limited: bool
    fair: bool
    asked: int
    bound: int
    most: int
    doubt: int
    counts: tuple[int, ...]
    flags: int
    cost: int


_Terms: TypeAlias = tuple[Price | Unpriced, Gauge, str, float | None]
"""What calls of one caller to one model with one key have in common: price, gauge, attribution, and the Unix time until
which the price holds; None: for ever."""


class Tariff:
    """Prices seen from an exchange: which model at which provider with which key."""

    def __init__(self, prices: PriceBook, base_urls: Mapping[str, str]) -> None:
        """``base_urls``: upstream -> base URL, by which the bundled list knows the provider."""
        self.prices = prices
        self.gauges: dict[tuple[str, str], Gauge] = {}
        """What was learned of each model and upstream; kept over reloads by whoever sets it."""
        self._base_urls = base_urls
        self._known: dict[tuple[str | None, ...], _Terms] = {}

    def bill(self, exchange: Exchange, attempt: Attempt) -> Bill:
        """The attempt's bill, opened with the price of its target with its key, in the service class that the request
        asks for (``service_tier``). It is paid in the one that the answer says it had.
        """
        bill = attempt.bill
        if bill is not None:
            return bill
        key, body, tags = attempt.key, exchange.request.body, exchange.tags
        asked = exchange.model_asked  # reads the body, if nobody has
        service = "standard"
        if body is not None:
            tier = body.peek("service_tier")
            if tier is not None and isinstance(tier, str) and tier in ASKABLE:
                service = tier
        elif asked is None and exchange.request.form is not None and attempt.target.model is None:
            service = _TO_COME
        caller: tuple[str | None, ...] = (
            exchange.principal.id,
            exchange.project,
            exchange.route_name,
            asked,
            attempt.target.model,
            attempt.upstream,
            "" if key is None else key.id,
            service,
        )
        if tags:
            caller += (canonical_tags(tags), tags.get("task"))
        terms = self._known.get(caller)
        if terms is None or (terms[3] is not None and time.time() >= terms[3]):
            terms = self._known[caller] = self._look_up(exchange, attempt, service)
        bill = attempt.bill = Bill()
        bill.price, bill.gauge, bill.who, _ = terms
        bill.key = key
        bill.paid = bill.counted = False
        bill.limited = True
        bill.fair = False
        bill.asked = bill.doubt = 0
        return bill

    def _look_up(self, exchange: Exchange, attempt: Attempt, service: str) -> _Terms:
        for memory in (self._known, self.gauges):
            if len(memory) >= _KEPT:  # model names come from clients: what is remembered is bounded
                memory.clear()
        model, base_url = self._model(exchange, attempt)
        upstream, key = attempt.upstream, "" if attempt.key is None else attempt.key.id
        if service == _TO_COME:
            return MODEL_TO_COME, Gauge(), attribution(exchange, attempt), None
        price = self.prices.price(model, base_url, key, service)
        until = self.prices.until(model, base_url, key, service)
        gauge = self.gauges.setdefault((model, upstream), Gauge())
        return price, gauge, attribution(exchange, attempt), None if until == FOREVER else until

    def _served(self, exchange: Exchange, attempt: Attempt, bill: Bill, service: str) -> None:
        """The answer came in another class of service than was asked for: it has the price of that one."""
        if bill.price.priced:
            model, base_url = self._model(exchange, attempt)
            bill.price = self.prices.price(model, base_url, "" if bill.key is None else bill.key.id, service)

    def _model(self, exchange: Exchange, attempt: Attempt) -> tuple[str, str]:
        """The model that the attempt asks for, and the base URL of its provider."""
        return attempt.target.model or exchange.model_asked or "", self._base_urls.get(attempt.upstream, "")

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
        if bill is None or bill.price is MODEL_TO_COME:
            attempt.bill = None
            bill = self.bill(exchange, attempt)
        service = usage.service
        if service and service != bill.price.service:
            self._served(exchange, attempt, bill, service)
        price, estimated = bill.price, usage.estimated
        bill.flags = price.flags | ESTIMATED if estimated else price.flags
        counts = bill.counts = usage.pack()
        if len(counts) == 2:  # as most are
            plain = price.plain
            bill.cost = plain(counts[0], counts[1])
        else:
            bill.cost = price.cost(usage)
        if attempt.outcome is not None:
            bill.paid = True
            if bill.asked and not estimated:
                if not bill.fair or counts[0] > bill.asked:
                    bill.gauge.learn(bill.asked, counts[0])
                if not bill.limited:
                    bill.gauge.longest.see(counts[1])
        return bill


def used(exchange: Exchange, attempt: Attempt) -> Usage | None:
    """The attempt's usage: the provider's, else an estimate; None for what costs nothing.

    Nothing was sent: nothing. An error, a redirect, no content (``answers``): nothing, unless the provider says so. Cut
    off, cancelled or lost on the way: the estimate of what was sent and of what came back until then.
    """
    if attempt.usage is not None:
        return attempt.usage
    if not attempt.sent or attempt.outcome == "vetoed":
        return None
    # What came as an answer and cannot be read may have been worked for as any other.
    unreadable = attempt.failure == "invalid_response" and attempt.status is not None
    if attempt.outcome == "failed" and attempt.failure not in _CUT_OFF and not unreadable:
        return None
    if not answers(attempt.status):
        return None
    request = exchange.request
    if request.upgrade is None and not works(request.method, request.path):
        return None
    form = request.form
    if form is not None:
        if form.model is None and attempt.target.model is None:
            return None  # a file that no model has seen
        usage = form.given()
        usage.output = estimate_tokens_from_size(attempt.received_bytes)
        return usage
    return Usage(
        input=input_estimate(exchange),
        output=0 if _makes_vectors(exchange) else estimate_tokens_from_size(attempt.received_bytes),
        estimated=True,
    )


def _makes_vectors(exchange: Exchange) -> bool:
    """Whether the answer holds no tokens."""
    return exchange.dialect is not None and exchange.dialect.operation == "embeddings"


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


def bound_of(limits: Bound | None, assumed: int) -> int:
    """Output tokens in the worst case: the client's own limit, else ``assumed``, times the number of answers."""
    if limits is None:
        return assumed
    tokens = assumed if limits.tokens is None else limits.tokens
    return tokens if limits.choices == 1 else tokens * max(1, limits.choices)


def limits_of(exchange: Exchange) -> Bound | None:
    """The client's own limits on the answer; None without a body that is understood, and that somebody has read."""
    body, dialect = exchange.request.body, exchange.dialect
    if body is None:
        return uploaded(exchange)
    if dialect is None or not body.was_read:
        return None
    return body.bound(dialect)


def uploaded(exchange: Exchange) -> Bound | None:
    """What bounds the answer to a form; None where it is none, or has named no model yet."""
    form = exchange.request.form
    return None if form is None or form.model is None else form.bound(exchange.request.content_length or 0)


def attribution(exchange: Exchange, attempt: Attempt | None) -> str:
    """The call's dimensions, with the upstream, model and key of ``attempt``."""
    if attempt is None:
        target = exchange.target
        upstream, key = target.upstream, ""
    else:
        target, upstream, held = attempt.target, attempt.upstream, attempt.key
        key = "" if held is None else held.id
    try:
        asked = exchange.model_asked or ""
    except ProxyError:  # no JSON: refused for it, and accounted like any refusal
        asked = ""
    model = target.model or asked
    tags = exchange.tags
    if tags:
        labels, task = record.canonical_tags(tags), tags.get("task", "")
    else:
        labels = task = ""
    return record.attribution(
        exchange.principal.id, exchange.project or "", labels, task, exchange.route_name, asked, model, upstream, key
    )
