"""Raw-socket upstreams for the transport's tests. Every test runs on asyncio's own loop and on uvloop."""

from __future__ import annotations

import asyncio
import gc
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest
import uvloop

from proxy.upstream.transport import Endpoint, Limits, Outgoing, Pool, Timeouts


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


class Peer:
    """One accepted connection, as seen by the upstream's script."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def request(self) -> bytes:
        """One request with its head and its body of Content-Length or chunks. Empty when the client has closed."""
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return b""
        for line in head.split(b"\r\n"):
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                return head + await self.reader.readexactly(int(value))
            if name.lower() == b"transfer-encoding":
                body = b""
                while not body.endswith(b"0\r\n\r\n"):
                    more = await self.reader.readline()
                    if not more:
                        return b""
                    body += more
                return head + body
        return head

    async def say(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def bytewise(self, data: bytes) -> None:
        for i in range(len(data)):
            self.writer.write(data[i : i + 1])
            await asyncio.sleep(0)

    def reset(self) -> None:
        """Close with a RST."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def closed(self) -> None:
        """Returns when the client has closed the connection."""
        try:
            while await self.reader.read(65536):
                pass
        except ConnectionError:
            pass


Script = Callable[[Peer], Awaitable[None]]


class World:
    """Starts upstreams and pools, and counts what they left when the test is over."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack
        self.accepted = 0
        self.open = 0
        self.pools: list[Pool] = []
        self.quiet = asyncio.Event()

    async def upstream(self, script: Script, *, path: str | None = None, ssl: object = None) -> int:
        """An upstream that runs `script` for each connection; returns its port (0 for a unix path)."""

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.accepted += 1
            self.open += 1
            self.quiet.clear()
            try:
                await script(Peer(reader, writer))
            except (ConnectionError, asyncio.IncompleteReadError):
                pass
            finally:
                self.open -= 1
                writer.transport.abort()
                if not self.open:
                    self.quiet.set()

        if path is not None:
            server = await asyncio.start_unix_server(serve, path)
        else:
            server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=ssl, backlog=1024)
        self._stack.callback(server.close)
        return 0 if path is not None else server.sockets[0].getsockname()[1]

    def pool(
        self, port: int, *, limits: Limits | None = None, timeouts: Timeouts | None = None, **where: object
    ) -> Pool:
        options = {"scheme": "http", "host": "127.0.0.1", "port": port, "proxy": "none", **where}
        pool = Pool(Endpoint(**options), limits, timeouts)
        self.pools.append(pool)
        return pool

    async def answering(self, answer: bytes) -> Pool:
        """A pool towards an upstream that answers every request with `answer`."""

        async def script(peer: Peer) -> None:
            while await peer.request():
                await peer.say(answer)

        return self.pool(await self.upstream(script))


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        world = World(stack)
        yield world
        for pool in world.pools:
            async with asyncio.timeout(5):
                await pool.close()
            assert (pool.idle, pool.busy, pool.waiting) == (0, 0, 0), pool
    if world.open:
        async with asyncio.timeout(5):
            await world.quiet.wait()
    for _ in range(20):
        if asyncio.all_tasks() == {asyncio.current_task()}:
            break
        await asyncio.sleep(0.01)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    gc.collect()


class Collector:
    """A sink that keeps what it was given."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.ends: list[object] = []
        self.over = asyncio.Event()
        self.fed = asyncio.Event()

    def feed(self, data: bytes) -> None:
        self.pieces.append(data)
        self.fed.set()

    def finish(self) -> None:
        self.ends.append("finished")
        self.over.set()

    def fail(self, error: Exception) -> None:
        self.ends.append(error)
        self.over.set()

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)


@pytest.fixture
def collector() -> type[Collector]:
    return Collector


@pytest.fixture
def get() -> Callable[[], Outgoing]:
    return lambda: Outgoing(b"GET", b"/v1/models")


@pytest.fixture
def post() -> Callable[..., Outgoing]:
    def make(body: object = b"{}", content_length: int | None = None) -> Outgoing:
        return Outgoing(b"POST", b"/v1/x", [(b"content-type", b"application/json")], body, content_length)

    return make
