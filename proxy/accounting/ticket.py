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
from proxy.accounting.charge import ASSUMED_OUTPUT, bound_of, size_estimate
from proxy.accounting.record import NEWLINE

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.accounting.books import Store
    from proxy.accounting.charge import Bill, Tariff
    from proxy.clock import Clock
    from proxy.exchange import Attempt, Exchange

__all__ = ["FROM_CACHE", "TICKET", "Ticket"]

TICKET: Final = "accounting.ticket"
FROM_CACHE: Final = frozenset({"hit", "stale", "coalesced"})
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
    """See the module's text. What most calls never set has its default on the class."""

    begun = False
    ended = False
    _below: Exchange | None = None
    _who = ""
    _who_of: Attempt | None = None

    def __init__(self, store: Store, tariff: Tariff, clock: Clock) -> None:
        self.store = store
        self.tariff = tariff
        self.clock = clock
        self.number = store.journal.ids.next()

    def begin(self, exchange: Exchange, attempt: Attempt) -> None:
        """A request is about to go out: money may be spent from here, so it stands in the journal first (a slow or full
        disk is not waited for). Only the first is written; ``exchange`` is the call's own, or the flight's.
        """
        if self.begun:
            return
        journal = self.store.journal
        if self.ended:  # a revalidation, or a flight that others still wait for: it is no part of that row any more
            self.number = journal.ids.next()
        self.begun = True
        self._below = exchange
        who = self._who = attribution(exchange, attempt)
        self._who_of = attempt
        bill = attempt.bill or self.tariff.bill(exchange, attempt)
        asked = bill.asked
        if asked:
            bound, most = bill.bound, bill.most
        else:
            asked, bound = size_estimate(exchange), bound_of(exchange, ASSUMED_OUTPUT, read=False)
            most = bill.price.worst_case(asked, bound)
        number, now = self.number, int(self.clock.now() * 1000)
        begun = ("b", number, now, exchange.id, who, most, bill.price.version, (asked, bound))
        journal.begin(number, dumps(begun, None, NEWLINE))

    def cost(self, exchange: Exchange) -> int | None:
        """What the call's own attempts have cost, in nano-dollars: 0 for a hit or a follower of somebody else's flight,
        None where a price is unknown, which is no figure at all, never a zero.
        """
        total, charge = 0, self.tariff.charge
        plain = self._below is exchange and exchange.cache_status is None  # the way of most calls
        for made in exchange.attempts if plain else self._own(exchange):
            bill = made.bill
            if bill is None or not bill.paid:
                bill = charge(exchange, made)
            if bill is not None:
                if not bill.price.priced:
                    return None
                total += bill.cost
        return total

    def _own(self, exchange: Exchange) -> list[Attempt]:
        """The attempts that are this call's to pay and in no row yet."""
        below = self._below
        if exchange.cache_status in FROM_CACHE:
            return []
        if below is None:
            flight = exchange.flight_of
            if flight is None or flight.attempts is not exchange.attempts:  # no flight, or somebody else's
                return exchange.attempts
            below = flight
        elif below is exchange:
            return exchange.attempts
        return [made for made in below.attempts if made.outcome is not None and not _counted(made)]

    def end(self, exchange: Exchange) -> bool:
        """The call is over: write its row. False when that was done before."""
        if self.ended:
            return False
        self.ended = True
        number, below = self.number, self._below
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
            bill = None if _counted(made) else self.tariff.charge(exchange, made)
            if bill is None:
                continue
            bill.counted = True
            number = self._landing(ids.next)
            line = record.end(
                number,
                now,
                exchange.id,
                attribution(exchange, made),
                flags=_flags(bill),
                attempts=0,
                cost=bill.cost,
                version=bill.price.version,
                usage=bill.usage.pack(),
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
        status = exchange.cache_status
        own = exchange.attempts if self._below is exchange and status is None else self._own(exchange)
        attempt = exchange.served_by or (own[-1] if own else None)
        flags = total = cost = sent = saved = 0
        version = ""
        counts: tuple[int, ...] = ()
        extras: list[list[Any]] = []
        charge = self.tariff.charge
        for made in own:
            if made.sent:
                sent += 1
            bill = made.bill
            if bill is None or not bill.paid:
                bill = charge(exchange, made)
                if bill is None:
                    continue
            bill.counted = True
            total += bill.cost
            price, usage = bill.price, bill.usage
            if made is attempt:
                cost, version, counts = bill.cost, price.version, usage.pack()
                if usage.estimated or price.free or not price.priced:
                    flags = _flags(bill)
            else:
                who = attribution(exchange, made)
                extras.append(
                    record.extra(who, flags=_flags(bill), cost=bill.cost, version=price.version, usage=usage.pack())
                )
        exchange.cost_nanos = total
        if status in FROM_CACHE:
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


def _counted(attempt: Attempt) -> bool:
    """Whether a row has the attempt. One that costs nothing never needs one."""
    bill = attempt.bill
    return bill is not None and bill.counted


def _flags(bill: Bill) -> int:
    flags = record.ESTIMATED if bill.usage.estimated else 0
    if bill.price.free:
        return flags | record.FREE
    return flags if bill.price.priced else flags | record.UNPRICED


def attribution(exchange: Exchange, attempt: Attempt | None) -> str:
    """The call's dimensions, with the upstream, model and key of ``attempt``."""
    if attempt is None:
        target = exchange.target
        upstream, key = target.upstream, ""
    else:
        target, upstream, held = attempt.target, attempt.upstream, attempt.key
        key = "" if held is None else held.id
    asked = exchange.model_asked or ""
    model = target.model or asked
    tags = exchange.tags
    if tags:
        labels, task = record.canonical_tags(tags), tags.get("task", "")
    else:
        labels = task = ""
    return record.attribution(
        exchange.principal.id, exchange.project or "", labels, task, exchange.route_name, asked, model, upstream, key
    )
