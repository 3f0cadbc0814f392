"""A connection that may leave HTTP: the answer 101 turns it into a `Switched` socket, any other answer is an answer.

    HTTP/1.1 --head of 101--> Connection lets go, Switched becomes the transport's protocol --> bytes both ways

The place in the pool stays taken until the socket is closed, so websockets count among an upstream's connections.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol, cast

from httptools import HttpParserUpgrade, HttpResponseParser

from .connection import ENDED, HEAD, Connection, _Refused
from .incoming import UNCLAIMED

if TYPE_CHECKING:
    from .incoming import Incoming, Sink

LINGER = 5.0
"""Seconds that a closed socket has to take what was written to it before it is cut."""
_BODY = frozenset((b"content-length", b"transfer-encoding"))


class Listener(Protocol):
    """Hears of a switched socket, synchronously and in order."""

    def received(self, data: bytes) -> None:
        """What one read brought."""

    def half_closed(self) -> bool:
        """The other side sends no more. True: it may still be written to."""

    def lost(self) -> None:
        """The socket is closed. Said once, and not after `close` or `abort`."""

    def full(self) -> None:
        """The other side does not drink: write no more for now."""

    def drained(self) -> None:
        """It does again."""


class _Parser(HttpResponseParser):
    """Remembers what follows the head of a 101: `tail`."""

    tail = b""

    def feed_data(self, data: Any) -> None:
        try:
            super().feed_data(data)
        except HttpParserUpgrade as switch:
            self.tail = data[switch.args[0] :]
            raise


class Switching(Connection):
    """A connection for one request that asks for another protocol. `switched` is set when the answer is 101; any other
    answer is read as ever, and the connection is closed after it (it may be a tunnel, which others are not)."""

    __slots__ = ("switched",)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.switched: Switched | None = None

    def _new_parser(self) -> None:
        super()._new_parser()
        self._parser = _Parser(self)

    def on_headers_complete(self) -> None:
        parser: Any = self._parser
        if self._phase != HEAD or parser.get_status_code() != 101:
            super().on_headers_complete()
            self._close_after = True
            return
        incoming: Any = self._incoming
        incoming.http_version = parser.get_http_version()
        if incoming.http_version != "1.1" or not parser.should_upgrade():
            raise _Refused("status 101 without Upgrade over HTTP/1.1")
        if any(name.lower() in _BODY for name, _ in incoming.headers):
            raise _Refused("status 101 with a body")
        incoming.status = 101
        self._phase = ENDED

    def _end(self, incoming: Incoming, now: float) -> None:
        if incoming.status != 101:
            super()._end(incoming, now)
            return
        self._incoming = None
        self._disarm()
        transport = cast(asyncio.Transport, self._transport)
        self.switched = Switched(self, transport, cast(_Parser, self._parser).tail)
        transport.set_protocol(self.switched)
        incoming._finish()


class Switched(asyncio.Protocol):
    """A socket that has left HTTP. Until somebody listens what comes is kept, and reading stops beyond UNCLAIMED bytes.

    It is the `source` of a 101 answer, so that whoever gives up answers gives this one up, too.
    """

    __slots__ = ("_connection", "_full", "_held", "_kept", "_linger", "_listener", "_over", "_transport")

    def __init__(self, connection: Connection, transport: asyncio.Transport, tail: bytes) -> None:
        self._connection = connection
        self._transport = transport
        self._listener: Listener | None = None
        self._kept = [tail] if tail else []
        self._held = False
        self._full = False
        self._over = False  # nothing is read or written any more
        self._linger: asyncio.TimerHandle | None = None

    # --- for whoever uses it ---

    def listen(self, listener: Listener) -> None:
        """Hear of the socket from now on; what came before is told before this returns."""
        self._listener = listener
        if self._full:
            listener.full()
        kept, self._kept = self._kept, []
        for piece in kept:
            listener.received(piece)
        if self._listener is listener:
            if self._over:
                self._listener = None
                listener.lost()
            else:
                self.hold(False)

    def write(self, data: bytes) -> None:
        """Send bytes; into the void once the socket is closed."""
        if not self._over:
            self._transport.write(data)

    def hold(self, stop: bool) -> None:
        """Stop or go on reading."""
        if self._over or self._held == stop:
            return
        self._held = stop
        if stop:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def close(self) -> None:
        """Say no more: what was written is still sent, within LINGER seconds."""
        self._listener = None
        if not self._over:
            self._over = True
            self._linger = self._connection.loop.call_later(LINGER, self._transport.abort)
            self._transport.close()

    def abort(self) -> None:
        """Close at once. After `close` it is left to end by itself."""
        self._listener = None
        if not self._over:
            self._over = True
            self._transport.abort()

    # --- what a source of an answer has, too ---

    def start(self, sink: Sink) -> None:
        """A websocket is no body that could be pushed into a sink."""
        raise RuntimeError("a switched socket is listened to")

    def pause(self) -> None:
        """Stop reading: the client does not drink."""
        self.hold(True)

    def resume(self) -> None:
        """Go on."""
        self.hold(False)

    # --- what the transport tells ---

    def data_received(self, data: bytes) -> None:
        if self._listener is not None:
            self._listener.received(data)
        elif not self._over:
            self._kept.append(data)
            if sum(map(len, self._kept)) > UNCLAIMED:
                self.hold(True)

    def eof_received(self) -> bool:
        if self._listener is None:
            return False
        open_still = self._listener.half_closed()
        # TLS has no half-closed connections.
        return open_still and self._transport.get_extra_info("ssl_object") is None

    def connection_lost(self, exc: Exception | None) -> None:
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
        self._over = True
        listener, self._listener = self._listener, None
        self._connection.connection_lost(None)  # its place in the pool
        if listener is not None:
            listener.lost()

    def pause_writing(self) -> None:
        self._full = True
        if self._listener is not None:
            self._listener.full()

    def resume_writing(self) -> None:
        self._full = False
        if self._listener is not None:
            self._listener.drained()

    def __repr__(self) -> str:
        return f"<Switched {self._connection.remote}{' closed' if self._over else ''}>"
