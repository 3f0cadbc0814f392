"""Embeddings that are put together of what is stored and what is fetched: one model's, all of them, counted once."""

from __future__ import annotations

import asyncio

import pytest

from proxy.testing import FakeUpstream, reply
from tests.flows.cache.test_left_behind import ANSWER, DOWN, SMALL, rows, settled


def vectors(items, size=2, model="embed-1"):
    data = [{"object": "embedding", "index": i, "embedding": [0.5] * size} for i, _ in enumerate(items)]
    return {"object": "list", "model": model, "data": data,
            "usage": {"prompt_tokens": len(items), "total_tokens": len(items)}}  # fmt: skip


async def embedding(call):
    await reply(vectors(call.json["input"]))(call)


async def embed(caller, what, headers=None):
    return await caller.post("/embeddings", {"model": "embed-1", "input": what}, headers)


async def test_a_batch_never_holds_vectors_of_two_models(cached):
    down = False

    async def step(call):
        if call.json["model"] == "embed-1":
            await (DOWN if down else reply(vectors(call.json["input"])))(call)
        else:
            await reply(vectors(call.json["input"], size=4, model="small"))(call)

    prices = {"embed-1": {"input": 1, "output": 0}, "small": {"input": 100, "output": 0}}
    async with FakeUpstream(default=step) as upstream:
        caller = await cached(upstream, above=["account"], below=SMALL, more={"prices": prices})
        await embed(caller, ["a", "b"])
        down = True
        got = await embed(caller, ["a", "b", "c"])
        assert [len(one["embedding"]) for one in got.json["data"]] == [4, 4, 4]
        assert [call.json["input"] for call in upstream.calls[1:]] == [["c"]] * 2 + [["a", "b", "c"]] * 2
        await settled(caller)
        assert sum(row["cost"] for row in rows(caller)[1:]) == 4 * 100_000  # one input, and then all three


async def test_a_part_of_a_batch_is_not_given_for_the_whole(cached):
    async def other(call):
        await reply(vectors(call.json["input"]), content_type="text/plain")(call)

    async with FakeUpstream(embedding, default=other) as upstream:
        caller = await cached(upstream)
        await embed(caller, ["a", "b"])
        got = await embed(caller, ["a", "b", "c"])
        assert (len(got.json["data"]), got.headers["content-type"]) == (3, "application/json")


async def test_embeddings_served_stale_leave_no_flight(cached):
    async def step(call):
        call.write(b"HTTP/1.1 500 No\r\ncontent-type: application/json\r\ncontent-length: 3000000\r\n\r\n{")
        await asyncio.Event().wait()

    async with FakeUpstream(embedding, default=step) as upstream:
        caller = await cached(upstream, ttl="30ms", stale_if_error="1h")
        await embed(caller, ["a", "b"])
        await asyncio.sleep(0.05)
        assert (await embed(caller, ["b", "a"])).cache == "stale"
        await asyncio.sleep(0.5)
        assert not caller.proxy.app.snapshot.flights


async def test_embeddings_served_stale_saved_what_they_had_cost(cached):
    prices = {"embed-1": {"input": 1, "output": 1}, "small": {"input": 100, "output": 100}}
    async with FakeUpstream(embedding, default=DOWN) as upstream:
        caller = await cached(
            upstream, ttl="30ms", stale_if_error="1h", above=["account"], below=SMALL, more={"prices": prices}
        )
        await embed(caller, ["b", "a"])
        await asyncio.sleep(0.05)
        assert (await embed(caller, ["b", "a"])).cache == "stale"
        await settled(caller)
        first, second = rows(caller)
        assert second["saved"] == first["cost"]


@pytest.mark.parametrize("by", ["cost", "budget"])
async def test_a_smaller_batch_is_estimated_as_what_is_sent(cached, by):
    async def step(call):
        said = vectors(call.json["input"])
        if by == "cost":
            del said["usage"]
        await reply(said)(call)

    known = ["text number one " * 50 + str(n) for n in range(20)]
    async with FakeUpstream(default=step) as upstream:
        caller = await cached(
            upstream, above=["account", {"rate_limit": {"tpm": 1_000_000}}],
            below=[{"budget": {"tokens": 5110, "max_wait": "0s"}}] if by == "budget" else [],
            more={"prices": {"embed-1": {"input": 1, "output": 1}}},
        )  # fmt: skip
        assert (await embed(caller, known)).status == 200
        got = await embed(caller, [*known, "b"])
        assert got.status == 200, got.text
        await settled(caller)
        assert rows(caller)[1]["input"] < 50


@pytest.mark.parametrize("what", ["chat", "embeddings"])
async def test_only_if_cached_does_not_renew(cached, what):
    async with FakeUpstream(default=reply(ANSWER) if what == "chat" else embedding) as upstream:
        caller = await cached(upstream, ttl="30ms", stale_while_revalidate="1h")
        only = {"x-sidecar-cache": "only-if-cached"}
        await (caller.say() if what == "chat" else embed(caller, ["a"]))
        await asyncio.sleep(0.05)
        await (caller.say(headers=only) if what == "chat" else embed(caller, ["a"], only))
        await asyncio.sleep(0.1)
        assert len(upstream.calls) == 1
