"""The name of an answer: a keyed hash of everything that changes it.

Equal names must mean equal answers for the same tenant, so everything below goes in as JSON, which no value can
escape: dialect, path and query, target, headers that change answers, the scope, the digest of the policies that edit
bodies (the frame), and the body in canonical form without the fields that only say how the answer travels or who asks.

The frame comes first, so that its hash can be kept with a head that comes again (``proxy.head``) and only the body is
hashed for each call.

Where entries are shared with other processes a name is keyed BLAKE2b, which costs a microsecond; where they live and
die with this one, it is the quick hash of this process (``proxy.quick_hash``).
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

import orjson

from proxy.policies.cache.entry import TAG
from proxy.quick_hash import quick_hash

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from proxy.exchange import Exchange

__all__ = ["KEY", "Frame", "Keyer"]

Frame = tuple[blake2b, bytes]
"""A hash that is not to be added to, and its digest."""

KEY: Final = 16
"""Bytes of a name: 128 bits, keyed, so that nobody can look for two questions with the same name."""
LEFT_OUT: Final = frozenset({"stream", "stream_options", "user", "metadata", "safety_identifier", "prompt_cache_key"})
"""Fields that do not change the answer, unless its dialect repeats them there: nobody is given what another said of
himself."""
_CREDENTIALS: Final = frozenset({"authorization", "x-api-key", "api-key"})
_HEADERS: Final = frozenset({"anthropic-version", "openai-organization", "openai-project"})
_SETTLED: Final = frozenset({"keys", "jwt"})
# Names are a client's to invent: what is remembered is bounded.
_REMEMBERED: Final = 1024
_LONGEST: Final = 256
_SORTED: Final = orjson.OPT_SORT_KEYS
_EXACT: Final = 2.0**53


def _shortest(value: Any) -> Any:
    whole = type(value) is float and value.is_integer() and abs(value) < _EXACT
    return int(value) if whole else value


class Keyer:
    """Makes names.

    secret: 16 to 64 bytes; equal on all replicas that share a store. addresses: of upstreams by name, since a name may
    lead elsewhere tomorrow. rules: what else decides which answers are good enough. shared: other processes must come
    to the same names.
    """

    def __init__(
        self,
        secret: bytes,
        scope: str,
        vary: Iterable[str] = (),
        addresses: Mapping[str, str | None] | None = None,
        *,
        rules: Iterable[str] = (),
        shared: bool = True,
    ) -> None:
        self._addresses = addresses or {}
        self._keyed = blake2b(digest_size=KEY, key=secret[:64])
        self._tag_hash = blake2b(digest_size=TAG, key=secret[:64], person=b"cache tag")
        self._quick = not shared
        self._scope = scope
        self._rules = (scope, *rules)
        self._vary = frozenset(name.lower() for name in vary)
        self._framed_by_head = "content-length" not in self._vary  # it differs where the rest of a head is the same
        self._roles: dict[bytes, str] = {}
        self._tags: dict[tuple[str, str], bytes] = {}
        self._joined: dict[tuple[str | None, str | None, str | None], bytes] = {}

    def name(self, exchange: Exchange, tree: Mapping[str, Any], digest: str) -> bytes:
        """The name of the call's answer. tree: the body at the cache's place. digest: of the policies below."""
        return self.named(self.frame(exchange, digest), exchange, tree)

    def named(self, frame: Frame, exchange: Exchange, tree: Mapping[str, Any]) -> bytes:
        """The same for a frame that is known."""
        if not LEFT_OUT.isdisjoint(tree):
            assert exchange.dialect is not None
            left_out = LEFT_OUT - exchange.dialect.echoes
            tree = {key: value for key, value in tree.items() if key not in left_out}
        model = exchange.target.model
        if model is not None:  # an alias and its model share their answers
            tree = {**tree, "model": model}
        said = orjson.dumps(tree, None, _SORTED)
        if b".0" in said:  # 1.0 and 1 are one number
            said = orjson.dumps({name: _shortest(value) for name, value in tree.items()}, None, _SORTED)
        if self._quick:
            return quick_hash(frame[1] + said)
        hashed = frame[0].copy()
        hashed.update(said)
        return hashed.digest()

    def part(self, base: bytes, item: Any) -> bytes:
        """The name of one input's part of an answer whose other parameters are ``base``."""
        hashed = self._keyed.copy()
        hashed.update(base)
        hashed.update(orjson.dumps(item))
        return hashed.digest()

    def tag(self, kind: str, value: str) -> bytes:
        """A tag of an entry: ``model``, ``project``, or ``tag`` with ``name=value``."""
        found = self._tags.get((kind, value))
        if found is None:
            hashed = self._tag_hash.copy()
            hashed.update(orjson.dumps([kind, value]))
            found = hashed.digest()
            if len(self._tags) < _REMEMBERED and len(value) <= _LONGEST:
                self._tags[(kind, value)] = found
        return found

    def tags(self, exchange: Exchange) -> bytes:
        """The tags of this call's entries, one after the other: the models asked for and sent, the project, the call's
        tags."""
        asked, sent, project = exchange.model_asked, exchange.target.model, exchange.project
        which = (asked, sent, project)
        joined = self._joined.get(which)
        if joined is None:
            out = [self.tag("model", asked)] if asked else []
            if sent and sent != asked:
                out.append(self.tag("model", sent))
            if project:
                out.append(self.tag("project", project))
            joined = b"".join(out)
            if len(self._joined) < _REMEMBERED and len(asked or "") + len(sent or "") + len(project or "") <= _LONGEST:
                self._joined[which] = joined
        if exchange.tags:
            joined += b"".join([self.tag("tag", f"{name}={value}") for name, value in exchange.tags.items()])
        return joined

    def frame(self, exchange: Exchange, digest: str) -> Frame:
        """What a name is made of beside the body. Kept with the head where that may come again."""
        request = exchange.request
        head = request.head
        if head is None or head.sent_up is None or request.edits is not None or not self._framed_by_head:
            return self._hash(self._told(exchange, digest))
        # The head says which dialect.
        who = (self, exchange.principal, exchange.project, exchange.target.upstream, digest)
        known = head.framed
        if known is None or known[0] != who:
            known = head.framed = who, self._hash(self._told(exchange, digest))
        framed: Frame = known[1]
        return framed

    def _hash(self, said: bytes) -> Frame:
        hashed = self._keyed.copy()
        hashed.update(said)
        return hashed, hashed.digest()

    def _told(self, exchange: Exchange, digest: str) -> bytes:
        request, principal = exchange.request, exchange.principal
        roles = self._roles
        # Where no key or token of ours says who asks, whatever credential goes up to the provider does.
        anonymous = self._scope != "global" and principal.method not in _SETTLED
        said: list[tuple[str, str]] = []
        for name, value in request.raw_headers:
            role = roles.get(name)
            if role is None:
                role = self._role(name)
            if role and (role not in _CREDENTIALS or anonymous or role in self._vary):
                said.append((role, value.decode("latin-1")))
        if request.edits is not None:
            said = [pair for pair in said if pair[0] not in request.edits]
            said.extend(
                (role, value)
                for name, value in request.edits.items()
                if value is not None
                and (role := self._role(name.encode("latin-1", "replace")))
                and (role not in _CREDENTIALS or anonymous or role in self._vary)
            )
        if len(said) > 1:
            said.sort()
        who: list[str | None] = []
        if self._scope == "principal":
            who = [principal.id]
        elif self._scope == "project":
            # A project that nobody has checked is only a claim, and to have none is nothing in common: such callers
            # share with themselves at most.
            project = exchange.project
            if principal.method not in _SETTLED:
                who = ["claimed", project, principal.id]
            else:
                who = [project] if project else [None, principal.id]
        assert exchange.dialect is not None
        return orjson.dumps(
            (
                exchange.dialect.name,
                request.raw_path,
                request.query,
                exchange.target.upstream,
                self._addresses.get(exchange.target.upstream),
                digest,
                self._rules,
                who,
                said,
            )
        )

    def _role(self, name: bytes) -> str:
        """The lower-case name of a header that belongs into the name, empty for all others."""
        low = name.lower().decode("latin-1")
        belongs = low in _HEADERS or low.endswith("-beta") or low in self._vary or low in _CREDENTIALS
        role = low if belongs else ""
        if len(self._roles) < _REMEMBERED:
            self._roles[name] = role
        return role
