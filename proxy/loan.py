"""Which exchange a flight works with: its caller's own, lent for as long as both go the same way, or one like it.

A flight aboard a call works with that call's own exchange, on loan. Where a stream comes unasked, the work goes on in a
task of its own; should the caller leave then, the flight keeps what it was lent, since attempts and policies in the
middle of their work hold it, and the caller ends as a copy made at that moment (``part``). What policies above the
split keep for it goes with the caller: nothing of it stays in what others share.

A flight has an exchange of its own from the start (``fork``) when it is not the caller's only work or not only the
caller's: a revalidation, another body than the caller's, policies below that edit the body, and a stream, on which
policies above the split are at work at the same time.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from proxy.exchange import Exchange, Request

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable

    from proxy.document import Document

__all__ = ["Rider", "fork", "part", "riders_of"]


@runtime_checkable
class Rider(Protocol):
    """What goes along with a flight for a policy above the split."""

    def landed(self, exchange: Exchange) -> None:
        """The flight is over; ``exchange`` is the flight's own."""


def riders_of(exchange: Exchange, above: int | None = None) -> list[Rider]:
    """What policies above a split left for the flight. above: how much of ``local`` is theirs, None for all."""
    return [value for value in islice(exchange.local.values(), above) if hasattr(value, "landed")]


def part(mine: Exchange, above: Iterable[Hashable]) -> Exchange:
    """The caller who lent ``mine`` leaves: as the copy that is returned. above: what of ``local`` is its own."""
    caller = Exchange.__new__(Exchange)
    caller.__dict__.update(mine.__dict__)
    caller.attempts = list(mine.attempts)
    local = mine.local
    caller.local = {key: local[key] for key in above if key in local}
    for key, value in caller.local.items():
        if not hasattr(value, "landed"):
            del local[key]
    mine.added_headers, mine.notes = [], []
    mine.held_bytes = 0
    mine.outcome = mine.answer = mine.findings = None
    return caller


def fork(starter: Exchange, body: Document | None, *, alone: bool) -> Exchange:
    """An exchange that looks like the caller's at the split, without what policies above keep for it.

    body: in place of the caller's. alone: somebody edits the body, so that the caller's own must not be lent.
    """
    mine = starter.request
    request = Request.__new__(Request)
    request.__dict__.update(mine.__dict__)
    document = mine.body
    if body is not None:
        request.body, request.raw_body = body, None
    elif document is not None:
        if document.edited:
            request.raw_body = None
        if alone:
            request.body = document.fork()
    if mine.edits is not None:
        request.edits = dict(mine.edits)
    other = Exchange(starter.id, request, starter.started_at, starter.started_wall)
    other.dialect = starter.dialect
    other.route_name = starter.route_name
    other.chain_name = starter.chain_name
    other.principal = starter.principal
    other.project = starter.project
    if starter.tags:
        other.tags = dict(starter.tags)
    other.priority = starter.priority
    other.target = starter.target
    other.deadline = starter.deadline
    other.estimated_input = starter.estimated_input if body is None else None
    other.timings = starter.timings
    other.before_send = starter.before_send
    other._model, other._streaming = starter._model, starter._streaming
    for key, value in starter.local.items():
        if hasattr(value, "landed"):
            other.local[key] = value
    return other
