"""DATE: any calendar date. Off by default: dates are everywhere, and few of them are personal."""

from __future__ import annotations

from proxy.policies.pii.found import BARE
from proxy.policies.pii.recognizers.base import Recognizer
from proxy.policies.pii.recognizers.date_of_birth import DATE as _DATE
from proxy.policies.pii.scan import Scan


def _examine(scan: Scan, start: int, end: int) -> int:
    scan.work += 150
    match = _DATE.match(scan.data, start, start + 40)
    if match is None:
        return end
    scan.add(start, match.end(), "DATE", BARE)
    return match.end()


DATE = Recognizer(
    "date",
    frozenset({"DATE"}),
    rb"(?i:\b(?:[0-9]{1,4}(?:[-/.][0-9]{1,2}[-/.][0-9]{2,4}|-[0-9]{1,2}-[0-9]{1,2})\b|[0-9]{1,2}(?:st|nd|rd|th|\.)?[ -]"
    rb"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)|(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov"
    rb"|dec)[a-z]{0,6}"
    rb"\.?[ -][0-9]{1,2}))",
    b"0123456789jfmasondJFMASOND",
    _examine,
)
