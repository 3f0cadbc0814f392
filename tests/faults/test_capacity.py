"""What a call may cost and leave behind: memory, connections, tasks, buffers. Counted, not assumed."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from proxy.exchange import Exchange
from proxy.testing import Call, FakeUpstream, chat_answer, events, hang, reply
from proxy.upstream.transport.connection import Connection as UpstreamConnection
from proxy.upstream.transport.incoming import Incoming

ROOT = Path(__file__).resolve().parents[2]
MB = 1024 * 1024
PIECE = b"x" * 65536
SIZE = 100 * MB


def config(upstream: FakeUpstream) -> dict[str, Any]:
    return {
        "upstreams": {"fake": {"api": "openai", "base_url": upstream.url, "max_connections": 500}},
        "routes": [{"match": {"path": "*"}, "upstream": "fake", "chain": "empty"}],
        "chains": {"empty": []},
    }


@dataclass
class Child:
    """A proxy in a process of its own, so that its memory is nobody else's."""

    pid: int
    port: int

    def rss(self, field: str = "VmRSS") -> float:
        """Megabytes; VmHWM is the most there ever was."""
        found = re.search(rf"{field}:\s+(\d+)", Path(f"/proc/{self.pid}/status").read_text())
        assert found
        return int(found[1]) / 1024


@pytest.fixture
async def child(tmp_path: Path) -> AsyncIterator[Callable[[FakeUpstream], Awaitable[Child]]]:
    running: list[asyncio.subprocess.Process] = []

    async def start(upstream: FakeUpstream) -> Child:
        with socket.socket() as held:
            held.bind(("127.0.0.1", 0))
            port = held.getsockname()[1]
        whole = {
            **config(upstream),
            "server": {"port": port},
            "admin": {"enabled": False},
            "data": str(tmp_path),
            "log": {"access": False},
        }
        file = tmp_path / "child.yaml"
        file.write_text(json.dumps(whole))
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "proxy", "serve", "--config", str(file),
            cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        running.append(process)
        async with asyncio.timeout(20):
            while True:
                assert process.returncode is None
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    await asyncio.sleep(0.05)
                    continue
                writer.close()
                return Child(process.pid, port)

    yield start
    for process in running:
        if process.returncode is None:
            process.terminate()
        await process.wait()


def request(path: str, *headers: str, length: int = 0) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", *headers, f"Content-Length: {length}"]
    return "\r\n".join([*lines, "", ""]).encode()


# --- size ---------------------------------------------------------------------------------------


async def test_a_hundred_megabytes_come_down_in_little_memory(child: Callable[..., Awaitable[Child]]) -> None:
    async def big(call: Call) -> None:
        call.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: %d\r\n\r\n" % SIZE)
        for _ in range(SIZE // len(PIECE)):
            call.write(PIECE)
            await call.drain()

    async with FakeUpstream(reply(chat_answer()), big) as upstream:
        proxy = await child(upstream)
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port, limit=2**18)
        writer.write(request("/v1/chat/completions", "Content-Type: application/json", length=2) + b"{}")
        await reader.readuntil(b'usage"')
        writer.close()
        before = proxy.rss()
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port, limit=2**18)
        writer.write(request("/v1/files/one/content", "Content-Type: text/plain"))
        await reader.readuntil(b"\r\n\r\n")
        got = 0
        while got < SIZE:
            got += len(await reader.read(2**18))
        writer.close()
        assert got == SIZE
        assert proxy.rss("VmHWM") - before < 30


async def test_a_hundred_megabytes_go_up_in_little_memory(child: Callable[..., Awaitable[Child]]) -> None:
    async with FakeUpstream(reply(chat_answer()), default=reply({"id": "file-1"})) as upstream:
        proxy = await child(upstream)
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(request("/v1/chat/completions", "Content-Type: application/json", length=2) + b"{}")
        await reader.readuntil(b'usage"')
        writer.close()
        before = proxy.rss()
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(request("/v1/files", "Content-Type: multipart/form-data; boundary=b", length=SIZE))
        for _ in range(SIZE // len(PIECE)):
            writer.write(PIECE)
            await writer.drain()
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")
        writer.close()
        assert len(upstream.calls[1].body) == SIZE
        assert proxy.rss("VmHWM") - before < 30


async def test_a_client_that_does_not_drink_stops_the_upstream_and_costs_little(
    child: Callable[..., Awaitable[Child]],
) -> None:
    stuck = asyncio.Event()
    written = 0

    async def endless(call: Call) -> None:
        nonlocal written
        call.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n")
        while written < SIZE:
            call.write(b"10000\r\n" + PIECE + b"\r\n")
            written += len(PIECE)
            try:
                async with asyncio.timeout(1.0):
                    await call.drain()
            except TimeoutError:
                stuck.set()
                await call.disconnected
                return

    async with FakeUpstream(endless) as upstream:
        proxy = await child(upstream)
        before = proxy.rss()
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        raw.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(raw, ("127.0.0.1", proxy.port))
        await loop.sock_sendall(raw, request("/v1/files/one/content"))
        async with asyncio.timeout(15):
            await stuck.wait()
        assert written < 30 * MB  # what the kernel's buffers take, and no more
        assert proxy.rss("VmHWM") - before < 10
        raw.close()
        async with asyncio.timeout(5):
            await upstream.calls[0].disconnected


# --- number -------------------------------------------------------------------------------------


async def test_many_open_streams_cost_little_memory_and_are_on_time() -> None:
    """A small version of ``tests/bench/streams.py``, which has the figures for 2,000."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "tests/bench/streams.py", "--streams", "400", "--seconds", "5", "--gap", "0.5", "--json",
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(60):
        said, _ = await process.communicate()
    seen = json.loads(said)
    assert seen["broken"] == 0
    assert seen["kb"] < 40
    assert seen["late_p50"] < 50


async def test_nothing_is_left_after_ten_thousand_cancelled_calls(sidecar: Any) -> None:
    """Clients leave before the head, in mid-stream, in the middle of their own body, and after one byte of head."""
    calls, at_once = 10_000, 100
    half = {"choices": [{"index": 0, "delta": {"content": "x"}}]}

    async def some(call: Call) -> None:
        await (hang()(call) if len(upstream.calls) % 2 else events(half, then="hang")(call))

    async with FakeUpstream(default=some) as upstream:
        proxy = await sidecar(config(upstream))
        app = proxy.app
        pool = app.snapshot.upstreams["fake"].pool
        body = b'{"model":"m","stream":true}'
        whole = request("/v1/chat/completions", "Content-Type: application/json", length=len(body)) + body
        tasks = len(asyncio.all_tasks())
        gc.collect()
        before = [one for one in gc.get_objects() if isinstance(one, Incoming | UpstreamConnection | Exchange)]

        async def leave(number: int) -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            if number % 4 == 0:
                writer.write(whole[:-5])
            elif number % 4 == 1:
                writer.write(whole[:1])
            else:
                writer.write(whole)
            await writer.drain()
            if number % 4 >= 2:
                try:
                    async with asyncio.timeout(0.02):
                        await reader.read(1)
                except TimeoutError:
                    pass
            if number % 3:
                writer.transport.abort()
            else:
                writer.close()

        for start in range(0, calls, at_once):
            await asyncio.gather(*(leave(number) for number in range(start, start + at_once)))
        async with asyncio.timeout(10):
            while app.listener.connections or app.snapshot.in_flight or pool.busy:
                await asyncio.sleep(0.01)
        assert len(upstream.calls) > calls / 4  # they did go all the way
        assert app.listener.calls == 0
        assert app.snapshot.buffered == 0
        assert pool.waiting == 0
        assert pool.idle == 0
        await upstream.idle()
        async with asyncio.timeout(10):
            while len(asyncio.all_tasks()) > tasks:
                await asyncio.sleep(0.01)
        proxy.exchanges.clear()  # the fixture's own record of what ended
        upstream.calls.clear()
        gc.collect()
        left = [one for one in gc.get_objects() if isinstance(one, Incoming | UpstreamConnection | Exchange)]
        assert left == before
