"""Runs of digits with separators: cut into one candidate a number and offered to the types that are numbers.

One blob such as `2024-01-05 555-123-4567 4111 1111 1111 1111` may hold several numbers, so the pattern takes the whole
run and this module cuts it. A judge sees one cut, with its digits and its group lengths, and says whether it is its.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from proxy.policies.pii.recognizers.base import Examine, Recognizer
from proxy.policies.pii.recognizers.luhn import luhn
from proxy.policies.pii.scan import Scan

_SEPARATOR = rb"(?:[ .()/-]|\xc2\xa0|\xe2\x80[\x89\x90-\x95\xaf])"
_GROUPS = re.compile(rb"[0-9]+")
_TOKENS = re.compile(rb"(?:[^ /\xc2]|\xc2(?!\xa0))+")
_DATE = re.compile(
    rb"(?:(?:19|20)[0-9]{2}([-/.])[0-9]{1,2}\1[0-9]{1,2}|[0-9]{1,2}([-/.])[0-9]{1,2}\2(?:19|20)[0-9]{2})"
)
_QUAD = re.compile(rb"[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?![0-9])")
_YEARS = re.compile(rb"(?:19|20)[0-9]{2} ?(?:-|/|\xe2\x80[\x93\x94]) ?(?:(?:19|20)[0-9]{2}|[0-9]{2})")
_DECIMAL = re.compile(rb"[0-9]+\.[0-9]+")
_ANY_COUNT = (6, 5, 4, 3, 2, 1)
_SPLITS = re.compile(rb"[ /\xa0]")
_CARD_SHAPES = frozenset(
    {(4, 4, 4, 4), (4, 6, 5), (4, 6, 4), (4, 4, 4, 4, 3), (6, 13), (4, 4, 5), (4, 4, 4, 1), (4, 4, 4)}
)
_OTHER_SHAPES = frozenset({(3, 2, 4), (3, 3, 4), (1, 3, 3, 4)})
_ONE = (1,)
_COUNTS = {
    first: tuple(sorted({1, *(len(s) for s in _CARD_SHAPES | _OTHER_SHAPES if s[0] == first)}, reverse=True))
    for first in {shape[0] for shape in _CARD_SHAPES | _OTHER_SHAPES}
}
"""For the size of a first group: how many groups the groupings that start with it have."""


def _plausible(shape: tuple[int, ...], text: bytes) -> bool:
    """True if plain groups of these sizes are how some type is written: a cheap test before a judge is asked."""
    if shape in _CARD_SHAPES:
        return luhn(text.translate(None, b" /\xa0\xc2"))
    return shape in _OTHER_SHAPES


class Number(NamedTuple):
    """One cut of a digit run, byte offsets into the scanned data."""

    run: int
    """Where the digit run starts that this was cut from: the words before it are the context of all its cuts."""
    start: int
    end: int
    text: bytes
    digits: bytes
    shape: tuple[int, ...]
    """Digits in each group: (3, 3, 4) for 555-123-4567."""
    marks: bytes
    """The separators, and a leading `+`, in order."""
    glued: bool
    """Something that is no break in a sentence touches it on either side (`-A`, `/7`, `$`): a part of a longer code."""


Said = Callable[[Scan, int], bool]
Judge = Callable[[Scan, Number], bool]
"""Adds the number to the scan and returns True if it is one of this judge's."""


def _number(scan: Scan, run: int, start: int, end: int) -> Number:
    text = scan.data[start:end]
    if text.isdigit():
        return Number(run, start, end, text, text, (end - start,), b"", _glued(scan.data, start, end))
    digits = text.translate(None, b" .()/-+\xc2\xa0\xe2\x80\x89\x90\x91\x92\x93\x94\x95\xaf")
    shape = tuple(map(len, _GROUPS.findall(text)))
    marks = text.translate(None, b"0123456789")
    return Number(run, start, end, text, digits, shape, marks, _glued(scan.data, start, end))


def _glued(data: bytes, start: int, end: int) -> bool:
    if start and data[start - 1] in _LEFT_GLUE:
        return True
    return data[end : end + 1] in _RIGHT_GLUE and data[end + 1 : end + 2].isalnum()


_LEFT_GLUE = b".-_/$%~@^"
_RIGHT_GLUE = frozenset((b"-", b"_", b"/", b"@", b".", b"%"))
_SUFFIX = re.compile(rb"-(?:office|fax|home|mobile|cell|work|tel|phone|direct)", re.IGNORECASE)


def number(types: frozenset[str], judges: tuple[Judge, ...], said: Said | None, address: Examine | None) -> Recognizer:
    """The recognizer for all enabled number types; `judges` in the order in which they may claim a number.

    `said`: whether the words before an offset speak of a phone, for which any grouping goes; None if PHONE is off.
    `address`: judges a dotted quad that stands among other numbers; None if IP_ADDRESS is off.
    """

    def examine(scan: Scan, start: int, end: int) -> int:
        data = scan.data
        text = data[start:end]
        scan.spend(end - start)
        if text.isdigit():  # neither a date nor a decimal, and nothing to cut
            if end - start <= 48:
                one = _number(scan, start, start, end)
                for judge in judges:
                    if judge(scan, one):
                        break
            return end
        if text[:1] == b"(" and b")" not in text:
            start += 1
            text = text[1:]
        if _DECIMAL.fullmatch(text) or _DATE.fullmatch(text) or _YEARS.fullmatch(text):
            return end
        if not _SPLITS.search(text):
            if end - start > 48:
                return end
            one = _number(scan, start, start, end)
            for judge in judges:
                if judge(scan, one):
                    return end
            return end
        cuts = [m.span() for m in _TOKENS.finditer(text)]
        sizes = [high - low for low, high in cuts]
        digits = sum(sizes)
        if len(cuts) * 3 > digits * 2:
            return end  # single digits in a row: a table or a drawing
        marked = b"-" in text or b"(" in text or b"." in text
        named = said is not None and said(scan, start)
        first = 0
        while first < len(cuts):
            low = cuts[first][0]
            if _DATE.match(text, low) is not None:
                first += 1
                continue
            if b"." in text[low : cuts[first][1]] and _DECIMAL.fullmatch(text, low, cuts[first][1]) is not None:
                first += 1  # vectors and tables of decimals would make every cell a candidate
                continue
            if address is not None:
                quad = _QUAD.match(text, low)
                if quad is not None:
                    address(scan, start + low, start + quad.end())
                    first += 1
                    continue
            head = text[low]
            free = named or marked or head in b"0+("
            # In a table of numbers every cell would cost a cut; only groupings that some type has are tried.
            for count in _ANY_COUNT if free else _COUNTS.get(sizes[first], _ONE):
                last = first + count
                if last > len(cuts):
                    continue
                high = cuts[last - 1][1]
                size = high - low
                if size < 7:
                    break
                if size > 24 or not (free or count == 1 or _plausible(tuple(sizes[first:last]), text[low:high])):
                    continue
                if claimed(scan, start, start + low, start + high):
                    first = last - 1
                    break
            first += 1
        return end

    def claimed(scan: Scan, run: int, start: int, end: int) -> bool:
        while end > start and scan.data[end - 1] in b" -./(":
            end -= 1
        one = _number(scan, run, start, end)
        if not 7 <= len(one.digits) <= 19:
            return False
        scan.spend(48)
        return any(judge(scan, one) for judge in judges)

    head = rb"(?:[+(]{1,2}|\b)[0-9](?:" + _SEPARATOR + rb"{0,3}[0-9]){4}"
    tail = rb"(?:" + _SEPARATOR + rb"{0,3}[0-9])*\b"
    return Recognizer("number", types, head + tail, b"0123456789+(", examine, head)


def unglued(scan: Scan, one: Number) -> bool:
    """True if the number stands free, or what touches it is the name of a phone line (`-Fax`)."""
    return not one.glued or _SUFFIX.match(scan.data, one.end) is not None
