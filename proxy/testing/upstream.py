"""A scripted provider on a real socket.

It speaks HTTP/1.1 by hand, so that it can also speak it wrongly, and shares no code with the proxy's own parsers.
Each request is recorded whole as a ``Call`` and answered by the next step of the script; when the script is used
up, by the default step. A step is any ``async def step(call)`` that writes to the call; ``proxy.testing.script``
has the usual ones.

    async with FakeUpstream(reply({"ok": True}), reset("in_head")) as upstream:
        ...                                   # talk to upstream.url
        call = await upstream.call(0)         # waits until the first request has arrived whole
        assert call.json == {...}
        await call.disconnected               # the client went away (or the exchange's connection was closed)
"""

from __future__ import annotations

import asyncio
import itertools
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Self, cast

import orjson

MAX_HEAD = 256 * 1024


class Call:
    """One request as it came, and the way to answer it.

    method, target, version: as in the request line. headers: raw (name, value) pairs in order. body: decoded from
    chunks, otherwise the bytes received. connection: 1 for the first connection, and so on. arrived_at: loop time at
    which the head was complete; complete_at: at which the body was. disconnected: a future with the loop time at
    which the client's side of the connection ended while this call was being answered. sent_bytes: what was written.
    """

    def __init__(self, connection: Connection, head: bytes) -> None:
        first, *lines = head.decode("latin-1").split("\r\n")
        self.method, self.target, self.version = [*first.split(" ", 2), "", ""][:3]
        self.headers: list[tuple[str, str]] = []
        for line in lines:
            name, _, value = line.partition(":")
            self.headers.append((name, value.strip()))
        self.head = head
        self.body = b""
        loop = asyncio.get_running_loop()
        self.connection = connection.number
        self.arrived_at = loop.time()
        self.complete_at: float | None = None
        self.disconnected: asyncio.Future[float] = loop.create_future()
        self.sent_bytes = 0
        self.answered = False
        self._connection = connection
        self._allowed = 0
        self._taken = 0
        self._moved = asyncio.Event()

    def header(self, name: str) -> str | None:
        """The first value of a header, any case."""
        low = name.lower()
        return next((value for key, value in self.headers if key.lower() == low), None)

    def all(self, name: str) -> list[str]:
        """Every value of a header, any case."""
        low = name.lower()
        return [value for key, value in self.headers if key.lower() == low]

    @property
    def json(self) -> Any:
        """The body as JSON; raises ValueError when it is none."""
        return orjson.loads(self.body)

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]

    # --- for steps ---------------------------------------------------------------------
    def write(self, data: bytes) -> None:
        """Send bytes as they are."""
        if data and not self._connection.closed:
            self.sent_bytes += len(data)
            self._connection.transport.write(data)

    async def drain(self) -> None:
        """Wait until the client has taken enough to write more."""
        await self._connection.writable.wait()

    def close(self) -> None:
        """End the connection in good order once everything written has been sent."""
        self._connection.transport.close()

    def reset(self) -> None:
        """End the connection with a TCP reset; what was not sent yet is dropped."""
        sock = self._connection.transport.get_extra_info("socket")
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._connection.transport.abort()

    def pause_reading(self) -> None:
        """Take no more bytes from the client (for steps that run before the body is read)."""
        self._connection.transport.pause_reading()

    def resume_reading(self) -> None:
        """Take bytes again."""
        self._connection.transport.resume_reading()

    # --- pacing ------------------------------------------------------------------------
    def release(self, count: int = 1) -> None:
        """Let ``count`` more of this call's held events leave."""
        self._allowed += count
        self._moved.set()

    async def turn(self) -> None:
        """For steps: wait until one more event may leave."""
        while self._taken >= self._allowed:
            self._moved.clear()
            await self._moved.wait()
        self._taken += 1

    def __repr__(self) -> str:
        return f"<Call {self.method} {self.target} connection={self.connection} body={len(self.body)}>"


Step = Callable[[Call], Awaitable[None]]


class FakeUpstream:
    """The scripted server. Use it as an async context manager, or with ``start`` and ``stop``.

    steps: answers for the first requests in order. default: answers every request after that; without it such a
    request gets a 500 that says the script is over. calls: every request seen, in order of arrival.
    connections: how many were ever accepted; ``open_connections``: how many are open now.
    """

    def __init__(self, *steps: Step, default: Step | None = None, tls: ssl.SSLContext | None = None) -> None:
        self.steps: list[Step] = list(steps)
        self.default = default
        self.calls: list[Call] = []
        self.connections = 0
        self.port = 0
        self.host = "127.0.0.1"
        self.errors: list[BaseException] = []
        self._tls = tls
        self._open: set[Connection] = set()
        self._arrived = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._numbers = itertools.count(1)

    @property
    def origin(self) -> str:
        """Scheme, host and port."""
        return f"{'https' if self._tls else 'http'}://{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """A base URL as OpenAI clients and upstreams have it, with ``/v1``."""
        return f"{self.origin}/v1"

    @property
    def open_connections(self) -> int:
        """How many connections are open now."""
        return len(self._open)

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> Self:
        """Listen; port 0 takes a free one."""
        loop = asyncio.get_running_loop()
        self.host = host
        self._server = await loop.create_server(lambda: Connection(self), host, port, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        """Stop listening and drop every connection. Raises what a step raised, so that no test passes over it."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in list(self._open):
            await connection.end()
        if self.errors:
            raise self.errors[0]

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, kind: object, *_: object) -> None:
        if kind is None:
            await self.stop()
        else:
            with suppress(Exception):
                await self.stop()

    def script(self, *steps: Step) -> None:
        """Add steps for the next requests."""
        self.steps.extend(steps)

    def next_step(self) -> Step:
        """The step that answers the next request."""
        if self.steps:
            return self.steps.pop(0)
        return self.default or _script_is_over

    def saw(self, call: Call) -> None:
        """A request's head has arrived."""
        self.calls.append(call)
        self._arrived.set()

    def changed(self) -> None:
        """Wake whoever waits for a call or a connection."""
        self._arrived.set()

    async def call(self, index: int = 0, *, timeout: float = 5.0) -> Call:
        """The request with this number (0 for the first), once it has arrived whole. Raises TimeoutError."""
        async with asyncio.timeout(timeout):
            while len(self.calls) <= index or self.calls[index].complete_at is None:
                self._arrived.clear()
                await self._arrived.wait()
        return self.calls[index]

    async def idle(self, *, timeout: float = 5.0) -> None:
        """Wait until no connection is open any more. Raises TimeoutError."""
        async with asyncio.timeout(timeout):
            while self._open:
                self._arrived.clear()
                await self._arrived.wait()

    def release(self, count: int = 1) -> None:
        """Let ``count`` more held events of the newest call leave."""
        self.calls[-1].release(count)

    def drop_idle(self) -> None:
        """Close every connection that answers no call, as providers do to kept-alive ones."""
        for connection in self._open:
            if connection.call is None:
                connection.transport.close()


async def _script_is_over(call: Call) -> None:
    body = b'{"error": {"message": "the test script has no answer for this request", "code": "script_is_over"}}'
    head = b"HTTP/1.1 500 Script Is Over\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    call.write(head % len(body) + body)


class Connection(asyncio.Protocol):
    """One accepted connection: reads requests one after the other and runs their steps."""

    transport: asyncio.Transport

    def __init__(self, upstream: FakeUpstream) -> None:
        self.upstream = upstream
        self.number = 0
        self.call: Call | None = None
        self.closed = False
        self.writable = asyncio.Event()
        self.writable.set()
        self._received = bytearray()
        self._more = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)  # uvloop's are no subclass
        self.transport = transport
        self.upstream.connections += 1
        self.number = self.upstream.connections
        self.upstream._open.add(self)
        self.upstream.changed()
        self._task = asyncio.get_running_loop().create_task(self._serve())

    def data_received(self, data: bytes) -> None:
        self._received += data
        self._more.set()

    def eof_received(self) -> bool:
        self._gone()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self._gone()
        self.writable.set()
        self.upstream._open.discard(self)
        self.upstream.changed()
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    async def end(self) -> None:
        """Drop the connection and wait for its step to end."""
        self.transport.abort()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def _gone(self) -> None:
        if self.call is not None and not self.call.disconnected.done():
            self.call.disconnected.set_result(asyncio.get_running_loop().time())

    async def _serve(self) -> None:
        try:
            while True:
                head = await self._take_head()
                call = self.call = Call(self, head)
                step = self.upstream.next_step()
                self.upstream.saw(call)
                if not getattr(step, "early", False):
                    await self._read_body(call)
                await step(call)
                if self.transport.is_closing():
                    # The client left while the step went on writing into nothing: connection_lost is on its way.
                    self._gone()
                    return
                call.answered = True
                self.call = None
                if (call.header("connection") or "").lower() == "close" or call.version == "HTTP/1.0":
                    self.transport.close()
                    return
        except asyncio.CancelledError:
            return
        except Exception as error:
            self.upstream.errors.append(error)
            self.transport.abort()

    async def _read_body(self, call: Call) -> None:
        if (call.header("expect") or "").lower() == "100-continue":
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if "chunked" in (call.header("transfer-encoding") or "").lower():
            pieces: list[bytes] = []
            while size := int((await self._take_line()).partition(b";")[0], 16):
                pieces.append(await self._take(size))
                await self._take(2)
            while await self._take_line():
                pass  # trailers
            call.body = b"".join(pieces)
        else:
            call.body = await self._take(int(call.header("content-length") or 0))
        call.complete_at = asyncio.get_running_loop().time()
        self.upstream.changed()

    async def _take_head(self) -> bytes:
        while (end := self._received.find(b"\r\n\r\n")) < 0:
            if len(self._received) > MAX_HEAD:
                raise ValueError("a request head without an end")
            await self._wait()
        head = bytes(self._received[:end])
        del self._received[: end + 4]
        return head

    async def _take_line(self) -> bytes:
        while (end := self._received.find(b"\r\n")) < 0:
            await self._wait()
        line = bytes(self._received[:end])
        del self._received[: end + 2]
        return line

    async def _take(self, size: int) -> bytes:
        while len(self._received) < size:
            await self._wait()
        data = bytes(self._received[:size])
        del self._received[:size]
        return data

    async def _wait(self) -> None:
        self._more.clear()
        await self._more.wait()
