"""One worker: ``python -m proxy.workers.worker``, started by the supervisor only.

It reads its ``Orders`` from stdin and then keeps stdin open: the end of it means that the supervisor is gone, and the
worker drains. On the descriptor ``Orders.report`` it writes one JSON line when it is ready, or why it cannot start.
"""

from __future__ import annotations

import asyncio
import dataclasses
import importlib
import json
import os
import pickle
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

import uvloop
from aiohttp import web

from proxy.admin.app import Admin
from proxy.app import App, StartError
from proxy.config import Loaded
from proxy.config.problem import Problem
from proxy.load import load_config


@dataclass(frozen=True)
class Orders:
    """What a worker is told.

    number: from 1. port: the one that is bound for all. listening: descriptor of a unix socket that all share, instead
    of a port. admin: path of its private admin socket. report: descriptor to answer on.
    """

    number: int
    loaded: Loaded
    file: str
    overrides: tuple[str, ...]
    port: int
    listening: int | None
    admin: str
    report: int


def own(loaded: Loaded, port: int) -> Loaded:
    """The configuration as a worker has it: the common port, and no admin port of its own."""
    config = loaded.config
    server = config.server if config.server.unix is not None else config.server.model_copy(update={"port": port})
    admin = config.admin.model_copy(update={"enabled": False})
    return dataclasses.replace(loaded, config=config.model_copy(update={"server": server, "admin": admin}))


class PrivateAdmin(Admin):
    """The admin pages of a worker, on a unix socket that only this user can open."""

    async def listen(self, path: str) -> None:
        """Serve on ``path``."""
        self._runner = web.AppRunner(self._application(), access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.UnixSite(self._runner, path).start()


async def work(orders: Orders) -> int:
    """Serve until told to stop. Returns the exit code."""

    def again() -> tuple[Loaded, list[Problem]]:
        fresh, warnings = load_config(orders.file, overrides=orders.overrides)
        return own(fresh, orders.port), warnings

    rereadable = Path(orders.file).is_file()  # noqa: ASYNC240 - before anything is served
    listening = None if orders.listening is None else socket.socket(fileno=orders.listening)
    app = App(
        own(orders.loaded, orders.port),
        load=again if rereadable else None,
        reuse_port=True,
        listening=listening,
        worker=orders.number - 1,
    )
    opened: list[asyncio.Task[None]] = []

    def started(app: App) -> None:
        opened.append(asyncio.get_running_loop().create_task(open_admin(app)))

    async def open_admin(app: App) -> None:
        admin = PrivateAdmin(app)
        await admin.listen(orders.admin)
        app.admin = admin
        report(orders, {"ready": True, "where": app.where})

    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), orphaned, app)
    return await app.run(started)


def orphaned(app: App) -> None:
    """The supervisor is gone: finish what runs, and end."""
    asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
    app.signalled()


def report(orders: Orders, said: dict[str, object]) -> None:
    """Tell the supervisor."""
    os.write(orders.report, json.dumps(said).encode() + b"\n")
    os.close(orders.report)


def main() -> int:
    """Read the orders and follow them."""
    with open(sys.stdin.fileno(), "rb", buffering=0, closefd=False) as orders_in:  # nothing may be read ahead
        size = int.from_bytes(orders_in.read(8), "big")
        text = b""
        while len(text) < size and (piece := orders_in.read(size - len(text))):
            text += piece
    orders: Orders = pickle.loads(text)
    try:
        return uvloop.run(work(orders))
    except StartError as error:
        report(orders, {"error": str(error)})
        return 2


if __name__ == "__main__":
    # Pickled orders name this module by its real name, which is not __main__.
    sys.exit(importlib.import_module("proxy.workers.worker").main())
