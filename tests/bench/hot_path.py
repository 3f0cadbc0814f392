"""Python's share of one call, without sockets: microseconds a call, or a profile of them.

    python tests/bench/hot_path.py [--profile] [--calls 40000] [--config FILE] [--body-kb 0.7]

A client's transport and an upstream's are played by objects whose ``write`` answers on the next turn of the loop, so
what is measured is everything but the kernel: both parsers, the listener, the flow, the chain and the pool. Two
neighbouring lines of code can be compared with it in seconds; the whole truth, system calls included, is
``compare.py``.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import gc
import json
import pstats
import tempfile
import time
from pathlib import Path
from typing import Any

import uvloop

from proxy.app import App
from proxy.load import load_config
from proxy.upstream.transport.connection import Connection as UpstreamConnection

EMPTY = """
server: {port: 0}
admin: {enabled: false}
log: {access: false, level: error}
upstreams: {bench: {api: openai, base_url: "http://127.0.0.1:9/v1"}}
routes:
  - {match: {headers: {x-bench: stream}}, upstream: bench, chain: empty}
  - {match: {path: "*"}, upstream: bench, chain: empty}
chains: {empty: []}
"""
ANSWER_BODY = json.dumps(
    {"id": "chatcmpl-bench", "choices": [{"message": {"content": "A short answer, " * 40}}]}
).encode()
ANSWER = (
    b"HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Sat, 21 Nov 2026 02:00:00 GMT\r\n"
    b"Content-Type: application/json\r\nContent-Length: %d\r\nConnection: keep-alive\r\n\r\n" % len(ANSWER_BODY)
) + ANSWER_BODY


class Played:
    """A transport that answers what is written to it on the next turn of the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, answer: Any) -> None:
        self._loop = loop
        self._answer = answer

    def write(self, data: bytes) -> None:
        self._loop.call_soon(self._answer)

    def writelines(self, data: Any) -> None:
        self._loop.call_soon(self._answer)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else default

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def close(self) -> None: ...

    def abort(self) -> None: ...


async def run(config: Path, calls: int, size: int, connections: int, profile: bool) -> float:
    """Microseconds of CPU a call."""
    loaded, warnings = load_config(config, overrides=["server.port=0"])
    app = App(loaded, warnings)
    await app.start()
    assert app.snapshot is not None and app.listener is not None
    loop = asyncio.get_running_loop()
    pool = app.snapshot.upstreams[loaded.config.routes[-1].upstream].pool
    pool._loop = loop
    pool.limits = type(pool.limits)(max_connections=10_000)
    for _ in range(connections):
        up = UpstreamConnection(pool, loop, "played", 65536)
        up.connection_made(Played(loop, lambda up=up: up.data_received(ANSWER)))  # type: ignore[arg-type, misc]
        up.born = loop.time()
        up.expires = up.born + 1000
        pool._open.add(up)
        pool._places += 1
        pool._idle.append(up)
    text = json.dumps({"model": "bench", "messages": [{"role": "user", "content": "x" * size}], "temperature": 0.2})
    request = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:9100\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer sk-bench\r\nContent-Length: {len(text)}\r\n\r\n{text}"
    ).encode()
    left = calls
    over = loop.create_future()

    def client() -> None:
        connection = app.listener.protocol()  # type: ignore[union-attr]

        def again() -> None:
            nonlocal left
            left -= 1
            if left > 0:
                connection.data_received(request)
            elif not over.done():
                over.set_result(None)

        connection.connection_made(Played(loop, again))  # type: ignore[arg-type]
        loop.call_soon(connection.data_received, request)

    profiler = cProfile.Profile() if profile else None
    gc.collect()
    for _ in range(connections):
        client()
    before = time.process_time()
    if profiler is not None:
        profiler.enable()
    await over
    if profiler is not None:
        profiler.disable()
    used = time.process_time() - before
    if profiler is not None:
        pstats.Stats(profiler).sort_stats("tottime").print_stats(45)
    pool._open.clear()
    await app.stop()
    return used / calls * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--calls", type=int, default=40_000)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--body-kb", type=float, default=0.6)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        config = args.config
        if config is None:
            config = Path(folder) / "config.yaml"
            config.write_text(EMPTY)
        rounds = 1 if args.profile else args.rounds
        figures = [
            uvloop.run(run(config, args.calls, int(args.body_kb * 1000), args.connections, args.profile))
            for _ in range(rounds)
        ]
    print(f"{min(figures):.2f} us a call (best of {rounds}; {', '.join(f'{f:.2f}' for f in figures)})")


if __name__ == "__main__":
    main()
