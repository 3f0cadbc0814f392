"""Many streams at once: memory a stream, how late events are, CPU an event.

    python tests/bench/streams.py [--streams 2000] [--seconds 6] [--gap 1] [--chain empty|default] [--json]

Every stream carries one event a ``gap``; every event says when the upstream sent it, by the clock that all processes
share, so its lateness is read here and includes the driver's own. Memory is that of the proxy's process with all
streams open, less what it had at rest, divided by their number.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import time
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urlsplit

import uvloop
from compare import CASES, CHAINS, PRICES
from world import KEY, Target, World, cpu_us, rss_mb, world


@dataclass(frozen=True)
class Streams:
    """kb: resident memory a stream. late: milliseconds from the upstream's send to the client's receive."""

    streams: int
    events: int
    kb: float
    late_p50: float
    late_p99: float
    cpu_us_event: float
    broken: int


class Listener(asyncio.Protocol):
    """Reads one stream and notes how late its events are."""

    def __init__(self, late: list[float], request: bytes) -> None:
        self.late = late
        self.request = request
        self.broken = True
        self.over = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic()
        start = 0
        while (start := data.find(b'"t":', start)) >= 0:
            start += 4
            end = data.find(b",", start)
            if end > 0:
                self.late.append(now - float(data[start:end]))
        if b"[DONE]" in data:
            self.broken = False
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.over.done():
            self.over.set_result(None)


async def listen(target: Target, count: int, seconds: float) -> Streams:
    """Open ``count`` streams evenly over the first second and hear them to their end."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4 * count)), hard))
    parts = urlsplit(target.url)
    body = CASES["stream c=16"].body.encode()
    late: list[float] = []
    listeners: list[Listener] = []
    rest = rss_mb(target.pid)
    loop = asyncio.get_running_loop()
    for number in range(count):
        one = body.replace(b"000000000", b"%09d" % number)
        request = (
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: %b\r\nContent-Type: application/json\r\nx-bench: stream\r\n"
            b"Authorization: Bearer %b\r\nContent-Length: %d\r\n\r\n%b"
        ) % (parts.netloc.encode(), KEY.encode(), len(one), one)
        _, listener = await loop.create_connection(
            lambda request=request: Listener(late, request),  # type: ignore[misc]
            parts.hostname,
            parts.port,
        )
        listeners.append(listener)
        if number % 20 == 19:
            await asyncio.sleep(20 / count)
    await asyncio.sleep(seconds / 2)
    late.clear()  # what came while streams were being opened says nothing about streams that are open
    used, begun = cpu_us(target.pid), len(late)
    full = rss_mb(target.pid)
    await asyncio.sleep(max(1.0, seconds / 2 - 2))
    events = len(late) - begun
    used = cpu_us(target.pid) - used
    measured = sorted(late)
    await asyncio.gather(*(listener.over for listener in listeners))
    return Streams(
        count,
        events,
        (full - rest) * 1024 / count,
        measured[len(measured) // 2] * 1000,
        measured[int(len(measured) * 0.99)] * 1000,
        used / max(events, 1),
        sum(listener.broken for listener in listeners),
    )


def streams(chain: str, count: int, seconds: float, gap: float) -> Streams:
    """The whole measurement."""
    events = int(seconds / gap) + 2
    with world(count=events, gap=gap) as here:
        return uvloop.run(listen(proxy(here, chain), count, seconds))


def proxy(here: World, chain: str) -> Target:
    """A proxy whose pool has room for every stream."""
    many: dict[str, Any] = {"max_connections": 20_000, "max_waiting": 20_000}
    upstreams = {
        "json": {"api": "openai", "base_url": f"http://127.0.0.1:{here.json_port}/v1"},
        "stream": {"api": "openai", "base_url": f"http://127.0.0.1:{here.stream_port}/v1", **many},
    }
    return here.sidecar(chain, CHAINS[chain], extra={**PRICES, "upstreams": upstreams})


def show(name: str, seen: Streams) -> None:
    """Print one line."""
    print(
        f"{name:10}{seen.streams} streams: {seen.kb:.1f} KB a stream, events late by {seen.late_p50:.2f} ms (p50) and "
        f"{seen.late_p99:.2f} ms (p99), {seen.cpu_us_event:.1f} us of CPU an event, {seen.broken} broken"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--gap", type=float, default=1.0)
    parser.add_argument("--chain", choices=list(CHAINS), default="empty")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    seen = streams(args.chain, args.streams, args.seconds, args.gap)
    if args.json:
        print(json.dumps(asdict(seen)))
    else:
        show(args.chain, seen)


if __name__ == "__main__":
    main()
