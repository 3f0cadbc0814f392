"""The state of one `detect` call: the bytes, what was found, and how much small-window work was spent."""

from __future__ import annotations

import re2
from re2 import _re2

from proxy.policies.pii.found import Found

WORK_FREE = 65_536
"""Window bytes any text may cost, however short it is."""
WORK_PER_BYTE = 24
"""Window bytes each byte of text adds to that; dense real data (a CSV of contacts) needs about 6."""

_START = _re2.RE2.Anchor.ANCHOR_START
_SPACED = bytes.maketrans(b"_", b" ")
_DELIMITERS = b";,\t|"


class WorkExceededError(Exception):
    """A text holds more candidates than a linear amount of work can verify.

    Detection fails closed: the caller must refuse the text or mask it whole, never pass it on.
    """


class Scan:
    """One text under inspection, as UTF-8 bytes. Offsets here are byte offsets."""

    __slots__ = ("_header", "data", "floor", "found", "limit", "lone", "named", "named_at", "pem_end", "work")

    def __init__(self, data: bytes, floor: int = 0) -> None:
        self.data = data
        self.floor = floor
        """Bytes before it are the JSON key the text stood under; nothing there is reported."""
        self.found: list[Found] = []
        self.work = 0
        self.limit = WORK_FREE + WORK_PER_BYTE * len(data)
        self.pem_end = -2
        """Where the next PEM footer is: -2 not looked for yet, -1 there is none."""
        self.lone: bool | None = None
        self.named_at = -1
        self.named = False
        """Whether the words before the digit run at `named_at` speak of a phone: all cuts of a run share them."""
        self._header: bytes | None = None

    def spend(self, size: int) -> None:
        """Count `size` bytes of window work; `WorkExceededError` beyond the linear limit."""
        self.work += size
        if self.work > self.limit:
            raise WorkExceededError(f"more candidates than {len(self.data)} bytes of text may hold")

    def add(self, start: int, end: int, kind: str, rank: int) -> None:
        if start >= self.floor and end > start:
            self.found.append(Found(start, end, kind, rank))

    def before(self, start: int, size: int = 48) -> bytes:
        """Up to `size` bytes before `start`, in lower case, `_` as space."""
        self.work += size
        if self.work > self.limit:
            self.spend(0)
        window = self.data[start - size if start > size else 0 : start].lower()
        return window.translate(_SPACED) if b"_" in window else window

    def after(self, end: int, size: int = 16) -> bytes:
        self.spend(size)
        return self.data[end : end + size].lower().translate(_SPACED)

    def column(self, start: int) -> bytes:
        """The head of the column that `start` stands in, when the text looks like delimited rows; else b""."""
        data = self.data
        line = data.rfind(b"\n", start - 400 if start > 400 else 0, start) + 1
        if line == 0:
            return b""
        self.spend(128)
        row = data[line:start]
        if self._header is None:
            stop = data.find(b"\n", 0, 512)
            self._header = data[:stop] if stop > 0 else b""
        for i in _DELIMITERS:
            cells = row.count(i)
            if cells:
                heads = self._header.split(bytes((i,)))
                return heads[cells].lower() if len(heads) > cells else b""
        return b""

    def is_lone(self, start: int, end: int) -> bool:
        """True if nothing but white space stands around the span: a text that is this one value."""
        if self.lone is None:
            self.lone = not self.floor and len(self.data) <= 64
        return self.lone and not self.data[:start].strip() and not self.data[end:].strip()


class Words:
    """Context words, looked for in a window from `before`: whole words, the last one counts.

    `alternatives`: patterns separated by `|`, in Latin-1 (bytes of UTF-8 as `\\xNN`), each without a `|` of its own.
    """

    __slots__ = ("_match",)

    def __init__(self, alternatives: str) -> None:
        options = re2.Options()
        options.encoding = re2.Options.Encoding.LATIN1
        options.never_capture = True
        options.dot_nl = True
        # The greedy head makes the end of the match the end of the last word, without captures: 0.6 us a window.
        body = "|".join(rf"\b(?:{a})" + (r"\b" if a[-1].isalnum() else "") for a in alternatives.split("|"))
        program = _re2.RE2(f".*(?:{body})".encode("latin-1"), options)
        if not program.ok():
            raise ValueError(f"context words do not compile: {program.error()}")
        self._match = program.Match

    def last(self, window: bytes) -> int:
        """Where the last of the words ends in the window; -1 if there is none."""
        end: int = self._match(_START, window, 0, len(window))[0][1]
        return end

    def any(self, window: bytes) -> bool:
        return self.last(window) >= 0
