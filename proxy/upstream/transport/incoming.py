"""An answer: its head, and its body read whole, or pushed piece by piece into a sink."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from .errors import BodyTooLarge, TransportError, Truncated

if TYPE_CHECKING:
    from .connection import Connection

UNCLAIMED = 64 * 1024
"""Bytes of body kept for a caller who has neither started nor read the answer; beyond it the socket is paused."""


class Sink(Protocol):
    """Takes a body as it arrives, synchronously and in order. Ends with exactly one `finish` or `fail`, or with neither
    after `Incoming.abort`. What it raises closes the connection and goes to the loop's exception handler."""

    def feed(self, data: bytes) -> None:
        """All body bytes that one read of the socket brought."""

    def finish(self) -> None:
        """The body ended as its framing promised. The connection is already free for the next call."""

    def fail(self, error: TransportError) -> None:
        """The body will not be complete."""


class Incoming:
    """The head of an answer, as received. Times are `loop.time()` in seconds (whole milliseconds under uvloop),
    that of the first byte is exact.

    sent_at: the request was handed to the socket (its head, if the body is streamed). first_byte_at: the first byte of
    anything, 1xx included. head_at: the head was complete. reused: on a kept connection. resent: the first, kept,
    connection closed before any byte and the request was sent again. headers are raw, in order, hop-by-hop included.
    """

    __slots__ = (
        "_connection", "_error", "_kept", "_limit", "_paused", "_reader", "_sink", "_size", "_taken",
        "first_byte_at", "head_at", "headers", "http_version", "reason", "remote", "resent", "reused", "sent_at",
        "status", "trailers",
    )  # fmt: skip

    def __init__(self, connection: Connection, sent_at: float, reused: bool, remote: str) -> None:
        self.status = 0
        self.reason = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.trailers: list[tuple[bytes, bytes]] = []
        self.http_version = "1.1"
        self.sent_at = sent_at
        self.first_byte_at = sent_at
        self.head_at = sent_at
        self.reused = reused
        self.resent = False
        self.remote = remote
        self._connection: Connection | None = connection  # None once the answer has ended, either way
        self._kept: list[bytes] = []
        self._size = 0
        self._limit: int | None = None
        self._sink: Sink | None = None
        self._reader: asyncio.Future[None] | None = None
        self._error: TransportError | None = None
        self._paused = False
        self._taken = False

    @property
    def ended(self) -> bool:
        """Whether the last byte came, the body failed, or it was aborted."""
        return self._connection is None

    async def read(self, limit: int | None = None) -> bytes:
        """The whole body. Raises BodyTooLarge beyond `limit` bytes, and whatever else ends a body early.

        Does not wait when the body is already there. Being cancelled closes the connection.
        """
        self._take()
        connection = self._connection
        if connection is not None:
            if limit is not None and self._size > limit:
                self._refuse(limit)
            self._limit = limit
            self._reader = reader = connection.loop.create_future()
            connection.hold(False)
            try:
                await reader
            except BaseException:
                self.abort()
                raise
            finally:
                self._reader = None
        return self._whole(limit)

    def take(self, limit: int | None = None) -> bytes:
        """The whole body of an answer that has ended. Raises as `read`."""
        self._take()
        return self._whole(limit)

    def _whole(self, limit: int | None) -> bytes:
        if self._error is not None:
            raise self._error
        if limit is not None and self._size > limit:
            self._refuse(limit)
        kept, self._kept = self._kept, []
        return kept[0] if len(kept) == 1 else b"".join(kept)

    def start(self, sink: Sink) -> None:
        """Push the body into `sink` from now on; pieces that are already here are pushed before this returns."""
        self._take()
        self._sink = sink
        kept, self._kept = self._kept, []
        for piece in kept:
            if self._sink is not sink:
                return
            sink.feed(piece)
        if self._sink is not sink:
            return
        connection = self._connection
        if connection is not None:
            if not self._paused:
                connection.hold(False)
        else:
            self._sink = None  # the two would hold each other
            if self._error is None:
                sink.finish()
            else:
                sink.fail(self._error)

    def pause(self) -> None:
        """Stop reading the socket. What one read has already brought is still pushed."""
        if self._connection is not None and not self._paused:
            self._paused = True
            self._connection.hold(True)

    def resume(self) -> None:
        if self._paused:
            self._paused = False
            if self._connection is not None:
                self._connection.hold(False)

    def abort(self) -> None:
        """Close the connection at once and hear no more of this answer. Safe at any time, any number of times."""
        self._sink = None
        connection, self._connection = self._connection, None
        if connection is None:
            return
        self._kept = []
        self._error = Truncated("the answer was given up by this side", reason="aborted")
        connection.give_up(self)
        if self._reader is not None and not self._reader.done():
            self._reader.set_exception(self._error)

    def _take(self) -> None:
        if self._taken:
            raise RuntimeError("this answer has already been read or started")
        self._taken = True

    def _refuse(self, limit: int) -> None:
        self.abort()
        self._kept = []
        self._error = BodyTooLarge(f"the upstream's answer is larger than {limit} bytes")
        raise self._error

    # What follows is called by the connection.

    def _feed(self, data: bytes) -> None:
        sink = self._sink
        if sink is not None:
            sink.feed(data)
            return
        self._kept.append(data)
        self._size = size = self._size + len(data)
        if self._limit is not None and size > self._limit:
            reader = self._reader
            if reader is not None and not reader.done():
                reader.set_exception(BodyTooLarge(f"the upstream's answer is larger than {self._limit} bytes"))
        elif size > UNCLAIMED and not self._taken and self._connection is not None:
            self._connection.hold(True)

    def _finish(self) -> None:
        self._connection = None
        sink = self._sink
        if sink is not None:
            self._sink = None
            sink.finish()
        elif self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def _fail(self, error: TransportError) -> None:
        self._connection = None
        self._error = error
        sink = self._sink
        if sink is not None:
            self._sink = None
            sink.fail(error)
        elif self._reader is not None and not self._reader.done():
            self._reader.set_exception(error)

    def __repr__(self) -> str:
        state = "ended" if self._connection is None else "paused" if self._paused else "open"
        return f"<Incoming {self.status} from {self.remote} {state}>"
