"""What a recognizer is: an RE2 alternative that finds candidates, and a function that judges one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from proxy.policies.pii.scan import Scan

Examine = Callable[[Scan, int, int], int]
"""`examine(scan, start, end)`: judge the candidate `scan.data[start:end]`, add what is found to the scan, return
the byte offset where the search goes on (greater than `start`)."""


@dataclass(frozen=True, slots=True)
class Recognizer:
    """One way to find entities of some types.

    `pattern` is in the syntax that RE2 and `re` share (no look-around), over bytes, and matches at most a few
    hundred bytes: what a candidate looks like, not the whole value. `starts` are the bytes it may begin with.
    """

    name: str
    types: frozenset[str]
    pattern: bytes
    starts: bytes
    examine: Examine
    selector: bytes = b""
    """A shorter pattern that tells this candidate from the others at its place, where `pattern` is costly for `re`."""
    labels: bytes = b""
    """The alternatives within `pattern` (or `selector`) that a candidate begins with: at a place only those need be
    tried that begin with its byte."""
    pure: bool = False
    """Whether what it takes is the value alone, no words beside it: among words may be one that names a number."""

    def selecting(self, first: int) -> bytes:
        """The pattern that tells this candidate from the others at a place that begins with byte `first`."""
        pattern = self.selector or self.pattern
        if not self.labels or first == 0x5F:  # _, which may stand before a label
            return pattern
        letters = bytes((first,)).lower() + b"([\\"
        kept = [one for one in alternatives(self.labels) if one[:1].lower() in letters]
        return pattern.replace(self.labels, b"|".join(kept), 1) if kept else pattern


def alternatives(pattern: bytes) -> list[bytes]:
    """The alternatives of a pattern, split where `|` stands outside of all brackets."""
    depth, at, parts = 0, 0, []
    for i, c in enumerate(pattern):
        depth += (c in b"([") - (c in b")]")
        if c == 0x7C and depth == 0:
            parts.append(pattern[at:i])
            at = i + 1
    return [*parts, pattern[at:]]


def both_cases(starts: str) -> bytes:
    """Both cases of some first letters, for patterns under `(?i:...)`."""
    return bytes({ord(c) for s in starts for c in (s.lower(), s.upper())})
