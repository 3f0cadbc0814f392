"""A connection that leaves HTTP: the answer 101, the socket it becomes, and the place that it keeps in its pool."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from proxy.upstream.transport import (
    ConnectFailed,
    ConnectionLost,
    FirstByteTimeout,
    InvalidResponse,
    Limits,
    Outgoing,
    PoolFull,
    Switched,
    Timeouts,
)

ASKS = Outgoing(b"GET", b"/ws", [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")])
PLAIN = Outgoing(b"GET", b"/x")
SWITCHES = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Ear:
    """A listener that writes down what it is told."""

    def __init__(self, *, stays: bool = False) -> None:
        self.heard = bytearray()
        self.events: list[str] = []
        self.changed = asyncio.Event()
        self._stays = stays

    def received(self, data: bytes) -> None:
        self.heard += data
        self.changed.set()

    def half_closed(self) -> bool:
        self._note("half closed")
        return self._stays

    def lost(self) -> None:
        self._note("lost")

    def full(self) -> None:
        self._note("full")

    def drained(self) -> None:
        self._note("drained")

    def _note(self, event: str) -> None:
        self.events.append(event)
        self.changed.set()

    async def until(self, event: str | int) -> None:
        """Wait for an event, or for so many bytes."""
        async with asyncio.timeout(5):
            while len(self.heard) < event if isinstance(event, int) else event not in self.events:
                self.changed.clear()
                await self.changed.wait()


async def echo(peer: Any) -> None:
    await peer.request()
    await peer.say(SWITCHES + b"tail")
    with suppress(ConnectionError):
        while data := await peer.reader.read(65536):
            await peer.say(data)


async def test_bytes_go_both_ways_and_the_tail_is_kept(world):
    pool = world.pool(await world.upstream(echo))
    answer, socket = await pool.switch(ASKS)
    assert (answer.status, answer.headers[0]) == (101, (b"Upgrade", b"websocket"))
    assert isinstance(socket, Switched)
    assert (pool.busy, pool.idle) == (1, 0)
    ear = Ear()
    socket.listen(ear)
    socket.write(b"x" * 100_000)
    await ear.until(100_004)
    assert bytes(ear.heard) == b"tail" + b"x" * 100_000
    socket.close()
    async with asyncio.timeout(2):
        await world.quiet.wait()
        while pool.busy:
            await asyncio.sleep(0.005)
    assert ear.events == []


async def test_what_comes_before_anybody_listens_is_kept_up_to_a_bound(world):
    sent = 0

    async def flood(peer: Any) -> None:
        nonlocal sent
        await peer.request()
        await peer.say(SWITCHES)
        while True:
            await peer.say(b"x" * 65536)
            sent += 65536

    pool = world.pool(await world.upstream(flood))
    _, socket = await pool.switch(ASKS)
    assert socket is not None
    stuck = -1
    while sent != stuck:
        stuck = sent
        await asyncio.sleep(0.05)
    assert sum(map(len, socket._kept)) < 1024 * 1024
    ear = Ear()
    socket.listen(ear)
    await ear.until(stuck + 1)
    socket.abort()


async def test_backpressure_is_told(world):
    go_on = asyncio.Event()

    async def deaf(peer: Any) -> None:
        await peer.request()
        await peer.say(SWITCHES)
        await go_on.wait()
        await peer.closed()

    pool = world.pool(await world.upstream(deaf))
    _, socket = await pool.switch(ASKS)
    assert socket is not None
    ear = Ear()
    socket.listen(ear)
    while "full" not in ear.events:
        socket.write(b"x" * 1_000_000)
        await asyncio.sleep(0)
    go_on.set()
    await ear.until("drained")
    socket.abort()


@pytest.mark.parametrize("stays", [False, True])
async def test_the_other_side_half_closes(world, stays):
    heard = bytearray()

    async def script(peer: Any) -> None:
        await peer.request()
        await peer.say(SWITCHES)
        peer.writer.write_eof()
        heard.extend(await peer.reader.read(100))

    pool = world.pool(await world.upstream(script))
    _, socket = await pool.switch(ASKS)
    assert socket is not None
    ear = Ear(stays=stays)
    socket.listen(ear)
    await ear.until("half closed")
    if stays:
        socket.write(b"still here")
        socket.close()
    else:
        await ear.until("lost")
    await world.quiet.wait()
    assert heard == (b"still here" if stays else b"")


async def test_the_end_before_anybody_listens_is_told_to_who_listens(world):
    async def script(peer: Any) -> None:
        await peer.request()
        await peer.say(SWITCHES + b"bye")

    pool = world.pool(await world.upstream(script))
    _, socket = await pool.switch(ASKS)
    assert socket is not None
    async with asyncio.timeout(2):
        while pool.busy:
            await asyncio.sleep(0.005)
    ear = Ear()
    socket.listen(ear)
    assert (bytes(ear.heard), ear.events) == (b"bye", ["lost"])
    socket.write(b"into the void")
    socket.close()


async def test_a_socket_that_is_closed_still_sends_and_one_that_hangs_is_cut(world, monkeypatch):
    monkeypatch.setattr("proxy.upstream.transport.switching.LINGER", 0.2)
    received = 0
    drinks = asyncio.Event()

    async def script(peer: Any) -> None:
        nonlocal received
        await peer.request()
        await peer.say(SWITCHES)
        await drinks.wait()
        while data := await peer.reader.read(1 << 20):
            received += len(data)

    port = await world.upstream(script)
    pool = world.pool(port)
    _, socket = await pool.switch(ASKS)
    assert socket is not None
    drinks.set()
    socket.write(b"x" * 3_000_000)
    socket.close()
    await world.quiet.wait()
    assert received == 3_000_000
    drinks.clear()
    _, socket = await pool.switch(ASKS)
    assert socket is not None
    socket.write(b"x" * 30_000_000)
    socket.close()
    async with asyncio.timeout(2):
        while pool.busy:
            await asyncio.sleep(0.01)
    drinks.set()


@pytest.mark.parametrize("status", [b"200 OK", b"401 No", b"503 Busy"])
async def test_any_other_answer_is_read_and_its_connection_closed(world, status):
    async def script(peer: Any) -> None:
        await peer.request()
        await peer.say(b"HTTP/1.1 %b\r\nContent-Length: 2\r\n\r\nno" % status)
        await peer.closed()

    pool = world.pool(await world.upstream(script))
    answer, socket = await pool.switch(ASKS)
    assert (answer.status, await answer.read(), socket) == (int(status[:3]), b"no", None)
    await world.quiet.wait()
    assert (pool.busy, pool.idle) == (0, 0)


async def test_a_switch_takes_the_place_of_a_kept_connection(world):
    async def script(peer: Any) -> None:
        while head := await peer.request():
            await peer.say(SWITCHES if b"Upgrade" in head else WHOLE)

    pool = world.pool(await world.upstream(script), limits=Limits(max_connections=1, max_waiting=0))
    assert await (await pool.send(PLAIN)).read() == b"ok"
    assert pool.idle == 1
    _, socket = await pool.switch(ASKS)
    assert socket is not None
    assert (pool.idle, pool.busy) == (0, 1)
    with pytest.raises(PoolFull):
        await pool.send(PLAIN)
    with pytest.raises(PoolFull):
        await pool.switch(ASKS)
    socket.abort()
    async with asyncio.timeout(2):
        while pool.busy:
            await asyncio.sleep(0.005)
    assert await (await pool.send(PLAIN)).read() == b"ok"


async def test_a_switch_that_waits_is_given_a_kept_connections_place(world):
    hold = asyncio.Event()

    async def script(peer: Any) -> None:
        while head := await peer.request():
            if b"Upgrade" not in head:
                await hold.wait()
            await peer.say(SWITCHES if b"Upgrade" in head else WHOLE)

    pool = world.pool(await world.upstream(script), limits=Limits(max_connections=1))
    first = asyncio.ensure_future(pool.send(PLAIN))
    while not pool.busy:
        await asyncio.sleep(0)
    second = asyncio.ensure_future(pool.switch(ASKS))
    await asyncio.sleep(0.02)
    assert pool.waiting == 1
    hold.set()
    assert await (await first).read() == b"ok"
    async with asyncio.timeout(2):
        _, socket = await second
    assert socket is not None
    assert world.accepted == 2
    assert (pool.busy, pool.idle) == (1, 0)
    socket.abort()


async def test_the_end_of_the_pool_ends_its_sockets(world):
    pool = world.pool(await world.upstream(echo))
    _, socket = await pool.switch(ASKS)
    assert socket is not None
    ear = Ear()
    socket.listen(ear)
    async with asyncio.timeout(2):
        await pool.close()
    assert ear.events == ["lost"]


async def test_a_switch_that_is_cancelled_leaves_nothing(world):
    async def script(peer: Any) -> None:
        await peer.request()
        await peer.closed()

    pool = world.pool(await world.upstream(script))
    asking = asyncio.ensure_future(pool.switch(ASKS))
    async with asyncio.timeout(2):
        while not world.open:
            await asyncio.sleep(0.005)
    asking.cancel()
    await asyncio.wait([asking])
    await world.quiet.wait()
    assert pool.busy == 0


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (b"", ConnectionLost),
        (b"HTTP/1.1 101", ConnectionLost),
        (b"HTTP/1.1 101 X\r\n\r\n", InvalidResponse),
        (b"HTTP/1.0 101 X\r\nUpgrade: a\r\nConnection: Upgrade\r\n\r\n", InvalidResponse),
        (b"HTTP/1.1 101 X\r\nUpgrade: a\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\r\n", InvalidResponse),
        (b"HTTP/1.1 101 X\r\nUpgrade: a\r\nConnection: Upgrade\r\nX: " + b"y" * 70_000 + b"\r\n\r\n", InvalidResponse),
    ],
)
async def test_what_is_no_answer(world, said, error):
    async def script(peer: Any) -> None:
        await peer.request()
        await peer.say(said)

    pool = world.pool(await world.upstream(script))
    with pytest.raises(error):
        await pool.switch(ASKS)
    await world.quiet.wait()
    assert pool.busy == 0


async def test_deadlines_and_nobody_there(world):
    async def script(peer: Any) -> None:
        await peer.request()
        await peer.closed()

    pool = world.pool(await world.upstream(script))
    with pytest.raises(FirstByteTimeout):
        await pool.switch(ASKS, Timeouts(first_byte=0.1))
    with pytest.raises(ConnectFailed):
        await world.pool(1).switch(ASKS)
    assert pool.busy == 0
