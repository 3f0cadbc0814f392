"""A whole proxy in this process, in front of scripted providers, with a recorder on top of each chain."""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
import types
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxy import lifecycle
from proxy.clock import SystemClock
from proxy.exchange import Attempt, Exchange
from proxy.listener import Listener
from proxy.load import load_config
from proxy.policy import Policy, Verdict
from proxy.services import Services
from proxy.snapshot import Snapshot
from proxy.testing import Call, FakeUpstream, called, chat_answer, chat_events, events, reply
from proxy.upstream.breakers import Breakers
from proxy.wiring import offer_services

CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}


class Recorder(Policy):
    """Counts what every attempt must have: one on_attempt_end for each on_attempt."""

    name = "recorder"
    begun: dict[Attempt, int]
    ended: dict[Attempt, int]
    done: list[Exchange]

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.begun, self.ended, self.done = {}, {}, []

    async def on_attempt(self, exchange: Exchange, attempt: Attempt) -> None:
        self.begun[attempt] = self.begun.get(attempt, 0) + 1

    async def on_attempt_end(self, exchange: Exchange, attempt: Attempt) -> None:
        self.ended[attempt] = self.ended.get(attempt, 0) + 1

    async def on_done(self, exchange: Exchange) -> None:
        self.done.append(exchange)

    @property
    def outcomes(self) -> list[str | None]:
        """How the attempts that were sent ended, in the order in which they were sent."""
        sent = [one for one in self.begun if one.sent]
        return [one.outcome for one in sorted(sent, key=lambda one: one.number)]


class Wobbly(Recorder):
    """Lets go of the loop in every hook, so that a call can be cancelled inside each."""

    name = "wobbly"

    async def on_attempt(self, exchange: Exchange, attempt: Attempt) -> None:
        await asyncio.sleep(random.random() * 0.002)
        await called(super().on_attempt(exchange, attempt))

    async def on_result(self, exchange: Exchange, attempt: Attempt, verdict: Verdict) -> None:
        await asyncio.sleep(random.random() * 0.002)

    async def on_attempt_end(self, exchange: Exchange, attempt: Attempt) -> None:
        await called(super().on_attempt_end(exchange, attempt))
        await asyncio.sleep(random.random() * 0.002)


_module = types.ModuleType("faults_recorder")
_module.Wobbly = Wobbly  # type: ignore[attr-defined]
_module.Recorder = Recorder  # type: ignore[attr-defined]
sys.modules["faults_recorder"] = _module


@dataclass
class Answer:
    """What a client got. broken: the body did not end as its framing promised."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    broken: bool
    seconds: float

    @property
    def code(self) -> str | None:
        error = json.loads(self.body).get("error") if self.body[:1] == b"{" else None
        return error.get("code") if isinstance(error, dict) else None


@dataclass
class Proxy:
    """The running proxy. ``chain`` is the only one."""

    snapshot: Snapshot
    listener: Listener
    client: aiohttp.ClientSession
    recorder: Recorder
    breakers: Breakers
    url: str

    async def post(
        self,
        body: Mapping[str, Any] | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        path: str = "/chat/completions",
    ) -> Answer:
        began = time.perf_counter()
        async with self.client.post(self.url + path, json=body or CHAT, headers=dict(headers or {})) as answer:
            got, broken = b"", False
            try:
                async for piece in answer.content.iter_any():
                    got += piece
            except aiohttp.ClientError:
                broken = True
            return Answer(answer.status, answer.headers, got, broken, time.perf_counter() - began)

    async def at_rest(self) -> None:
        """Wait until no call is in progress, and check that nothing of any call is left."""
        async with asyncio.timeout(5.0):
            while self.listener.calls or self.snapshot.in_flight:
                await asyncio.sleep(0.002)
            for upstream in self.snapshot.upstreams.values():
                while upstream.pool.busy or upstream.pool.waiting:
                    await asyncio.sleep(0.002)
        recorders = [one for one in self.snapshot.chains["c"].policies if isinstance(one, Recorder)]
        async with asyncio.timeout(1.0):
            while any(one.begun.keys() != one.ended.keys() for one in recorders):
                await asyncio.sleep(0.002)  # the end of a lost hedge may outlive its call by a moment
        for one in recorders:
            assert set(one.begun.values()) | set(one.ended.values()) <= {1}
            assert all(attempt.outcome is not None for attempt in one.begun)
        assert len(self.recorder.done) == len(set(map(id, self.recorder.done)))
        assert all(one["probes_running"] == 0 for one in self.breakers.snapshot())


Start = Callable[..., Awaitable[Proxy]]


@asynccontextmanager
async def open_proxy(
    folder: Path,
    chain: list[Any],
    *,
    state: Any = None,
    options: Mapping[str, Any] | None = None,
    keys: list[Any] | None = None,
    **urls: str,
) -> AsyncIterator[Proxy]:
    """A proxy with one chain and upstreams by name; the route leads to the first of them."""
    config = {
        "server": {"host": "127.0.0.1", "port": 0},
        "admin": {"enabled": False},
        "upstreams": {
            name: {
                "api": "openai",
                "base_url": url,
                "timeouts": {"connect": "1s", "first_byte": "300ms", "idle": "300ms"},
                **({"keys": "pool"} if keys else {}),
                **(options or {}),
            }
            for name, url in urls.items()
        },
        "keys": {"pool": {"keys": keys}} if keys else {},
        "routes": [{"match": {"path": "/v1/*"}, "upstream": next(iter(urls)), "chain": "c"}],
        "chains": {"c": ["faults_recorder:Recorder", *chain]},
    }
    file = folder / f"{uuid.uuid4().hex}.yaml"
    file.write_text(json.dumps(config))
    loaded, _ = load_config(file, env={})
    services = Services(SystemClock(), loaded.config)
    offer_services(services)
    if state is not None:
        services.offer("state", lambda _: state)
    snapshot = Snapshot(loaded.config, services)

    async def serve(*call: Any) -> None:
        await lifecycle.serve(snapshot, *call)

    listener = Listener(loaded.config.server, serve)
    (where,) = await listener.open()
    recorder = snapshot.chains["c"].policies[0]
    assert isinstance(recorder, Recorder)
    client = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
    try:
        yield Proxy(snapshot, listener, client, recorder, services.get("breakers"), f"{where}/v1")
    finally:
        await client.close()
        listener.stop_accepting()
        await listener.close()
        await snapshot.stop()


@pytest.fixture(scope="session")
def opened() -> Callable[..., AbstractAsyncContextManager[Proxy]]:
    """``open_proxy``, for tests that run many proxies in loops of their own."""
    return open_proxy


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """``await start(chain, first=url, second=url, ...)``: a proxy until the end of the test."""
    async with AsyncExitStack() as stack:

        async def run(chain: list[Any], **more: Any) -> Proxy:
            return await stack.enter_async_context(open_proxy(tmp_path, chain, **more))

        yield run


async def _good(call: Call) -> None:
    step = events(*chat_events()) if call.json.get("stream") else reply(chat_answer())
    await step(call)


@pytest.fixture
async def first() -> AsyncIterator[FakeUpstream]:
    """The provider that the route leads to; it answers well unless scripted otherwise."""
    async with FakeUpstream(default=_good) as upstream:
        yield upstream


@pytest.fixture
async def second() -> AsyncIterator[FakeUpstream]:
    """The provider to fall back to; it always answers well."""
    async with FakeUpstream(default=_good) as upstream:
        yield upstream


@pytest.fixture
def nobody() -> str:
    """A base URL where nobody listens."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/v1"
