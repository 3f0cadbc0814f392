"""Embeddings: each input is an entry of its own."""

from __future__ import annotations

import orjson
import pytest

from proxy.testing import FakeUpstream, reply


def vectors(call_or_items) -> dict:
    items = call_or_items
    return {
        "object": "list",
        "model": "embed-1",
        "data": [
            {"object": "embedding", "index": i, "embedding": [float(len(str(x))), 0.5]} for i, x in enumerate(items)
        ],
        "usage": {"prompt_tokens": 10 * len(items), "total_tokens": 10 * len(items)},
    }


async def answering(call):
    said = call.json["input"]
    items = said if isinstance(said, list) and not isinstance(said[0], int) else [said]
    await reply(vectors(items))(call)


async def embed(caller, what, **fields):
    return await caller.post("/embeddings", {"model": "embed-1", "input": what, **fields})


async def test_only_unknown_inputs_are_sent(cached):
    async with FakeUpstream(default=answering) as upstream:
        caller = await cached(upstream)
        known = [f"text number {n:03d}" for n in range(90)]
        await embed(caller, known)
        batch = [f"text number {n:03d}" for n in range(100)][::-1]
        got = await embed(caller, batch)
        assert orjson.loads(upstream.calls[1].body)["input"] == batch[:10]
        assert [one["index"] for one in got.json["data"]] == list(range(100))
        assert got.cache == "miss"
        again = await embed(caller, batch)
        assert again.cache == "hit"
        assert again.json == got.json
        assert len(upstream.calls) == 2


async def test_a_batch_is_the_same_as_its_items_one_by_one(cached):
    async with FakeUpstream(default=answering) as upstream:
        caller = await cached(upstream)
        for text in ("a", "bb", "ccc"):
            await embed(caller, text)
        got = await embed(caller, ["ccc", "a", "bb", "a"])
        assert got.cache == "hit"
        assert [one["embedding"][0] for one in got.json["data"]] == [3.0, 1.0, 2.0, 1.0]
        assert got.json["model"] == "embed-1"
        assert got.json["usage"]["prompt_tokens"] == 40
        assert len(upstream.calls) == 3


async def test_an_input_that_stands_twice_is_sent_once(cached):
    async with FakeUpstream(default=answering) as upstream:
        caller = await cached(upstream)
        got = await embed(caller, ["a", "a", "bb"])
        assert upstream.calls[0].json["input"] == ["a", "bb"]
        assert [one["embedding"][0] for one in got.json["data"]] == [1.0, 1.0, 2.0]


@pytest.mark.parametrize("tokens", [[1, 2, 3], [[1, 2, 3], [4]]])
async def test_token_arrays_are_inputs(cached, tokens):
    async with FakeUpstream(default=answering) as upstream:
        caller = await cached(upstream)
        first, second = await embed(caller, tokens), await embed(caller, tokens)
        assert (first.cache, second.cache) == ("miss", "hit")
        assert first.json["data"] == second.json["data"]


async def test_other_parameters_are_other_entries(cached):
    async with FakeUpstream(default=answering) as upstream:
        caller = await cached(upstream)
        await embed(caller, ["a"])
        assert (await embed(caller, ["a"], dimensions=2)).cache == "miss"


async def test_an_answer_that_does_not_fit_is_refused_and_not_stored(cached):
    async with FakeUpstream(answering, reply(vectors(["x", "y"])), default=answering) as upstream:
        caller = await cached(upstream)
        await embed(caller, ["a"])
        got = await embed(caller, ["a", "b"])
        assert got.status == 502
        assert got.json["error"]["code"] == "upstream_invalid_response"
        assert (await embed(caller, ["b"])).cache == "miss"


async def test_stale_items_stand_in_when_the_provider_fails(cached):
    import asyncio

    async with FakeUpstream(answering, default=reply({"error": {}}, status=500)) as upstream:
        caller = await cached(upstream, ttl="30ms", stale_if_error="1h")
        first = await embed(caller, ["a", "b"])
        await asyncio.sleep(0.05)
        got = await embed(caller, ["b", "a"])
        assert (got.status, got.cache) == (200, "stale")
        assert len(got.json["data"]) == len(first.json["data"])


async def test_the_tokens_of_a_batch_are_shared_out_to_its_items(cached):
    async with FakeUpstream(default=answering) as upstream:
        caller = await cached(upstream)
        await embed(caller, ["a", "bbb", "cc"])
        shares = [(await embed(caller, text)).json["usage"]["prompt_tokens"] for text in ("a", "bbb", "cc")]
        assert sum(shares) == 30
        assert shares[0] < shares[2] < shares[1]
