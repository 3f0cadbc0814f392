"""Runs of digits with separators: cut into one candidate a number and offered to the types that are numbers.

One run such as `2024-01-05 555-123-4567 4111 1111 1111 1111` may hold several numbers, so the pattern takes the whole
run and this module cuts it. Where no word names the run, only groupings are offered that some type is written in: a
table of numbers costs a few comparisons a cell. A judge sees one cut and says whether it is its.

A plain number of 7 to 11 digits is no candidate at all: see `plain_number`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from proxy.policies.pii.recognizers.base import Examine, Recognizer
from proxy.policies.pii.recognizers.luhn import luhn
from proxy.policies.pii.scan import Scan

_SEPARATOR = rb"(?:[ .()/-]|\xc2\xa0|\xe2\x80[\x89\x90-\x95\xaf])"
_BETWEEN = b" .()/-+\xc2\xa0\xe2\x80\x89\x90\x91\x92\x93\x94\x95\xaf"
_PARTS = re.compile(rb"([^0-9]*)([0-9]+)")
_GROUPS = re.compile(rb"[0-9]+")
_DATE = re.compile(
    rb"(?:(?:19|20)[0-9]{2}([-/.])[0-9]{1,2}\1[0-9]{1,2}|[0-9]{1,2}([-/.])[0-9]{1,2}\2(?:19|20)[0-9]{2})(?![0-9])"
)
_NONE = re.compile(
    rb"[0-9]+\.[0-9]+|(?:19|20)[0-9]{2} ?(?:-|/|\xe2\x80[\x93\x94]) ?(?:(?:19|20)[0-9]{2}|[0-9]{2})"
    rb"|(?:19|20)[0-9]{2}([-/.])[0-9]{1,2}\1[0-9]{1,2}|[0-9]{1,2}([-/.])[0-9]{1,2}\2(?:19|20)[0-9]{2}"
)
"""Whole runs that are a decimal, two years or a date."""
_DECIMAL = re.compile(rb"[0-9]+\.[0-9]+(?![0-9.-])")
_QUAD = re.compile(rb"[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?![0-9])")
_SPLITS = re.compile(rb"[ /\xa0]")
_LONGEST = 24
"""Bytes that one number may have, with its separators."""
_MOST = 6
"""Parts that the cut of a named run may have."""
_NEAR = 48
"""Bytes from a run's start in which words before it may speak of a card."""

# Groupings that are written for one kind of number, by the size of their first group.
_SURE = {1: ((1, 3, 3, 4),), 3: ((3, 3, 4), (3, 2, 4)), 4: ((4, 4, 4, 4), (4, 6, 5))}
# Groupings of cards that only words make one: near the run's start.
_SAID = {
    4: ((4, 4, 4, 4, 3), (4, 6, 4), (4, 4, 4, 3), (4, 4, 4, 2), (4, 4, 4, 1), (4, 4, 5), (4, 4, 4)),
    6: ((6, 13),),
}  # fmt: skip


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


Said = Callable[[Scan, int, int], bool]
Judge = Callable[[Scan, Number], bool]
"""Adds the number to the scan and returns True if it is one of this judge's."""


def cut(scan: Scan, run: int, start: int, end: int) -> Number:
    """The number `scan.data[start:end]` of the run that starts at `run`."""
    text = scan.data[start:end]
    if text.isdigit():
        return Number(run, start, end, text, text, (end - start,), b"", _glued(scan.data, start, end))
    digits = text.translate(None, _BETWEEN)
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


def unglued(scan: Scan, one: Number) -> bool:
    """True if the number stands free, or what touches it is the name of a phone line (`-Fax`)."""
    return not one.glued or _SUFFIX.match(scan.data, one.end) is not None


class _Run:
    """A run taken apart: its groups of digits, and where parts of it begin and end.

    `sizes`: digits of each group; `lows`, `highs`: where it stands in `text`. `heads`: where the part begins whose
    first group it is (an opening bracket before it belongs to it), -1 for a group inside a part.
    """

    __slots__ = ("heads", "highs", "lows", "sizes", "text")

    def __init__(self, text: bytes) -> None:
        self.text = text
        self.sizes: list[int] = []
        self.lows: list[int] = []
        self.highs: list[int] = []
        self.heads: list[int] = []
        for part in _PARTS.finditer(text):
            low, high = part.span(2)
            self.sizes.append(high - low)
            self.lows.append(low)
            self.highs.append(high)
            marks = part[1]
            if marks == b" ":
                self.heads.append(low)
                continue
            own = len(marks) - 1 - max(marks.rfind(b" "), marks.rfind(b"/"), marks.rfind(b"\xa0"))
            self.heads.append(low - own if own < len(marks) or not low else -1)
        self.heads[0] = 0

    def ends(self, group: int) -> bool:
        """Whether a part ends with the group before `group`."""
        return group == len(self.heads) or self.heads[group] >= 0


def number(types: frozenset[str], judges: tuple[Judge, ...], said: Said | None, address: Examine | None) -> Recognizer:
    """The recognizer for all enabled number types; `judges` in the order in which they may claim a number.

    `said`: whether words or a column's head name a run as a phone, for which any grouping goes; None if PHONE is off.
    `address`: judges a dotted quad that stands among other numbers; None if IP_ADDRESS is off.
    """

    def offer(scan: Scan, run: int, start: int, end: int) -> bool:
        scan.spend(250)
        one = cut(scan, run, start, end)
        if 7 <= len(one.digits) <= 19:
            for judge in judges:
                if judge(scan, one):
                    return True
        return False

    def examine(scan: Scan, start: int, end: int) -> int:
        text = scan.data[start:end]
        if text.isdigit():  # neither a date nor a decimal, and nothing to cut
            if end - start <= 19:
                offer(scan, start, start, end)
            return end
        if text[:1] == b"(" and b")" not in text:
            start += 1
            text = text[1:]
        if _NONE.fullmatch(text) is not None:
            return end
        # Most runs are one number, in one part or in several.
        parts = _SPLITS.search(text) is not None
        if end - start <= _LONGEST and _DATE.match(text) is None and offer(scan, start, start, end):
            return end
        if parts:
            take_apart(scan, start, _Run(text))
        return end

    def take_apart(scan: Scan, start: int, run: _Run) -> None:
        sizes = run.sizes
        count = len(sizes)
        scan.spend(40 * count)
        if count * 3 > sum(sizes) * 2:
            return  # single digits in a row: a table or a drawing
        end = start + len(run.text)
        named = said is not None and said(scan, start, end)
        marked = run.text.translate(None, b"0123456789 ") != b""
        group = 0
        while group < count:
            if run.heads[group] < 0:
                group += 1
            elif marked and (skip := others(scan, start, run, group)):
                group += skip
            elif named:
                group = cut_named(scan, start, run, group)
            else:
                group = cut_shaped(scan, start, run, group)

    def others(scan: Scan, start: int, run: _Run, group: int) -> int:
        """How many groups are a date, a decimal or an address here: vectors and logs are full of them."""
        low = run.lows[group]
        mark = run.text[run.highs[group] : run.highs[group] + 1]
        if mark == b" " or not mark:
            return 0
        if mark == b".":
            if _DECIMAL.match(run.text, low) is not None:
                return 2
            quad = _QUAD.match(run.text, low)
            if quad is not None:
                if address is not None:
                    address(scan, start + low, start + quad.end())
                return 4
        return 3 if _DATE.match(run.text, low) is not None else 0

    def cut_named(scan: Scan, start: int, run: _Run, group: int) -> int:
        """Try any grouping from `group` on, the longest first; the group to go on with."""
        head = run.heads[group]
        ends: list[int] = []  # behind each part that may be the cut's last
        for last in range(group + 1, len(run.sizes) + 1):
            if run.highs[last - 1] - head > _LONGEST or len(ends) == _MOST:
                break
            if run.ends(last):
                ends.append(last)
        for last in reversed(ends):
            if sum(run.sizes[group:last]) < 7:
                break
            if offer(scan, start, start + head, start + run.highs[last - 1]):
                return last
        return group + 1

    def cut_shaped(scan: Scan, start: int, run: _Run, group: int) -> int:
        """Try what is written for one kind of number only; the group to go on with."""
        sizes = run.sizes
        size = sizes[group]
        head = run.heads[group]
        first = run.text[head]
        shapes = _SURE.get(size, ())
        if head < _NEAR and size in _SAID:
            shapes += _SAID[size]
        for shape in shapes:
            last = group + len(shape)
            if tuple(sizes[group:last]) != shape or not run.ends(last):
                continue
            high = run.highs[last - 1]
            if size >= 4 and not luhn(run.text[head:high].translate(None, _BETWEEN)):
                continue
            if offer(scan, start, start + head, start + high):
                return last
        if first in b"0(+":
            return cut_dialled(scan, start, run, group)
        if size >= 12 and run.ends(group + 1):
            offer(scan, start, start + head, start + run.highs[group])
        return group + 1

    def cut_dialled(scan: Scan, start: int, run: _Run, group: int) -> int:
        """Try a number as it is dialled: behind `+` or `00` any long enough, behind `0` nine to eleven digits."""
        head = run.heads[group]
        abroad = run.text[head : head + 1] == b"+" or run.text[head : head + 2] == b"(+"
        digits = run.text[run.lows[group] : run.lows[group] + 2]
        if not abroad and digits == b"00":
            if run.text[run.lows[group] + 2 : run.lows[group] + 3] == b"0":
                return group + 1  # no country's code begins with it
            abroad = True
        total = 0
        lasts = []
        for last in range(group + 1, len(sizes := run.sizes) + 1):
            total += sizes[last - 1]
            if total > (17 if abroad else 11) or last - group > 8:
                break
            if total >= (8 if abroad else 9) and run.ends(last):
                lasts.append(last)
        for last in reversed(lasts):
            if offer(scan, start, start + head, start + run.highs[last - 1]):
                return last
        return group + 1

    more = rb"(?:" + _SEPARATOR + rb"{0,3}[0-9])"
    gap = _SEPARATOR + rb"{1,3}[0-9]"
    # Seven digits with a separator between, wherever it stands; or twelve without: a card's number.
    starts = [rb"[0-9]{%d}" % n + gap + more + rb"{%d}" % (6 - n) for n in range(1, 7)]
    starts += [rb"[0-9]{7,11}" + gap, rb"[0-9]{12}", rb"00[0-9]{8}"]
    tail = more + rb"*\b"
    pattern = rb"(?:[+(]{1,2}[0-9]" + more + rb"{6}|\b(?:" + b"|".join(starts) + rb"))" + tail
    selector = rb"(?:[+(]{1,2}|\b)[0-9]" + more + rb"{6}"
    return Recognizer("number", types, pattern, b"0123456789+(", examine, selector, pure=True)
