"""Putting values back: in whole texts, and piece by piece in the channels of a stream.

The stream and the whole text give the same result, however the stream is cut: at every place where a placeholder
may begin, the rest of what has arrived either is one, cannot become one, or is held back until that is known.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from proxy.policies.pii.grammar import Grammar

Lookup = Callable[[str, int, str | None], str | None]
"""The value of a placeholder (type, number, nonce); None if it was not issued."""


def _escaped(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)[1:-1]


def restore(text: str, grammar: Grammar, lookup: Lookup, *, escape: bool = False) -> str:
    """The text with every issued placeholder replaced by its value; the same object if there is none."""
    if not any(mark in text for mark in grammar.marks):
        return text
    parts: list[str] = []
    at = 0
    match_at = grammar.full.match
    for suspect in grammar.suspect.finditer(text):
        start = suspect.start()
        if start < at:
            continue
        match = match_at(text, start)
        if match is None:
            continue
        value = lookup(*grammar.key(match))
        if value is not None:
            parts.append(text[at:start])
            parts.append(_escaped(value) if escape else value)
            at = match.end()
    if not parts:
        return text
    parts.append(text[at:])
    return "".join(parts)


class Restorer:
    """Restores one channel of a stream. `feed` each piece, `flush` at the end; both return what may leave."""

    __slots__ = ("_escape", "_full", "_grammar", "_held", "_last", "_lookup", "_partial", "_search")

    def __init__(self, grammar: Grammar, lookup: Lookup, *, escape: bool = False) -> None:
        self._grammar = grammar
        self._full = grammar.full.match
        self._partial = grammar.partial.match
        self._search = grammar.suspect.search
        self._lookup = lookup
        self._escape = escape
        self._held = ""
        self._last = ""

    @property
    def held(self) -> int:
        """Characters held back, never more than `grammar.longest`."""
        return len(self._held)

    def feed(self, piece: str) -> str:
        """What leaves when `piece` has arrived. The piece itself, not a copy, if nothing in it is of interest."""
        if not piece:
            return piece
        last = self._last
        if not self._held and self._search(last + piece if last else piece, len(last)) is None:
            self._last = piece[-1]
            return piece
        return self._run(last + self._held + piece, len(last), final=False)

    def flush(self) -> str:
        """What is still held back, restored as far as it is complete."""
        if not self._held:
            return ""
        last = self._last
        return self._run(last + self._held, len(last), final=True)

    def _run(self, text: str, at: int, *, final: bool) -> str:
        # text[0] may be the last character that left: what stands before a bare placeholder decides about it.
        parts: list[str] = []
        begin = at
        while True:
            suspect = self._search(text, begin)
            if suspect is None:
                end = len(text)
                break
            start = suspect.start()
            match = self._full(text, start)
            # One that is closed cannot go on: `>` is nothing but the end of a placeholder.
            closed = match is not None and text[match.end() - 1] == ">"
            if not closed and not final and self._partial(text, start) is not None:
                end = start
                break
            value = self._lookup(*self._grammar.key(match)) if match is not None else None
            if value is None or match is None:
                begin = start + 1
                continue
            parts.append(text[at:start])
            parts.append(_escaped(value) if self._escape else value)
            at = begin = match.end()
        parts.append(text[at:end])
        self._held = text[end:]
        self._last = text[end - 1] if end else ""
        return "".join(parts)
