"""Plain numbers of 7 to 15 digits: order numbers, times, sizes - and telephone numbers and SSNs, if words say so.

Nothing in such a number says what it is, and texts are full of them. So not they are candidates but the words that can
name them (`call`, `ssn`, `电话`, `... (office)`). A text without any such word costs nothing, however many numbers it
holds; in the others every plain number is looked at once, behind all other candidates.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from proxy.policies.pii.recognizers import phone, us_ssn
from proxy.policies.pii.recognizers.base import Recognizer, both_cases
from proxy.policies.pii.recognizers.digits import Judge, cut
from proxy.policies.pii.scan import NEAR, Scan
from proxy.policies.pii.words import Words

_DIGITS = bytes(48 if 48 <= c <= 57 else 0 for c in range(256))
_SEVEN = b"0000000"
_ALL = re.compile(rb"0+")
_WORD = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_")
_RUN = b" .()/-"
SHORT = 64
"""Bytes that a text may have that is one telephone number and nothing else."""


def _examine(scan: Scan, start: int, end: int) -> int:
    return end


PHONE_BEHIND = Recognizer(
    "phone_behind", frozenset({"PHONE"}), rb"\b[0-9]{7,15}" + phone.BEHIND, b"0123456789", _examine
)
"""A number before the word that names it."""


def _names(kind: str, words: Words) -> Recognizer:
    labels = words.pattern()
    pattern = rb"(?i:(?:\b|_)(?:" + labels + rb")(?:\b|_))"
    starts = words.starts() + b"_"
    return Recognizer(f"{kind.lower()}_words", frozenset({kind}), pattern, starts, _examine, labels=labels)


PHONE_WORDS = _names("PHONE", phone.WORDS)
PHONE_SCRIPTS = Recognizer(
    "phone_scripts", frozenset({"PHONE"}), phone.SCRIPTS, b"\xe7\xe6\xe9\xec\xd1\xd0" + both_cases("tpmh"), _examine
)
SSN_WORDS = _names("US_SSN", us_ssn.WORDS)

_NAMES = {"PHONE": phone.WORDS, "US_SSN": us_ssn.WORDS}
SIGNS = (PHONE_WORDS, PHONE_SCRIPTS, SSN_WORDS)
"""What says no more than that `sweep` has something to do."""


def sweeper(types: frozenset[str]) -> Callable[[Scan], None] | None:
    """The function that judges every plain number of a text; None if nobody wants them."""
    judges: list[Judge] = []
    if "US_SSN" in types:
        judges.append(us_ssn.judge)
    if "PHONE" in types:
        judges.append(phone.judge)
    if not judges:
        return None

    signs = frozenset().union(*(words.marks for kind, words in _NAMES.items() if kind in types))

    def unnamed(scan: Scan, start: int, end: int) -> bool:
        """A cheap look at a number's surroundings: True if nothing there can name it."""
        if scan.has_columns() or not signs.isdisjoint(scan.words(start)):
            return False
        window = scan.data[start - NEAR if start > NEAR else 0 : start]
        return window.isascii() and phone.AFTER.match(scan.data, end, end + NEAR) is None

    def sweep(scan: Scan) -> None:
        data = scan.data
        lone = not scan.floor and is_lone_number(data)
        if not scan.spoken and not lone:
            return
        digits = data.translate(_DIGITS)
        at = digits.find(_SEVEN)
        while at >= 0:
            # The search may begin inside a longer number, never inside one that counts.
            end = _ALL.match(digits, at).end()  # type: ignore[union-attr]
            scan.spend(80)
            if end - at <= 15 and (lone or not unnamed(scan, at, end)) and not _is_part(data, at, end):
                scan.work += 100
                one = cut(scan, at, at, end)
                for judge in judges:
                    if judge(scan, one):
                        break
            at = digits.find(_SEVEN, end)

    return sweep


def is_lone_number(data: bytes) -> bool:
    """Whether a text is one plain number and nothing else."""
    return len(data) <= SHORT and data.strip().isdigit()


def _is_part(data: bytes, start: int, end: int) -> bool:
    """True for a piece of a word, or of a run with separators, which was judged as such."""
    if (start and data[start - 1] in _WORD) or (end < len(data) and data[end] in _WORD):
        return True
    before = data[start - 4 if start > 4 else 0 : start].rstrip(_RUN)
    return before[-1:].isdigit() or data[end : end + 4].lstrip(_RUN)[:1].isdigit()
