"""One call on its way through the accounting: from the first request that is sent to the one row it becomes.

The ticket lies in ``exchange.local[TICKET]``, and a flight (shared work below a cache) carries that of the caller who
started it, because the flight's cost is that caller's: ``begin`` when a request goes out (``exchange.before_send``, on
the caller's exchange or the flight's), ``end`` when the call is over, ``landed`` when the flight is. Attempts that
still run when their caller leaves stay begun, under a number of their own, and are entered when the flight has landed.
Each attempt is counted once, and so is each call that reached an upstream: by the row of the caller who made it, also
when he left before its cost was known, which is then entered without a call. A revalidation is a call of its own: its
starter's row says that he was served from the store.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from orjson import dumps

from proxy.accounting import record
from proxy.accounting.charge import ASSUMED_OUTPUT, attribution, bound_of, limits_of, size_estimate
from proxy.accounting.record import NEWLINE, UNPRICED

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from proxy.accounting.books import Store
    from proxy.accounting.charge import Bill, Tariff
    from proxy.clock import Clock
    from proxy.exchange import Attempt, Exchange, Outcome, Target

__all__ = ["FROM_CACHE", "TICKET", "Desk", "Ticket"]

TICKET: Final = "accounting.ticket"
FROM_CACHE: Final = frozenset({"hit", "stale", "coalesced"})
_FAILED: Final = record.PLACES["failed"]
_NONE: Final[Sequence[list[Any]]] = ()
_OUTCOMES: Final[dict[Outcome | None, int]] = {
    None: record.PLACES["cancelled"],
    "answered": record.PLACES["answered"],
    "refused": record.PLACES["refused"],
    "failed": _FAILED,
    "truncated": _FAILED,
    "cancelled": record.PLACES["cancelled"],
}


class Desk:
    """Where tickets are written: what all calls of a policy have in common, found once."""

    def __init__(self, store: Store, tariff: Tariff, clock: Clock) -> None:
        self.journal = store.journal
        self.next_number = store.journal.ids.next
        self.tariff = tariff
        self.now = clock.now
        self.monotonic = clock.monotonic

    def ticket(self) -> Ticket:
        """For one call."""
        ticket = Ticket()
        ticket.desk = self
        next_number = self.next_number
        ticket.number = next_number()
        ticket.begun = ticket.ended = ticket.reached = False
        ticket.below = None
        return ticket


class Ticket:
    """See the module's text. ``below``: the exchange that sends the call's requests, once one is about to go out.
    ``target``: of the begin that stands. ``reached``: whether the call's row says that it reached an upstream. One is
    made for every call, hence without a constructor: ``Desk.ticket`` fills it in.
    """

    __slots__ = ("begun", "below", "desk", "ended", "number", "reached", "target")

    desk: Desk
    number: int
    begun: bool
    ended: bool
    reached: bool
    below: Exchange | None
    target: Target

    def begin(self, exchange: Exchange, attempt: Attempt) -> None:
        """A request is about to go out: money may be spent from here, so it stands in the journal first (a slow or full
        disk is not waited for). Only the first is written, and one for another target, which takes its place: a call
        that dies is the last one's. ``exchange`` is the call's own, or the flight's.
        """
        if self.begun and (attempt.target == self.target or attempt.hedge_of is not None):
            return
        desk = self.desk
        if not self.begun:
            if self.ended:  # a revalidation, or a flight that others still wait for: it is no part of that row any more
                self.number = desk.next_number()
            self.below = exchange
        self.begun = True
        self.target = attempt.target
        bill = attempt.bill or desk.tariff.bill(exchange, attempt)
        asked = bill.asked
        if asked:
            bound, most = bill.bound, bill.most
        else:
            limits = limits_of(exchange)
            asked, bound = size_estimate(exchange), bound_of(limits, ASSUMED_OUTPUT)
            most = bill.price.worst_case(asked, bound)
            if limits is not None and limits.pictures:
                most += bill.price.pieces(limits.pictures, limits.speech)
        number, now = self.number, desk.now
        who = bill.who if bill.key is attempt.key else attribution(exchange, attempt)
        begun: tuple[Any, ...]
        begun = ("b", number, int(now() * 1000.0), exchange.id, who, most, bill.price.version, (asked, bound))
        if self.reached:
            begun = (*begun, 0)
        desk.journal.begin(number, dumps(begun, None, NEWLINE))

    def cost(self, exchange: Exchange) -> int | None:
        """What the call's own attempts have cost, in nano-dollars: 0 for a hit or a follower of somebody else's flight,
        None where a price is unknown, which is no figure at all, never a zero.
        """
        bill = self._usual(exchange)
        if bill is not None:
            return bill.cost if bill.price.priced else None
        plain = self.below is exchange and exchange.cache_status not in FROM_CACHE
        total = 0
        for made in exchange.attempts if plain else self._own(exchange):
            bill = self.desk.tariff.charge(exchange, made)
            if bill is None:
                continue
            if not bill.price.priced:
                return None
            total += bill.cost
        return total

    def _usual(self, exchange: Exchange) -> Bill | None:
        """The bill of a call with exactly one attempt, its own and paid, as most are; None for any other call."""
        attempts = exchange.attempts
        if len(attempts) != 1 or self.below is not exchange or exchange.cache_status in FROM_CACHE:
            return None
        bill = attempts[0].bill
        return bill if bill is not None and bill.paid else None

    def _worker(self, exchange: Exchange) -> Exchange:
        """Whose attempts are this call's: those of the flight that it started, else its own."""
        if self.below is not None:
            return self.below
        flight = exchange.flight_of
        return exchange if flight is None or flight.attempts is not exchange.attempts else flight

    def _own(self, exchange: Exchange) -> list[Attempt]:
        """The attempts that are this call's to pay and in no row yet. Of a call that was served from the store: what
        had failed before that helped, and never what renews the store behind its back.
        """
        if exchange.cache_status in FROM_CACHE:
            worker = exchange
        else:
            worker = self._worker(exchange)
            if worker is exchange:
                return exchange.attempts
        return [made for made in worker.attempts if made.outcome is not None and not _counted(made)]

    def end(self, exchange: Exchange) -> bool:
        """The call is over: write its row. False when that was done before."""
        if self.ended:
            return False
        self.ended = True
        number, below = self.number, self.below
        line = self._record(exchange, number)
        if below is exchange:  # as mostly
            self.below = None  # no ring of references is left for the collector
        elif below is not None:
            self.begun = False
            for made in below.attempts:
                if made.outcome is None:  # goes on for others
                    self.begin(below, made)
                    break
            else:
                self.below = None
        self.desk.journal.end(number, line)
        return True

    def landed(self, exchange: Exchange) -> None:
        """The flight is over: what its starter's row does not hold, because the starter had left, is entered now."""
        if not self.ended:
            return
        journal, next_number, now = self.desk.journal, self.desk.next_number, int(self.desk.now() * 1000)
        sent = 0 if self.reached else sum(made.sent for made in exchange.attempts)
        outcome = record.OUTCOMES[_OUTCOMES[exchange.outcome]]
        for made in exchange.attempts:
            bill = None if _counted(made) else self.desk.tariff.charge(exchange, made)
            if bill is None:
                continue
            bill.counted = True
            number = self._landing(next_number)
            line = record.end(
                number,
                now,
                exchange.id,
                attribution(exchange, made),
                outcome=outcome,
                status=made.status or 0,
                flags=bill.flags,
                attempts=sent,
                cost=bill.cost,
                version=bill.price.version,
                usage=bill.counts,
            )
            journal.end(number, line)
            sent = 0
        if self.begun or sent:  # it cost nothing; but its begin must not be found as abandoned, and a call is a call
            number = self._landing(next_number)
            last = exchange.attempts[-1] if exchange.attempts else None
            who, status = attribution(exchange, last), (last and last.status) or 0
            journal.end(
                number, record.end(number, now, exchange.id, who, outcome=outcome, status=status, attempts=sent)
            )
        self.below = None

    def _landing(self, fresh: Callable[[], int]) -> int:
        """The number that the flight was begun under, once; then fresh ones."""
        if self.begun:
            self.begun = False
            return self.number
        return fresh()

    def _record(self, exchange: Exchange, number: int) -> bytes:
        bill = self._usual(exchange)
        if bill is not None:
            [attempt] = exchange.attempts
            bill.counted = True
            flags, cost, version, counts = bill.flags, bill.cost, bill.price.version, bill.counts
            sent, saved, extras = 1 if attempt.sent else 0, 0, _NONE
            who = bill.who if bill.key is attempt.key else attribution(exchange, attempt)
            exchange.cost_nanos = cost
            if flags & UNPRICED:
                exchange.unpriced, exchange.cost_nanos = True, None
        else:
            who, flags, sent, cost, saved, version, counts, extras = self._summed_up(exchange)
        if sent:
            self.reached = True
        answer, first, started = exchange.answer, exchange.first_byte_at, exchange.started_at
        now, monotonic = self.desk.now, self.desk.monotonic
        return dumps(
            (
                "e",
                number,
                int(now() * 1000.0),
                exchange.id,
                who,
                _OUTCOMES[exchange.outcome],
                answer.status if answer is not None else 0,
                flags,
                int((monotonic() - started) * 1000.0),
                int((first - started) * 1000.0) if first is not None else 0,
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

    def _summed_up(
        self, exchange: Exchange
    ) -> tuple[str, int, int, int, int, str, tuple[int, ...], Sequence[list[Any]]]:
        """What the row says of a call that was served from the store, or has not exactly one attempt of its own that is
        paid: who, flags, attempts, cost, saved, version, usage, extras.
        """
        cached = exchange.cache_status in FROM_CACHE
        plain = self.below is exchange and not cached
        own = exchange.attempts if plain else self._own(exchange)
        attempt = exchange.served_by
        flags = total = cost = sent = saved = 0
        version = ""
        counts: tuple[int, ...] = ()
        extras: list[list[Any]] = []
        if attempt is None and own and not cached:
            attempt = own[-1]
        if not (plain or cached) and (worker := self._worker(exchange)) is not exchange:
            for made in worker.attempts:
                if made.outcome is None and made.sent:  # it goes on for others, or is about to end
                    sent += 1
                    attempt = attempt or made
        for made in own:
            if made.sent:
                sent += 1
            bill = self.desk.tariff.charge(exchange, made)
            if bill is None:
                continue
            bill.counted = True
            total += bill.cost
            if made is attempt:
                flags, cost, version, counts = bill.flags, bill.cost, bill.price.version, bill.counts
            else:
                extras.append(_extra(exchange, made, bill))
            if bill.flags & UNPRICED:
                exchange.unpriced = True
        exchange.cost_nanos = None if exchange.unpriced and not total else total
        if cached:
            flags |= record.CACHED
            saved = exchange.saved_nanos = self._saved(exchange)
        elif exchange.saved_usage:  # a part of the answer was stored
            saved = exchange.saved_nanos = self._saved(exchange)
        return _who(exchange, attempt), flags, sent, cost, saved, version, counts, extras

    def _saved(self, exchange: Exchange) -> int:
        """What the answer would have cost: said by the cache, else its usage at the price of the call's target."""
        if exchange.saved_nanos is not None:
            return exchange.saved_nanos
        usage = exchange.saved_usage or exchange.usage
        if usage is None and exchange.flight_of is not None:
            usage = exchange.flight_of.usage
        if usage is None:
            return 0
        served = exchange.served_by
        target = exchange.target if served is None else served.target
        return self.desk.tariff.model_price(target.model or exchange.model_asked or "", target.upstream).cost(usage)


def _counted(attempt: Attempt) -> bool:
    """Whether a row has the attempt. One that costs nothing never needs one."""
    bill = attempt.bill
    return bill is not None and bill.counted


def _who(exchange: Exchange, attempt: Attempt | None) -> str:
    """The row's attribution: the bill's, unless that was opened before the attempt had its key."""
    bill = None if attempt is None else attempt.bill
    if attempt is None or bill is None or bill.key is not attempt.key:
        return attribution(exchange, attempt)
    return bill.who


def _extra(exchange: Exchange, attempt: Attempt, bill: Bill) -> list[Any]:
    """A further attempt of the call that used something."""
    return record.extra(
        _who(exchange, attempt),
        flags=bill.flags,
        cost=bill.cost,
        version=bill.price.version,
        usage=bill.counts,
    )
