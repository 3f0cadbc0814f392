"""One circuit for two processes, through a real Redis."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.state.redis import RedisState
from proxy.testing import FakeUpstream, reset

ROOT = Path(__file__).resolve().parents[2]
BREAKER = {"circuit_breaker": {"fail_max": 2, "reset": "1500ms"}}

# The other replica: fails the upstream's circuit open, then says when it has seen it closed.
OTHER = """
import asyncio, sys
from proxy.clock import SystemClock
from proxy.state.redis import RedisState
from proxy.upstream.breaker import Pass, Settings
from proxy.upstream.breakers import Breakers

async def main(url, namespace):
    clock = SystemClock()
    state = RedisState(url, namespace=namespace, timeout=1.0)
    await state.start()
    breaker = Breakers(clock, state).group("upstream", Settings(fail_max=2, reset=1.5))["first", ""]
    for _ in range(2):
        breaker.failed(breaker.admit(clock.monotonic()), clock.monotonic(), "timeout")
    print(breaker.state, flush=True)
    while not isinstance(breaker.admit(clock.monotonic()), Pass):
        await asyncio.sleep(0.02)
    print(breaker.history[-1].reason, flush=True)
    await state.close()

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    server = subprocess.Popen([*words, "--dir", str(tmp_path_factory.mktemp("redis"))], stdout=subprocess.DEVNULL)
    try:
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            server.poll()
            assert server.returncode is None
            import time

            time.sleep(0.01)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        server.terminate()
        server.wait()


@pytest.fixture
async def replicas(redis_url: str) -> AsyncIterator[tuple[RedisState, RedisState, str]]:
    namespace = uuid.uuid4().hex
    states = [RedisState(redis_url, namespace=namespace, timeout=1.0) for _ in range(2)]
    for state in states:
        await state.start()
    yield states[0], states[1], namespace
    for state in states:
        await state.close()


async def until(condition: Any, seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)


async def test_a_circuit_opened_in_one_process_is_open_in_another_and_one_probe_closes_both(
    start: Any, first: FakeUpstream, redis_url: str, replicas: tuple[RedisState, RedisState, str]
) -> None:
    state, _, namespace = replicas
    proxy = await start([BREAKER], state=state, first=first.url)
    assert (await proxy.post()).status == 200
    other = await asyncio.create_subprocess_exec(
        sys.executable, "-c", OTHER, redis_url, namespace, stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    assert other.stdout is not None
    assert await asyncio.wait_for(other.stdout.readline(), 10.0) == b"open\n"
    async with asyncio.timeout(1.2):
        while (await proxy.post()).status == 200:
            await asyncio.sleep(0.05)
    seen = len(first.calls)
    refused = await proxy.post()
    assert (refused.status, refused.code, len(first.calls)) == (503, "circuit_open", seen)
    async with asyncio.timeout(5.0):
        while (await proxy.post()).status != 200:
            await asyncio.sleep(0.05)
    assert len(first.calls) == seen + 1
    assert await asyncio.wait_for(other.stdout.readline(), 5.0) == b"another replica's probe was answered\n"
    assert await other.wait() == 0
    await proxy.at_rest()


async def test_two_replicas_send_one_probe(
    start: Any, first: FakeUpstream, replicas: tuple[RedisState, RedisState, str]
) -> None:
    one_state, other_state, _ = replicas
    one = await start([BREAKER], state=one_state, first=first.url)
    other = await start([BREAKER], state=other_state, first=first.url)
    first.script(reset(), reset())
    assert [(await one.post()).status for _ in range(2)] == [502, 502]
    async with asyncio.timeout(1.2):
        while (await other.post()).status == 200:
            await asyncio.sleep(0.05)
    seen = len(first.calls)
    release = asyncio.Event()
    good = first.default
    assert good is not None

    async def held(call: Any) -> None:
        await release.wait()
        await good(call)

    first.default = held
    await asyncio.sleep(1.6)
    calls = [asyncio.create_task(proxy.post()) for proxy in (one, other) for _ in range(10)]
    await until(lambda: sum(call.done() for call in calls) == 19)
    assert len(first.calls) == seen + 1
    release.set()
    assert sorted([(await call).status for call in calls]) == [200] + [503] * 19
    async with asyncio.timeout(2.0):
        while {(await one.post()).status, (await other.post()).status} != {200}:
            await asyncio.sleep(0.05)
    await one.at_rest()
    await other.at_rest()


async def test_with_redis_gone_each_replica_goes_on_by_itself(start: Any, first: FakeUpstream) -> None:
    state = RedisState("redis://127.0.0.1:1/0", namespace="x")
    await state.start()
    proxy = await start([{"circuit_breaker": {"fail_max": 1, "reset": "100ms"}}], state=state, first=first.url)
    first.script(reset())
    assert (await proxy.post()).status == 502
    assert (await proxy.post()).status == 503
    await asyncio.sleep(0.1)
    assert (await proxy.post()).status == 200
    assert (await proxy.post()).status == 200
    await proxy.at_rest()
    await state.close()
