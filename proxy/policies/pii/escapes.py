"""JSON's escapes in a text that is judged as it stands: `\\n4111...` is a card behind a line break, not behind an `n`.

A text may be JSON (a tool's result, arguments that do not parse), hold some, or only have a backslash in it, and nobody
says which. What is searched is a copy in which escapes are what they stand for. Short ones leave a blank where the
backslash was, so that offsets stay; `\\"`, `\\/` and `\\u0040` stand within values and beside them, so there the copy
is shorter, and `Copy.at` leads back. Texts without a backslash pay nothing.
"""

from __future__ import annotations

import re
from bisect import bisect_right

_BLANKED = (
    (b"\\n", b" \n"),
    (b"\\t", b" \t"),
    (b"\\r", b" \r"),
    (b"\\b", b"  "),
    (b"\\f", b"  "),
)
_INNER = re.compile(rb'(?<!\\)\\++(?:(["/])|u([0-9a-fA-F]{4}))')
"""A run of backslashes counts as one: so it is where JSON stands in JSON."""
_LINES = (0x0A, 0x0D)


class Copy:
    """What is searched in the place of a text with backslashes, as UTF-8."""

    __slots__ = ("_ends", "_removed", "data", "shorter")

    def __init__(self, data: bytes) -> None:
        self._ends: list[int] = []
        self._removed: list[int] = []
        if b'\\"' in data or b"\\/" in data or b"\\u" in data:
            data = self._shortened(data)
        self.shorter = bool(self._ends)
        """Whether offsets in the copy are other offsets in the text."""
        for escape, blank in _BLANKED:
            data = data.replace(escape, blank)
        self.data = data

    def at(self, offset: int) -> int:
        """The byte offset in the text of one in the copy."""
        passed = bisect_right(self._ends, offset)
        return offset + self._removed[passed - 1] if passed else offset

    def _shortened(self, data: bytes) -> bytes:
        pieces: list[bytes] = []
        last = size = removed = 0
        for match in _INNER.finditer(data):
            start, end = match.span()
            char = match[1] or _char(int(match[2], 16))
            pieces += (data[last:start], char)
            size += start - last + len(char)
            removed += end - start - len(char)
            self._ends.append(size)
            self._removed.append(removed)
            last = end
        pieces.append(data[last:])
        return b"".join(pieces)


def _char(code: int) -> bytes:
    if code < 0x20:  # never NUL, which stands between texts that are searched as one
        return b"\n" if code in _LINES else b" "
    if 0xD800 <= code < 0xE000:  # half of a character that no value has in it
        return b" "
    return chr(code).encode()


def searched(data: bytes) -> bytes:
    """The copy alone, for who only asks whether there is anything."""
    return Copy(data).data if b"\\" in data else data
