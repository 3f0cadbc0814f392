"""What is on its way to Redis: entries to keep and names to forget, sent one pipeline after the other.

What is put while a pipeline is under way goes with the next, so a burst of answers is a few round trips. For one name
the last word counts: what was said before it is not sent any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

__all__ = ["PENDING_BYTES", "Line", "Outbox"]

PENDING_BYTES: Final = 32 * 1024 * 1024
"""Entries on their way to Redis at most; what comes beyond is dropped."""
_LINES: Final = 128
_BYTES: Final = 128 * 1024
"""One pipeline at most, but for a single entry that is larger: sealing and writing so much takes under 1 ms."""

Line = tuple[bytes | None, float]
"""An entry and the seconds to keep it for; None: forget the name."""


class Outbox:
    """send: writes a batch by name, and raises nothing; what it could not write is lost."""

    def __init__(self, send: Callable[[list[tuple[bytes, Line]]], Awaitable[None]]) -> None:
        self.lines: dict[bytes, Line] = {}
        """What has not been written yet, by name; part of it may be under way."""
        self._send = send
        self._bytes = 0
        self._work: asyncio.Task[None] | None = None
        self._under_way: asyncio.Future[None] | None = None

    def put(self, name: bytes, entry: bytes, ttl: float) -> bool:
        """Keep an entry for ``ttl`` seconds. False: too much is on its way already."""
        if self._bytes + len(entry) > PENDING_BYTES:
            return False
        self._say(name, (entry, ttl))
        return True

    def remove(self, name: bytes) -> None:
        """Forget a name."""
        self._say(name, (None, 0.0))

    def drop(self) -> None:
        """Write nothing of what has not been written."""
        self.lines.clear()
        self._bytes = 0

    async def stand_still(self, timeout: float) -> None:
        """Wait for the pipeline that is under way, ``timeout`` seconds at most."""
        if self._under_way is not None:
            await asyncio.wait({self._under_way}, timeout=timeout)

    async def close(self, timeout: float) -> None:
        """Give what is left ``timeout`` seconds."""
        if self._work is not None:
            await asyncio.wait({self._work}, timeout=timeout)
            self._work.cancel()
            await asyncio.gather(self._work, return_exceptions=True)

    def _say(self, name: bytes, line: Line) -> None:
        self._forget(name)
        self.lines[name] = line
        self._bytes += len(line[0] or b"")
        if self._work is None or self._work.done():
            self._work = asyncio.get_running_loop().create_task(self._run(), name="cache-store-writes")

    def _forget(self, name: bytes) -> None:
        line = self.lines.pop(name, None)
        if line is not None:
            self._bytes -= len(line[0] or b"")

    async def _run(self) -> None:
        while self.lines:
            batch: list[tuple[bytes, Line]] = []
            size = 0
            for pair in self.lines.items():
                size += len(pair[1][0] or b"")
                if batch and (size > _BYTES or len(batch) >= _LINES):
                    break
                batch.append(pair)
            self._under_way = asyncio.ensure_future(self._send(batch))
            try:
                await self._under_way
            finally:
                self._under_way = None
            for name, line in batch:
                if self.lines.get(name) is line:
                    self._forget(name)
