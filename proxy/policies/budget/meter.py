"""``stop_stream``: a running stream is cut when it reaches the limit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from proxy.accounting.budgets import Amounts
from proxy.accounting.usage import estimate_tokens_from_size
from proxy.errors import ProxyError
from proxy.policy import Stage, Stop
from proxy.state.limits import Grant

if TYPE_CHECKING:
    from proxy.exchange import Attempt, EndReason, Exchange
    from proxy.policies.budget.hold import Hold
    from proxy.policies.budget.policy import Budget
    from proxy.stream.sse import Event

__all__ = ["Meter"]


class Meter(Stage):
    """Cuts a stream whose cost runs over its reservation and the limit. Looks at the limit once every 16 events, and
    not before the answer has left what was reserved for it.
    """

    def __init__(self, policy: Budget, exchange: Exchange, attempt: Attempt, hold: Grant | Hold) -> None:
        assert exchange.dialect is not None
        self._policy = policy
        self._dialect = exchange.dialect
        self._ending = exchange.dialect.ending()
        self._hold = hold
        bill = policy.books.tariff.bill(exchange, attempt)
        self._price = bill.price
        self._asked = exchange.input_estimate()
        self._reserved = isinstance(hold, Grant) or hold.grant is not None
        #: Output tokens that are reserved: up to them no counter has to be asked.
        self._covered = bill.bound if self._reserved and bill.asked else 0
        self._chars = 0
        self._counted = 0  # by the provider, where it counts as it goes
        self._events = 0

    def feed(self, event: Event) -> Sequence[Event] | Stop:
        reading = event.reading or self._dialect.read(event)
        self._ending.see(event)
        if reading.usage is not None:
            self._counted = max(self._counted, reading.usage.output)
        pieces = reading.pieces
        if not pieces:
            return (event,)
        for piece in pieces:
            if not piece.whole:
                self._chars += len(piece.holder[piece.key])
        events = self._events = self._events + 1
        return (event,) if events & 15 else self._look(event)

    def end(self, reason: EndReason) -> Sequence[Event]:
        return ()

    def _look(self, event: Event) -> Sequence[Event] | Stop:
        # Providers send about a token an event.
        tokens = max(self._events, self._counted, estimate_tokens_from_size(self._chars))
        if tokens <= self._covered:
            return (event,)
        used = Amounts(self._price.worst_case(self._asked, tokens), self._asked + tokens)
        claims = self._hold.claims
        for (limit, amount), spent in zip(claims, self._policy.budget.amounts(claims, used), strict=True):
            over = spent - (amount if self._reserved else 0)
            if over > 0 and over > self._policy.state.usage(limit).remaining:
                return self._stop(event, tokens)
        return (event,)

    def _stop(self, event: Event, tokens: int) -> Stop:
        name = self._policy.budget.name
        error = ProxyError(
            "insufficient_quota",
            f"Budget {name}: its limit was reached while this answer was streamed (stop_stream).",
            policy=self._policy.label,
        )
        return Stop(error, (event, *self._ending.events(event, "length", tokens)))
