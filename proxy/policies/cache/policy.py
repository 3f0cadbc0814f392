"""``cache``: the same question is paid for once.

It stands in the place of what is below it (``on_flight``, see ``proxy.below``) and decides for each call:

    unfit, or a body nobody understands            bypass      goes on, as if the cache were not there
    stored and fresh                               hit         from the store
    stored, not fresh, revalidation allowed        stale       from the store; a flight behind it renews the entry
    an identical call is in flight                 coalesced   its answer, from the start, at this caller's pace
    else                                           miss        goes on by itself or as a flight; others may join

What is stored is the answer at this place on the way up: masked, before restore. A call or flight that fails
lets one of those who joined it start anew, and the others wait for that one; when it fails too, all get its error.
``stale_if_error`` comes before any error that asking again later could cure.

What needs nobody else (a hit in memory, a refusal) is answered at once, by plain functions; what must wait, for Redis
or for an answer, is a coroutine.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final

from proxy.errors import ProxyError
from proxy.exchange import Answer
from proxy.policies.cache import control as controls
from proxy.policies.cache import forms, keeping, serve, stores
from proxy.policies.cache.call import CURABLE, Call, curable, not_cached
from proxy.policies.cache.entry import MAX_TAGS, packed
from proxy.policies.cache.figures import Figures
from proxy.policies.cache.following import follow
from proxy.policies.cache.lru import START
from proxy.policies.cache.options import CacheOptions
from proxy.policies.cache.selection import Selection, sent_for
from proxy.policies.cache.shelf import Shelf
from proxy.policy import Policy, called

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from proxy.below import Below
    from proxy.dialects.base import Dialect
    from proxy.exchange import Exchange
    from proxy.flight import Flight
    from proxy.policies.cache.control import Control
    from proxy.policies.cache.entry import Entry
    from proxy.policy import Later
    from proxy.services import Services

__all__ = ["Cache"]

CACHED: Final = frozenset(
    {"openai_chat", "openai_completions", "openai_responses", "anthropic_messages", "openai_embeddings"}
)
MOST_TAGS: Final = MAX_TAGS - 3
"""Tags of a call that its entry has room for, beside two models and the project: all of them must be found again."""
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
        self.shelf = Shelf(options, services, self.figures)
        self._now = services.clock.now
        self._new_ids = options.ids == "new"
        # Others than the one who asked may read what is stored: in the store, or by asking the same.
        self._shared = options.store != "memory" or options.scope != "principal"
        # Whether more than the dialect's word is needed to tell that a call may be cached.
        self._picky = options.max_temperature is not None or not options.tool_calls or self._shared
        self._ttl = options.ttl
        self._coalesce = options.coalesce
        self._tool_calls = options.tool_calls
        self.running: dict[bytes, Below] = {}

    async def start(self) -> None:
        await self.shelf.start()

    async def stop(self) -> None:
        await self.shelf.stop()

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

        model: as a call asks for it or as it is sent, the one that a route sends in its place included. project: of the
        call whose answer was stored. An answer that is under way meanwhile is given to who waits for it and not stored.
        Raises UnclearedError.
        """
        models = () if model is None else (model, *sent_for(model, self.services.config))
        return await self.shelf.store.clear(
            Selection.of(self.shelf.keys, models=models, project=project, tags=tags, key_prefix=key_prefix)
        )

    def stats(self) -> dict[str, Any]:
        """Figures of this policy and of its store, as a plain object."""
        return {
            "policy": self.label,
            "scope": self.options.scope,
            "in_flight": len(self.running),
            **self.figures.shown(),
            **self.shelf.store.stats(),
        }

    # --- a call --------------------------------------------------------------------------------

    def on_flight(self, exchange: Exchange, below: Below) -> Later[Answer | None]:
        dialect, request = exchange.dialect, exchange.request
        control = controls.of(request) if not self.observe else controls.overheard(exchange, self.label)
        document = request.body
        if dialect is None or document is None or dialect.name not in CACHED:
            return self._not_cached(exchange, control, "answers of this API are not cached")
        if len(exchange.tags) > MOST_TAGS:
            return self._not_cached(exchange, control, f"it has more than {MOST_TAGS} tags")
        shelf = self.shelf
        frame = shelf.keys.frame(exchange, below.digest)
        seen = exchange.seen
        name: bytes | None = None
        if seen is not None and not document.edited and not (self._shared and below.unmasked):
            known = seen.facts.get(self)
            if known is not None and known[0] == frame[1] and known[1] == exchange.target.model:
                name = known[2]  # the same bytes from the same caller: not even parsed
        if name is None:
            tree = document.strict()
            if self._picky or dialect.stateful(tree):
                why = self._unfit(dialect, tree, below)
                if why is not None:
                    return self._not_cached(exchange, control, why)
            if dialect.name == "openai_embeddings":
                from proxy.policies.cache.items import Items  # noqa: PLC0415 - only for who embeds

                items = Items.of(self, exchange, tree, below.digest)
                if items is not None:
                    return items.answer(exchange, below, dialect, control)
            name = shelf.keys.named(frame, exchange, tree)
            if seen is not None and not document.edited:
                seen.facts[self] = frame[1], exchange.target.model, name
        if exchange.timings is not None:
            exchange.note(self.label, f"the entry's key is {name.hex()}")
        store = shelf.store
        call = Call(exchange, below, dialect, control, name)
        call.epoch = store.epoch
        found = None if control.fetch else store.look(name)
        if found is None:
            if store.far and not control.fetch:
                return self._ask_further(call)
            return self._answer(call, None) if self.observe or control.only_cached else self.fly(call)
        return self._answer_unpacked(call, found) if packed(found, START) else self._read(call, shelf.read(name, found))

    def _not_cached(self, exchange: Exchange, control: Control, why: str) -> Answer | None:
        if control.only_cached:
            raise not_cached(why)
        if exchange.timings is not None:
            exchange.note(self.label, f"not cached: {why}")
        return self.pass_by(exchange)

    async def _ask_further(self, call: Call) -> Answer | None:
        """For a store that has more than memory."""
        return await called(self._read(call, await self.shelf.find(call.name)))

    async def _answer_unpacked(self, call: Call, found: bytes) -> Answer | None:
        return await called(self._read(call, await self.shelf.unpacked(call.name, found)))

    def _read(self, call: Call, entry: Entry | None) -> Later[Answer | None]:
        if entry is not None and entry.events and len(entry.body) > forms.ON_LOOP:
            as_it_came = serve.as_it_came(call.exchange, call.dialect, entry, new_ids=self._new_ids)
            if not as_it_came and not self.observe:
                return self._answer_added_up(call, entry)
        return self._answer(call, entry)

    async def _answer_added_up(self, call: Call, entry: Entry) -> Answer | None:
        """For long events that are not given as they came."""
        added: Entry | None = entry
        try:
            await asyncio.get_running_loop().run_in_executor(None, serve.add_up, entry, call.dialect)
        except (ValueError, TypeError):
            self.shelf.damaged(call.name)
            added = None
        else:
            self._keep_added_up(call, entry, max(0.0, self._now() - entry.stored_at))
        return await called(self._answer(call, added))

    def _keep_added_up(self, call: Call, entry: Entry, age: float) -> None:
        """For the next, who most likely asks in the same way."""
        if call.epoch == self.shelf.store.epoch:
            self.shelf.keep(call.name, entry, entry.tags, age)

    def _answer(self, call: Call, entry: Entry | None) -> Later[Answer | None]:
        """What is known decides. entry: what is stored, fresh or not."""
        exchange, control = call.exchange, call.control
        stale: Entry | None = None
        age = 0.0
        if entry is not None:
            age = max(0.0, self._now() - entry.stored_at)
            # It may have been stored when the configuration said otherwise, or by another chain.
            fresh_for = min(entry.fresh_for, self._ttl)
            if self.observe:
                self.figures.would_hit += age < fresh_for
                exchange.note(self.label, "would have answered from the store")
                return self.pass_by(exchange)
            most = control.max_age
            if age < fresh_for if most is None else age <= min(most, fresh_for):
                answer = self._serve(call, entry, age)
                if answer is not None:
                    self.figures.hits += 1
                    exchange.cache_status = "hit"
                    if exchange.seen is None:
                        call.below.came_again()
                    return answer
            elif most is None:
                if age < fresh_for + self.options.stale_if_error:
                    stale = entry
                if control.keep and age < fresh_for + self.options.stale_while_revalidate:
                    answer = self._serve(call, entry, age)
                    if answer is not None:
                        self.figures.stale += 1
                        exchange.cache_status = "stale"
                        if not control.only_cached:
                            self.revalidate(call)
                        return answer
        elif self.observe:
            return self.pass_by(exchange)
        if control.only_cached:
            raise not_cached("nothing fresh is stored for this call")
        if stale is not None:
            return self._fly_or_stale(call, stale)
        return self.fly(call)

    async def _fly_or_stale(self, call: Call, stale: Entry) -> Answer:
        error: ProxyError | None = None
        answer: Answer | None = None
        try:
            answer = await called(self.fly(call, back=True))
            assert answer is not None
            if not curable(answer) or call.was_refused(answer.error):
                return answer
        except ProxyError as failed:
            if failed.code not in CURABLE or call.was_refused(failed):
                raise
            error = failed
        age = max(0.0, self._now() - stale.stored_at)  # the provider has had its time
        old: Answer | None = None
        if age < min(stale.fresh_for, self._ttl) + self.options.stale_if_error:
            call.forget_failure()
            old = self._serve(call, stale, age, keep=False)
        if old is not None:
            if answer is not None and answer.source is not None:
                answer.source.abort()
            self.figures.stale += 1
            call.exchange.cache_status = "stale"
            return old
        if error is not None:
            raise error
        assert answer is not None
        return answer

    def _serve(self, call: Call, entry: Entry, age: float, *, keep: bool = True) -> Answer | None:
        """The stored answer for this caller; None when it cannot be read. keep: it was read just now."""
        exchange, came_as_events = call.exchange, entry.events
        try:
            exchange.saved_usage = entry.usage
            answer = serve.answer(exchange, call.dialect, entry, age, new_ids=self._new_ids)
        except (TypeError, ValueError):
            exchange.saved_usage = None
            self.shelf.damaged(call.name)
            return None
        if keep and came_as_events and not entry.events:
            self._keep_added_up(call, entry, age)
        return answer

    # --- asking the provider -------------------------------------------------------------------

    def pass_by(self, exchange: Exchange) -> Answer | None:
        """None: on to what is below, as if the cache were not there."""
        self.figures.bypasses += 1
        exchange.cache_status = "bypass"
        return None

    def fly(self, call: Call, *, back: bool = False) -> Later[Answer | None]:
        """The answer of somebody who asks the same, or the provider's. None: the call goes on and asks itself, unless
        ``back``, where what it brings is wanted here. Raises ProxyError."""
        control = call.control
        running = self.running.get(call.name)
        if running is not None and self._coalesce and control.keep and not control.fetch and running.joinable:
            return follow(self, call, running, back=back)
        return self.ask(call, back=back)

    def ask(self, call: Call, *, back: bool) -> Later[Answer | None]:
        """The same of a call that has nobody to follow."""
        self.figures.misses += 1
        exchange, below = call.exchange, call.below
        exchange.cache_status = "miss"
        if not call.control.keep:
            if not back:
                return None
            items = call.items
            return below.start(shared=False, body=None if items is None else items.request).join(exchange)
        if self._coalesce:
            self.running[call.name] = below
        call.epoch = self.shelf.store.epoch
        if back or not below.go_on():
            return self._launch(call).join(exchange)
        exchange.local[self] = call
        return None

    def _launch(self, call: Call, *, deadline: float | None = None) -> Flight:
        body = None if call.items is None else call.items.request
        return call.below.start(deadline=deadline, body=body, landed=partial(self._landed, call))

    def revalidate(self, call: Call) -> None:
        """Renew what is stored behind the back of a caller who has been served; one flight for all of them."""
        if call.name not in self.running:
            self.running[call.name] = call.below
            call.epoch = self.shelf.store.epoch
            self._launch(call, deadline=REVALIDATION)

    # --- what the provider said ----------------------------------------------------------------

    def on_landing(self, exchange: Exchange, answer: Answer | None) -> None:
        call: Call | None = exchange.local.pop(self, None)
        if call is None:
            return
        fresh = self._over(call)
        if answer is not None:
            try:
                if fresh:
                    self._keep_whole(call, exchange, answer)
            finally:
                call.below.land(answer)

    def on_parting(self, exchange: Exchange) -> Callable[[Flight], None]:
        return partial(self._landed, exchange.local.pop(self))

    def _landed(self, call: Call, flight: Flight) -> None:
        """A flight is over."""
        if not self._over(call):
            return
        if flight.fan is None:
            if flight.answer is not None:
                self._keep_whole(call, flight.exchange, flight.answer)
            return
        options = self.options
        entry = keeping.stream_entry(flight, call, self._now(), options.ttl, tool_calls=self._tool_calls)
        if entry is not None and len(entry.body) <= options.max_entry:
            self.shelf.keep(call.name, entry, self.shelf.keys.tags(flight.exchange))

    def _over(self, call: Call) -> bool:
        """Nobody joins it any more. False: its answer is not to be stored, since it was asked for before the store was
        cleared, or before another call that asked the provider anew."""
        if self.running.get(call.name) is call.below:
            del self.running[call.name]
        elif self._coalesce:
            return False
        return self.shelf.store.epoch == call.epoch

    def _keep_whole(self, call: Call, exchange: Exchange, answer: Answer) -> None:
        document = answer.body
        if document is None or not keeping.worth_keeping(exchange, answer, document, call, tool_calls=self._tool_calls):
            return
        if call.items is None:
            self.shelf.keep_whole(call.name, exchange, document.encode())
        else:
            call.items.keep(document.lenient(), self.shelf.keys.tags(exchange))

    # --- what is not cached --------------------------------------------------------------------

    def _unfit(self, dialect: Dialect, tree: dict[str, Any], below: Below) -> str | None:
        """Why this call is neither looked up nor stored; None when it is."""
        if dialect.stateful(tree):
            return "it refers to or leaves state at the provider"
        options = self.options
        if options.max_temperature is not None and dialect.operation != "embeddings":
            said = tree.get("temperature")
            if said is None:
                said = 1
            if not isinstance(said, int | float) or said > options.max_temperature:
                return "its temperature is above max_temperature"
        if not options.tool_calls and (tree.get("tools") or tree.get("functions")):
            return "it offers tools"
        if self._shared and below.unmasked:
            return "it was not masked, and others may read what is stored"
        return None
