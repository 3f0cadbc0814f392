"""Numbers with separators, and what they look like when their digits do not matter."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Final, NamedTuple

from proxy.policies.pii.scan import Scan

SEPARATOR: Final = rb"(?:[ .()/-]|\xc2\xa0|\xe2\x80[\x89\x90-\x95\xaf])"
"""What may stand between two digits of a number: the ASCII marks, no-break and thin spaces, the dashes of Unicode."""
BETWEEN: Final = b" .()/-+\xc2\xa0\xe2\x80\x89\x90\x91\x92\x93\x94\x95\xaf"
LONGEST: Final = 24
"""Bytes that one number may have, with its separators."""
MOST: Final = 19
"""Digits that one number may have."""

_GROUPS = re.compile(rb"[0-9]+")
_SPLITS = re.compile(rb"[ /\xa0]")
_NONE = re.compile(
    rb"[+]?[0-9]+\.[0-9]+|(?:19|20)[0-9]{2} ?(?:-|/|\xe2\x80[\x93\x94]) ?(?:(?:19|20)[0-9]{2}|[0-9]{2})"
    rb"|(?:19|20)[0-9]{2}([-/.])[0-9]{1,2}\1[0-9]{1,2}|[0-9]{1,2}([-/.])[0-9]{1,2}\2(?:19|20)[0-9]{2}"
)
_MAY_BE_NONE = re.compile(rb"[+]?0+\.0+|0000 ?(?:-|/|\xe2\x80.) ?(?:0000|00)|0000[-/.]00?[-/.]00?|00?[-/.]00?[-/.]0000")
DATE: Final = re.compile(
    rb"(?:(?:19|20)[0-9]{2}([-/.])[0-9]{1,2}\1[0-9]{1,2}|[0-9]{1,2}([-/.])[0-9]{1,2}\2(?:19|20)[0-9]{2})(?![0-9])"
)
"""A calendar date, at its beginning."""
_MAY_BE_DATED = re.compile(rb"0000[-/.]00?[-/.]0|00?[-/.]00?[-/.]0000")
_QUAD = re.compile(rb"0{1,3}(?:\.0{1,3}){3}")


class Number(NamedTuple):
    """One number in a text: byte offsets into the scanned data."""

    run: int
    """Where the digit run starts that this was cut from: the words before it are the context of all its cuts."""
    start: int
    end: int
    digits: bytes
    shape: tuple[int, ...]
    """Digits in each group: (3, 3, 4) for 555-123-4567."""
    marks: bytes
    """The separators, and a leading `+`, in order."""


Judge = Callable[[Scan, Number], bool]
"""Adds the number to the scan and returns True if it is one of this judge's."""


class Form(NamedTuple):
    """What a run of digits and separators looks like."""

    shape: tuple[int, ...]
    marks: bytes
    parts: bool
    """It has separators at which it may have to be cut."""
    odd: bool
    """It may be a decimal, two years or a date: ask `is_none`."""
    dated: bool
    """It may begin with a date."""
    quad: bool
    """It may be an IPv4 address."""
    open: bool
    """It begins with a bracket that is not closed."""


_SKELETON = bytes(0x30 if 0x30 <= c <= 0x39 else c for c in range(256))


@functools.lru_cache(maxsize=4096)
def _form(skeleton: bytes) -> Form:
    return Form(
        tuple(map(len, _GROUPS.findall(skeleton))),
        skeleton.translate(None, b"0"),
        _SPLITS.search(skeleton) is not None,
        _MAY_BE_NONE.fullmatch(skeleton) is not None,
        _MAY_BE_DATED.match(skeleton) is not None,
        _QUAD.fullmatch(skeleton) is not None,
        skeleton[:1] == b"(" and b")" not in skeleton,
    )


def form_of(text: bytes) -> Form:
    """The form of at most `LONGEST` bytes. Forms are kept between calls; no digit of an original is in one."""
    return _form(text.translate(_SKELETON))


def is_none(text: bytes) -> bool:
    """True for a decimal, a date or two years."""
    return _NONE.fullmatch(text) is not None


def may_be_national(shape: tuple[int, ...]) -> bool:
    """Whether a number that begins with `0` or a bracket may be a telephone number by its grouping alone."""
    if shape in ((3, 3, 4), (5, 6)):
        return True
    if not 2 <= len(shape) <= 6 or not 9 <= sum(shape) <= 11 or shape[:2] == (4, 4):
        return False  # fours are how account and card numbers are printed
    return shape[0] == 2 == shape[1] or (len(shape) > 2 and min(shape[1:]) > 1)


def cut(scan: Scan, run: int, start: int, end: int) -> Number:
    """The number `scan.data[start:end]` of the run that starts at `run`."""
    text = scan.data[start:end]
    form = form_of(text)
    return Number(run, start, end, text.translate(None, BETWEEN), form.shape, form.marks)


_LEFT_GLUE = b".-_/$%~@^"
_RIGHT_GLUE = frozenset((b"-", b"_", b"/", b"@", b".", b"%"))
_SUFFIX = re.compile(rb"-(?:office|fax|home|mobile|cell|work|tel|phone|direct)", re.IGNORECASE)


def glued(scan: Scan, one: Number) -> bool:
    """True if something that is no break in a sentence touches it (`-A`, `/7`, `$`): it is a part of a longer code."""
    data, start, end = scan.data, one.start, one.end
    if start and data[start - 1] in _LEFT_GLUE:
        return True
    return data[end : end + 1] in _RIGHT_GLUE and data[end + 1 : end + 2].isalnum()


def unglued(scan: Scan, one: Number) -> bool:
    """True if the number stands free, or what touches it is the name of a phone line (`-Fax`)."""
    return not glued(scan, one) or _SUFFIX.match(scan.data, one.end) is not None
