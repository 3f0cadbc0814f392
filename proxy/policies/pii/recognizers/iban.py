"""IBAN: country code, the country's length, mod 97 (ISO 13616)."""

from __future__ import annotations

import re

from proxy.policies.pii.found import CHECKSUM
from proxy.policies.pii.recognizers.base import Recognizer, both_cases
from proxy.policies.pii.scan import Scan

# Lengths from the SWIFT IBAN registry.
_LENGTHS = {
    b"AD": 24, b"AE": 23, b"AL": 28, b"AT": 20, b"AZ": 28, b"BA": 20, b"BE": 16, b"BG": 22, b"BH": 22, b"BI": 27,
    b"BR": 29, b"BY": 28, b"CH": 21, b"CR": 22, b"CY": 28, b"CZ": 24, b"DE": 22, b"DJ": 27, b"DK": 18, b"DO": 28,
    b"EE": 20, b"EG": 29, b"ES": 24, b"FI": 18, b"FK": 18, b"FO": 18, b"FR": 27, b"GB": 22, b"GE": 22, b"GI": 23,
    b"GL": 18, b"GR": 27, b"GT": 28, b"HN": 28, b"HR": 21, b"HU": 28, b"IE": 22, b"IL": 23, b"IQ": 23, b"IS": 26,
    b"IT": 27, b"JO": 30, b"KW": 30, b"KZ": 20, b"LB": 28, b"LC": 32, b"LI": 21, b"LT": 20, b"LU": 20, b"LV": 21,
    b"LY": 25, b"MC": 27, b"MD": 24, b"ME": 22, b"MK": 19, b"MN": 20, b"MR": 27, b"MT": 31, b"MU": 30, b"NI": 28,
    b"NL": 18, b"NO": 15, b"OM": 23, b"PK": 24, b"PL": 28, b"PS": 29, b"PT": 25, b"QA": 29, b"RO": 24, b"RS": 22,
    b"RU": 33, b"SA": 24, b"SC": 31, b"SD": 18, b"SE": 24, b"SI": 19, b"SK": 24, b"SM": 27, b"SO": 23, b"ST": 25,
    b"SV": 28, b"TL": 23, b"TN": 24, b"TR": 26, b"UA": 29, b"VA": 22, b"VG": 24, b"XK": 20, b"YE": 30,
}  # fmt: skip
_SEPARATORS = b" -\t\xa0\xc2"
_TAILS = {
    size: re.compile(rb"(?:[ \t\xa0\xc2-]{0,2}[A-Za-z0-9]){%d}(?![A-Za-z0-9])" % (size - 4))
    for size in frozenset(_LENGTHS.values())
}
"""For a country's length: what follows the first four characters."""
_VALUES = {c: str(int(chr(c), 36)) for c in b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"}


def mod_97(compact: bytes) -> int:
    """The remainder of an upper-case IBAN without separators; 1 for a valid one (ISO 7064 MOD 97-10)."""
    return int("".join(map(_VALUES.__getitem__, compact[4:] + compact[:4]))) % 97


def _examine(scan: Scan, start: int, end: int) -> int:
    data = scan.data
    want = _LENGTHS[data[start : start + 2].upper()]
    scan.work += 300
    tail = _TAILS[want].match(data, start + 4)
    if tail is None:
        return start + 4
    stop = tail.end()
    # Letters are all upper or all lower case, as people write them; anything else is a random code.
    body = tail[0].translate(None, _SEPARATORS)
    if not (body.isupper() or body.islower() or body.isdigit()):
        return start + 4
    if mod_97((data[start : start + 4] + body).upper()) != 1:
        return start + 4
    scan.add(start, stop, "IBAN", CHECKSUM)
    return stop


IBAN = Recognizer(
    "iban",
    frozenset({"IBAN"}),
    rb"(?i:\b(?:" + b"|".join(_LENGTHS) + rb")[0-9]{2}[ -]?[0-9A-Z]{4}[ -]?[0-9A-Z]{3})",
    both_cases("".join(sorted({chr(c[0]) for c in _LENGTHS}))),
    _examine,
)
