"""What every measurement needs: upstreams that cost little, nginx as the yardstick, proxies in their own processes.

JSON upstream    nginx answering 0.8 KB of JSON to anything (9001 unless taken)
stream upstream  100 events of 230 bytes, one a turn of the loop (its own process)
nginx            proxies to both: the yardstick of the same run
a sidecar        `python -m proxy serve` with one chain
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
KEY = "sk-bench"

ANSWER = json.dumps(
    {
        "id": "chatcmpl-bench",
        "object": "chat.completion",
        "created": 1700000000,
        "model": "bench",
        "choices": [
            {
                "index": 0,
                "logprobs": None,
                "finish_reason": "stop",
                "message": {"role": "assistant", "refusal": None, "content": "A short answer, " * 12},
            }
        ],
        "usage": {
            "prompt_tokens": 120,
            "completion_tokens": 42,
            "total_tokens": 162,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0},
        },
    }
)
EVENT = (
    b'data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1700000000,"model":"bench",'
    b'"system_fingerprint":"fp_1","choices":[{"index":0,"delta":{"content":" hello"},"logprobs":null,'
    b'"finish_reason":null}]}\n\n'
)
LAST = (
    b'data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1700000000,"model":"bench","choices":[],'
    b'"usage":{"prompt_tokens":120,"completion_tokens":100,"total_tokens":220}}\n\ndata: [DONE]\n\n'
)
STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
PROMPT = (
    "Question 000000000. My family and I will spend three days in a harbour town in May. Please plan them: markets, "
    "two museums, one walk along the coast, and no rented car. We are four, like to eat early, and can spend about two "
    "hundred euros a day without the hotel. Say what should be booked and what can be left to the weather. "
)


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


class StreamUpstream(asyncio.Protocol):
    """Answers each request with ``count`` events: one a turn of the loop, or one every ``gap`` seconds.

    With a gap every event says when it was sent (``"t":<loop time>``), which is the same clock for all processes.
    """

    count = 100
    gap = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.pending = b""

    def data_received(self, data: bytes) -> None:
        self.pending += data
        while (end := self.pending.find(b"\r\n\r\n")) >= 0:
            length = re.search(rb"(?i)content-length: *(\d+)", self.pending[:end])
            whole = end + 4 + (int(length[1]) if length else 0)
            if len(self.pending) < whole:
                return
            self.pending = self.pending[whole:]
            self.transport.write(STREAM_HEAD)
            self.tick(self.count)

    def tick(self, left: int) -> None:
        if self.transport.is_closing():
            return
        loop = asyncio.get_running_loop()
        if not left:
            self.transport.write(chunk(LAST) + b"0\r\n\r\n")
        elif self.gap:
            event = b'data: {"t":%.6f,"choices":[{"index":0,"delta":{"content":" hello"}}]}\n\n' % time.monotonic()
            self.transport.write(chunk(event))
            loop.call_later(self.gap, self.tick, left - 1)
        else:
            self.transport.write(chunk(EVENT))
            loop.call_soon(self.tick, left - 1)


def serve_streams(port: int, count: int, gap: float) -> None:
    """The stream upstream's process."""
    import uvloop

    StreamUpstream.count, StreamUpstream.gap = count, gap

    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(StreamUpstream, "127.0.0.1", port, backlog=4096)
        await server.serve_forever()

    uvloop.run(main())


class Relay(asyncio.Protocol):
    """Half of a connection pair that moves bytes and looks at none: what the loop and the kernel alone cost."""

    def __init__(self, port: int, other: Relay | None = None) -> None:
        self.port = port
        self.other = other
        self.early: list[bytes] = []
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        loop = asyncio.get_running_loop()
        if self.other is None:
            self.opening = loop.create_task(
                loop.create_connection(lambda: Relay(self.port, self), "127.0.0.1", self.port)
            )
        else:
            self.other.other = self
            for data in self.other.early:
                transport.write(data)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        if self.other is None:
            self.early.append(data)
        else:
            self.other.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()


def serve_relay(port: int, upstream: int) -> None:
    """The relay's process."""
    import uvloop

    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(
            lambda: Relay(upstream), "127.0.0.1", port, backlog=4096
        )
        await server.serve_forever()

    uvloop.run(main())


@dataclass
class Target:
    """A process under test. started: seconds from the command to its first answer. rest_mb: resident memory then."""

    name: str
    pid: int
    url: str
    started: float = 0.0
    rest_mb: float = 0.0


@dataclass
class World:
    """Everything that runs for a measurement. ``close`` ends it all."""

    folder: Path
    json_port: int
    stream_port: int
    children: list[subprocess.Popen[bytes]] = field(default_factory=list)
    nginx: Target | None = None

    def sidecar(
        self, name: str, chain: list[Any], *, workers: int = 1, extra: dict[str, Any] | None = None, run: str = ""
    ) -> Target:
        """A proxy with this chain in a process of its own, when it is ready. run: another interpreter."""
        port, admin = free_port(), free_port()
        keyed = bool(chain)
        config: dict[str, Any] = {
            "server": {"port": port, "workers": workers},
            "admin": {"port": admin},
            "data": str(self.folder / name),
            "log": {"file": str(self.folder / f"{name}.log"), "access": bool(chain)},
            "upstreams": {
                "json": {"api": "openai", "base_url": f"http://127.0.0.1:{self.json_port}/v1"},
                "stream": {"api": "openai", "base_url": f"http://127.0.0.1:{self.stream_port}/v1"},
            },
            "routes": [
                {"match": {"headers": {"x-bench": "stream"}}, "upstream": "stream", "chain": "measured"},
                {"match": {"path": "*"}, "upstream": "json", "chain": "measured"},
            ],
            "chains": {"measured": chain},
            **(extra or {}),
        }
        if keyed:
            config["keys"] = {"pool": {"keys": [{"id": "one", "secret": "sk-upstream"}]}}
            for upstream in config["upstreams"].values():
                upstream["keys"] = "pool"
        file = self.folder / f"{name}.yaml"
        file.write_text(json.dumps(config))
        begun = time.monotonic()
        child = subprocess.Popen(
            [run or sys.executable, "-m", "proxy", "serve", "--config", str(file)],
            cwd=ROOT,
            stderr=None,
        )
        self.children.append(child)
        wait_for(f"http://127.0.0.1:{admin}/readyz", child)
        started = time.monotonic() - begun
        return Target(name, child.pid, f"http://127.0.0.1:{port}", started, rss_mb(child.pid))

    def relay(self) -> Target:
        """A relay of bytes to the JSON upstream."""
        port = free_port()
        argument = f"import world; world.serve_relay({port}, {self.json_port})"
        child = subprocess.Popen([sys.executable, "-c", argument], cwd=Path(__file__).parent)
        self.children.append(child)
        wait_for(f"http://127.0.0.1:{port}/", child)
        return Target("relay", child.pid, f"http://127.0.0.1:{port}")

    def end(self, target: Target) -> None:
        """Stop one of the proxies."""
        for child in self.children:
            if child.pid == target.pid:
                child.terminate()
                child.wait(20)


@contextlib.contextmanager
def world(*, count: int = 100, gap: float = 0.0) -> Iterator[World]:
    """The upstreams and nginx, until the block ends."""
    for need in ("nginx", "wrk"):
        if shutil.which(need) is None:
            raise SystemExit(f"{need} is not installed: apt-get install {need}")
    folder = Path(tempfile.mkdtemp(prefix="sidecar-bench-"))
    made = World(folder, free_port(), free_port())
    proxy_port = free_port()
    try:
        argument = f"import world; world.serve_streams({made.stream_port}, {count}, {gap})"
        made.children.append(subprocess.Popen([sys.executable, "-c", argument], cwd=Path(__file__).parent))
        common = (
            "access_log off; keepalive_requests 100000000; client_max_body_size 64m; client_body_buffer_size 1m;"
            f" client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;"
        )
        backends = "".join(
            f"upstream {name} {{ server 127.0.0.1:{port}; keepalive 64; keepalive_requests 100000000; }}\n"
            for name, port in (("json", made.json_port), ("stream", made.stream_port))
        )
        start_nginx(
            folder,
            "origin",
            f"{common} server {{ listen 127.0.0.1:{made.json_port} backlog=4096; location / {{ "
            f"default_type application/json; return 200 '{ANSWER}'; }} }}",
        )
        pid = start_nginx(
            folder,
            "yardstick",
            f"{common}\n{backends} map $http_x_bench $up {{ default json; stream stream; }}\n"
            f"server {{ listen 127.0.0.1:{proxy_port} backlog=4096; location / {{ proxy_pass http://$up; "
            'proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; } }',
        )
        made.nginx = Target("nginx", pid, f"http://127.0.0.1:{proxy_port}")
        yield made
    finally:
        for child in reversed(made.children):
            if child.poll() is None:
                child.terminate()
        for child in made.children:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(10)
            if child.poll() is None:
                child.kill()
        for name in ("origin", "yardstick"):
            with contextlib.suppress(OSError, ValueError):
                os.kill(int((folder / f"{name}.pid").read_text()), signal.SIGTERM)
        shutil.rmtree(folder, ignore_errors=True)


def start_nginx(folder: Path, name: str, http: str) -> int:
    """One nginx; its process id."""
    file = folder / f"{name}.conf"
    file.write_text(
        f"worker_processes 1; pid {folder}/{name}.pid; error_log {folder}/{name}.log;\n"
        f"events {{ worker_connections 8192; }}\nhttp {{ {http} }}\n"
    )
    subprocess.run(["nginx", "-c", str(file)], check=True)
    for _ in range(100):
        with contextlib.suppress(OSError, ValueError):
            return int((folder / f"{name}.pid").read_text())
        time.sleep(0.02)
    raise SystemExit(f"nginx did not start: {(folder / f'{name}.log').read_text()}")


def wait_for(url: str, child: subprocess.Popen[bytes]) -> None:
    """Until ``url`` answers 200. Raises SystemExit when the process ends first."""
    for _ in range(1500):
        if child.poll() is not None:
            raise SystemExit(f"the proxy ended with exit code {child.returncode} before it was ready")
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2) as answer:
            if answer.status == 200:
                return
        time.sleep(0.01)
    raise SystemExit(f"{url} did not become ready")


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


def tree(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in path.read_text().split():
                found += tree(int(child))
    return found


def cpu_us(pid: int) -> float:
    """CPU that a process and all below it have used, in microseconds, by the scheduler's own account."""
    total = 0
    for one in tree(pid):
        for path in Path(f"/proc/{one}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError):
                total += int(path.read_text().split()[0])
    return total / 1000


def rss_mb(pid: int) -> float:
    """Resident memory of a process and all below it."""
    total = 0
    for one in tree(pid):
        with contextlib.suppress(OSError):
            found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{one}/status").read_text())
            total += int(found[1]) if found else 0
    return total / 1024
