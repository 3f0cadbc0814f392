"""NATIONAL_ID: personal numbers of countries: after a label, or bare where the number carries its own check."""

from __future__ import annotations

from proxy.policies.pii.found import CHECKSUM, CONTEXT
from proxy.policies.pii.recognizers.base import Recognizer
from proxy.policies.pii.recognizers.labelled import VALUE, labelled
from proxy.policies.pii.recognizers.stdnum_check import known
from proxy.policies.pii.scan import Scan

NATIONAL_ID = labelled(
    "NATIONAL_ID",
    rb"national[ _-]?(?:id(?:entity|entification)?|insurance)(?: card)?|nin|nino|(?:identity|id)[ _-]?card|pesel"
    rb"|aadhaar|aadhar"
    rb"|cpf|curp|dni|nie|henkil\xc3\xb6tunnus|hetu|personnummer|pnr|cpr|f\xc3\xb8dselsnummer|bsn|burgerservicenummer"
    rb"|codice fiscale|personalausweis(?:nummer)?|ausweisnummer|insee|nir|thai id|rrn|nric|fin|citizen id|emso"
    rb"|jmbg|egn|cnp|cnic"
    rb"|my ?kad|sin|social insurance|id[ _-]?number|rodn\xc3\xa9 \xc4\x8d\xc3\xadslo|oib|hkid|teudat zehut|tckn|tc"
    rb" kimlik"
    rb"|t\xc3\xa4m\xc3\xa4|ahv(?:-?nr)?|avs",
    "nipacdhfbtrsemjokg",
    rb"[0-9]{3}\.[0-9]{3}\.[0-9]{3}-[0-9]{2}|[0-9]{4} [0-9]{4} [0-9]{4}|[A-Z]{2} ?[0-9]{2} ?[0-9]{2} ?[0-9]{2} ?[A-D]"
    rb"|[0-9]{3} [0-9]{3} [0-9]{3}|756\.[0-9]{4}\.[0-9]{4}\.[0-9]{2}|" + VALUE,
    known({
        9: ("es.dni", "es.nie", "nl.bsn", "ca.sin"),
        10: ("fi.hetu", "se.personnummer", "dk.cpr"),
        11: ("pl.pesel", "br.cpf", "fi.hetu"),
        12: ("in_.aadhaar", "se.personnummer"),
        13: ("kr.rrn", "ch.ssn"),
        15: ("fr.nir",),
        16: ("it.codicefiscale",),
    }),
    digits=4,
)  # fmt: skip


def cpf(text: bytes) -> bool:
    """Brazil's CPF, eleven digits: two check digits, modulus 11."""
    digits = [c - 48 for c in text.translate(None, b".-")]
    return len(set(digits)) > 1 and all(
        -sum((size + 1 - i) * digit for i, digit in enumerate(digits[:size])) % 11 % 10 == digits[size]
        for size in (9, 10)
    )


def nie(text: bytes) -> bool:
    """Spain's number of a foreigner: X, Y or Z, seven digits, a letter, modulus 23."""
    return b"TRWAGMYFPDXBNJZSQVHLCKE"[int(b"%d%b" % (text[0] - 88, text[1:-1])) % 23] == text[-1]


def hetu(text: bytes) -> bool:
    """Finland's personal identity code: date, century's sign, three digits, a character, modulus 31."""
    return b"0123456789ABCDEFHJKLMNPRSTUVWXY"[int(text[:6] + text[7:10]) % 31] == text[-1]


_ODD = dict(zip(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ", (
    1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22,
    25, 24, 23,
), strict=True))  # fmt: skip


def codice_fiscale(text: bytes) -> bool:
    """Italy's tax code, sixteen characters, modulus 26."""
    odd = sum(_ODD[c] for c in text[:15:2])
    even = sum(c - 48 if c < 58 else c - 65 for c in text[1:15:2])
    return (odd + even) % 26 == text[15] - 65


def _examine(scan: Scan, start: int, end: int) -> int:
    data = scan.data
    scan.work += 300
    if start and data[start - 1] in b"-/.":
        return end
    text = data[start:end]
    if len(text) == 14 and text[6] == 0x2D:
        scan.add(start, end, "NATIONAL_ID", CONTEXT)  # Korea: since 2020 the last digits carry no check
    elif _BARE[len(text)](text):
        scan.add(start, end, "NATIONAL_ID", CHECKSUM)
    return end


_BARE = {9: nie, 11: hetu, 14: cpf, 16: codice_fiscale}
"""For the length of a number that is recognized without a label: its check."""
NATIONAL_ID_BARE = Recognizer(
    "national_id_bare",
    frozenset({"NATIONAL_ID"}),
    rb"\b(?:[A-Z]{6}[0-9LMNP-V]{2}[A-EHLMPRST][0-9LMNP-V]{2}[A-Z][0-9LMNP-V]{3}[A-Z]|[XYZ][0-9]{7}[A-Z]"
    rb"|[0-9]{3}\.[0-9]{3}\.[0-9]{3}-[0-9]{2}|[0-9]{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])-[1-8][0-9]{6}"
    rb"|[0-3][0-9][01][0-9]{3}[-+A-FU-Y][0-9]{3}[0-9A-FHJ-NPR-Y])\b",
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789",
    _examine,
)
