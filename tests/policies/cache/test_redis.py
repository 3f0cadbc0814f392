"""The Redis store by itself: its bound on every wait, and what it refuses to do."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import time

import pytest

from proxy.policies.cache.entry import Entry
from proxy.policies.cache.lru import START
from proxy.policies.cache.redis import RedisStore, SharedCache
from proxy.policies.cache.selection import EVERYTHING

KEY = b"\x01" * 16


@pytest.fixture
async def redis(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)],
        stdout=subprocess.DEVNULL,
    )
    async with asyncio.timeout(5):
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            await asyncio.sleep(0.01)
    process.url = f"redis://127.0.0.1:{port}/0"
    yield process
    process.send_signal(signal.SIGCONT)
    process.kill()
    process.wait()


async def test_a_redis_that_stalls_keeps_nobody_over_50_ms_and_only_once(redis):
    store = RedisStore(redis.url, "test", ())
    await store.start()
    store.put(KEY, Entry(b"{}", 0, 60).encode(), 60)
    async with asyncio.timeout(5):
        while store._pending:
            await asyncio.sleep(0.005)
    assert await store.fetch(KEY) is not None
    redis.send_signal(signal.SIGSTOP)
    begun = time.perf_counter()
    assert await store.fetch(KEY) is None
    assert 0.03 < time.perf_counter() - begun < 0.15
    begun = time.perf_counter()
    for _ in range(100):
        assert await store.fetch(KEY) is None
    assert time.perf_counter() - begun < 0.02
    redis.send_signal(signal.SIGCONT)
    async with asyncio.timeout(5):
        while not store.up:
            await asyncio.sleep(0.01)
    assert await store.fetch(KEY) is not None
    await store.close()


async def test_many_at_once_share_a_few_connections(redis):
    store = RedisStore(redis.url, "test", (), timeout=20.0)
    store.put(KEY, Entry(b"{}", 0, 60).encode(), 60)
    async with asyncio.timeout(10):
        while await store.fetch(KEY) is None:
            pass  # it is written in the background
    found = await asyncio.gather(*(store.fetch(KEY) for _ in range(500)))
    assert all(one is not None for one in found)
    clients = await store._cache.client.info("clients")
    assert clients["connected_clients"] <= 33
    await store.close()


async def test_an_entry_on_its_way_is_already_there(redis):
    store = RedisStore(redis.url, "test", ())
    entry = Entry(b"{}", 0, 60).encode()
    store.put(KEY, entry, 60)
    assert store.look(KEY)[START:] == entry
    await store.clear(EVERYTHING)
    assert store.look(KEY) is None
    assert await store.fetch(KEY) is None
    await store.close()


@pytest.mark.parametrize("ttl", [0.0, 0.0009, 0.001])
async def test_an_entry_that_is_as_good_as_over_does_not_make_redis_look_gone(redis, ttl):
    store = RedisStore(redis.url, "test", ())
    await store.start()
    store.put(KEY, Entry(b"{}", 0, 60).encode(), ttl)
    async with asyncio.timeout(5):
        while store._pending:
            await asyncio.sleep(0.005)
    assert (store.up, store.errors) == (True, 0)
    await store.close()


async def test_a_namespace_is_demanded_and_aiocaches_clear_refused():
    with pytest.raises(ValueError, match="needs a namespace"):
        SharedCache("redis://127.0.0.1:1/0", "")
    cache = SharedCache("redis://127.0.0.1:1/0", "space")
    with pytest.raises(NotImplementedError):
        await cache.clear()
    await cache.close()


async def test_signs_in_a_namespace_mean_themselves(redis):
    one, other = RedisStore(redis.url, "a.b:c", ()), RedisStore(redis.url, "a.b:cc", ())
    for store in (one, other):
        store.put(KEY, Entry(b"{}", 0, 60).encode(), 60)
        async with asyncio.timeout(5):
            while store._pending:
                await asyncio.sleep(0.005)
    assert await one.clear(EVERYTHING) == 1
    assert await other.fetch(KEY) is not None
    await one.close()
    await other.close()
