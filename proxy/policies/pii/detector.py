"""The detector: one linear-time alternation finds candidates, recognizers judge them in small windows.

How it stays fast and linear:

- All enabled patterns are one RE2 program over UTF-8 bytes, run as a DFA (350 to 500 MB/s). It has no capture groups,
  which would cost a second, slower pass for each match; which alternative matched is asked of `re` at that one place.
- A recognizer looks only at a window around its candidate and counts what it looks at (`Scan.spend`). Beyond a limit
  that grows linearly with the text, `WorkExceededError` is raised: the caller refuses the text.
- Offsets are bytes until the end; a text of pure ASCII needs no mapping at all.
- Where a text has a backslash, a copy without JSON's escapes is searched (`escapes`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from proxy.policies.pii.allow import Allow
from proxy.policies.pii.custom import CustomEntities, CustomEntity
from proxy.policies.pii.escapes import Copy, searched
from proxy.policies.pii.found import ENTITY_TYPES, OFF_BY_DEFAULT, Found, resolve
from proxy.policies.pii.keys import key_prefix, whole_value
from proxy.policies.pii.program import UNANCHORED, program
from proxy.policies.pii.recognizers import enabled
from proxy.policies.pii.recognizers.base import Examine, Recognizer
from proxy.policies.pii.recognizers.plain_number import SHORT, SIGNS, is_lone_number, sweeper
from proxy.policies.pii.scan import WORK_EACH, Scan

_MEMORY = 64 << 20
"""Bound of the DFA's state cache, in bytes. It fills as new kinds of text come; a full one is emptied and refilled."""

_Row = tuple[Callable[[bytes, int], "re.Match[bytes] | None"] | None, tuple[tuple[Examine, bool], ...]]
"""For a first byte: the alternatives that can start with it as one `re` with a group each (None where there is but
one), and their judges, each with whether its candidates hold words."""
_NOTHING = (-1, -1)
Finder = Callable[[object, bytes, int, int], list[tuple[int, int]]]


class Detector:
    """Finds the enabled entity types in texts. Built once, immutable, safe to share between calls and threads.

    `entities`: "all" or type names, built-in or custom. `allow`: what is never reported. `custom`: further entities.
    Raises ValueError for an unknown type name.
    """

    __slots__ = ("_allow", "_custom", "_dispatch", "_find", "_find_rest", "_recognizers", "_sweep", "types")

    def __init__(
        self,
        entities: str | Iterable[str] = "all",
        allow: Allow | None = None,
        custom: Iterable[CustomEntity] = (),
    ) -> None:
        extra = tuple(custom)
        known = frozenset(ENTITY_TYPES) | {c.type for c in extra}
        if isinstance(entities, str):
            wanted = known - OFF_BY_DEFAULT if entities == "all" else frozenset({entities})
        else:
            wanted = frozenset(entities)
        if wanted - known:
            unknown = ", ".join(sorted(wanted - known))
            raise ValueError(f"unknown entity type {unknown}; known are {', '.join(sorted(known))}")
        self.types = wanted
        self._allow = allow if allow is not None and allow else None
        own = tuple(c for c in extra if c.type in wanted)
        self._custom = CustomEntities(own) if own else None
        self._recognizers = enabled(wanted)
        self._sweep = sweeper(wanted)
        self._find = _compile(self._recognizers)
        rest = tuple(r for r in self._recognizers if r not in SIGNS)
        self._find_rest = self._find if rest == self._recognizers else _compile(rest)
        self._dispatch: list[_Row | None] = [None] * 256

    def clean(self, texts: Sequence[str]) -> int:
        """How many of the texts, from the first on, surely hold nothing: one look at all of them, 500 MB/s.

        For texts that stand under no JSON key. What it does not vouch for has to be asked of `detect`.
        """
        if self._find is None or self._custom is not None:
            return 0
        # NUL is no letter and no space: what is a candidate in a text is one between two of them as well.
        joined = "\0".join(texts)
        data = searched(joined.encode("utf-8", "surrogatepass"))
        start = self._find(UNANCHORED, data, 0, len(data))[0][0]
        if start < 0:
            count = len(texts)
        elif data.count(b"\0") == len(texts) - 1:
            count = data.count(b"\0", 0, start)
        else:
            return 0  # NUL within a text
        for i in range(count):
            if len(texts[i]) <= SHORT and is_lone_number(texts[i].encode()):
                return i
        return count

    def detect(self, text: str, context: str | None = None) -> list[Found]:
        """What the text holds, in order, without overlaps; offsets in code points.

        `context`: the JSON key the text stood under. Raises `WorkExceededError` if the text cannot be judged in linear
        work; nothing was decided about it then, and it must not be passed on.
        """
        return self.scan(text, context)[0]

    def scan(self, text: str, context: str | None = None) -> tuple[list[Found], int]:
        """As `detect`, and the window bytes that were looked at, for tests of the linear bound."""
        if not text:
            return [], 0
        raw = data = text.encode("utf-8", "surrogatepass")
        copy = None
        if b"\\" in raw:
            copy = Copy(raw)
            data = copy.data
        floor = 0
        if context is not None:
            prefix = key_prefix(context)
            floor = len(prefix)
            data = prefix + data
        find = self._find
        start, end = find(UNANCHORED, data, 0, len(data))[0] if find is not None else _NOTHING
        if start < 0 and context is None and self._custom is None and not is_lone_number(data):
            return [], 0  # the usual text: no candidate in it
        scan = Scan(data, floor)
        if find is not None:
            self._run(scan, find, start, end)
        if context is not None:
            whole_value(scan, context, self.types)
        if self._custom is not None:
            self._custom.run(scan)
        found = resolve(scan.found)
        if copy is not None:
            found = self._in_text(found, copy, floor, raw)
            floor = 0
            if found and len(raw) != len(text):
                found = _to_code_points(found, raw, 0, False)
        elif found and (floor or len(data) != len(text)):
            found = _to_code_points(found, data, floor, len(data) - floor == len(text))
        if found and self._allow is not None:
            found = [one for one in found if not self._allow(one.type, text[one.start : one.end])]
        return found, scan.work

    def _in_text(self, found: list[Found], copy: Copy, floor: int, raw: bytes) -> list[Found]:
        """What was found in the copy, where it stands in the text; and what own patterns find there, which may have a
        backslash in them."""
        if floor or copy.shorter:
            found = [one._replace(start=copy.at(one.start - floor), end=copy.at(one.end - floor)) for one in found]
        if self._custom is None:
            return found
        scan = Scan(raw)
        self._custom.run(scan)
        return resolve([*found, *scan.found]) if scan.found else found

    def _run(self, scan: Scan, find: Finder, start: int, end: int) -> None:
        """Have every candidate judged, from the first on, `start` to `end`; -1 if there is none."""
        data = scan.data
        size = len(data)
        dispatch = self._dispatch
        spoken = False
        while start >= 0:
            scan.spend(WORK_EACH)
            match, judges = dispatch[data[start]] or self._row(data[start])
            if match is None:
                hit = 1
            else:
                chosen = match(data, start)
                hit = chosen.lastindex if chosen is not None and chosen.lastindex else 0
            if hit:
                examine, words = judges[hit - 1]
                if words and not spoken:
                    spoken = True
                    find = self._find_rest or find  # one word that can name a number is as good as many
                at = examine(scan, start, end)
            else:
                at = end if end > start else start + 1  # only if the two engines ever read a pattern differently
            start, end = find(UNANCHORED, data, at, size)[0]
        if self._sweep is not None:
            scan.spoken = spoken
            self._sweep(scan)
        scan.spend(0)

    def _row(self, byte: int) -> _Row:
        """The row of the dispatch table for a first byte, made when first needed: all at once would take 100 ms."""
        chosen = [r for r in self._recognizers if byte in r.starts]
        match = None
        if len(chosen) != 1:
            match = re.compile(b"|".join(b"(" + r.selecting(byte) + b")" for r in chosen) or b"(?!)").match
        row = self._dispatch[byte] = match, tuple((r.examine, not r.pure) for r in chosen)
        return row


def _compile(recognizers: tuple[Recognizer, ...]) -> Finder | None:
    if not recognizers:
        return None
    find: Finder = program(b"|".join(b"(?:" + r.pattern + b")" for r in recognizers), _MEMORY).Match
    return find


def _to_code_points(found: list[Found], data: bytes, floor: int, ascii_only: bool) -> list[Found]:
    """Byte offsets to code points, in one pass over the text between the first and the last span."""
    if ascii_only:
        return [one._replace(start=one.start - floor, end=one.end - floor) for one in found]
    mapped = []
    at, count = floor, 0
    for one in found:
        count += _length(data, at, one.start)
        start = count
        count += _length(data, one.start, one.end)
        at = one.end
        mapped.append(one._replace(start=start, end=count))
    return mapped


_CONTINUATION = bytes(range(0x80, 0xC0))


def _length(data: bytes, start: int, end: int) -> int:
    """Code points in a stretch of UTF-8: all bytes but continuation bytes."""
    piece = data[start:end]
    return len(piece) if piece.isascii() else len(piece.translate(None, _CONTINUATION))
