"""``/v1/models``: what the routes can reach."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from proxy.testing import FakeUpstream, hang, reply


def listing(*names: str) -> dict[str, Any]:
    return {
        "object": "list",
        "data": [{"id": name, "object": "model", "created": 5, "owned_by": "x", "extra": 1} for name in names],
    }


@pytest.fixture
async def two() -> AsyncIterator[tuple[FakeUpstream, FakeUpstream]]:
    first = FakeUpstream(default=reply(listing("gpt-4o", "shared")))
    second = FakeUpstream(default=reply(listing("claude-4", "shared"), gzip=True))
    async with first, second:
        yield first, second


def both(first: FakeUpstream, second: FakeUpstream, **more: Any) -> dict[str, Any]:
    return {
        "upstreams": {
            "one": {"api": "openai", "base_url": first.url, "timeouts": {"connect": "500ms"}},
            "two": {"api": "openai", "base_url": second.url, "timeouts": {"connect": "500ms"}},
        },
        "routes": [
            {"match": {"model": "claude-*"}, "upstream": "two", "chain": "main"},
            {"match": {"path": "/v1/*"}, "upstream": "one", "chain": "main"},
        ],
        "chains": {"main": []},
        **more,
    }


async def test_one_upstream_is_asked_and_its_answer_untouched(sidecar, setting, wire):
    raw = b'{"object":"list",  "data":[{"id":"a"}], "more": 1}'
    async with FakeUpstream(default=reply(body=raw, headers={"x-own": "1"})) as upstream:
        proxy = await sidecar(setting(upstream, "validate"))
        client = await wire(proxy.port)
        await client.get("/v1/models?limit=2", "Authorization: Bearer sk-own")
        answer = await client.answer()
        assert (answer.body, answer.header("x-own")) == (raw, "1")
        assert upstream.calls[0].target == "/v1/models?limit=2"
        assert upstream.calls[0].header("authorization") == "Bearer sk-own"


async def test_several_are_merged_first_one_wins(sidecar, wire, two):
    proxy = await sidecar(both(*two))
    client = await wire(proxy.port)
    await client.get("/v1/models")
    answer = await client.answer()
    assert answer.status == 200
    assert sorted(model["id"] for model in answer.json["data"]) == ["claude-4", "gpt-4o", "shared"]
    assert answer.json["data"][0]["extra"] == 1
    assert answer.header("x-sidecar-models-missing") is None


async def test_aliases_are_listed(sidecar, setting, wire, two):
    models = {"fast": {"model": "gpt-4o"}, "gpt-4o": {"model": "shared"}}
    proxy = await sidecar(setting(two[0], models=models))
    client = await wire(proxy.port)
    await client.get("/v1/models")
    assert sorted(model["id"] for model in (await client.answer()).json["data"]) == ["fast", "gpt-4o", "shared"]


@pytest.mark.parametrize(
    "step",
    [
        reply({"error": {}}, status=500),
        reply(body=b"<html>"),
        reply([]),
        reply({"data": None}),
        reply(body=b"\x1f\x8bbroken", headers={"content-encoding": "gzip"}),
    ],
)
async def test_one_that_is_down_is_left_out_with_a_header(sidecar, wire, two, step):
    two[1].default = step
    proxy = await sidecar(both(*two))
    client = await wire(proxy.port)
    await client.get("/v1/models")
    answer = await client.answer()
    assert (answer.status, answer.header("x-sidecar-models-missing")) == (200, "two")
    assert sorted(model["id"] for model in answer.json["data"]) == ["gpt-4o", "shared"]


async def test_one_that_is_not_there_is_left_out(sidecar, wire, two):
    config = both(*two)
    config["upstreams"]["two"]["base_url"] = "http://127.0.0.1:9/v1"
    proxy = await sidecar(config)
    client = await wire(proxy.port)
    await client.get("/v1/models")
    answer = await client.answer()
    assert (answer.status, answer.header("x-sidecar-models-missing")) == (200, "two")


async def test_none_that_answers_is_an_error(sidecar, wire, two):
    config = both(*two)
    for upstream in config["upstreams"].values():
        upstream["base_url"] = "http://127.0.0.1:9/v1"
    proxy = await sidecar(config)
    client = await wire(proxy.port)
    await client.get("/v1/models")
    answer = await client.answer()
    assert (answer.status, answer.error["code"]) == (502, "upstream_unreachable")


async def test_odd_models_in_a_list_do_no_harm(sidecar, wire, two):
    two[1].default = reply({"data": [None, 1, {"id": None}, {"id": "fine"}, {}]})
    proxy = await sidecar(both(*two))
    client = await wire(proxy.port)
    await client.get("/v1/models")
    assert "fine" in [model["id"] for model in (await client.answer()).json["data"]]


async def test_a_client_that_leaves_ends_the_questions(sidecar, wire, two):
    two[1].default = hang()
    proxy = await sidecar(both(*two))
    client = await wire(proxy.port)
    await client.get("/v1/models")
    call = await two[1].call()
    client.writer.close()
    import asyncio

    await asyncio.wait_for(call.disconnected, 0.3)


@pytest.mark.parametrize(
    ("path", "upstream", "target"),
    [
        ("/v1/models/gpt-4o", 0, "/v1/models/gpt-4o"),
        ("/v1/models/claude-4", 1, "/v1/models/claude-4"),
        ("/v1/models/claude-x%2Fy:tag", 1, "/v1/models/claude-x%2Fy:tag"),
        ("/v1/models/org%2Fmodel", 0, "/v1/models/org%2Fmodel"),
        ("/v1/models/nice", 1, "/v1/models/org%2Fbig%20one"),
    ],
)
async def test_one_model_is_asked_for_where_its_calls_go(sidecar, wire, two, path, upstream, target):
    models = {"nice": {"upstream": "two", "model": "org/big one"}}
    proxy = await sidecar(both(*two, models=models))
    client = await wire(proxy.port)
    await client.get(path)
    assert (await client.answer()).status == 200
    assert two[upstream].calls[0].target == target
    assert two[1 - upstream].calls == []


async def test_the_first_route_that_a_call_would_match_decides(sidecar, wire, two):
    config = both(*two)
    config["routes"] = [
        {"match": {"path": "/v1/*"}, "upstream": "one", "chain": "main"},
        {"match": {"model": "claude-*"}, "upstream": "two", "chain": "main"},
    ]
    proxy = await sidecar(config)
    client = await wire(proxy.port)
    await client.get("/v1/models/claude-4")
    assert (await client.answer()).status == 200
    assert len(two[0].calls) == 1
    assert two[1].calls == []


async def test_a_route_that_renames_asks_for_the_real_name(sidecar, wire, two):
    config = both(*two)
    config["routes"][0]["model"] = "real-name"
    proxy = await sidecar(config)
    client = await wire(proxy.port)
    await client.get("/v1/models/claude-4")
    assert (await client.answer()).status == 200
    assert two[1].calls[0].target == "/v1/models/real-name"


async def test_policies_guard_the_list_too(sidecar, wire, two):
    auth = {"authenticate": {"method": "keys", "keys": [{"id": "v", "sha256": "0" * 64}]}}
    proxy = await sidecar(both(*two, chains={"main": [auth]}))
    client = await wire(proxy.port)
    await client.get("/v1/models")
    assert (await client.answer()).status == 401
    assert two[0].calls == two[1].calls == []
