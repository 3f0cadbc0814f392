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


def both_cases(starts: str) -> bytes:
    """Both cases of some first letters, for patterns under `(?i:...)`."""
    return bytes({ord(c) for s in starts for c in (s.lower(), s.upper())})
