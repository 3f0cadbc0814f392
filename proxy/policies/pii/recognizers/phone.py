"""PHONE: international numbers checked against `phonenumbers`' plans, national ones by shape or by a word near them.

`phonenumbers` is loaded when the first number with a country code is met. Of its data only the general description of
a plan is used: parsing a number through its public entry points costs 18 us, a compiled plan pattern 1 us.
"""

from __future__ import annotations

import functools
import re
from typing import Final

from proxy.policies.pii.found import BARE, CHECKSUM, CONTEXT
from proxy.policies.pii.recognizers.digits import Number, may_be_national, unglued
from proxy.policies.pii.scan import NEAR, Scan
from proxy.policies.pii.words import Words, words_in

WORDS: Final = Words(
    "phone|phones|telephone|tel|tels|mobile|cell|cellphone|cellular|fax|call|calls|calling|callback|dial|ring|sms|"
    "text me|whatsapp|telegram|viber|hotline|landline|direct line|line is|contact|reach|reached|number is|registered|"
    "phone number|phonenumber|phoneno|mobilenumber|cellnumber|my number|backup|cn number|msisdn|gsm|extension|ph|mob|"
    "telefon|telefonnummer|telefonnr|telnr|telno|handy|handynummer|mobil|mobilnummer|rufnummer|durchwahl|anrufen|"
    "numéro|numero|téléphone|portable|appeler|appelez|tlf|telefono|teléfono|movil|móvil|celular|llamar|telefone|"
    "cellulare|chiamare|telefoon|mobiel|telefonu|puhelin|mobilen|telepono|numaram|numara"
)
_FAR_WORDS = re.compile(
    rb"(?:tel|mobile|phone|cell|fax|handy|telefon)|\xe7\x94\xb5\xe8\xaf\x9d|\xe6\x89\x8b\xe6\x9c\xba"
    rb"|\xe9\x9b\xbb\xe8\xa9\xb1|\xec\xa0\x84\xed\x99\x94|\xd1\x82\xd0\xb5\xd0\xbb"
)
SCRIPTS: Final = (
    rb"\xe7\x94\xb5\xe8\xaf\x9d|\xe6\x89\x8b\xe6\x9c\xba|\xe9\x9b\xbb\xe8\xa9\xb1|\xec\xa0\x84\xed\x99\x94"
    rb"|\xd1\x82\xd0\xb5\xd0\xbb|\xd0\xa2\xd0\xb5\xd0\xbb|(?i:telefon|phone|mobil|handy)"
)
"""Words of other scripts, and those that stand inside compounds beside letters of other scripts."""
_OTHERS = Words(
    "order|orders|invoice|inv|isbn|sku|tracking|ticket|build|version|id|ids|ref|reference|serial|model|part|"
    "part no|part number|zip|postal|account|acct|claim|policy|ssn|passport|license|licence|mrn|nhs|member|"
    "code|epoch|time|sha|amount|price|total|card|iban|po|student|employee|case|docket|port|pid|size|bytes|"
    "lines|line no|social|security|issue|error|row|page|chapter|year|years|tax|vat|nip|pesel|swift|bic|"
    "routing|date"
)
BEHIND: Final = rb"[ _(,-]{0,2}(?i:office|fax|home|mobile|cell|work|phone|tel)"
AFTER = re.compile(rb"[ _(,-]{0,2}(?:office|fax|home|mobile|cell|work|phone|tel)", re.IGNORECASE)
_BEHIND: Final = 16
_EXTENSION = re.compile(rb" ?(?:ext|x|extension)[. ]{0,2}[0-9]{1,6}\b", re.IGNORECASE)
_DAY = re.compile(rb"(?:19|20)[0-9]{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])")


_KINDS: Final = (
    "fixed_line", "mobile", "toll_free", "premium_rate", "shared_cost", "voip", "uan", "personal_number",
)  # fmt: skip


@functools.cache
def _plan(calling_code: int) -> re.Pattern[bytes] | None:
    """The national numbers of a calling code, from `phonenumbers`; None for a code that is not assigned."""
    import phonenumbers  # noqa: PLC0415  # 19 ms and 5 MB, only for those who meet a number

    regions = phonenumbers.COUNTRY_CODE_TO_REGION_CODE.get(calling_code)
    if not regions:
        return None
    patterns = []
    for region in regions:
        if region == "001":
            data = phonenumbers.PhoneMetadata.metadata_for_nongeo_region(calling_code)
        else:
            data = phonenumbers.PhoneMetadata.metadata_for_region(region)
        if data is None:
            continue
        for name in _KINDS:
            kind = getattr(data, name)
            if kind is not None and kind.national_number_pattern:
                patterns.append(kind.national_number_pattern)
    return re.compile("|".join(f"(?:{p})" for p in dict.fromkeys(patterns)).encode())


def international(digits: bytes) -> bool | None:
    """Whether digits that start with a calling code are a number of that code's plan.

    None if the code is assigned and the length possible, but the plan does not have the number (555 numbers).
    """
    if not 8 <= len(digits) <= 15 or digits[0] == 48:
        return False
    for size in (1, 2, 3):
        plan = _plan(int(digits[:size]))
        if plan is None:
            continue
        national = digits[size:]
        if plan.fullmatch(national) or (national[0] == 48 and plan.fullmatch(national[1:])):
            return True
        return None if len(national) >= 7 else False
    return False


def named(scan: Scan, run: int, end: int) -> bool:
    """True if words before the digit run `run` to `end`, behind it, or its column's head say that it is a phone's.

    Asked once a run and kept for all its cuts.
    """
    if scan.named_at == run:
        return scan.named
    scan.named_at = run
    scan.work += 200
    words = scan.words(run)
    at = WORDS.last(words)
    if at >= 0:
        # `the order number is` speaks of an order.
        scan.named = _OTHERS.last(words) <= at and not (words[at] == b"is" and _OTHERS.any(words[at - 2 : at - 1]))
    else:
        window = scan.data[run - NEAR if run > NEAR else 0 : run]
        far = None if window.isascii() else _FAR_WORDS.search(window.lower())
        scan.named = far is not None and not _OTHERS.any(words_in(window[far.end() :]))
    if not scan.named and AFTER.match(scan.data, end, end + _BEHIND) is not None:
        scan.named = True
    if not scan.named:
        head = scan.column(run)
        scan.named = bool(head) and (WORDS.any(head) or _FAR_WORDS.search(b" ".join(head)) is not None)
    return scan.named


def _shaped(one: Number) -> bool:
    """True if the grouping is one that is written for nothing else than phone numbers."""
    digits, shape, marks = one.digits, one.shape, one.marks
    size = len(digits)
    if shape[-3:] == (3, 3, 4) and (size == 10 or (size == 11 and shape[0] == 1 and digits[0] == 49)):
        area = digits[-10]
        if area < 50:
            return digits[0] == 48 and not set(marks) - {32, 45}
        return b"(" in marks or b"-" in marks or marks == b".." or digits[-7] >= 50
    if digits[0] != 48 or digits[:2] == b"00" or b"/" in marks:
        return False
    return may_be_national(shape) or (b"(" in marks and 9 <= size <= 11 and 2 <= len(shape) <= 6)


def judge(scan: Scan, one: Number) -> bool:
    digits, marks = one.digits, one.marks
    size = len(digits)
    if not 7 <= size <= 15 or not unglued(scan, one):
        return False
    alone = len(one.shape) == 1
    if not alone and b"." in marks and len(set(marks)) > 1 and marks[:1] not in b"+(":
        return False
    if alone and size == 8 and _DAY.fullmatch(digits):
        return False
    end = one.end
    rank = 0
    if marks[:1] == b"+" or marks[:2] == b"(+" or (digits[:2] == b"00" and size >= 10):
        code = digits[2:] if digits[:2] == b"00" else digits
        known = international(code)
        if known or (known is None and marks[:1] == b"+" and len(one.shape) >= 3):
            rank = CHECKSUM if known else BARE
        elif known is None and named(scan, one.run, end):
            rank = CONTEXT
    elif not alone and _shaped(one) and _quiet(scan, one):
        rank = BARE
    if not rank and len(one.shape) <= 6 and (alone or max(one.shape) <= 8) and named(scan, one.run, end):
        rank = CONTEXT
    if not rank and alone and 10 <= size <= 12 and digits[:2] != b"19" and scan.is_lone(one.start, end):
        rank = BARE
    if not rank:
        return False
    extension = _EXTENSION.match(scan.data, end, end + 16)
    if extension is not None:
        end = extension.end()
    scan.add(one.start, end, "PHONE", rank)
    return True


def _quiet(scan: Scan, one: Number) -> bool:
    """True unless the words just before name another kind of number."""
    words = scan.words(one.start)[-3:]
    other = _OTHERS.last(words)
    return other < 0 or WORDS.last(words) >= other
