"""Calls as an operator sees them: running, ended, and as they happen."""

from __future__ import annotations

import asyncio
import gc
import json
import weakref
from typing import Any

import aiohttp
import pytest

from proxy.admin import exchanges
from proxy.errors import ProxyError
from proxy.telemetry.calls import RecentCalls
from proxy.testing import chat_answer, exchange_builder, reply

SECRET = "sk-secret-of-the-provider"


async def event(stream: aiohttp.StreamReader, name: str) -> Any:
    """The data of the next event of this name."""
    async with asyncio.timeout(5):
        while True:
            text = (await stream.readuntil(b"\n\n")).decode()
            if not text:
                raise EOFError
            if text.startswith(f"event: {name}\n"):
                return json.loads(text.partition("data: ")[2])


async def test_an_ended_call_is_shown_with_its_figures(operator, whole):
    admin = await operator(whole())
    await admin.call({"x-sidecar-project": "web", "x-sidecar-task": "mail", "x-request-id": "call-1"})
    shown = await admin.page("exchanges")
    (call,) = shown["recent"]
    assert shown["in_flight"] == []
    assert (call["id"], call["project"], call["tags"]) == ("call-1", "web", {"task": "mail"})
    assert (call["route"], call["chain"], call["model"]) == ("#1", "main", "gpt-4o")
    assert (call["upstream"], call["key"]) == ("up", "main_key")
    assert (call["status"], call["outcome"], call["attempts"], call["cache"]) == (200, "answered", 1, "miss")
    assert (call["input_tokens"], call["output_tokens"]) == (9, 3)
    assert call["cost_usd"] > 0
    assert call["duration_ms"] >= call["first_byte_ms"] > 0


async def test_a_refusal_names_code_and_policy(operator, setting, upstream):
    admin = await operator(setting(upstream, "validate"))
    assert await admin.call(messages="none") == 400
    (call,) = (await admin.page("exchanges"))["recent"]
    assert (call["outcome"], call["error"]["code"], call["error"]["policy"]) == ("refused", "invalid_value", "validate")


async def test_no_body_and_no_key_is_shown(operator, whole):
    admin = await operator(whole())
    await admin.call()
    for name in ("exchanges", "keys", "config", "alerts", "limits", "upstreams"):
        text = json.dumps(await admin.page(name))
        assert "ann@example.com" not in text
        assert SECRET not in text


async def test_a_call_in_flight_is_shown(operator, whole, upstream):
    admin = await operator(whole())
    upstream.script(reply(chat_answer("late"), delay=0.2))
    call = asyncio.create_task(admin.call())
    await upstream.call(0)
    (running,) = (await admin.page("exchanges"))["in_flight"]
    assert (running["model"], running["chain"], running["principal"]) == ("gpt-4o", "main", "anonymous")
    assert await call == 200
    assert (await admin.page("exchanges"))["in_flight"] == []


async def test_the_latest_are_kept_within_a_bound(operator, setting, upstream):
    admin = await operator(setting(upstream))
    for number in range(4):
        await admin.call({"x-request-id": f"call-{number}"})
    assert [call["id"] for call in (await admin.page("exchanges", limit="2"))["recent"]] == ["call-3", "call-2"]


async def test_the_live_stream_tells_each_call_as_it_ends(operator, setting, upstream):
    admin = await operator(setting(upstream))
    url = f"{admin.proxy.admin_url}/api/v1/exchanges"
    async with admin.client.get(url, headers={"accept": "text/event-stream"}) as answer:
        assert answer.content_type == "text/event-stream"
        assert await event(answer.content, "in_flight") == []
        await admin.call({"x-request-id": "one"})
        await admin.call({"x-request-id": "two"})
        assert (await event(answer.content, "exchange"))["id"] == "one"
        assert (await event(answer.content, "exchange"))["id"] == "two"


async def test_the_live_stream_tells_what_is_in_flight(operator, setting, upstream):
    admin = await operator(setting(upstream))
    upstream.script(reply(chat_answer("late"), delay=1.5))
    url = f"{admin.proxy.admin_url}/api/v1/exchanges"
    async with admin.client.get(url, headers={"accept": "text/event-stream"}) as answer:
        assert await event(answer.content, "in_flight") == []
        call = asyncio.create_task(admin.call({"x-request-id": "slow"}))
        assert [one["id"] for one in await event(answer.content, "in_flight")] == ["slow"]
        assert await event(answer.content, "in_flight") == []
        await call


async def test_a_reader_who_leaves_is_forgotten(operator, setting, upstream):
    admin = await operator(setting(upstream))
    url = f"{admin.proxy.admin_url}/api/v1/exchanges"
    async with admin.client.get(url, headers={"accept": "text/event-stream"}) as answer:
        await event(answer.content, "in_flight")
        assert len(admin.app.calls.listeners) == 1
    async with asyncio.timeout(5):
        while admin.app.calls.listeners:
            await asyncio.sleep(0.01)


async def test_a_slow_reader_loses_the_oldest_and_is_told(operator, setting, upstream, monkeypatch):
    monkeypatch.setattr(exchanges, "MOST_WAITING", 3)
    admin = await operator(setting(upstream))
    url = f"{admin.proxy.admin_url}/api/v1/exchanges"
    async with admin.client.get(url, headers={"accept": "text/event-stream"}) as answer:
        await event(answer.content, "in_flight")
        (listener,) = admin.app.calls.listeners
        await admin.call({"x-request-id": "real"})
        row = admin.app.calls._rows[-1]
        for number in range(5):
            listener((f"made-{number}", *row[1:]))
        assert (await event(answer.content, "dropped"))["count"] >= 2
        assert (await event(answer.content, "exchange"))["id"] == "made-2"


async def test_the_port_closes_at_once_with_streams_open(operator, setting, upstream):
    admin = await operator(setting(upstream))
    url = f"{admin.proxy.admin_url}/api/v1/exchanges"
    async with admin.client.get(url, headers={"accept": "text/event-stream"}) as answer:
        await event(answer.content, "in_flight")
        async with asyncio.timeout(0.9):
            await admin.app.admin.stop()
        with pytest.raises(EOFError):
            await event(answer.content, "never")


def test_what_is_kept_of_a_call_keeps_no_body_alive():
    exchange = exchange_builder()
    exchange.outcome = "failed"
    exchange.error = ProxyError("upstream_timeout", "Too slow.")
    gone = weakref.ref(exchange)
    body = weakref.ref(exchange.request)
    calls = RecentCalls()
    calls.record(exchange)
    del exchange
    gc.collect()
    assert (gone(), body()) == (None, None)
    assert calls.latest()[0]["error"]["code"] == "upstream_timeout"
