"""One call on its way through the accounting: from the first request that is sent to the one row it becomes.

The ticket lies in ``exchange.local[TICKET]``, and a flight (shared work below a cache) carries that of the caller who
started it, because the flight's cost is that caller's: ``begin`` when a request goes out (``exchange.before_send``, on
the caller's exchange or the flight's), ``end`` when the call is over, ``landed`` when the flight is. Attempts that
still run when their caller leaves stay begun, under a number of their own, and are entered when the flight has landed,
as cost without a call. Each attempt is counted once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from orjson import dumps

from proxy.accounting import record
from proxy.accounting.charge import ASSUMED_OUTPUT, PRICE, WORST_CASE, bound_of, size_estimate
from proxy.accounting.record import NEWLINE

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.accounting.books import Store
    from proxy.accounting.charge import Charge, Tariff
    from proxy.accounting.rates import Price, Unpriced
    from proxy.clock import Clock
    from proxy.exchange import Attempt, Exchange, Target

__all__ = ["FROM_CACHE", "TICKET", "Ticket"]

TICKET: Final = "accounting.ticket"
FROM_CACHE: Final = frozenset({"hit", "stale", "coalesced"})
_COUNTED: Final = "accounting.counted"
_FAILED: Final = record.PLACES["failed"]
_OUTCOMES: Final[dict[str | None, int]] = {
    None: record.PLACES["cancelled"],
    "answered": record.PLACES["answered"],
    "refused": record.PLACES["refused"],
    "failed": _FAILED,
    "truncated": _FAILED,
    "cancelled": record.PLACES["cancelled"],
}


class Ticket:
    """See the module's text. Each method costs a few microseconds."""

    __slots__ = ("_below", "_who", "_who_of", "begun", "clock", "ended", "number", "store", "tariff")

    def __init__(self, store: Store, tariff: Tariff, clock: Clock) -> None:
        self.store = store
        self.tariff = tariff
        self.clock = clock
        self.number = store.journal.ids.next()
        self.begun = False
        self.ended = False
        self._below: Exchange | None = None
        self._who = ""
        self._who_of: Attempt | None = None

    def begin(self, exchange: Exchange, attempt: Attempt) -> None:
        """A request is about to go out: money may be spent from here, so it stands in the journal first (a slow or full
        disk is not waited for). Only the first is written; ``exchange`` is the call's own, or the flight's.
        """
        if self.begun:
            return
        if self.ended:  # a revalidation, or a flight that others still wait for: it is no part of that row any more
            self.number = self.store.journal.ids.next()
        self.begun = True
        self._below = exchange
        who = self._who = attribution(exchange, attempt)
        self._who_of = attempt
        local = attempt.local
        price: Price | Unpriced | None = local.get(PRICE)
        wanted: tuple[int, int, int] | None = local.get(WORST_CASE)
        if price is None or wanted is None:
            price = local[PRICE] = self.tariff.price(exchange, attempt)
            asked, bound = size_estimate(exchange), bound_of(exchange, ASSUMED_OUTPUT, read=False)
            wanted = (price.worst_case(asked, bound), asked, bound)
        number, now = self.number, int(self.clock.now() * 1000)
        begun = ("b", number, now, exchange.id, who, wanted[0], price.version, wanted[1:])
        self.store.journal.begin(number, dumps(begun, None, NEWLINE))

    def cost(self, exchange: Exchange) -> int | None:
        """What the call's own attempts have cost, in nano-dollars: 0 for a hit or a follower of somebody else's flight,
        None where a price is unknown, which is no figure at all, never a zero.
        """
        total, charge = 0, self.tariff.charge
        for made in self._own(exchange):
            paid = charge(exchange, made)
            if paid is not None:
                if not paid.price.priced:
                    return None
                total += paid.cost
        return total

    def _own(self, exchange: Exchange) -> list[Attempt]:
        below = self._below
        if below is exchange and exchange.cache_status is None:  # no cache in between: the way of most calls
            return exchange.attempts
        if exchange.cache_status in FROM_CACHE:
            return []
        if below is None:
            flight = exchange.flight_of
            if flight is None or flight.attempts is not exchange.attempts:  # no flight, or somebody else's
                return exchange.attempts
            below = flight
        elif below is exchange:
            return exchange.attempts
        return [made for made in below.attempts if made.outcome is not None and _COUNTED not in made.local]

    def end(self, exchange: Exchange) -> bool:
        """The call is over: write its row. False when that was done before."""
        if self.ended:
            return False
        self.ended = True
        number = self.number
        below = self._below
        if below is not None and below is not exchange:
            self.begun = False
            for made in below.attempts:
                if made.outcome is None:  # goes on for others
                    self.begin(below, made)
                    break
        self.store.journal.end(number, self._record(exchange, number))
        if not self.begun or below is exchange:
            self._below = self._who_of = None  # no ring of references is left for the collector
        return True

    def landed(self, exchange: Exchange) -> None:
        """The flight is over: what its starter's row does not hold, because the starter had left, is entered now."""
        if not self.ended:
            return
        ids = self.store.journal.ids
        now = int(self.clock.now() * 1000)
        for made in exchange.attempts:
            if _COUNTED in made.local:
                continue
            made.local[_COUNTED] = True
            paid = self.tariff.charge(exchange, made)
            if paid is None:
                continue
            number = self._landing(ids.next)
            line = record.end(
                number,
                now,
                exchange.id,
                attribution(exchange, made),
                flags=_flags(paid),
                attempts=0,
                cost=paid.cost,
                version=paid.price.version,
                usage=paid.usage.pack(),
            )
            self.store.journal.end(number, line)
        if self.begun:  # it cost nothing; its begin must not be found as abandoned
            number = self._landing(ids.next)
            self.store.journal.end(
                number, record.end(number, now, exchange.id, attribution(exchange, None), attempts=0)
            )
        self._below = self._who_of = None

    def _landing(self, fresh: Callable[[], int]) -> int:
        """The number that the flight was begun under, once; then fresh ones."""
        if self.begun:
            self.begun = False
            return self.number
        return fresh()

    def _record(self, exchange: Exchange, number: int) -> bytes:
        cached = exchange.cache_status in FROM_CACHE
        own = self._own(exchange)
        attempt = exchange.served_by or (own[-1] if own else None)
        flags = total = cost = sent = saved = 0
        version = ""
        counts: tuple[int, ...] = ()
        extras: list[list[Any]] = []
        charge = self.tariff.charge
        for made in own:
            made.local[_COUNTED] = True
            if made.sent:
                sent += 1
            paid = charge(exchange, made)
            if paid is None:
                continue
            total += paid.cost
            if made is attempt:
                price, usage = paid.price, paid.usage
                cost, version, counts = paid.cost, price.version, usage.pack()
                if usage.estimated or price.free or not price.priced:
                    flags = _flags(paid)
            else:
                extras.append(
                    record.extra(
                        attribution(exchange, made),
                        flags=_flags(paid),
                        cost=paid.cost,
                        version=paid.price.version,
                        usage=paid.usage.pack(),
                    )
                )
        exchange.cost_nanos = total
        if cached:
            flags |= record.CACHED
            saved = exchange.saved_nanos = self._saved(exchange)
        answer, clock, first, started = exchange.answer, self.clock, exchange.first_byte_at, exchange.started_at
        return dumps(
            (
                "e",
                number,
                int(clock.now() * 1000),
                exchange.id,
                self._who if attempt is not None and attempt is self._who_of else attribution(exchange, attempt),
                _OUTCOMES.get(exchange.outcome, _FAILED),
                answer.status if answer is not None else 0,
                flags,
                int((clock.monotonic() - started) * 1000),
                int((first - started) * 1000) if first is not None else 0,
                sent,
                cost,
                saved,
                version,
                counts,
                extras,
            ),
            None,
            NEWLINE,
        )

    def _saved(self, exchange: Exchange) -> int:
        """What the answer would have cost: said by the cache, else its usage at the price of the call's target."""
        if exchange.saved_nanos is not None:
            return exchange.saved_nanos
        usage = exchange.saved_usage or exchange.usage
        if usage is None and exchange.flight_of is not None:
            usage = exchange.flight_of.usage
        if usage is None:
            return 0
        model = exchange.target.model or exchange.model_asked or ""
        return self.tariff.model_price(model, exchange.target.upstream).cost(usage)


def _flags(charge: Charge) -> int:
    flags = record.ESTIMATED if charge.usage.estimated else 0
    if charge.price.free:
        return flags | record.FREE
    return flags if charge.price.priced else flags | record.UNPRICED


def attribution(exchange: Exchange, attempt: Attempt | None) -> str:
    """The call's dimensions, with the upstream, model and key of ``attempt``."""
    target: Target
    if attempt is None:
        target, upstream, key = exchange.target, exchange.target.upstream, ""
    else:
        target, upstream = attempt.target, attempt.upstream
        key = attempt.key.id if attempt.key is not None else ""
    asked = exchange.model_asked or ""
    tags = exchange.tags
    return record.attribution(
        exchange.principal.id,
        exchange.project or "",
        record.canonical_tags(tags) if tags else "",
        tags.get("task", "") if tags else "",
        exchange.route_name,
        asked,
        target.model or asked,
        upstream,
        key,
    )
