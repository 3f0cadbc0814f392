"""A run of digits that is more than one number, part by part.

Where words name the run any grouping goes, the longest first. In all others only groupings are offered that some type
is written in; behind the first bytes a program of their own finds them, so that a table of numbers costs next to
nothing.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from typing import Final

from proxy.policies.pii.program import UNANCHORED, program
from proxy.policies.pii.recognizers.base import Examine
from proxy.policies.pii.recognizers.digits import (
    BETWEEN,
    DATE,
    LONGEST,
    MOST,
    SEPARATOR,
    Form,
    form_of,
    is_none,
    may_be_national,
)
from proxy.policies.pii.recognizers.luhn import luhn
from proxy.policies.pii.scan import Scan

Offer = Callable[[Scan, int, int, int], bool]
"""`offer(scan, run, start, end)`: have a cut judged; True if it was claimed."""

_PARTS = re.compile(rb"(?:[^ /\xc2]|\xc2(?!\xa0))+")
_MOST: Final = 6
"""Parts that one number may have."""
_REACH: Final = 40
"""Bytes from the start of a number's first part within which its last one begins."""
_NEAR: Final = 48
"""Bytes from a run's start within which words before it may speak of a card."""
_SURE: Final = frozenset({(3, 3, 4), (1, 3, 3, 4), (3, 2, 4), (4, 4, 4, 4), (4, 6, 5)})
"""Groupings that are written for one kind of number."""
_SAID: Final = frozenset({
    (4, 4, 4, 4, 3), (4, 6, 4), (4, 4, 4, 3), (4, 4, 4, 2), (4, 4, 4, 1), (4, 4, 5), (4, 4, 4), (6, 13),
})  # fmt: skip
"""Groupings of cards that words have to confirm."""
_BEGINNINGS: Final = frozenset(shape[:i] for shape in _SURE | _SAID for i in range(1, len(shape)))


def _grouping(shape: tuple[int, ...]) -> bytes:
    groups = [b"[0-9]{%d}" % size for size in shape]
    if sum(shape) > 12:
        groups[0] = rb"(?:[3-6][0-9]{3}|2[2-7][0-9]{2}|8[12][0-9]{2}|9792)"  # how cards begin: `credit_card.issuer`
    return (SEPARATOR + b"{1,3}").join(groups)


_LIKELY = program(
    rb"[ /\xa0](?:" + b"|".join(map(_grouping, sorted(_SURE))) + rb"|[0-9]{12,19}|[0-9]{1,3}(?:\.[0-9]{1,3}){3}"
    rb"|\(?0[1-9][0-9]{0,4}(?:"
    + SEPARATOR
    + rb"{1,3}[0-9]{2,8}){1,5}|00[1-9][0-9]{0,11}(?:"
    + SEPARATOR
    + rb"{1,3}[0-9]{1,10}){0,5}|\([0-9]{3}\) ?[0-9]{3}"
    + SEPARATOR
    + rb"[0-9]{4})\b"
)
"""What may be a number where no word names it, with the gap before it."""
_GAP = re.compile(rb"[ /\xa0]")


class _Run:
    """The run under the knife. Offsets are in `text`, which starts at byte `start` of the scanned data."""

    __slots__ = ("address", "offer", "scan", "start", "text")

    def __init__(self, scan: Scan, start: int, text: bytes, offer: Offer, address: Examine | None) -> None:
        self.scan = scan
        self.start = start
        self.text = text
        self.offer = offer
        self.address = address

    def parts(self, low: int) -> Iterator[tuple[int, int, Form]]:
        """The parts from the one at `low` on that may belong to one number: start, end and form of each."""
        text = self.text
        for count, part in enumerate(_PARTS.finditer(text, low, low + 2 * _REACH)):
            start, end = part.span()
            if start > low + _REACH or end - start > LONGEST or count == _MOST:
                return
            self.scan.work += 80
            yield start, end, form_of(text[start:end])

    def claimed(self, low: int, high: int) -> bool:
        if high - low == len(self.text) <= LONGEST:
            return False  # the whole was asked for before it was taken apart
        return self.offer(self.scan, self.start, self.start + low, self.start + high)

    def other(self, low: int, high: int, form: Form) -> int:
        """Where a date, a decimal or an address ends that the part from `low` to `high` is; 0 if it is none of them."""
        text = self.text
        if form.odd and is_none(text[low:high]):
            return high
        if form.quad:
            if self.address is not None:
                self.address(self.scan, self.start + low, self.start + high)
            return high
        if text[high : high + 1] == b"/":
            date = DATE.match(text, low)
            return date.end() if date is not None else 0
        return 0

    def part_end(self, low: int) -> int:
        """Where the part at `low` ends."""
        gap = _GAP.search(self.text, low + 1)
        return gap.start() if gap is not None else len(self.text)

    def named(self, low: int) -> int:
        """Try any grouping from the part at `low` on; where to go on."""
        ends: list[int] = []
        digits = 0
        for start, high, form in self.parts(low):
            if start == low and (end := self.other(low, high, form)):
                return end
            digits += sum(form.shape)
            if high - low > LONGEST or digits > MOST:
                break
            if digits >= 7:
                ends.append(high)
        return self.longest(low, ends)

    def shaped(self, low: int) -> int:
        """Try what is written for one kind of number only, or what words may confirm; where to go on."""
        text = self.text
        shape: tuple[int, ...] = ()
        ends: list[int] = []
        for start, high, form in self.parts(low):
            if start == low and (end := self.other(low, high, form)):
                return end
            shape += form.shape
            if shape in _SURE or shape in _SAID or (len(shape) == 1 and shape[0] >= 12):
                digits = text[low:high].translate(None, BETWEEN)
                if len(digits) < 12 or luhn(digits):
                    ends.append(high)
            if shape not in _BEGINNINGS:
                break
        if not ends and text[low] in b"0(+":
            return self.dialled(low)
        return self.longest(low, ends)

    def likely(self, low: int) -> int:
        """Go to the next place behind `low` that is written for one kind of number; where to go on behind it."""
        text = self.text
        span: tuple[int, int] = _LIKELY.Match(UNANCHORED, text, low - 1, len(text))[0]
        start, end = span
        self.scan.spend(140)
        if start < 0:
            return len(text)
        start += 1
        if text[start] in b"0(":
            return self.dialled(start)
        cut = text[start:end]
        digits = cut.translate(None, BETWEEN)
        if len(digits) < 12 and b"." in cut and (other := self.other(start, end, form_of(cut))):
            return other
        if (len(digits) < 12 or luhn(digits)) and self.part_end(end - 1) == end and self.claimed(start, end):
            return end
        return self.part_end(start)

    def dialled(self, low: int) -> int:
        """Try a number as it is dialled: behind `+` or `00` any long enough, behind `0` nine to eleven digits."""
        head = self.text[low : low + 4].lstrip(b"(")
        abroad = head[:1] == b"+" or (head[:2] == b"00" and head[2:3] != b"0")  # no country's code begins with 0
        shape: tuple[int, ...] = ()
        ends: list[int] = []
        if abroad or head[:2] != b"00":
            for start, high, form in self.parts(low):
                if start == low and (end := self.other(low, high, form)):
                    return end
                shape += form.shape
                digits = sum(shape)
                if digits > (17 if abroad else 11):
                    break
                if digits >= 8 and (abroad or may_be_national(shape)):
                    ends.append(high)
        return self.longest(low, ends)

    def longest(self, low: int, ends: list[int]) -> int:
        """Offer the cuts from `low` to each of `ends`, the longest first; where to go on."""
        for high in reversed(ends):
            if self.claimed(low, high):
                return high
        return self.part_end(low)


_GAPS: Final = b" /\xa0\xc2"


def take_apart(scan: Scan, start: int, text: bytes, *, named: bool, offer: Offer, address: Examine | None) -> None:
    """Offer what may be numbers in the run `text` at byte `start`; dotted quads to `address`, if there is one."""
    run = _Run(scan, start, text, offer, address)
    size = len(text)
    low = 0
    while low < size:
        scan.spend(60)
        step = run.named if named else run.shaped if low < _NEAR else run.likely
        low = step(low)
        while low < size and text[low] in _GAPS:
            low += 1


@functools.lru_cache(maxsize=2048)
def _holds(shape: tuple[int, ...], known: frozenset[tuple[int, ...]]) -> bool:
    return any(shape[i : i + len(one)] == one for one in known for i in range(len(shape)) if len(one) < len(shape))


def is_worth_it(text: bytes, form: Form, cards: Callable[[], bool]) -> bool:
    """Whether an unnamed run that is no number as a whole may hold one: a cheap look before it is taken apart.

    `cards`: whether words before it speak of a card.
    """
    shape = form.shape
    if sum(shape) < 10:
        return False  # a piece of it would have fewer than nine digits
    if len(shape) > 2 and set(shape[:-1]) == {4}:
        return _holds(shape, _SURE) or cards()
    if text[0] in b"0(+" or b" 0" in text or b"/0" in text or b"(" in text or (form.marks.count(b".") > 2):
        return True
    if 4 not in shape:
        return max(shape) >= 12  # every grouping has a four in it
    return max(shape) >= 12 or _holds(shape, _SURE) or (_holds(shape, _SAID) and cards())
