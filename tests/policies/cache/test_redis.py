"""The Redis store by itself: its bound on every wait, what it survives, and what it refuses to do."""

from __future__ import annotations

import asyncio
import time

import pytest

from proxy.policies.cache.entry import Entry
from proxy.policies.cache.lru import START
from proxy.policies.cache.redis import RedisStore, SharedCache
from proxy.policies.cache.selection import EVERYTHING, Selection
from proxy.policies.cache.stores import UnclearedError
from tests.policies.cache.conftest import until, written

KEY = b"\x01" * 16
ENTRY = Entry(b"{}", 0, 60).encode()
TAG = b"a tag 8b"
TAGGED = Entry(b"{}", 0, 60).encode(TAG)
BY_TAG = Selection(frozenset({TAG}))
NAME = f"test:{KEY.hex()}"


def key(number: int) -> bytes:
    return number.to_bytes(16, "big")


# --- waiting -------------------------------------------------------------------------------------------


async def test_a_redis_that_stalls_keeps_nobody_over_50_ms_and_only_once(redis, opened):
    store = opened()
    await store.start()
    store.put(KEY, ENTRY, 60)
    await written(store)
    assert await store.fetch(KEY) is not None
    redis.stall()
    begun = time.perf_counter()
    assert await store.fetch(KEY) is None
    assert 0.03 < time.perf_counter() - begun < 0.15
    begun = time.perf_counter()
    for _ in range(100):
        assert await store.fetch(KEY) is None
    assert time.perf_counter() - begun < 0.02
    redis.resume()
    await until(lambda: store.up)
    assert await store.fetch(KEY) is not None


async def test_a_batch_waits_for_a_redis_that_stalls_no_longer_than_a_call(redis, opened):
    store = opened()
    assert await store.fetch(KEY) is None
    redis.stall()
    begun = time.perf_counter()
    assert await store.fetch_many([key(number) for number in range(2000)]) == [None] * 2000
    assert time.perf_counter() - begun < 0.15


async def test_many_at_once_share_a_few_connections(opened):
    store = opened(timeout=20.0)
    store.put(KEY, ENTRY, 60)
    async with asyncio.timeout(10):
        while await store.fetch(KEY) is None:
            pass  # it is written in the background
    found = await asyncio.gather(*(store.fetch(KEY) for _ in range(500)))
    assert all(one is not None for one in found)
    clients = await store._cache.client.info("clients")
    assert clients["connected_clients"] <= 33


async def test_a_burst_of_writes_arrives_whole(opened, client, told):
    store = opened()
    await store.start()
    entry = Entry(bytes(30_000), 0, 60).encode()
    for number in range(1000):
        store.put(key(number), entry, 60)
    await written(store)
    assert await client.dbsize() == 1000
    assert (store.up, store.errors, store.dropped, told.events) == (True, 0, 0, [])


@pytest.mark.parametrize("patient", [True, False])
async def test_a_burst_of_look_ups_does_not_make_redis_look_gone(opened, told, patient):
    """Who waits in line for too long has a miss at most; with time enough everybody has his answer."""
    store = opened(**({"timeout": 10.0} if patient else {}))
    for number in range(2000):
        store.put(key(number), ENTRY, 60)
    await written(store)
    found = await asyncio.gather(*(store.fetch(key(number)) for number in range(2000)))
    assert not patient or None not in found
    assert (store.up, store.errors, told.events) == (True, 0, [])


async def test_several_are_found_in_their_order(opened):
    store = opened(timeout=5.0)
    for number in range(0, 1000, 2):
        store.put(key(number), Entry(b"%d" % number, 0, 60).encode(), 60)
    await written(store)
    found = await store.fetch_many([key(number) for number in range(1000)])
    bodies = [None if one is None else int(Entry.decode(one, START).body) for one in found]
    assert bodies == [None if number % 2 else number for number in range(1000)]


async def test_an_entry_on_its_way_is_already_there(opened):
    store = opened()
    store.put(KEY, ENTRY, 60)
    assert store.look(KEY)[START:] == ENTRY
    await store.clear(EVERYTHING)
    assert store.look(KEY) is None
    assert await store.fetch(KEY) is None


async def test_what_is_put_and_then_removed_is_gone(opened, client):
    store = opened()
    store.put(KEY, ENTRY, 60)
    store.remove(KEY)
    assert store.look(KEY) is None
    await written(store)
    assert await client.dbsize() == 0


@pytest.mark.parametrize("ttl", [0.0, 0.0009, 0.001])
async def test_an_entry_that_is_as_good_as_over_does_not_make_redis_look_gone(opened, ttl):
    store = opened()
    await store.start()
    store.put(KEY, ENTRY, ttl)
    await written(store)
    assert (store.up, store.errors) == (True, 0)


async def test_a_large_entry_comes_back_whole(opened):
    store = opened(timeout=5.0)
    entry = Entry(bytes(3_000_000), 0, 60).encode()
    store.put(KEY, entry, 60)
    await written(store)
    assert (await store.fetch(KEY))[START:] == entry


# --- what Redis refuses --------------------------------------------------------------------------------


async def test_a_name_that_holds_something_else_is_a_miss_and_gives_way_to_the_next_entry(opened, client, told):
    store = opened()
    await client.rpush(NAME, "not", "an", "entry")
    assert await store.fetch(KEY) is None
    assert (store.up, told.events) == (True, [])
    store.put(KEY, ENTRY, 60)
    await written(store)
    assert (await store.fetch(KEY))[START:] == ENTRY


async def full(client) -> None:
    await client.config_set("maxmemory-policy", "noeviction")
    await client.config_set("maxmemory", 1)


async def roomy(client) -> None:
    await client.config_set("maxmemory", 0)


async def replica(client) -> None:
    await client.execute_command("REPLICAOF", "127.0.0.1", "1")


async def master(client) -> None:
    await client.execute_command("REPLICAOF", "NO", "ONE")


@pytest.mark.parametrize(("shut", "open_again"), [(full, roomy), (replica, master)])
async def test_a_redis_that_takes_no_writes_still_serves_and_is_told_of_once(opened, client, told, shut, open_again):
    store = opened()
    store.put(KEY, ENTRY, 60)
    await written(store)
    await shut(client)
    for number in range(2, 5):
        async with asyncio.timeout(5):
            while not store._writes.open:  # each try is a real one
                await asyncio.sleep(0.005)
        store.put(key(number), ENTRY, 60)
        await written(store)
        assert await store.fetch(KEY) is not None
    assert (store.up, store.dropped, told.events) == (True, 3, ["cache_store_refuses_writes"])
    assert store.stats()["takes_writes"] is False
    await open_again(client)
    await until(lambda: store._writes.open)
    store.put(key(9), ENTRY, 60)
    await written(store)
    assert await store.fetch(key(9)) is not None
    assert told.events == ["cache_store_refuses_writes", "cache_store_restored"]
    assert store.stats()["takes_writes"] is True


async def test_writes_are_not_tried_before_the_pause_is_over(opened, client):
    store = opened()
    await full(client)
    store.put(KEY, ENTRY, 60)
    await written(store)
    store.put(KEY, ENTRY, 60)
    assert not store._pending
    assert store.dropped == 2


async def test_a_redis_that_lets_nobody_read_is_a_miss_and_told_of_once(opened, client, told):
    store = opened()
    assert await store.fetch(KEY) is None
    await client.execute_command("ACL", "SETUSER", "default", "-mget", "-get")
    for _ in range(5):
        assert await store.fetch(KEY) is None
    await client.execute_command("ACL", "SETUSER", "default", "+mget", "+get")
    async with asyncio.timeout(5):
        while not store._reads.open:
            await asyncio.sleep(0.005)
    assert await store.fetch(KEY) is None
    assert told.events == ["cache_store_refuses_reads", "cache_store_restored"]


# --- clearing ------------------------------------------------------------------------------------------


async def test_a_clear_by_tag_takes_what_is_no_entry_any_more(opened, client):
    store = opened()
    for number in range(3):
        store.put(key(number), TAGGED, 60)
    await written(store)
    await client.delete(f"test:{key(0).hex()}")
    await client.rpush(f"test:{key(0).hex()}", "something else")
    assert await store.clear(BY_TAG) == 3
    assert await client.dbsize() == 0


async def test_a_clear_by_tag_leaves_the_others(opened, client):
    store = opened()
    store.put(key(1), TAGGED, 60)
    store.put(key(2), ENTRY, 60)
    await written(store)
    assert await store.clear(BY_TAG) == 1
    assert await client.keys() == [f"test:{key(2).hex()}".encode()]


@pytest.mark.parametrize(
    "others",
    [
        [f"test:staging:{KEY.hex()}"],
        ["test:settings", "test:" + "z" * 32, "test:" + KEY.hex()[1:], "test:" + KEY.hex() + "0"],
        ["tést:" + KEY.hex()],
    ],
)
async def test_a_clear_takes_names_of_entries_only(opened, client, others):
    store = opened()
    store.put(KEY, ENTRY, 60)
    await written(store)
    for name in others:
        await client.set(name, b"somebody else's")
    assert await store.clear(EVERYTHING) == 1
    assert sorted(await client.keys()) == sorted(name.encode() for name in others)


@pytest.mark.parametrize("namespace", ["a.b:c", "a*[b]?", "späße"])
async def test_signs_in_a_namespace_mean_themselves(opened, namespace):
    one, other = opened(namespace), opened(namespace + "c")
    for store in (one, other):
        store.put(KEY, TAGGED, 60)
        await written(store)
    assert await one.clear(BY_TAG) == 1
    assert await other.fetch(KEY) is not None


async def test_what_is_under_way_to_redis_does_not_outlive_a_clear(opened, client):
    store = opened()
    for number in range(500):
        store.put(key(number), ENTRY, 60)
    await until(lambda: len(store._pending) < 500 or store._outbox._under_way)
    await store.clear(EVERYTHING)
    assert await client.dbsize() == 0


async def test_a_clear_that_did_not_come_to_its_end_says_so(redis, opened):
    store = opened()
    await store.start()
    redis.kill()
    with pytest.raises(UnclearedError, match=r"Redis \(test\) could not be cleared"):
        await store.clear(EVERYTHING)
    with pytest.raises(UnclearedError):  # also when it is known to be gone
        await store.clear(EVERYTHING)


@pytest.mark.parametrize("which", [EVERYTHING, BY_TAG, Selection(prefix=KEY.hex()[:2])])
async def test_a_clear_that_is_owed_is_carried_out_before_anything_is_served(redis, opened, which):
    store = opened()
    await store.start()
    store.put(KEY, TAGGED, 60)
    await written(store)
    redis.stall()
    with pytest.raises(UnclearedError):
        await store.clear(which)
    redis.resume()
    found = []
    async with asyncio.timeout(10):
        while not store.up:
            found.append(await store.fetch(KEY))
            await asyncio.sleep(0.002)
    found.append(await store.fetch(KEY))
    assert set(found) == {None}


async def test_a_clear_that_is_refused_closes_the_store_until_it_could_be_done(opened, client, told):
    store = opened()
    store.put(KEY, ENTRY, 60)
    await written(store)
    await replica(client)
    with pytest.raises(UnclearedError):
        await store.clear(EVERYTHING)
    assert await store.fetch(KEY) is None
    await master(client)
    await until(lambda: store.up)
    assert await client.dbsize() == 0
    assert told.events == ["cache_store_unavailable", "cache_store_restored"]


async def test_of_many_clears_that_are_owed_all_is_cleared(redis, opened, client):
    store = opened()
    await store.start()
    store.put(KEY, ENTRY, 60)
    await written(store)
    redis.stall()
    for number in range(40):
        with pytest.raises(UnclearedError):
            await store.clear(Selection(prefix=f"f{number:02d}"))
    assert store._owed == [EVERYTHING]
    redis.resume()
    await until(lambda: store.up)
    assert await client.dbsize() == 0


# --- names ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["redis://h/0", "redis://h:6379", "redis://:password@h", "rediss://other/0"])
async def test_without_a_master_key_names_hang_on_the_namespace_alone(url):
    one, other = RedisStore("redis://h", "space", ()), RedisStore(url, "space", ())
    assert one.secret == other.secret
    assert one.secret != RedisStore("redis://h", "another", ()).secret
    assert one.secret != RedisStore("redis://h", "space", ("master key",)).secret


async def test_a_namespace_is_demanded_and_aiocaches_clear_refused():
    with pytest.raises(ValueError, match="needs a namespace"):
        SharedCache("redis://127.0.0.1:1/0", "")
    cache = SharedCache("redis://127.0.0.1:1/0", "space")
    with pytest.raises(NotImplementedError):
        await cache.clear()
    await cache.close()
