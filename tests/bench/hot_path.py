"""Python's share of one call, without sockets: microseconds a call, or a profile of them.

    python tests/bench/hot_path.py [--profile] [--chain empty] [--chain default] [--chain pii ...] [--hit] [--calls N]

A client's transport and an upstream's are played by objects whose ``write`` answers on the next turn of the loop, so
what is measured is everything but the kernel: both parsers, the listener, the flow, the chain and the pool. Two
neighbouring lines of code can be compared with it in seconds; the whole truth, system calls included, is
``compare.py``. CPU is the main thread's; what background threads use (ledger, log) is printed beside it.

--chain: ``empty``, ``default``, ``keys`` (select_key alone), the name of one policy of the default chain (with
select_key, so subtract ``keys``), several joined by ``+``, or a file with a chain in JSON. Every call has another text
unless ``--hit``.
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
from collections import Counter
from pathlib import Path
from typing import Any

import uvloop
from compare import DEFAULT, PRICES, call
from world import ANSWER as ANSWER_TEXT
from world import PROMPT

from proxy.app import App
from proxy.load import load_config
from proxy.upstream.transport.connection import Connection as UpstreamConnection

ANSWER_BODY = ANSWER_TEXT.encode()
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


def chain_of(name: str) -> list[Any]:
    """The chain that ``--chain`` means."""
    if name.endswith(".json"):
        return list(json.loads(Path(name).read_text()))
    if name in ("empty", "default"):
        return DEFAULT if name == "default" else []
    wanted = set(name.split("+")) | {"select_key"}
    return [entry for entry in DEFAULT if (entry if isinstance(entry, str) else next(iter(entry))) in wanted]


def configuration(folder: Path, chain: list[Any]) -> Path:
    """A configuration file for one chain; the access log is on where there is a chain, as in ``compare.py``."""
    config: dict[str, Any] = {
        "server": {"port": 0},
        "admin": {"enabled": False},
        "data": str(folder / "data"),
        "log": {"file": str(folder / "calls.log"), "access": bool(chain), "level": "info" if chain else "error"},
        "upstreams": {"bench": {"api": "openai", "base_url": "http://127.0.0.1:9/v1"}},
        "routes": [
            {"match": {"headers": {"x-bench": "stream"}}, "upstream": "bench", "chain": "measured"},
            {"match": {"path": "*"}, "upstream": "bench", "chain": "measured"},
        ],
        "chains": {"measured": chain},
        **PRICES,
    }
    if chain:
        config["keys"] = {"pool": {"keys": [{"id": "one", "secret": "sk-upstream"}]}}
        config["upstreams"]["bench"]["keys"] = "pool"
    file = folder / "config.yaml"
    file.write_text(json.dumps(config))
    return file


async def run(config: Path, calls: int, connections: int, hit: bool, profile: bool) -> tuple[float, float]:
    """Microseconds of CPU a call: the main thread's, the other threads'."""
    loaded, warnings = load_config(config, overrides=["server.port=0"])
    app = App(loaded, warnings)
    await app.start()
    assert app.snapshot is not None and app.listener is not None
    loop = asyncio.get_running_loop()
    pool = app.snapshot.upstreams["bench"].pool
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
    text = call("bench", PROMPT)
    request = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:9100\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer sk-bench\r\nContent-Length: {len(text)}\r\n\r\n{text}"
    ).encode()
    before, after = request.split(b"000000000", 1)
    serial = 0

    def fresh() -> bytes:
        nonlocal serial
        if not hit:
            serial += 1
        return b"%b%09d%b" % (before, serial, after)

    left = calls
    over = loop.create_future()

    def client() -> None:
        connection = app.listener.protocol()  # type: ignore[union-attr]

        def again() -> None:
            nonlocal left
            left -= 1
            if left > 0:
                connection.data_received(fresh())
            elif not over.done():
                over.set_result(None)

        connection.connection_made(Played(loop, again))  # type: ignore[arg-type]
        loop.call_soon(connection.data_received, fresh())

    profiler = cProfile.Profile() if profile else None
    gc.collect()
    for _ in range(connections):
        client()
    main, whole = time.thread_time(), time.process_time()
    if profiler is not None:
        profiler.enable()
    await over
    if profiler is not None:
        profiler.disable()
    main, whole = time.thread_time() - main, time.process_time() - whole
    if profiler is not None:
        show(pstats.Stats(profiler), calls)
    pool._open.clear()
    await app.stop()
    return main / calls * 1e6, (whole - main) / calls * 1e6


def show(stats: pstats.Stats, calls: int) -> None:
    """The profile: by file, then by function."""
    time_in: Counter[str] = Counter()
    calls_in: Counter[str] = Counter()
    for (file, _, _), (_, count, own, _, _) in stats.stats.items():  # type: ignore[attr-defined]
        name = "built-in" if file == "~" else file.rpartition("/proxy/")[2]
        time_in[name] += own
        calls_in[name] += count
    for name, seconds in time_in.most_common(40):
        print(f"{seconds / calls * 1e6:8.2f} us {calls_in[name] / calls:7.1f} function calls  {name}")
    stats.sort_stats("tottime").print_stats(45)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chain", action="append")
    parser.add_argument("--hit", action="store_true", help="the same call again and again")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    rounds = 1 if args.profile else args.rounds
    for name in args.chain or ["empty"]:
        figures = []
        for _ in range(rounds):
            with tempfile.TemporaryDirectory() as folder:
                config = configuration(Path(folder), chain_of(name))
                figures.append(uvloop.run(run(config, args.calls, args.connections, args.hit, args.profile)))
        main_us, other_us = min(figures)
        print(f"{name:20}{main_us:8.2f} us a call, {other_us:6.2f} in other threads (best of {rounds})")


if __name__ == "__main__":
    main()
