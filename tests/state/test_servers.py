"""A call that meets several parts which use one Redis waits for a silent one once."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable

import pytest

from proxy.policies.cache.redis import RedisStore
from proxy.state import Window
from proxy.state.redis import RedisState
from proxy.state.servers import server_of
from tests.redis_server import RedisServer
from tests.state.test_redis import until

RPM = Window("rpm", 1000)


@pytest.fixture
async def both(redis_server: RedisServer) -> AsyncIterator[tuple[RedisState, RedisStore]]:
    """State and cache of one process, connected, each with its usual patience."""
    state = RedisState(redis_server.url, namespace=uuid.uuid4().hex)
    store = RedisStore(redis_server.url, "cache", ())
    await state.start()
    await store.start()
    await until(lambda: state.up)
    await store.fetch(b"warm")
    assert state.up and store.up
    yield state, store
    redis_server.resume()
    await store.close()
    await state.close()


@pytest.mark.parametrize("first", ["state", "cache"])
async def test_who_has_waited_for_one_part_does_not_wait_for_the_other(
    both: tuple[RedisState, RedisStore], redis_server: RedisServer, first: str
) -> None:
    state, store = both
    redis_server.stall()
    began = time.monotonic()
    if first == "state":
        await state.reserve((((RPM, 1),),))
        await store.fetch(b"x")
    else:
        await store.fetch(b"x")
        await state.reserve((((RPM, 1),),))
    assert 0.04 < time.monotonic() - began < 0.08  # 45 ms, and what a busy machine adds
    assert (state.up, store.up) == (False, False)
    redis_server.resume()
    await until(lambda: state.up and store.up)


async def test_calls_under_way_in_one_part_end_when_another_has_waited_in_vain(
    both: tuple[RedisState, RedisStore], redis_server: RedisServer
) -> None:
    state, store = both
    redis_server.stall()
    began = time.monotonic()
    fetching = asyncio.ensure_future(store.fetch(b"x"))
    await asyncio.sleep(0.03)
    await state.reserve((((RPM, 1),),))  # asked 30 ms later: 15 ms of waiting are left
    assert time.monotonic() - began < 0.08
    assert await fetching is None


def noting() -> tuple[list[str], Callable[[str], None]]:
    said: list[str] = []
    return said, said.append


def test_an_answer_to_anybody_lately_means_that_it_is_there() -> None:
    server = server_of(f"redis://{uuid.uuid4().hex}:1/0")
    said, told = noting()
    own, me = noting()
    server.join(told)
    server.join(me)
    began = time.monotonic() - 0.045
    server.answered()
    server.silent(began, "no answer", me)
    assert said == []
    time.sleep(0.06)  # the answer is from the first half of what was waited since
    server.silent(began, "no answer", me)
    assert (said, own) == (["no answer"], [])
    server.leave(told)
    server.silent(time.monotonic(), "no answer", me)
    assert said == ["no answer"]


def test_a_server_is_known_by_its_address_alone() -> None:
    one = server_of("redis://user:word@cache.example:6379/0")
    assert server_of("redis://cache.example/3") is one
    assert server_of("redis://cache.example:6380/0") is not one
    assert server_of("unix:///run/redis.sock?db=1") is server_of("unix:///run/redis.sock")
