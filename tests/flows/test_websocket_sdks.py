"""Unchanged clients: the openai SDK's realtime and responses sessions, and the websockets library."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import Any

import openai
import pytest
import websockets
from aiohttp import web
from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as serve_websockets

from tests.websocket_peers import Provider

CHAINS: list[list[Any]] = [
    [],
    ["account", {"authenticate": {"method": "none"}}, "validate", {"cache": {}}, {"retry": {}}, "circuit_breaker"],
]
pytestmark = pytest.mark.parametrize("chain", CHAINS, ids=["plain", "chain"])
SESSION = {"type": "session.created", "event_id": "event_1", "session": {"type": "realtime", "model": "gpt-realtime"}}
USAGE = {"total_tokens": 9, "input_tokens": 4, "output_tokens": 5}


async def talk(socket: web.WebSocketResponse) -> None:
    """A provider of realtime sessions, as far as an SDK looks."""
    await socket.send_json(SESSION)
    async for message in socket:
        event = json.loads(message.data)
        if event["type"] == "input_audio_buffer.append":
            size = len(event["audio"])
            await socket.send_json(
                {"type": "input_audio_buffer.committed", "event_id": "e", "item_id": f"heard-{size}"}
            )
        elif event["type"] == "response.create":
            delta = {"type": "response.output_text.delta", "event_id": "event_2", "response_id": "r", "item_id": "i"}
            for text in ("Hel", "lo"):
                await socket.send_json({**delta, "output_index": 0, "content_index": 0, "delta": text})
            response = {"id": "r", "object": "realtime.response", "status": "completed", "output": [], "usage": USAGE}
            await socket.send_json({"type": "response.done", "event_id": "event_3", "response": response})


def sdk(proxy: Any) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=proxy.base_url, api_key="sk-own", max_retries=0)


async def test_a_realtime_session(sidecar, setting, chain):
    async with Provider(talk) as provider:
        proxy = await sidecar(setting(provider.url, *chain))
        async with sdk(proxy) as client, client.realtime.connect(model="gpt-realtime") as session:
            assert (await session.recv()).type == "session.created"
            await session.input_audio_buffer.append(audio="A" * 2_000_000)
            assert (await session.recv()).item_id == "heard-2000000"
            await session.response.create()
            text = ""
            async for event in session:
                if event.type == "response.output_text.delta":
                    text += event.delta
                elif event.type == "response.done":
                    assert event.response.usage.total_tokens == 9
                    break
            assert text == "Hello"
        (request,) = provider.requests
        assert request.raw_path == "/v1/realtime?model=gpt-realtime"
        assert request.headers["Authorization"] == "Bearer sk-own"
        assert await provider.closed() == 1000
        async with asyncio.timeout(2):
            while not proxy.exchanges:
                await asyncio.sleep(0.005)
        call = proxy.exchanges[0]
        assert call.outcome == "answered"
        if chain:
            assert (call.usage.input, call.usage.output) == (4, 5)


async def test_a_refusal_is_the_providers_own(sidecar, setting, chain):
    async with Provider(talk) as provider:
        provider.refusals = [(401, {"error": {"message": "no such key", "code": "invalid_api_key"}})]
        proxy = await sidecar(setting(provider.url, *chain))
        async with sdk(proxy) as client:
            with pytest.raises(Exception, match="401"):
                async with client.realtime.connect(model="gpt-realtime"):
                    pass


@pytest.fixture
async def other() -> Any:
    """A provider on the websockets library's server, which compresses where it may."""
    heard: list[Any] = []

    async def answer(connection: ServerConnection) -> None:
        with suppress(websockets.ConnectionClosed):
            async for message in connection:
                if message == "bye":
                    await connection.close(4321, "as asked")
                else:
                    await connection.send(message)
        heard.append((connection.close_code, connection.close_reason))

    async with serve_websockets(answer, "127.0.0.1", 0, subprotocols=["realtime"], max_size=None) as server:  # type: ignore[list-item]
        yield server.sockets[0].getsockname()[1], heard


async def test_the_websockets_library_on_both_sides(sidecar, setting, other, chain):
    port, heard = other
    proxy = await sidecar(setting(f"http://127.0.0.1:{port}/v1", *chain))
    url = proxy.url.replace("http", "ws") + "/v1/realtime?model=m"
    async with websockets.connect(url, subprotocols=["realtime"], max_size=None, proxy=None) as one:  # type: ignore[list-item]
        assert one.subprotocol == "realtime"
        for said in ("text", b"bytes", "é" * 1_000_000, b"", ""):
            await one.send(said)
            assert await one.recv() == said
        await one.send(["in ", "frag", "ments"])
        assert await one.recv() == "in fragments"
        latency = await (await one.ping(b"there?"))
        assert latency >= 0
        await one.send("bye")
        with pytest.raises(websockets.ConnectionClosedError) as closed:
            await one.recv()
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4321, "as asked")
    async with websockets.connect(url, subprotocols=["realtime"], proxy=None) as one:  # type: ignore[list-item]
        await one.close(4000, "my own")
        assert one.close_code == 4000
    async with asyncio.timeout(2):
        while len(heard) < 2:
            await asyncio.sleep(0.005)
    assert heard == [(4321, "as asked"), (4000, "my own")]
