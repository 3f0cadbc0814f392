"""Large answers are compressed in a thread, and found meanwhile as they came: who asks the same in between is answered.

One batch of them is compressed at a time, since nobody waits for it and other threads are for work that somebody waits
for. What waits is bounded: beyond that entries stay as they came.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final

from proxy.policies.cache.entry import times_of
from proxy.policies.cache.lru import START

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proxy.policies.cache.entry import Entry
    from proxy.policies.cache.stores import Store

__all__ = ["Packer"]

WAITING: Final = 32 * 1024 * 1024
"""Bytes of bodies that wait to be compressed at most."""
Batch = tuple["Sequence[tuple[bytes, Entry]]", bytes, float, "Store", int, int]
"""Entries under their names, their tags, the seconds to keep them, the store and its epoch, their bytes."""


class Packer:
    """compress_above: size of a body in bytes."""

    def __init__(self, compress_above: int) -> None:
        self._above = compress_above
        self._waiting: deque[Batch] = deque()
        self._bytes = 0

    def put(self, store: Store, entries: Sequence[tuple[bytes, Entry]], tags: bytes, left: float) -> None:
        """Keep entries for ``left`` seconds, those above the size compressed."""
        size = sum(len(entry.body) for _, entry in entries)
        if self._bytes + size > WAITING:
            for name, entry in entries:
                store.put(name, entry.encode(tags), left)
            return
        if store.memory is not None:
            for name, entry in entries:
                store.memory.put(name, entry.encode(tags), left)
        self._bytes += size
        self._waiting.append((entries, tags, left, store, store.epoch, size))
        if len(self._waiting) == 1:
            self._next()

    def _next(self) -> None:
        entries, tags, *_ = self._waiting[0]
        work = asyncio.get_running_loop().run_in_executor(
            None, lambda: [entry.encode(tags, compress_above=self._above) for _, entry in entries]
        )
        work.add_done_callback(self._packed)

    def _packed(self, done: asyncio.Future[list[bytes]]) -> None:
        entries, _, left, store, epoch, size = self._waiting.popleft()
        self._bytes -= size
        if not done.cancelled() and done.exception() is None and store.epoch == epoch:
            for (name, entry), data in zip(entries, done.result(), strict=True):
                held = None if store.memory is None else store.memory.peek(name)
                if held is None or times_of(held, START)[0] == entry.stored_at:  # else a later answer took its place
                    store.put(name, data, left)
        if self._waiting:
            self._next()
