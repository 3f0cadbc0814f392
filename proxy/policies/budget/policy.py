"""``budget``: no more than so much money, tokens or calls in a window, also with a thousand calls at once.

Last in the chain: for each attempt it reserves the worst case at that attempt's target and key, so hits and followers
reserve nothing, and retries, hedges and fallbacks each do; ``on_attempt_end`` settles what was used. Nothing is ever
written into the request. The counters are ``services.get("state")`` (memory or Redis).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from math import inf
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from proxy.accounting import budgets
from proxy.accounting.budgets import obstacle
from proxy.accounting.charge import limits_of
from proxy.accounting.line import Line, Place
from proxy.accounting.money import nano_from_usd, usd_text
from proxy.accounting.restore import restore
from proxy.accounting.windows import CALENDAR, Window, zone
from proxy.config.units import parse_duration
from proxy.errors import ProxyError
from proxy.exchange import Target
from proxy.policies.budget.dimensions import reader
from proxy.policies.budget.hold import Doubts, Hold
from proxy.policies.budget.meter import Meter
from proxy.policies.budget.options import BudgetOptions, Downgrade
from proxy.policy import Fallback, Policy, Stage, Veto, Wait, called
from proxy.state.limits import Claims, Grant, Refusal

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.accounting.books import Books
    from proxy.accounting.charge import Bill
    from proxy.exchange import Answer, Attempt, Exchange
    from proxy.policy import Decision, Later, Verdict
    from proxy.services import Services
    from proxy.state.interface import State
    from proxy.state.limits import Limit

__all__ = ["Budget"]

log = logging.getLogger("proxy.accounting")

_RESTORE = 0.5  # the start waits that long for the ledger's sums; after that they come when they come
_Amounts: TypeAlias = tuple[int, int, int]
_ONE_CALL = (0, 0, 1)  # also what was sent and cost nothing, because the provider refused it
_POLL = 0.2  # with Redis, others give back without our seeing it


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
        self._assumed = options.assume_output
        self._now = services.clock.now
        self._value = reader(options.per)
        self._lines: dict[str, Line] = {}
        self._doubts = Doubts()
        self._next: dict[str, float] = {}
        self._warns = bool(options.warn_at)
        self._lowest = min(options.warn_at, default=0.0)
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
        books, budget = self.books, self.budget
        if not books.prices.ready:
            return self._once_priced(exchange, attempt)
        value = self._value(exchange, attempt)
        if self._only and value not in self._only:
            return None
        bill = books.tariff.bill(exchange, attempt)
        priced = bill.price.priced
        plain = wanted = _ONE_CALL
        doubt = 0
        if not self._priceless:
            plain, wanted, doubt = self._amounts(exchange, bill)
        if not priced and (veto := self._unpriced(exchange, attempt)) is not None:
            return veto
        bucket = budget.bucket(value, self._now())
        claims = budget.claims(bucket, wanted, priced)
        if not claims:
            return None
        said = None
        if not doubt and self._reserve_now is not None and value not in self._lines:
            said = self._reserve_now((claims,))
            if type(said) is Grant:
                attempt.local[self] = said
                return None
        least = claims if wanted is plain else budget.claims(bucket, plain, priced)
        doubts: Sequence[int] = ()
        if doubt and not self.observe:
            most = bill.price.worst_case(bill.asked + doubt, bill.bound)
            doubts = budget.amounts(claims, (most - bill.most, doubt, 0))
        return self._ask(exchange, attempt, _Ask(value, claims, least, doubts), said)

    async def _once_priced(self, exchange: Exchange, attempt: Attempt) -> Veto | Wait | None:
        await self.books.warmed()
        self.books.prices.catalog()  # also where nothing was started: policy tests, explain
        return await called(self.on_attempt(exchange, attempt))

    def _amounts(self, exchange: Exchange, bill: Bill) -> tuple[_Amounts, _Amounts, int]:
        """What the attempt will come to at most by its estimate, the same by what was learned of such estimates, and
        the input tokens that it may come to on top while nothing has been learned.
        """
        gauge, price = bill.gauge, bill.price
        asked = exchange.input_estimate()
        bound = longest = self._assumed
        limits = limits_of(exchange, read=True)
        if limits is not None:
            tokens, choices = limits.tokens, limits.choices
            if tokens is None:
                bill.limited = choices != 1
                longest = gauge.output(bound)
            else:
                bound = longest = tokens
            if choices > 1:
                bound, longest = bound * choices, longest * choices
        bill.asked, bill.bound = asked, bound
        most = bill.most = price.worst_case(asked, bound)
        plain = (most, asked + bound, 1)
        expected, doubt = gauge.expect(asked)
        if expected == asked and longest == bound:
            return plain, plain, doubt
        return plain, (price.worst_case(expected, longest), expected + longest, 1), doubt

    def _unpriced(self, exchange: Exchange, attempt: Attempt) -> Veto | None:
        options: BudgetOptions = self.options
        if options.usd is None:
            return None
        exchange.note(self.label, f"no price is known for {attempt.target}")
        if options.on_unpriced == "allow" or self.observe:
            return None
        text = f"Budget {self.budget.name}: no price is known for this model, and on_unpriced is reject."
        return Veto("target", ProxyError("insufficient_quota", text, policy=self.label))

    async def _ask(
        self, exchange: Exchange, attempt: Attempt, ask: _Ask, said: Grant | Refusal | None
    ) -> Veto | Wait | None:
        """Where it is not simply granted: others wait, the counters are somebody else's, or there was a refusal."""
        value, claims, plain, doubts = ask
        place: Place | None = exchange.local.get(self)
        if place is not None and place.left:
            place = None
        line = self._lines.get(value)
        if said is None:
            if line is not None and not line.may_ask(place):
                figures = self.state.usage(plain[0][0])
                waits = Refusal(plain[0][0], 1.0, figures.used, figures.held)
                return self._held(exchange, attempt, waits, plain[0][1], value, place)
            if doubts and (doubtful := self._doubtful(claims, doubts)) is not None:
                return self._held(exchange, attempt, *doubtful, value, place)
            self._doubts.add(claims, doubts)
            try:
                said = await self._reserve(claims)
            finally:
                if type(said) is not Grant:
                    self._doubts.remove(claims, doubts)
        if isinstance(said, Refusal) and plain is not claims and not said.held:
            claims = plain  # nothing else is in flight: what is overspent is the error of this one estimate
            said = await self._reserve(claims)
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
            if figures.held and figures.remaining < self._doubts.of(limit.name) + amount + doubt:
                return Refusal(limit, 1.0, figures.used, figures.held), amount
        return None

    async def _reserve(self, claims: Claims) -> Grant | Refusal:
        at_once = self._reserve_now
        return at_once((claims,)) if at_once is not None else await self.state.reserve((claims,))

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
            return self._held(exchange, attempt, refusal, amount, value, place)
        self._leave(value, place)
        options: BudgetOptions = self.options
        if options.on_limit == "downgrade":
            if self._cheaper(exchange) == attempt.target:
                attempt.local[self] = Hold(None, claims)  # the last resort runs on; it is counted all the same
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
        hold: Grant | Hold | None = attempt.local.pop(self, None)
        if hold is None:
            return
        state, outcome, claims = self.state, attempt.outcome, hold.claims
        grant: Grant | None
        if type(hold) is Grant:
            grant = hold
        else:
            assert isinstance(hold, Hold)
            grant = hold.grant
            self._doubts.remove(claims, hold.doubts)
        bill = None if outcome == "vetoed" else self.books.tariff.charge(exchange, attempt)
        if bill is not None:
            usage = bill.usage
            used = self.budget.amounts(claims, (bill.cost, usage.input + usage.output, 1))
        elif outcome != "vetoed" and attempt.sent:
            used = self.budget.amounts(claims, _ONE_CALL)
        else:
            if grant is not None:
                state.free(grant)
            if self._lines:
                self._given_back(self._value(exchange, attempt))
            return
        if grant is not None:
            state.settle(grant, used)
        elif isinstance(hold, Hold):
            for (limit, _), amount in zip(claims, hold.uncounted(used), strict=True):
                state.book(limit, amount)
        if self._lines:
            self._given_back(self._value(exchange, attempt))
        if self._warns:
            self._look(claims, exchange, attempt)

    def on_usage(self, exchange: Exchange, attempt: Attempt) -> ProxyError | None:
        """A session may last for hours: what it has used counts at once, not at its end."""
        hold: Grant | Hold | None = attempt.local.get(self)
        bill = None if hold is None else self.books.tariff.charge(exchange, attempt)
        if hold is None or bill is None:
            return None
        state, claims, usage = self.state, hold.claims, bill.usage
        used = self.budget.amounts(claims, (bill.cost, usage.input + usage.output, 1))
        if isinstance(hold, Grant):
            hold = Hold(hold, claims)
        if hold.grant is not None:
            state.settle(hold.grant, used)
        else:
            for (limit, _), amount in zip(claims, hold.uncounted(used), strict=True):
                state.book(limit, amount)
        attempt.local[self] = Hold(None, claims, hold.doubts, used)
        if self._lines:
            self._given_back(self._value(exchange, attempt))
        if self._warns:
            self._look(claims, exchange, attempt)
        options: BudgetOptions = self.options
        if not options.stop_stream or self.observe or all(state.spent(limit) <= limit.limit for limit, _ in claims):
            return None
        text = f"Budget {self.budget.name}: its limit was reached in this session (stop_stream)."
        return ProxyError("insufficient_quota", text)

    def _look(self, claims: Claims, exchange: Exchange, attempt: Attempt) -> None:
        """Warn where a mark was passed."""
        for limit, _ in claims:
            spent = self.state.spent(limit)
            if spent >= limit.limit * self._lowest and spent >= self._next.get(limit.name, 0.0):
                self._warn(limit, spent, self._value(exchange, attempt))

    def _given_back(self, value: str) -> None:
        line = self._lines.get(value)
        if line is not None:
            line.wake()
            self._tidy(value)

    def on_done(self, exchange: Exchange) -> None:
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
        hold: Grant | Hold | None = attempt.local.get(self)
        if hold is None:
            return None
        return Meter(self, exchange, attempt, hold)
