"""A proxy with a cache in its chain, calls to it, and a real Redis."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from proxy.exact import read
from proxy.testing import FakeUpstream

BODY = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}


@dataclass
class Got:
    """An answer read to its end."""

    status: int
    headers: dict[str, str]
    text: str
    json: Any

    @property
    def cache(self) -> str | None:
        return self.headers.get("x-sidecar-cache")

    @property
    def content(self) -> str:
        return self.json["choices"][0]["message"]["content"]


class Caller:
    """Calls one proxy. ``say`` asks for a chat completion; more fields and headers as given."""

    def __init__(self, proxy: Any) -> None:
        self.proxy = proxy
        self.session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        self.opened: list[aiohttp.ClientResponse] = []

    async def close(self) -> None:
        for answer in self.opened:
            answer.close()
        await self.session.close()

    async def post(self, path: str, body: Any, headers: dict[str, str] | None = None) -> Got:
        async with self.session.post(self.proxy.base_url + path, json=body, headers=headers or {}) as answer:
            text = await answer.text()
            json = read(text.encode()) if text.startswith("{") else None
            return Got(answer.status, {k.lower(): v for k, v in answer.headers.items()}, text, json)

    async def say(self, text: str = "Hello", *, headers: dict[str, str] | None = None, **fields: Any) -> Got:
        body = {**BODY, "messages": [{"role": "user", "content": text}], **fields}
        return await self.post("/chat/completions", body, headers)

    @property
    def cache(self) -> Any:
        """The cache policy of the chain."""
        return self.proxy.app.snapshot.chains["main"].find("cache")

    async def until(self, what: Callable[[], bool]) -> None:
        """Wait for what the proxy does behind an answer."""
        async with asyncio.timeout(5):
            while not what():
                await asyncio.sleep(0.002)


Cached = Callable[..., Awaitable[Caller]]


@pytest.fixture
async def cached(sidecar: Any) -> AsyncIterator[Cached]:
    """Start a proxy: ``caller = await cached(upstream, ttl="1h")``. above, below: policies around the cache."""
    callers: list[Caller] = []

    async def start(
        upstream: FakeUpstream, *, above: list[Any] = [], below: list[Any] = [], mode: str | None = None,  # noqa: B006
        more: dict[str, Any] | None = None, env: dict[str, str] | None = None, **options: Any,
    ) -> Caller:  # fmt: skip
        entry = {**options, **({"mode": mode} if mode else {})}
        proxy = await sidecar(
            {
                "upstreams": {"up": {"api": "openai", "base_url": upstream.url}},
                "routes": [{"match": {"path": "/v1/*"}, "upstream": "up", "chain": "main"}],
                "chains": {"main": [*above, {"cache": entry}, *below]},
                **(more or {}),
            },
            env=env,
        )
        callers.append(Caller(proxy))
        return callers[-1]

    yield start
    for caller in callers:
        await caller.close()


class Redis:
    """A redis-server that a test may kill and start again."""

    def __init__(self, folder: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    async def start(self) -> None:
        self.process = subprocess.Popen(
            ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
             "--dir", self.folder],
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        async with asyncio.timeout(5):
            while True:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                        return
                await asyncio.sleep(0.01)

    def stall(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@pytest.fixture
async def redis(tmp_path: Any) -> AsyncIterator[Redis]:
    server = Redis(str(tmp_path))
    await server.start()
    yield server
    server.kill()
