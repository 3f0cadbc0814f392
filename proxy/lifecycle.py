"""THE FLOW: the way of one request, from its head to its last byte.

    client -> 1 listen -> 2 read -> 3 match -> 4 request policies -> 5 attempt: key, breaker, send, judge --+-> upstream
    client <- 8 listen <- 7 settle <- 6 answer / stream policies (reverse order) <------ answer or retry ---+

``serve`` is this picture; nothing else knows the order. Whatever is answered (the upstream's answer
or error, our own error, a refusal, a cache hit) is an ``Answer`` and goes up through exactly those
policies that were entered above the place where it arose. Every call ends in ``_close``, also when
its client leaves at any moment: attempts end, then policies settle, then they are done, once each.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from functools import partial
from typing import TYPE_CHECKING, Final

from proxy.chain import Chain, refuse
from proxy.errors import ProxyError
from proxy.exchange import Answer
from proxy.flow import Flow, outcome_of
from proxy.form import Form, boundary_of
from proxy.lockstep import NEXT_TURN
from proxy.policy import called, whatever
from proxy.stream.plain import PlainSink

if TYPE_CHECKING:
    from proxy.connection import Connection
    from proxy.head import Head, Payload
    from proxy.snapshot import Snapshot
    from proxy.stream.sse import Event

log = logging.getLogger("llm_sidecar.flow")

__all__ = ["serve"]

_AFTER_FINAL: Final = 1.0
"""Seconds that an upstream has to end its stream after its final event, so that the connection can be kept."""


async def serve(snapshot: Snapshot, connection: Connection, head: Head, payload: Payload) -> None:
    """One call, from its parsed head to its last byte. Raises only ConnectionError and CancelledError."""
    exchange = snapshot.begin(connection, head)
    connection.call = flow = Flow(snapshot, exchange)
    try:
        try:
            found = snapshot.admit(exchange, payload)
            if found is None:
                found = await _match_and_read(flow, connection, payload)
            answer = await flow.down(found) if isinstance(found, Chain) else found
        except ProxyError as error:
            answer = refuse(exchange, error)
        except asyncio.CancelledError as cancelled:
            cut = connection.last_word(cancelled)
            await whatever(flow.end_attempt("cancelled"))
            exchange = flow.exchange  # what it had lent stays with the flight
            answer = refuse(exchange, cut)
        if answer.source is not None:
            await _send_stream(flow, connection, answer)
        else:
            if flow.quiet:
                # No policy has a say any more: the rest of the call needs no turn of the loop.
                flow.end_alone("answered" if answer.status < 400 else "failed")
                _put(flow, connection, answer)
                flow.over = True
                return
            if flow.chain is not None:
                if flow.before_up:
                    await NEXT_TURN
                said = flow.up_whole(answer)
                answer = said if isinstance(said, Answer) else await said
            exchange.answer = answer
            exchange.outcome = outcome_of(answer)
            if flow.before_settling:
                await NEXT_TURN
            wait = flow.settle()
            if wait is not None:
                await wait
            _put(flow, connection, answer)
    except (asyncio.CancelledError, ConnectionError):
        flow.exchange.outcome = "cancelled"
        raise
    except Exception as error:  # the last resort: a bug of ours must not leave the client without an answer
        log.exception("internal error", extra={"request_id": exchange.id})
        exchange.outcome = "failed"
        if connection.begun:
            connection.break_off()
        else:
            failed = refuse(exchange, ProxyError("internal_error", f"The proxy failed ({type(error).__name__})."))
            connection.send(failed.status, snapshot.answer_headers(exchange, failed), failed.raw)
    finally:
        if flow.over:
            exchange.ended_at = flow.snapshot.now()
            snapshot.finish(exchange)
        else:
            wait = _close(flow)
            if wait is not None:
                await wait


async def _match_and_read(flow: Flow, connection: Connection, payload: Payload) -> Chain | Answer:
    """2 and 3, where something has to be waited for: the body is read before the match only when a route asks for
    the model. An Answer: a preflight."""
    snapshot, exchange = flow.snapshot, flow.exchange
    head = exchange.request.head
    if head is not None and head.upgrade:
        from proxy.websocket import handshake  # noqa: PLC0415 - only for websockets

        if handshake.asked(head):
            handshake.prepare(exchange)
    if snapshot.routes_read_body:
        chain = await snapshot.match_reading(exchange, lambda: _read(flow, connection, payload))
    else:
        chain = snapshot.match(exchange)
    preflight = snapshot.check_origin(exchange, chain)
    if preflight is not None:
        return preflight
    if exchange.request.body is None and exchange.request.stream is None:
        await _read(flow, connection, payload)
    snapshot.settle_target(exchange)
    return chain if exchange.request.upgrade is None else snapshot.for_upgrade(exchange, chain)


async def _read(flow: Flow, connection: Connection, payload: Payload) -> None:
    """2: a JSON body is read whole, anything else is left to stream, a form but for what stands before its files."""
    snapshot, exchange = flow.snapshot, flow.exchange
    request = exchange.request
    if request.body is not None or request.raw_body is not None or request.stream is not None:
        return
    if snapshot.holds_body(exchange, payload):
        limit = snapshot.config.server.max_body
        length = request.content_length
        if length is not None and length > limit:
            connection.close_after_answer()
            raise ProxyError("request_too_large", f"The body has {length} bytes; at most {limit} are accepted.")
        snapshot.reserve_memory(exchange, length or 0)
        grow = partial(snapshot.reserve_memory, exchange) if length is None else None
        snapshot.take_body(exchange, await connection.read_body(payload, limit, grow))
    elif request.content_length != 0 and payload is not snapshot.no_body:
        limit_upload = snapshot.config.server.max_upload
        if limit_upload is not None and (request.content_length or 0) > limit_upload:
            connection.close_after_answer()
            raise ProxyError("request_too_large", f"The body is larger than {limit_upload} bytes.")
        request.stream = connection.stream_body(payload, limit_upload)
        boundary = boundary_of(request.headers.get("content-type"))
        if boundary is not None and request.headers.get("content-encoding") is None:
            request.stream = request.form = form = Form(request.stream, boundary)
            if exchange.request.head is None or not exchange.request.head.expects:  # it waits to be told to send it
                await form.begin()


async def _send_whole(flow: Flow, connection: Connection, answer: Answer) -> None:
    """7 and 8 for a whole answer: settled, then sent in one write."""
    flow.exchange.answer = answer
    flow.exchange.outcome = outcome_of(answer)
    await called(flow.settle())
    _put(flow, connection, answer)


def _put(flow: Flow, connection: Connection, answer: Answer) -> None:
    """8 for a whole answer."""
    exchange = flow.exchange
    exchange.answer = answer
    exchange.outcome = outcome_of(answer)
    exchange.committed = True
    body = answer.body.encode() if answer.body is not None else answer.raw
    headers = flow.snapshot.answer_headers(exchange, answer)
    if exchange.request.method == "HEAD" or answer.status in (204, 304) or answer.status < 200:
        connection.send(answer.status, headers, None, length=answer.content_length)
    else:
        connection.send(answer.status, headers, body or b"")


async def _send_stream(flow: Flow, connection: Connection, answer: Answer) -> None:
    """6, 7 and 8 for a streamed answer: the head, then events as they come, the last piece after settling."""
    exchange, chain, snapshot = flow.exchange, flow.chain, flow.snapshot
    assert chain is not None and answer.source is not None
    exchange.answer = answer
    if answer.status == 101:
        from proxy.websocket.session import converse  # noqa: PLC0415 - only for websockets

        refusal = await converse(flow, connection, answer)
        if refusal is not None:
            await _send_whole(flow, connection, refusal)
        return
    pipe = flow.pipe
    if pipe is None and answer.events and (chain.opens_streams or chain.settles):
        # A source of events that has no pipe yet: a subscription to a flight, a replayed hit.
        pipe = flow.pipe = snapshot.pipe_for(exchange, answer)
        answer.source.start(pipe)
    try:
        stages = chain.open_stages(exchange, answer)
    except ProxyError as refused:
        if pipe is not None:
            pipe.cancel()
        else:
            answer.source.abort()
        await called(flow.end_attempt("stopped"))
        await _send_whole(flow, connection, refuse(exchange, refused))
        return
    exchange.committed = True
    headers = snapshot.answer_headers(exchange, answer)
    if pipe is None:
        await _send_plain(flow, connection, answer, headers)
        return
    connection.open(answer.status, headers, pipe)
    pipe.attach(stages, connection)
    try:
        end = await pipe.wait_end()
    except asyncio.CancelledError as cancelled:
        end = pipe.cut(connection.last_word(cancelled))
    error = await flow.end_stream(end)
    await called(flow.settle())
    pipe.release()
    if end.reason == "finished":
        try:
            async with asyncio.timeout(_AFTER_FINAL):
                await pipe.wait_finished()
        except (TimeoutError, asyncio.CancelledError) as over:
            if isinstance(over, asyncio.CancelledError):
                connection.last_word(over)  # the client has it all but the end
            answer.source.abort()  # it said everything and will not hang up
        connection.end()
        return
    event = None
    if error is not None and pipe.error_event is None:
        assert exchange.dialect is not None
        event = exchange.dialect.error_event(error, pipe.last)
        if event is not None:
            connection.write(event.encode())
    if event is not None or pipe.error_event is not None:
        connection.end()
    else:
        connection.break_off()


async def _send_plain(flow: Flow, connection: Connection, answer: Answer, headers: list[tuple[bytes, bytes]]) -> None:
    """Bytes that nobody reads: moved as they come; only the last piece waits for the call to be settled."""
    exchange, chain = flow.exchange, flow.chain
    assert answer.source is not None and chain is not None
    if exchange.request.method == "HEAD" or answer.status in (204, 304):
        answer.source.abort()
        await _send_whole(flow, connection, answer)
        return
    connection.open(answer.status, headers, answer.source, length=answer.content_length)
    attempt = flow.attempt if chain.needs_usage else None  # a flight counts for its own
    sink = PlainSink(connection, hold_last=chain.settles, length=answer.content_length, attempt=attempt)
    answer.source.start(sink)
    try:
        failure = await sink.ended()
    except asyncio.CancelledError as cancelled:
        failure = connection.last_word(cancelled)
        answer.source.abort()
    await flow.end_plain(answer, failure)
    if failure is None:
        sink.release()
        connection.end()
        return
    event = _last_word(flow, answer, sink.last)
    if event is None:
        connection.break_off()
    else:
        connection.write(event.encode())
        connection.end()


def _last_word(flow: Flow, answer: Answer, last: bytes) -> Event | None:
    """The error event that can end an unread stream of events: only where the last event came whole."""
    exchange = flow.exchange
    kind = answer.header(b"content-type") or b""
    if not kind.lower().startswith(b"text/event-stream") or answer.header(b"content-encoding") is not None:
        return None
    if (last and not last.endswith((b"\n\n", b"\r\n\r\n", b"\r\r"))) or exchange.dialect is None:
        return None
    error = exchange.error or ProxyError("upstream_invalid_response", "The upstream broke off its stream.")
    return exchange.dialect.error_event(error, last)


def _close(flow: Flow) -> Awaitable[None] | None:
    """7, on every way out: nothing of the call may be left. None: nothing has to be waited for."""
    chain = flow.chain
    if flow.carries is not None:
        flow.carries.lose()
    if flow.exchange.outcome == "cancelled":
        _give_up(flow)
    exchange = flow.exchange  # a copy, if a flight goes on with what it was lent
    exchange.ended_at = flow.snapshot.now()
    if chain is None:
        flow.snapshot.finish(exchange)
        return None
    if flow.settled and (flow.attempt is None or flow.attempt.ended):
        # The usual end: whatever was measured is settled.
        wait = chain.done(exchange) if chain.finishes else None
        if wait is None:
            flow.snapshot.finish(exchange)
            return None
        return _finish(flow, wait)
    return _end(flow, chain)


def _give_up(flow: Flow) -> None:
    """The client has left: what still comes from the upstream is not wanted."""
    answer = flow.exchange.answer
    if flow.pipe is not None:
        flow.pipe.cancel()
    elif answer is not None and answer.source is not None:
        answer.source.abort()
    elif flow.answer is not None and flow.answer.source is not None:
        flow.answer.source.abort()


async def _end(flow: Flow, chain: Chain) -> None:
    exchange = flow.exchange
    cut: asyncio.CancelledError | None = None  # a second time: the end of a drain
    try:
        if flow.attempt is not None and not flow.attempt.ended:
            cut = await whatever(flow.end_attempt("cancelled"))
        if not flow.settled:
            flow.measure()
            cut = await whatever(flow.settle()) or cut
        if chain.finishes:
            cut = await whatever(chain.done(exchange)) or cut
    finally:
        flow.snapshot.finish(exchange)
    if cut is not None:
        raise cut


async def _finish(flow: Flow, wait: Awaitable[None]) -> None:
    try:
        await wait
    finally:
        flow.snapshot.finish(flow.exchange)
