"""``budget``: no more than so much money, tokens or calls in a window, also with a thousand calls at once.

Last in the chain: for each attempt it reserves the worst case at that attempt's target and key, so hits and followers
reserve nothing, and retries, hedges and fallbacks each do; ``on_attempt_end`` settles what was used. Nothing is ever
written into the request. The counters are ``services.get("state")`` (memory or Redis).
"""

from __future__ import annotations

import asyncio
import logging
from math import inf
from typing import TYPE_CHECKING

from proxy.accounting import budgets
from proxy.accounting.budgets import obstacle
from proxy.accounting.charge import PRICE, WORST_CASE, bound_of
from proxy.accounting.line import Line, Place
from proxy.accounting.money import nano_from_usd, usd_text
from proxy.accounting.restore import restore
from proxy.accounting.windows import CALENDAR, Window, zone
from proxy.config.units import parse_duration
from proxy.errors import ProxyError
from proxy.exchange import Target
from proxy.policies.budget.dimensions import reader
from proxy.policies.budget.meter import Hold, Meter
from proxy.policies.budget.options import BudgetOptions, Downgrade
from proxy.policy import Fallback, Policy, Stage, Veto, Wait
from proxy.state.limits import Claims, Grant, Refusal

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.accounting.books import Books
    from proxy.exchange import Answer, Attempt, Exchange
    from proxy.policy import Decision, Verdict
    from proxy.services import Services
    from proxy.state.interface import State
    from proxy.state.limits import Limit

__all__ = ["Budget"]

log = logging.getLogger("proxy.accounting")

_RESTORE = 0.5  # the start waits that long for the ledger's sums; after that they come when they come
_REFUSED_BY_PROVIDER = (0, 0, 1)  # it was sent and cost nothing: a call all the same
_POLL = 0.2  # with Redis, others give back without our seeing it


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
        # Memory answers without a coroutine; Redis is awaited.
        self._reserve_now: Callable[[tuple[Claims, ...]], Grant | Refusal] | None = getattr(
            self.state, "try_reserve", None
        )
        self._only = frozenset(options.only)
        self._priceless = options.usd is None and options.tokens is None
        self._now = services.clock.now
        self._value = reader(options.per)
        self._lines: dict[str, Line] = {}
        self._next: dict[str, float] = {}
        self._lowest = min(options.warn_at, default=2.0)
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

    async def on_attempt(self, exchange: Exchange, attempt: Attempt) -> Veto | Wait | None:
        books, budget = self.books, self.budget
        if not books.prices.ready:
            await books.warmed()
        value = self._value(exchange, attempt)
        if self._only and value not in self._only:
            return None
        price = attempt.local[PRICE] = books.tariff.price(exchange, attempt)
        options: BudgetOptions = self.options
        if self._priceless:
            wanted = (0, 0, 1)
        else:
            asked = exchange.input_estimate()
            bound = bound_of(exchange, options.assume_output, read=True)
            most = price.worst_case(asked, bound)
            wanted = (most, asked + bound, 1)
            attempt.local[WORST_CASE] = (most, asked, bound)
        if not price.priced and options.usd is not None:
            exchange.note(self.label, f"no price is known for {attempt.target}")
            if options.on_unpriced == "reject" and not self.observe:
                text = f"Budget {budget.name}: no price is known for this model, and on_unpriced is reject."
                return Veto("target", ProxyError("insufficient_quota", text, policy=self.label))
        claims, places = budget.claims(budget.bucket(value, self._now()), wanted, price.priced)
        if not claims:
            return None
        place: Place | None = exchange.local.get(self)
        if place is not None and place.left:
            place = None
        line = self._lines.get(value)
        if line is None or line.may_ask(place):
            at_once = self._reserve_now
            said = at_once((claims,)) if at_once is not None else await self.state.reserve((claims,))
            if type(said) is Grant:
                if place is not None and line is not None:
                    line.leave(place)
                attempt.local[self] = Hold(said, claims, places)
                return None
            assert isinstance(said, Refusal)
            return self._refused(exchange, attempt, said, claims, places, value, place)
        counter, amount = claims[0]
        figures = self.state.usage(counter)
        waits = Refusal(counter, 1.0, figures.used, figures.held)
        return self._held(exchange, attempt, waits, amount, value, place)

    def _refused(
        self,
        exchange: Exchange,
        attempt: Attempt,
        refusal: Refusal,
        claims: Claims,
        places: tuple[int, ...],
        value: str,
        place: Place | None,
    ) -> Veto | Wait | None:
        amount = next((amount for limit, amount in claims if limit is refusal.limit), claims[0][1])
        spent = obstacle(refusal, amount) == "spent"
        if self.observe:
            exchange.note(self.label, "would refuse: the budget is spent" if spent else "would wait for reservations")
            attempt.local[self] = Hold(None, claims, places)
            return None
        if not spent:
            return self._held(exchange, attempt, refusal, amount, value, place)
        self._leave(value, place)
        options: BudgetOptions = self.options
        if options.on_limit == "downgrade":
            if self._cheaper(exchange) == attempt.target:
                attempt.local[self] = Hold(None, claims, places)  # the last resort runs on; it is counted all the same
                return None
            exchange.note(self.label, "the budget is spent: another model answers")
        now = self.services.clock.now()
        error = ProxyError("insufficient_quota", self.budget.explain(refusal, amount, value, now), policy=self.label)
        return Veto("key" if "key" in self.budget.per else "target", error)

    def _held(
        self, exchange: Exchange, attempt: Attempt, refusal: Refusal, amount: int, value: str, place: Place | None
    ) -> Wait | Veto:
        options: BudgetOptions = self.options
        loop = asyncio.get_running_loop()
        deadline = exchange.local.setdefault((self, "deadline"), loop.time() + options.max_wait)
        text = self.budget.explain(refusal, amount, value, self.services.clock.now())
        error = ProxyError("rate_limit_exceeded", text, retry_after=1.0, policy=self.label)
        if loop.time() >= deadline:
            self._leave(value, place)
            return Veto("target", error)
        line = self._lines.setdefault(value, Line())
        if place is None:
            place = exchange.local[self] = line.join()

        async def until() -> None:
            poll = loop.call_later(_POLL, line.wake) if self.state.shared else None
            try:
                if not await line.wait(place, max(0.0, deadline - loop.time())):
                    raise error
            finally:
                self._tidy(value)
                if poll is not None:
                    poll.cancel()

        return Wait(until)

    def _leave(self, value: str, place: Place | None) -> None:
        line = self._lines.get(value)
        if line is not None and place is not None:
            line.leave(place)
            self._tidy(value)

    def _tidy(self, value: str) -> None:
        line = self._lines.get(value)
        if line is not None and not len(line):
            del self._lines[value]

    async def on_result(self, exchange: Exchange, attempt: Attempt, verdict: Verdict) -> Decision | None:
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

    async def on_attempt_end(self, exchange: Exchange, attempt: Attempt) -> None:
        hold: Hold | None = attempt.local.pop(self, None)
        if hold is None:
            return
        state, outcome = self.state, attempt.outcome
        charge = None if outcome == "vetoed" else self.books.tariff.charge(exchange, attempt)
        if charge is not None:
            usage = charge.usage
            actual = (charge.cost, usage.input + usage.output, 1)
        elif outcome == "vetoed" or not attempt.sent:
            if hold.grant is not None:
                state.free(hold.grant)
            if self._lines:
                self._given_back(self._value(exchange, attempt))
            return
        else:
            actual = _REFUSED_BY_PROVIDER
        places = hold.places
        if hold.grant is not None:
            used = (actual[places[0]],) if len(places) == 1 else [actual[metric] for metric in places]
            state.settle(hold.grant, used)
        else:
            for (limit, _), metric in zip(hold.claims, hold.places, strict=True):
                state.book(limit, actual[metric])
        if self._lines:
            self._given_back(self._value(exchange, attempt))
        if self._lowest <= 1.0:
            for limit, _ in hold.claims:
                spent = state.spent(limit)
                if spent >= limit.limit * self._lowest and spent >= self._next.get(limit.name, 0.0):
                    self._warn(limit, spent, self._value(exchange, attempt))

    def _given_back(self, value: str) -> None:
        line = self._lines.get(value)
        if line is not None:
            line.wake()
            self._tidy(value)

    async def on_done(self, exchange: Exchange) -> None:
        place: Place | None = exchange.local.get(self)
        if place is not None and not place.left:
            for value, line in list(self._lines.items()):
                if place in line:
                    line.leave(place)
                    self._tidy(value)

    def _warn(self, limit: Limit, used: float, value: str) -> None:
        """Said once for each mark, however far a call jumped; ``_next``: what must be used before it is said again."""
        share = used / limit.limit
        if len(self._next) > 10_000:
            self._next.clear()
        higher = [mark for mark in self.options.warn_at if mark > share]
        self._next[limit.name] = min(higher) * limit.limit if higher else inf
        metric = limit.name.removeprefix(f"budget:{self.budget.name}:").partition(":")[0]
        shown = f"${usd_text(int(used), places=4)}" if metric == "usd" else f"{int(used)} {metric}"
        window = self.budget.window
        of = f"last {window.rolling:g} s" if window.rolling else window.kind
        text = f"budget {self.budget.name} of {value}: {share:.0%} of its {of} are spent ({shown})"
        log.warning("%s", text)
        if self.books.store is not None:
            self.books.store.tell("budget_warning", text)

    # --- streams

    def open_stream(self, exchange: Exchange, answer: Answer) -> Stage | None:
        attempt = exchange.served_by
        if not self.options.stop_stream or self.observe or attempt is None or exchange.dialect is None:
            return None
        hold: Hold | None = attempt.local.get(self)
        if hold is None:
            return None
        return Meter(self, exchange, attempt, hold)
