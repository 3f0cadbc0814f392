"""The listening side: sockets, limits, drain. aiohttp's low-level ``web.Server`` accepts the connections."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import os
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from proxy.connection import Connection
from proxy.head import Head, Payload

if TYPE_CHECKING:
    from proxy.config.server import Server as ServerConfig

log = logging.getLogger("llm_sidecar.listener")

_GARBAGE: Final = (20_000, 20, 100)
"""Python's collector looks for cycles after so many new objects. A call leaves none, but what is kept of it (a cache
entry, a row on its way to the ledger) made it look after every tenth call: 10 us each, and 5 ms pauses."""


Serve = Callable[[Connection, Head, Payload], Awaitable[None]]


_TOGETHER: Final = 32
"""Answers that wait for each other at most: the first is not to wait for a thousand others."""


_LAST_WORDS: Final = 1.0
"""Seconds that calls which are cut have to tell their clients so."""


class Listener:
    """Every listening socket of the data port. ``calls``: calls in progress; ``connections``: open ones.

    due: calls that have come and whose connections' tasks run later in this turn of the loop. While there are such,
    whole answers that are ready are kept and sent together: a client on the same machine that sleeps is woken by the
    first, and to wake it for each of them costs more than all the rest of the sending (10 us of 58 of a hit).
    """

    def __init__(self, config: ServerConfig, serve: Serve) -> None:
        self.config = config
        self.serve = serve
        self.calls = 0
        self.connections: set[Connection] = set()
        self.due = 0
        self._unsent: list[Connection] = []
        self.draining = False
        self.waiting: deque[Connection] = deque()
        self.idle: asyncio.Event | None = None
        self.left: asyncio.Event | None = None
        self.server = web.Server(self._unused, handler_cancellation=True)
        self._sockets: list[asyncio.AbstractServer] = []
        self._unix: str | None = None
        self._options: dict[str, Any] = {
            "access_log": None,
            "auto_decompress": False,
            "max_line_size": min(config.max_header, 32 * 1024),
            "max_field_size": min(config.max_header, 32 * 1024),
            "max_headers": 200,
            "keepalive_timeout": config.keepalive or 0,
            "read_bufsize": 256 * 1024,
        }

    @staticmethod
    async def _unused(request: web.BaseRequest) -> web.StreamResponse:  # pragma: no cover - aiohttp wants a handler
        raise RuntimeError("calls are served by Connection.start")

    def send_soon(self, connection: Connection) -> None:
        """The connection has an answer that may wait until the end of this turn."""
        unsent = self._unsent
        if not unsent:
            asyncio.get_running_loop().call_soon(self._send)
        unsent.append(connection)
        if len(unsent) >= _TOGETHER:
            self._send()

    def _send(self) -> None:
        unsent, self._unsent = self._unsent, []
        for connection in unsent:
            connection.flush()

    def protocol(self) -> Connection:
        """A protocol for a new connection."""
        return Connection(self, asyncio.get_running_loop(), **self._options)

    async def open(self, *, reuse_port: bool = False, sock: Any = None) -> list[str]:
        """Bind and listen; sock: a unix socket that listens already. Returns where, as URLs. Raises OSError."""
        config = self.config
        loop = asyncio.get_running_loop()
        context = None
        scheme = "http"
        if config.tls is not None:
            import ssl  # noqa: PLC0415 - only for TLS

            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(config.tls.cert, config.tls.key)
            context.set_alpn_protocols(["http/1.1"])
            scheme = "https"
        where: list[str] = []
        if config.unix is not None:
            if sock is not None:
                server = await loop.create_unix_server(self.protocol, sock=sock, ssl=context)
            else:
                await _refuse_taken(str(config.unix))
                server = await loop.create_unix_server(self.protocol, config.unix, ssl=context, backlog=config.backlog)
                self._unix = str(config.unix)
            where.append(f"unix:{config.unix}")
        else:
            server = await loop.create_server(
                self.protocol,
                config.host,
                config.port,
                ssl=context,
                backlog=config.backlog,
                reuse_port=reuse_port or None,
            )
            for bound in server.sockets:
                host, port = bound.getsockname()[:2]
                where.append(f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}")
        self._sockets.append(server)
        gc.freeze()
        gc.set_threshold(*_GARBAGE)
        return where

    @property
    def port(self) -> int:
        """The port that is bound; 0 for a unix socket."""
        for server in self._sockets:
            for bound in getattr(server, "sockets", ()):
                name = bound.getsockname()
                if isinstance(name, tuple):
                    return int(name[1])
        return 0

    def stop_accepting(self) -> None:
        """No new connections; idle ones close, the others after their call."""
        self.draining = True
        for server in self._sockets:
            server.close()
        if self._unix is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._unix)  # noqa: PTH108 - nobody is answered there any more
            self._unix = None
        for connection in list(self.connections):
            connection.close_if_idle()

    async def drain(self, seconds: float) -> bool:
        """Wait until no call is in progress, ``seconds`` at most. False when some had to be cut."""
        if self.calls == 0:
            return True
        self.idle = asyncio.Event()
        try:
            async with asyncio.timeout(seconds):
                await self.idle.wait()
        except TimeoutError:
            return False
        return True

    async def close(self) -> int:
        """Cut what is left. Calls in progress tell their clients so (503 ``draining``, or the error event of a stream)
        and have a moment for it. Returns how many there were."""
        calls = sum(connection.call is not None for connection in self.connections)
        tasks = [c._task_handler for c in self.connections if c._task_handler is not None]
        if self.connections:
            self.left = asyncio.Event()
            for connection in list(self.connections):
                connection.cut()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LAST_WORDS):
                    await self.left.wait()
        for connection in list(self.connections):
            connection.force_close()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=2.0)
        return calls


async def _refuse_taken(path: str) -> None:
    """Raises OSError when somebody answers on this unix socket; asyncio would silently take it from him."""
    try:
        _, writer = await asyncio.open_unix_connection(path)
    except OSError:
        return  # nothing there, or what a process left that is gone
    writer.close()
    raise OSError(errno.EADDRINUSE, "another process listens there")
