"""Memory in front of Redis: it answers at once, and hides nothing that is fresher behind it."""

from __future__ import annotations

import pytest

from proxy.policies.cache.entry import Entry
from proxy.policies.cache.lru import START
from proxy.policies.cache.selection import EVERYTHING
from proxy.policies.cache.stores import UnclearedError
from proxy.policies.cache.tiered import TieredStore
from proxy.testing import FakeClock
from tests.policies.cache.conftest import until, written

KEY = b"\x01" * 16


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def replica(opened, clock):
    """Another replica: ``replica()``. All share the Redis."""
    return lambda: TieredStore(opened(timeout=1.0), 1 << 20, 60.0, clock)


def entry(clock, body: bytes, fresh_for: float = 10.0) -> bytes:
    return Entry(body, clock.now(), fresh_for).encode()


def body_of(found: bytes | None) -> bytes | None:
    return None if found is None else Entry.decode(found, START).body


async def looked_up(store: TieredStore) -> bytes | None:
    """As the policy does."""
    return body_of(store.look(KEY) or await store.fetch(KEY))


async def test_what_is_past_its_time_here_does_not_hide_what_another_replica_has_renewed(replica, clock):
    one, two = replica(), replica()
    two.put(KEY, entry(clock, b"old"), 100)
    await written(two.behind)
    clock.advance(11)
    one.put(KEY, entry(clock, b"new"), 100)
    await written(one.behind)
    assert await looked_up(two) == b"new"
    assert body_of(two.look(KEY)) == b"new"  # and is here from now on


async def test_several_looked_up_at_once_are_hidden_no_more_than_one(replica, clock):
    one, two = replica(), replica()
    two.put(KEY, entry(clock, b"old"), 100)
    await written(two.behind)
    clock.advance(11)
    one.put(KEY, entry(clock, b"new"), 100)
    await written(one.behind)
    assert [body_of(found) for found in await two.fetch_many([b"?" * 16, KEY])] == [None, b"new"]
    assert body_of(two.look(KEY)) == b"new"


async def test_what_is_past_its_time_here_is_given_when_redis_is_gone(replica, clock, redis):
    store = replica()
    store.put(KEY, entry(clock, b"old"), 100)
    await written(store.behind)
    clock.advance(11)
    redis.kill()
    assert await looked_up(store) == b"old"


async def test_what_is_fresh_here_is_given_without_asking(replica, clock, redis):
    store = replica()
    store.put(KEY, entry(clock, b"new"), 100)
    assert body_of(store.look(KEY)) == b"new"
    redis.kill()
    assert body_of(store.look(KEY)) == b"new"


async def test_what_redis_could_not_take_is_not_lost_for_what_it_has(replica, clock, client):
    store = replica()
    store.put(KEY, entry(clock, b"oldest"), 100)
    await written(store.behind)
    clock.advance(1)
    await client.config_set("maxmemory-policy", "noeviction")
    await client.config_set("maxmemory", 1)
    store.put(KEY, entry(clock, b"later"), 100)
    await written(store.behind)
    clock.advance(11)
    assert await looked_up(store) == b"later"


async def test_memory_is_cleared_also_when_redis_is_not_and_how_much_is_said(replica, clock, redis):
    store = replica()
    await store.start()
    store.put(KEY, entry(clock, b"old"), 100)
    await written(store.behind)
    epoch = store.epoch
    redis.stall()
    with pytest.raises(UnclearedError) as raised:
        await store.clear(EVERYTHING)
    assert raised.value.count == 1
    assert store.epoch > epoch
    assert await looked_up(store) is None
    redis.resume()
    await until(lambda: store.behind.up)
    assert await looked_up(store) is None
