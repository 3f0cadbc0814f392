"""The way of an embeddings call: known items from the store, the others in one smaller request."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from proxy.accounting.usage import Usage
from proxy.document import Document
from proxy.errors import ProxyError
from proxy.policies.cache import embeddings, serve
from proxy.policies.cache.call import CURABLE, Call, curable, not_cached
from proxy.policies.cache.entry import EntryError
from proxy.policy import called

if TYPE_CHECKING:
    from proxy.below import Below
    from proxy.dialects.base import Dialect
    from proxy.exchange import Answer, Exchange
    from proxy.policies.cache.control import Control
    from proxy.policies.cache.embeddings import Part
    from proxy.policies.cache.entry import Entry
    from proxy.policies.cache.policy import Cache

__all__ = ["Items"]

_AT_ONCE: Final = 256
"""Items looked up or kept in one turn of the loop (under 1 ms)."""


class Items:
    """The inputs of one request, and what is known of each.

    missing: places (of ``items``) that must be asked for, each distinct input once. request: the smaller body that asks
    for them; None when the caller's own will do.
    """

    __slots__ = ("_policy", "_tree", "age", "items", "known", "missing", "names", "old", "request")

    def __init__(self, policy: Cache, tree: dict[str, Any], items: list[Any], names: list[bytes]) -> None:
        self._policy = policy
        self._tree = tree
        self.items = items
        self.names = names
        self.known: dict[bytes, Part] = {}
        self.old: dict[bytes, tuple[Part, float]] = {}
        self.missing: list[int] = []
        self.request: Document | None = None
        self.age = 0.0

    @classmethod
    def of(cls, policy: Cache, exchange: Exchange, tree: dict[str, Any], digest: str) -> Items | None:
        """None when the input has no shape that can be taken apart."""
        items = embeddings.batch_of(tree)
        if items is None:
            return None
        base = policy.shelf.keys.name(exchange, {key: value for key, value in tree.items() if key != "input"}, digest)
        return cls(policy, tree, items, [policy.shelf.keys.part(base, item) for item in items])

    async def answer(self, exchange: Exchange, below: Below, dialect: Dialect, control: Control) -> Answer | None:
        """The whole answer, of parts from the store and from the provider. None: the provider is asked for all."""
        policy = self._policy
        if not control.fetch:
            await self._look(control.max_age)
        if policy.observe:
            policy.figures.would_hit += len(self.known) == len(set(self.names))
            return policy.pass_by(exchange)
        self._ask_for({name for name in self.names if name not in self.known})
        if not self.missing:
            policy.figures.hits += 1
            exchange.cache_status = "hit"
            return self._from(exchange, self.known)
        within = policy.options.stale_while_revalidate
        if control.keep and control.max_age is None and (parts := self._with_old(within)) is not None:
            policy.figures.stale += 1
            exchange.cache_status = "stale"
            policy.revalidate(Call(exchange, below, dialect, control, self._name, self))
            return self._from(exchange, parts)
        if control.only_cached:
            raise not_cached("not all of its inputs are stored")
        return await self._fetched(Call(exchange, below, dialect, control, self._name, self))

    async def _fetched(self, call: Call) -> Answer | None:
        policy, exchange = self._policy, call.exchange
        within = policy.options.stale_if_error
        parts = self._with_old(within) if call.control.max_age is None else None
        answer: Answer | None = None
        try:
            answer = await called(policy.fly(call, back=parts is not None or self.request is not None))
            if answer is None:
                return None
        except ProxyError as error:
            if error.code not in CURABLE or parts is None:
                raise
        if answer is None or (parts is not None and curable(answer)):
            assert parts is not None
            policy.figures.stale += 1
            exchange.cache_status = "stale"
            exchange.served_by = exchange.error = None
            return self._from(exchange, parts)
        if self.request is None or answer.status != 200 or answer.body is None:
            return answer
        found = embeddings.parts_of(answer.body.lenient(), [self.items[place] for place in self.missing])
        if found is None:
            raise ProxyError("upstream_invalid_response", "The upstream's embeddings do not fit its inputs.")
        fresh = {self.names[place]: part for place, part in zip(self.missing, found, strict=True)}
        answer.body = Document(embeddings.merged([fresh.get(name) or self.known[name] for name in self.names]))
        return answer

    def keep(self, tree: Any, tags: bytes) -> None:
        """Store what was brought, over several turns of the loop when it is much."""
        asked = self.missing if self.request is not None else range(len(self.items))
        parts = embeddings.parts_of(tree, [self.items[place] for place in asked])
        if parts is not None:
            self._keep([(self.names[place], part) for place, part in zip(asked, parts, strict=True)], tags)

    def _keep(self, parts: list[tuple[bytes, Part]], tags: bytes) -> None:
        policy = self._policy
        now, ttl = policy.services.clock.now(), policy.options.ttl
        for name, part in parts[:_AT_ONCE]:
            policy.shelf.keep(name, embeddings.entry_of(part, now, ttl), tags)
        if len(parts) > _AT_ONCE:
            asyncio.get_running_loop().call_soon(self._keep, parts[_AT_ONCE:], tags)

    @property
    def _name(self) -> bytes:
        """The name of the request for what is missing."""
        return self._policy.shelf.keys.part(b"batch", [self.names[place].hex() for place in self.missing])

    async def _look(self, max_age: float | None) -> None:
        policy = self._policy
        names = list(dict.fromkeys(self.names))
        for start in range(0, len(names), _AT_ONCE):
            some = names[start : start + _AT_ONCE]
            if policy.shelf.store.far:
                for name, entry in zip(some, await asyncio.gather(*map(policy.shelf.find, some)), strict=True):
                    self._found(name, entry, max_age)
            else:
                for name in some:
                    self._found(name, await policy.shelf.find(name), max_age)
            if start + _AT_ONCE < len(names):
                await asyncio.sleep(0)

    def _found(self, name: bytes, entry: Entry | None, max_age: float | None) -> None:
        if entry is None:
            return
        try:
            part = embeddings.part_of(entry)
        except EntryError:
            self._policy.shelf.damaged(name)
            return
        age = max(0.0, self._policy.services.clock.now() - entry.stored_at)
        if (age < entry.fresh_for) if max_age is None else age <= min(max_age, entry.fresh_for):
            self.known[name] = part
            self.age = max(self.age, age)
        else:
            self.old[name] = (part, age - entry.fresh_for)

    def _ask_for(self, names: set[bytes]) -> None:
        for place, name in enumerate(self.names):
            if name in names:
                names.discard(name)
                self.missing.append(place)
        if self.missing and len(self.missing) < len(self.items):
            asked = [self.items[place] for place in self.missing]
            self.request = Document.of({**self._tree, "input": asked})

    def _with_old(self, within: float) -> dict[bytes, Part] | None:
        """All parts, with those that are not fresh but not older than ``within`` seconds beyond; None if one lacks."""
        if not within:
            return None
        parts = dict(self.known)
        for place in self.missing:
            name = self.names[place]
            part, over = self.old.get(name, (None, 0.0))
            if part is None or over >= within:
                return None
            parts[name] = part
            self.age = max(self.age, over + self._policy.options.ttl)
        return parts

    def _from(self, exchange: Exchange, parts: Mapping[bytes, Part]) -> Answer:
        self._save(exchange, parts.values())
        return serve.whole(embeddings.merged([parts[name] for name in self.names]), self.age)

    def _save(self, exchange: Exchange, parts: Any) -> None:
        exchange.saved_usage = Usage(input=sum(part.tokens for part in parts))
