"""JSON keys as context: a key is read as the words before its value, and a few keys name their value outright."""

from __future__ import annotations

import re

from proxy.policies.pii.found import CONTEXT
from proxy.policies.pii.scan import Scan

_HUMPS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_MARKS = re.compile(r"[_\-./\s]+")
_NUMBER = r"(?: ?(?:no|number|id))?"
_WHOLE: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (kind, re.compile(pattern))
    for kind, pattern in (
        ("PASSWORD", r"(?:.* )?(?:password|passwd|pwd|passphrase|passcode|pin)"),
        (
            "SECRET",
            r"(?:.* )?(?:secret|api ?key|access key|secret key|private key|auth token|access token|refresh token"
            r"|client secret)",
        ),
        (
            "PERSON",
            r"(?:(?:full|first|last|middle|given|family|sur|maiden|display|customer|patient|client|employee|contact"
            r"|student|card ?holder|holder|recipient|sender) ?name|name of [a-z]+|surname|card ?holder|patient"
            r"|customer|recipient|attn)",
        ),
        (
            "ADDRESS",
            r"(?:(?:street|home|mailing|billing|shipping|delivery|postal) )?address(?: line)?(?: ?[12])?|street",
        ),
        ("USERNAME", r"user ?name|login|user ?id|screen ?name|nick ?name"),
        ("DATE_OF_BIRTH", r"dob|date of birth|birth ?date|birth ?day"),
        (
            "MEDICAL_ID",
            r"mrn|patient ?(?:id|number)|medical record(?: number)?|member ?id|insurance (?:id|number)|nhs number",
        ),
        ("PASSPORT", r"passport" + _NUMBER),
        ("DRIVER_LICENSE", r"(?:driver'?s?|driving) ?licen[cs]e" + _NUMBER),
        ("BANK_ACCOUNT", r"(?:bank )?account ?(?:no|number)|routing ?number|sort ?code"),
        ("TAX_ID", r"tax ?(?:id|number)|vat ?(?:id|number)?|ein|tin"),
        ("NATIONAL_ID", r"national ?id|identity ?card|id ?card|pesel|cpf|dni|nie|aadhaar|personal ?number"),
    )
)
_NEEDS_DIGITS = frozenset(
    {"DATE_OF_BIRTH", "MEDICAL_ID", "PASSPORT", "DRIVER_LICENSE", "BANK_ACCOUNT", "TAX_ID", "NATIONAL_ID", "ADDRESS"}
)
_LONGEST = 256
_EMPTY = frozenset({"", "null", "none", "true", "false", "string", "n/a", "unknown", "anonymous", "redacted"})


def words_of(key: str) -> str:
    """`clientIp`, `client_ip` and `client-ip` as `client ip`."""
    return _MARKS.sub(" ", _HUMPS.sub(" ", key[:64])).strip().lower()


def key_prefix(key: str) -> bytes:
    """The key as the words that stand before the value."""
    return words_of(key).encode("utf-8", "replace") + b": "


def whole_value(scan: Scan, key: str, types: frozenset[str]) -> None:
    """Add the whole value when its key says what it is and the value is short and plausible."""
    value = scan.data[scan.floor :]
    if len(value) > _LONGEST:
        return
    words = words_of(key)
    for kind, pattern in _WHOLE:
        if kind in types and pattern.fullmatch(words):
            break
    else:
        return
    text = value.strip()
    scan.spend(len(value))
    if text.lower().decode("utf-8", "replace") in _EMPTY or not text.strip(b"*.-_<>xX"):
        return
    if text[:1] in b"<{$[" and text[-1:] in b">}]":
        return
    if kind in _NEEDS_DIGITS and not any(48 <= c <= 57 for c in text):
        return
    if kind == "PERSON" and (
        any(48 <= c <= 57 for c in text) or len(text) > 80 or (text.islower() and text.isascii() is False)
    ):
        return
    low = scan.floor + len(value) - len(value.lstrip())
    scan.add(low, low + len(text), kind, CONTEXT)
