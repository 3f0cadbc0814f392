"""A call is freed at its end. What refers to itself waits for the collector, whose runs would cost every tenth call."""

from __future__ import annotations

import asyncio
import gc

import aiohttp
import pytest

from proxy.testing import FakeUpstream, chat_answer, chat_events, events, reply

CHAIN = [
    "account",
    {"authenticate": {"method": "none"}},
    "validate",
    {"rate_limit": {"rpm": 10_000}},
    {"pii": {"entities": ["EMAIL"], "action": "mask", "restore": True}},
    {"cache": {"ttl": "1h"}},
    {"retry": {"attempts": 2}},
    "select_key",
    "circuit_breaker",
    {"budget": {"usd": 50, "window": "day"}},
]
OURS = {
    "Exchange",
    "Request",
    "Answer",
    "Document",
    "Flight",
    "Flow",
    "FanOut",
    "Subscription",
    "Pipe",
    "Attempt",
    "Ticket",
}


def config(upstream: FakeUpstream) -> dict:
    return {
        "upstreams": {"up": {"api": "openai", "base_url": upstream.url + "/v1"}},
        "routes": [{"match": {"path": "/v1/*"}, "upstream": "up", "chain": "main"}],
        "chains": {"main": CHAIN},
    }


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("text", ["Hello", "Hello, write to ann@corp-mail.net"])
async def test_calls_through_the_default_chain_leave_nothing_for_the_collector(sidecar, stream, text):
    answer = events(*chat_events(["one", " two", " <EMAIL_1>"])) if stream else reply(chat_answer("Hi <EMAIL_1>"))
    async with FakeUpstream(*[answer] * 8) as upstream, aiohttp.ClientSession() as client:
        proxy = await sidecar(config(upstream))

        async def call(number: int) -> None:
            body = {"model": "m", "stream": stream, "messages": [{"role": "user", "content": f"{text} {number}"}]}
            async with client.post(proxy.base_url + "/chat/completions", json=body) as got:
                assert got.status == 200
                await got.read()
            await asyncio.sleep(0.01)  # the flight lands after its answer has left

        for number in range(3):
            await call(number)
        gc.collect()
        gc.disable()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            for number in range(3, 6):
                await call(number)
            gc.collect()
            left = sorted({type(one).__name__ for one in gc.garbage} & OURS)
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
    assert left == []
