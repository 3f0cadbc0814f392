"""A Redis behind the cache: shared, sealed, and never in anybody's way."""

from __future__ import annotations

import asyncio
import logging
import time

import pytest
from redis.asyncio import Redis as Client

from proxy.app import StartError
from proxy.testing import FakeUpstream, chat_answer, reply


@pytest.fixture
def alarms():
    """What the proxy's own logger is told, whatever its level and handlers."""
    seen: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if hasattr(record, "event"):
                seen.append(record)

    handler = Keep()
    logger = logging.getLogger("llm_sidecar")
    yield seen, lambda: logger.addHandler(handler)
    logger.removeHandler(handler)


MASTER = "ZmFrZS1tYXN0ZXIta2V5LWZvci10ZXN0cy0zMmJ5dGU="


async def keys(redis) -> list[bytes]:
    async with Client.from_url(redis.url) as client:
        return await client.keys("*")


async def clear(caller) -> tuple[int, dict]:
    """As an operator does: status, and what is said."""
    async with caller.session.post(caller.proxy.admin_url + "/api/v1/cache/clear", json={}) as answer:
        return answer.status, await answer.json()


def held(answer):
    """A step that answers when its call is released."""

    async def step(call):
        await call.turn()
        await reply(answer)(call)

    return step


async def settled(caller) -> None:
    """Until what is written in the background has been written."""
    store = caller.cache.shelf.store
    await caller.until(lambda: not (getattr(store, "behind", store)._pending))


@pytest.mark.parametrize("store", ["redis", "tiered"])
async def test_two_replicas_share(cached, redis, store):
    async with FakeUpstream(default=reply(chat_answer("Hi"))) as upstream:
        one = await cached(upstream, store=store, redis=redis.url, max_bytes="1MiB")
        two = await cached(upstream, store=store, redis=redis.url, max_bytes="2MiB")
        assert (await one.say()).cache == "miss"
        await settled(one)
        assert (await two.say()).cache == "hit"
        assert len(upstream.calls) == 1


async def test_entries_leave_redis_at_their_time(cached, redis):
    async with FakeUpstream(default=reply(chat_answer("Hi"))) as upstream:
        caller = await cached(upstream, store="redis", redis=redis.url, ttl="10s", stale_if_error="20s")
        await caller.say()
        await settled(caller)
        [name] = await keys(redis)
        assert name.startswith(b"llm-sidecar:cache:")
        async with Client.from_url(redis.url) as client:
            assert 25_000 < await client.pttl(name) <= 30_000


@pytest.mark.parametrize("store", ["redis", "tiered"])
async def test_clear_takes_the_namespace_and_nothing_else(cached, redis, store):
    async with FakeUpstream(default=reply(chat_answer("Hi"))) as upstream:
        async with Client.from_url(redis.url) as client:
            await client.set("somebody:else", b"1")
        caller = await cached(upstream, store=store, redis=redis.url)
        for number in range(5):
            await caller.say(f"question {number}", model="a" if number < 2 else "b")
        await settled(caller)
        assert await caller.cache.clear(model="a") == 2
        assert (await caller.say("question 0", model="a")).cache == "miss"
        await settled(caller)
        assert await caller.cache.clear() == 4
        assert await keys(redis) == [b"somebody:else"]


@pytest.mark.parametrize("store", ["redis", "tiered"])
async def test_redis_killed_in_mid_call_is_a_miss_one_alarm_and_no_delay(cached, redis, store, alarms):
    async with FakeUpstream(default=reply(chat_answer("Hi"))) as upstream:
        caller = await cached(upstream, store=store, redis=redis.url)
        seen, listen = alarms
        listen()  # the proxy's start has replaced all handlers
        await caller.say("before")
        await settled(caller)
        asking = [asyncio.ensure_future(caller.say(f"during {n}")) for n in range(20)]
        redis.kill()
        assert [one.status for one in await asyncio.gather(*asking)] == [200] * 20
        for number in range(10):
            begun = time.perf_counter()
            assert (await caller.say(f"after {number}")).status == 200
            assert time.perf_counter() - begun < 0.25  # a shared machine; the bound itself has its own test
        assert [one.event for one in seen] == ["cache_store_unavailable"]
        assert caller.cache.stats()["up"] is False


async def test_redis_that_comes_back_is_used_again(cached, redis):
    async with FakeUpstream(default=reply(chat_answer("Hi"))) as upstream:
        caller = await cached(upstream, store="redis", redis=redis.url)
        await caller.say()
        await settled(caller)
        redis.kill()
        assert (await caller.say()).cache == "miss"
        await redis.start()
        await caller.until(lambda: caller.cache.stats()["up"])
        assert (await caller.say()).cache == "miss"
        await settled(caller)
        assert (await caller.say()).cache == "hit"


async def test_no_redis_at_the_start_stops_nothing(cached, redis):
    redis.kill()
    async with FakeUpstream(default=reply(chat_answer("Hi"))) as upstream:
        caller = await cached(upstream, store="tiered", redis=redis.url)
        assert [(await caller.say()).cache for _ in range(2)] == ["miss", "hit"]


async def test_entries_are_encrypted_when_a_master_key_is_set(cached, redis, monkeypatch):
    monkeypatch.setenv("LLM_SIDECAR_MASTER_KEY", MASTER)
    async with FakeUpstream(default=reply(chat_answer("a very plain text"))) as upstream:
        caller = await cached(upstream, store="redis", redis=redis.url)
        await caller.say()
        await settled(caller)
        [name] = await keys(redis)
        async with Client.from_url(redis.url) as client:
            assert b"plain text" not in await client.get(name)
        assert (await caller.say()).content == "a very plain text"
        assert caller.cache.stats()["encrypted"] is True


async def test_a_damaged_entry_is_a_miss_and_is_removed(cached, redis):
    async with FakeUpstream(reply(chat_answer("old")), reply(chat_answer("new"))) as upstream:
        caller = await cached(upstream, store="redis", redis=redis.url)
        await caller.say()
        await settled(caller)
        [name] = await keys(redis)
        async with Client.from_url(redis.url) as client:
            entry = await client.get(name)
            await client.set(name, entry[:-30] + b"X" + entry[-29:])
            got = await caller.say(headers={"x-sidecar-cache": "no-store"})
            assert (got.cache, got.content) == ("miss", "new")
            async with asyncio.timeout(5):
                while await client.exists(name):
                    await asyncio.sleep(0.005)
        assert caller.cache.stats()["damaged"] == 1


async def test_an_unmasked_call_leaves_nothing_in_a_shared_store(cached, redis):
    async with FakeUpstream(default=reply(chat_answer("Hi"))) as upstream:
        pii = {"pii": {"entities": ["EMAIL"], "mode": "observe"}}
        caller = await cached(upstream, above=[pii], store="redis", redis=redis.url)
        assert [(await caller.say()).cache for _ in range(2)] == ["bypass", "bypass"]
        assert await keys(redis) == []


async def test_a_shared_store_without_a_redis_is_a_mistake_that_is_named(cached):
    async with FakeUpstream() as upstream:
        with pytest.raises(StartError, match="needs a Redis"):
            await cached(upstream, store="redis")


@pytest.mark.parametrize("store", ["redis", "tiered"])
async def test_what_is_under_way_on_another_replica_is_not_stored_after_a_clear(cached, redis, store):
    async with FakeUpstream(held(chat_answer("old")), default=reply(chat_answer("new"))) as upstream:
        more = {"state": redis.url}
        one = await cached(upstream, store=store, max_bytes="1MiB", more=more)
        two = await cached(upstream, store=store, max_bytes="2MiB", more=more)
        epoch = two.cache.shelf.store.epoch
        asking = asyncio.ensure_future(two.say())
        asked = await upstream.call()
        await one.cache.clear()
        await two.until(lambda: two.cache.shelf.store.epoch > epoch)  # within a second
        asked.release()
        assert (await asking).content == "old"
        await settled(two)
        assert [got.content for got in [await one.say(), await two.say()]] == ["new", "new"]


async def test_a_clear_that_did_not_reach_redis_is_told_and_made_good(cached, redis):
    async with FakeUpstream(reply(chat_answer("old")), default=reply(chat_answer("new"))) as upstream:
        caller = await cached(upstream, store="tiered", redis=redis.url)
        await caller.say()
        await settled(caller)
        redis.stall()
        status, said = await clear(caller)
        assert status == 503
        assert said["error"]["message"] == (
            "entries forgotten: 1; Redis (llm-sidecar:cache) could not be cleared, and will be before it is used again"
        )
        redis.resume()
        await caller.until(lambda: caller.cache.stats()["up"])
        assert (await caller.say()).content == "new"
        assert await clear(caller) == (200, {"cleared": 1})


async def test_a_fresh_answer_of_another_replica_is_not_asked_for_again(cached, redis):
    """The copy in memory is kept for the stale windows; it hides nothing that has been renewed in Redis."""
    async with FakeUpstream(reply(chat_answer("old")), default=reply(chat_answer("new"))) as upstream:
        kept = {"store": "tiered", "redis": redis.url, "ttl": "300ms", "stale_if_error": "1h"}
        one = await cached(upstream, max_bytes="1MiB", **kept)
        two = await cached(upstream, max_bytes="2MiB", **kept)
        await two.say()
        await settled(two)
        await asyncio.sleep(0.31)
        assert (await one.say()).cache == "miss"
        await settled(one)
        got = await two.say()
        assert (got.cache, got.content) == ("hit", "new")


async def test_a_new_password_and_another_way_to_write_the_address_share_what_is_stored(cached, redis):
    async with FakeUpstream(default=reply(chat_answer("Hi"))) as upstream:
        one = await cached(upstream, store="redis", redis=redis.url)
        await one.say()
        await settled(one)
        async with Client.from_url(redis.url) as client:
            await client.config_set("requirepass", "new")
        two = await cached(upstream, store="redis", redis=f"redis://:new@localhost:{redis.port}")
        assert (await two.say()).cache == "hit"


async def test_a_clear_reaches_the_memory_of_other_replicas(cached, redis):
    async with FakeUpstream(reply(chat_answer("old")), default=reply(chat_answer("new"))) as upstream:
        more = {"state": redis.url}
        one = await cached(upstream, store="tiered", max_bytes="1MiB", more=more)
        two = await cached(upstream, store="tiered", max_bytes="2MiB", more=more)
        await one.say()
        await settled(one)
        assert (await two.say()).cache == "hit"
        await one.cache.clear()
        async with asyncio.timeout(5):
            while (await two.say(headers={"x-sidecar-cache": "only-if-cached"})).status == 200:
                await asyncio.sleep(0.05)


async def test_a_change_of_the_policies_below_makes_entries_unreachable_and_one_above_does_not(cached, redis):
    """What stands above the cache is in the body already; what stands below changes the answer."""
    prompt = {"defaults": {"rules": [{"when": {"model": "gpt-4o"}, "system": "Be brief."}]}}
    other = {"defaults": {"rules": [{"when": {"model": "gpt-4o"}, "system": "Be kind."}]}}
    unused = {"defaults": {"rules": [{"when": {"model": "never-asked"}, "system": "Be brief."}]}}
    places = [
        ([], [], "miss"),
        ([unused], [], "hit"),
        ([{"pii": {"entities": ["EMAIL"]}}], [], "hit"),
        ([prompt], [], "miss"),
        ([], [prompt], "miss"),
        ([unused], [prompt], "hit"),
        ([], [other], "miss"),
        ([], [], "hit"),
    ]
    async with FakeUpstream(default=reply(chat_answer("Hi"))) as upstream:
        for above, below, expected in places:
            caller = await cached(upstream, above=above, below=below, store="redis", redis=redis.url)
            assert (await caller.say()).cache == expected, (above, below)
            await settled(caller)
