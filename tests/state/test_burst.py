"""A healthy Redis under a burst: the limits hold exactly, and busy replicas do not take it for a slow one."""

import asyncio
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from proxy.state import Window
from proxy.state.redis import RedisState
from tests.redis_server import RedisServer

ROOT = Path(__file__).resolve().parents[2]

# A replica: at a sign it gets 500 calls at once, each with some work of its own, and says how many were let through.
REPLICA = """
import asyncio, sys, time
from proxy.state import Window
from proxy.state.redis import RedisState

alarms = []

async def call(state, limit):
    until = time.perf_counter() + 0.0003
    while time.perf_counter() < until:
        pass
    return bool(await state.reserve((((limit, 1),),)))

async def main(url, namespace):
    state = RedisState(url, namespace=namespace, alarm=lambda code, text: alarms.append(text))
    await state.start()
    while not state.up:
        await asyncio.sleep(0.01)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    limit = Window("k:rpm", 100)
    taken = await asyncio.gather(*[call(state, limit) for _ in range(500)])
    print(sum(taken), *alarms, flush=True)
    await state.close()

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize("run", range(4))
async def test_a_thousand_calls_at_once_in_two_processes_take_the_limit_and_no_more(
    redis_server: RedisServer, run: int
) -> None:
    namespace = uuid.uuid4().hex
    both = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", REPLICA, redis_server.url, namespace, cwd=ROOT,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )
        for _ in range(2)
    ]  # fmt: skip
    for one in both:
        assert one.stdout is not None and await one.stdout.readline() == b"ready\n"
    for one in both:
        assert one.stdin is not None
        one.stdin.write(b"go\n")
    said = [await one.communicate() for one in both]
    counts = [out.decode().split(maxsplit=1) for out, _ in said]
    assert [more for _, *more in counts] == [[], []]
    assert sum(int(count) for count, *_ in counts) == 100


async def test_a_process_that_stands_still_does_not_declare_redis_gone(redis_server: RedisServer) -> None:
    alarms: list[str] = []
    state = RedisState(redis_server.url, namespace=uuid.uuid4().hex, alarm=lambda _, text: alarms.append(text))
    await state.start()
    limit = Window("k:rpm", 1000)

    async def turns() -> None:
        for _ in range(20):
            time.sleep(0.06)  # the point: longer than anybody may wait for Redis
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        group.create_task(turns())
        for _ in range(400):
            group.create_task(state.reserve((((limit, 1),),)))
    assert state.up
    assert alarms == []
    await state.close()
