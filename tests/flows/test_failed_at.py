"""A call that nobody answered says whom it asked last: in its headers, its message, the log and the metrics."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.testing import FakeUpstream, chat_answer, hang, reply, reset

CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}
NOBODY = {"api": "openai", "base_url": "http://127.0.0.1:9/v1"}
RETRY: dict[str, Any] = {"retry": {"attempts": 2, "backoff": {"initial": "1ms", "max": "1ms"}}}
FALLBACK: dict[str, Any] = {"fallback": {"targets": [{"upstream": "nobody"}]}}


def config(upstream: FakeUpstream, *chain: Any) -> dict[str, Any]:
    return {
        "upstreams": {"up": {"api": "openai", "base_url": upstream.url, "keys": "pool"}, "nobody": NOBODY},
        "keys": {"pool": {"keys": [{"id": "first", "secret": "sk-first-secret"}]}},
        "routes": [{"upstream": "up", "chain": "main"}],
        "chains": {"main": ["account", *chain, "select_key"]},
    }


@pytest.mark.parametrize("chain", [[], [RETRY], [{"cache": {"ttl": "1h"}}, RETRY]])
async def test_the_upstream_and_the_key_of_the_last_try_are_named(sidecar, wire, chain):
    async with FakeUpstream(default=reset()) as upstream:
        proxy = await sidecar(config(upstream, *chain))
        client = await wire(proxy.port)
        await client.post("/v1/chat/completions", CHAT)
        answer = await client.answer()
        assert answer.status == 502
        assert (answer.header("x-sidecar-upstream"), answer.header("x-sidecar-key")) == ("up", "first")
        assert "The upstream up closed the connection" in answer.error["message"]
        (line,) = proxy.app.calls.latest()
        assert (line["upstream"], line["key"]) == ("up", "first")
        calls = next(f for f in proxy.app.metrics.families() if f.name == "llm_sidecar_calls_total")
        assert [sample.labels["upstream"] for sample in calls.samples] == ["up"]


async def test_of_several_upstreams_the_last_is_named(sidecar, wire):
    async with FakeUpstream(default=reset()) as upstream:
        proxy = await sidecar(config(upstream, FALLBACK))
        client = await wire(proxy.port)
        await client.post("/v1/chat/completions", CHAT)
        answer = await client.answer()
        assert answer.header("x-sidecar-upstream") == "nobody"
        assert "The upstream nobody could not be reached" in answer.error["message"]


async def test_a_refusal_before_any_try_names_nobody(sidecar, wire):
    async with FakeUpstream(default=hang()) as upstream:
        proxy = await sidecar(config(upstream, "validate"))
        client = await wire(proxy.port)
        await client.post("/v1/chat/completions", {"messages": []})
        answer = await client.answer()
        assert (answer.status, answer.header("x-sidecar-upstream")) == (400, None)


async def test_a_stale_answer_from_the_store_names_nobody(sidecar, wire):
    async with FakeUpstream(reply(chat_answer("kept")), default=reset()) as upstream:
        proxy = await sidecar(config(upstream, {"cache": {"ttl": "1ms", "stale_if_error": "1h"}}))
        client = await wire(proxy.port)
        kept: str | None = "miss"
        while kept in ("miss", "hit"):  # a millisecond may be longer than a call
            await client.post("/v1/chat/completions", CHAT)
            answer = await client.answer()
            kept = answer.header("x-sidecar-cache")
        assert (answer.status, kept) == (200, "stale")
        assert answer.header("x-sidecar-upstream") is None
