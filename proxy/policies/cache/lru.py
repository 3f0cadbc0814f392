"""Bytes under bytes, bounded by bytes: the least recently used leave first, and everything leaves at its time.

Two things keep a full cache of hundreds of thousands of entries from ever stopping the loop for a millisecond:

* The entries are spread over shards, because a dictionary that grows or is worn moves all its entries at once (3 ms
  for 100,000). Each shard is in order of use. Over all shards there are two generations: what is used moves to the
  young one, what must leave comes from the old one; when that is empty, the young one becomes the old. With one
  shard (a cache of up to 2 MiB) that is the exact order of use, with many a close one.
* No call removes more than ``SLICE`` entries; what is left to do is done in the next turns of the loop.

An entry lies here as its deadline (8 bytes) and its value in one ``bytes`` object, so that a million small entries
are two million objects and not four.
"""

from __future__ import annotations

import asyncio
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Final

__all__ = ["OVERHEAD", "START", "ByteLru"]

START: Final = 8
"""Where the value begins in what ``peek`` returns."""
OVERHEAD: Final = 256
"""Bytes that are counted for each entry beside its name and value: the objects and the places in two tables."""
SLICE: Final = 512
_SHARD: Final = 2 * 1024 * 1024
_DEADLINE: Final = struct.Struct(">d")
_pack_deadline: Final = _DEADLINE.pack
_EACH: Final = START + OVERHEAD
_Shard = OrderedDict[bytes, bytes]


class ByteLru:
    """max_bytes: bound of names, values and ``OVERHEAD`` together. monotonic: seconds that only move forward."""

    __slots__ = (
        "_gone", "_hand", "_mask", "_monotonic", "_old", "_trimming", "_young", "bytes", "evicted", "expired",
        "max_bytes",
    )  # fmt: skip

    def __init__(self, max_bytes: int, monotonic: Callable[[], float]) -> None:
        shards = 1
        while shards < 256 and shards * _SHARD < max_bytes:
            shards *= 2
        self.max_bytes = max_bytes
        self.bytes = 0
        self.evicted = 0
        self.expired = 0
        self._mask = shards - 1
        self._monotonic = monotonic
        self._young: list[_Shard] = [OrderedDict() for _ in range(shards)]
        self._old: list[_Shard] = [OrderedDict() for _ in range(shards)]
        self._gone: list[_Shard] = []
        self._hand = 0
        self._trimming = False

    @property
    def entries(self) -> int:
        """How many are here."""
        return sum(map(len, self._young)) + sum(map(len, self._old))

    def peek(self, key: bytes) -> bytes | None:
        """Eight bytes and the value, as they lie here (no copy): the value begins at ``START``. None: not here."""
        number = key[-1] & self._mask
        shard = self._young[number]
        found = shard.get(key)
        if found is not None:
            shard.move_to_end(key)
        else:
            old = self._old[number]
            if key not in old:
                return None
            found = shard[key] = old.pop(key)
        if _DEADLINE.unpack_from(found)[0] <= self._monotonic():
            del shard[key]
            self._forget(key, found)
            self.expired += 1
            return None
        return found

    def get(self, key: bytes) -> bytes | None:
        """A copy of the value."""
        found = self.peek(key)
        return None if found is None else found[START:]

    def left(self, key: bytes) -> float:
        """Seconds until the entry leaves; 0 when it is not here."""
        found = self.peek(key)
        return 0.0 if found is None else float(_DEADLINE.unpack_from(found)[0]) - self._monotonic()

    def put(self, key: bytes, value: bytes, ttl: float) -> bool:
        """Keep ``value`` for ``ttl`` seconds. False: it is larger than all that may be kept, or room is still being
        made for others."""
        number = key[-1] & self._mask
        young = self._young[number]
        if key in young or key in self._old[number]:
            self.remove(key)
        cost = len(key) + len(value) + _EACH
        size = self.bytes + cost
        if size > self.max_bytes and (cost > self.max_bytes or self.bytes > self.max_bytes):
            return False
        young[key] = _pack_deadline(self._monotonic() + ttl) + value
        self.bytes = size
        if size > self.max_bytes:
            self._trim()
        return True

    def remove(self, key: bytes) -> bool:
        """Forget one entry; False when it was not here."""
        number = key[-1] & self._mask
        found = self._young[number].pop(key, None)
        if found is None:
            found = self._old[number].pop(key, None)
        if found is None:
            return False
        self._forget(key, found)
        return True

    def clear(self) -> int:
        """Forget everything, at once; the memory is given back over the next turns of the loop."""
        count = self.entries
        shards = len(self._young)
        self._gone += [shard for shard in (*self._young, *self._old) if shard]
        self._young = [OrderedDict() for _ in range(shards)]
        self._old = [OrderedDict() for _ in range(shards)]
        self.bytes = 0
        self._later()
        return count

    def scan(self) -> Iterator[list[tuple[bytes, bytes]]]:
        """Everything here, a shard at a time, as (name, what ``peek`` returns). Entries may come and go in between."""
        for generation in (self._young, self._old):
            for shard in list(generation):
                if shard:
                    yield list(shard.items())

    def _forget(self, key: bytes, found: bytes) -> None:
        self.bytes -= len(key) + len(found) + OVERHEAD

    def _trim(self) -> None:
        """Let the least recently used go until all fits, ``SLICE`` of them at most."""
        mask = self._mask
        left = SLICE
        empty = 0
        while self.bytes > self.max_bytes and left:
            shard = self._old[self._hand & mask]
            self._hand += 1
            if not shard:
                empty += 1
                if empty > mask:
                    self._old, self._young = self._young, self._old
                    empty = 0
                continue
            empty = 0
            key, found = shard.popitem(last=False)
            self._forget(key, found)
            self.evicted += 1
            left -= 1
        if self.bytes > self.max_bytes:
            self._later()

    def _later(self) -> None:
        if self._trimming:
            return
        try:
            asyncio.get_running_loop().call_soon(self._go_on)
        except RuntimeError:  # no loop that could be kept waiting
            self._gone.clear()
            while self.bytes > self.max_bytes:
                self._trim_all()
            return
        self._trimming = True

    def _trim_all(self) -> None:
        self._trimming = True
        self._trim()
        self._trimming = False

    def _go_on(self) -> None:
        self._trimming = False
        left = SLICE
        while self._gone and left:
            shard = self._gone[-1]
            while shard and left:
                shard.popitem()
                left -= 1
            if not shard:
                self._gone.pop()
        if self.bytes > self.max_bytes:
            self._trim()
        if self._gone or self.bytes > self.max_bytes:
            self._later()

    def __repr__(self) -> str:
        return f"<ByteLru {self.entries} entries, {self.bytes} of {self.max_bytes} bytes, {self.evicted} evicted>"
