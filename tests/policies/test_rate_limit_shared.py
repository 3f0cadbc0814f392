"""rate_limit on a real Redis: two processes share one limit."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import uuid

import pytest

RATE, BURST, SECONDS = 500, 50, 2.0

CHILD = """
import asyncio, json, sys, time
from proxy.clock import SystemClock
from proxy.errors import ProxyError
from proxy.exchange import Principal
from proxy.policies.rate_limit import RateLimit
from proxy.state.redis import RedisState
from proxy.testing import called, exchange_builder, policy_builder, services_builder

async def main(url, namespace, rpm, burst, seconds):
    state = RedisState(url, namespace=namespace, timeout=1.0)
    services = services_builder(SystemClock())
    services.offer("state", lambda _: state)
    policy = policy_builder(RateLimit, {"rpm": rpm, "burst": burst}, services=services)
    await state.start()
    while not state.up:
        await asyncio.sleep(0.01)
    print("ready", flush=True)
    sys.stdin.readline()
    moments = []
    end = time.monotonic() + seconds
    async def caller():
        while time.monotonic() < end:
            exchange = exchange_builder(None, principal=Principal("anna"))
            try:
                await called(policy.on_request(exchange))
            except ProxyError:
                await asyncio.sleep(0.002)
            else:
                moments.append(time.monotonic())
                await called(policy.on_done(exchange))
    await asyncio.gather(*[caller() for _ in range(8)])
    print(json.dumps(moments), flush=True)
    await state.close()

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5])))
"""


@pytest.fixture
def redis_url(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)],
        stdout=subprocess.DEVNULL,
    )
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.01)
    yield f"redis://127.0.0.1:{port}/0"
    server.kill()
    server.wait()


def test_two_processes_share_one_limit_within_one_percent(redis_url):
    arguments = [redis_url, uuid.uuid4().hex, str(RATE * 60), str(BURST), str(SECONDS)]
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    for child in children:
        assert child.stdout.readline() == "ready\n"
    for child in children:
        child.stdin.write("go\n")
        child.stdin.flush()
    moments = [json.loads(child.stdout.readline()) for child in children]
    for child in children:
        assert child.wait(10) == 0
        child.stdin.close()
        child.stdout.close()
    together = sorted(moments[0] + moments[1])
    allowed = BURST + RATE * (together[-1] - together[0])
    assert len(together) == pytest.approx(allowed, rel=0.01)
    assert min(len(one) for one in moments) > 0.1 * allowed
