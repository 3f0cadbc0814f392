"""Peers for websocket tests: a provider on aiohttp's server, one that is scripted by hand, and frames as bytes."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Self

from aiohttp import WSMsgType, web

Talk = Callable[[web.WebSocketResponse], Awaitable[None]]
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
"""RFC 6455, 1.3: the key of the example and what answers it."""


def handshake(*lines: str, path: str = "/v1/realtime?model=gpt-realtime", version: str = "13", key: str = KEY) -> bytes:
    """A client's request for a websocket, as bytes."""
    head = [f"GET {path} HTTP/1.1", "Host: localhost", "Upgrade: websocket", "Connection: Upgrade"]
    if version:
        head.append(f"Sec-WebSocket-Version: {version}")
    if key:
        head.append(f"Sec-WebSocket-Key: {key}")
    return "\r\n".join([*head, *lines]).encode() + b"\r\n\r\n"


def frame(payload: bytes = b"", opcode: int = 1, *, masked: bool = False, last: bool = True) -> bytes:
    """One frame."""
    size = len(payload)
    bit = 0x80 if masked else 0
    if size < 126:
        head = bytes((opcode | (0x80 if last else 0), bit | size))
    elif size < 65536:
        head = bytes((opcode | (0x80 if last else 0), bit | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((opcode | (0x80 if last else 0), bit | 127)) + size.to_bytes(8, "big")
    if not masked:
        return head + payload
    mask = bytes.fromhex("37fa213d")  # of the RFC's examples: the same in every worker
    return head + mask + bytes(byte ^ mask[place & 3] for place, byte in enumerate(payload))


def close(code: int | None = 1000, reason: bytes = b"", *, masked: bool = False) -> bytes:
    """A Close frame."""
    return frame(b"" if code is None else code.to_bytes(2, "big") + reason, 8, masked=masked)


async def read_frame(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """(opcode, payload) of the next frame, unmasked. Raises IncompleteReadError at the end of the connection."""
    first, second = await reader.readexactly(2)
    size = second & 0x7F
    if size > 125:
        size = int.from_bytes(await reader.readexactly(2 if size == 126 else 8), "big")
    mask = await reader.readexactly(4) if second & 0x80 else b"\0\0\0\0"
    payload = await reader.readexactly(size)
    return first & 0x0F, bytes(byte ^ mask[place & 3] for place, byte in enumerate(payload))


class Provider:
    """A provider of realtime sessions on aiohttp's server. talk: what it says once a session is open; it echoes.

    requests: the handshakes that came. open: the sessions now. codes: with which code each was closed, in order.
    refusals: (status, body) with which the next handshakes are refused.
    """

    def __init__(
        self, talk: Talk | None = None, *, protocols: tuple[str, ...] = ("realtime",), tls: ssl.SSLContext | None = None
    ) -> None:
        self.talk = talk or echo
        self.protocols = protocols
        self.requests: list[web.Request] = []
        self.open: set[web.WebSocketResponse] = set()
        self.codes: list[int | None] = []
        self.refusals: list[tuple[int, dict[str, Any]]] = []
        self.port = 0
        self._tls = tls
        self._changed = asyncio.Event()
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}/v1"

    async def start(self, *, unix: str | None = None) -> Self:
        """Listen."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        if unix is not None:
            await web.UnixSite(self._runner, unix).start()
        else:
            await web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self._tls).start()
            self.port = self._runner.addresses[0][1]
        return self

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def closed(self, count: int = 1) -> int | None:
        """Wait until so many sessions are over; the code of the last of them."""
        async with asyncio.timeout(5):
            while len(self.codes) < count:
                self._changed.clear()
                await self._changed.wait()
        return self.codes[count - 1]

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        if self.refusals:
            status, body = self.refusals.pop(0)
            return web.json_response(body, status=status, headers={"x-said": "by the provider"})
        if "upgrade" not in request.headers:
            return web.json_response({"upgrade": None})
        socket = web.WebSocketResponse(protocols=self.protocols, max_msg_size=0, autoping=True, timeout=1)
        await socket.prepare(request)
        self.open.add(socket)
        try:
            await self.talk(socket)
        finally:
            self.open.discard(socket)
            self.codes.append(socket.close_code)
            self._changed.set()
        return socket


async def echo(socket: web.WebSocketResponse) -> None:
    """Say everything back; a text ``close CODE REASON`` is obeyed."""
    async for message in socket:
        if message.type is WSMsgType.TEXT and message.data.startswith("close "):
            _, code, reason = message.data.split(" ", 2)
            await socket.close(code=int(code), message=reason.encode())
        elif message.type is WSMsgType.TEXT:
            await socket.send_str(message.data)
        elif message.type is WSMsgType.BINARY:
            await socket.send_bytes(message.data)


class Session:
    """A session of a `ByHand` provider: the bytes as they come."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        self.reader = reader
        self.writer = writer
        self.head = head.decode("latin-1")
        self.gone: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    def header(self, name: str) -> str | None:
        """A header of the handshake."""
        for line in self.head.split("\r\n")[1:]:
            found, _, value = line.partition(":")
            if found.lower() == name.lower():
                return value.strip()
        return None

    def accept(self, *lines: str, tail: bytes = b"", accept: str | None = None) -> None:
        """Say 101."""
        key = (self.header("sec-websocket-key") or "") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        said = accept or base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
        head = [
            "HTTP/1.1 101 Switching Protocols",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Accept: {said}",
            *lines,
        ]
        self.writer.write("\r\n".join(head).encode() + b"\r\n\r\n" + tail)

    def say(self, data: bytes) -> None:
        """Write bytes."""
        self.writer.write(data)

    async def read(self) -> tuple[int, bytes]:
        """The next frame of the client."""
        async with asyncio.timeout(5):
            return await read_frame(self.reader)

    async def left(self, timeout: float = 5.0) -> None:
        """Wait until the other side has ended the connection."""
        async with asyncio.timeout(timeout):
            with suppress(ConnectionError):
                while await self.reader.read(65536):
                    pass


Script = Callable[[Session], Awaitable[None]]


class ByHand:
    """A provider whose sessions follow a script, byte by byte. sessions: those that came; connections: open ones."""

    def __init__(self, script: Script, *, limit: int = 65536) -> None:
        self.script = script
        self.sessions: list[Session] = []
        self.connections = 0
        self.port = 0
        self.failed: list[BaseException] = []
        self._limit = limit
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"http://127.0.0.1:{self.port}/v1"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=self._limit)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self.failed and kind is None:
            raise self.failed[0]

    async def session(self, number: int = 0) -> Session:
        """The session with this number, once its handshake has come."""
        async with asyncio.timeout(5):
            while len(self.sessions) <= number:
                self._changed.clear()
                await self._changed.wait()
        return self.sessions[number]

    async def idle(self) -> None:
        """Wait until no connection is open."""
        async with asyncio.timeout(5):
            while self.connections:
                self._changed.clear()
                await self._changed.wait()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            session = Session(reader, writer, await reader.readuntil(b"\r\n\r\n"))
            self.sessions.append(session)
            self._changed.set()
            await self.script(session)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        except BaseException as error:
            self.failed.append(error)
        finally:
            self.connections -= 1
            self._changed.set()
            self._tasks.discard(task)
            writer.close()
            with suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()
