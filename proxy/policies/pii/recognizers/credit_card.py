"""CREDIT_CARD: issuer prefix and length, grouping as printed on cards, Luhn (ISO/IEC 7812-1)."""

from __future__ import annotations

from proxy.policies.pii.found import CHECKSUM
from proxy.policies.pii.recognizers.digits import Number, glued
from proxy.policies.pii.recognizers.luhn import luhn
from proxy.policies.pii.scan import Scan
from proxy.policies.pii.words import Words

_WORDS = Words(
    "card|cards|cardnumber|cc|credit|debit|visa|mastercard|amex|american express|maestro|discover|diners|jcb|pan|"
    "payment|kreditkarte|karte|carte|tarjeta|carta|kartennummer|account|charge|charged|bill|billed|billing"
)
_OTHERS = Words(
    "order|tracking|shipped|shipped with|parcel|part|part no|isbn|imei|serial|sku|invoice|epoch|timestamp|iccid"
)
_GROUPED = frozenset({
    (4, 4, 4, 4), (4, 6, 5), (4, 6, 4), (4, 4, 4, 1), (4, 4, 4, 4, 3), (6, 13), (4, 4, 5), (4, 4, 4, 2), (4, 4, 4, 3),
    (4, 4, 4),
})  # fmt: skip


def issuer(digits: bytes) -> str:
    """The network of a card number by its prefix and length, or "" (issuer ranges as published by the networks)."""
    size = len(digits)
    two, four = int(digits[:2]), int(digits[:4])
    if digits[0] == 52 and size in (13, 16, 19):  # 4
        return "visa"
    if size == 16 and (51 <= two <= 55 or 2221 <= four <= 2720):
        return "mastercard"
    if size == 15 and two in (34, 37):
        return "amex"
    if 16 <= size <= 19 and (four == 6011 or two == 65 or 644 <= four // 10 <= 649):
        return "discover"
    if 16 <= size <= 19 and two == 62:
        return "unionpay"
    if 16 <= size <= 19 and 3528 <= four <= 3589:
        return "jcb"
    if size == 15 and four in (2131, 1800):
        return "jcb"
    if 14 <= size <= 19 and (two in (36, 38, 39) or 300 <= four // 10 <= 305 or four == 3095):
        return "diners"
    if 12 <= size <= 19 and (two in (50, 56, 57, 58, 60, 61, 63, 66, 67, 68, 69) or four == 604):
        return "maestro"
    if size == 16 and 2200 <= four <= 2204:
        return "mir"
    if size == 16 and four == 9792:
        return "troy"
    if size == 16 and two in (81, 82):
        return "rupay"
    return ""


_WEAK = frozenset({"maestro", "diners", "unionpay", "rupay", "troy", ""})


def named(scan: Scan, start: int) -> bool:
    """True if words before byte `start`, or its column's head, speak of a card."""
    return _WORDS.any(scan.words(start)) or _WORDS.any(scan.column(start))


def judge(scan: Scan, one: Number) -> bool:
    digits = one.digits
    size = len(digits)
    if not 12 <= size <= 19 or b"+" in one.marks or b"(" in one.marks or not luhn(digits):
        return False
    if len(one.shape) > 1 and (one.shape not in _GROUPED or len(set(one.marks)) != 1):
        return False
    if glued(scan, one) and b"/" not in scan.data[one.end : one.end + 1]:
        return False
    network = issuer(digits)
    if len(set(digits)) < 2:
        return False
    grouped = network and one.shape == (4, 4, 4, 4)
    if (network in _WEAK and not grouped) or (network == "visa" and size != 16):
        # Short numbers and prefixes shared with many other registers pass Luhn by chance: a card word must say so.
        words = scan.words(one.start)
        said = _WORDS.last(words)
        if said < 0 and not _WORDS.any(scan.column(one.start)):
            return False
        if _OTHERS.last(words) > said:
            return False
        if not network and size < 15:
            return False
    scan.add(one.start, one.end, "CREDIT_CARD", CHECKSUM)
    return True
