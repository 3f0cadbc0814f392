"""The connections to one endpoint: at most so many, reused newest first, given to waiting calls in their order.

A place (`_places`) belongs to a connection from before it is dialled until the transport has told that it is gone, so
the count of open sockets never passes the limit. A place that becomes free goes to the first waiting call, as an open
connection where there is one, else as the right to dial.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from math import inf
from typing import TYPE_CHECKING, cast

from . import proxies
from .connect import dial
from .connection import Connection
from .endpoint import Endpoint, Limits, Timeouts
from .errors import ConnectFailed, ConnectionLost, ConnectTimeout, PoolClosed, PoolFull, PoolTimeout, TotalTimeout
from .outgoing import Headers, Outgoing, render
from .switching import Switched, Switching
from .tls import make_context

if TYPE_CHECKING:
    import ssl

    from .incoming import Incoming


class Pool:
    """Calls to one endpoint. Belongs to the loop on which its first call runs.

    `idle`, `busy` (with those being dialled) and `waiting` are counts. Raises ValueError for an unusable proxy.
    """

    def __init__(self, endpoint: Endpoint, limits: Limits | None = None, timeouts: Timeouts | None = None) -> None:
        self.endpoint = endpoint
        self.limits = limits or Limits()
        self.timeouts = timeouts or Timeouts()
        self.dialled = 0
        self._proxy = proxies.choose(endpoint)
        self._host = endpoint.host_header
        self._prefix = b""
        self._extra: Headers = ()
        if self._proxy is not None and endpoint.scheme == "http":
            self._prefix = b"http://" + self._host
            if self._proxy.authorization is not None:
                self._extra = ((b"Proxy-Authorization", self._proxy.authorization),)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._context: asyncio.Future[ssl.SSLContext] | None = None
        self._idle: list[Connection] = []
        self._open: set[Connection] = set()
        self._places = 0
        self._waiting: OrderedDict[asyncio.Future[Connection | None], None] = OrderedDict()
        self._reaper: asyncio.TimerHandle | None = None
        self._retired = False
        self._closed = False
        self._empty: asyncio.Future[None] | None = None

    @property
    def idle(self) -> int:
        return len(self._idle)

    @property
    def busy(self) -> int:
        return self._places - len(self._idle)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    async def send(self, request: Outgoing, timeouts: Timeouts | None = None, deadline: float = inf) -> Incoming:
        """Send `request`; return its answer as soon as the head of the final status is complete.

        `deadline`: a loop time that bounds the call as `Timeouts.total` does, for callers whose call began earlier.
        Raises TransportError; what the iterable of a streamed body raises comes out as it is. Cancelling gives up the
        place in the queue, or closes the connection, at once.
        """
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        times = timeouts or self.timeouts
        now = loop.time()
        if times.total is not None and now + times.total < deadline:
            deadline = now + times.total
        head = render(request, self._host, self._prefix, self._extra)
        idle = self._idle
        while idle:
            connection = idle.pop()
            if now < connection.expires:
                break
            connection.close()
        else:
            connection = await self._acquire(loop, times, deadline)
            now = loop.time()
        waiter = connection.begin(request, head, times, deadline, now)
        try:
            return await waiter
        except ConnectionLost:
            if not connection.slot_kept:
                raise
        except BaseException:
            if connection.slot_kept:
                self._free_place()
            connection.leave(waiter)
            raise
        connection = await self._dial(loop, times, deadline)
        waiter = connection.begin(request, head, times, deadline, loop.time())
        try:
            answer = await waiter
        except BaseException:
            connection.leave(waiter)
            raise
        answer.resent = True
        return answer

    async def switch(
        self, request: Outgoing, timeouts: Timeouts | None = None, deadline: float = inf
    ) -> tuple[Incoming, Switched | None]:
        """Send a request that asks for another protocol, on a fresh connection: its answer, and the socket when that is
        101. The socket keeps its place in the pool. Otherwise as `send`; a forward proxy is passed through CONNECT.
        """
        loop = self._loop = self._loop or asyncio.get_running_loop()
        times = timeouts or self.timeouts
        if times.total is not None:
            deadline = min(deadline, loop.time() + times.total)
        head = render(request, self._host)
        full = self._places >= self.limits.max_connections
        connection = self._idle.pop() if full and self._idle else await self._acquire(loop, times, deadline, Switching)
        if connection.calls:
            # A kept one gives its place: whether it still works would show only when it is too late to say it again.
            connection.slot_kept = True
            connection.close()
            connection = await self._dial(loop, times, deadline, Switching)
        waiter = connection.begin(request, head, times, deadline, loop.time())
        try:
            answer = await waiter
        except BaseException:
            connection.leave(waiter)
            raise
        return answer, cast(Switching, connection).switched

    def retire(self) -> None:
        """Keep no connection from now on: those at rest are closed, the others after their call. Calls still work."""
        self._retired = True
        self._close_idle()

    async def close(self) -> None:
        """Refuse new and waiting calls, cut running ones, and return when every socket is closed."""
        self._closed = self._retired = True
        while self._waiting:
            waiter, _ = self._waiting.popitem(last=False)
            if not waiter.done():
                waiter.set_exception(PoolClosed(f"the pool of {self.endpoint} was closed while the call waited in it"))
        self._close_idle()
        for connection in list(self._open):
            connection.cut(PoolClosed(f"the pool of {self.endpoint} was closed during the call"))
        if self._open:
            self._empty = asyncio.get_running_loop().create_future()
            await self._empty

    # --- places ---

    async def _acquire(
        self,
        loop: asyncio.AbstractEventLoop,
        times: Timeouts,
        deadline: float,
        kind: type[Connection] = Connection,
    ) -> Connection:
        """A connection: one of this kind dialled, or whichever a call that ended has left."""
        if self._closed:
            raise PoolClosed(f"the pool of {self.endpoint} is closed")
        limits = self.limits
        if self._places < limits.max_connections:
            self._places += 1
            return await self._dial(loop, times, deadline, kind)
        if len(self._waiting) >= limits.max_waiting:
            busy = f"all {limits.max_connections} connections to {self.endpoint} are busy"
            raise PoolFull(f"{busy} and {limits.max_waiting} calls wait")
        waiter: asyncio.Future[Connection | None] = loop.create_future()
        self._waiting[waiter] = None
        timer = loop.call_at(min(loop.time() + limits.wait, deadline), self._waited_enough, waiter, deadline)
        try:
            given = await waiter
        except BaseException:
            if self._waiting.pop(waiter, _MISSING) is _MISSING and waiter.done() and not waiter.cancelled():
                self._hand_back(waiter)
            raise
        finally:
            timer.cancel()
        if given is None:
            return await self._dial(loop, times, deadline, kind)
        return given if given.usable else await self._acquire(loop, times, deadline, kind)

    def _waited_enough(self, waiter: asyncio.Future[Connection | None], deadline: float) -> None:
        if self._waiting.pop(waiter, _MISSING) is _MISSING or waiter.done():
            return
        if cast(asyncio.AbstractEventLoop, self._loop).time() + 0.001 >= deadline:
            waiter.set_exception(
                TotalTimeout(f"the call reached its deadline waiting for {self.endpoint}", phase="waiting")
            )
            return
        limits = self.limits
        waiter.set_exception(
            PoolTimeout(
                f"all {limits.max_connections} connections to {self.endpoint} stayed busy for {limits.wait:g} s"
            )
        )

    def _hand_back(self, waiter: asyncio.Future[Connection | None]) -> None:
        """The call was cancelled after it had been given something: pass it on."""
        if waiter.exception() is not None:
            return
        connection = waiter.result()
        if connection is None:
            self._free_place()
        elif connection.usable:
            self.release(connection, connection.loop.time())

    def _free_place(self) -> None:
        while self._waiting:
            waiter, _ = self._waiting.popitem(last=False)
            if not waiter.done():
                waiter.set_result(None)
                return
        self._places -= 1

    async def _dial(
        self,
        loop: asyncio.AbstractEventLoop,
        times: Timeouts,
        deadline: float,
        kind: type[Connection] = Connection,
    ) -> Connection:
        """Open a connection in a place that is already ours; the place is given up when that fails."""
        until = min(loop.time() + times.connect, deadline)
        try:
            async with asyncio.timeout_at(until):
                context = await self._tls_context(loop) if self.endpoint.scheme == "https" else None
                connection = await dial(
                    self.endpoint,
                    lambda peer: kind(self, loop, peer, self.limits.max_head),
                    context,
                    self._proxy,
                    tunnel=kind is not Connection,
                )
        except TimeoutError as error:
            self._free_place()
            if until == deadline:
                raise TotalTimeout(
                    f"the call reached its deadline connecting to {self.endpoint}", phase="connecting"
                ) from error
            raise ConnectTimeout(f"no connection to {self.endpoint} within {times.connect:g} s") from error
        except BaseException:
            self._free_place()
            raise
        connection = cast(Connection, connection)
        self._open.add(connection)
        self.dialled += 1
        if self._closed:
            connection.close()
            raise PoolClosed(f"the pool of {self.endpoint} was closed while the call connected")
        return connection

    async def _tls_context(self, loop: asyncio.AbstractEventLoop) -> ssl.SSLContext:
        """Made once, in a thread (it reads the certificates); a failure is not kept, files can be mended."""
        if self._context is None:
            self._context = loop.run_in_executor(None, make_context, self.endpoint.tls, str(self.endpoint))
        try:
            return await asyncio.shield(self._context)
        except (ValueError, OSError) as error:
            self._context = None
            raise ConnectFailed(str(error), reason="tls_setup") from error

    # --- called by connections ---

    def release(self, connection: Connection, now: float) -> None:
        """A connection whose call ended cleanly: on to the first who waits, or to rest."""
        limits = self.limits
        oldest = connection.born + limits.max_age
        if self._retired or now >= oldest:
            connection.close()
            return
        while self._waiting:
            waiter, _ = self._waiting.popitem(last=False)
            if not waiter.done():
                waiter.set_result(connection)
                return
        rested = now + limits.max_idle
        connection.expires = rested if rested < oldest else oldest
        self._idle.append(connection)
        if self._reaper is None:
            self._reaper = connection.loop.call_at(connection.expires, self._reap)

    def forget(self, connection: Connection) -> None:
        """The connection is being closed: nobody may get it."""
        if connection in self._idle:
            self._idle.remove(connection)

    def gone(self, connection: Connection) -> None:
        """Its socket is closed: its place is free, unless a repeat is about to take it."""
        self.forget(connection)
        if connection not in self._open:
            return
        self._open.discard(connection)
        if not connection.slot_kept:
            self._free_place()
        if self._empty is not None and not self._open and not self._empty.done():
            self._empty.set_result(None)

    # --- rest ---

    def _reap(self) -> None:
        self._reaper = None
        now = cast(asyncio.AbstractEventLoop, self._loop).time()
        kept = [connection for connection in self._idle if now < connection.expires]
        late = [connection for connection in self._idle if now >= connection.expires]
        self._idle[:] = kept
        for connection in late:
            connection.close()
        if kept:
            when = min(connection.expires for connection in kept)
            self._reaper = cast(asyncio.AbstractEventLoop, self._loop).call_at(when, self._reap)

    def _close_idle(self) -> None:
        if self._reaper is not None:
            self._reaper.cancel()
            self._reaper = None
        resting, self._idle[:] = list(self._idle), []
        for connection in resting:
            connection.close()

    def __repr__(self) -> str:
        state = " closed" if self._closed else " retired" if self._retired else ""
        return f"<Pool {self.endpoint} idle={self.idle} busy={self.busy} waiting={self.waiting}{state}>"


_MISSING = object()
