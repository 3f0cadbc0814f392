"""The connection loop over real sockets: what it takes of aiohttp's undocumented parts has to go on working.

_messages and _parser: several calls in one read, and one call in many. _waiter: a connection that waits for its next
call. _close: draining and connections that end after their call.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from proxy.testing import FakeUpstream, chat_answer, hang, reply

CHAT: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}
DATA = json.dumps(CHAT).encode()
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(DATA)


async def test_many_calls_in_one_read(sidecar, setting, upstream, wire):
    proxy = await sidecar(setting(upstream))
    client = await wire(proxy.port)
    await client.send((HEAD + DATA) * 20)
    assert [(await client.answer()).status for _ in range(20)] == [200] * 20
    assert [call.body for call in upstream.calls] == [DATA] * 20


async def test_one_call_in_many_reads(sidecar, setting, upstream, wire):
    proxy = await sidecar(setting(upstream))
    client = await wire(proxy.port)
    for letter in HEAD + DATA:
        await client.send(bytes([letter]))
        await asyncio.sleep(0)
    assert (await client.answer()).status == 200
    assert upstream.calls[0].body == DATA


@pytest.mark.parametrize("cut", range(0, len(HEAD) + len(DATA), 13))
async def test_a_call_cut_anywhere_behind_another(sidecar, setting, upstream, wire, cut):
    proxy = await sidecar(setting(upstream))
    client = await wire(proxy.port)
    await client.send(HEAD + DATA + (HEAD + DATA)[:cut])
    assert (await client.answer()).status == 200
    await client.send((HEAD + DATA)[cut:])
    assert (await client.answer()).status == 200
    assert [call.body for call in upstream.calls] == [DATA] * 2


async def test_a_head_that_comes_again_with_another_body(sidecar, setting, upstream, wire):
    proxy = await sidecar(setting(upstream, "validate"))
    client = await wire(proxy.port)
    for number in (1, 10, 100, 1000, 5, 0, 20_000):
        body = CHAT | {"user": "u" * number}
        await client.post("/v1/chat/completions", body, "X-Same: 1")
        assert (await client.answer()).status == 200
        assert upstream.calls[-1].json == body
        assert upstream.calls[-1].header("x-same") == "1"


async def test_a_head_that_differs_by_one_letter_is_read_anew(sidecar, setting, upstream, wire):
    proxy = await sidecar(setting(upstream, "validate"))
    client = await wire(proxy.port)
    for number in range(12):
        await client.post("/v1/chat/completions", CHAT, f"Authorization: Bearer key-{number // 3}")
        assert (await client.answer()).status == 200
        assert upstream.calls[-1].header("authorization") == f"Bearer key-{number // 3}"


async def test_a_bad_call_behind_a_remembered_head(sidecar, setting, upstream, wire):
    proxy = await sidecar(setting(upstream, "validate"))
    client = await wire(proxy.port)
    for body, status in ((CHAT, 200), (CHAT, 200), (b"{", 400), (CHAT, 200), (b"", 400), (CHAT, 200)):
        await client.post("/v1/chat/completions", body)
        assert (await client.answer()).status == status


async def test_an_idle_connection_closes_when_the_listener_stops(sidecar, setting, upstream, wire):
    proxy = await sidecar(setting(upstream))
    fresh, used = await wire(proxy.port), await wire(proxy.port)
    await used.post("/v1/chat/completions", CHAT)
    await used.answer()
    proxy.app.listener.stop_accepting()
    assert await fresh.closed()
    assert await used.closed()


async def test_a_busy_connection_closes_after_its_call(sidecar, setting, wire):
    async with FakeUpstream(reply(chat_answer(), delay=0.2)) as upstream:
        proxy = await sidecar(setting(upstream))
        client = await wire(proxy.port)
        await client.post("/v1/chat/completions", CHAT)
        await upstream.call()
        proxy.app.listener.stop_accepting()
        answer = await client.answer()
        assert (answer.status, answer.header("connection")) == (200, "close")
        assert await client.closed()


async def test_connections_over_the_limit_wait_their_turn(sidecar, setting, wire):
    async with FakeUpstream(hang(), default=reply(chat_answer())) as upstream:
        proxy = await sidecar(setting(upstream, server={"max_connections": 1}))
        first, second = await wire(proxy.port), await wire(proxy.port)
        await first.post("/v1/chat/completions", CHAT)
        await upstream.call()
        await second.post("/v1/chat/completions", CHAT)
        with pytest.raises(TimeoutError):
            await second.answer(timeout=0.2)
        assert len(upstream.calls) == 1
        first.writer.close()
        assert (await second.answer()).status == 200


async def test_a_refused_body_is_read_away_so_that_the_answer_is_seen(sidecar, setting, upstream, wire):
    proxy = await sidecar(setting(upstream, server={"max_body": "1KiB"}))
    client = await wire(proxy.port)
    await client.post("/v1/chat/completions", b"x" * 300_000)
    answer = await client.answer()
    assert (answer.status, answer.header("connection")) == (413, "close")


async def test_an_unread_body_does_not_become_the_next_call(sidecar, setting, upstream, wire):
    routes = [{"match": {"path": "/v1/chat/*"}, "upstream": "up", "chain": "main"}]
    proxy = await sidecar(setting(upstream, routes=routes))
    client = await wire(proxy.port)
    inner = b"GET /v1/chat/inner HTTP/1.1\r\nHost: localhost\r\n\r\n"
    await client.post("/v1/none", inner)
    assert (await client.answer()).status == 404
    await client.post("/v1/chat/completions", CHAT)
    assert (await client.answer()).status == 200
    assert [call.path for call in upstream.calls] == ["/v1/chat/completions"]
