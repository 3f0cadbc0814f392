"""Bytes that nobody reads: moved from the source to the client as they come."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proxy.exchange import Attempt
    from proxy.stream.pipe import Out


class PlainSink:
    """Sink that writes what it gets. With ``hold_last`` the piece that completes a body of known ``length`` waits
    for ``release``; for a chunked body the end mark, which the caller writes, is the last piece. The bytes are counted
    on ``attempt``, if there is one: what is paid by its length can be estimated."""

    __slots__ = ("_attempt", "_done", "_failure", "_held", "_hold", "_left", "_out", "_waiter", "last")

    def __init__(self, out: Out, *, hold_last: bool, length: int | None, attempt: Attempt | None = None) -> None:
        self._out = out
        self._attempt = attempt
        self._left = length
        self._hold = hold_last and length is not None
        self._held: bytes | None = None
        self._done = False
        self._failure: Exception | None = None
        self.last = b""  # the newest piece: where a stream broke off
        self._waiter: asyncio.Future[None] | None = None

    def feed(self, data: bytes) -> None:
        """Bytes of one read."""
        if self._attempt is not None:
            self._attempt.received_bytes += len(data)
        if self._hold:
            assert self._left is not None
            self._left -= len(data)
            if self._left <= 0:
                self._held = data
                return
        self.last = data
        self._out.write(data)

    def finish(self) -> None:
        """The body ended well."""
        self._wake()

    def fail(self, error: Exception) -> None:
        """The body broke off."""
        self._failure = error
        self._wake()

    async def ended(self) -> Exception | None:
        """Until the body is over; the failure, if it broke off."""
        if not self._done:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self._failure

    def release(self) -> None:
        """Let the last piece go."""
        if self._held is not None:
            self._out.write(self._held)
            self._held = None

    def _wake(self) -> None:
        self._done = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
