"""A real redis-server on a free port, one a session; each test gets its own name space."""

import tempfile
import uuid
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from proxy.state.redis import RedisState
from tests.redis_server import RedisServer


@pytest.fixture(scope="session")
def _one_redis() -> Iterator[RedisServer]:
    with tempfile.TemporaryDirectory() as folder:
        server = RedisServer(folder)
        server.start()
        yield server
        server.kill()


@pytest.fixture
def redis_server(_one_redis: RedisServer) -> RedisServer:
    """Running, for this test; it may be killed or stalled."""
    if _one_redis.process is None:
        _one_redis.start()
    _one_redis.resume()
    return _one_redis


@pytest.fixture
async def replicas(redis_server: RedisServer) -> AsyncIterator[Callable[..., RedisState]]:
    """Makes replicas that share one name space: `state = replicas(); await state.start()`."""
    namespace = uuid.uuid4().hex
    made: list[RedisState] = []

    def make(**options: object) -> RedisState:
        options.setdefault("timeout", 1.0)  # the machine that runs the tests is shared; 45 ms has its own test
        state = RedisState(redis_server.url, namespace=namespace, **options)  # type: ignore[arg-type]
        made.append(state)
        return state

    yield make
    if redis_server.process is not None:
        redis_server.resume()
    for state in made:
        await state.close()
