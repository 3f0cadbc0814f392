"""The flow as one function: what it counts and cleans up, whatever happens."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from proxy.testing import FakeUpstream, chat_answer, chat_events, events, hang, reply, reset

CHAT: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}
STREAM = CHAT | {"stream": True}


@pytest.mark.parametrize(
    ("step", "body", "outcome"),
    [
        (reply(chat_answer()), CHAT, "answered"),
        (reply({"error": {}}, status=400), CHAT, "failed"),
        (reply({"error": {}}, status=500), CHAT, "failed"),
        (reset(), CHAT, "failed"),
        (events(*chat_events(["x"])), STREAM, "answered"),
        (events(*chat_events(["x"], finish=None, done=False), then="reset"), STREAM, "truncated"),
        (reply(chat_answer()), b"{", "refused"),
    ],
)
async def test_every_call_has_one_outcome_and_leaves_nothing(sidecar, setting, wire, step, body, outcome):
    async with FakeUpstream(step, default=reset()) as upstream:
        proxy = await sidecar(setting(upstream, "validate", "account"))
        client = await wire(proxy.port)
        await client.post("/v1/chat/completions", body)
        await client.answer()
        async with asyncio.timeout(2):
            while not proxy.exchanges:
                await asyncio.sleep(0.005)
        assert [exchange.outcome for exchange in proxy.exchanges] == [outcome]
        assert proxy.exchanges[0].ended_at >= proxy.exchanges[0].started_at
        snapshot = proxy.app.snapshot
        assert (snapshot.in_flight, snapshot.buffered, proxy.app.listener.calls) == (set(), 0, 0)
        await upstream.idle(timeout=1) if outcome == "truncated" else None


async def test_a_bug_of_ours_is_a_500_with_an_id_and_no_detail(sidecar, setting, upstream, wire, policy):
    async def strange(self: Any, exchange: Any) -> Any:
        return "no answer at all"

    proxy = await sidecar(setting(upstream, policy(on_request=strange)))
    client = await wire(proxy.port)
    for _ in range(2):
        await client.post("/v1/chat/completions", CHAT)
        answer = await client.answer()
        assert (answer.status, answer.error["code"]) == (500, "internal_error")
        assert answer.header("x-sidecar-request-id")
        assert "no answer" not in answer.error["message"]
    assert [exchange.outcome for exchange in proxy.exchanges] == ["failed"] * 2


async def test_a_storm_of_leaving_clients_leaves_nothing(sidecar, setting, wire):
    async with FakeUpstream(default=hang("in_body")) as upstream:
        proxy = await sidecar(setting(upstream, "validate", {"retry": {"attempts": 2}}, "account"))
        clients = [await wire(proxy.port) for _ in range(40)]
        for client in clients:
            await client.post("/v1/chat/completions", CHAT)
        await upstream.call(39)
        for client in clients:
            client.writer.transport.abort()
        await upstream.idle(timeout=2)
        async with asyncio.timeout(2):
            while len(proxy.exchanges) < 40:
                await asyncio.sleep(0.005)
    assert {exchange.outcome for exchange in proxy.exchanges} == {"cancelled"}
    assert (proxy.app.snapshot.in_flight, proxy.app.snapshot.buffered) == (set(), 0)
