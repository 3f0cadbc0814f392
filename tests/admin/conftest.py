"""A proxy and a client of its admin port."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import pytest

CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "My mail is ann@example.com"}]}
SECRET = "sk-secret-of-the-provider"


class Operator:
    """The proxy, and somebody who looks at it. get and post return (status, JSON)."""

    def __init__(self, proxy: Any, client: aiohttp.ClientSession) -> None:
        self.proxy = proxy
        self.app = proxy.app
        self.client = client

    async def get(self, path: str, **query: str) -> tuple[int, Any]:
        async with self.client.get(self.proxy.admin_url + path, params=query) as answer:
            return answer.status, await answer.json()

    async def page(self, name: str, **query: str) -> Any:
        status, body = await self.get(f"/api/v1/{name}", **query)
        assert status == 200, body
        return body

    async def post(self, name: str, body: Any = None) -> tuple[int, Any]:
        async with self.client.post(f"{self.proxy.admin_url}/api/v1/{name}", json=body) as answer:
            return answer.status, await answer.json()

    async def metrics(self) -> dict[str, float]:
        async with self.client.get(self.proxy.admin_url + "/metrics") as answer:
            assert answer.content_type == "text/plain"
            lines = (await answer.text()).splitlines()
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}

    async def call(self, headers: dict[str, str] | None = None, **more: Any) -> int:
        url = self.proxy.base_url + "/chat/completions"
        async with self.client.post(url, json=CHAT | more, headers=headers) as answer:
            await answer.read()
            return answer.status


@pytest.fixture
async def operator(sidecar: Any) -> AsyncIterator[Callable[..., Awaitable[Operator]]]:
    clients: list[aiohttp.ClientSession] = []

    async def start(config: Any, **more: Any) -> Operator:
        clients.append(aiohttp.ClientSession())
        return Operator(await sidecar(config, **more), clients[-1])

    yield start
    for client in clients:
        await client.close()


@pytest.fixture
def whole(setting: Any, upstream: Any) -> Callable[..., dict[str, Any]]:
    """A configuration in which every part is there."""

    def make(**more: Any) -> dict[str, Any]:
        return setting(
            upstream,
            "account",
            {"authenticate": {"method": "none"}},
            {"rate_limit": {"rpm": 100, "max_concurrent": 5}},
            {"shed_load": {"max_in_flight": 10}},
            {"cache": {"ttl": "1h"}},
            {"retry": {"attempts": 2, "backoff": {"initial": "1ms"}}},
            "select_key",
            {"circuit_breaker": {"fail_max": 3}},
            {"budget": {"per": "project", "usd": 5, "tokens": 100000, "window": "day"}},
            up={"keys": "pool"},
            keys={"pool": {"keys": [{"id": "main_key", "secret": SECRET, "max_rpm": 50}]}},
            **more,
        )

    return make
