"""What an operator sees of failing upstreams."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp

from proxy.testing import FakeUpstream, reply

CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}


def configured(first: FakeUpstream, **health: Any) -> dict[str, Any]:
    upstream: dict[str, Any] = {"api": "openai", "base_url": first.url}
    if health:
        upstream["health"] = health
    return {
        "upstreams": {"first": upstream},
        "models": {"fast": {"model": "gpt-4o-mini"}},
        "routes": [{"upstream": "first", "chain": "c"}],
        "chains": {"c": [{"circuit_breaker": {"fail_max": 2, "reset": "60s"}}]},
    }


async def page(client: aiohttp.ClientSession, proxy: Any, name: str) -> Any:
    async with client.get(f"{proxy.admin_url}/api/v1/{name}") as answer:
        assert answer.status == 200
        return await answer.json()


async def test_breakers_page_tells_state_reason_and_history(sidecar: Any, first: FakeUpstream) -> None:
    first.default = reply({"error": {}}, status=500)
    proxy = await sidecar(configured(first))
    async with aiohttp.ClientSession() as client:
        assert await page(client, proxy, "breakers") == []
        for _ in range(3):
            async with client.post(f"{proxy.base_url}/chat/completions", json=CHAT) as answer:
                await answer.read()
        (breaker,) = await page(client, proxy, "breakers")
    assert (breaker["upstream"], breaker["per"], breaker["state"]) == ("first", "upstream", "open")
    assert breaker["reason"] == "2 failures in a row, the last: server_error"
    assert 50 < breaker["retry_after"] <= 60
    assert [change["new"] for change in breaker["history"]] == ["open"]


async def test_upstreams_page_tells_what_the_checks_found(sidecar: Any, first: FakeUpstream) -> None:
    first.default = reply({"data": [{"id": "gpt-4o-mini"}]})
    proxy = await sidecar(configured(first, every="20ms"))
    async with aiohttp.ClientSession() as client:
        await first.call(1)
        (upstream,) = await page(client, proxy, "upstreams")
        assert (upstream["reachable"], upstream["success_rate"]) == (True, 1.0)
        assert upstream["models"] == {"gpt-4o-mini": True}
        first.default = reply({}, status=503)
        async with asyncio.timeout(3.0):
            while (await page(client, proxy, "breakers") or [{"state": ""}])[0]["state"] != "open":
                await asyncio.sleep(0.01)
        (upstream,) = await page(client, proxy, "upstreams")
        assert (upstream["reachable"], upstream["reason"]) == (False, "status 503")


async def test_no_check_is_sent_unless_configured(sidecar: Any, first: FakeUpstream) -> None:
    proxy = await sidecar(configured(first))
    async with aiohttp.ClientSession() as client:
        (upstream,) = await page(client, proxy, "upstreams")
    assert (upstream["reachable"], upstream["health"]) == (None, None)
    assert first.calls == []
