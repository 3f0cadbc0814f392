"""The end of ``server.drain``: calls that are cut tell their clients so, and are in the books before they do."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import pytest

from proxy.testing import FakeUpstream, chat_events, collect_sse, events, hang

CHAT: dict[str, Any] = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}
STREAM = CHAT | {"stream": True}
OPEN = chat_events(["one"], finish=None, done=False)
CHAINS: list[list[Any]] = [
    [],
    ["account"],
    ["account", {"cache": {"ttl": "1h"}}, {"retry": {"attempts": 3}}, "circuit_breaker"],
]
"""Bytes that nobody reads; events that are counted; a flight."""


async def stop(proxy: Any) -> None:
    """Drain and stop, as after a signal."""
    await proxy.app.drain()
    await proxy.app.stop()


@pytest.mark.parametrize("chain", CHAINS)
async def test_a_call_without_an_answer_gets_503(sidecar, setting, wire, chain):
    async with FakeUpstream(hang()) as upstream:
        proxy = await sidecar(setting(upstream, *chain, server={"drain": "0s"}))
        client = await wire(proxy.port)
        await client.post("/v1/chat/completions", CHAT)
        call = await upstream.call()
        stopping = asyncio.ensure_future(stop(proxy))
        answer = await client.answer()
        assert (answer.status, json.loads(answer.body)["error"]["code"]) == (503, "draining")
        assert answer.header("retry-after") == "1"
        assert await client.closed()
        async with asyncio.timeout(1):
            await call.disconnected
        await stopping
    (done,) = proxy.exchanges
    assert (done.outcome, done.error.code) == ("failed", "draining")
    assert [attempt.outcome for attempt in done.attempts] == ["cancelled"]


async def test_it_is_said_in_the_clients_dialect(sidecar, setting, wire):
    async with FakeUpstream(hang()) as upstream:
        proxy = await sidecar(setting(upstream, server={"drain": "0s"}))
        client = await wire(proxy.port)
        await client.post("/v1/messages", CHAT | {"max_tokens": 5})
        await upstream.call()
        stopping = asyncio.ensure_future(stop(proxy))
        error = json.loads((await client.answer()).body)
        assert (error["type"], error["error"]["type"], error["error"]["code"]) == (
            "error", "overloaded_error", "draining",
        )  # fmt: skip
        await stopping


@pytest.mark.parametrize("chain", CHAINS)
async def test_a_stream_ends_with_its_error_event(sidecar, setting, wire, chain):
    async with FakeUpstream(events(*OPEN, then="hang")) as upstream:
        proxy = await sidecar(setting(upstream, *chain, server={"drain": "0s"}))
        client = await wire(proxy.port)
        await client.post("/v1/chat/completions", STREAM)
        await client.head()
        body = await client.chunk()
        stopping = asyncio.ensure_future(stop(proxy))
        while piece := await client.chunk():
            body += piece
        assert collect_sse(body)[-1]["error"]["code"] == "draining"
        assert await client.closed()
        await stopping
    done = proxy.exchanges[-1]
    assert (done.outcome, done.error.code) == ("truncated", "draining")


async def test_bytes_that_have_no_words_for_it_break_off(sidecar, setting, wire):
    async def sends_a_part(call: Any) -> None:
        call.write(b"HTTP/1.1 200 OK\r\ncontent-type: audio/mpeg\r\ncontent-length: 300000\r\n\r\npart")
        await asyncio.Event().wait()

    async with FakeUpstream(sends_a_part) as upstream:
        proxy = await sidecar(setting(upstream, server={"drain": "0s"}))
        client = await wire(proxy.port)
        await client.post("/v1/files/content", b"x", "Content-Type: audio/mpeg")
        await client.head()
        stopping = asyncio.ensure_future(stop(proxy))
        assert await client.reader.read() == b"part"
        await stopping
    assert proxy.exchanges[-1].outcome == "truncated"


async def test_everybody_who_waits_for_a_shared_call_is_told(sidecar, setting, wire):
    async with FakeUpstream(hang()) as upstream:
        proxy = await sidecar(setting(upstream, {"cache": {"ttl": "1h"}}, server={"drain": "0s"}))
        clients = [await wire(proxy.port) for _ in range(3)]
        for client in clients:
            await client.post("/v1/chat/completions", CHAT)
        await upstream.call()
        async with asyncio.timeout(2):
            while len(proxy.app.snapshot.in_flight) < 3:
                await asyncio.sleep(0)
        stopping = asyncio.ensure_future(stop(proxy))
        for client in clients:
            assert json.loads((await client.answer()).body)["error"]["code"] == "draining"
        await stopping
        assert len(upstream.calls) == 1
    assert [done.outcome for done in proxy.exchanges] == ["failed"] * 3


async def test_a_call_that_is_cut_in_its_upload_is_told(sidecar, setting, wire):
    async with FakeUpstream() as upstream:
        proxy = await sidecar(setting(upstream, server={"drain": "0s"}))
        client = await wire(proxy.port)
        client.writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            b"content-length: 1000\r\n\r\n{"
        )
        async with asyncio.timeout(2):
            while not proxy.app.snapshot.in_flight:
                await asyncio.sleep(0)
        stopping = asyncio.ensure_future(stop(proxy))
        assert json.loads((await client.answer()).body)["error"]["code"] == "draining"
        await stopping


async def test_a_policy_that_does_not_let_go_is_cut_all_the_same(sidecar, setting, wire, policy):
    async def stubborn(self: Any, exchange: Any) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        await asyncio.sleep(60)

    async with FakeUpstream() as upstream:
        proxy = await sidecar(setting(upstream, policy(on_request=stubborn), server={"drain": "0s"}))
        client = await wire(proxy.port)
        await client.post("/v1/chat/completions", CHAT)
        async with asyncio.timeout(2):
            while not proxy.app.snapshot.in_flight:
                await asyncio.sleep(0)
        async with asyncio.timeout(4):
            await stop(proxy)
