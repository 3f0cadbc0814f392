"""Bodies that came before: what was found out about one need not be found out again.

A cache answers the call that comes again, and that call has been read, validated and searched for personal data
before, byte for byte. A policy whose ``on_request`` judges the body alone (``Policy.body_alone``) says with
``exchange.seen_through`` that these bytes gave it nothing to do; the chain then passes it by when they come again on
the same path to the same model. A body in which it found something is looked at each time.

The first time a body comes only its hash is put down (most never come again, and a call that misses should not pay
for that), the second time what is found out is kept, and from the third on it is used.

Nothing of a body is kept but a salted hash of it, the name of its model, and figures.
"""

from __future__ import annotations

import os
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Hashable

    from proxy.exchange import Exchange

__all__ = ["LARGEST", "MOST", "Seen", "SeenBodies"]

MOST: Final = 8192
"""Bodies remembered by a chain; the oldest goes first."""
LARGEST: Final = 64 * 1024
"""Bytes of a body that is remembered: a larger one is hashed in vain too often."""
_SALT: Final = os.urandom(blake2b.SALT_SIZE)


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
        self._most = most
        self._known: dict[tuple[bytes, str, str, str | None], Seen | None] = {}

    def __len__(self) -> int:
        return len(self._known)

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
        digest = blake2b(raw, digest_size=16, salt=_SALT).digest()
        key = (digest, request.method, request.path, exchange.target.model)
        known = self._known
        try:
            seen = known[key]
        except KeyError:
            known[key] = None
            if len(known) > self._most:
                del known[next(iter(known))]
            return None
        if seen is None:
            seen = known[key] = Seen()
        if exchange._streaming is not None:
            seen.model, seen.streaming = exchange._model, exchange._streaming
        elif seen.streaming is not None:
            exchange._model, exchange._streaming = seen.model, seen.streaming
        if exchange.estimated_input is None:
            exchange.estimated_input = seen.tokens
        return seen
