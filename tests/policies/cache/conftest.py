"""A real Redis for the stores, and what they tell the operator."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis as Client

from proxy.policies.cache.redis import RedisStore
from tests.redis_server import RedisServer


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(str(tmp_path))
    server.start()
    yield server
    server.kill()


@pytest.fixture
async def client(redis: RedisServer) -> AsyncIterator[Client]:
    """Another application's way to the same Redis."""
    async with Client.from_url(redis.url) as found:
        yield found


class Told(logging.Handler):
    """events: what an operator was told, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if hasattr(record, "event"):
            self.events.append(record.event)


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
async def opened(redis: RedisServer, told: Told) -> AsyncIterator[Callable[..., RedisStore]]:
    """Open a store on that Redis, under the namespace ``test`` unless another is named."""
    stores: list[RedisStore] = []
    log = logging.Logger("of the store")
    log.addHandler(told)

    def make(namespace: str = "test", secrets: tuple[str, ...] = (), **more: Any) -> RedisStore:
        stores.append(RedisStore(redis.url, namespace, secrets, log=log, **more))
        return stores[-1]

    yield make
    if redis.process is not None:
        redis.resume()
    for store in stores:
        await store.close()


async def until(what: Callable[[], object]) -> None:
    """Wait for what a store does in the background."""
    async with asyncio.timeout(10):
        while not what():
            await asyncio.sleep(0.002)


async def written(store: RedisStore) -> None:
    """Wait until nothing is on its way to Redis."""
    await until(lambda: not store._pending)
