"""Bodies that came before: what was found out about one need not be found out again.

A cache answers the call that comes again, and that call has been read, validated and searched for personal data
before, byte for byte. A policy whose ``on_request`` judges the body alone (``Policy.body_alone``) says with
``exchange.seen_through`` that these bytes gave it nothing to do; the chain then passes it by when they come again on
the same path to the same model. A body in which it found something is looked at each time.

Most bodies never come again, and a call that misses should not pay for those that do. So nothing is put down before
the cache has found a call's answer and says so (``came_again``); the next time what is found out is kept, and from then
on it is used. What is kept stands under 128 bits that nobody can forge (``proxy.quick_hash``).

Nothing of a body is kept but such hashes of it, the name of its model, and figures. What is remembered stands in two
generations: when the young one is full, it becomes the old one, whose bodies are forgotten. (To take the oldest out of
one dictionary, again and again, means to search from its beginning past all that was taken out before.)
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any, Final

from proxy.quick_hash import quick_hash

if TYPE_CHECKING:
    from proxy.exchange import Exchange

__all__ = ["LARGEST", "MOST", "Seen", "SeenBodies"]

MOST: Final = 8192
"""Bodies remembered by a chain; the older half goes first."""
LARGEST: Final = 64 * 1024
"""Bytes of a body that is remembered: a larger one is hashed in vain too often."""
_Key = tuple[bytes, str, str, str | None]


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
        """What is known of this call's body, which nobody has edited yet; None when it is not one that comes again, or
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
            if mark not in self._came_before:
                return None
            self._came_again(mark)
        key = (quick_hash(raw), request.method, request.path, exchange.target.model)
        seen = self._known.get(key) or self._remember(key)
        if exchange._streaming is not None:
            seen.model, seen.streaming = exchange._model, exchange._streaming
        elif seen.streaming is not None:
            exchange._model, exchange._streaming = seen.model, seen.streaming
        if exchange.estimated_input is None:
            exchange.estimated_input = seen.tokens
        return seen

    def came_again(self, exchange: Exchange) -> None:
        """This call's answer was found: its body is one that comes again."""
        body = exchange.request.body
        if body is None or body.edited:
            return
        raw = body.encode()
        if 0 < len(raw) <= LARGEST:
            self._came_again(hash(raw))

    def _came_again(self, mark: int) -> None:
        if len(self._came) >= self._half:
            self._came, self._came_before = set(), self._came
        self._came.add(mark)

    def _remember(self, key: _Key) -> Seen:
        """Of a body that is not among the young ones."""
        if len(self._known) >= self._half:
            self._known, self._known_before = {}, self._known
        seen = self._known[key] = self._known_before.pop(key, Seen())
        return seen
