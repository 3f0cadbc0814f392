"""Entries under names, in the store that the options name: what is found there, and what is put there."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import orjson

from proxy.config.plain import plain
from proxy.policies.cache import keeping, stores
from proxy.policies.cache.entry import Entry, EntryError, laid_out, packed
from proxy.policies.cache.key import Keyer
from proxy.policies.cache.lru import START
from proxy.policies.cache.packing import Packer

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from proxy.exchange import Exchange
    from proxy.policies.cache.figures import Figures
    from proxy.policies.cache.options import CacheOptions
    from proxy.policies.cache.stores import Store
    from proxy.services import Services

__all__ = ["Shelf"]

ON_LOOP: Final = 96 * 1024
"""Bytes that are compressed on the loop (under 1 ms); more is left to a thread."""


class Shelf:
    """store: where the entries are. keys: what names them, and their tags. Both are there from ``start`` on; a policy
    that works without having been started gets its own when it first asks for one."""

    store: Store
    keys: Keyer

    def __init__(self, options: CacheOptions, services: Services, figures: Figures) -> None:
        self._options = options
        self._services = services
        self._figures = figures
        self._now = services.clock.now
        self._grace = max(options.stale_if_error, options.stale_while_revalidate)
        self._named: Hashable = None
        self._packer = Packer(options.compress_above)

    async def start(self) -> None:
        """Opens the store, if nobody has."""
        self._named, found = await stores.acquire(self._options, self._services)
        self._use(found)

    async def stop(self) -> None:
        """Gives the store back."""
        if self._named is not None:
            named, self._named = self._named, None
            await stores.release(named)

    def _use(self, found: Store) -> None:
        options = self._options
        addresses = {
            name: plain((upstream.api, upstream.base_url, upstream.headers, upstream.query))
            for name, upstream in self._services.config.upstreams.items()
        }
        rules = () if options.tool_calls else ("no tool calls",)
        self.store = found
        self.keys = Keyer(found.secret, options.scope, options.vary, addresses, rules=rules, shared=found.far)

    def __getattr__(self, name: str) -> Any:
        if name not in ("store", "keys"):
            raise AttributeError(name)
        self._use(stores.open_now(self._options, self._services))
        return self.__dict__[name]

    # --- what is there -------------------------------------------------------------------------

    async def find(self, name: bytes) -> Entry | None:
        """The entry of this name; one that cannot be read is removed."""
        store = self.store
        found = store.look(name)
        if found is None:
            found = await store.fetch(name) if store.far else None
            if found is None:
                return None
        return await self.unpacked(name, found) if packed(found, START) else self.read(name, found)

    def read(self, name: bytes, found: bytes) -> Entry | None:
        """The entry in what the store gave; one that cannot be read is removed."""
        try:
            return Entry.decode(found, START)
        except EntryError:
            self.damaged(name)
            return None

    async def unpacked(self, name: bytes, found: bytes) -> Entry | None:
        """The same for an entry that may be many times as large as it lies there."""
        try:
            return await asyncio.get_running_loop().run_in_executor(None, Entry.decode, found, START)
        except EntryError:
            self.damaged(name)
            return None

    def damaged(self, name: bytes) -> None:
        """An entry that cannot be read is a miss and goes."""
        self._figures.damaged += 1
        self.store.remove(name)

    # --- what is put there ---------------------------------------------------------------------

    def keep_whole(self, name: bytes, exchange: Exchange, body: bytes) -> None:
        """Store the whole answer of a call, if it is not too large."""
        options = self._options
        size = len(body)
        if size > options.max_entry:
            return
        tags, usage = self.keys.tags(exchange), keeping.usage_of(exchange)
        if size > options.compress_above:
            counts, estimated = usage or (None, False)
            self.keep(name, Entry(body, self._now(), options.ttl, counts, estimated=estimated), tags)
            return
        self._figures.stored += 1
        data = laid_out(0, tags, self._now(), options.ttl, orjson.dumps(usage), body)
        self.store.put(name, data, options.ttl + self._grace)

    def keep(self, name: bytes, entry: Entry, tags: bytes, age: float = 0.0) -> None:
        """Store an entry. age: how old it is already."""
        left = entry.fresh_for + self._grace - age
        if left <= 0:
            return
        self._figures.stored += not age
        above = self._options.compress_above
        size = len(entry.body)
        store = self.store
        if size <= above or size <= ON_LOOP:
            store.put(name, entry.encode(tags, compress_above=above), left)
            return
        self._packer.put(store, [(name, entry)], tags, left)

    def keep_all(self, entries: Sequence[tuple[bytes, Entry]], tags: bytes) -> None:
        """Store several that were made just now and are fresh for the same time. What is compressed is so in a thread,
        whatever its size: there may be hundreds of the next."""
        left = entries[0][1].fresh_for + self._grace
        self._figures.stored += len(entries)
        if any(len(entry.body) > self._options.compress_above for _, entry in entries):
            self._packer.put(self.store, entries, tags, left)
            return
        for name, entry in entries:
            self.store.put(name, entry.encode(tags), left)
