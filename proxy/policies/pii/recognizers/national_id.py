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

_BARE_CHECK = known(
    {
        16: ("it.codicefiscale",),
        13: ("kr.rrn",),
        11: ("br.cpf", "fi.hetu"),
        10: ("fi.hetu",),
        9: ("es.nie",),
    }
)


def _examine(scan: Scan, start: int, end: int) -> int:
    data = scan.data
    scan.spend(64)
    if start and data[start - 1] in b"-/.":
        return end
    if _BARE_CHECK(data[start:end]):
        scan.add(start, end, "NATIONAL_ID", CHECKSUM)
    elif end - start == 14 and data[start + 6] == 0x2D:
        scan.add(start, end, "NATIONAL_ID", CONTEXT)  # YYMMDD-1234567: since 2020 its last digits carry no check
    return end


NATIONAL_ID_BARE = Recognizer(
    "national_id_bare",
    frozenset({"NATIONAL_ID"}),
    rb"\b(?:[A-Z]{6}[0-9LMNP-V]{2}[A-EHLMPRST][0-9LMNP-V]{2}[A-Z][0-9LMNP-V]{3}[A-Z]|[XYZ][0-9]{7}[A-Z]"
    rb"|[0-9]{3}\.[0-9]{3}\.[0-9]{3}-[0-9]{2}|[0-9]{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])-[1-8][0-9]{6}"
    rb"|[0-3][0-9][01][0-9]{3}[-+A-FU-Y][0-9]{3}[0-9A-FHJ-NPR-Y])\b",
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789",
    _examine,
)
