"""One kept connection: an asyncio protocol, reused for one call after the other.

    IDLE --begin--> HEAD --head complete--> BODY --framing ended--> ENDED --release--> IDLE
                      |                       |
                      +-------- fail ---------+--> closed: a connection that failed is never used again

All of one read is parsed first and acted upon afterwards, so that the order is always: the head wakes its waiter, the
body's bytes are handed over as one piece, the connection goes back to its pool, the end is told.

Deadlines cost one timer a connection, not one a call: it is armed no later than the earliest moment at which any
deadline of the running call could pass, looks when it fires, and arms itself again. Most calls never touch it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterable
from math import inf
from time import monotonic
from typing import Any, Protocol, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from .endpoint import Timeouts
from .errors import (
    ConnectionLost,
    FirstByteTimeout,
    IdleTimeout,
    InvalidRequest,
    InvalidResponse,
    TotalTimeout,
    TransportError,
    Truncated,
)
from .incoming import Incoming
from .outgoing import Outgoing

IDLE, HEAD, BODY, ENDED = range(4)

JOIN = 16 * 1024
"""Bodies up to this many bytes are copied behind their head: one buffer, one system call."""
SALVAGE = 1024 * 1024
"""Most bytes read from a broken socket in search of an answer that came before the break."""
TICK = 0.001
"""Seconds by which a loop's clock may be early."""


class Owner(Protocol):
    """What a connection asks of its pool."""

    def release(self, connection: Connection, now: float) -> None: ...
    def forget(self, connection: Connection) -> None: ...
    def gone(self, connection: Connection) -> None: ...


class _Refused(Exception):  # noqa: N818  (never leaves this module)
    """Raised inside a parser callback: the answer cannot be trusted. Its text is the reason."""


class Connection(asyncio.Protocol):
    """See the module. `calls` counts the calls begun on it; `born` and `expires` are loop times kept for the pool."""

    __slots__ = (
        "_armed_at", "_begun", "_close_after", "_closed", "_codings", "_deadline", "_drained", "_first_byte",
        "_full", "_head_only", "_head_size", "_held", "_idle", "_incoming", "_interim", "_large", "_max_head",
        "_parser", "_paused_writing", "_phase", "_pieces", "_pool", "_quiet", "_replayable", "_silent", "_stamp",
        "_timer", "_transport", "_unsent", "_upload", "_waiter", "born", "calls", "expires", "loop", "remote",
        "slot_kept",
    )  # fmt: skip

    def __init__(self, pool: Owner, loop: asyncio.AbstractEventLoop, remote: str, max_head: int) -> None:
        self.loop = loop
        self.remote = remote
        self.born = self.expires = loop.time()
        self.calls = 0
        self.slot_kept = False  # closed before any byte of a repeatable call: the pool's place is kept for the repeat
        self._pool = pool
        self._max_head = max_head
        self._transport: asyncio.Transport | None = None
        self._phase = IDLE
        self._incoming: Incoming | None = None
        self._waiter: asyncio.Future[Incoming] | None = None
        self._pieces: list[bytes] = []
        self._closed = False
        self._held = False
        self._paused_writing = False
        self._drained: asyncio.Future[None] | None = None
        self._upload: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._armed_at = inf
        self._new_parser()

    def _new_parser(self) -> None:
        self._parser: HttpResponseParser | None = HttpResponseParser(self)
        self._full = False  # the parser is in the middle of a body that will not come (HEAD, 204, 304)

    @property
    def usable(self) -> bool:
        """Whether a call can begin here; one that was given to a call may close before that call wakes up."""
        return not self._closed

    # --- the request ---

    def begin(
        self, request: Outgoing, head: bytes, times: Timeouts, deadline: float, now: float
    ) -> asyncio.Future[Incoming]:
        """Send `request`, whose rendered head is `head`. The future's result is the answer with its head complete.

        `deadline` is a loop time or `inf`. Whoever stops waiting for the future calls `leave`.
        """
        incoming = Incoming(self, now, self.calls > 0, self.remote)
        self.calls += 1
        self._incoming = incoming
        self._phase = HEAD
        self._head_only = request.method == b"HEAD"
        self._silent = True
        self._interim = False
        self._close_after = False
        self._codings = 0
        self._head_size = 0
        self._quiet = 0
        self._begun = self._stamp = now
        self._first_byte = times.first_byte
        self._idle = times.idle
        self._deadline = deadline
        self._waiter = waiter = self.loop.create_future()

        body = request.body
        transport: Any = self._transport  # (a cast would be a call)
        if body is None:
            self._replayable, self._large, self._unsent = True, False, False
            transport.write(head)
        elif isinstance(body, bytes):
            self._replayable, self._unsent = True, False
            if len(body) <= JOIN:
                self._large = False
                transport.write(head + body)
            else:
                self._large = True
                transport.writelines((head, body))
        else:
            self._replayable, self._large, self._unsent = False, False, True
            transport.write(head)
            self._upload = self.loop.create_task(self._send_body(request, body))

        first = now + (times.idle if times.idle < times.first_byte else times.first_byte)
        if deadline < first:  # noqa: PLR1730  (min() costs more)
            first = deadline
        if first < self._armed_at:
            self._arm(first)
        return waiter

    async def _send_body(self, request: Outgoing, body: AsyncIterable[bytes]) -> None:
        """Write the pieces of a streamed body, no faster than the upstream takes them."""
        source = aiter(body)
        left = request.content_length
        transport = cast(asyncio.Transport, self._transport)
        try:
            while left != 0:
                self._stamp = inf  # the wait for our own source is not the upstream's silence
                try:
                    piece = await anext(source)
                except StopAsyncIteration:
                    break
                if not piece:
                    continue
                if left is None:
                    transport.writelines((b"%x\r\n" % len(piece), piece, b"\r\n"))
                else:
                    left -= len(piece)
                    if left < 0:
                        raise InvalidRequest(
                            f"the request body is longer than its length of {request.content_length} bytes"
                        )
                    transport.write(piece)
                self._stamp = self.loop.time()
                if self._paused_writing:
                    self._drained = self.loop.create_future()
                    await self._drained
            if left:
                raise InvalidRequest(
                    f"the request body ended {left} bytes before its length of {request.content_length}"
                )
            if left is None:
                transport.write(b"0\r\n\r\n")
            self._unsent = False
            self._stamp = self.loop.time()
        except Exception as error:  # the source's own error belongs to whoever waits for the answer
            self._upload = None
            self._fail(error)
        finally:
            if self._upload is asyncio.current_task():
                self._upload = None
            close = getattr(source, "aclose", None)
            if close is not None:
                await close()

    def _stop_upload(self) -> None:
        upload, self._upload = self._upload, None
        if upload is not None:
            upload.cancel()

    def pause_writing(self) -> None:
        self._paused_writing = True

    def resume_writing(self) -> None:
        self._paused_writing = False
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    # --- the answer: parser callbacks, in the order in which they come ---

    def on_message_begin(self) -> None:
        if self._phase == ENDED:
            raise _Refused("bytes after the end of the answer")

    def on_status(self, reason: bytes) -> None:
        self._incoming.reason += reason  # type: ignore[union-attr]

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._phase == HEAD:
            self._incoming.headers.append((name, value))  # type: ignore[union-attr]
            if len(name) == 17 and name.lower() == b"transfer-encoding":
                self._codings += 1 if value.lower() == b"chunked" else 2
        elif self._phase == BODY:
            self._incoming.trailers.append((name, value))  # type: ignore[union-attr]
        else:
            raise _Refused("bytes after the end of the answer")

    def on_headers_complete(self) -> None:
        parser: Any = self._parser
        incoming: Any = self._incoming
        status = parser.get_status_code()
        if self._phase != HEAD:
            raise _Refused("bytes after the end of the answer")
        if status < 200:
            if status < 100 or status == 101 or self._codings:
                raise _Refused(f"status {status} was not asked for or has a body")
            self._interim = True
            return
        version = incoming.http_version = parser.get_http_version()
        if version not in {"1.1", "1.0"}:
            raise _Refused(f"HTTP version {version} is neither 1.0 nor 1.1")
        if self._codings and (self._codings != 1 or version == "1.0"):
            raise _Refused("only Transfer-Encoding: chunked, once, over HTTP/1.1 is understood")
        incoming.status = status
        self._close_after = not parser.should_keep_alive()
        if self._head_only or status == 204 or status == 304:  # noqa: PLR1714  (faster than a set)
            self._phase = ENDED
            self._full = True
        else:
            self._phase = BODY

    def on_body(self, piece: bytes) -> None:
        if self._phase != BODY:
            raise _Refused("a body where there can be none")
        self._pieces.append(piece)

    def on_message_complete(self) -> None:
        if self._interim:
            self._interim = False
            incoming = cast(Incoming, self._incoming)
            incoming.headers = []
            incoming.reason = b""
            return
        self._full = False
        self._phase = ENDED

    # --- what the transport tells ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        incoming = self._incoming
        if incoming is None:
            self.close()  # nobody asked: bytes on an idle connection would be read as the next call's answer
            return
        if self._silent:
            self._silent = False
            now = incoming.first_byte_at = monotonic()  # the loop's own time is that of its turn, in milliseconds
        else:
            now = self.loop.time()
        trouble: BaseException | None = None
        try:
            self._parser.feed_data(data)  # type: ignore[union-attr]
        except (HttpParserError, HttpParserUpgrade) as error:
            trouble = error.__context__ if isinstance(error.__context__, _Refused) else error
            self._close_after = True
        phase = self._phase
        if phase == HEAD:
            self._head_size += len(data)
            if trouble is not None:
                self._fail(InvalidResponse(f"the upstream's answer is not valid HTTP/1.1: {trouble}"))
            elif self._head_size > self._max_head:
                self._fail(self._too_large())
            return

        waiter = self._waiter
        if waiter is not None:
            if self._head_size + len(data) > self._max_head and self._head_is_too_large(incoming):
                self._fail(self._too_large())
                return
            self._waiter = None
            incoming.head_at = max(now, incoming.first_byte_at)
            if self._upload is not None:
                self._stop_upload()
            if waiter.done():
                self.give_up()  # whoever asked has left in this very turn, and nobody will read this
                return
            waiter.set_result(incoming)
        self._stamp = now

        piece = None
        pieces = self._pieces
        if pieces:
            self._quiet = 0
            if len(pieces) == 1:
                piece = pieces.pop()
            else:
                piece = b"".join(pieces)
                pieces.clear()
            try:
                incoming._feed(piece)
            except Exception as error:  # a sink's mistake ends its own call, and is reported
                self._blame(error, incoming)
            if self._incoming is not incoming:
                return  # given up from within
        elif waiter is None:
            # Chunk extensions and trailers are no body: an upstream could send them for ever.
            self._quiet += len(data)
            if self._quiet > self._max_head and phase == BODY:
                trouble = _Refused("endless chunk extensions or trailers")

        if phase == ENDED:
            if data[-2:] == b"\r\n" and self._line_ends_follow(data, piece):
                self._close_after = True
            self._end(incoming, now)
        elif trouble is not None:
            self._fail(Truncated(f"the body's framing is broken: {trouble}", reason="framing"))

    def eof_received(self) -> bool:
        # Acting here, not in connection_lost: a transport with unsent bytes would first wait until they are sent.
        if self._incoming is None:
            self.close()
        else:
            self._broke_off(None)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if self._incoming is not None and exc is not None and self._waiter is not None:
            self._unsent = True  # whatever is found, this connection is over
            self._salvage()
        self._closed = True
        if self._incoming is not None:
            self._broke_off(exc)
        self._disarm()
        self._stop_upload()
        if self._drained is not None:
            self._drained.cancel()
            self._drained = None
        self._pool.gone(self)
        self._transport = None
        self._parser = None  # the parser and this object hold each other

    # --- the ends ---

    def _end(self, incoming: Incoming, now: float) -> None:
        self._incoming = None
        if self._close_after or self._unsent or (self._large and self._transport.get_write_buffer_size()):  # type: ignore[union-attr]
            self.close()
        else:
            self._phase = IDLE
            if self._full:
                self._new_parser()
            if self._held:
                self._held = False
                self._transport.resume_reading()  # type: ignore[union-attr]
            self._pool.release(self, now)
        try:
            incoming._finish()
        except Exception as error:
            self._report(error)

    def _fail(self, error: Exception) -> None:
        incoming, self._incoming = self._incoming, None
        waiter, self._waiter = self._waiter, None
        self.close()
        if waiter is not None:
            if not waiter.done():
                waiter.set_exception(error)
        elif incoming is not None:
            try:
                incoming._fail(error if isinstance(error, TransportError) else Truncated(str(error)))
            except Exception as raised:
                self._report(raised)

    def _broke_off(self, exc: Exception | None) -> None:
        """The upstream closed, or the network did, in the middle of a call."""
        incoming = cast(Incoming, self._incoming)
        how = f"was reset ({exc})" if exc is not None else "was closed by the upstream"
        if self._waiter is not None:
            if self._silent and self._replayable and incoming.reused and not self._waiter.done():
                self.slot_kept = True
            where = "before any byte of an answer" if self._silent else "inside the answer's head"
            self._fail(ConnectionLost(f"the connection to {self.remote} {how} {where}", sent=True, silent=self._silent))
        elif exc is None and self._until_close(incoming):
            self._close_after = True
            self._phase = ENDED
            self._end(incoming, self.loop.time())
        else:
            reason = "reset" if exc is not None else "closed"
            self._fail(Truncated(f"the connection to {self.remote} {how} inside the body", reason=reason))

    def _until_close(self, incoming: Incoming) -> bool:
        """Neither length nor chunks: such a body ends with the connection."""
        return not any(name.lower() in {b"content-length", b"transfer-encoding"} for name, _ in incoming.headers)

    def _salvage(self) -> None:
        """Read what came before a write failed: an early answer (413, 401) whose sender closed without reading on."""
        transport = cast(asyncio.Transport, self._transport)
        sock = transport.get_extra_info("socket")
        if sock is None or transport.get_extra_info("ssl_object") is not None or self._held:
            return
        read = 0
        while read < SALVAGE and self._incoming is not None:
            try:
                data = os.read(sock.fileno(), 65536)
            except OSError:
                return
            if not data:
                return
            read += len(data)
            self.data_received(data)

    def leave(self, waiter: asyncio.Future[Incoming]) -> None:
        """Whoever waited with ``waiter`` does not any more. Close, if this connection is still at that call: when the
        two came in the same turn, its answer may be over and the connection another call's."""
        if not waiter.done() or waiter.cancelled():
            if self._waiter is waiter:
                self.give_up()
        elif waiter.exception() is None:  # (asked for, so that nobody is warned of an error that came meanwhile)
            self.give_up(waiter.result())

    def give_up(self, incoming: Incoming | None = None) -> None:
        """Close at once, telling nobody. With `incoming`, only while that one is the running call."""
        if incoming is not None and self._incoming is not incoming:
            return
        self._incoming = None
        self._waiter = None
        self.close()

    def cut(self, error: TransportError) -> None:
        """Close at once, and tell `error` to whoever has a call here."""
        self._fail(error)

    def close(self) -> None:
        """Close at once. Nothing is flushed: whatever closes a connection has no more to say on it."""
        if self._closed:
            return
        self._closed = True
        self._stop_upload()
        self._pool.forget(self)
        if self._transport is not None:
            self._transport.abort()

    def hold(self, stop: bool) -> None:
        """Stop or go on reading the socket."""
        if self._closed or self._held == stop:
            return
        self._held = stop
        if stop:
            self._transport.pause_reading()  # type: ignore[union-attr]
        else:
            self._stamp = self.loop.time()
            self._transport.resume_reading()  # type: ignore[union-attr]

    # --- deadlines ---

    def _arm(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._armed_at = when
        self._timer = self.loop.call_at(when, self._look)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._armed_at = inf

    def _look(self) -> None:
        self._timer = None
        self._armed_at = inf
        incoming = self._incoming
        if incoming is None:
            return
        now = self.loop.time()
        waits_for_head = self._waiter is not None
        due = self._stamp + (self._first_byte if waits_for_head else self._idle)
        if incoming._paused:
            due = inf
        if min(due, self._deadline) > now + TICK:
            self._arm(min(due, self._deadline, now + min(self._first_byte, self._idle)))
        elif self._deadline <= due:
            took = f"after {now - self._begun:.3g} s"
            self._fail(
                TotalTimeout(
                    f"the call to {self.remote} reached its deadline {took}", phase="head" if waits_for_head else "body"
                )
            )
        elif waits_for_head:
            self._fail(FirstByteTimeout(f"{self.remote} sent no complete head within {self._first_byte:g} s"))
        else:
            self._fail(IdleTimeout(f"{self.remote} fell silent inside the body for {self._idle:g} s"))

    # --- rarely needed ---

    def _too_large(self) -> InvalidResponse:
        return InvalidResponse(f"the head of the upstream's answer is larger than {self._max_head} bytes")

    def _head_is_too_large(self, incoming: Incoming) -> bool:
        return sum(len(name) + len(value) + 4 for name, value in incoming.headers) > self._max_head

    def _line_ends_follow(self, data: bytes, piece: bytes | None) -> bool:
        """Whether empty lines follow the answer in the read that ended it. The parser skips them and cannot tell."""
        if self._codings or piece is None:
            return data.endswith(b"\r\n\r\n\r\n")
        return not data.endswith(piece)

    def _blame(self, error: Exception, incoming: Incoming) -> None:
        self._report(error)
        incoming.abort()

    def _report(self, error: Exception) -> None:
        self.loop.call_exception_handler(
            {"message": "a body sink raised: its call was ended", "exception": error, "protocol": self}
        )

    def __repr__(self) -> str:
        state = "closed" if self._closed else ("idle", "head", "body", "ended")[self._phase]
        return f"<Connection {self.remote} {state} calls={self.calls}>"
