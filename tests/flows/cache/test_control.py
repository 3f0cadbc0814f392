"""What a client says of caching is heard, all of it, for every call."""

from __future__ import annotations

import pytest
from multidict import CIMultiDict

from proxy.testing import FakeUpstream, chat_answer, reply


async def test_only_if_cached_asks_no_provider_where_nothing_is_ever_cached(cached):
    async with FakeUpstream(default=reply({"data": []})) as upstream:
        caller = await cached(upstream)
        headers = {"x-sidecar-cache": "only-if-cached"}
        for path in ("/images/generations", "/moderations"):
            got = await caller.post(path, {"model": "m", "prompt": "a cat"}, headers)
            assert (got.status, got.json["error"]["code"]) == (504, "not_cached")
        assert not upstream.calls


@pytest.mark.parametrize(
    "said", ["nonsense", "no-store=0", "only-if-cached=false", "max-age", "max-age=soon", "no-store," + " " * 200]
)
@pytest.mark.parametrize("path", ["/chat/completions", "/images/generations"])
async def test_what_is_not_understood_is_refused(cached, said, path):
    async with FakeUpstream(default=reply(chat_answer("Hi"))) as upstream:
        caller = await cached(upstream)
        body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}
        got = await caller.post(
            path, body, {"x-sidecar-cache": said.rstrip() + said[len(said.rstrip()) :] + ",no-cache"}
        )
        assert (got.status, got.json["error"]["param"]) == (400, "x-sidecar-cache")
        assert not upstream.calls


async def test_a_second_line_counts_like_the_first(cached):
    async with FakeUpstream(default=reply(chat_answer("Hi"))) as upstream:
        caller = await cached(upstream)
        body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}
        lines = CIMultiDict([("x-sidecar-cache", "no-cache"), ("X-Sidecar-Cache", "no-store")])
        async with caller.session.post(caller.proxy.base_url + "/chat/completions", json=body, headers=lines) as got:
            assert got.status == 200
        assert caller.cache.stats()["entries"] == 0


@pytest.mark.parametrize("said", ["only-if-cached", "nonsense"])
@pytest.mark.parametrize("fields", [{}, {"store": True}])
async def test_a_cache_that_observes_refuses_nothing(cached, said, fields):
    async with FakeUpstream(default=reply(chat_answer("Hi"))) as upstream:
        caller = await cached(upstream, mode="observe")
        assert (await caller.say(headers={"x-sidecar-cache": said}, **fields)).status == 200
