"""Whether a value looks like a generated secret, or like a name, a filler or an example."""

from __future__ import annotations

import math
import re

from proxy.policies.pii.program import UNANCHORED, program

_FILLER = program(
    rb"(?i:x{5}|\*{3}|\.{3}|-{4}|0{8}|1{8}|example|sample|placeholder|your[_-]|redacted|insert|changeme|dummy|fake"
    rb"|abcdefgh|12345678(?:9|$)|<[a-z]|\$\{|\{\{|masked|removed|hidden|todo|lorem)"
)
_NAME = re.compile(
    rb"[a-z]{2,12}(?:[_-](?:[a-z]{2,12}|[0-9]{1,3}[a-z]{0,2}))+|[A-Z]{2,12}(?:[_-](?:[A-Z]{2,12}|[0-9]{1,3}))+"
)
_UUID = re.compile(rb"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")


_CASES = bytes(0x41 if c < 0x60 else 0x61 for c in range(256))
_COUNTED = 4096
_N_LOG_N = (0.0, *(n * math.log2(n) for n in range(1, _COUNTED + 1)))


def entropy(value: bytes) -> float:
    """Shannon entropy of (the first 4096 of) the bytes, in bits a byte."""
    value = value[:_COUNTED]
    size = len(value)
    return (_N_LOG_N[size] - sum(map(_N_LOG_N.__getitem__, map(value.count, set(value))))) / size


def is_filler(value: bytes) -> bool:
    """True for masks, templates and the words of documentation."""
    return bool(_FILLER.Match(UNANCHORED, value, 0, len(value))[0][0] >= 0)


def is_uuid(value: bytes) -> bool:
    return _UUID.fullmatch(value) is not None


def looks_random(value: bytes, least: float = 3.0) -> bool:
    """True if the value has letters and digits mixed, is no filler and has at least `least` bits a byte."""
    head = value[:256]
    if head.isalpha() and (head.islower() or head.isupper() or head.istitle()):
        return False
    if head.isdigit() or is_filler(head) or entropy(head) < least:
        return False
    if is_uuid(head):
        return True
    if _NAME.fullmatch(head) is not None:
        return False
    if any(48 <= c <= 57 for c in head):
        return True
    # Letters alone: random ones change case at every second letter, CamelCase at every fourth.
    cases = head.translate(_CASES)
    turns = cases.count(b"aA") + cases.count(b"Aa")
    return entropy(head) >= 4.2 and turns > 0.38 * len(head)
