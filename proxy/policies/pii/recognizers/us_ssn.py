"""US_SSN: area, group and serial rules; nine bare digits need a word that says so.

Areas 000 and 666, group 00 and serial 0000 were never issued. Areas from 900 are ITINs or made up; a label makes them
count, since masking a wrong number hurts less than showing a right one.
"""

from __future__ import annotations

from proxy.policies.pii.found import BARE, CONTEXT
from proxy.policies.pii.recognizers.digits import Number, glued
from proxy.policies.pii.scan import Scan
from proxy.policies.pii.words import Words

WORDS = Words(
    "ssn|ssns|s n|social security|soc sec|socsec|socialsecurity|social insurance|taxpayer|itin|ss|ss no|national id"
)
_SHAPES = frozenset({(3, 2, 4)})


def judge(scan: Scan, one: Number) -> bool:
    digits = one.digits
    if len(digits) != 9 or b"+" in one.marks or b"(" in one.marks or glued(scan, one):
        return False
    grouped = one.shape in _SHAPES and one.marks[:1] == one.marks[1:] and one.marks[:1] in b"- ."
    if not grouped and len(one.shape) != 1:
        return False
    if digits[:3] in (b"000", b"666") or digits[3:5] == b"00" or digits[5:] == b"0000" or len(set(digits)) == 1:
        return False
    if grouped and one.marks[:1] == b"-" and digits[0] != 57:  # 9
        # Three, two, four with dashes is written for nothing else.
        rank = CONTEXT if WORDS.any(scan.words(one.start)) else BARE
    elif WORDS.any(scan.words(one.start)) or WORDS.any(scan.column(one.start)):
        rank = CONTEXT
    else:
        return False
    scan.add(one.start, one.end, "US_SSN", rank)
    return True
