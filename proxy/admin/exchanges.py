"""``/api/v1/exchanges``: calls in flight and the latest that ended; with ``Accept: text/event-stream`` as they happen.

Never a body, a header or a key: what was masked for the provider is not shown here either.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Final

import orjson
from aiohttp import web

from proxy.admin.describe import Paths, operation
from proxy.admin.reply import answer, number
from proxy.telemetry.calls import KEPT, running, shown

if TYPE_CHECKING:
    from proxy.app import App

MOST_RUNNING: Final = 500
MOST_WAITING: Final = 1_000
"""Ended calls that wait for a slow reader; older ones are dropped, and the reader is told how many."""
BEAT: Final = 1.0
"""Seconds between two pictures of what is in flight; also how long a silent stream goes without a sign of life."""
MOST_STREAMS: Final = 32

PATHS: Paths = {
    "/api/v1/exchanges": {
        "get": operation(
            "Calls in flight and the latest that ended, newest first.",
            fields={"in_flight": "array", "recent": "array"},
            query=(("limit", f"How many that ended, {KEPT} at most; 100 by default."),),
            media={
                "text/event-stream": "Events `exchange` (a call has ended), `in_flight` (every second in which it "
                "differs), `dropped` (the reader was too slow for so many)."
            },
            errors={503: "Too many live streams are open."},
        )
    }
}


def add_routes(application: web.Application, app: App) -> None:
    """Hang the page."""
    streams: set[Feed] = set()

    async def exchanges(request: web.Request) -> web.StreamResponse:
        count = number(request, "limit", 100, KEPT)
        if "text/event-stream" not in request.headers.get("accept", ""):
            return answer({"in_flight": _in_flight(app), "recent": app.calls.latest(count)})
        if len(streams) >= MOST_STREAMS:
            return answer({"error": {"message": f"{MOST_STREAMS} live streams are open already", "type": "admin"}}, 503)
        feed = Feed(app)
        streams.add(feed)
        try:
            return await feed.serve(request)
        finally:
            streams.discard(feed)

    async def close(_: web.Application) -> None:
        for feed in list(streams):
            feed.close()

    application.on_shutdown.append(close)
    application.router.add_get("/api/v1/exchanges", exchanges)


def _in_flight(app: App) -> list[dict[str, Any]]:
    now = asyncio.get_running_loop().time()
    found = [exchange for snapshot in app.snapshots for exchange in snapshot.in_flight]
    found.sort(key=lambda exchange: exchange.started_at)
    return [running(exchange, now) for exchange in found[:MOST_RUNNING]]


class Feed:
    """One live stream."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._waiting: deque[tuple[Any, ...]] = deque()
        self._dropped = 0
        self._closed = False
        self._news = asyncio.Event()

    def close(self) -> None:
        """End the stream in good order."""
        self._closed = True
        self._news.set()

    def _ended(self, row: tuple[Any, ...]) -> None:
        if len(self._waiting) >= MOST_WAITING:
            self._waiting.popleft()
            self._dropped += 1
        self._waiting.append(row)
        if not self._news.is_set():
            self._news.set()

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Until the reader leaves or the port closes."""
        response = web.StreamResponse(
            headers={"content-type": "text/event-stream", "cache-control": "no-store", "x-accel-buffering": "no"}
        )
        await response.prepare(request)
        listeners = self._app.calls.listeners
        listeners.append(self._ended)
        shown_ids: tuple[str, ...] | None = None
        try:
            while not self._closed:
                parts: list[bytes] = []
                self._news.clear()
                if self._dropped:
                    parts.append(_event("dropped", {"count": self._dropped}))
                    self._dropped = 0
                while self._waiting:
                    parts.append(_event("exchange", shown(self._waiting.popleft())))
                now = _in_flight(self._app)
                ids = tuple(one["id"] for one in now)
                if ids != shown_ids:
                    shown_ids = ids
                    parts.append(_event("in_flight", now))
                await response.write(b"".join(parts) or b": \n\n")
                await self._pause()
        except ConnectionError:
            pass
        finally:
            listeners.remove(self._ended)
        return response

    async def _pause(self) -> None:
        """Until there is news, a beat at most; a tenth of a second at least, so that a storm is written in bulk."""
        try:
            async with asyncio.timeout(BEAT):
                await self._news.wait()
        except TimeoutError:
            return
        if not self._closed:
            await asyncio.sleep(0.1)


def _event(name: str, data: Any) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name.encode(), orjson.dumps(data, default=str))
