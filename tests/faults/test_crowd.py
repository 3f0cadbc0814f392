"""A crowd of clients that ask overlapping questions, some for streams, some leaving at any moment, in front of a provider
that fails now and then: everybody who stays gets the answer to his own question, nobody waits for ever, nothing is left.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from random import Random
from typing import Any

import aiohttp
import pytest
from aiohttp import web

CALLS = 420
AT_ONCE = 60


def chunk(text: str, finish: str | None = None, **more: Any) -> bytes:
    choices = [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]
    event = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices, **more}
    return b"data: " + json.dumps(event).encode() + b"\n\n"


class Provider:
    """Answers each question by repeating it; one in eight calls fails in some way."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.calls = 0
        self.leaked: list[str] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.calls += 1
        body = await request.json()
        question = body["messages"][0]["content"]
        if "@" in question:
            self.leaked.append(question)
        await asyncio.sleep(self.random.choice([0, 0, 0.001, 0.01, 0.03]))
        luck = self.random.random()
        if luck < 0.08:
            return web.json_response({"error": {"message": "no"}}, status=self.random.choice([400, 500]))
        if luck < 0.12:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if body.get("stream") or luck > 0.97:  # a stream that nobody asked for, too
            return await self.stream(request, question)
        message = {"role": "assistant", "content": f"You ask: {question}"}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        usage = {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 10}
        return web.json_response(
            {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": choices, "usage": usage}
        )

    async def stream(self, request: web.Request, question: str) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        try:
            for piece in ("You ", "ask: ", question):
                await response.write(chunk(piece))
                if self.random.random() < 0.01 and request.transport is not None:
                    request.transport.abort()
                    return response
                await asyncio.sleep(self.random.choice([0, 0.002]))
            usage = {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 10}
            await response.write(chunk("", "stop", usage=usage) + b"data: [DONE]\n\n")
        except ConnectionError:
            pass  # the proxy has left
        return response


def said(text: str) -> str | None:
    """What an answer says, whole or streamed; None when a stream was ended loudly."""
    if text.startswith("{"):
        content: str = json.loads(text)["choices"][0]["message"]["content"]
        return content
    events = [json.loads(line[6:]) for line in text.split("\n") if line.startswith("data: {")]
    if any("error" in event for event in events):
        return None
    return "".join(choice["delta"].get("content") or "" for event in events for choice in event["choices"])


@pytest.fixture
async def provider():
    runners = []

    async def start(random: Random) -> tuple[Provider, str]:
        made = Provider(random)
        app = web.Application()
        app.router.add_post("/v1/chat/completions", made.answer)
        runner = web.AppRunner(app)
        runners.append(runner)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        [address, *_] = runner.addresses
        return made, f"http://127.0.0.1:{address[1]}/v1"

    yield start
    for runner in runners:
        await runner.cleanup()


@pytest.mark.parametrize("cache", [
    {"ttl": "1h"},
    {"ttl": "50ms", "stale_if_error": "100ms", "stale_while_revalidate": "20ms"},
    {"ttl": "1h", "coalesce": False},
], ids=["coalesced", "stale", "apart"])  # fmt: skip
async def test_a_crowd_that_comes_and_goes(sidecar, provider, cache):
    random = Random(5)
    made, url = await provider(random)
    proxy = await sidecar(
        {
            "upstreams": {"up": {"api": "openai", "base_url": url, "keys": "pool"}},
            "keys": {"pool": {"keys": [{"id": name, "secret": f"sk-{name}"} for name in ("one", "two")]}},
            "routes": [{"match": {"path": "*"}, "upstream": "up", "chain": "main"}],
            "prices": {"m": {"input": 1, "output": 2}},
            "chains": {
                "main": [
                    "account",
                    {"authenticate": {"method": "none"}},
                    "validate",
                    {"rate_limit": {"per": "principal", "rpm": 1_000_000}},
                    {"pii": {"entities": ["EMAIL"], "restore": True}},
                    {"cache": cache},
                    {"retry": {"attempts": 2, "backoff": {"initial": "1ms", "max": "5ms"}}},
                    "select_key",
                    {"circuit_breaker": {"fail_max": 1_000_000}},
                    {"budget": {"per": "project", "usd": 1000, "window": "day"}},
                ]
            },
        }
    )
    got: Counter[Any] = Counter()

    async def ask(session: aiohttp.ClientSession) -> None:
        # Two askers of one question differ only in what is masked, so they share an answer and see their own.
        question = f"question {random.randrange(CALLS // 4)} of ann{random.randrange(2)}@corp-mail.net"
        body = {"model": "m", "messages": [{"role": "user", "content": question}], "stream": random.random() < 0.4}
        control = random.choice([{}] * 18 + [{"x-sidecar-cache": "no-store"}, {"x-sidecar-cache": "no-cache"}])
        leaves = random.choice([0.0005, 0.003, 0.01, 0.02]) if random.random() < 0.3 else None
        try:
            async with (
                asyncio.timeout(leaves or 10),
                session.post(proxy.base_url + "/chat/completions", json=body, headers=control) as answer,
            ):
                text = await answer.text()
        except TimeoutError:
            assert leaves is not None, f"no answer to {question!r}"
            got["left"] += 1
            return
        except aiohttp.ClientPayloadError:
            got["cut"] += 1
            return
        got[answer.status] += 1
        if answer.status == 200:
            assert said(text) in (f"You ask: {question}", None)

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        for _ in range(0, CALLS, AT_ONCE):
            await asyncio.gather(*(ask(session) for _ in range(AT_ONCE)))
    snapshot = proxy.app.snapshot
    async with asyncio.timeout(5):
        while snapshot.in_flight or snapshot.flights:
            await asyncio.sleep(0.005)
    assert got[200] > CALLS / 2, got
    assert got["left"] > CALLS / 20, got
    assert made.calls > 0
    assert snapshot.buffered == 0
    policy = snapshot.chains["main"].find("cache")
    assert policy.stats()["in_flight"] == 0
    assert all(exchange.outcome is not None for exchange in proxy.exchanges)
    open_attempts = [one for exchange in proxy.exchanges for one in exchange.attempts if not one.ended]
    assert not open_attempts
    pool = snapshot.upstreams["up"].pool
    assert (pool.busy, pool.waiting) == (0, 0)
