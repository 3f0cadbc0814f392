"""The placeholders of one call: which value each stands for. Lives as long as the call and is never shared."""

from __future__ import annotations

import secrets

from proxy.policies.pii.found import Found
from proxy.policies.pii.grammar import Grammar, canonical, grammar
from proxy.policies.pii.restore import Restorer, restore

_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"


def new_nonce() -> str:
    """Three random characters for the placeholders of a call whose provider may remember older ones."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(3))


class Vault:
    """Values and their placeholders. Same value and type, same placeholder; numbers follow first appearance.

    `reserve` every text of the request first, then ask for placeholders: numbers that a text already uses in anything
    like a placeholder are skipped, so nobody can have another's value put back by writing its token.
    """

    __slots__ = ("_grammar", "_next", "_originals", "_reserved", "_tokens", "nonce")

    def __init__(self, nonce: str | None = None) -> None:
        self.nonce = nonce
        self._tokens: dict[tuple[str, str], str] = {}
        self._originals: dict[tuple[str, int], str] = {}
        self._next: dict[str, int] = {}
        self._reserved: set[tuple[str, int]] = set()
        self._grammar: Grammar | None = None

    def __bool__(self) -> bool:
        return bool(self._originals)

    def __len__(self) -> int:
        return len(self._originals)

    def __repr__(self) -> str:
        return f"<Vault of {len(self._originals)} values>"  # never the values

    def reserve(self, text: str, found: list[Found], types: frozenset[str]) -> None:
        """Skip the numbers that look-alikes in `text` use; `found` is what will be replaced in it."""
        self._look(text, types)
        at = 0
        for one in found:
            # Once a value is replaced its neighbours read differently: `<CARD_1` before `4111...` is CARD_1 then.
            if one.start > at:
                self._look(text[at : one.start], types)
            at = one.end
        if found and at < len(text):
            self._look(text[at:], types)

    def _look(self, text: str, types: frozenset[str]) -> None:
        if "_" not in text:
            return
        alike = grammar(types, "")
        for start in alike.suspect.finditer(text):
            match = alike.full.match(text, start.start())
            if match is not None:
                kind, number, _ = alike.key(match)
                self._reserved.add((kind, number))

    def placeholder(self, kind: str, value: str) -> str:
        """The placeholder for a value, a new one at its first appearance."""
        token = self._tokens.get((kind, value))
        if token is None:
            number = self._next.get(kind, 0) + 1
            while (kind, number) in self._reserved:
                number += 1
            self._next[kind] = number
            token = self._tokens[kind, value] = canonical(kind, number, self.nonce)
            self._originals[kind, number] = value
            self._grammar = None
        return token

    def sibling(self) -> Vault:
        """A vault for what an answer leaks: its numbers go on where these end, so the two never mean each other."""
        other = Vault(self.nonce)
        other._reserved = self._reserved
        other._next = dict(self._next)
        return other

    def original(self, kind: str, number: int, nonce: str | None) -> str | None:
        """The value a placeholder stands for; None if this vault did not issue it."""
        return self._originals.get((kind, number)) if nonce == self.nonce else None

    @property
    def grammar(self) -> Grammar:
        """The grammar of the types that were issued."""
        if self._grammar is None:
            self._grammar = grammar({kind for kind, _ in self._originals}, self.nonce)
        return self._grammar

    def restore(self, text: str, *, escape: bool = False) -> str:
        """The text with its placeholders put back; `escape` inside JSON strings (tool arguments)."""
        if not self._originals:
            return text
        return restore(text, self.grammar, self.original, escape=escape)

    def restorer(self, *, escape: bool = False) -> Restorer:
        """An incremental restorer for one channel of a stream; take one when the request is complete."""
        return Restorer(self.grammar, self.original, escape=escape)
