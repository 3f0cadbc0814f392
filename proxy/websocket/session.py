"""A websocket from its 101 to its end, as the flow sees it: one call with one attempt, settled once it is over.

Policies see the head of the 101 (``on_response``) and what the session came to, never a message.
"""

from __future__ import annotations

import asyncio
import contextlib
from math import inf
from typing import TYPE_CHECKING, Final, cast

from proxy.errors import ProxyError
from proxy.exchange import Answer
from proxy.policy import called
from proxy.websocket.relay import Client, End, Relay
from proxy.websocket.usage import Tally

if TYPE_CHECKING:
    from proxy.connection import Connection
    from proxy.exchange import Attempt, AttemptOutcome, Exchange, FailureClass, Outcome
    from proxy.flow import Flow
    from proxy.upstream.transport import Switched

__all__ = ["converse"]

_TROUBLE: Final = frozenset({1011, 1013, 1014})
"""Close codes with which a server says that it failed."""


async def converse(flow: Flow, connection: Connection, answer: Answer) -> Answer | None:
    """Open the client's side and carry both until they part. An Answer: a policy refused the 101, it goes out instead.

    Raises CancelledError when the client leaves without a goodbye; the caller then ends the call as cancelled.
    """
    exchange, chain, snapshot = flow.exchange, flow.chain, flow.snapshot
    attempt = exchange.served_by
    assert chain is not None and attempt is not None
    socket = cast("Switched", answer.source)
    if chain.answers:
        up = chain.up(exchange, answer)
        head = up if isinstance(up, Answer) else await up
        if head.status != 101:
            socket.abort()
            await called(flow.end_attempt("stopped"))
            return head
    exchange.committed = True

    def said() -> None:
        error = chain.used(exchange, attempt)
        if error is not None and exchange.error is None:
            exchange.error = error
            relay.refuse(f"{error.code}: {error.message}")

    client = Client(connection)
    relay = Relay(
        client,
        socket,
        idle=snapshot.upstreams[attempt.upstream].timeouts.idle,
        until=min(exchange.deadline or inf, attempt.deadline or inf),
        reads=Tally(attempt, said).read if chain.needs_usage else None,
    )
    try:
        connection.switch(snapshot.answer_headers(exchange, answer), client, socket)
        relay.start()
        end = await _ended(relay)
        await _settle(flow, attempt, end)
        with contextlib.suppress(asyncio.CancelledError):  # all is settled: whoever has gone misses the last word only
            await relay.part()
    finally:
        relay.let_go()
        ended = relay.end or End("client_gone")
        by = "" if ended.first is None else f" by the {ended.first}"
        exchange.note(
            "websocket", f"{ended.why} {ended.code}{by}: {relay.up.messages} messages up, {relay.down.messages} down"
        )
    return None


async def _ended(relay: Relay) -> End:
    """The end. A client that said goodbye and hung up at once has not left its call."""
    try:
        return await relay.ended()
    except asyncio.CancelledError:
        end = relay.end
        task = asyncio.current_task()
        if end is None or end.why != "closed" or task is None:
            raise
        task.uncancel()
        return end


async def _settle(flow: Flow, attempt: Attempt, end: End) -> None:
    """What the end means for the attempt and the call."""
    exchange = flow.exchange
    exchange.outcome = _outcome(exchange, attempt, end)
    troubled = end.why == "closed" and exchange.outcome == "failed"
    await called(flow.end_attempt("failed" if troubled else _OF_ATTEMPT[end.why]))
    flow.measure()
    await called(flow.settle())


def _outcome(exchange: Exchange, attempt: Attempt, end: End) -> Outcome:
    failure, error = _FAILURES.get(end.why, (None, None))
    attempt.failure = failure
    if error is not None:
        exchange.error = ProxyError(*error)
    if end.why == "closed":
        if end.first == "upstream" and end.code in _TROUBLE:
            attempt.failure = "server_error"
            return "failed"
        return "answered"
    if end.why in ("client_wrong", "refused"):
        return "refused"
    return "truncated" if end.why == "upstream_broke" else "failed"


# Silence and a session's own time limit say nothing about the upstream: they do not count against it.
_OF_ATTEMPT: Final[dict[str, AttemptOutcome]] = {
    "closed": "answered",
    "upstream_broke": "truncated",
    "upstream_wrong": "failed",
    "client_wrong": "stopped",
    "client_gone": "cancelled",
    "idle": "stopped",
    "deadline": "stopped",
    "refused": "stopped",
    "away": "cancelled",
}
_FAILURES: Final[dict[str, tuple[FailureClass | None, tuple[str, str] | None]]] = {
    "upstream_broke": ("truncated", ("upstream_invalid_response", "The upstream broke off the websocket.")),
    "upstream_wrong": ("invalid_response", ("upstream_invalid_response", "The upstream sent no websocket frames.")),
    "client_wrong": (None, ("invalid_request", "The client sent bytes that are no websocket frame.")),
    "idle": (None, ("upstream_timeout", "Nothing was said on the websocket for too long.")),
    "deadline": (None, ("upstream_timeout", "The websocket was open for as long as the upstream's total allows.")),
}
