"""Embeddings: each input is an entry of its own."""

from __future__ import annotations

import asyncio

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


async def uncounted(call):
    await reply({key: value for key, value in vectors(call.json["input"]).items() if key != "usage"})(call)


async def held(call):
    await call.turn()
    await answering(call)


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


async def test_the_part_that_came_from_the_store_is_saved_and_the_other_is_paid(cached):
    async with FakeUpstream(default=answering) as upstream:
        caller = await cached(upstream, above=["account"])
        await embed(caller, ["aa", "bb", "cc"], model="text-embedding-3-small")
        await embed(caller, ["aa", "dd", "cc"], model="text-embedding-3-small")
        whole, part = caller.proxy.exchanges
        assert whole.saved_usage is None
        assert (part.cache_status, part.saved_usage.input, part.usage.input) == ("miss", 20, 10)
        assert part.saved_nanos == 2 * part.cost_nanos > 0
        async with caller.session.get(caller.proxy.admin_url + "/metrics") as page:
            [line] = [
                line
                for line in (await page.text()).splitlines()
                if line.startswith("llm_sidecar_tokens_total{") and 'kind="input"' in line
            ]
        assert line.endswith(" 40")  # what was stored is not counted again


async def test_a_follower_of_what_is_missing_has_saved_that_and_what_was_stored(cached):
    async with FakeUpstream(answering, held) as upstream:
        caller = await cached(upstream)
        await embed(caller, ["aa", "bb"])
        asking = [asyncio.ensure_future(embed(caller, ["aa", "cc"])) for _ in range(2)]
        call = await upstream.call(1)
        await caller.until(lambda: len(caller.proxy.app.snapshot.in_flight) == 2)
        call.release()
        assert sorted(got.cache for got in await asyncio.gather(*asking)) == ["coalesced", "miss"]
        ended = {one.cache_status: one for one in caller.proxy.exchanges[1:]}
        assert (ended["miss"].saved_usage.input, ended["coalesced"].saved_usage.input) == (10, 20)


async def test_a_provider_that_counts_nothing_is_not_said_to_have_counted_zero(cached):
    async with FakeUpstream(default=uncounted) as upstream:
        caller = await cached(upstream)
        for known in (["a text of some length"], ["a text of some length", "another"]):
            got = await embed(caller, known)
            assert "usage" not in got.json
        got = await embed(caller, ["another", "a text of some length"])
        assert got.cache == "hit"
        assert "usage" not in got.json
        saved = caller.proxy.exchanges[-1].saved_usage
        assert saved.estimated
        assert saved.input > 5


async def test_a_batch_of_many_is_stored_in_redis_and_found_there(cached, redis):
    async with FakeUpstream(default=answering) as upstream:
        caller = await cached(upstream, store="redis", redis=redis.url)
        batch = [f"text number {n}" for n in range(600)]
        await embed(caller, batch)
        store = caller.cache.shelf.store
        await caller.until(lambda: not store._pending and caller.cache.stats()["stored"] == 600)
        assert (await embed(caller, batch)).cache == "hit"
        assert (store.up, store.errors, store.dropped) == (True, 0, 0)


async def test_what_is_kept_turn_by_turn_ends_with_a_clear(cached):
    async with FakeUpstream(default=answering) as upstream:
        caller = await cached(upstream)
        policy, turns = caller.cache, []
        keep_all = policy.shelf.keep_all

        def cleared_after_the_first(entries, tags):
            keep_all(entries, tags)
            turns.append(len(entries))
            policy.shelf.store.epoch += 1

        policy.shelf.keep_all = cleared_after_the_first
        await embed(caller, [f"text number {n}" for n in range(600)])
        assert len(turns) == 1
        assert turns[0] < 100


async def test_large_vectors_are_compressed_in_a_thread(cached, monkeypatch):
    import threading
    import zlib

    from proxy.policies.cache import entry

    threads = set()

    def compress(*args):
        threads.add(threading.current_thread())
        return zlib.compress(*args)

    class Watched:
        decompressobj, error = zlib.decompressobj, zlib.error

    Watched.compress = staticmethod(compress)
    monkeypatch.setattr(entry, "zlib", Watched)
    async with FakeUpstream(default=answering) as upstream:
        caller = await cached(upstream, compress_above="16B")
        batch = [f"text number {n}" for n in range(100)]
        first = await embed(caller, batch)
        await caller.until(lambda: caller.cache.stats()["entries"] == 100)
        again = await embed(caller, batch)
        assert (again.cache, again.json) == ("hit", first.json)
    assert threads
    assert threading.main_thread() not in threads
