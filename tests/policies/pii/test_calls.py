"""Whole calls through a running proxy: what the upstream sees, and what the client gets back."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import pytest

from proxy.testing import FakeUpstream, chat_answer, chat_events, collect_sse
from proxy.testing.script import events, reply

Start = Callable[..., Awaitable[Any]]
SECRETS = ("ann.lee@acme.io", "4111 1111 1111 1111")
PROMPT = f"I am {SECRETS[0]} and pay with {SECRETS[1]}."


def config(upstream: FakeUpstream, *policies: Any, **pii: Any) -> dict[str, Any]:
    return {
        "upstreams": {"main": {"api": "openai", "base_url": upstream.url}},
        "chains": {"only": [*policies, {"pii": pii}]},
        "routes": [{"match": {"path": "/v1/*"}, "upstream": "main", "chain": "only"}],
    }


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


def body(**more: Any) -> dict[str, Any]:
    return {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": PROMPT}], **more}


async def test_a_whole_call_masks_and_restores(sidecar: Start, http: aiohttp.ClientSession) -> None:
    async with FakeUpstream(reply(chat_answer("To <EMAIL_1>, card <CREDIT_CARD_1>."))) as upstream:
        proxy = await sidecar(config(upstream))
        async with http.post(f"{proxy.base_url}/chat/completions", json=body()) as answer:
            said = await answer.json()
        assert said["choices"][0]["message"]["content"] == f"To {SECRETS[0]}, card {SECRETS[1]}."
        seen = json.loads(upstream.calls[0].body)
        assert seen["messages"][0]["content"] == "I am <EMAIL_1> and pay with <CREDIT_CARD_1>."


async def test_a_stream_is_restored_across_events(sidecar: Start, http: aiohttp.ClientSession) -> None:
    pieces = ["To <EM", "AIL", "_1", ">, card ", "<CREDIT_", "CARD_1>", " ok <EMAIL_1"]
    async with FakeUpstream(events(*chat_events(pieces))) as upstream:
        proxy = await sidecar(config(upstream))
        async with http.post(f"{proxy.base_url}/chat/completions", json=body(stream=True)) as answer:
            data = await answer.read()
    chunks = [e for e in collect_sse(data) if isinstance(e, dict)]
    text = "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks)
    assert text == f"To {SECRETS[0]}, card {SECRETS[1]} ok {SECRETS[0]}"
    assert data.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("status", [503, 429, 401])
async def test_no_attempt_sends_originals(
    sidecar: Start, http: aiohttp.ClientSession, status: int, cache: bool
) -> None:
    """The second and the third attempt (another try, another key) send what the first one sent."""
    refused = reply({}, status=status)
    async with FakeUpstream(refused, refused, reply(chat_answer("Hi"))) as upstream:
        settings = config(upstream)
        settings["upstreams"]["main"]["keys"] = "pool"
        settings["keys"] = {"pool": {"keys": [{"id": name, "secret": f"sk-{name}"} for name in "abc"]}}
        retry = {"retry": {"attempts": 3, "backoff": {"initial": "1ms", "max": "1ms"}}}
        settings["chains"]["only"] += [*([{"cache": {}}] if cache else []), retry, "select_key"]
        proxy = await sidecar(settings)
        async with http.post(f"{proxy.base_url}/chat/completions", json=body()) as answer:
            assert answer.status == 200
        assert len(upstream.calls) == 3
        for call in upstream.calls:
            assert all(secret.encode() not in call.body for secret in SECRETS)
            assert call.body == upstream.calls[0].body


async def test_a_refusal_is_403_and_nothing_goes_up(sidecar: Start, http: aiohttp.ClientSession) -> None:
    async with FakeUpstream() as upstream:
        proxy = await sidecar(config(upstream, actions={"CREDIT_CARD": "block"}))
        async with http.post(f"{proxy.base_url}/chat/completions", json=body()) as answer:
            said = await answer.text()
        assert answer.status == 403
        assert json.loads(said)["error"]["code"] == "pii_refused"
        assert "CREDIT_CARD at messages[0].content" in said
        assert all(secret not in said for secret in SECRETS)
        assert upstream.calls == []


async def test_no_original_is_logged_kept_or_shown(
    sidecar: Start, http: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    async with FakeUpstream(reply(chat_answer("<EMAIL_1>"))) as upstream:
        proxy = await sidecar(config(upstream), overrides=["log.access=true", "log.level=debug"])
        with caplog.at_level(logging.DEBUG):
            headers = {"x-sidecar-debug": "1"}
            async with http.post(f"{proxy.base_url}/chat/completions", json=body(), headers=headers) as answer:
                await answer.read()
            shown = str(answer.headers)
    exchange = proxy.exchanges[0]
    kept = repr((exchange.notes, exchange.local, exchange.tags, exchange.added_headers))
    up = upstream.calls[0].head + upstream.calls[0].body
    for secret in SECRETS:
        assert secret not in caplog.text
        assert all(secret not in repr(record.__dict__) for record in caplog.records)
        assert secret not in shown
        assert secret not in kept
        assert secret.encode() not in up
