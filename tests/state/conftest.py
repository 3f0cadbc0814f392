"""A real redis-server on a free port, one a session; each test gets its own name space."""

import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from proxy.state.redis import RedisState


class RedisServer:
    """A redis-server that a test may kill, stall and start again; nothing is kept on disk."""

    def __init__(self, folder: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        self.process = subprocess.Popen(
            ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
             "--dir", self.folder],
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.01)
        raise RuntimeError("redis-server did not start")

    def kill(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()
            self.process = None

    def stall(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)


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
    redis_server.resume()
    for state in made:
        await state.close()
