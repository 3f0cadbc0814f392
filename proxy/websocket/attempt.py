"""One attempt to open a websocket: our handshake, and what the answer comes to.

A refusal (401, 429, 5xx, anything but 101) is judged as any answer is, so another key, `retry` and `fallback` help as
ever, and its status and body reach the client unchanged when nobody does.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any, cast

from proxy.errors import ProxyError
from proxy.exchange import Answer
from proxy.policy import Verdict
from proxy.upstream.fields import answer_headers
from proxy.upstream.judge import Tried, broken_off, read_error, read_success, unanswered
from proxy.upstream.render import render
from proxy.upstream.transport import TransportError
from proxy.websocket import handshake

if TYPE_CHECKING:
    from proxy.exchange import Attempt, Exchange
    from proxy.upstream.endpoint import Upstream
    from proxy.upstream.judge import Reader
    from proxy.upstream.transport import Incoming, Outgoing, Switched

__all__ = ["try_upgrade"]


async def try_upgrade(exchange: Exchange, attempt: Attempt, upstream: Upstream, reader: Reader) -> Tried:
    """Ask for a websocket once. Returns when the answer's head is here; never raises but on cancel."""
    key = handshake.new_key()
    outgoing = _outgoing(exchange, attempt, upstream, reader, key)
    if exchange.before_send is not None:
        exchange.before_send(exchange, attempt)
    attempt.sent = True
    upstream.requests += 1
    deadline = min(attempt.deadline or inf, exchange.deadline or inf)
    try:
        incoming, switched = await upstream.pool.switch(outgoing, None, deadline)
    except TransportError as error:
        return unanswered(attempt, error)
    attempt.status = incoming.status
    attempt.first_byte_at = incoming.first_byte_at
    attempt.response_headers = incoming.headers
    if switched is not None:
        return _opened(exchange, incoming, switched, key)
    try:
        if incoming.status >= 400:
            return await read_error(exchange, attempt, incoming, reader)
        return await read_success(exchange, attempt, incoming, reader, *answer_headers(incoming.headers))
    except TransportError as error:
        return broken_off(attempt, incoming, error)
    except BaseException:
        incoming.abort()
        raise


def _outgoing(exchange: Exchange, attempt: Attempt, upstream: Upstream, reader: Reader, key: bytes) -> Outgoing:
    request = exchange.request
    upgrade = request.upgrade
    assert upgrade is not None
    outgoing = render(
        exchange,
        attempt,
        upstream,
        credentials=reader.passes_credentials(upstream, exchange.principal.method),
        readable=reader.asks,
        ask_usage=False,
    )
    outgoing.headers = handshake.request_headers(upgrade, list(outgoing.headers), key)
    model = attempt.target.model
    if model is not None:
        query = handshake.with_model(request.query, model, add=handshake.names_model(request.path))
        outgoing.target = upstream.target(request.raw_path, query)
    return outgoing


def _opened(exchange: Exchange, incoming: Incoming, switched: Switched, key: bytes) -> Tried:
    """101: a websocket, if it answers our handshake."""
    upgrade = exchange.request.upgrade
    assert upgrade is not None
    wrong = handshake.wrong_answer(upgrade, incoming.headers, key)
    if wrong is not None:
        switched.abort()
        error = ProxyError("upstream_invalid_response", f"The upstream's websocket handshake is invalid: {wrong}.")
        return Tried(Verdict("invalid_response", incoming.status, error=error))
    headers = handshake.answer_head(upgrade, answer_headers(incoming.headers)[0])
    answer = Answer(101, headers, origin="upstream", source=switched)
    return Tried(Verdict(None, 101), answer, incoming=cast(Any, switched))
