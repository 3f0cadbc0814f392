"""What an attempt may come to, before it is sent: three integers, worked out for every call."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from proxy.accounting.charge import uploaded
from proxy.dialects.paid import works

if TYPE_CHECKING:
    from proxy.accounting.charge import Bill
    from proxy.exchange import Exchange

__all__ = ["ONE_CALL", "Figures", "by_estimate", "doubted", "expected"]

Figures: TypeAlias = tuple[int, int, int]
"""Nano-dollars, tokens, calls: ``Amounts`` without the names, which cost an object a call."""

ONE_CALL: Figures = (0, 0, 1)
"""Also what was sent and cost nothing, because the provider refused it."""


def expected(exchange: Exchange, bill: Bill, assumed: int) -> Figures:
    """What the attempt will come to at most, by its estimate and by what was learned of such estimates. The estimate
    itself stays on the bill, and so does what is doubted of it. ``assumed``: output tokens where the client sets no
    limit.
    """
    request = exchange.request
    if request.upgrade is None and not works(request.method, request.path):
        bill.asked = bill.bound = bill.most = 0
        return ONE_CALL
    asked = exchange.input_estimate()
    bound = longest = assumed
    pieces = 0
    gauge, body, dialect = bill.gauge, request.body, exchange.dialect
    limits = body.bound(dialect) if body is not None and dialect is not None else uploaded(exchange)
    if limits is not None:
        tokens, choices = limits.tokens, limits.choices
        if tokens is None:
            bill.limited = choices != 1
            free = gauge.longest.value  # what answers without a limit came to
            longest = int(free) if free > bound else bound
        else:
            bound = longest = tokens
        if choices > 1:
            bound, longest = bound * choices, longest * choices
        if limits.pictures:
            pieces = bill.price.pieces(limits.pictures, limits.speech)
    bill.asked, bill.bound = asked, bound
    worst_case = bill.price.worst_case
    most = bill.most = worst_case(asked, bound) + pieces
    if longest == bound and asked.bit_length() in gauge.fair:
        bill.fair, bill.doubt = True, 0
        return most, asked + bound, 1
    likely, bill.doubt = gauge.expect(asked)
    return worst_case(likely, longest) + pieces, likely + longest, 1


def by_estimate(bill: Bill) -> Figures:
    """The same by the estimate alone."""
    return bill.most, bill.asked + bill.bound, 1


def doubted(bill: Bill) -> Figures:
    """What the attempt may come to on top of its estimate, as long as nothing was learned of such."""
    worst_case = bill.price.worst_case
    return worst_case(bill.asked + bill.doubt, bill.bound) - worst_case(bill.asked, bill.bound), bill.doubt, 0
