"""DATE_OF_BIRTH: a date behind (or just before) a word about birth."""

from __future__ import annotations

import re

from proxy.policies.pii.found import CONTEXT
from proxy.policies.pii.recognizers.base import Recognizer, both_cases
from proxy.policies.pii.scan import Scan

_MONTH = (
    rb"(?:jan(?:uary|vier|uar)?|feb(?:ruary|ruar)?|f\xc3\xa9vrier|mar(?:ch|s)?|m\xc3\xa4rz|apr(?:il)?|avril|ma[iy]"
    rb"|jun[ei]?|juin"
    rb"|jul[iy]?|juillet|aug(?:ust)?|ao\xc3\xbbt|sept?(?:ember|embre)?|o[ck]t(?:ober|obre)?|nov(?:ember|embre)?"
    rb"|de[cz](?:ember)?"
    rb"|d\xc3\xa9cembre|enero|febrero|marzo|abril|mayo|junio|julio|agosto|septiembre|octubre|noviembre|diciembre)"
)
DATE = re.compile(
    rb"(?i:[0-9]{4}[-/.][0-9]{1,2}[-/.][0-9]{1,2}(?![0-9])"
    rb"|[0-9]{1,2}[-/.][0-9]{1,2}[-/.](?:[0-9]{4}|[0-9]{2})(?![0-9])"
    rb"|[0-9]{4}\xe5\xb9\xb4[0-9]{1,2}\xe6\x9c\x88[0-9]{1,2}\xe6\x97\xa5"
    rb"|[0-9]{1,2}(?:st|nd|rd|th|\.|er)?[ -](?:of )?(?:de )?" + _MONTH + rb"\.?,?(?:[ -](?:de )?[0-9]{4})?\b"
    rb"|" + _MONTH + rb"\.?[ -][0-9]{1,2}(?:st|nd|rd|th)?(?:,? (?:of )?[0-9]{4})?\b"
    rb"|(?:19|20)[0-9]{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])(?![0-9]))"
)
"""A calendar date as people write it; used by DATE as well."""
_LABEL = (
    rb"dob|d\.o\.b|date[ _-]?of[ _-]?birth|birth[ _-]?date|dateofbirth|birthdate|birth[ _-]?day|birthday|born"
    rb"|geboren|geb\."
    rb"|geburts(?:datum|tag)|n\xc3\xa9e?[ ]le|n\xc3\xa9\(e\)[ ]le|date de naissance|fecha[ _]de[ _]nacimiento|nacid[oa]"
    rb"|data di nascita|nat[oa] il|geboortedatum|data de nascimento|nascid[oa]|f\xc3\xb6dd"
)
_SCRIPTS = rb"\xe5\x87\xba\xe7\x94\x9f|\xe7\x94\x9f\xe6\x97\xa5|\xe7\x94\x9f\xe5\xb9\xb4\xe6\x9c\x88\xe6\x97\xa5"
"""Labels in scripts without spaces: no boundary stands before them."""
_HEAD = re.compile(rb"(?i:_?(?:" + _LABEL + rb"))|" + _SCRIPTS)
_DIGIT = re.compile(rb"[0-9]")
_STOP = re.compile(rb"[\n;]|\. |[0-9]|(?i:" + _MONTH + rb"\b)")


def _examine(scan: Scan, start: int, end: int) -> int:
    data = scan.data
    label = _HEAD.match(data, start, start + 40)
    if label is None:
        return end
    end = label.end()
    # A date of birth stands in the same clause; `born in the city of ... on 1990-01-01` needs some room.
    window = data[end : end + 64]
    scan.work += 150
    if _DIGIT.search(window) is None:
        return end
    at = 0
    while at < len(window):
        stop = _STOP.search(window, at)
        if stop is None:
            return end
        mark = stop[0]
        if mark in (b";", b". ") or (mark == b"\n" and window[: stop.start()].strip(b' \t:"*')):
            return end
        date = DATE.match(window, stop.start())
        if date is not None:
            scan.add(end + date.start(), end + date.end(), "DATE_OF_BIRTH", CONTEXT)
            return end + date.end() - 1  # its last digit may begin what names its owner: see `PERSON_BEHIND`
        if mark.isdigit():
            return end
        at = stop.end()
    return end


DATE_OF_BIRTH = Recognizer(
    "date_of_birth",
    frozenset({"DATE_OF_BIRTH"}),
    rb"(?i:(?:\b|_)(?:" + _LABEL + rb"))|" + _SCRIPTS,
    both_cases("dbgnf_") + b"\xe5\xe7",
    _examine,
    labels=_LABEL,
)
