"""``authenticate`` in whole calls: what reaches the upstream, what the client is told, what the log says."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from joserfc import jwt
from joserfc.jwk import KeySet, RSAKey

from proxy.testing import FakeUpstream, RunningProxy, chat_answer, chat_events, events, reply

HELLO: list[Any] = [{"role": "user", "content": "Hello"}]
KEY = "sk-local-0123456789"
DIGEST = hashlib.sha256(KEY.encode()).hexdigest()


@pytest.fixture
async def upstream() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream(default=reply(chat_answer())) as fake:
        yield fake


def config(upstream: FakeUpstream, *policies: Any, **more: Any) -> dict[str, Any]:
    return {
        "upstreams": {"openai": {"api": "openai", "base_url": upstream.url, **more.pop("upstream", {})}},
        "routes": [{"upstream": "openai", "chain": "main"}],
        "chains": {"main": list(policies)},
        **more,
    }


def keys(**key: Any) -> dict[str, Any]:
    return {"authenticate": {"method": "keys", "keys": [{"id": "team-a", "sha256": DIGEST, **key}]}}


def client(proxy: RunningProxy, key: str = KEY) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=proxy.url, api_key=key, max_retries=0)


async def test_a_virtual_key_opens_the_door_and_stays_here(upstream: FakeUpstream) -> None:
    async with RunningProxy(config(upstream, keys(principal="ann"))) as proxy, client(proxy) as sdk:
        extra = {"x-api-key": "other", "api-key": "third"}
        await sdk.chat.completions.create(model="gpt-4o", messages=HELLO, extra_headers=extra)
        call = await upstream.call()
    assert [call.header(name) for name in ("authorization", "x-api-key", "api-key")] == [None, None, None]
    assert KEY.encode() not in call.head


async def test_a_stream_is_opened_by_it_too(upstream: FakeUpstream) -> None:
    upstream.script(events(*chat_events()))
    async with RunningProxy(config(upstream, keys())) as proxy, client(proxy) as sdk:
        stream = await sdk.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert text == "Hello!"


async def test_an_unknown_key_gets_401_and_no_upstream_call(upstream: FakeUpstream) -> None:
    async with RunningProxy(config(upstream, keys())) as proxy:
        async with client(proxy, "sk-wrong-key") as sdk:
            with pytest.raises(openai.AuthenticationError) as caught:
                await sdk.chat.completions.create(model="gpt-4o", messages=HELLO)
        log = proxy.log_file
        assert caught.value.code == "invalid_api_key"
        headers = caught.value.response.headers
        assert (headers["x-sidecar-policy"], headers["x-should-retry"]) == ("authenticate", "false")
        assert headers["www-authenticate"] == "Bearer"
        assert "sk-wrong-key" not in caught.value.response.text
        await proxy.app.drain()
        assert "sk-wrong-key" not in log.read_text()
    assert upstream.calls == []


async def test_anthropic_clients_are_refused_in_their_own_words(upstream: FakeUpstream) -> None:
    async with (
        RunningProxy(config(upstream, keys())) as proxy,
        anthropic.AsyncAnthropic(base_url=proxy.origin, api_key="sk-wrong", max_retries=0) as sdk,
    ):
        with pytest.raises(anthropic.AuthenticationError) as caught:
            await sdk.messages.create(model="claude", max_tokens=5, messages=HELLO)
    body: Any = caught.value.body
    assert (body["type"], body["error"]["type"]) == ("error", "authentication_error")


async def test_models_and_projects_are_held(upstream: FakeUpstream) -> None:
    limited = keys(models=["gpt-4o*"], project="red", projects=["blue"])
    async with RunningProxy(config(upstream, limited)) as proxy, client(proxy) as sdk:
        with pytest.raises(openai.PermissionDeniedError) as caught:
            await sdk.chat.completions.create(model="o3", messages=HELLO)
        assert (caught.value.code, caught.value.param) == ("model_not_allowed", "model")
        with pytest.raises(openai.PermissionDeniedError) as caught:
            await sdk.chat.completions.create(model="gpt-4o", messages=HELLO, extra_headers={"x-sidecar-project": "x"})
        assert caught.value.code == "policy_refused"
        headers = {"x-sidecar-project": "blue", "x-sidecar-tags": "a=b"}
        await sdk.chat.completions.create(model="gpt-4o", messages=HELLO, extra_headers=headers)
        call = await upstream.call()
    assert len(upstream.calls) == 1
    assert not [name for name, _ in call.headers if name.lower().startswith("x-sidecar")]


async def test_a_limited_key_may_not_upload_what_names_no_model(upstream: FakeUpstream) -> None:
    async with RunningProxy(config(upstream, keys(models=["gpt-4o"]))) as proxy, client(proxy) as sdk:
        with pytest.raises(openai.PermissionDeniedError):
            await sdk.files.create(file=("a.jsonl", b'{"body": {"model": "o3"}}'), purpose="batch")


async def test_passthrough_sends_the_clients_own_key_up(upstream: FakeUpstream) -> None:
    policy = {"authenticate": {"method": "passthrough"}}
    async with RunningProxy(config(upstream, policy)) as proxy:
        async with client(proxy, "sk-real") as sdk:
            await sdk.chat.completions.create(model="gpt-4o", messages=HELLO)
        call = await upstream.call()
    assert call.header("authorization") == "Bearer sk-real"


async def test_each_of_several_ways_in_keeps_its_own_rule(upstream: FakeUpstream) -> None:
    own = {"when": {"headers": {"x-own-key": "*"}}}
    policies = [
        {"authenticate": {"method": "passthrough", "name": "own-key", **own}},
        {"authenticate": {**keys()["authenticate"], "when": {"not": own["when"]}}},
    ]
    async with RunningProxy(config(upstream, *policies)) as proxy:
        async with client(proxy, "sk-real") as sdk:
            await sdk.chat.completions.create(model="m", messages=HELLO, extra_headers={"x-own-key": "1"})
        async with client(proxy) as sdk:
            await sdk.chat.completions.create(model="m", messages=HELLO)
    assert [call.header("authorization") for call in upstream.calls] == ["Bearer sk-real", None]


async def test_tokens_are_checked_against_the_published_keys(upstream: FakeUpstream, tmp_path: Path) -> None:
    key = RSAKey.generate_key(2048, {"kid": "one"})
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps(KeySet([key]).as_dict(private=False)))
    policy = {"authenticate": {"method": "jwt", "jwt": {"jwks_file": str(path), "issuer": "https://idp"}}}
    head = {"alg": "RS256", "kid": "one"}
    good = jwt.encode(head, {"sub": "ann", "iss": "https://idp", "exp": int(time.time()) + 60}, key)
    bad = jwt.encode(head, {"sub": "ann", "iss": "https://other", "exp": int(time.time()) + 60}, key)
    async with RunningProxy(config(upstream, policy)) as proxy:
        async with client(proxy, good) as sdk:
            await sdk.chat.completions.create(model="m", messages=HELLO)
        async with client(proxy, bad) as sdk:
            with pytest.raises(openai.AuthenticationError, match="issuer"):
                await sdk.chat.completions.create(model="m", messages=HELLO)
    assert len(upstream.calls) == 1
    assert upstream.calls[0].header("authorization") is None


async def test_the_access_log_names_the_principal(upstream: FakeUpstream, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    setting = config(upstream, keys(principal="ann", project="red"), log={"file": str(log)})
    async with RunningProxy(setting) as proxy, client(proxy) as sdk:
        await sdk.chat.completions.create(model="gpt-4o", messages=HELLO)
    line = json.loads(log.read_text().splitlines()[-1])
    assert line["principal"] == "ann"
    assert KEY not in log.read_text()
