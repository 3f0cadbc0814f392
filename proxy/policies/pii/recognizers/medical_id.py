"""MEDICAL_ID: medical record numbers, patient, member and insurance ids, NHS numbers, US Medicare ids (MBI)."""

from __future__ import annotations

from proxy.policies.pii.recognizers.labelled import VALUE, labelled
from proxy.policies.pii.scan import Scan


def nhs(scan: Scan, text: bytes) -> bool:
    """NHS number: ten digits, modulus 11."""
    digits = text.translate(None, b" -")
    if len(digits) != 10 or not digits.isdigit():
        return False
    scan.work += 200
    total = sum((10 - i) * (c - 48) for i, c in enumerate(digits[:9]))
    return (11 - total % 11) % 11 == digits[9] - 48


MEDICAL_ID = labelled(
    "MEDICAL_ID",
    rb"mrns?|m\.r\.n\.?|med(?:ical)?[ _-]?rec(?:ord)?s?|patient[ _-]?(?:id|no|nr|number|identifier|account|ref|code)"
    rb"|patientid|patient #|nhs|chart[ _-]?(?:no|number|id)|hospital[ _-]?(?:no|number|id)"
    rb"|(?:member|subscriber|beneficiary|insurance|insured|health[ _-]?plan|health[ _-]?card|health insurance)"
    rb"[ _-]?(?:id|no|number|policy)|mbi"
    rb"|(?:medicare )?beneficiary identifier|medicare(?: beneficiary)?(?: number| id)?"
    rb"|medicaid|hicn|versichertennummer|krankenversichertennummer",
    "mpnchsbivk",
    rb"[0-9]{3}[ -][0-9]{3}[ -][0-9]{4}|" + VALUE,
    nhs,
    digits=3,
)
