"""One call on its way through the accounting: from the first attempt to the one row it becomes.

The ticket lies in ``exchange.local[TICKET]``, and a flight (shared work below a cache) carries that of the caller who
started it, because the flight's cost is that caller's: ``begin`` when an attempt goes out, ``end`` when the call is
over, ``landed`` when the flight is. Attempts that still run when their caller leaves are entered when the flight has
landed, as cost without a call. Each attempt is counted once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from proxy.accounting import record
from proxy.accounting.charge import ASSUMED_OUTPUT, Charge, bound_of, input_estimate

if TYPE_CHECKING:
    from proxy.accounting.books import Store
    from proxy.accounting.charge import Tariff
    from proxy.clock import Clock
    from proxy.exchange import Attempt, Exchange

__all__ = ["FROM_CACHE", "TICKET", "Ticket"]

TICKET: Final = "accounting.ticket"
FROM_CACHE: Final = frozenset({"hit", "stale", "coalesced"})
_COUNTED: Final = "accounting.counted"
_OUTCOMES = {
    "answered": "answered",
    "refused": "refused",
    "failed": "failed",
    "truncated": "failed",
    "cancelled": "cancelled",
}


class Ticket:
    """See the module's text. Each method costs a few microseconds."""

    __slots__ = ("_below", "begun", "clock", "ended", "number", "store", "tariff")

    def __init__(self, store: Store, tariff: Tariff, clock: Clock) -> None:
        self.store = store
        self.tariff = tariff
        self.clock = clock
        self.number = store.journal.ids.next()
        self.begun = False
        self.ended = False
        self._below: Exchange | None = None

    async def begin(self, exchange: Exchange, attempt: Attempt) -> None:
        """An attempt is about to go out: money may be spent from here, so it stands in the journal first (one turn of
        the loop; a slow or full disk is not waited for). Only the first is written; ``exchange`` is the call's own, or
        the flight's.
        """
        if self.begun or self.ended:
            return
        self.begun = True
        self._below = exchange
        price = self.tariff.price(exchange, attempt)
        asked, bound = input_estimate(exchange), bound_of(exchange, ASSUMED_OUTPUT, read=False)
        now = int(self.clock.now() * 1000)
        reserved = price.worst_case(asked, bound)
        who = attribution(exchange, attempt)
        line = record.begin(self.number, now, exchange.id, who, reserved, price.version, (asked, bound))
        journal = self.store.journal
        journal.begin(self.number, line)
        if journal.prompt:
            await journal.flushed()

    def charges(self, exchange: Exchange) -> list[tuple[Attempt, Charge]]:
        """What the call's own attempts have cost; none for a hit or a follower of somebody else's flight."""
        charge = self.tariff.charge
        return [(made, paid) for made in self._own(exchange) if (paid := charge(exchange, made)) is not None]

    def _own(self, exchange: Exchange) -> list[Attempt]:
        if exchange.cache_status in FROM_CACHE:
            return []
        below = self._below
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
        self.store.journal.end(self.number, self._record(exchange))
        return True

    def landed(self, exchange: Exchange) -> None:
        """The flight is over: what its starter's row does not hold, because the starter had left, is entered now."""
        if not self.ended:
            return
        left = [(made, self.tariff.charge(exchange, made)) for made in exchange.attempts if _COUNTED not in made.local]
        now = int(self.clock.now() * 1000)
        for made, paid in left:
            made.local[_COUNTED] = True
            if paid is None:
                continue
            line = record.end(
                self.store.journal.ids.next(),
                now,
                exchange.id,
                attribution(exchange, made),
                flags=_flags(paid),
                attempts=0,
                cost=paid.cost,
                version=paid.price.version,
                usage=paid.usage.pack(),
            )
            self.store.journal.append(line)

    def _record(self, exchange: Exchange) -> bytes:
        cached = exchange.cache_status in FROM_CACHE
        own = self._own(exchange)
        charge = self.tariff.charge
        attempt = exchange.served_by or (own[-1] if own else None)
        main: Charge | None = None
        extras: list[list[Any]] = []
        total = 0
        sent = 0
        for made in own:
            made.local[_COUNTED] = True
            if made.sent:
                sent += 1
            paid = charge(exchange, made)
            if paid is None:
                continue
            total += paid.cost
            if made is attempt:
                main = paid
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
        flags, cost, version = 0, 0, ""
        counts: tuple[int, ...] = ()
        if main is not None:
            flags, cost, version, counts = _flags(main), main.cost, main.price.version, main.usage.pack()
        saved = 0
        if cached:
            flags |= record.CACHED
            saved = exchange.saved_nanos = self._saved(exchange)
        answer, clock = exchange.answer, self.clock
        first = exchange.first_byte_at
        return record.end(
            self.number,
            int(clock.now() * 1000),
            exchange.id,
            attribution(exchange, attempt),
            outcome=_OUTCOMES.get(exchange.outcome or "cancelled", "failed"),
            status=answer.status if answer is not None else 0,
            flags=flags,
            ms=int((clock.monotonic() - exchange.started_at) * 1000),
            first_ms=int((first - exchange.started_at) * 1000) if first is not None else 0,
            attempts=sent,
            cost=cost,
            saved=saved,
            version=version,
            usage=counts,
            extras=extras,
        )

    def _saved(self, exchange: Exchange) -> int:
        """What the answer would have cost: said by the cache, else its usage at the price of the call's target."""
        if exchange.saved_nanos is not None:
            return exchange.saved_nanos
        usage = exchange.usage
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
