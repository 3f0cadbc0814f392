"""`make bench`: every figure of docs/performance.md, in about three minutes. Run it on a quiet machine.

python tests/bench/run.py [--quick]
"""

from __future__ import annotations

import argparse
import os
import platform
import time

import compare
import latency
import streams
from world import Target, World, world


def workers(here: World, seconds: int) -> None:
    """Calls a second with one and with two workers, in turn.

    Driver and upstream need about 20 us of the same cores for each call: beside an empty chain they are a third of all
    work, so two workers cannot get what they could use. Beside the default chain the cores are the proxy's.
    """
    from compare import CASES, CHAINS, PRICES, measure

    for name, chain in CHAINS.items():
        found: dict[int, list[float]] = {1: [], 2: []}
        for count in (1, 2, 1, 2):
            target = here.sidecar(f"{name}{count}-{len(found[count])}", chain, workers=count, extra=PRICES)
            measure(target, CASES["json c=32"], 1, here.folder)
            found[count].append(measure(target, CASES["json c=32"], seconds, here.folder).rate)
            here.end(target)
        one, two = max(found[1]), max(found[2])
        aim = " (aim 1.7)" if name == "default" else ""
        print(f"{name:10}1 worker {one:.0f} calls/s, 2 workers {two:.0f} calls/s: {two / one:.2f} times{aim}")
    print(f"driver and upstream run on the same {os.cpu_count()} cores")


def rest(targets: list[Target]) -> None:
    """Start-up time and memory."""
    for target in targets:
        print(
            f"{target.name:10}ready {target.started:.2f} s after the command, {target.rest_mb:.1f} MB resident at rest"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a third of the time, for a look")
    args = parser.parse_args()
    seconds, rounds = (1, 1) if args.quick else (2, 2)
    begun = time.monotonic()
    load = os.getloadavg()[0]
    print(f"Python {platform.python_version()} on {platform.machine()}, {os.cpu_count()} cores, load {load:.1f}\n")
    if load > 0.5 * (os.cpu_count() or 1):
        print("the machine is busy: throughput and latency below are worse than they are, ratios are rough\n")
    with world() as here:
        targets = [here.sidecar(name, chain, extra=compare.PRICES) for name, chain in compare.CHAINS.items()]
        print("start-up and rest")
        rest(targets)
        print("\nCPU a call, against nginx proxying the same call")
        compare.show(compare.compare(here, [here.relay(), *targets], seconds, rounds, list(compare.CASES)))
        print("\nlatency end to end, open loop")
        rate = 300.0
        latency.show(latency.latencies(f"http://127.0.0.1:{here.json_port}", targets, rate, 2 * seconds), rate)
        for target in targets:
            here.end(target)
        print("\nworkers")
        workers(here, seconds)
    print("\nmany streams, one event a second each")
    count = 500 if args.quick else 2000
    streams.show("empty", streams.streams("empty", count, 8, 1.0))
    print(f"\n{time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    main()
