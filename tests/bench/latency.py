"""What a proxy adds end to end, at a rate that does not depend on the answers (open loop).

    python tests/bench/latency.py [--rate 300] [--seconds 4]

Calls start at fixed moments, whatever became of the earlier ones, and are timed from the moment at which they should
have started: a proxy that stalls is charged for every call it kept waiting. The driver is plain asyncio and is in every
figure alike; the difference to the direct calls is what the proxy adds.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import uvloop
from compare import CASES, CHAINS, PRICES
from world import KEY, Target, world


@dataclass(frozen=True)
class Latency:
    """Milliseconds; bad: calls that did not end with 200."""

    p50: float
    p99: float
    calls: int
    bad: int


class Caller(asyncio.Protocol):
    """One kept connection; one call at a time."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.waiting: asyncio.Future[int] | None = None
        self.got = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.got += data
        head, found, body = self.got.partition(b"\r\n\r\n")
        if not found:
            return
        length = next(int(line[15:]) for line in head.split(b"\r\n") if line[:15].lower() == b"content-length:")
        if len(body) >= length and self.waiting is not None:
            status = int(self.got[9:12])
            self.got = body[length:]
            waiting, self.waiting = self.waiting, None
            if not waiting.done():
                waiting.set_result(status)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.waiting is not None and not self.waiting.done():
            self.waiting.set_result(0)

    async def call(self, data: bytes) -> int:
        self.waiting = asyncio.get_running_loop().create_future()
        self.transport.write(data)
        return await self.waiting


async def drive(url: str, rate: float, seconds: float) -> Latency:
    """Call ``url`` with ``rate`` calls a second."""
    parts = urlsplit(url)
    loop = asyncio.get_running_loop()
    before, after = CASES["json c=1"].body.split("000000000", 1)
    idle: list[Caller] = []
    opened: list[Caller] = []
    times: list[float] = []
    bad = 0

    async def one(number: int, due: float) -> None:
        nonlocal bad
        if idle:
            caller = idle.pop()
        else:
            _, caller = await loop.create_connection(Caller, parts.hostname, parts.port)
            opened.append(caller)
        body = f"{before}{number:09d}{after}".encode()
        status = await caller.call(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: %b\r\nContent-Type: application/json\r\n"
            b"Authorization: Bearer %b\r\nContent-Length: %d\r\n\r\n%b"
            % (parts.netloc.encode(), KEY.encode(), len(body), body)
        )
        times.append(time.perf_counter() - due)
        if status != 200:
            bad += 1
        elif not caller.transport.is_closing():
            idle.append(caller)

    base = int(time.time()) % 1000 * 100_000
    for _ in range(20):  # connections and caches are warm before anything is timed
        await one(base, time.perf_counter())
        base += 1
    times.clear()
    running: list[asyncio.Task[None]] = []
    begin = time.perf_counter()
    for number in range(int(rate * seconds)):
        due = begin + number / rate
        wait = due - time.perf_counter()
        if wait > 0:
            await asyncio.sleep(wait)
        running.append(asyncio.create_task(one(base + number, due)))
    await asyncio.gather(*running)
    for caller in opened:
        caller.transport.close()
    ordered = sorted(times)
    return Latency(statistics.median(ordered) * 1000, ordered[int(len(ordered) * 0.99)] * 1000, len(ordered), bad)


def latencies(
    direct: str, targets: Sequence[Target], rate: float, seconds: float, rounds: int = 2
) -> dict[str, Latency]:
    """By name: the best of ``rounds``, taken in turn, since what disturbs a latency only ever adds to it."""
    found: dict[str, Latency] = {}
    for _ in range(rounds):
        for name, url in [("direct", direct), *((target.name, target.url) for target in targets)]:
            seen = uvloop.run(drive(url, rate, seconds))
            if name not in found or seen.p99 < found[name].p99:
                found[name] = seen
    return found


def show(found: dict[str, Latency], rate: float) -> None:
    """Print, with what each adds to the direct call."""
    base = found["direct"]
    print(
        f"{'at ' + format(rate, 'g') + ' calls/s':17}{'p50 ms':>8}{'added':>8}{'p99 ms':>8}{'added':>8}{'not 200':>9}"
    )
    for name, seen in found.items():
        print(
            f"{name:17}{seen.p50:8.2f}{seen.p50 - base.p50:8.2f}{seen.p99:8.2f}{seen.p99 - base.p99:8.2f}{seen.bad:9d}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=300)
    parser.add_argument("--seconds", type=float, default=4)
    args = parser.parse_args()
    with world() as here:
        targets = [here.sidecar(name, chain, extra=PRICES) for name, chain in CHAINS.items()]
        show(latencies(f"http://127.0.0.1:{here.json_port}", targets, args.rate, args.seconds), args.rate)


if __name__ == "__main__":
    main()
