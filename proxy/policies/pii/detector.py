"""The detector: one linear-time alternation finds candidates, recognizers judge them in small windows.

How it stays fast and linear:

- All enabled patterns are one RE2 program over UTF-8 bytes, run as a DFA (350 to 500 MB/s). It has no capture groups,
  which would cost a second, slower pass for each match; which alternative matched is asked of `re` at that one place.
- A recognizer looks only at a window around its candidate and counts what it looks at (`Scan.spend`). Beyond a limit
  that grows linearly with the text, `WorkExceededError` is raised: the caller refuses the text.
- Offsets are bytes until the end; a text of pure ASCII needs no mapping at all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

import re2
from re2 import _re2

from proxy.policies.pii.allow import Allow
from proxy.policies.pii.custom import CustomEntities, CustomEntity
from proxy.policies.pii.found import ENTITY_TYPES, OFF_BY_DEFAULT, Found, resolve
from proxy.policies.pii.keys import key_prefix, whole_value
from proxy.policies.pii.recognizers import enabled
from proxy.policies.pii.recognizers.base import Examine, Recognizer
from proxy.policies.pii.scan import Scan

_UNANCHORED = _re2.RE2.Anchor.UNANCHORED
_MEMORY = 64 << 20
"""Bound of the DFA's state cache, in bytes. It fills as new kinds of text come; a full one is emptied and refilled."""

_NEVER = re.compile(rb"(?!)")
_Row = tuple[Callable[[bytes, int], "re.Match[bytes] | None"], tuple[Examine, ...]]
"""For a first byte: the alternatives that can start with it as one `re` with a group each, and their judges."""
Finder = Callable[[object, bytes, int, int], list[tuple[int, int]]]


class Detector:
    """Finds the enabled entity types in texts. Built once, immutable, safe to share between calls and threads.

    `entities`: "all" or type names, built-in or custom. `allow`: what is never reported. `custom`: further entities.
    Raises ValueError for an unknown type name.
    """

    __slots__ = ("_allow", "_custom", "_dispatch", "_find", "_program", "_recognizers", "types")

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
        self._custom = CustomEntities(tuple(c for c in extra if c.type in wanted))
        self._recognizers = enabled(wanted)
        self._program = _compile(self._recognizers)
        self._find: Finder | None = self._program.Match if self._program is not None else None
        self._dispatch: list[_Row | None] = [None] * 256

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
        data = text.encode("utf-8", "surrogatepass")
        floor = 0
        if context is not None:
            prefix = key_prefix(context)
            floor = len(prefix)
            data = prefix + data
        scan = Scan(data, floor)
        if self._find is not None:
            self._run(scan, self._find)
        if context is not None:
            whole_value(scan, context, self.types)
        if self._custom:
            self._custom.run(scan)
        found = resolve(scan.found)
        if found and (floor or len(data) != len(text)):
            found = _to_code_points(found, data, floor, len(data) - floor == len(text))
        if found and self._allow is not None:
            found = [one for one in found if not self._allow(one.type, text[one.start : one.end])]
        return found, scan.work

    def _run(self, scan: Scan, find: Finder) -> None:
        data = scan.data
        size = len(data)
        dispatch = self._dispatch
        at = 0
        while True:
            start, end = find(_UNANCHORED, data, at, size)[0]
            if start < 0:
                return
            scan.work += 16
            row = dispatch[data[start]] or self._row(data[start])
            hit = row[0](data, start)
            if hit is not None and hit.lastindex is not None:
                at = row[1][hit.lastindex - 1](scan, start, end)
            else:
                at = max(end, at + 1)  # only if the two engines ever read a pattern differently
            if scan.work > scan.limit:
                scan.spend(0)

    def _row(self, byte: int) -> _Row:
        """The row of the dispatch table for a first byte, made when first needed: all at once would take 250 ms."""
        chosen = [r for r in self._recognizers if byte in r.starts]
        pattern = re.compile(b"|".join(b"(" + (r.selector or r.pattern) + b")" for r in chosen)) if chosen else _NEVER
        row = pattern.match, tuple(r.examine for r in chosen)
        for other in range(256):
            if [r for r in self._recognizers if other in r.starts] == chosen:
                self._dispatch[other] = row
        return row


def _compile(recognizers: tuple[Recognizer, ...]) -> _re2.RE2 | None:
    if not recognizers:
        return None
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1  # bytes: UTF-8 sequences are written out where they matter
    options.never_capture = True
    options.max_mem = _MEMORY
    options.log_errors = False
    program = _re2.RE2(b"|".join(b"(?:" + r.pattern + b")" for r in recognizers), options)
    if not program.ok():
        raise ValueError(f"the combined pattern does not compile: {program.error()}")
    return program


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
