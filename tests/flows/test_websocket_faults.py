"""Websockets whose peers break: what the other side sees, and how soon."""

from __future__ import annotations

import asyncio
import socket as sockets
import struct
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import WSMsgType

from tests.websocket_peers import ByHand, Provider, Session, close, frame, handshake, read_frame

REALTIME = "/v1/realtime?model=gpt-realtime"


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection with a TCP reset."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(sockets.SOL_SOCKET, sockets.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def ended(proxy: Any) -> Any:
    """The only call, once it is over."""
    async with asyncio.timeout(5):
        while not proxy.exchanges:
            await asyncio.sleep(0.002)
    return proxy.exchanges[0]


# --- an upstream that breaks ----------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["close", "reset", "in a frame", "in a header", "in a goodbye"])
async def test_an_upstream_that_breaks_off_is_a_broken_connection(sidecar, setting, client, how):
    async def script(session: Session) -> None:
        session.accept(tail=frame(b"first"))
        assert await session.read() == (1, b"go")
        if how == "reset":
            reset(session.writer)
        elif how == "in a frame":
            session.say(frame(b"x" * 1000)[:500])
        elif how == "in a header":
            session.say(frame(b"x" * 1000)[:3])
        elif how == "in a goodbye":
            session.say(close(1000, b"done")[:5])

    async with ByHand(script) as upstream:
        proxy = await sidecar(setting(upstream.url, {"circuit_breaker": {"fail_max": 1}}))
        async with client.ws_connect(proxy.url + REALTIME) as socket:
            assert (await socket.receive(timeout=2)).data == "first"
            await socket.send_str("go")
            message = await socket.receive(timeout=2)
            assert message.type is WSMsgType.CLOSED
            assert socket.close_code == 1006
        call = await ended(proxy)
        assert call.outcome == "truncated"
        assert call.error.code == "upstream_invalid_response"
        assert (call.attempts[0].outcome, call.attempts[0].failure) == ("truncated", "truncated")
        with pytest.raises(aiohttp.WSServerHandshakeError):  # it was held against the upstream
            await client.ws_connect(proxy.url + REALTIME)


async def test_what_was_said_before_the_break_is_delivered(sidecar, setting, wire):
    said = b"".join(frame(b"%d" % n * 1000) for n in range(200))

    async def script(session: Session) -> None:
        session.accept(tail=said)

    async with ByHand(script) as upstream:
        proxy = await sidecar(setting(upstream.url))
        one = await wire(proxy.port)
        await one.send(handshake())
        await one.head()
        assert await one.reader.read(-1) == said


@pytest.mark.parametrize(
    "bad",
    [
        frame(b"masked", masked=True),
        bytes((0xC1, 1)) + b"x",  # a compressed message
        bytes((0x83, 1)) + b"x",  # an opcode that does not exist
        bytes((0x09, 0)),  # a ping in fragments
        bytes((0x89, 126, 0, 200)) + b"x" * 200,  # a ping too long
        bytes((0x88, 1)) + b"x",  # half a code
        bytes((0x82, 127)) + b"\xff" * 8,  # a negative length
    ],
)
async def test_an_upstream_that_speaks_nonsense_is_cut_off(sidecar, setting, client, bad):
    async def script(session: Session) -> None:
        session.accept(tail=frame(b"first"))
        await session.read()
        session.say(bad)
        await session.left(1)

    async with ByHand(script) as upstream:
        proxy = await sidecar(setting(upstream.url))
        async with client.ws_connect(proxy.url + REALTIME) as socket:
            assert (await socket.receive(timeout=2)).data == "first"
            await socket.send_str("go")
            await socket.receive(timeout=2)
            assert socket.close_code == 1006
        call = await ended(proxy)
        assert (call.outcome, call.attempts[0].failure) == ("failed", "invalid_response")


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"accept": "AAAAAAAAAAAAAAAAAAAAAAAAAAA="}, "Accept is wrong"),
        ({"lines": ("Sec-WebSocket-Protocol: other",)}, "subprotocol that was not offered"),
        ({"lines": ("Sec-WebSocket-Extensions: permessage-deflate",)}, "extension that was not offered"),
    ],
)
async def test_a_101_that_does_not_answer_our_handshake(sidecar, setting, wire, how, why):
    async def script(session: Session) -> None:
        session.accept(*how.pop("lines", ()), **how)
        await session.left(1)

    async with ByHand(script) as upstream:
        proxy = await sidecar(setting(upstream.url))
        one = await wire(proxy.port)
        await one.send(handshake("Sec-WebSocket-Protocol: realtime"))
        answer = await one.answer()
        assert (answer.status, answer.error["code"]) == (502, "upstream_invalid_response")
        assert why in answer.error["message"]
        await upstream.idle()
    assert proxy.exchanges[0].outcome == "failed"


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
        b"HTTP/1.0 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"this is no HTTP\r\n\r\n",
    ],
)
async def test_a_101_that_is_none(sidecar, setting, wire, head):
    async def script(session: Session) -> None:
        session.say(head)
        await session.left(1)

    async with ByHand(script) as upstream:
        proxy = await sidecar(setting(upstream.url))
        one = await wire(proxy.port)
        await one.send(handshake())
        assert (await one.answer()).status == 502
        await upstream.idle()


async def test_a_101_to_a_call_that_asked_for_none_is_refused(sidecar, setting, wire):
    async def script(session: Session) -> None:
        session.accept()
        await session.left(1)

    async with ByHand(script) as upstream:
        proxy = await sidecar(setting(upstream.url))
        one = await wire(proxy.port)
        await one.get("/v1/realtime")
        assert (await one.answer()).status == 502


@pytest.mark.parametrize("when", ["at once", "in the head"])
async def test_an_upstream_that_hangs_up_in_the_handshake(sidecar, setting, wire, when):
    async def script(session: Session) -> None:
        if when == "in the head":
            session.say(b"HTTP/1.1 101 Swit")

    async with ByHand(script) as upstream:
        proxy = await sidecar(setting(upstream.url))
        one = await wire(proxy.port)
        await one.send(handshake())
        answer = await one.answer()
        assert (answer.status, answer.error["code"]) == (502, "upstream_unreachable")


async def test_an_upstream_that_is_not_there(sidecar, setting, wire):
    with sockets.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        proxy = await sidecar(setting(f"http://127.0.0.1:{taken.getsockname()[1]}/v1"))
        one = await wire(proxy.port)
        await one.send(handshake())
        answer = await one.answer()
        assert (answer.status, answer.error["code"]) == (502, "upstream_unreachable")


# --- deadlines ------------------------------------------------------------------------------------------


async def test_an_upstream_that_does_not_answer_the_handshake(sidecar, setting, wire):
    async def script(session: Session) -> None:
        await session.left()

    async with ByHand(script) as upstream:
        proxy = await sidecar(setting(upstream.url, up={"timeouts": {"first_byte": "200ms"}}))
        one = await wire(proxy.port)
        await one.send(handshake())
        answer = await one.answer()
        assert (answer.status, answer.error["code"]) == (504, "upstream_timeout")
        await upstream.idle()


@pytest.mark.parametrize("which", ["idle", "total"])
async def test_the_deadlines_of_a_session(sidecar, setting, client, which):
    async with Provider() as provider:
        chain = ["account", {"circuit_breaker": {"fail_max": 1}}]
        proxy = await sidecar(setting(provider.url, *chain, up={"timeouts": {which: "300ms"}}))
        async with client.ws_connect(proxy.url + REALTIME) as socket:
            loop = asyncio.get_running_loop()
            began = loop.time()
            while which == "total" and loop.time() - began < 0.2:
                await socket.send_str("busy")
                await socket.receive(timeout=1)
            message = await socket.receive(timeout=2)
            assert (message.type, message.data) == (WSMsgType.CLOSE, 1011)
            assert message.extra.startswith("upstream_timeout")
            assert 0.25 < loop.time() - began < 0.8
        assert await provider.closed() == 1001
        call = await ended(proxy)
        assert (call.outcome, call.error.code) == ("failed", "upstream_timeout")
        async with client.ws_connect(proxy.url + REALTIME) as socket:  # a silent client is not the upstream's failure
            await socket.close()


async def test_a_silence_inside_a_frame_breaks_the_connection(sidecar, setting, client):
    async def script(session: Session) -> None:
        session.accept(tail=frame(b"x" * 1000)[:500])
        await session.left()

    async with ByHand(script) as upstream:
        proxy = await sidecar(setting(upstream.url, up={"timeouts": {"idle": "200ms"}}))
        async with client.ws_connect(proxy.url + REALTIME) as socket:
            await socket.receive(timeout=2)
            assert socket.close_code == 1006


async def test_the_deadline_of_retry_bounds_the_session_too(sidecar, setting, client):
    async with Provider() as provider:
        proxy = await sidecar(setting(provider.url, {"retry": {"deadline": "300ms"}}))
        async with client.ws_connect(proxy.url + REALTIME) as socket:
            message = await socket.receive(timeout=2)
            assert (message.type, message.data) == (WSMsgType.CLOSE, 1011)


# --- a client that breaks -------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["close", "reset", "half", "in a frame"])
async def test_the_upstream_ends_within_100_ms_after_the_client(sidecar, setting, wire, how):
    gone: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    async def script(session: Session) -> None:
        session.accept(tail=frame(b"hello"))
        await session.left()
        gone.set_result(asyncio.get_running_loop().time())

    async with ByHand(script) as upstream:
        proxy = await sidecar(setting(upstream.url, "account"))
        one = await wire(proxy.port)
        await one.send(handshake())
        await one.head()
        assert await read_frame(one.reader) == (1, b"hello")
        if how == "in a frame":
            await one.send(frame(b"x" * 1000, masked=True)[:500])
            await asyncio.sleep(0.02)
        began = asyncio.get_running_loop().time()
        if how == "reset":
            reset(one.writer)
        elif how == "half":
            one.writer.write_eof()
        else:
            one.writer.close()
        async with asyncio.timeout(2):
            assert await gone - began < 0.1
        call = await ended(proxy)
        assert (call.outcome, call.attempts[0].outcome) == ("cancelled", "cancelled")
        await upstream.idle()


@pytest.mark.parametrize("when", ["in the handshake", "in a policy"])
async def test_a_client_that_leaves_before_the_101(sidecar, setting, wire, policy, when):
    came = asyncio.Event()

    async def script(session: Session) -> None:
        if when == "in a policy":
            session.accept(tail=frame(b"x"))
        else:
            came.set()
        await session.left()

    async def on_response(self: Any, exchange: Any, answer: Any) -> None:
        came.set()
        await asyncio.Event().wait()

    async with ByHand(script) as upstream:
        chain = [policy(on_response=on_response)] if when == "in a policy" else []
        proxy = await sidecar(setting(upstream.url, *chain))
        one = await wire(proxy.port)
        await one.send(handshake())
        async with asyncio.timeout(2):
            await came.wait()
        one.writer.close()
        assert (await ended(proxy)).outcome == "cancelled"
        await upstream.idle()
    assert proxy.app.snapshot.in_flight == set()


@pytest.mark.parametrize("bad", [frame(b"not masked"), bytes((0xC1, 0x80)) + b"abcd", bytes((0x8F, 0x80)) + b"abcd"])
async def test_a_client_that_speaks_nonsense_is_told_and_cut_off(sidecar, setting, wire, bad):
    async def script(session: Session) -> None:
        session.accept()
        assert await session.reader.read() == good

    good = frame(b"good", masked=True)
    async with ByHand(script) as upstream:
        proxy = await sidecar(setting(upstream.url, {"circuit_breaker": {"fail_max": 1}}))
        one = await wire(proxy.port)
        await one.send(handshake())
        await one.head()
        await one.send(good)
        await asyncio.sleep(0.05)
        await one.send(bad)
        opcode, payload = await read_frame(one.reader)
        assert (opcode, payload[:2]) == (8, (1002).to_bytes(2, "big"))
        assert await one.closed()
        call = await ended(proxy)
        assert (call.outcome, call.error.code, call.attempts[0].outcome) == ("refused", "invalid_request", "stopped")


async def test_a_client_that_says_goodbye_and_hangs_up_has_not_left(sidecar, setting, wire):
    heard: list[Any] = []

    async def script(session: Session) -> None:
        session.accept()
        heard.append(await session.read())
        heard.append(await session.reader.read())

    async with ByHand(script) as upstream:
        proxy = await sidecar(setting(upstream.url))
        one = await wire(proxy.port)
        await one.send(handshake())
        await one.head()
        await one.send(close(4000, b"bye", masked=True))
        await one.hang_up()
        call = await ended(proxy)
        await upstream.idle()
    assert heard == [(8, b"\x0f\xa0bye"), b""]
    assert (call.outcome, call.attempts[0].outcome) == ("answered", "answered")


async def test_a_client_that_half_closes_after_its_goodbye_hears_the_answer(sidecar, setting, wire):
    async def script(session: Session) -> None:
        session.accept()
        await session.read()
        await asyncio.sleep(0.1)
        session.say(frame(b"one more thing") + close(1000))
        await session.left()

    async with ByHand(script) as upstream:
        proxy = await sidecar(setting(upstream.url))
        one = await wire(proxy.port)
        await one.send(handshake())
        await one.head()
        await one.send(close(1000, masked=True))
        one.writer.write_eof()
        assert await read_frame(one.reader) == (1, b"one more thing")
        assert await read_frame(one.reader) == (8, b"\x03\xe8")
        assert await one.closed()
    assert proxy.exchanges[0].outcome == "answered"


async def test_an_upstream_that_half_closes_after_its_goodbye_hears_the_answer(sidecar, setting, wire):
    heard: list[Any] = []

    async def script(session: Session) -> None:
        session.accept(tail=close(4001, b"enough"))
        session.writer.write_eof()
        heard.append(await session.read())

    async with ByHand(script) as upstream:
        proxy = await sidecar(setting(upstream.url))
        one = await wire(proxy.port)
        await one.send(handshake())
        await one.head()
        assert await read_frame(one.reader) == (8, b"\x0f\xa1enough")
        await asyncio.sleep(0.05)
        await one.send(close(4001, masked=True))
        assert await one.closed()
        await upstream.idle()
    assert heard == [(8, b"\x0f\xa1")]


@pytest.mark.parametrize("who", ["client", "upstream"])
async def test_a_goodbye_that_is_never_answered(sidecar, setting, wire, monkeypatch, who):
    monkeypatch.setattr("proxy.websocket.relay.CLOSE_WAIT", 0.2)

    async def script(session: Session) -> None:
        session.accept(tail=close(1000) if who == "upstream" else b"")
        await session.left()

    async with ByHand(script) as upstream:
        proxy = await sidecar(setting(upstream.url))
        one = await wire(proxy.port)
        await one.send(handshake())
        await one.head()
        if who == "client":
            await one.send(close(1000, masked=True))
        else:
            assert (await read_frame(one.reader))[0] == 8
        assert await one.closed(timeout=2)
        await upstream.idle()
        assert (await ended(proxy)).outcome == "answered"


async def test_nothing_breaks_when_the_head_comes_byte_by_byte(sidecar, setting, wire):
    async def slowly(session: Session) -> None:
        class Slow:
            def write(self, data: bytes) -> None:
                self.data = data

        real, slow = session.writer, Slow()
        session.writer = slow  # type: ignore[assignment]
        session.accept(tail=frame(b"hello"))
        session.writer = real
        for place in range(len(slow.data)):
            real.write(slow.data[place : place + 1])
            await real.drain()
            await asyncio.sleep(0)
        await session.left()

    async with ByHand(slowly) as upstream:
        proxy = await sidecar(setting(upstream.url))
        one = await wire(proxy.port)
        for place in range(len(handshake())):
            await one.send(handshake()[place : place + 1])
        assert (await one.head()).status == 101
        assert await read_frame(one.reader) == (1, b"hello")
