"""``cache``: the same question is paid for once.

It stands in the place of what is below it (``on_flight``) and decides for each call:

    unfit, or a body nobody understands            bypass      the work below, for this caller alone
    stored and fresh                               hit         from the store
    stored, not fresh, revalidation allowed        stale       from the store; a flight behind it renews the entry
    an identical call is in flight                 coalesced   its answer, from the start, at this caller's pace
    else                                           miss        a flight of its own, which others may join

What is stored is the answer at this place on the way up: masked, before restore. A flight that fails lets one of those
who waited start anew, and the others wait for that one; when it fails too, all get its error. ``stale_if_error`` comes
before any error that asking again later could cure.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, ClassVar, Final

from proxy.errors import ProxyError
from proxy.policies.cache import control as controls
from proxy.policies.cache import keeping, serve, stores
from proxy.policies.cache.call import CURABLE, Call, Landing, curable, not_cached
from proxy.policies.cache.entry import Entry, EntryError
from proxy.policies.cache.figures import Figures
from proxy.policies.cache.key import Keyer
from proxy.policies.cache.options import CacheOptions
from proxy.policies.cache.selection import Selection
from proxy.policy import Policy

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    from proxy.dialects.base import Dialect
    from proxy.exchange import Answer, Exchange
    from proxy.flight import Below, Flight
    from proxy.policies.cache.items import Items
    from proxy.policies.cache.stores import Store
    from proxy.services import Services

__all__ = ["Cache"]

CACHED: Final = frozenset({"openai_chat", "openai_completions", "openai_responses", "anthropic_messages"})
COMPRESSED_HERE: Final = 96 * 1024
"""Bytes that are compressed on the loop (under 1 ms); more is left to a thread."""
REVALIDATION: Final = 300.0
"""Seconds that a revalidation may take: nobody waits for it, so nobody else would end it."""


class Cache(Policy):
    """Exact caching and coalescing of identical calls."""

    name: ClassVar[str] = "cache"
    Options = CacheOptions
    splits: ClassVar[bool] = True
    needs_usage: ClassVar[bool] = True
    options: CacheOptions

    def __init__(
        self, options: CacheOptions, services: Services, *, label: str | None = None, observe: bool = False
    ) -> None:
        super().__init__(options, services, label=label, observe=observe)
        stores.check(options, services)
        self.figures = Figures()
        self._now = services.clock.now
        self._grace = max(options.stale_if_error, options.stale_while_revalidate)
        self._flying: dict[Hashable, Flight] = {}
        self._named: Hashable = None
        self._store: Store | None = None
        self._keys: Keyer | None = None

    # --- life ----------------------------------------------------------------------------------

    async def start(self) -> None:
        self._named, found = await stores.acquire(self.options, self.services)
        self._use(found)

    async def stop(self) -> None:
        if self._named is not None:
            named, self._named = self._named, None
            await stores.release(named)

    def _use(self, found: Store) -> Store:
        self._store = found
        self._keys = Keyer(found.secret, self.options.scope, self.options.vary)
        return found

    @property
    def store(self) -> Store:
        """Where entries are kept."""
        return self._store or self._use(stores.open_now(self.options, self.services))

    @property
    def keys(self) -> Keyer:
        """What names entries and their tags."""
        if self._keys is None:
            self._use(stores.open_now(self.options, self.services))
        assert self._keys is not None
        return self._keys

    # --- for the admin port --------------------------------------------------------------------

    async def clear(
        self,
        *,
        model: str | None = None,
        project: str | None = None,
        tags: Mapping[str, str] | None = None,
        key_prefix: str | None = None,
    ) -> int:
        """Forget the entries for which all that is given holds; nothing given: every entry. How many went.

        An answer that is under way meanwhile is given to who waits for it and not stored.
        """
        return await self.store.clear(
            Selection.of(self.keys, model=model, project=project, tags=tags, key_prefix=key_prefix)
        )

    def stats(self) -> dict[str, Any]:
        """Figures of this policy and of its store, as a plain object."""
        return {
            "policy": self.label,
            "scope": self.options.scope,
            "in_flight": len(self._flying),
            **self.figures.shown(),
            **self.store.stats(),
        }

    # --- a call --------------------------------------------------------------------------------

    async def on_flight(self, exchange: Exchange, below: Below) -> Answer:
        dialect, document = exchange.dialect, exchange.request.body
        if dialect is None or document is None or (dialect.name not in CACHED and dialect.name != "openai_embeddings"):
            return await self.pass_by(exchange, below)
        tree = document.strict()
        control = controls.parse(exchange.request.header("x-sidecar-cache"))
        why = self._unfit(exchange, dialect, tree, below)
        if why is not None:
            if control.only_cached:
                raise not_cached(why)
            if exchange.explain is not None:
                exchange.explain(self.label, f"not cached: {why}")
            return await self.pass_by(exchange, below)
        if dialect.name == "openai_embeddings":
            from proxy.policies.cache.items import Items  # noqa: PLC0415 - only for who embeds

            items = Items.of(self, exchange, tree, below.digest)
            if items is not None:
                return await items.answer(Call(exchange, below, dialect, control))
        name = self.keys.name(exchange, tree, below.digest)
        if exchange.explain is not None:
            exchange.explain(self.label, f"the entry's key is {name.hex()}")
        return await self._answer(Call(exchange, below, dialect, control), name)

    async def _answer(self, call: Call, name: bytes) -> Answer:
        exchange, control = call.exchange, call.control
        entry = None if control.fetch else await self.find(name)
        age = 0.0
        if entry is not None:
            age = max(0.0, self._now() - entry.stored_at)
            if self.observe:
                self.figures.would_hit += age < entry.fresh_for
                exchange.note(self.label, "would have answered from the store")
                return await self.pass_by(exchange, call.below)
            if (age < entry.fresh_for) if control.max_age is None else age <= min(control.max_age, entry.fresh_for):
                answer = self._serve(call, name, entry, age)
                if answer is not None:
                    self.figures.hits += 1
                    exchange.cache_status = "hit"
                    return answer
                entry = None
        if self.observe:
            return await self.pass_by(exchange, call.below)
        stale = entry if control.max_age is None else None
        if (
            stale is not None
            and control.keep
            and age < stale.fresh_for + self.options.stale_while_revalidate
            and (answer := self._serve(call, name, stale, age)) is not None
        ):
            self.figures.stale += 1
            exchange.cache_status = "stale"
            self.revalidate(call, name)
            return answer
        if control.only_cached:
            raise not_cached("nothing fresh is stored for this call")
        if stale is None or age >= stale.fresh_for + self.options.stale_if_error:
            return await self.fly(call, name)
        return await self._fly_or_stale(call, name, stale, age)

    async def _fly_or_stale(self, call: Call, name: bytes, stale: Entry, age: float) -> Answer:
        error: ProxyError | None = None
        answer: Answer | None = None
        try:
            answer = await self.fly(call, name)
            if not curable(answer):
                return answer
        except ProxyError as failed:
            if failed.code not in CURABLE:
                raise
            error = failed
        old = self._serve(call, name, stale, age)
        if old is not None:
            if answer is not None and answer.source is not None:
                answer.source.abort()
            exchange = call.exchange
            self.figures.stale += 1
            exchange.cache_status = "stale"
            exchange.served_by = None
            exchange.error = None
            return old
        if error is not None:
            raise error
        assert answer is not None
        return answer

    async def find(self, name: bytes) -> Entry | None:
        """The entry of this name; one that cannot be read is removed."""
        kept = self._store or self.store
        found = kept.look(name)
        if found is None:
            if not kept.far:
                return None
            found = await kept.fetch(name)
            if found is None:
                return None
        try:
            return Entry.decode(found.data, found.start)
        except EntryError:
            self.damaged(name)
            return None

    def damaged(self, name: bytes) -> None:
        """An entry that cannot be read is a miss and goes."""
        self.figures.damaged += 1
        self.store.remove(name)

    def _serve(self, call: Call, name: bytes, entry: Entry, age: float) -> Answer | None:
        exchange, came_as_events = call.exchange, entry.events
        try:
            answer = serve.answer(exchange, call.dialect, entry, age, new_ids=self.options.ids == "new")
        except ValueError:
            self.damaged(name)
            return None
        if came_as_events and not entry.events:
            # Added up for this caller: kept so for the next, who most likely asks in the same way.
            self.keep(name, entry, self.keys.tags(exchange), age)
        exchange.saved_usage = entry.usage
        return answer

    # --- flights -------------------------------------------------------------------------------

    async def pass_by(self, exchange: Exchange, below: Below) -> Answer:
        """Through to what is below, for this caller alone."""
        self.figures.bypasses += 1
        exchange.cache_status = "bypass"
        return await below.start(shared=False).join(exchange)

    async def fly(self, call: Call, name: bytes, items: Items | None = None) -> Answer:
        """The answer of a flight: somebody's who asks the same, or one of this call's own. Raises ProxyError."""
        exchange, control = call.exchange, call.control
        if not self.options.coalesce or not control.keep:
            self.figures.misses += 1
            exchange.cache_status = "miss"
            return await self._launch(call, name, None, items).join(exchange)
        dialect, body = call.dialect, exchange.request.body
        streaming = exchange.streaming
        assert body is not None
        # A stream is shared event by event, so those who share it must have asked for the same events.
        shape = (name, streaming, streaming and dialect.asks_usage(body.strict()))
        again = False
        while True:
            flight = self._flying.get(shape)
            if flight is None or not flight.joinable or (control.fetch and not again):
                self.figures.misses += 1
                exchange.cache_status = "miss"
                return await self._launch(call, name, shape, items).join(exchange)
            exchange.cache_status = "coalesced"
            try:
                answer = await flight.join(exchange)
                # A refusal may be meant for who started the flight alone.
                if again or (answer.error is None and not curable(answer)):
                    self.figures.coalesced += 1
                    return answer
                if answer.source is not None:
                    answer.source.abort()
            except ProxyError:
                if again:
                    raise
            # It failed: the first of those who waited finds no flight here and starts one, the others find his.
            again = True

    def _launch(
        self, call: Call, name: bytes, shape: Hashable, items: Items | None, *, deadline: float | None = None
    ) -> Flight:
        body = None if items is None else items.request
        flight = call.below.start(deadline=deadline, shared=call.control.keep, body=body)
        if shape is not None:
            self._flying[shape] = flight
        if shape is not None or call.control.keep:
            flight.landed.append(Landing(self, call, name, shape, items))
        return flight

    def revalidate(self, call: Call, name: bytes, items: Items | None = None) -> None:
        """Renew what is stored behind the back of a caller who has been served; one flight for all of them."""
        shape = (name, "revalidation")
        if shape not in self._flying:
            self._launch(call, name, shape, items, deadline=REVALIDATION)

    def landed(self, landing: Landing, flight: Flight) -> None:
        """A flight is over: nobody joins it any more, and what it brought is stored if it may be."""
        if landing.shape is not None and self._flying.get(landing.shape) is flight:
            del self._flying[landing.shape]
        if not landing.stores or self.store.epoch != landing.epoch:  # cleared meanwhile: the answer is from before
            return
        options = self.options
        entry = keeping.entry_of(
            flight, landing.dialect, landing.target, self._now(), options.ttl, tool_calls=options.tool_calls
        )
        if entry is None:
            return
        if landing.items is not None:
            landing.items.keep(flight, landing.tags)
        elif len(entry.body) <= options.max_entry:
            self.keep(landing.name, entry, landing.tags)

    def keep(self, name: bytes, entry: Entry, tags: list[bytes], age: float = 0.0) -> None:
        """Store an entry. age: how old it is already."""
        left = entry.fresh_for + self._grace - age
        if left <= 0:
            return
        self.figures.stored += not age
        above = self.options.compress_above
        if len(entry.body) <= max(above, COMPRESSED_HERE):
            self.store.put(name, entry.encode(tags, compress_above=above), left)
            return
        work = asyncio.get_running_loop().run_in_executor(None, lambda: entry.encode(tags, compress_above=above))
        epoch = self.store.epoch

        def compressed(done: asyncio.Future[bytes]) -> None:
            if not done.cancelled() and done.exception() is None and self.store.epoch == epoch:
                self.store.put(name, done.result(), left)

        work.add_done_callback(compressed)

    # --- what is not cached --------------------------------------------------------------------

    def _unfit(self, exchange: Exchange, dialect: Dialect, tree: dict[str, Any], below: Below) -> str | None:
        """Why this call is neither looked up nor stored; None when it is."""
        options = self.options
        if dialect.stateful(tree):
            return "it refers to or leaves state at the provider"
        if options.max_temperature is not None:
            said = tree.get("temperature", 1)
            if not isinstance(said, int | float) or said > options.max_temperature:
                return "its temperature is above max_temperature"
        if not options.tool_calls and (tree.get("tools") or tree.get("functions")):
            return "it offers tools"
        if options.store != "memory" and below.unmasked:
            return "it was not masked, and the store is shared"
        return None
