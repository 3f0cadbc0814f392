"""Bodies that came before: what was found out about one need not be found out again.

A cache answers the call that comes again, and that call has been read, validated and searched for personal data
before, byte for byte. A policy whose ``on_request`` judges the body alone (``Policy.body_alone``) says with
``exchange.seen_through`` that these bytes gave it nothing to do; the chain then passes it by when they come again on
the same path to the same model. A body in which it found something is looked at each time.

The first time a body comes only Python's own quick hash of it is put down (most never come again, and a call that
misses should not pay for that), the second time what is found out is kept, and from the third on it is used.

What is kept stands under 128 bits that nobody can forge: that hash and another one behind a salt of this process. Both
are SipHash, keyed by chance; a digest would cost a microsecond, a thirtieth of a hit. (An interpreter that was built
with a weaker hash makes a digest.)

Nothing of a body is kept but such hashes of it, the name of its model, and figures. What is remembered stands in two
generations: when the young one is full, it becomes the old one, whose bodies are forgotten. (To take the oldest out of
one dictionary, again and again, means to search from its beginning past all that was taken out before.)
"""

from __future__ import annotations

import os
import sys
from collections.abc import Hashable
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from proxy.exchange import Exchange

__all__ = ["LARGEST", "MOST", "Seen", "SeenBodies"]

MOST: Final = 8192
"""Bodies remembered by a chain; the older half goes first."""
LARGEST: Final = 64 * 1024
"""Bytes of a body that is remembered: a larger one is hashed in vain too often."""
_Key = tuple[Hashable, Hashable, str, str, str | None]
_SALT: Final = os.urandom(blake2b.SALT_SIZE)
_KEYED: Final = sys.hash_info.algorithm.startswith("siphash")
"""Whether Python's own hash is one that is made to withstand who wants two texts to have the same."""


class Seen:
    """What is known of one body. passed: the policies that it gives nothing to do. facts: what others worked out of
    it, by whom. streaming: None until somebody asked."""

    __slots__ = ("facts", "model", "passed", "streaming", "tokens")

    def __init__(self) -> None:
        self.passed: tuple[object, ...] = ()
        self.facts: dict[Hashable, Any] = {}
        self.model: str | None = None
        self.streaming: bool | None = None
        self.tokens: int | None = None


class SeenBodies:
    """The bodies that one chain remembers."""

    def __init__(self, most: int = MOST) -> None:
        self._half = max(1, most // 2)
        self._came: set[int] = set()
        self._came_before: set[int] = set()
        self._known: dict[_Key, Seen] = {}
        self._known_before: dict[_Key, Seen] = {}

    def __len__(self) -> int:
        return len(self._known) + len(self._known_before)

    def of(self, exchange: Exchange) -> Seen | None:
        """What is known of this call's body, which nobody has edited yet; None when it came for the first time or is
        not to be remembered."""
        request = exchange.request
        body = request.body
        if body is None or body.edited:
            return None
        raw = body.encode()
        if not 0 < len(raw) <= LARGEST:
            return None
        mark = hash(raw)
        if mark not in self._came:
            new = mark not in self._came_before
            if len(self._came) >= self._half:
                self._came, self._came_before = set(), self._came
            self._came.add(mark)
            if new:
                return None
        mark_too = hash(_SALT + raw) if _KEYED else blake2b(raw, digest_size=16, salt=_SALT).digest()
        key = (mark, mark_too, request.method, request.path, exchange.target.model)
        seen = self._known.get(key) or self._remember(key)
        if exchange._streaming is not None:
            seen.model, seen.streaming = exchange._model, exchange._streaming
        elif seen.streaming is not None:
            exchange._model, exchange._streaming = seen.model, seen.streaming
        if exchange.estimated_input is None:
            exchange.estimated_input = seen.tokens
        return seen

    def _remember(self, key: _Key) -> Seen:
        """Of a body that is not among the young ones."""
        if len(self._known) >= self._half:
            self._known, self._known_before = {}, self._known
        seen = self._known[key] = self._known_before.pop(key, Seen())
        return seen
