"""BANK_ACCOUNT: an account or routing number after its label (IBANs are a type of their own)."""

from __future__ import annotations

from proxy.policies.pii.recognizers.labelled import labelled

BANK_ACCOUNT = labelled(
    "BANK_ACCOUNT",
    rb"(?:bank|checking|savings|deposit)?[ _-]?acc(?:oun)?t[ _-]?(?:number|num|no|nr|id|#)?|a/c(?: no)?|routing"
    rb"|aba|sort[ _-]?code"
    rb"|kontonummer|kontonr|num\xc3\xa9ro de compte|n\xc3\xbamero de cuenta|bsb",
    "bcsdaknr _-",
    rb"[0-9]{2}-[0-9]{2}-[0-9]{2}|[0-9]{3}-[0-9]{3}|[A-Za-z]?[0-9](?:[- ]?[0-9]){4,17}",
    digits=5,
)
