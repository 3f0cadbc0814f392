"""One client connection: its calls one after another, and the bytes of each answer.

aiohttp's C parser reads the requests. What stands here replaces the loop that answers: one task a connection instead
of one a call, no request and response objects, and answers written as bytes. Events of a stream go from the upstream's
``data_received`` straight into this transport; when the client does not drink, the source is paused.

The loop uses four attributes of aiohttp's ``RequestHandler`` that are not documented (``_messages``, ``_waiter``,
``_parser``, ``_close``); ``tests/test_listener.py`` drives each over a real socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, Protocol

from aiohttp.http_exceptions import LineTooLong
from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.web_protocol import RequestHandler, _ErrInfo

from proxy.errors import ProxyError
from proxy.head import Head, Payload, Repeat, Whole, learn

if TYPE_CHECKING:
    from proxy.listener import Listener

log = logging.getLogger("llm_sidecar.listener")

_STATUS: Final[dict[int, bytes]] = {s.value: f"HTTP/1.1 {s.value} {s.phrase}".encode() for s in HTTPStatus}
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_LEARNINGS: Final = 4
"""A client whose heads differ from call to call is not worth remembering."""
_LINGER: Final = 1.0
"""Seconds for which the rest of a refused upload is read away, so that the client sees the answer."""
_LINGER_BYTES: Final = 4 * 1024 * 1024


class Pausable(Protocol):
    """What feeds a stream: it can be told to wait."""

    def pause(self) -> None:
        """Push nothing."""

    def resume(self) -> None:
        """Go on."""


class Leavable(Protocol):
    """A call that is told when its client has left."""

    def left(self, task: asyncio.Task[Any]) -> bool:
        """Whether its task goes on nevertheless; else it is cancelled."""


class Connection(RequestHandler):
    """One client connection: the calls on it one after another, and the bytes of each answer.

    A call answers with either ``send`` (whole) or ``open`` + ``write``... + ``end`` / ``break_off``.
    """

    __slots__ = (
        "_begun", "_chunked", "_continue_due", "_cut", "_due", "_head_timer", "_keep", "_learnings", "_listener",
        "_repeat", "_source", "_started", "_turn", "_unsent", "_write_timer", "_writing_held", "call", "http10", "peer",
        "secure",
    )  # fmt: skip

    def __init__(self, listener: Listener, loop: asyncio.AbstractEventLoop, **options: Any) -> None:
        super().__init__(listener.server, loop=loop, **options)
        self._listener = listener
        self._source: Pausable | None = None
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._writing_held = False
        self._started = False
        self._turn: asyncio.Future[None] | None = None
        self._begun = False
        self._chunked = False
        self._keep = True
        self._continue_due = False
        self._repeat: Repeat | None = None
        self._learnings = 0
        self.call: Leavable | None = None
        self._due = False
        self._cut = False
        self._unsent = b""
        self.http10 = False
        self.peer = ""
        self.secure = False

    # --- asyncio.Protocol ------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        peer = transport.get_extra_info("peername")
        self.peer = peer[0] if isinstance(peer, tuple) and peer else ""
        self.secure = transport.get_extra_info("sslcontext") is not None
        listener = self._listener
        listener.connections.add(self)
        if len(listener.connections) > listener.config.max_connections:
            # Over the limit: the client is connected and waits, unread but for one read, until another one leaves.
            self._turn = self._loop.create_future()
            listener.waiting.append(self)
        super().connection_made(transport)
        if self._turn is not None and self.transport is not None:
            self.transport.pause_reading()

    def connection_lost(self, exc: BaseException | None) -> None:
        listener = self._listener
        listener.connections.discard(self)
        if listener.left is not None and not listener.connections:
            listener.left.set()
        if listener.waiting:
            if self._turn is not None and self in listener.waiting:
                listener.waiting.remove(self)
            elif len(listener.connections) - len(listener.waiting) < listener.config.max_connections:
                listener.waiting.popleft().take_turn()
        self._cancel_timers()
        self._source = None
        self._unsent = b""
        task = self._task_handler
        if task is not None and self.call is not None and self.call.left(task):
            self._task_handler = None  # not to be cancelled: others wait for what it does
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        waiter = self._waiter
        if waiter is None or waiter.done() or self._head_timer is not None or self._close or self._force_close:
            super().data_received(data)  # in the middle of a call, or of a head
            if not self._started and self._head_timer is None and not self._messages:
                # The beginning of a head came with the connection, before its task ran.
                self._head_timer = self._loop.call_later(self._listener.config.header_timeout, self._head_too_slow)
            return
        # The parser stands between two requests.
        repeat = self._repeat
        if repeat is not None:
            body = repeat.body(data)
            if body is not None:
                self._messages.append((repeat.head, Whole(body)))  # type: ignore[arg-type]
                self._due = True
                self._listener.due += 1
                waiter.set_result(None)
                return
        super().data_received(data)
        if waiter.done():
            if self._learnings < _LEARNINGS and len(self._messages) == 1:
                self._learn(data)
        elif self._head_timer is None:
            # Bytes came and no head is complete: the client has so long to finish it.
            self._head_timer = self._loop.call_later(self._listener.config.header_timeout, self._head_too_slow)

    def _learn(self, data: bytes) -> None:
        message, payload = self._messages[0]
        if isinstance(message, _ErrInfo):
            return
        self._learnings += 1
        head = Head(message)
        self._repeat = learn(data, message, head)
        self._messages[0] = (head, payload)  # type: ignore[assignment]

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._source is not None:
            self._writing_held = True
            self._source.pause()
        self._write_timer = self._loop.call_later(self._listener.config.write_timeout, self._not_drinking)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None
        if self._writing_held and self._source is not None:
            self._writing_held = False
            self._source.resume()

    # --- the calls of a connection -----------------------------------------------------------------

    def take_turn(self) -> None:
        """Another connection has left: this one may begin."""
        turn, self._turn = self._turn, None
        if turn is not None and not turn.done():
            turn.set_result(None)
        if self.transport is not None:
            self.transport.resume_reading()

    async def start(self) -> None:
        """Answer the calls of this connection until it closes."""
        listener = self._listener
        loop = self._loop
        if self._turn is not None:
            await self._turn
        self._started = True
        while not self._force_close:
            if not self._messages:
                if self._close or listener.draining:
                    break
                self._waiter = waiter = loop.create_future()
                try:
                    await waiter
                finally:
                    self._waiter = None
                    if self._due:
                        self._due = False
                        listener.due -= 1
            if self._unsent:
                self.flush()
            message: Any
            payload: Payload
            message, payload = self._messages.popleft()
            if self._parser is not None:
                self._parser.message_consumed()
            if self._buffer_paused and len(self._messages) <= self._msg_queue_resume_size:
                self._resume_reading_if_drained()
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None
            self._begun = False
            self._source = None
            if type(message) is Head:
                head = message
            elif isinstance(message, _ErrInfo):
                self._keep = False
                self.http10 = False
                self.refuse(_bad_head(message))
                break
            else:
                head = Head(message)
            if head.size > listener.config.max_header:
                self._keep = False
                self.http10 = head.http10
                self.refuse(_head_too_large())
                break
            self.http10 = head.http10
            self._keep = head.keep
            self._continue_due = head.expects and payload is not EMPTY_PAYLOAD
            listener.calls += 1
            try:
                await listener.serve(self, head, payload)
            except ConnectionError:
                break
            finally:
                listener.calls -= 1
                if listener.idle is not None and listener.calls == 0:
                    listener.idle.set()
                self._source = self.call = None
            if not payload.is_eof() and not await self._read_away(payload):
                break
            if not self._keep or self._close or self._force_close or listener.draining:
                break
            keepalive = listener.config.keepalive
            if keepalive is not None:
                self._next_keepalive_close_time = close_at = loop.time() + keepalive
                if self._keepalive_handle is None:
                    self._keepalive_handle = loop.call_at(close_at, self._process_keepalive)
        if not self._force_close:
            self._task_handler = None
            self.flush()
            if self.transport is not None:
                self.transport.close()

    async def _read_away(self, payload: Payload) -> bool:
        """The rest of a body nobody wanted. False when the connection has to close instead."""
        if self._continue_due or not self._begun:
            return False  # the client was never told to send it, or nothing was answered
        left = _LINGER_BYTES
        with contextlib.suppress(Exception):
            async with asyncio.timeout(_LINGER):
                while left > 0 and not payload.at_eof():
                    left -= len(await payload.readany())
        return bool(payload.is_eof()) and left > 0

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """A client that said goodbye on a websocket may still hear ours; any other that sends no more has left."""
        self.flush()
        reader = self._payload_parser
        return None if reader is None else bool(reader.half_closed())

    def force_close(self) -> None:
        """Close now, whatever is in progress; an answer that was given is still sent."""
        self.flush()
        super().force_close()

    def close_if_idle(self) -> None:
        """Close now when no call is in progress; else the connection closes after its call."""
        if self._waiter is not None and not self._messages:
            self.force_close()

    def cut(self) -> None:
        """The process ends: a call in progress has a ``last_word``, a websocket its own goodbye; the rest closes."""
        reader, task = self._payload_parser, self._task_handler
        self._cut = self.call is not None and reader is None
        if not self._cut:
            if reader is not None:
                reader.going_away()
            self.force_close()
        if task is not None:
            task.cancel()

    def last_word(self, cancelled: asyncio.CancelledError) -> ProxyError:
        """What the client of a call that was cut is told, once. Raises ``cancelled`` where it is not for that."""
        task = asyncio.current_task()
        if not self._cut or self.transport is None or task is None:
            raise cancelled
        self._cut = False
        task.uncancel()
        return ProxyError("draining", "The proxy is shutting down and the call was cut.", retry_after=1.0)

    # --- reading a body ----------------------------------------------------------------------------

    async def read_body(self, payload: Payload, limit: int, grow: Callable[[int], None] | None = None) -> bytes:
        """The whole body as received. grow: is told the size so far, and may refuse it. Raises ``request_too_large``,
        ``request_timeout``, ``invalid_request``."""
        if payload.is_eof():
            data: bytes = payload.read_nowait(-1)
            if len(data) > limit:
                raise _too_large(limit)
            return data
        self.expect_body()
        parts: list[bytes] = []
        size = 0
        async for piece in self.stream_body(payload):
            size += len(piece)
            if size > limit:
                raise _too_large(limit)
            if grow is not None:
                grow(size)
            parts.append(piece)
        return b"".join(parts)

    async def stream_body(self, payload: Payload, limit: int | None = None) -> Any:
        """The body piece by piece, no faster than it is taken."""
        self.expect_body()
        timeout = self._listener.config.body_timeout
        size = 0
        while True:
            try:
                if payload.is_eof():
                    piece = payload.read_nowait(-1)
                else:
                    async with asyncio.timeout(timeout):
                        piece = await payload.readany()
            except TimeoutError:
                self._keep = False
                raise ProxyError(
                    "request_timeout", f"The rest of the body did not come within {timeout:g} s."
                ) from None
            except ConnectionError:
                raise
            except Exception as error:
                self._keep = False
                raise ProxyError("invalid_request", f"The body's framing is wrong: {error}.") from None
            if not piece:
                return
            size += len(piece)
            if limit is not None and size > limit:
                raise _too_large(limit)
            yield piece

    def expect_body(self) -> None:
        """Tell a client that waits for it to go on and send its body."""
        if self._continue_due:
            self._continue_due = False
            if self.transport is not None:
                self.transport.write(_CONTINUE)

    # --- writing an answer -------------------------------------------------------------------------

    @property
    def begun(self) -> bool:
        """Whether the head of an answer has left."""
        return self._begun

    @property
    def gone(self) -> bool:
        """Whether the client has left."""
        return self.transport is None

    def send(
        self, status: int, headers: list[tuple[bytes, bytes]], body: bytes | None, *, length: int | None = None
    ) -> None:
        """A whole answer. body None: no body at all (HEAD, 204, 304); ``length`` is then what HEAD announces.

        It leaves at once, or with those of other calls that came in the same turn of the loop (``Listener.due``).
        """
        if body is not None:
            length = len(body)
        elif length is None and status != 204 and status >= 200 and status != 304:
            length = 0
        head = self._head(status, headers, b"" if length is None else b"Content-Length: %d\r\n" % length)
        self._begun = True
        transport = self.transport
        if transport is None:
            return
        if body and len(body) >= 65536:
            transport.writelines((head, body))
        elif self._listener.due and self._keep and not self._messages:
            self._unsent = head + body if body else head
            self._listener.send_soon(self)
        else:
            transport.write(head + body if body else head)

    def flush(self) -> None:
        """Send the answer that waits for others, if there is one."""
        data, transport = self._unsent, self.transport
        if data:
            self._unsent = b""
            if transport is not None and not transport.is_closing():
                transport.write(data)

    def open(
        self, status: int, headers: list[tuple[bytes, bytes]], source: Pausable | None, *, length: int | None = None
    ) -> None:
        """The head of a streamed answer. length: of the body, where known; else it goes chunked."""
        self._chunked = False
        if length is not None:
            framing = b"Content-Length: %d\r\n" % length
        elif self.http10:
            framing = b""
            self._keep = False
        else:
            framing = b"Transfer-Encoding: chunked\r\n"
            self._chunked = True
        head = self._head(status, headers, framing)
        self._begun = True
        self._source = source
        if self.transport is not None:
            self.transport.write(head)
            if self._paused and source is not None:
                self._writing_held = True
                source.pause()

    def switch(self, headers: list[tuple[bytes, bytes]], reader: Any, source: Pausable) -> None:
        """101: from now on the bytes are a websocket's. reader takes them (``feed_data``, ``feed_eof``), beginning with
        those that came behind the request; source is paused while the client does not drink."""
        head = self._head(101, headers, b"Connection: Upgrade\r\nUpgrade: websocket\r\n")
        self._begun = True
        self._source = source
        if self.transport is not None:
            self.transport.write(head)
        self.set_parser(reader)

    def write(self, data: bytes) -> None:
        """A piece of a streamed answer."""
        transport = self.transport
        if transport is None or not data:
            return
        if not self._chunked:
            transport.write(data)
        elif len(data) < 65536:
            transport.write(b"%x\r\n%b\r\n" % (len(data), data))
        else:
            transport.writelines((b"%x\r\n" % len(data), data, b"\r\n"))

    def end(self) -> None:
        """A streamed answer is complete."""
        self._source = None
        if self._chunked and self.transport is not None:
            self.transport.write(b"0\r\n\r\n")

    def break_off(self) -> None:
        """A streamed answer is not complete and has no words for it: the framing says so."""
        self._source = None
        self._keep = False
        self._close = True
        if self.transport is not None:
            # What was written is still delivered; the missing end is the message.
            self.transport.close()

    def refuse(self, error: ProxyError, body: bytes | None = None) -> None:
        """An error without a call: a head that cannot be read."""
        from proxy.dialects import generic  # noqa: PLC0415 - only for broken requests

        request_id = f"req_{secrets.token_hex(12)}"
        headers = [(b"content-type", b"application/json")]
        if error.should_retry is not None:
            headers.append((b"x-should-retry", b"true" if error.should_retry else b"false"))
        headers += [(name, request_id.encode()) for name in (b"x-sidecar-request-id", b"x-request-id")]
        log.info(
            "request refused before it was a call",
            extra={"request_id": request_id, "status": error.status, "error": error.code, "peer": self.peer},
        )
        with contextlib.suppress(ConnectionError):
            self.send(error.status, headers, generic.error(error) if body is None else body)

    def close_after_answer(self) -> None:
        """No further call on this connection."""
        self._keep = False

    def _head(self, status: int, headers: list[tuple[bytes, bytes]], framing: bytes) -> bytes:
        if self._close or self._listener.draining or self._continue_due:
            self._keep = False
        if not self._keep and status != 101:
            framing += b"Connection: close\r\n"
        elif self.http10:
            framing += b"Connection: keep-alive\r\n"
        first = _STATUS.get(status) or b"HTTP/1.1 %d " % status
        lines = list(map(b": ".join, headers))
        text = b"".join(lines)
        if b"\n" in text or b"\r" in text:
            # A header of ours with a line break in it would be somebody else's header: leave the bad ones out.
            lines = [line for line in lines if b"\n" not in line and b"\r" not in line]
        return b"\r\n".join((first, *lines, framing + b"\r\n"))

    # --- deadlines -------------------------------------------------------------------------------

    def _head_too_slow(self) -> None:
        self._head_timer = None
        waiter = self._waiter
        if waiter is None or waiter.done() or self._messages:
            return
        self._keep = False
        self.refuse(ProxyError("request_timeout", "The head of the request did not come in time."))
        self.force_close()

    def _not_drinking(self) -> None:
        self._write_timer = None
        if self.transport is not None:
            self.transport.abort()

    def _cancel_timers(self) -> None:
        for timer in (self._head_timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        self._head_timer = self._write_timer = None


def _bad_head(message: Any) -> ProxyError:
    """What aiohttp's parser refused, in our words."""
    cause = getattr(message, "exc", None)
    text = str(getattr(message, "message", "")).split("\n", 1)[0][:200].rstrip(" .:")
    if isinstance(cause, LineTooLong) or "many headers" in text.lower():
        return _head_too_large()
    return ProxyError("invalid_request", f"This is not a well-formed HTTP request: {text or 'bad request'}.")


def _head_too_large() -> ProxyError:
    return ProxyError("request_too_large", "The request line or the headers are too long or too many.", status=431)


def _too_large(limit: int) -> ProxyError:
    return ProxyError("request_too_large", f"The body is larger than {limit} bytes.")
