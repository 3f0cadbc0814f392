"""``budget``: no more than so much money, tokens or calls in a window, also with a thousand calls at once.

Last in the chain: for each attempt it reserves the worst case at that attempt's target and key, so hits and followers
reserve nothing, and retries, hedges and fallbacks each do; ``on_attempt_end`` settles what was used. Nothing is ever
written into the request. The counters are ``services.get("state")`` (memory or Redis).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from proxy.accounting import budgets
from proxy.accounting.budgets import obstacle
from proxy.accounting.money import nano_from_usd
from proxy.accounting.purse import Purse
from proxy.accounting.restore import restore
from proxy.accounting.windows import CALENDAR, Window, zone
from proxy.config.units import parse_duration
from proxy.errors import ProxyError
from proxy.exchange import Target
from proxy.policies.budget.dimensions import reader
from proxy.policies.budget.estimate import ONE_CALL, Figures, by_estimate, doubted, expected
from proxy.policies.budget.hold import Doubts, Hold
from proxy.policies.budget.lines import Lines
from proxy.policies.budget.marks import Marks
from proxy.policies.budget.meter import Meter
from proxy.policies.budget.options import BudgetOptions, Downgrade
from proxy.policy import Fallback, Policy, Stage, Veto, Wait, called
from proxy.state import MemoryState
from proxy.state.limits import Claims, Grant, Refusal

if TYPE_CHECKING:
    from proxy.accounting.books import Books
    from proxy.accounting.budgets import Bucket
    from proxy.accounting.line import Place
    from proxy.exchange import Answer, Attempt, Exchange
    from proxy.policy import Decision, Later, Verdict
    from proxy.services import Services
    from proxy.state.interface import State
    from proxy.state.limits import Limit

__all__ = ["Budget"]

log = logging.getLogger("proxy.accounting")

_RESTORE = 0.5  # the start waits that long for the ledger's sums; after that they come when they come
_NOTHING: Figures = (0, 0, 0)


class _Ask(NamedTuple):
    """What an attempt wants. ``plain``: by its estimate; ``claims``: by what was learned of such estimates; ``doubts``:
    what it may come to on top of them, by counter, while nothing has been learned.
    """

    value: str
    claims: Claims
    plain: Claims
    doubts: Sequence[int]


class Budget(Policy):
    """Bounds what is spent in a window."""

    name = "budget"
    Options = BudgetOptions
    protects = True
    needs_usage = True
    reads_answer = False

    def __init__(
        self, options: BudgetOptions, services: Services, *, label: str | None = None, observe: bool = False
    ) -> None:
        super().__init__(options, services, label=label, observe=observe)
        self.books: Books = services.get("accounting")
        self.state: State = services.get("state")
        #: Where the counters are this process' own, they are kept in hand (see ``Purse``); Redis is awaited.
        self._own = self.state if isinstance(self.state, MemoryState) else None
        rolling = 0.0 if options.window in CALENDAR else parse_duration(options.window)
        window = Window(options.window, zone(options.time_zone), rolling=rolling)
        place = "+".join(options.per)
        self.budget = budgets.Budget(
            # Two entries that say the same are the same budget, also in two chains and after a reload.
            label if label and label != self.name else f"{place}/{options.window}",
            options.per,
            window,
            usd=None if options.usd is None else nano_from_usd(options.usd),
            tokens=options.tokens,
            calls=options.calls,
        )
        self._known = self.budget.known
        self._only = frozenset(options.only)
        self._calls_alone = options.usd is None and options.tokens is None
        self._assumed = options.assume_output
        self._now = services.clock.now
        self._value = reader(options.per)
        self.lines = Lines(poll=self.state.shared)
        #: Several budgets of a chain ask Redis at the same time: one round trip for all.
        self.alongside = self.state.shared
        self.doubts = Doubts()
        self._marks = Marks(options.warn_at, self.budget, self.books)
        self._restoring: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self.books.start()
        if self.books.store is not None:
            self._restoring = asyncio.create_task(self._restore(), name=f"restore-{self.label}")
            await asyncio.wait((self._restoring,), timeout=_RESTORE)

    async def _restore(self) -> None:
        """Until it is done: with the ledger down, calls go on against what is counted since the start."""
        while True:
            store = self.books.store
            if store is None:
                return
            try:
                await restore(store, self.budget, self.state, self.services.clock.now())
                return
            except Exception as error:
                log.warning("budget %s: cannot be restored yet: %s", self.budget.name, type(error).__name__)
            await asyncio.sleep(1.0)

    async def stop(self) -> None:
        if self._restoring is not None:
            self._restoring.cancel()
            await asyncio.wait((self._restoring,))
            self._restoring = None
        await self.books.stop()

    # --- reserve

    def on_attempt(self, exchange: Exchange, attempt: Attempt) -> Later[Veto | Wait | None]:
        books = self.books
        if not books.prices.ready:
            return self._once_priced(exchange, attempt)
        read, now = self._value, self._now  # not methods: this way they cost no search for one
        value = read(exchange, attempt)
        if self._only and value not in self._only:
            return None
        bill = attempt.bill or books.tariff.bill(exchange, attempt)
        wanted = ONE_CALL if self._calls_alone else expected(exchange, bill, self._assumed)
        priced = bill.price.priced
        if not priced and (veto := self._unpriced(exchange, attempt)) is not None:
            return veto
        bucket = self._known.get(value)  # as `Budget.bucket` does, written out: its call is 0.15 us
        if bucket is None or not bucket.starts <= now() < bucket.ends:
            bucket = self.budget.bucket(value, now())
        if self._own is not None and not bill.doubt and value not in self.lines:
            purse = (bucket.purse if priced else bucket.unpriced) or self._open(self._own, bucket, priced)
            if purse.take(wanted):
                attempt.local[self] = (purse, wanted)
                return None
        return self._by_claims(exchange, attempt, bucket, wanted)

    async def _once_priced(self, exchange: Exchange, attempt: Attempt) -> Veto | Wait | None:
        await self.books.warmed()
        self.books.prices.catalog()  # also where nothing was started: policy tests, explain
        return await called(self.on_attempt(exchange, attempt))

    def _open(self, state: MemoryState, bucket: Bucket, priced: bool) -> Purse:
        """The bucket's counters, in hand from now on."""
        purse = Purse(state, bucket.counters if priced else [pair for pair in bucket.counters if pair[0]])
        for pocket in purse.pockets:
            pocket.mark = self._marks.next(pocket.counter)
        if priced:
            bucket.purse = purse
        else:
            bucket.unpriced = purse
        return purse

    def _unpriced(self, exchange: Exchange, attempt: Attempt) -> Veto | None:
        options: BudgetOptions = self.options
        if options.usd is None:
            return None
        exchange.note(self.label, f"no price is known for {attempt.target}")
        if options.on_unpriced == "allow" or self.observe:
            return None
        text = f"Budget {self.budget.name}: no price is known for this model, and on_unpriced is reject."
        return Veto("target", ProxyError("insufficient_quota", text, policy=self.label))

    def _by_claims(
        self, exchange: Exchange, attempt: Attempt, bucket: Bucket, wanted: Figures
    ) -> Later[Veto | Wait | None]:
        """Where it is not simply taken: others wait, the counters are somebody else's, an estimate is doubted, or
        there is not enough.
        """
        budget, bill = self.budget, self.books.tariff.bill(exchange, attempt)
        priced = bill.price.priced
        claims = budget.claims(bucket, wanted, priced)
        if not claims:
            return None
        plain = ONE_CALL if self._calls_alone else by_estimate(bill)
        least = claims if wanted == plain else budget.claims(bucket, plain, priced)
        doubts = budget.amounts(claims, doubted(bill)) if bill.doubt and not self.observe else ()
        return self._ask(exchange, attempt, _Ask(bucket.value, claims, least, doubts))

    async def _ask(self, exchange: Exchange, attempt: Attempt, ask: _Ask) -> Veto | Wait | None:
        value, claims, plain, doubts = ask
        place: Place | None = exchange.local.get(self)
        if place is not None and place.left:
            place = None
        line = self.lines.get(value)
        if line is not None and not line.may_ask(place):
            figures = self.state.usage(plain[0][0])
            waits = Refusal(plain[0][0], 1.0, figures.used, figures.held)
            return self._held(exchange, waits, plain[0][1], value, place)
        if doubts and (doubtful := self._doubtful(claims, doubts)) is not None:
            return self._held(exchange, *doubtful, value, place)
        said: Grant | Refusal | None = None
        self.doubts.add(claims, doubts)
        try:
            said = await self.state.reserve((claims,))
        finally:
            if type(said) is not Grant:
                self.doubts.remove(claims, doubts)
        if isinstance(said, Refusal) and plain is not claims and not said.held:
            claims = plain  # nothing else is in flight: what is overspent is the error of this one estimate
            said = await self.state.reserve((claims,))
            doubts = ()
        if isinstance(said, Refusal):
            return self._refused(exchange, attempt, said, ask, place)
        if place is not None and line is not None:
            line.leave(place)
        attempt.local[self] = Hold(said, claims, doubts) if doubts else said
        return None

    def _doubtful(self, claims: Claims, doubts: Sequence[int]) -> tuple[Refusal, int] | None:
        """What stands in the way if all in flight came to their worst; nothing where nothing is in flight."""
        for (limit, amount), doubt in zip(claims, doubts, strict=True):
            figures = self.state.usage(limit)
            if figures.held and figures.remaining < self.doubts.of(limit.name) + amount + doubt:
                return Refusal(limit, 1.0, figures.used, figures.held), amount
        return None

    def _refused(
        self, exchange: Exchange, attempt: Attempt, refusal: Refusal, ask: _Ask, place: Place | None
    ) -> Veto | Wait | None:
        value, claims, plain, _ = ask
        amount = next((amount for limit, amount in plain if limit is refusal.limit), plain[0][1])
        spent = obstacle(refusal, amount) == "spent"
        if self.observe:
            exchange.note(self.label, "would refuse: the budget is spent" if spent else "would wait for reservations")
            attempt.local[self] = Hold(None, claims)
            return None
        if not spent:
            return self._held(exchange, refusal, amount, value, place)
        self.lines.leave(value, place)
        options: BudgetOptions = self.options
        if options.on_limit == "downgrade":
            if self._cheaper(exchange) == attempt.target:
                attempt.local[self] = Hold(None, claims)  # the last resort runs on; it is counted all the same
                return None
            exchange.note(self.label, "the budget is spent: another model answers")
        now = self.services.clock.now()
        error = ProxyError("insufficient_quota", self.budget.explain(refusal, amount, value, now), policy=self.label)
        return Veto("key" if "key" in self.budget.per else "target", error)

    def _held(self, exchange: Exchange, refusal: Refusal, amount: int, value: str, place: Place | None) -> Wait | Veto:
        options: BudgetOptions = self.options
        now = asyncio.get_running_loop().time()
        deadline: float = exchange.local.setdefault((self, "deadline"), now + options.max_wait)
        text = self.budget.explain(refusal, amount, value, self.services.clock.now())
        error = ProxyError("rate_limit_exceeded", text, retry_after=1.0, policy=self.label)
        if now >= deadline:
            self.lines.leave(value, place)
            return Veto("target", error)
        held, until = self.lines.wait(value, place, deadline, error)
        exchange.local[self] = held
        return Wait(until, drop=partial(self.lines.leave, value, held))

    def on_result(self, exchange: Exchange, attempt: Attempt, verdict: Verdict) -> Decision | None:
        veto = verdict.veto
        options: BudgetOptions = self.options
        if options.downgrade is None or veto is None or veto.error.policy != self.label:
            return None
        cheaper = self._cheaper(exchange)
        return None if cheaper == attempt.target else Fallback(cheaper)

    def _cheaper(self, exchange: Exchange) -> Target:
        downgrade: Downgrade = self.options.downgrade
        return Target(downgrade.upstream or exchange.target.upstream, downgrade.model)

    # --- settle

    def on_attempt_end(self, exchange: Exchange, attempt: Attempt) -> None:
        held: tuple[Purse, Figures] | Grant | Hold | None = attempt.local.pop(self, None)
        if held is None:
            return
        bill = self.books.tariff.charge(exchange, attempt)
        used: Figures | None
        if bill is not None:
            counts = bill.counts
            used = (bill.cost, counts[0] + counts[1], 1)
        else:
            used = ONE_CALL if attempt.sent and attempt.outcome != "vetoed" else None
        if isinstance(held, tuple):
            purse, amounts = held
            if purse.settle(amounts, used or _NOTHING):
                self._look([pocket.counter for pocket in purse.pockets], exchange, attempt)
                for pocket in purse.pockets:
                    pocket.mark = self._marks.next(pocket.counter)
        else:
            hold = held if isinstance(held, Hold) else Hold(held, held.claims)
            self.doubts.remove(hold.claims, hold.doubts)
            if used is not None:
                hold.settle(self.state, self.budget.amounts(hold.claims, used))
                self._look([limit for limit, _ in hold.claims], exchange, attempt)
            elif hold.grant is not None:
                self.state.free(hold.grant)
        if self.lines:
            self.lines.given_back(self._value(exchange, attempt))

    def _look(self, limits: Sequence[Limit], exchange: Exchange, attempt: Attempt) -> None:
        """Warn where a mark was passed."""
        if self._marks:
            for limit in limits:
                self._marks.look(limit, self.state.spent(limit), self._value(exchange, attempt))

    def receipt(self, attempt: Attempt) -> Grant | Hold | None:
        """What the attempt holds, by the names of its counters: for the few who look at it while it runs."""
        held: tuple[Purse, Figures] | Grant | Hold | None = attempt.local.get(self)
        if not isinstance(held, tuple):
            return held
        purse, amounts = held
        grant = attempt.local[self] = Grant(purse.claims(amounts), 0, self.services.clock.monotonic())
        return grant

    def on_usage(self, exchange: Exchange, attempt: Attempt) -> ProxyError | None:
        """A session may last for hours: what it has used counts at once, not at its end."""
        held = self.receipt(attempt)
        bill = None if held is None else self.books.tariff.charge(exchange, attempt)
        if held is None or bill is None:
            return None
        hold = held if isinstance(held, Hold) else Hold(held, held.claims)
        state, claims, counts = self.state, hold.claims, bill.counts
        used = self.budget.amounts(claims, (bill.cost, counts[0] + counts[1], 1))
        hold.settle(state, used)
        attempt.local[self] = Hold(None, claims, hold.doubts, used)
        if self.lines:
            self.lines.given_back(self._value(exchange, attempt))
        self._look([limit for limit, _ in claims], exchange, attempt)
        options: BudgetOptions = self.options
        if not options.stop_stream or self.observe or all(state.spent(limit) <= limit.limit for limit, _ in claims):
            return None
        text = f"Budget {self.budget.name}: its limit was reached in this session (stop_stream)."
        return ProxyError("insufficient_quota", text)

    def on_done(self, exchange: Exchange) -> None:
        if not self.lines:
            return
        place: Place | None = exchange.local.get(self)
        if place is not None and not place.left:
            self.lines.leave_all(place)

    # --- streams

    def open_stream(self, exchange: Exchange, answer: Answer) -> Stage | None:
        attempt = exchange.served_by
        if not self.options.stop_stream or self.observe or attempt is None or exchange.dialect is None:
            return None
        hold = self.receipt(attempt)
        if hold is None:
            return None
        return Meter(self, exchange, attempt, hold)
