"""The way of an embeddings call: known items from the store, the others in one smaller request."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from proxy.accounting.usage import Usage, estimate_tokens
from proxy.document import Document
from proxy.errors import ProxyError
from proxy.policies.cache import embeddings, serve
from proxy.policies.cache.call import CURABLE, Call, curable, not_cached
from proxy.policies.cache.entry import Entry, EntryError
from proxy.policies.cache.entry import packed as is_packed
from proxy.policies.cache.lru import START
from proxy.policies.cache.pace import EACH, TURN, Pace
from proxy.policy import called

if TYPE_CHECKING:
    from proxy.below import Below
    from proxy.dialects.base import Dialect
    from proxy.exchange import Answer, Exchange
    from proxy.policies.cache.control import Control
    from proxy.policies.cache.embeddings import Part, Row
    from proxy.policies.cache.policy import Cache

__all__ = ["Items"]

_PACKED: Final = 1024 * 1024
"""Compressed bytes that one visit to a thread unpacks."""


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
            if not control.only_cached:
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
            if answer is not None and answer.source is not None:
                answer.source.abort()
            policy.figures.stale += 1
            exchange.cache_status = "stale"
            call.forget_failure()
            return self._from(exchange, parts)
        if self.request is None or answer.status != 200:
            return answer
        served = exchange.served_by
        if self.known and served is not None and served.target != call.target:
            return await self._all_of_another(call, answer)
        rows = embeddings.rows_of(_tree_of(answer), [self.items[place] for place in self.missing])
        if rows is None:
            raise ProxyError("upstream_invalid_response", "The upstream's embeddings do not fit its inputs.")
        all_parts = dict(self.known)
        pace = Pace()
        for place, row in zip(self.missing, rows, strict=True):
            part = row.part()
            if part is None:
                raise ProxyError("upstream_invalid_response", "The upstream's embeddings are no numbers.")
            all_parts[self.names[place]] = part
            await pace.took(len(part.body))
        self._save(exchange, self.known)
        answer.body = Document(embeddings.merged([all_parts[name] for name in self.names]))
        answer.raw = answer.source = answer.content_length = None
        answer.set_header(*serve.JSON)
        return answer

    async def _all_of_another(self, call: Call, answer: Answer) -> Answer:
        """Another target answered for what is missing: its vectors and those that are known are not of one model. So
        all are asked for. The call pays for both."""
        exchange = call.exchange
        if answer.source is not None:
            answer.source.abort()
        before = exchange.flight_of
        mine = before is not None and before.attempts is exchange.attempts  # else another call pays for that
        call.forget_failure()
        try:
            return await call.below.start(shared=False).join(exchange)
        finally:
            if mine and before is not None and before.attempts is not exchange.attempts:
                before.attempts += exchange.attempts
                exchange.attempts = before.attempts

    def keep(self, tree: Any, tags: bytes) -> None:
        """Store what was brought, over several turns of the loop when it is much."""
        asked = self.missing if self.request is not None else range(len(self.items))
        rows = embeddings.rows_of(tree, [self.items[place] for place in asked])
        if rows is not None:
            named = zip((self.names[place] for place in asked), rows, strict=True)
            self._keep(named, tags, self._policy.shelf.store.epoch)

    def _keep(self, rows: Iterator[tuple[bytes, Row]], tags: bytes, epoch: int) -> None:
        policy = self._policy
        if policy.shelf.store.epoch != epoch:
            return  # it was cleared between two turns
        now, ttl = policy.services.clock.now(), policy.options.ttl
        entries: list[tuple[bytes, Entry]] = []
        left = TURN
        for name, row in rows:
            part = row.part()
            if part is not None:
                entries.append((name, embeddings.entry_of(part, now, ttl)))
                left -= len(part.body)
            left -= EACH
            if left <= 0:
                break
        if entries:
            policy.shelf.keep_all(entries, tags)
        if left <= 0:
            asyncio.get_running_loop().call_soon(self._keep, rows, tags, epoch)

    @property
    def _name(self) -> bytes:
        """The name of the request for what is missing."""
        return self._policy.shelf.keys.part(b"batch", [self.names[place].hex() for place in self.missing])

    async def _look(self, max_age: float | None) -> None:
        store, pace = self._policy.shelf.store, Pace()
        packed: list[tuple[bytes, bytes]] = []
        unknown: list[bytes] = []
        for name in dict.fromkeys(self.names):
            found = store.look(name)
            if found is None:
                unknown.append(name)
            await self._read(name, found, packed, pace, max_age)
        if unknown and store.far:
            for name, found in zip(unknown, await store.fetch_many(unknown), strict=True):
                await self._read(name, found, packed, pace, max_age)
        await self._unpack(packed, max_age)

    async def _read(
        self,
        name: bytes,
        found: bytes | None,
        packed: list[tuple[bytes, bytes]],
        pace: Pace,
        max_age: float | None,
    ) -> None:
        if found is None:
            await pace.took(0)
        elif is_packed(found, START):
            packed.append((name, found))
            if sum(len(one) for _, one in packed) > _PACKED:
                await self._unpack(packed, max_age)
        else:
            self._found(name, self._policy.shelf.read(name, found), max_age)
            await pace.took(len(found))

    async def _unpack(self, packed: list[tuple[bytes, bytes]], max_age: float | None) -> None:
        """Reads what is compressed, in a thread; the list is empty then."""
        if not packed:
            return
        read = await asyncio.get_running_loop().run_in_executor(None, lambda: [_entry(found) for _, found in packed])
        for (name, _), entry in zip(packed, read, strict=True):
            if entry is None:
                self._policy.shelf.damaged(name)
            self._found(name, entry, max_age)
        packed.clear()

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
        self._save(exchange, parts)
        return serve.whole(embeddings.merged([parts[name] for name in self.names]), self.age)

    def _save(self, exchange: Exchange, parts: Mapping[bytes, Part]) -> None:
        """What these parts would have used is saved, beside what a shared flight has saved this caller."""
        if not parts:
            return
        tokens, estimated = 0, False
        for name, item in dict(zip(self.names, self.items, strict=True)).items():
            part = parts.get(name)
            if part is None:
                continue
            if part.tokens is None:
                tokens += estimate_tokens(item) if type(item) is str else len(item)
                estimated = True
            else:
                tokens += part.tokens
        saved = Usage(input=tokens, estimated=estimated)
        exchange.saved_usage = saved if exchange.saved_usage is None else exchange.saved_usage + saved


def _tree_of(answer: Answer) -> Any:
    """The JSON of an answer, whatever type it says it has; None when it came as a stream or is none."""
    if answer.source is not None:
        answer.source.abort()
    document = answer.body or (None if answer.raw is None else Document(answer.raw))
    return None if document is None else document.lenient()


def _entry(found: bytes) -> Entry | None:
    try:
        return Entry.decode(found, START)
    except EntryError:
        return None
