"""``llm-sidecar demo``: the demo upstream in a process of its own."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from typing import Any

__all__ = ["add_parser", "run"]


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add ``demo`` to the command's sub-parsers; ``run`` takes what it parses."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "demo",
        help="a provider to play with: no account, no network, no model",
        description="Answers like a provider and quotes what it received. Headers such as x-demo-status: 429, "
        "x-demo-latency: 200ms or x-demo-cut: 3 ask it for trouble.",
    )
    parser.add_argument("--config", metavar="FILE", help="not used: the demo has nothing to configure")
    parser.add_argument("--host", default="127.0.0.1", help="address to bind (default: 127.0.0.1)")
    parser.add_argument(
        "--port", type=int, default=8089, metavar="N", help="port to bind, 0 for a free one (default: 8089)"
    )
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM. 0; 2 when the port cannot be had."""
    if not 0 <= args.port <= 65535:
        print(f"llm-sidecar demo: --port must be from 0 to 65535, not {args.port}", file=sys.stderr)
        return 2
    import uvloop  # noqa: PLC0415 - only when it serves

    return uvloop.run(_serve(args.host, args.port))


async def _serve(host: str, port: int) -> int:
    from proxy.demo import Demo  # noqa: PLC0415 - only when it serves

    demo = Demo()
    try:
        await demo.start(host, port)
    except OSError as error:
        reason = error.strerror or str(error)
        print(f"llm-sidecar demo: cannot listen on {host}:{port}: {reason}; try --port 0", file=sys.stderr)
        return 2
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    print(demo.url, flush=True)
    print("The demo upstream listens; it ends with Ctrl-C.", file=sys.stderr)
    await ended.wait()
    await demo.stop()
    return 0
