"""What every test may use: a whole proxy in this process, on real sockets.

async def test_something(sidecar, upstream):
    proxy = await sidecar(routes_to(upstream))      # YAML text, or a dict
    proxy.url, proxy.admin_url, proxy.app
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import settings

from proxy.app import App
from proxy.load import load_config
from proxy.policy import Policy
from proxy.testing import FakeUpstream, chat_answer, reply

# A property holds however busy the machine is; what it costs belongs into a benchmark.
settings.register_profile("properties", deadline=None)
settings.load_profile("properties")


@dataclass
class Sidecar:
    """A proxy that runs in this process. url: of the data port, without /v1. exchanges: those that ended, in order."""

    app: App
    url: str
    admin_url: str
    exchanges: list[Any]

    @property
    def base_url(self) -> str:
        """What a client takes as OPENAI_BASE_URL."""
        return self.url + "/v1"

    @property
    def port(self) -> int:
        """Of the data port."""
        return int(self.url.rsplit(":", 1)[1])


Start = Callable[..., Awaitable[Sidecar]]


@pytest.fixture
async def sidecar(tmp_path: Path) -> AsyncIterator[Start]:
    """Start a proxy from YAML text or a dict; ports are free ones unless the configuration says otherwise."""
    running: list[App] = []

    async def start(
        config: str | dict[str, Any], *, overrides: Iterable[str] = (), env: dict[str, str] | None = None
    ) -> Sidecar:
        file = tmp_path / f"config{len(running)}.yaml"
        file.write_text(config if isinstance(config, str) else json.dumps(config))
        free = ["server.port=0", "admin.port=0", f"data={tmp_path}", "log.access=false", "log.level=error"]
        loaded, warnings = load_config(file, overrides=[*free, *overrides], env=env or {})
        app = App(loaded, warnings)
        running.append(app)
        await app.start()
        assert app.snapshot is not None
        ended: list[Any] = []
        app.snapshot.watchers.append(ended.append)
        return Sidecar(app, app.where[0], app.admin_url or "", ended)

    yield start
    for app in running:
        await app.stop()


@pytest.fixture
async def posting(sidecar: Start) -> AsyncIterator[Callable[..., Awaitable[Any]]]:
    """Start a proxy with one chain: ``post = await posting(upstream, chain)``. ``await post(**fields)`` asks for a chat
    completion and gives status and text; ``post.proxy`` and ``post.snapshot`` are what answers."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(upstream: FakeUpstream, chain: list[Any]) -> Any:
            proxy = await sidecar(
                {
                    "upstreams": {"up": {"api": "openai", "base_url": upstream.url}},
                    "routes": [{"match": {"path": "/v1/*"}, "upstream": "up", "chain": "main"}],
                    "chains": {"main": chain},
                }
            )
            session = await stack.enter_async_context(aiohttp.ClientSession())

            async def post(**fields: Any) -> tuple[int, str]:
                body = {"model": "m", "messages": [{"role": "user", "content": "Hello"}], **fields}
                async with session.post(proxy.base_url + "/chat/completions", json=body) as answer:
                    return answer.status, await answer.text()

            post.proxy, post.snapshot = proxy, proxy.app.snapshot  # type: ignore[attr-defined]
            return post

        yield start


# --- a client that writes bytes by hand ----------------------------------------------------------------


@dataclass
class Received:
    """One answer off the wire. headers: lower-case names, in order. complete: its framing ended as announced."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    complete: bool
    version: str = "HTTP/1.1"

    def header(self, name: str) -> str | None:
        """The first value of a header."""
        return next((value for key, value in self.headers if key == name), None)

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The error object of the body."""
        found: dict[str, Any] = self.json["error"]
        return found


class Wire:
    """A client connection that sends what it is told and parses answers strictly."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        """Write bytes as they are."""
        self.writer.write(data)
        await self.writer.drain()

    async def post(self, path: str, body: Any, *headers: str, method: str = "POST") -> None:
        """A request with a JSON body (or bytes) and a Content-Length."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(data)}", *headers]
        if not any(line.lower().startswith("content-type") for line in headers):
            lines.append("Content-Type: application/json")
        await self.send("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + data)

    async def get(self, path: str, *headers: str, method: str = "GET") -> None:
        """A request without a body."""
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *headers]
        await self.send("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n")

    async def head(self) -> Received:
        """The head of the next answer; its body is still to come."""
        first = (await self.reader.readuntil(b"\r\n")).decode("latin-1").rstrip()
        version, status = first.split(" ", 2)[:2]
        headers: list[tuple[str, str]] = []
        while line := (await self.reader.readuntil(b"\r\n")).decode("latin-1").rstrip("\r\n"):
            name, _, value = line.partition(":")
            headers.append((name.lower(), value.strip()))
        return Received(int(status), headers, b"", False, version)

    async def chunk(self) -> bytes:
        """The next chunk of a chunked body; empty at its end."""
        size = int((await self.reader.readuntil(b"\r\n")).rstrip(), 16)
        data = await self.reader.readexactly(size + 2)
        return data[:-2]

    async def answer(self, *, bodiless: bool = False, timeout: float = 10.0) -> Received:
        """The next answer, whole. A body whose framing breaks off is returned with ``complete`` False."""
        async with asyncio.timeout(timeout):
            found = await self.head()
            length = found.header("content-length")
            if bodiless or found.status in (204, 304) or found.status < 200:
                found.complete = True
            elif found.header("transfer-encoding") == "chunked":
                parts: list[bytes] = []
                try:
                    while piece := await self.chunk():
                        parts.append(piece)
                    found.complete = True
                except (asyncio.IncompleteReadError, ConnectionError):
                    pass
                found.body = b"".join(parts)
            elif length is not None:
                try:
                    found.body = await self.reader.readexactly(int(length))
                    found.complete = True
                except asyncio.IncompleteReadError as error:
                    found.body = error.partial
            else:
                found.body = await self.reader.read()
                found.complete = True
            return found

    async def closed(self, timeout: float = 5.0) -> bool:
        """Whether the other side ends the connection without another byte."""
        async with asyncio.timeout(timeout):
            try:
                return await self.reader.read(1) == b""
            except ConnectionError:
                return True

    async def hang_up(self) -> None:
        """Leave."""
        self.writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await self.writer.wait_closed()


@pytest.fixture
async def wire() -> AsyncIterator[Callable[..., Awaitable[Wire]]]:
    """Connect by hand: ``await wire(proxy.port)``, or to a unix socket with ``unix=path``."""
    opened: list[Wire] = []

    async def connect(port: int = 0, *, unix: str | None = None, **options: Any) -> Wire:
        if unix is not None:
            pair = await asyncio.open_unix_connection(unix, **options)
        else:
            pair = await asyncio.open_connection("127.0.0.1", port, **options)
        opened.append(Wire(*pair))
        return opened[-1]

    yield connect
    for one in opened:
        await one.hang_up()


# --- policies written for one test ---------------------------------------------------------------------


@pytest.fixture
def policy() -> Callable[..., str]:
    """Make a policy class from phase functions; returns what stands for it in YAML (``module:Class``).

    Class attributes (``protects``, ``late_commit`` ...) are given beside the phases: ``policy(on_request=f)``.
    """
    module = sys.modules[__name__]

    def make(title: str = "made", **phases: Any) -> str:
        place = f"Made{next(_numbers)}"
        setattr(module, place, type(place, (Policy,), {"name": title, **phases}))
        return f"{__name__}:{place}"

    return make


_numbers = itertools.count(1)


def _setting(upstream: FakeUpstream | str, *chain: Any, **more: Any) -> dict[str, Any]:
    """One route for everything to one upstream; ``more`` is merged over it, ``up`` into the upstream."""
    base_url = upstream if isinstance(upstream, str) else upstream.url
    up = {"api": "openai", "base_url": base_url, **more.pop("up", {})}
    upstreams = {"up": up, **more.pop("upstreams", {})}
    return {
        "upstreams": upstreams,
        "routes": [{"upstream": "up", "chain": "main"}],
        "chains": {"main": list(chain)},
        **more,
    }


@pytest.fixture
def setting() -> Callable[..., dict[str, Any]]:
    """``setting(upstream, *chain, up={...}, **sections)``: a configuration with one route to one upstream."""
    return _setting


@pytest.fixture
async def upstream() -> AsyncIterator[FakeUpstream]:
    """A provider that answers every call with a chat completion, unless a test scripts it."""
    async with FakeUpstream(default=reply(chat_answer("Hi"))) as fake:
        yield fake
