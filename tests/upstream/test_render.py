"""What a target is sent, made anew for each attempt."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from proxy.testing import FakeUpstream, chat_answer, reply

BODY = {"model": "m", "messages": [{"role": "user", "content": "x"}]}


class Key:
    """A key as an attempt takes it."""

    id = "k"

    def reveal(self) -> str:
        return "sk-secret"


@pytest.fixture
def with_key(policy: Any) -> str:
    async def give(self: Any, exchange: Any, attempt: Any) -> None:
        attempt.key = Key()

    return policy(on_attempt=give)


@pytest.mark.parametrize(
    ("up", "name", "value"),
    [
        ({}, "authorization", "Bearer sk-secret"),
        ({"auth": {"header": "api-key"}}, "api-key", "sk-secret"),
        ({"auth": {"header": "X-Key", "prefix": "Token "}}, "x-key", "Token sk-secret"),
        ({"api": "anthropic"}, "x-api-key", "sk-secret"),
    ],
)
async def test_a_key_goes_where_the_upstream_wants_it(sidecar, setting, upstream, wire, with_key, up, name, value):
    proxy = await sidecar(setting(upstream, with_key, up=up))
    client = await wire(proxy.port)
    await client.post("/v1/chat/completions", BODY, "Authorization: Bearer own", "X-Api-Key: own", "Api-Key: own")
    assert (await client.answer()).status == 200
    call = await upstream.call()
    credentials = {"authorization", "api-key", "x-api-key", "x-key"}
    assert [(key.lower(), said) for key, said in call.headers if key.lower() in credentials] == [(name, value)]


async def test_an_upstreams_headers_and_query_are_set(sidecar, setting, upstream, wire):
    up = {"headers": {"OpenAI-Organization": "ours", "X-New": "1"}, "query": {"api-version": "2026-01-01"}}
    proxy = await sidecar(setting(upstream, up=up))
    client = await wire(proxy.port)
    for path in ("/v1/x?a=1", "/v1/x"):
        await client.get(path, "openai-organization: theirs")
        assert (await client.answer()).status == 200
    assert upstream.calls[0].all("openai-organization") == ["ours"]
    assert upstream.calls[0].header("x-new") == "1"
    assert [call.target for call in upstream.calls] == [
        "/v1/x?a=1&api-version=2026-01-01",
        "/v1/x?api-version=2026-01-01",
    ]


async def test_policies_headers_replace_the_clients(sidecar, setting, upstream, wire, policy):
    async def edit(self: Any, exchange: Any) -> None:
        exchange.request.set_header("X-Both", "ours")
        exchange.request.remove_header("x-gone")
        exchange.request.set_header("x-new", "caf\xe9")

    proxy = await sidecar(setting(upstream, policy(on_request=edit)))
    client = await wire(proxy.port)
    for _ in range(2):
        await client.post("/v1/chat/completions", BODY, "x-both: theirs", "X-Gone: 1", "X-Kept: 1")
        assert (await client.answer()).status == 200
    for call in upstream.calls:
        assert (call.all("x-both"), call.header("x-gone"), call.header("x-kept")) == (["ours"], None, "1")
        assert call.header("x-new") == "caf\xe9"


@pytest.mark.parametrize(
    ("accept", "plain", "read"),
    [
        (None, None, None),
        ("gzip, deflate, br, zstd", "gzip, deflate, br, zstd", "gzip, deflate"),
        ("br", "br", "identity"),
        ("gzip;q=0.5, br;q=1", "gzip;q=0.5, br;q=1", "gzip;q=0.5"),
        ("identity", "identity", "identity"),
    ],
)
async def test_only_codings_that_can_be_undone_are_asked_for(
    sidecar, setting, upstream, wire, policy, accept, plain, read
):
    async def look(self: Any, exchange: Any, answer: Any) -> None: ...

    for chain, expected in (([], plain), ([policy(on_response=look)], read)):
        proxy = await sidecar(setting(upstream, *chain))
        client = await wire(proxy.port)
        await client.post("/v1/chat/completions", BODY, *([] if accept is None else [f"Accept-Encoding: {accept}"]))
        assert (await client.answer()).status == 200
        assert upstream.calls[-1].header("accept-encoding") == expected


async def test_a_kept_connection_carries_different_clients_apart(sidecar, setting, wire):
    async with FakeUpstream(default=reply(chat_answer())) as upstream:
        proxy = await sidecar(setting(upstream, "validate"))
        one, two = await wire(proxy.port), await wire(proxy.port)
        for number in range(4):
            for client, name in ((one, "one"), (two, "two")):
                body = BODY | {"user": f"{name}{number}"}
                await client.post("/v1/chat/completions", body, f"Authorization: Bearer {name}", f"X-N: {number}")
                assert (await client.answer()).status == 200
        for call in upstream.calls:
            user = orjson.loads(call.body)["user"]
            assert (call.header("authorization"), call.header("x-n")) == (f"Bearer {user[:3]}", user[3:])
            assert call.header("content-length") == str(len(call.body))
