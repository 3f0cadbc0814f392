"""Masking what a provider leaks, in a stream: a bounded tail is held back until it is known what stands in it."""

from __future__ import annotations

from collections.abc import Callable

from proxy.policies.pii.detector import Detector
from proxy.policies.pii.found import Found

HOLD = 64
"""Characters that are held back in any case: the longest value with spaces in it, a grouped IBAN, has 42."""
HOLD_MOST = 512
"""Characters that are ever held back: a token without white space is kept together up to here."""
CONTEXT = 64
"""Characters that have left already and are kept to judge what follows by."""

Replace = Callable[[str, list[Found]], str]
"""What stands in the place of the things found in a text."""

_FOOTER = "-----END"


class StreamMasker:
    """Masks one channel of a streamed answer. `feed` each piece, `flush` at the end; both return what may leave.

    At most `HOLD_MOST` characters are held back. A value that grows longer (a private key) is replaced at once, and
    what still comes of it is dropped. Raises `WorkExceededError` as the detector does.
    """

    __slots__ = ("_context", "_dropping", "_find", "_pending", "_replace")

    def __init__(self, detector: Detector, replace: Replace) -> None:
        self._find = detector.detect
        self._replace = replace
        self._context = ""
        self._pending = ""
        self._dropping = ""

    @property
    def held(self) -> int:
        """Characters held back."""
        return len(self._pending)

    def feed(self, piece: str) -> str:
        """What may leave when `piece` has arrived."""
        self._pending += piece
        if self._dropping and not self._drop():
            return ""
        if len(self._pending) <= HOLD:
            return ""
        return self._leave(final=False)

    def flush(self) -> str:
        """What is still held back, masked."""
        if self._dropping and not self._drop():
            self._pending = ""
        return self._leave(final=True) if self._pending else ""

    def _leave(self, *, final: bool) -> str:
        context = len(self._context)
        text = self._context + self._pending
        size = len(text)
        cut = size if final else self._boundary(text, context)
        if cut <= context:
            return ""
        found = [one for one in self._find(text) if one.end > context]
        for one in found:
            if one.start < cut < one.end:
                cut = max(one.start, context)
                if size - cut > HOLD_MOST:
                    cut = size
                    self._dropping = one.type
                break
        if cut <= context:
            return ""
        inside = [
            Found(max(one.start, context) - context, min(one.end, cut) - context, one.type, one.rank)
            for one in found
            if one.start < cut
        ]
        leaving = text[context:cut]
        self._context = text[max(0, cut - CONTEXT) : cut]
        self._pending = text[cut:]
        return self._replace(leaving, inside) if inside else leaving

    @staticmethod
    def _boundary(text: str, context: int) -> int:
        """Where the part ends that is settled: before the last `HOLD` characters, and not inside a token."""
        cut = len(text) - HOLD
        least = max(context, len(text) - HOLD_MOST)
        while cut > least and not text[cut - 1].isspace():
            cut -= 1
        return max(cut, least)

    def _drop(self) -> bool:
        """Drop what belongs to a value already replaced; True when its end was found."""
        if self._dropping == "PRIVATE_KEY":
            at = self._pending.find(_FOOTER)
            end = self._pending.find("-----", at + len(_FOOTER)) if at >= 0 else -1
            if end < 0:
                self._pending = self._pending[max(0, at) if at >= 0 else -len(_FOOTER) :]
                return False
            self._pending = self._pending[end + 5 :]
        else:
            for i, c in enumerate(self._pending):
                if c.isspace() or c in "\"'`,;<>()[]{}":
                    self._pending = self._pending[i:]
                    break
            else:
                self._pending = ""
                return False
        self._dropping = ""
        self._context = ""
        return True
