"""Which calls cost something, and what without the provider's word."""

from __future__ import annotations

import aiohttp
import pytest

from proxy.dialects import openai_embeddings
from proxy.dialects.paid import works
from proxy.testing import FakeUpstream, reply

FREE = [
    "/v1/messages/count_tokens",
    "/v1/responses/input_tokens",
    "/v1/responses/resp_1/cancel",
    "/v1/moderations",
    "/v1/assistants",
    "/v1/fine_tuning/jobs",
]
RESPONSE = {
    "id": "resp_1",
    "object": "response",
    "status": "completed",
    "output": [],
    "usage": {"input_tokens": 1000, "output_tokens": 500},
}
EMBEDDING = {"object": "list", "data": [{"object": "embedding", "index": 0, "embedding": [0.5] * 500}]}


@pytest.mark.parametrize("path", FREE)
def test_no_model_works_where_calls_cost_nothing(path):
    assert not works("POST", path)


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/v1/messages", "/v1/responses", "/v1/rerank", "/v1/images/edits"]
)
def test_a_model_works_everywhere_else(path):
    assert works("POST", path)
    assert not works("GET", path)


async def spent(sidecar, upstream, path, *chain, method="POST", body=None):
    proxy = await sidecar(
        {
            "upstreams": {"up": {"api": "openai", "base_url": upstream.url + "/v1"}},
            "routes": [{"match": {"path": "/v1/*"}, "upstream": "up", "chain": "main"}],
            "chains": {"main": [*chain, {"budget": {"tokens": 500}}]},
        }
    )
    url = proxy.base_url.removesuffix("/v1") + path
    async with aiohttp.ClientSession() as client, client.request(method, url, json=body) as answer:
        status = answer.status
        await answer.read()
    policy = proxy.app.snapshot.chains["main"].find("budget")
    [(_, counter)] = policy.budget.bucket("all", policy.services.clock.now()).counters
    return status, policy.state.usage(counter).used


@pytest.mark.parametrize("path", FREE)
async def test_a_call_that_costs_nothing_is_charged_nothing(sidecar, path):
    async with FakeUpstream(default=reply({"id": "x"})) as upstream:
        assert await spent(sidecar, upstream, path, body={"model": "gpt-4o", "input": "word " * 1000}) == (200, 0)


async def test_usage_that_is_only_read_is_not_counted_again(sidecar):
    async with FakeUpstream(default=reply(RESPONSE)) as upstream:
        assert await spent(sidecar, upstream, "/v1/responses/resp_1", method="GET") == (200, 0)


async def test_a_file_that_is_read_has_no_output(sidecar):
    async with FakeUpstream(default=reply(body=b"x" * 9000, content_type="application/octet-stream")) as upstream:
        assert await spent(sidecar, upstream, "/v1/files/file-1/content", method="GET") == (200, 0)


async def test_vectors_without_usage_are_no_output(sidecar):
    async with FakeUpstream(default=reply(EMBEDDING)) as upstream:
        body = {"model": "text-embedding-3-small", "input": "hello"}
        status, used = await spent(sidecar, upstream, "/v1/embeddings", body=body)
        assert status == 200
        assert 0 < used < 10


def test_a_budget_reserves_no_output_for_vectors():
    assert openai_embeddings.bound({"input": "hello"}).tokens == 0


async def test_an_answer_that_is_no_json_costs_what_it_may_have_under_retry(sidecar):
    async with FakeUpstream(default=reply(body=b"<html>" + b"x" * 394)) as upstream:
        retry = {"retry": {"attempts": 2, "backoff": {"initial": "1ms", "max": "2ms"}}}
        body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 50}
        _, used = await spent(sidecar, upstream, "/v1/chat/completions", retry, body=body)
        assert used >= 2 * 100
