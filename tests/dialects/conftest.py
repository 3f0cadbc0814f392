"""A tiny provider that serves a prepared stream or body, for the real SDKs to read."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import pytest
from aiohttp import web

from proxy.stream.sse import Event

Serve = Callable[[Sequence[Event] | bytes], Awaitable[str]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Start a server that answers every POST with these events (or this JSON body); returns its base URL."""
    runners: list[web.ServerRunner] = []

    async def start(answer: Sequence[Event] | bytes) -> str:
        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            await request.read()
            if isinstance(answer, bytes):
                return web.Response(body=answer, content_type="application/json", status=429)
            response = web.StreamResponse(headers={"content-type": "text/event-stream"})
            await response.prepare(request)
            for event in answer:
                await response.write(event.encode())
            await response.write_eof()
            return response

        runner = web.ServerRunner(web.Server(handle))
        runners.append(runner)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}"

    yield start
    for runner in runners:
        await runner.cleanup()


@pytest.fixture
def events() -> Callable[..., list[Event]]:
    """Events from JSON bodies; ``named`` sends each with its ``type`` as the event's name."""

    def build(*bodies: Any, named: bool = False, done: bool = False) -> list[Event]:
        made = [Event.made(body, body["type"] if named else None) for body in bodies]
        return [*made, Event.made(b"[DONE]")] if done else made

    return build
