"""Rule 5: policies see the client's dialect; below them a request is rendered for each attempt's target."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.exchange import Target
from proxy.policy import Fallback
from proxy.testing import FakeUpstream, chat_answer, chat_events, events, reply

BODY = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}], "x_unknown": {"kept": [1, 2.50]}}


async def test_a_routes_model_is_what_the_upstream_is_asked_for(sidecar, setting, upstream, wire, policy):
    seen: list[Any] = []

    async def look(self: Any, exchange: Any, attempt: Any) -> None:
        seen.append((exchange.model_asked, exchange.tree["model"], attempt.target.model))

    routes = [{"upstream": "up", "chain": "main", "model": "local/llama"}]
    proxy = await sidecar(setting(upstream, policy(on_attempt=look), routes=routes))
    client = await wire(proxy.port)
    await client.post("/v1/chat/completions", BODY)
    assert (await client.answer()).status == 200
    assert upstream.calls[0].json == BODY | {"model": "local/llama"}
    assert seen == [("gpt-4o", "gpt-4o", "local/llama")]


async def test_a_renamed_body_is_checked_even_in_a_plain_forward(sidecar, setting, upstream, wire):
    routes = [{"upstream": "up", "chain": "main", "model": "other"}]
    proxy = await sidecar(setting(upstream, routes=routes))
    client = await wire(proxy.port)
    await client.post("/v1/chat/completions", b'{"model": "a", "model": "b"}')
    answer = await client.answer()
    assert (answer.status, answer.error["code"], answer.error["param"]) == (400, "invalid_json", "model")
    assert upstream.calls == []


@pytest.mark.parametrize("chain", [[], ["validate"]])
async def test_an_alias_names_upstream_and_model(sidecar, setting, upstream, wire, chain):
    async with FakeUpstream(default=reply(chat_answer("other"))) as other:
        more = {"other": {"api": "openai", "base_url": other.url}}
        models = {"fast": {"upstream": "other", "model": "tiny-1"}, "smart": {"model": "big-1"}}
        proxy = await sidecar(setting(upstream, *chain, upstreams=more, models=models))
        client = await wire(proxy.port)
        for model in ("fast", "smart", "gpt-4o"):
            await client.post("/v1/chat/completions", BODY | {"model": model})
            assert (await client.answer()).status == 200
        assert [call.json["model"] for call in other.calls] == ["tiny-1"]
    assert [call.json["model"] for call in upstream.calls] == ["big-1", "gpt-4o"]


async def test_a_fallback_renders_anew_from_what_the_client_said(sidecar, setting, wire, policy):
    async def fall_back(self: Any, exchange: Any, attempt: Any, verdict: Any) -> Fallback | None:
        return Fallback(Target("other", "small")) if attempt.upstream == "up" and verdict.failure else None

    async with FakeUpstream(reply({"error": {}}, status=500)) as first, FakeUpstream(reply(chat_answer())) as other:
        more = {"other": {"api": "openai", "base_url": other.url + "/base"}}
        routes = [{"upstream": "up", "chain": "main", "model": "first-name"}]
        proxy = await sidecar(setting(first, policy(on_result=fall_back), upstreams=more, routes=routes))
        client = await wire(proxy.port)
        await client.post("/v1/chat/completions", BODY)
        assert (await client.answer()).status == 200
        assert first.calls[0].json["model"] == "first-name"
        assert other.calls[0].json == BODY | {"model": "small"}
        assert other.calls[0].target == "/v1/base/chat/completions"


async def test_an_edit_of_a_policy_is_what_goes_up(sidecar, setting, upstream, wire, policy):
    async def edit(self: Any, exchange: Any) -> None:
        exchange.tree["messages"][0]["content"] = "Bye"
        exchange.body.touch()

    proxy = await sidecar(setting(upstream, policy(on_request=edit, edits_request=True)))
    client = await wire(proxy.port)
    await client.post("/v1/chat/completions", BODY)
    assert (await client.answer()).status == 200
    call = await upstream.call()
    assert call.json["messages"][0]["content"] == "Bye"
    assert call.json["x_unknown"] == {"kept": [1, 2.5]}
    assert int(call.header("content-length") or 0) == len(call.body)


async def test_usage_that_only_the_proxy_wants_is_asked_for_and_kept_from_the_client(sidecar, setting, wire, policy):
    async def settle(self: Any, exchange: Any) -> None:
        self.services.clock.now()
        seen.append((exchange.usage.input, exchange.usage.output, exchange.usage.estimated))

    seen: list[Any] = []
    counted = chat_events(["x"], usage=(11, 5))
    for own in ({}, {"stream_options": {"include_usage": True}}):
        async with FakeUpstream(events(*counted)) as upstream:
            proxy = await sidecar(setting(upstream, policy(on_settle=settle, needs_usage=True)))
            client = await wire(proxy.port)
            await client.post("/v1/chat/completions", BODY | {"stream": True} | own)
            answer = await client.answer()
            assert (await upstream.call()).json["stream_options"] == {"include_usage": True}
        assert (b'"usage":{' in answer.body.replace(b" ", b"")) is bool(own)
        assert answer.body.endswith(b"[DONE]\n\n")
    assert seen == [(11, 5, False)] * 2


async def test_an_upstream_that_refuses_to_be_asked_for_usage_is_not_asked_again(sidecar, setting, wire, policy):
    async def settle(self: Any, exchange: Any) -> None:
        seen.append((exchange.outcome, exchange.usage.estimated))

    seen: list[Any] = []
    refusal = reply({"error": {"message": "Unrecognized request argument: stream_options", "code": None}}, status=400)
    streamed = events(*chat_events(["x"]))
    async with FakeUpstream(refusal, streamed, streamed) as upstream:
        proxy = await sidecar(setting(upstream, policy(on_settle=settle, needs_usage=True)))
        client = await wire(proxy.port)
        for _ in range(2):
            await client.post("/v1/chat/completions", BODY | {"stream": True})
            answer = await client.answer()
            assert answer.body.endswith(b"[DONE]\n\n")
        calls = [call.json for call in upstream.calls]
    assert ["stream_options" in call for call in calls] == [True, False, False]
    assert seen == [("answered", True)] * 2


async def test_a_400_that_is_not_about_usage_is_sent_once_where_the_question_was_accepted(
    sidecar, setting, wire, policy
):
    refusal = reply({"error": {"message": "no such model", "code": None}}, status=400)
    async with FakeUpstream(events(*chat_events(["x"])), refusal) as upstream:
        proxy = await sidecar(setting(upstream, policy(on_settle=_nothing, needs_usage=True)))
        client = await wire(proxy.port)
        for status in (200, 400):
            await client.post("/v1/chat/completions", BODY | {"stream": True})
            assert (await client.answer()).status == status
        assert len(upstream.calls) == 2


async def _nothing(self: Any, exchange: Any) -> None:
    """A settle that does nothing: the policy only wants the usage."""
