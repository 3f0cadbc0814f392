"""``account``: who spent what. The outermost policy: it sees every answer, refusal and hit, and writes one row a call.

The begin of a call goes to the journal right before its first request is sent (``exchange.before_send``, also from
within a flight), the end before its last piece leaves (``on_settle``, which every call reaches). So an answer whose
last byte a client received is in the journal, and the ledger gets it from there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from proxy.accounting.money import usd_bytes
from proxy.accounting.ticket import TICKET, Desk, Ticket
from proxy.config.units import Duration
from proxy.errors import ProxyError
from proxy.policy import Policy, PolicyOptions

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from proxy.accounting.books import Books
    from proxy.exchange import Answer, Exchange
    from proxy.services import Services

__all__ = ["Account", "AccountOptions"]

_DAY = 86_400.0


class AccountOptions(PolicyOptions):
    """Options of `account`."""

    fsync: bool = Field(default=False, description="Wait for the disk with each record: survives a power cut, too.")
    on_full: Literal["continue", "refuse"] = Field(
        default="continue", description="What happens to calls while the journal's disk has no room."
    )
    keep_calls: Duration = Field(default=90 * _DAY, description="How long single calls are kept in the ledger.")
    keep_hours: Duration = Field(default=400 * _DAY, description="How long sums by hour are kept; by day, always.")


class Account(Policy):
    """Writes every call's usage and cost to the ledger."""

    name = "account"
    Options = AccountOptions
    observable = False
    needs_usage = True
    reads_answer: ClassVar[bool] = False

    def __init__(
        self, options: AccountOptions, services: Services, *, label: str | None = None, observe: bool = False
    ) -> None:
        super().__init__(options, services, label=label, observe=observe)
        self.books: Books = services.get("accounting")
        self._clock = services.clock
        self._desk: Desk | None = None

    async def start(self) -> None:
        options: AccountOptions = self.options
        await self.books.start(
            fsync=options.fsync,
            on_full=options.on_full,
            retention={"calls": options.keep_calls, "hours": options.keep_hours, "parts": options.keep_hours},
        )
        if self.books.store is not None:
            self._desk = Desk(self.books.store, self.books.tariff, self._clock)

    async def stop(self) -> None:
        self._desk = None
        await self.books.stop()

    def on_request(self, exchange: Exchange) -> Awaitable[Answer | None] | None:
        desk = self._desk
        if desk is None:
            return None
        if desk.journal.refusing:
            raise ProxyError(
                "overloaded",
                "The accounting journal has no room to write and calls are refused until it has (account.on_full).",
                retry_after=5,
            )
        ticket = exchange.local[TICKET] = desk.ticket()
        exchange.before_send = ticket.begin
        books = self.books
        return None if books.prices.ready else books.warmed()

    def on_response(self, exchange: Exchange, answer: Answer) -> None:
        ticket: Ticket | None = exchange.local.get(TICKET)
        if ticket is None or not 200 <= answer.status < 400 or answer.origin in ("policy", "sidecar"):
            return
        cost = ticket.cost(exchange)
        if cost is not None:
            exchange.cost_nanos = cost
            exchange.added_headers.append((b"x-sidecar-cost-usd", usd_bytes(cost)))

    def on_settle(self, exchange: Exchange) -> Awaitable[None] | None:
        ticket: Ticket | None = exchange.local.get(TICKET)
        exchange.before_send = None
        if ticket is None or not ticket.end(exchange) or ticket.desk.journal.direct:
            return None
        return self._written(ticket)

    @staticmethod
    async def _written(ticket: Ticket) -> None:
        await ticket.desk.journal.flushed()
