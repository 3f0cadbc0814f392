"""Run with `pytest examples/custom-policy`: the policy alone, then in a whole proxy against a scripted provider."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from answer_limit import AnswerLimit

from proxy.document import Document
from proxy.errors import ProxyError
from proxy.exchange import Answer
from proxy.testing import (
    FakeUpstream,
    RunningProxy,
    chat_answer,
    chat_events,
    events,
    exchange_builder,
    policy_builder,
    reply,
)  # fmt: skip

QUESTION = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Tell me everything"}]}


def config(upstream: FakeUpstream, **options: Any) -> dict[str, Any]:
    return {
        "upstreams": {"provider": {"api": "openai", "base_url": upstream.url + "/v1"}},
        "routes": [{"upstream": "provider", "chain": "main"}],
        "chains": {"main": [{"answer_limit:AnswerLimit": options}]},
    }


def test_the_model_is_told_before_it_answers() -> None:
    policy = policy_builder(AnswerLimit, {"chars": 50})
    exchange = exchange_builder(QUESTION)
    policy.on_request(exchange)
    assert exchange.tree is not None
    assert exchange.tree["messages"][0] == {"role": "system", "content": "Answer in at most 50 characters."}


def test_observe_reports_and_changes_nothing() -> None:
    policy = policy_builder(AnswerLimit, {"chars": 5}, observe=True)
    exchange = exchange_builder(QUESTION)
    policy.on_request(exchange)
    policy.on_response(exchange, Answer(200, [], origin="upstream", body=Document.of(chat_answer("Too long"))))
    assert exchange.tree == QUESTION
    assert exchange.notes == [("answer_limit", "would refuse an answer of 8 characters")]


def test_a_long_answer_is_refused() -> None:
    policy = policy_builder(AnswerLimit, {"chars": 5})
    with pytest.raises(ProxyError, match="longer than 5 characters"):
        answer = Answer(200, [], origin="upstream", body=Document.of(chat_answer("Too long")))
        policy.on_response(exchange_builder(QUESTION), answer)


async def test_a_whole_call_that_answers_too_much_is_refused_in_the_clients_own_shape() -> None:
    async with (
        FakeUpstream(reply(chat_answer("Too long"))) as upstream,
        RunningProxy(config(upstream, chars=5)) as proxy,
        aiohttp.ClientSession() as client,
        client.post(f"{proxy.url}/chat/completions", json=QUESTION) as answer,
    ):
        assert answer.status == 403
        assert answer.headers["x-sidecar-policy"] == "answer_limit"
        assert (await answer.json())["error"]["code"] == "policy_refused"


async def test_a_stream_that_grows_too_long_ends_with_an_error() -> None:
    async with (
        FakeUpstream(events(*chat_events(["fits ", "does not fit any more"]))) as upstream,
        RunningProxy(config(upstream, chars=10)) as proxy,
        aiohttp.ClientSession() as client,
        client.post(f"{proxy.url}/chat/completions", json=QUESTION | {"stream": True}) as answer,
    ):
        assert answer.status == 200
        text = await answer.text()
    assert "fits " in text
    assert "does not fit" not in text
    assert "The answer is longer than 10 characters." in text
    assert "[DONE]" not in text
