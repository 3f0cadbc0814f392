"""Websockets through the whole proxy, with aiohttp's client and server as peers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import psutil
import pytest
from aiohttp import WSMsgType

from tests.websocket_peers import ACCEPT, ByHand, Provider, Session, close, frame, handshake, read_frame

REALTIME = "/v1/realtime?model=gpt-realtime"


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    async with Provider() as one:
        yield one


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


# --- the handshake --------------------------------------------------------------------------------------


async def test_the_handshake_is_the_clients_below_and_ours_above(sidecar, setting, provider, wire):
    proxy = await sidecar(setting(provider.url))
    one = await wire(proxy.port)
    await one.send(
        handshake(
            "Sec-WebSocket-Protocol: other, realtime",
            "Sec-WebSocket-Extensions: permessage-deflate",
            "Authorization: Bearer sk-mine",
            "OpenAI-Beta: realtime=v1",
            "x-sidecar-task: talk",
        )
    )
    answer = await one.head()
    assert answer.status == 101
    assert answer.header("sec-websocket-accept") == ACCEPT
    assert answer.header("sec-websocket-protocol") == "realtime"
    assert answer.header("sec-websocket-extensions") is None
    assert (answer.header("connection"), answer.header("upgrade")) == ("Upgrade", "websocket")
    assert answer.header("content-length") is answer.header("transfer-encoding") is None
    assert answer.header("x-sidecar-upstream") == "up"
    assert answer.header("x-sidecar-attempts") == "1"
    assert answer.header("x-sidecar-request-id")
    (request,) = provider.requests
    assert request.raw_path == "/v1/realtime?model=gpt-realtime"
    assert request.headers["Sec-WebSocket-Protocol"] == "other, realtime"
    assert request.headers.getall("Sec-WebSocket-Version") == ["13"]
    assert request.headers["Sec-WebSocket-Key"] != "dGhlIHNhbXBsZSBub25jZQ=="
    assert "Sec-WebSocket-Extensions" not in request.headers
    assert request.headers["Authorization"] == "Bearer sk-mine"
    assert request.headers["OpenAI-Beta"] == "realtime=v1"
    assert "x-sidecar-task" not in request.headers
    assert request.headers["Host"] == f"127.0.0.1:{provider.port}"


@pytest.mark.parametrize(
    ("changed", "status", "said"),
    [
        ({"version": "8"}, 426, "version 13"),
        ({"version": ""}, 426, "version 13"),
        ({"key": ""}, 400, "Sec-WebSocket-Key"),
        ({"key": "c2hvcnQ="}, 400, "Sec-WebSocket-Key"),
        ({"path": "/v1/realtime?model=a&model=b"}, 400, "more than one model"),
        ({"path": "/v1/realtime?model=a&mod%65l=b"}, 400, "more than one model"),
    ],
)
async def test_a_handshake_that_is_wrong_is_refused_here(sidecar, setting, provider, wire, changed, status, said):
    proxy = await sidecar(setting(provider.url))
    one = await wire(proxy.port)
    await one.send(handshake(**changed))
    answer = await one.answer()
    assert answer.status == status
    assert said in answer.error["message"]
    if status == 426:
        assert answer.header("sec-websocket-version") == "13"
        assert answer.header("upgrade") == "websocket"
    assert provider.requests == []


async def test_a_subprotocol_that_is_no_token_is_refused(sidecar, setting, provider, wire):
    proxy = await sidecar(setting(provider.url))
    one = await wire(proxy.port)
    await one.send(handshake("Sec-WebSocket-Protocol: real time"))
    assert (await one.answer()).status == 400


async def test_a_handshake_with_a_body_is_refused(sidecar, setting, provider, wire):
    proxy = await sidecar(setting(provider.url))
    one = await wire(proxy.port)
    await one.send(handshake("Content-Length: 3") + b"abc")
    assert (await one.answer()).status == 400
    assert provider.requests == []


@pytest.mark.parametrize(
    "head",
    [
        b"GET /v1/realtime HTTP/1.0\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        b"GET /v1/realtime HTTP/1.1\r\nHost: localhost\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
        b"DELETE /v1/realtime HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        b"GET /v1/realtime HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\r\n",
    ],
)
async def test_what_is_no_wish_for_a_websocket_is_an_ordinary_call(sidecar, setting, provider, wire, head):
    proxy = await sidecar(setting(provider.url))
    one = await wire(proxy.port)
    await one.send(head)
    answer = await one.answer()
    assert (answer.status, answer.json) == (200, {"upgrade": None})


async def test_an_upgrade_on_a_call_with_a_body_is_not_heard(sidecar, setting, provider, wire):
    proxy = await sidecar(setting(provider.url))
    one = await wire(proxy.port)
    await one.post("/v1/chat/completions", {"model": "m"}, "Upgrade: websocket", "Connection: Upgrade")
    assert (await one.answer()).json == {"upgrade": None}
    assert await one.closed()


async def test_firefox_says_more_in_connection(sidecar, setting, provider, wire):
    proxy = await sidecar(setting(provider.url))
    one = await wire(proxy.port)
    asks = handshake("X-Hop: 1").replace(b"Connection: Upgrade", b"Connection: keep-alive, Upgrade, X-Hop")
    await one.send(asks.replace(b"Upgrade: websocket", b"Upgrade: WebSocket"))
    assert (await one.head()).status == 101
    assert "X-Hop" not in provider.requests[0].headers
    assert provider.requests[0].headers.getall("Connection") == ["Upgrade"]


async def test_bytes_that_come_with_either_handshake_are_not_lost(sidecar, setting, wire):
    async def script(session: Session) -> None:
        session.accept(tail=frame(b"welcome"))
        assert await session.read() == (1, b"early")
        session.say(frame(b"heard"))
        assert (await session.read())[0] == 8
        session.say(close(1000))
        await session.left()

    async with ByHand(script) as upstream:
        proxy = await sidecar(setting(upstream.url))
        one = await wire(proxy.port)
        await one.send(handshake() + frame(b"early", masked=True))
        assert (await one.head()).status == 101
        assert await read_frame(one.reader) == (1, b"welcome")
        assert await read_frame(one.reader) == (1, b"heard")
        await one.send(close(1000, masked=True))
        assert await read_frame(one.reader) == (8, b"\x03\xe8")
        assert await one.closed()


async def test_interim_answers_before_the_101(sidecar, setting, wire):
    async def script(session: Session) -> None:
        session.say(b"HTTP/1.1 100 Continue\r\n\r\n")
        session.accept(tail=frame(b"now"))
        await session.left()

    async with ByHand(script) as upstream:
        proxy = await sidecar(setting(upstream.url))
        one = await wire(proxy.port)
        await one.send(handshake())
        assert (await one.head()).status == 101
        assert await read_frame(one.reader) == (1, b"now")


# --- messages -------------------------------------------------------------------------------------------


async def test_texts_and_bytes_go_both_ways_in_order(sidecar, setting, provider, client):
    proxy = await sidecar(setting(provider.url))
    said: list[Any] = [f"message {n} é" if n % 3 else bytes([n % 256]) * n for n in range(500)]

    async with client.ws_connect(proxy.url + REALTIME, protocols=("realtime",)) as socket:

        async def send() -> None:
            for one in said:
                await (socket.send_str(one) if isinstance(one, str) else socket.send_bytes(one))

        sending = asyncio.ensure_future(send())
        heard = [(await socket.receive(timeout=5)).data for _ in said]
        await sending
        assert heard == said
        await socket.close()
    assert await provider.closed() == 1000
    assert proxy.exchanges[0].outcome == "answered"
    assert proxy.exchanges[0].notes == [("websocket", "closed 1000 by the client: 500 messages up, 500 down")]


@pytest.mark.parametrize("size", [2 * 1024 * 1024, 16 * 1024 * 1024])
async def test_large_messages_pass_whole(sidecar, setting, provider, client, size):
    proxy = await sidecar(setting(provider.url, "account", "validate", {"retry": {}}))
    text = "é" * (size // 2)
    async with client.ws_connect(proxy.url + REALTIME, max_msg_size=0) as socket:
        await socket.send_str(text)
        assert (await socket.receive(timeout=10)).data == text


async def test_frames_are_passed_as_they_are(sidecar, setting, wire):
    """Fragments, pings in between, empty frames, pongs nobody asked for: not one byte differs."""
    up = [
        frame(b"one ", last=False, masked=True),
        frame(b"ping", 9, masked=True),
        frame(b"", 0, last=False, masked=True),
        frame(b"two", 0, masked=True),
        frame(b"", 2, masked=True),
        frame(b"pong", 10, masked=True),
        frame(b"x" * 125, masked=True),
        frame(b"y" * 126, masked=True),
        frame(b"z" * 70_000, 2, masked=True),
    ]
    down = [
        frame(b"uno ", last=False),
        frame(b"ping", 9),
        frame(b"due", 0),
        frame(b"", 1),
        frame(b"a" * 65_535),
        frame(b"b" * 65_536, 2),
    ]
    heard = bytearray()

    async def script(session: Session) -> None:
        session.accept()
        for one in down:
            session.say(one)
        heard.extend(await session.reader.readexactly(len(b"".join(up))))
        session.say(close(1000))
        heard.extend(await session.reader.read())

    async with ByHand(script, limit=1 << 20) as upstream:
        proxy = await sidecar(setting(upstream.url, "account"))
        one = await wire(proxy.port, limit=1 << 20)
        await one.send(handshake())
        await one.head()
        stream = b"".join(up)
        for place in range(300):  # the small frames byte by byte, the large one as it comes
            await one.send(stream[place : place + 1])
        await one.send(stream[300:])
        received = await one.reader.readexactly(len(b"".join(down)) + 4)
        assert received == b"".join(down) + close(1000)
        goodbye = close(1000, masked=True)
        await one.send(goodbye)
        assert await one.closed()
        await upstream.idle()
        assert bytes(heard) == stream + goodbye
    assert proxy.exchanges[0].notes == [("websocket", "closed 1000 by the upstream: 5 messages up, 4 down")]


async def test_pings_keep_a_silent_session_alive(sidecar, setting, provider, client):
    proxy = await sidecar(setting(provider.url, up={"timeouts": {"idle": "300ms"}}))
    async with client.ws_connect(proxy.url + REALTIME, heartbeat=0.1) as socket:
        hearing = asyncio.ensure_future(socket.receive())  # which answers and counts the pings, too
        await asyncio.wait([hearing], timeout=1.0)
        assert not hearing.done()
        await socket.send_str("still here")
        assert (await hearing).data == "still here"


# --- goodbyes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [1000, 1001, 1008, 3000, 4000, 4999])
async def test_a_goodbye_of_the_upstream_keeps_its_code_and_reason(sidecar, setting, provider, client, code):
    proxy = await sidecar(setting(provider.url))
    async with client.ws_connect(proxy.url + REALTIME) as socket:
        await socket.send_str(f"close {code} because of é")
        message = await socket.receive(timeout=2)
        assert (message.type, message.data, message.extra) == (WSMsgType.CLOSE, code, "because of é")
    assert await provider.closed() == 1000  # what aiohttp's client answers to any
    assert proxy.exchanges[0].outcome == "answered"


@pytest.mark.parametrize("code", [1000, 1001, 3000, 4000, 4999])
async def test_a_goodbye_of_the_client_keeps_its_code(sidecar, setting, provider, client, code):
    proxy = await sidecar(setting(provider.url))
    async with client.ws_connect(proxy.url + REALTIME) as socket:
        await socket.close(code=code, message=b"bye")
        assert socket.close_code == 1000  # what aiohttp's server answers to any
    assert await provider.closed() == code
    while not proxy.exchanges:
        await asyncio.sleep(0.005)
    assert proxy.exchanges[0].outcome == "answered"


@pytest.mark.parametrize("who", ["client", "upstream"])
async def test_a_goodbye_without_a_code(sidecar, setting, wire, who):
    async def script(session: Session) -> None:
        session.accept()
        if who == "upstream":
            session.say(close(None))
        assert await session.read() == (8, b"")
        if who == "client":
            session.say(close(None))
        await session.left()

    async with ByHand(script) as upstream:
        proxy = await sidecar(setting(upstream.url))
        one = await wire(proxy.port)
        await one.send(handshake())
        await one.head()
        if who == "client":
            await one.send(close(None, masked=True))
        assert await read_frame(one.reader) == (8, b"")
        if who == "upstream":
            await one.send(close(None, masked=True))
        assert await one.closed()
        await upstream.idle()
    assert proxy.exchanges[0].outcome == "answered"


async def test_what_follows_a_goodbye_goes_nowhere(sidecar, setting, wire):
    async def script(session: Session) -> None:
        session.accept()
        assert (await session.read())[0] == 8
        session.say(close(1000) + frame(b"more"))
        assert await session.reader.read() == b""

    async with ByHand(script) as upstream:
        proxy = await sidecar(setting(upstream.url))
        one = await wire(proxy.port)
        await one.send(handshake())
        await one.head()
        await one.send(close(1000, masked=True) + frame(b"more", masked=True))
        assert await read_frame(one.reader) == (8, b"\x03\xe8")
        assert await one.closed()


async def test_an_upstream_that_failed_is_held_against_it(sidecar, setting, provider, client):
    proxy = await sidecar(setting(provider.url, {"circuit_breaker": {"fail_max": 2}}))
    for _ in range(2):
        async with client.ws_connect(proxy.url + REALTIME) as socket:
            await socket.send_str("close 1011 broken")
            assert (await socket.receive(timeout=2)).data == 1011
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await client.ws_connect(proxy.url + REALTIME)
    assert refused.value.status == 503
    assert [one.outcome for one in proxy.exchanges[:2]] == ["failed", "failed"]


async def test_the_last_word_waits_until_the_call_is_settled(sidecar, setting, provider, client, policy):
    settled = asyncio.Event()

    async def on_settle(self: Any, exchange: Any) -> None:
        await asyncio.sleep(0.1)
        settled.set()

    proxy = await sidecar(setting(provider.url, policy(on_settle=on_settle)))
    async with client.ws_connect(proxy.url + REALTIME) as socket:
        await socket.send_str("close 1000 done")
        assert (await socket.receive(timeout=2)).type is WSMsgType.CLOSE
        assert settled.is_set()


# --- backpressure ---------------------------------------------------------------------------------------


def _memory() -> int:
    return psutil.Process(os.getpid()).memory_info().rss


async def test_a_client_that_does_not_drink_slows_the_upstream_down(sidecar, setting, wire):
    sent = 0
    piece = frame(b"x" * 65_000, 2)

    async def script(session: Session) -> None:
        nonlocal sent
        session.accept()
        while sent < 200 * 1024 * 1024:
            session.say(piece)
            await session.writer.drain()
            sent += len(piece)

    async with ByHand(script) as upstream:
        proxy = await sidecar(setting(upstream.url, "account"))
        one = await wire(proxy.port, limit=1024)
        before = _memory()
        await one.send(handshake())
        await one.head()
        stuck, same = -1, 0
        async with asyncio.timeout(8):
            while same < 10:
                await asyncio.sleep(0.03)
                same = same + 1 if sent == stuck else 0
                stuck = sent
        assert 0 < stuck < 40 * 1024 * 1024
        assert _memory() - before < 40 * 1024 * 1024
        one.reader._limit = 1 << 20  # type: ignore[attr-defined]
        async with asyncio.timeout(5):
            while sent == stuck:
                assert await one.reader.read(1 << 18)


async def test_an_upstream_that_does_not_drink_slows_the_client_down(sidecar, setting, wire):
    go_on = asyncio.Event()
    received = 0

    async def script(session: Session) -> None:
        nonlocal received
        session.accept()
        session.writer.transport.pause_reading()
        await go_on.wait()
        session.writer.transport.resume_reading()
        while data := await session.reader.read(1 << 18):
            received += len(data)

    async with ByHand(script) as upstream:
        proxy = await sidecar(setting(upstream.url))
        one = await wire(proxy.port)
        await one.send(handshake())
        await one.head()
        before = _memory()
        piece = frame(b"x" * 65_000, 2, masked=True)
        sent = 0

        async def flood() -> None:
            nonlocal sent
            while sent < 200 * 1024 * 1024:
                await one.send(piece)
                sent += len(piece)

        flooding = asyncio.ensure_future(flood())
        stuck, same = -1, 0
        async with asyncio.timeout(8):
            while same < 10:
                await asyncio.sleep(0.03)
                same = same + 1 if sent == stuck else 0
                stuck = sent
        assert 0 < stuck < 40 * 1024 * 1024
        assert _memory() - before < 40 * 1024 * 1024
        go_on.set()
        async with asyncio.timeout(5):
            while sent == stuck:
                await asyncio.sleep(0.01)
        flooding.cancel()
        await asyncio.wait([flooding])


async def test_a_client_that_never_drinks_is_let_go(sidecar, setting, wire):
    async def script(session: Session) -> None:
        session.accept()
        while True:
            session.say(frame(b"x" * 65_000, 2))
            await session.writer.drain()

    async with ByHand(script) as upstream:
        proxy = await sidecar(setting(upstream.url, server={"write_timeout": "300ms"}))
        one = await wire(proxy.port, limit=1024)
        await one.send(handshake())
        await one.head()
        await upstream.idle()
    assert proxy.exchanges[0].outcome == "cancelled"


# --- the end of the process -----------------------------------------------------------------------------


async def test_sessions_go_on_during_the_drain_and_end_with_1001(sidecar, setting, provider, client):
    proxy = await sidecar(setting(provider.url, "account", server={"drain": "300ms"}))
    async with client.ws_connect(proxy.url + REALTIME) as socket:
        await socket.send_str("before")
        assert (await socket.receive(timeout=2)).data == "before"
        draining = asyncio.ensure_future(proxy.app.drain())
        await asyncio.sleep(0.05)
        await socket.send_str("meanwhile")
        assert (await socket.receive(timeout=2)).data == "meanwhile"
        await draining
        stopping = asyncio.ensure_future(proxy.app.stop())
        message = await socket.receive(timeout=2)
        assert (message.type, message.data) == (WSMsgType.CLOSE, 1001)
        await stopping
    assert await provider.closed() == 1001
    assert proxy.exchanges[0].outcome == "cancelled"


async def test_a_session_survives_a_reload(sidecar, setting, provider, client, tmp_path):
    proxy = await sidecar(setting(provider.url))
    async with client.ws_connect(proxy.url + REALTIME) as socket:
        before = proxy.app.snapshot
        after = proxy.app.make_snapshot(proxy.app.config, {}, before)
        await after.start()
        proxy.app.snapshot = after
        retiring = asyncio.ensure_future(before.retire(after))
        await socket.send_str("still")
        assert (await socket.receive(timeout=2)).data == "still"
        assert not retiring.done()
        await socket.close()
        async with asyncio.timeout(2):
            await retiring


# --- nothing is left ------------------------------------------------------------------------------------


async def test_short_and_cancelled_sessions_leave_nothing(sidecar, setting, provider, wire):
    proxy = await sidecar(setting(provider.url, "account", {"shed_load": {"max_in_flight": 500}}, {"retry": {}}))
    pool = proxy.app.snapshot.upstreams["up"].pool

    async def one(number: int) -> None:
        client = await wire(proxy.port)
        way = number % 5
        await client.send(handshake() + (frame(b"early", masked=True) if way else b""))
        if way == 0:
            client.writer.transport.abort()  # within the handshake
            return
        assert (await client.head()).status == 101
        if way == 1:
            client.writer.transport.abort()
        elif way == 2:
            assert await read_frame(client.reader) == (1, b"early")
            client.writer.close()
        elif way == 3:
            await client.send(close(4000, masked=True))
            client.writer.close()
        else:
            await client.send(frame(b"close 4001 x", masked=True))
            while (await read_frame(client.reader))[0] != 8:
                pass
            await client.send(close(4001, masked=True))
            assert await client.closed()

    tasks = len(asyncio.all_tasks())
    for start in range(0, 400, 40):
        async with asyncio.timeout(20):
            await asyncio.gather(*(one(number) for number in range(start, start + 40)))
    async with asyncio.timeout(5):
        while proxy.app.snapshot.in_flight or pool.busy or provider.open or proxy.app.listener.connections:
            await asyncio.sleep(0.01)
        while len(asyncio.all_tasks()) > tasks:
            await asyncio.sleep(0.01)
    assert pool.idle == 0
    assert proxy.app.snapshot.buffered == 0
    assert proxy.app.listener.calls == 0
    assert len(proxy.exchanges) == 400
    (shedding,) = [p for p in proxy.app.snapshot.chains["main"].policies if p.name == "shed_load"]
    assert shedding.in_flight == 0


async def test_the_connections_of_an_upstream_are_counted(sidecar, setting, provider, client):
    proxy = await sidecar(setting(provider.url, up={"max_connections": 1, "max_waiting": 0}))
    async with client.get(proxy.url + "/v1/models/x") as answer:  # leaves a kept connection, whose place is taken
        assert answer.status == 200
    pool = proxy.app.snapshot.upstreams["up"].pool
    async with client.ws_connect(proxy.url + REALTIME) as socket:
        assert (pool.idle, pool.busy) == (0, 1)
        async with client.get(proxy.url + "/v1/models/x") as answer:
            assert answer.status == 503
        await socket.close()
    async with asyncio.timeout(2):
        while pool.busy:
            await asyncio.sleep(0.005)
    async with client.get(proxy.url + "/v1/models/x") as answer:
        assert answer.status == 200


async def test_one_that_waits_for_a_place_gets_it(sidecar, setting, provider, client):
    proxy = await sidecar(setting(provider.url, up={"max_connections": 1}))
    first = await client.ws_connect(proxy.url + REALTIME)
    waiting = asyncio.ensure_future(client.ws_connect(proxy.url + REALTIME))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    await first.close()
    async with asyncio.timeout(2):
        second = await waiting
    await second.send_str("mine")
    assert (await second.receive(timeout=2)).data == "mine"
    await second.close()


async def test_a_refused_handshake_leaves_no_connection(sidecar, setting, provider, client):
    provider.refusals = [(401, {"error": {"message": "no"}})] * 3
    proxy = await sidecar(setting(provider.url))
    for _ in range(3):
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await client.ws_connect(proxy.url + REALTIME)
    pool = proxy.app.snapshot.upstreams["up"].pool
    assert (pool.idle, pool.busy) == (0, 0)
