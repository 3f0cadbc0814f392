"""The table in memory: bounded by bytes, least recently used first, in time, and never long at once."""

from __future__ import annotations

import asyncio
import os
import time
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.clock import FakeClock
from proxy.policies.cache.backend import ByteBoundedCache
from proxy.policies.cache.lru import OVERHEAD, SLICE, START, ByteLru


def cost(value: bytes) -> int:
    return 16 + START + len(value) + OVERHEAD


def key(number: int) -> bytes:
    return number.to_bytes(16, "big")


def test_the_least_recently_used_goes_first():
    lru = ByteLru(3 * cost(b"x" * 10), FakeClock().monotonic)
    for number in range(3):
        lru.put(key(number), b"x" * 10, 60)
    assert lru.get(key(0)) == b"x" * 10
    lru.put(key(3), b"x" * 10, 60)
    assert [lru.get(key(number)) is not None for number in range(4)] == [True, False, True, True]


def test_an_entry_leaves_at_its_time():
    clock = FakeClock()
    lru = ByteLru(10_000, clock.monotonic)
    lru.put(key(1), b"x", 10)
    clock.advance(9.9)
    assert lru.left(key(1)) == pytest.approx(0.1)
    clock.advance(0.1)
    assert lru.get(key(1)) is None
    assert (lru.entries, lru.bytes, lru.expired) == (0, 0, 1)


def test_what_is_larger_than_everything_is_not_kept():
    lru = ByteLru(1000, FakeClock().monotonic)
    assert not lru.put(key(1), b"x" * 1000, 60)
    assert (lru.entries, lru.bytes) == (0, 0)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 400), st.sampled_from("pgrt")), max_size=60))
def test_the_books_agree_with_what_is_there(steps):
    clock = FakeClock()
    lru = ByteLru(2000, clock.monotonic)
    for number, size, what in steps:
        if what == "p":
            lru.put(key(number), b"x" * size, 5 + number)
        elif what == "g":
            found = lru.get(key(number))
            assert found is None or set(found) <= {120}
        elif what == "r":
            lru.remove(key(number))
        else:
            clock.advance(1)
        held = [pair for shard in lru.scan() for pair in shard]
        assert lru.entries == len(held)
        assert lru.bytes == sum(len(name) + len(data) + OVERHEAD for name, data in held) <= 2000


async def test_making_room_for_a_large_entry_is_done_in_slices():
    lru = ByteLru(4_000_000, time.monotonic)
    for number in range(10_000):
        lru.put(key(number), b"x" * 100, 60)
    before = lru.evicted
    assert lru.put(b"large-----------", b"x" * 3_000_000, 60)
    assert lru.evicted - before <= SLICE
    async with asyncio.timeout(5):
        while lru.bytes > lru.max_bytes:
            await asyncio.sleep(0)
    assert lru.peek(b"large-----------") is not None


async def test_clear_forgets_at_once_and_frees_in_slices():
    lru = ByteLru(4_000_000, time.monotonic)
    for number in range(5_000):
        lru.put(key(number), b"x", 60)
    assert lru.clear() == 5_000
    assert lru.get(key(1)) is None
    lru.put(key(1), b"new", 60)
    async with asyncio.timeout(5):
        while lru._gone:
            await asyncio.sleep(0)
    assert lru.get(key(1)) == b"new"


def test_an_entry_costs_its_bytes_and_at_most_300_more():
    lru = ByteLru(64 * 1024 * 1024, time.monotonic)
    value = 100
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(20_000):
            lru.put(os.urandom(16), os.urandom(value), 600)
        used = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert used / 20_000 - value - 16 < 300


# --- the same as an aiocache backend -------------------------------------------------------------


async def test_the_backend_speaks_aiocache():
    cache = ByteBoundedCache(10_000, namespace="space", ttl=60)
    await cache.set("a", b"1")
    assert await cache.get("a") == b"1"
    assert await cache.get("b", default=b"?") == b"?"
    assert await cache.multi_get(["a", "b"]) == [b"1", None]
    assert await cache.multi_set([("c", b"3"), ("d", b"4")])
    assert await cache.exists("c")
    with pytest.raises(ValueError, match="already exists"):
        await cache.add("c", b"5")
    assert await cache.delete("c") == 1
    assert await cache.increment("n", 2) == 2
    assert await cache.increment("n") == 3
    assert await cache.expire("a", 1)
    assert cache.lru.left(b"space:a") < 2


async def test_the_backend_takes_bytes_only():
    with pytest.raises(TypeError, match="keeps bytes, not dict"):
        await ByteBoundedCache().set("a", {"pickle": "me"})


async def test_the_backend_is_bounded():
    cache = ByteBoundedCache(5 * cost(b"x" * 100))
    for number in range(50):
        await cache.set(key(number), b"x" * 100)
    assert cache.lru.entries == 5


async def test_the_backend_clears_its_namespace_only():
    cache = ByteBoundedCache(10_000)
    await cache.set("a", b"1", namespace="one")
    await cache.set("a", b"2", namespace="two")
    await cache.clear(namespace="one")
    assert [await cache.get("a", namespace=space) for space in ("one", "two")] == [None, b"2"]


async def test_a_key_set_after_a_clear_is_not_taken_early():
    cache = ByteBoundedCache(10_000)
    await cache.set("a", b"1", ttl=0.01)
    await cache.clear()
    await cache.set("a", b"2", ttl=60)
    await asyncio.sleep(0.03)
    assert await cache.get("a") == b"2"
