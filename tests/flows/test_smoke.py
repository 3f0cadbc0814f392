"""One whole call of each shape through an empty chain and through a small one."""

import aiohttp
import pytest

from proxy.testing import FakeUpstream, chat_answer, chat_events, events, reply


def config(upstream: FakeUpstream, chain: list) -> dict:
    return {
        "upstreams": {"up": {"api": "openai", "base_url": upstream.url + "/v1"}},
        "routes": [{"match": {"path": "/v1/*"}, "upstream": "up", "chain": "main"}],
        "chains": {"main": chain},
    }


BODY = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}


@pytest.mark.parametrize("chain", [[], ["validate"], [{"authenticate": {"method": "none"}}, "validate"]])
async def test_a_whole_answer_comes_back_as_it_was(sidecar, chain):
    async with FakeUpstream(reply(chat_answer("Hi"))) as upstream:
        proxy = await sidecar(config(upstream, chain))
        async with aiohttp.ClientSession() as client:
            async with client.post(proxy.base_url + "/chat/completions", json=BODY) as answer:
                assert answer.status == 200
                assert (await answer.json())["choices"][0]["message"]["content"] == "Hi"
                assert answer.headers["x-sidecar-upstream"] == "up"


@pytest.mark.parametrize("chain", [[], ["validate", {"retry": {"attempts": 2}}]])
async def test_a_stream_comes_back_as_it_was(sidecar, chain):
    async with FakeUpstream(events(*chat_events(["one", " two"]))) as upstream:
        proxy = await sidecar(config(upstream, chain))
        async with aiohttp.ClientSession() as client:
            async with client.post(proxy.base_url + "/chat/completions", json=BODY | {"stream": True}) as answer:
                assert answer.status == 200
                text = await answer.text()
                assert text.endswith("data: [DONE]\n\n")
                assert " two" in text
