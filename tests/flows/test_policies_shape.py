"""``validate``, ``defaults``, ``headers`` and ``cors`` in whole calls."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import openai
import pytest

from proxy.testing import FakeUpstream, RunningProxy, chat_answer, chat_events, events, reply

HELLO: list[Any] = [{"role": "user", "content": "Hello"}]


@pytest.fixture
async def upstream() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream(default=reply(chat_answer())) as fake:
        yield fake


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


def config(upstream: FakeUpstream, *policies: Any, **more: Any) -> dict[str, Any]:
    return {
        "upstreams": {"openai": {"api": "openai", "base_url": upstream.url}},
        "routes": [{"upstream": "openai", "chain": "main"}],
        "chains": {"main": list(policies)},
        **more,
    }


def client(proxy: RunningProxy) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=proxy.url, api_key="sk-x", max_retries=0)


# --- validate -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "param"),
    [
        ({"temperature": 3}, "temperature"),
        ({"n": "two"}, "n"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        ({"stream": "yes"}, "stream"),
    ],
)
async def test_a_wrong_request_ends_here_with_the_field_at_fault(
    upstream: FakeUpstream, call: dict[str, Any], param: str
) -> None:
    async with RunningProxy(config(upstream, "validate")) as proxy, client(proxy) as sdk:
        with pytest.raises(openai.BadRequestError) as caught:
            await sdk.post("/chat/completions", cast_to=object, body={"model": "m", "messages": HELLO, **call})
    assert caught.value.param == param
    assert caught.value.response.headers["x-sidecar-policy"] == "validate"
    assert upstream.calls == []


async def test_a_right_request_goes_up_byte_for_byte(upstream: FakeUpstream, http: aiohttp.ClientSession) -> None:
    body = b'{ "model":"m",\n "messages": [ {"role":"user","content":"caf\xc3\xa9 \\u00e9"} ], "new_field": 1.0 }'
    async with (
        RunningProxy(config(upstream, "validate")) as proxy,
        http.post(proxy.url + "/chat/completions", data=body) as answer,
    ):
        assert answer.status == 200
    assert upstream.calls[0].body == body


async def test_observe_lets_a_wrong_request_pass(upstream: FakeUpstream) -> None:
    policy = {"validate": {"mode": "observe"}}
    async with RunningProxy(config(upstream, policy)) as proxy, client(proxy) as sdk:
        await sdk.chat.completions.create(model="m", messages=HELLO, temperature=9)
    assert upstream.calls[0].json["temperature"] == 9


@pytest.mark.parametrize(
    "body",
    [b"{", b"[]", b'{"model": "m", "model": "n", "messages": []}', b'{"model": NaN}', b"\xff\xfe", b"[" * 100_000, b""],
)
async def test_what_is_no_json_object_gets_a_clear_error(
    upstream: FakeUpstream, http: aiohttp.ClientSession, body: bytes
) -> None:
    async with RunningProxy(config(upstream, "validate")) as proxy:
        headers = {"content-type": "application/json"}
        async with http.post(proxy.url + "/chat/completions", data=body, headers=headers) as answer:
            assert answer.status == 400
            assert (await answer.json())["error"]["type"] == "invalid_request_error"
    assert upstream.calls == []


async def test_a_model_in_the_path_is_enough(upstream: FakeUpstream, http: aiohttp.ClientSession) -> None:
    routes = [{"upstream": "openai", "chain": "main", "model": "gpt-4o"}]
    async with (
        RunningProxy(config(upstream, "validate", routes=routes)) as proxy,
        http.post(proxy.url + "/chat/completions", json={"messages": HELLO}) as answer,
    ):
        assert answer.status == 200
    assert upstream.calls[0].json["model"] == "gpt-4o"


# --- defaults -------------------------------------------------------------------------------


async def test_defaults_edit_what_is_sent(upstream: FakeUpstream) -> None:
    rules = [
        {"when": {"model": "gpt-*"}, "default": {"temperature": 0.1}, "clamp": {"max_tokens": {"max": 50}}},
        {"when": {"tags": {"team": "red"}}, "set": {"user": "red"}, "system": "Be brief."},
        {"when": {"model": "claude*"}, "set": {"seed": 1}},
    ]
    async with RunningProxy(config(upstream, {"defaults": {"rules": rules}})) as proxy, client(proxy) as sdk:
        await sdk.chat.completions.create(
            model="gpt-4o", messages=HELLO, max_tokens=5000, extra_headers={"x-sidecar-tags": "team=red"}
        )
    sent = upstream.calls[0].json
    assert (sent["temperature"], sent["max_tokens"], sent["user"]) == (0.1, 50, "red")
    assert sent["messages"] == [{"role": "system", "content": "Be brief."}, *HELLO]
    assert "seed" not in sent


async def test_system_prompts_reach_every_dialect(upstream: FakeUpstream, http: aiohttp.ClientSession) -> None:
    policy = {"defaults": {"rules": [{"system": "Be brief."}]}}
    async with RunningProxy(config(upstream, policy)) as proxy:
        for path, body in (
            ("/responses", {"model": "m", "input": "hi"}),
            ("/messages", {"model": "m", "max_tokens": 5, "messages": HELLO}),
            ("/embeddings", {"model": "m", "input": "hi"}),
        ):
            async with http.post(proxy.url + path, json=body) as answer:
                assert answer.status == 200
    responses, messages, embeddings = (call.body for call in upstream.calls)
    assert b"Be brief." in responses
    assert b"Be brief." in messages
    assert b"Be brief." not in embeddings


async def test_defaults_choose_upstream_and_model(upstream: FakeUpstream) -> None:
    async with FakeUpstream(default=reply(chat_answer(model="big"))) as other:
        setting = config(upstream, {"defaults": {"rules": [{"upstream": "other", "model": "big"}]}})
        setting["upstreams"]["other"] = {"api": "openai", "base_url": other.url}
        async with RunningProxy(setting) as proxy, client(proxy) as sdk:
            raw = await sdk.chat.completions.with_raw_response.create(model="small", messages=HELLO)
        assert raw.headers["x-sidecar-upstream"] == "other"
        assert other.calls[0].json["model"] == "big"
    assert upstream.calls == []


# --- headers --------------------------------------------------------------------------------

BOTH = {
    "headers": {
        "set": {"x-team": "red"},
        "remove": ["x-internal-*", "user-agent"],
        "response": {"set": {"x-served-by": "sidecar"}, "remove": ["x-secret"]},
    }
}


@pytest.mark.parametrize("stream", [False, True])
async def test_headers_are_edited_both_ways(upstream: FakeUpstream, stream: bool) -> None:
    headers = {"x-secret": "1", "x-kept": "2"}
    upstream.script(events(*chat_events(), headers=headers) if stream else reply(chat_answer(), headers=headers))
    async with RunningProxy(config(upstream, BOTH)) as proxy, client(proxy) as sdk:
        raw: Any = await sdk.chat.completions.with_raw_response.create(
            model="m", messages=HELLO, stream=stream, extra_headers={"x-internal-id": "7", "x-team": "mine"}
        )
        if stream:
            assert [chunk async for chunk in raw.parse()]
    call = upstream.calls[0]
    assert call.all("x-team") == ["red"]
    assert (call.header("x-internal-id"), call.header("user-agent")) == (None, None)
    assert call.header("host") is not None
    assert raw.headers["x-served-by"] == "sidecar"
    assert "x-secret" not in raw.headers
    assert raw.headers["x-kept"] == "2"


async def test_headers_of_errors_are_edited_too(upstream: FakeUpstream) -> None:
    upstream.script(reply({"error": {"message": "no"}}, status=404, headers={"x-secret": "1"}))
    async with RunningProxy(config(upstream, BOTH, "validate")) as proxy, client(proxy) as sdk:
        with pytest.raises(openai.NotFoundError) as theirs:
            await sdk.chat.completions.create(model="m", messages=HELLO)
        with pytest.raises(openai.BadRequestError) as ours:
            await sdk.chat.completions.create(model="m", messages=HELLO, temperature=9)
    for caught in (theirs.value, ours.value):
        assert caught.response.headers["x-served-by"] == "sidecar"
        assert "x-secret" not in caught.response.headers


# --- cors -----------------------------------------------------------------------------------

CORS = {"cors": {"origins": ["https://*.example.com"], "expose": ["x-request-id"], "max_age": "1m"}}


async def test_a_listed_page_gets_its_preflight_answered(upstream: FakeUpstream, http: aiohttp.ClientSession) -> None:
    headers = {
        "origin": "https://app.example.com",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization",
    }
    async with (
        RunningProxy(config(upstream, CORS)) as proxy,
        http.options(proxy.url + "/chat/completions", headers=headers) as answer,
    ):
        assert answer.status == 204
        assert answer.headers["access-control-allow-origin"] == "https://app.example.com"
        assert answer.headers["access-control-max-age"] == "60"
    assert upstream.calls == []


async def test_its_calls_pass_and_others_do_not(upstream: FakeUpstream, http: aiohttp.ClientSession) -> None:
    body = {"model": "m", "messages": HELLO}
    async with RunningProxy(config(upstream, CORS)) as proxy:
        url = proxy.url + "/chat/completions"
        async with http.post(url, json=body, headers={"origin": "https://app.example.com"}) as answer:
            assert answer.status == 200
            assert answer.headers["access-control-expose-headers"] == "x-request-id"
        for origin in ("https://evil.com", "http://localhost:3000", "null"):
            async with http.post(url, json=body, headers={"origin": origin}) as answer:
                assert answer.status == 403
                assert (await answer.json())["error"]["code"] == "origin_refused"
    assert len(upstream.calls) == 1
